//! Starting both servers in containers.
//!
//! The port of a server is the same inside and outside and is published on 127.0.0.1 alone: a fixed one survives
//! a kill and a new start, and a broker can advertise it.

use super::kafka::{KafkaOptions, Nodes};
use super::machine::Machine;
use super::port::Port;
use super::postgres::{PASSWORD, PostgresOptions, Site, USER};
use super::properties::{Node, Role, properties};
use super::reaper;
use super::secure::Secure;
use super::unique;
use anyhow::{Context, Result, bail, ensure};
use std::env;
use std::path::Path;
use std::time::Duration;
use testcontainers::bollard::models::PortBinding;
use testcontainers::bollard::query_parameters::KillContainerOptionsBuilder;
use testcontainers::core::client::docker_client_instance;
use testcontainers::core::{CmdWaitFor, ContainerPort, ExecCommand};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};
use tokio::time::{sleep, timeout};

/// On every container of the tests, so that `scripts/test` can remove what a killed one has left.
const LABEL: &str = "tidegate.tests";
/// Where the controller listens; nobody outside of its network sees it.
const CONTROLLER_PORT: u16 = 9093;

/// A server in a container, and what can be done to it from outside. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Container {
    inner: ContainerAsync<GenericImage>,
}

impl Container {
    /// `SIGKILL` for all of it.
    pub(super) async fn kill(&self) -> Result<()> {
        let signal = KillContainerOptionsBuilder::new().signal("KILL").build();
        docker_client_instance().await?.kill_container(self.inner.id(), Some(signal)).await?;
        while self.inner.is_running().await? {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Freezes all of it: it keeps its connections and answers nothing.
    pub(super) async fn pause(&self) -> Result<()> {
        Ok(self.inner.pause().await?)
    }

    /// Goes on after [`pause`](Self::pause).
    pub(super) async fn resume(&self) -> Result<()> {
        Ok(self.inner.unpause().await?)
    }

    /// Starts it again on its old data after [`kill`](Self::kill).
    pub(super) async fn start_again(&self) -> Result<()> {
        ensure!(!self.inner.is_running().await?, "it is not down");
        Ok(self.inner.start().await?)
    }

    /// An error with the end of its log when it has ended by itself.
    pub(super) async fn check_alive(&self) -> Result<()> {
        if self.inner.is_running().await? {
            return Ok(());
        }
        let log = self.log().await?;
        let lines: Vec<_> = log.lines().collect();
        bail!(
            "it ended by itself; its last words:\n{}",
            lines[lines.len().saturating_sub(20)..].join("\n")
        )
    }

    /// All that it has written so far.
    pub(super) async fn log(&self) -> Result<String> {
        let (out, err) = (self.inner.stdout_to_vec().await?, self.inner.stderr_to_vec().await?);
        Ok(String::from_utf8_lossy(&[out, err].concat()).into_owned())
    }

    /// A file inside, whole.
    pub(super) async fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let command = ["cat".to_owned(), path.display().to_string()];
        Ok(self.inner.exec(ExecCommand::new(command)).await?.stdout_to_vec().await?)
    }

    /// Files of a directory inside, one behind the other.
    pub(super) async fn read_all(&self, dir: &Path, end: &str) -> Result<Vec<u8>> {
        let script = format!("cat '{}'/*'{end}'", dir.display());
        let command = ["sh".to_owned(), "-c".to_owned(), script];
        Ok(self.inner.exec(ExecCommand::new(command)).await?.stdout_to_vec().await?)
    }

    /// Changes bytes of a file inside.
    pub(super) async fn write_at(&self, path: &Path, place: usize, bytes: &[u8]) -> Result<()> {
        let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
        let path = path.display();
        let script = format!("printf '{octal}' | dd of='{path}' bs=1 seek={place} conv=notrunc");
        let command = ExecCommand::new(["sh".to_owned(), "-c".to_owned(), script]);
        let command = command.with_cmd_ready_condition(CmdWaitFor::exit_code(0));
        self.inner.exec(command).await.context("change a file")?;
        Ok(())
    }

    /// Adds the user of the secure listener: the images cannot format a storage with one.
    pub(super) async fn add_user(&self, bootstrap: &str) -> Result<()> {
        for arguments in Secure::add_user() {
            let tool = ["/opt/kafka/bin/kafka-configs.sh", "--bootstrap-server", bootstrap]
                .map(str::to_owned);
            let command = ExecCommand::new(tool.into_iter().chain(arguments));
            let command = command.with_cmd_ready_condition(CmdWaitFor::exit_code(0));
            self.inner.exec(command).await.context("add the SCRAM user")?;
        }
        Ok(())
    }
}

/// Why containers cannot be used, if they cannot. Neither pulls an image nor hangs.
pub(super) async fn missing() -> Option<String> {
    let probe = async {
        let docker = docker_client_instance().await.context("no container engine")?;
        docker.ping().await.context("no container engine answers")?;
        for image in [kafka_image(), postgres_image()] {
            let missing =
                || format!("no image {image}: pull it, or make one by tests/images/build");
            docker.inspect_image(&image).await.with_context(missing)?;
        }
        anyhow::Ok(())
    };
    match timeout(Duration::from_secs(10), probe).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the container engine does not answer".into()),
    }
}

/// Starts the nodes of one Kafka. They need not be ready yet.
pub(super) async fn kafka(options: &KafkaOptions) -> Result<Nodes> {
    let (port, secure_port) = (Port::take()?, Port::take()?);
    let secure = if options.secure { Some(Secure::new(secure_port.number())?) } else { None };
    let network = unique("tidegate-tests");
    let name = format!("{network}-controller");
    let node = |role| {
        let host = if role == Role::Broker { &*name } else { "localhost" };
        let controller = (host, CONTROLLER_PORT);
        Node { role, bind: "", port: port.number(), secure: secure.as_ref(), controller }
    };
    let published: Vec<_> = [port.number(), secure_port.number()]
        .into_iter()
        .chain(options.wired.iter().map(|(behind, _)| *behind))
        .map(|port| (port, port))
        .collect();
    let (broker, controller) = if options.separate_controller {
        reaper::network(&network);
        let controller = kafka_node(&node(Role::Controller), options).with_container_name(&name);
        let controller = run(controller.with_network(&network), &[]).await?;
        let broker = kafka_node(&node(Role::Broker), options).with_network(&network);
        (run(broker, &published).await?, Some(controller))
    } else {
        (run(kafka_node(&node(Role::Combined), options), &published).await?, None)
    };
    let bootstrap = format!("127.0.0.1:{}", port.number());
    Ok(Nodes { bootstrap, secure, broker, controller, _ports: vec![port, secure_port], _dir: None })
}

fn kafka_node(node: &Node<'_>, options: &KafkaOptions) -> ContainerRequest<GenericImage> {
    let request = request(&kafka_image())
        .with_env_var("KAFKA_HEAP_OPTS", "-Xmx512m")
        .with_env_var("KAFKA_JVM_PERFORMANCE_OPTS", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1");
    properties(node, options)
        .into_iter()
        .fold(request, |request, (name, value)| request.with_env_var(variable(&name), value))
}

/// The variable that the image turns into a property of this name.
fn variable(property: &str) -> String {
    let name = property.replace('_', "__").replace('-', "___").replace('.', "_");
    format!("KAFKA_{}", name.to_uppercase())
}

/// Starts a PostgreSQL. It need not be ready yet.
pub(super) async fn postgres(options: &PostgresOptions) -> Result<Site> {
    let port = Port::take()?;
    let mut command = vec!["postgres".to_owned()];
    for (name, value) in options.all() {
        command.extend(["-c".into(), format!("{name}={value}")]);
    }
    let request = request(&postgres_image())
        .with_cmd(command)
        .with_env_var("POSTGRES_USER", USER)
        .with_env_var("POSTGRES_PASSWORD", PASSWORD)
        .with_env_var("POSTGRES_DB", "postgres")
        .with_env_var("POSTGRES_INITDB_ARGS", "--no-sync");
    let machine = run(request, &[(port.number(), 5432)]).await?;
    let address = format!("127.0.0.1:{}", port.number());
    Ok(Site { address, machine, port: Some(port), dir: None })
}

fn request(image: &str) -> ContainerRequest<GenericImage> {
    // A colon before the last slash belongs to a registry's port, not to a tag.
    let (name, tag) = match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    };
    GenericImage::new(name, tag).with_label(LABEL, "yes")
}

/// Starts a container with ports published, each as (outside, inside).
async fn run(
    mut request: ContainerRequest<GenericImage>,
    published: &[(u16, u16)],
) -> Result<Machine> {
    let mut bindings = std::collections::HashMap::new();
    for &(outside, inside) in published {
        request = request.with_mapped_port(outside, ContainerPort::Tcp(inside));
        // The library alone would publish on every address of this machine.
        let here =
            PortBinding { host_ip: Some("127.0.0.1".into()), host_port: Some(outside.to_string()) };
        bindings.insert(format!("{inside}/tcp"), Some(vec![here]));
    }
    let request = request.with_host_config_modifier(move |host| {
        host.port_bindings = Some(bindings.clone());
        // Nor does a container without published ports publish those that its image exposes.
        host.publish_all_ports = Some(false);
    });
    let inner = request.start().await?;
    reaper::container(inner.id());
    Ok(Machine::Container(Box::new(Container { inner })))
}

fn kafka_image() -> String {
    image("TIDEGATE_KAFKA_IMAGE", "apache/kafka:4.3.1")
}

fn postgres_image() -> String {
    image("TIDEGATE_POSTGRES_IMAGE", "postgres:17")
}

fn image(variable: &str, official: &str) -> String {
    env::var(variable).ok().filter(|name| !name.is_empty()).unwrap_or_else(|| official.into())
}
