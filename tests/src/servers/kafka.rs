//! One Kafka: its options, its address, and the faults a test can bring upon it.

use super::machine::Machine;
use super::port::Port;
use super::provider::Provider;
use super::secure::Secure;
use super::{admin, local, programs};
use crate::wire::{Protocol, Wire};
use anyhow::{Context, Result, bail, ensure};
use rdkafka::ClientConfig;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::time::sleep;

/// What a server may take to become ready on a busy machine. Only a failure ever waits this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// How a Kafka for one test differs from the usual one: one process, short time-outs, in the clear.
#[derive(Debug, Clone, Default)]
pub struct KafkaOptions {
    pub(super) separate_controller: bool,
    pub(super) secure: bool,
    pub(super) properties: Vec<(String, String)>,
    pub(super) java: Vec<String>,
    wires: usize,
    /// Where the broker listens for each wire, and where it tells clients that it does.
    pub(super) wired: Vec<(u16, u16)>,
}

impl KafkaOptions {
    /// Broker and controller in one process: the cheapest.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs broker and controller as two processes, so that the broker can be killed.
    ///
    /// A combined one loses transaction markers: its coordinator, restarted, finds no leaders to send them to,
    /// takes the partitions for deleted, and calls the transaction complete.
    #[must_use]
    pub fn separate_controller(mut self) -> Self {
        self.separate_controller = true;
        self
    }

    /// Adds a listener with TLS and SASL; see [`Kafka::secure`].
    #[must_use]
    pub fn secure(mut self) -> Self {
        self.secure = true;
        self
    }

    /// Sets a property of every node, such as `transaction.max.timeout.ms`. The last one set wins.
    #[must_use]
    pub fn property(mut self, name: &str, value: impl ToString) -> Self {
        self.properties.push((name.into(), value.to_string()));
        self
    }

    /// Adds a flag for Java behind the usual ones, which make it start fast, not run fast. Containers have their
    /// image's own.
    #[must_use]
    pub fn java(mut self, flag: &str) -> Self {
        self.java.push(flag.into());
        self
    }
}

impl KafkaOptions {
    /// Puts wires in front of the broker; see [`Kafka::wire`].
    #[must_use]
    pub fn wires(mut self, count: usize) -> Self {
        self.wires = count;
        self
    }

    fn lay_wires(&mut self) -> Result<Vec<(Wire, Port)>> {
        let lay = |_| {
            let port = Port::take()?;
            let wire = Wire::to(format!("127.0.0.1:{}", port.number()), Protocol::Kafka)?;
            anyhow::Ok((wire, port))
        };
        let wires: Vec<_> = (0..self.wires).map(lay).collect::<Result<_>>()?;
        self.wired = wires.iter().map(|(wire, port)| (port.number(), wire.port())).collect();
        Ok(wires)
    }
}

/// What a provider hands over: nodes on their way up, and what must live as long as they do.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) bootstrap: String,
    pub(super) secure: Option<Secure>,
    // Dropped in this order: the broker before the controller, and both before their directory.
    pub(super) broker: Machine,
    pub(super) controller: Option<Machine>,
    pub(super) _ports: Vec<Port>,
    pub(super) _dir: Option<TempDir>,
}

/// A Kafka that answers. Dropping it ends it, unless it is a shared one.
#[derive(Debug)]
pub struct Kafka {
    nodes: Nodes,
    wires: Vec<(Wire, Port)>,
    /// Whether the broker was killed and not started again.
    killed: AtomicBool,
}

impl Kafka {
    /// Starts a Kafka for one test and waits until it serves.
    ///
    /// # Errors
    /// When this machine has no Kafka to start: the error says what to install. When it does not come up: the
    /// error quotes its last words.
    pub async fn start(mut options: KafkaOptions) -> Result<Self> {
        let wires = options.lay_wires()?;
        let nodes = match Provider::choose().await? {
            Provider::Local => {
                tokio::task::spawn_blocking(move || local::kafka(&options)).await??
            }
            #[cfg(feature = "containers")]
            Provider::Containers => super::containers::kafka(&options).await?,
            #[cfg(not(feature = "containers"))]
            Provider::Containers => {
                unreachable!("containers are chosen only where they are built in")
            }
            Provider::External => {
                bail!(
                    "TIDEGATE_SERVERS=external: no Kafka but the one in TIDEGATE_KAFKA, and this test needs another"
                )
            }
        };
        let kafka = Self { nodes, wires, killed: AtomicBool::new(false) };
        kafka.ready().await?;
        if kafka.nodes.secure.is_some() {
            kafka.nodes.broker.add_user(kafka.bootstrap()).await?;
        }
        Ok(kafka)
    }

    /// The Kafka that tests have in common: the one `TIDEGATE_KAFKA` names, or else one for this process. Topics,
    /// groups and transactional ids on it need [`unique`](super::unique) names.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Kafka> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::find_or_start).await
    }

    async fn find_or_start() -> Result<Self> {
        match std::env::var("TIDEGATE_KAFKA") {
            Ok(bootstrap) if !bootstrap.is_empty() => {
                let nodes = Nodes {
                    bootstrap,
                    secure: None,
                    broker: Machine::Elsewhere,
                    controller: None,
                    _ports: Vec::new(),
                    _dir: None,
                };
                let kafka = Self { nodes, wires: Vec::new(), killed: AtomicBool::new(false) };
                kafka.ready().await.context("TIDEGATE_KAFKA")?;
                Ok(kafka)
            }
            _ => Self::start(KafkaOptions::new()).await,
        }
    }

    /// `host:port`, for `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.nodes.bootstrap
    }

    /// One of the wires that were asked for by [`KafkaOptions::wires`]: a client that is given its address never
    /// meets the broker but through it.
    ///
    /// # Panics
    /// When fewer were asked for.
    #[must_use]
    pub fn wire(&self, number: usize) -> &Wire {
        &self.wires[number].0
    }

    /// The listener with TLS and SASL, of a Kafka that was started with [`secure`](KafkaOptions::secure).
    ///
    /// # Errors
    /// When it was not.
    pub fn secure(&self) -> Result<&Secure> {
        self.nodes
            .secure
            .as_ref()
            .context("this Kafka has no secure listener: ask for it by KafkaOptions::secure()")
    }

    /// A client's configuration with nothing set but the address.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        // A test that restarts the broker does not wait for a client's patience to end.
        config.set("bootstrap.servers", self.bootstrap()).set("reconnect.backoff.max.ms", "500");
        config
    }

    /// Creates a topic with replication factor 1 and waits until it can be written.
    ///
    /// # Errors
    /// When it exists, or the broker refuses it or a setting.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> Result<()> {
        admin::create_topic(&self.client(), name, partitions, configs).await
    }

    /// Waits until every partition of every topic has a leader.
    ///
    /// # Errors
    /// When a process has ended by itself, or after two minutes.
    pub async fn ready(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let Err(error) = admin::serves(&self.client()).await else {
                return Ok(());
            };
            self.nodes.broker.check_alive().await.context("Kafka's broker")?;
            if let Some(controller) = &self.nodes.controller {
                controller.check_alive().await.context("Kafka's controller")?;
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "Kafka at {} does not serve: {error:#}",
                self.bootstrap()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the broker (`SIGKILL`). The controller goes on.
    ///
    /// # Errors
    /// When it was not started with [`separate_controller`](KafkaOptions::separate_controller), is down already,
    /// or is a shared one.
    pub async fn kill(&self) -> Result<()> {
        // Nothing is killed that could not be started again.
        self.is_fenced().await?;
        self.nodes.broker.kill().await?;
        self.killed.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Starts a killed broker on its old data and waits until it serves. Before that, waits until the controller
    /// has noticed the death: a broker that comes back earlier finds its old leaders still in place and may lose
    /// transaction markers, as a combined one does.
    ///
    /// # Errors
    /// When it is not down, or does not come up.
    pub async fn start_again(&self) -> Result<()> {
        ensure!(self.killed.swap(false, Ordering::SeqCst), "it was not killed");
        let start = Instant::now();
        while !self.is_fenced().await? {
            ensure!(start.elapsed() < PATIENCE, "the controller did not fence the killed broker");
            sleep(Duration::from_millis(50)).await;
        }
        self.nodes.broker.start_again().await?;
        self.ready().await
    }

    /// Stops the broker without ending it (`SIGSTOP`): connections stay, nothing is answered.
    ///
    /// # Errors
    /// When it is down, or is a shared one.
    pub async fn pause(&self) -> Result<()> {
        self.nodes.broker.pause().await
    }

    /// Lets a paused broker go on (`SIGCONT`). It may have been fenced meanwhile; see [`ready`](Self::ready).
    ///
    /// # Errors
    /// When it is down, or is a shared one.
    pub async fn resume(&self) -> Result<()> {
        self.nodes.broker.resume().await
    }

    /// Overwrites what stands in the log of a partition, as a bad disk does: the first place in the oldest segment
    /// that says `from` says `to` then. The checksum of its batch stays what it was.
    ///
    /// # Errors
    /// When it does not say so there, or the server is a shared one.
    pub async fn rewrite(&self, topic: &str, partition: i32, from: &str, to: &str) -> Result<()> {
        ensure!(from.len() == to.len(), "a log has no room for another length");
        let dir = admin::log_dir(&self.client()).await?.join(format!("{topic}-{partition}"));
        let segment = dir.join("00000000000000000000.log");
        let bytes = self.nodes.broker.read(&segment).await?;
        let place = bytes.windows(from.len()).position(|window| window == from.as_bytes());
        let place = place.with_context(|| format!("{from:?} is not in {}", segment.display()))?;
        self.nodes.broker.write_at(&segment, place, to.as_bytes()).await
    }

    /// All segments of a partition's log as they lie in its files, one behind the other.
    ///
    /// # Errors
    /// When they cannot be read, or the server is a shared one.
    pub async fn segments(&self, topic: &str, partition: i32) -> Result<Vec<u8>> {
        let dir = admin::log_dir(&self.client()).await?.join(format!("{topic}-{partition}"));
        let segments = self.nodes.broker.read_all(&dir, ".log").await;
        segments.with_context(|| format!("segments of {topic}-{partition}"))
    }

    /// Java with Kafka's own classes, to be told which of them or which source file to run. It writes nothing of
    /// itself to standard output. `None` where the server is no process of this machine.
    ///
    /// # Errors
    /// When Kafka's classes are not there.
    pub fn java(&self) -> Result<Option<Command>> {
        let Machine::Process(_) = &self.nodes.broker else { return Ok(None) };
        let home = programs::kafka_home()?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(home.join("java"));
        command.args(["-Xlog:disable", "-Dkafka.log=OFF"]);
        command.arg(format!("@{}", home.join("java.args").display()));
        Ok(Some(command))
    }

    /// Whether the broker has, against its promise, completed a transaction without writing its markers. After
    /// that no client can tell what was committed: a test says "result unknown", neither passed nor failed.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub async fn lost_markers(&self) -> Result<bool> {
        Ok(self
            .nodes
            .broker
            .log()
            .await?
            .contains("likely deleted already and hence can be skipped"))
    }

    /// How many transactions the broker has ended because they were open for too long.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub async fn expired(&self) -> Result<usize> {
        let log = self.nodes.broker.log().await?;
        let ended = |line: &&str| line.contains("rollback") && line.contains("due to timeout");
        Ok(log.lines().filter(ended).count())
    }

    /// Whether the broker is one that the controller has given up. It may be so already when it is killed, soon after a
    /// pause.
    async fn is_fenced(&self) -> Result<bool> {
        match (&self.nodes.controller, &self.nodes.broker) {
            (Some(controller), _) => {
                let log = controller.log().await?;
                Ok(log.rfind("Fencing broker") > log.rfind("to unfence has been granted"))
            }
            (None, Machine::Elsewhere) => {
                bail!("a shared Kafka is not ours to kill: start one for this test")
            }
            (None, _) => {
                bail!(
                    "a combined Kafka loses transaction markers when it is killed: use separate_controller()"
                )
            }
        }
    }
}
