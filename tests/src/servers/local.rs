//! Starting both servers as processes of this machine.

use super::kafka::{KafkaOptions, Nodes};
use super::machine::Machine;
use super::port::Port;
use super::postgres::{PASSWORD, PostgresOptions, Site, USER};
use super::process::{Launch, Process};
use super::programs;
use super::properties::{Node, Role, lines, properties};
use super::reaper;
use super::secure::Secure;
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Starts the nodes of one Kafka. They need not be ready yet.
pub(super) fn kafka(options: &KafkaOptions) -> Result<Nodes> {
    let home = programs::kafka_home()?;
    let dir = TempDir::with_prefix("tidegate-kafka-")?;
    reaper::directory(dir.path());
    let (port, controller_port, secure_port) = (Port::take()?, Port::take()?, Port::take()?);
    let secure = if options.secure { Some(Secure::new(secure_port.number())?) } else { None };
    let start = |role| {
        let controller = ("127.0.0.1", controller_port.number());
        let node = Node {
            role,
            bind: "127.0.0.1",
            port: port.number(),
            secure: secure.as_ref(),
            controller,
        };
        kafka_node(home, dir.path(), &node, options).map(Machine::Process)
    };
    let (broker, controller) = if options.separate_controller {
        let controller = start(Role::Controller)?;
        (start(Role::Broker)?, Some(controller))
    } else {
        (start(Role::Combined)?, None)
    };
    let bootstrap = format!("127.0.0.1:{}", port.number());
    Ok(Nodes {
        bootstrap,
        secure,
        broker,
        controller,
        _ports: vec![port, controller_port, secure_port],
        _dir: Some(dir),
    })
}

fn kafka_node(home: &Path, dir: &Path, node: &Node<'_>, options: &KafkaOptions) -> Result<Process> {
    let name = format!("{:?}", node.role).to_lowercase();
    let data = dir.join(&name);
    format_storage(home, &data, node.role)?;
    let mut settings = properties(node, options);
    settings.insert("log.dirs".into(), data.display().to_string());
    let file = dir.join(format!("{name}.properties"));
    fs::write(&file, lines(&settings))?;
    let mut flags = OsString::from("@");
    flags.push(home.join("java.args"));
    Process::start(Launch {
        privileges: Vec::new(),
        program: home.join("java"),
        arguments: [flags]
            .into_iter()
            .chain(options.java.iter().map(OsString::from))
            .chain(["kafka.Kafka".into(), file.into()])
            .collect(),
        log: dir.join(format!("{name}.log")),
        stale: None,
        farewell: None,
    })
}

/// A copy of the storage that was formatted once, with this node's number in it: formatting takes a whole Java.
fn format_storage(home: &Path, data: &Path, role: Role) -> Result<()> {
    let template = home.join("template");
    fs::create_dir(data)?;
    fs::copy(template.join("bootstrap.checkpoint"), data.join("bootstrap.checkpoint"))?;
    let identity = fs::read_to_string(template.join("meta.properties"))?;
    ensure!(
        identity.contains("node.id=1\n"),
        "the formatted storage in {} is another one",
        template.display()
    );
    fs::write(
        data.join("meta.properties"),
        identity.replace("node.id=1\n", &format!("node.id={}\n", role.id())),
    )?;
    Ok(())
}

/// Starts a PostgreSQL. It need not be ready yet.
pub(super) fn postgres(options: &PostgresOptions) -> Result<Site> {
    let bin = programs::postgres_bin()?;
    let dir = TempDir::with_prefix("tidegate-postgres-")?;
    reaper::directory(dir.path());
    let home = dir.path().join("home");
    let privileges = postgres_home(dir.path(), &home)?;
    let data = home.join("data");
    let mut initdb = Command::new("setpriv");
    initdb
        .args(&privileges)
        .arg(bin.join("initdb"))
        .arg("-D")
        .arg(&data)
        .arg("--pwfile")
        .arg(home.join("password"))
        .args([
            "--username",
            USER,
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]);
    let output = initdb
        .stdin(Stdio::null())
        .output()
        .context("run initdb by setpriv (package util-linux)")?;
    ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));

    let port = Port::take()?;
    let mut arguments: Vec<OsString> = vec!["-D".into(), data.clone().into()];
    let mut settings = options.all();
    settings.push(("listen_addresses".into(), "127.0.0.1".into()));
    settings.push(("port".into(), port.number().to_string()));
    settings.push(("unix_socket_directories".into(), home.display().to_string()));
    for (name, value) in settings {
        arguments.extend(["-c".into(), format!("{name}={value}").into()]);
    }
    let process = Process::start(Launch {
        privileges,
        program: bin.join("postgres"),
        arguments,
        log: dir.path().join("postgres.log"),
        stale: Some(data.join("postmaster.pid")),
        // An immediate shutdown gives its shared memory back, which SIGKILL leaves behind.
        farewell: Some("QUIT"),
    })?;
    let address = format!("127.0.0.1:{}", port.number());
    Ok(Site { address, machine: Machine::Process(process), port: Some(port), dir: Some(dir) })
}

/// Makes the directory that PostgreSQL may write, and says what it takes to become its user.
fn postgres_home(dir: &Path, home: &PathBuf) -> Result<Vec<OsString>> {
    fs::create_dir(home)?;
    fs::write(home.join("password"), PASSWORD)?;
    let Some((user, group)) = programs::postgres_user()? else {
        return Ok(Vec::new());
    };
    fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    for path in [home, &home.join("password")] {
        chown(path, Some(user), Some(group))?;
    }
    let flags = [format!("--reuid={user}"), format!("--regid={group}"), "--init-groups".into()];
    Ok(flags.into_iter().map(Into::into).collect())
}
