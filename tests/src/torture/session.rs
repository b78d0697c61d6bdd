//! One run from its servers to its verdict.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Outcome, SESSION, Schedule, Servers, Torture, Wires, ledger, torture};
use crate::audit::{Compared, Evidence, Input, Rules, Wanted, audit, watched};
use crate::fleet::{Orders, Scene, Store};
use crate::readers::agrees_with_java;
use crate::segments::{holes, transactions_agree};
use crate::servers::{Kafka, KafkaOptions, Postgres, PostgresOptions, unique};
use crate::wire::{Protocol, Wire};

/// Partitions of the input, when it begins, and of the output.
const PARTITIONS: i32 = 8;
/// Partitions of the output: a record without a key keeps its partition's number, and the input may grow.
const PARTITIONS_MAX: i32 = 12;

/// Which sink is put to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Topics.
    Kafka,
    /// A server.
    Postgres,
    /// A file.
    Sqlite,
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "kafka" => Ok(Self::Kafka),
            "postgres" => Ok(Self::Postgres),
            "sqlite" => Ok(Self::Sqlite),
            _ => bail!("no sink is called {text}; there are kafka, postgres, sqlite"),
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub enum Verdict {
    /// Everything is there once.
    Exact(Compared),
    /// The broker lost transaction markers, against its own promise: no client can tell what was committed.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(compared) => write!(f, "exactly once: {compared}"),
            Self::Unknown => f.write_str("UNKNOWN: the broker lost transaction markers"),
        }
    }
}

/// The servers, wires and the scene of a run.
#[derive(Debug)]
pub struct Session {
    kind: Kind,
    kafka: Kafka,
    postgres: Option<Postgres>,
    store_wires: Vec<Wire>,
    wired: usize,
    scene: Scene,
}

/// How to run it.
#[derive(Clone, Debug)]
pub struct Length {
    /// From which everything is drawn.
    pub seed: u64,
    /// How long things break.
    pub over: Duration,
    /// Records of the input.
    pub records: usize,
    /// Copiers.
    pub copiers: usize,
    /// Whether the broker assigns partitions (`group.protocol=consumer`).
    pub broker_assigns: bool,
}

impl Session {
    /// Starts servers of its own. `program` is the copier; `wired` copiers meet them through wires only.
    ///
    /// # Errors
    /// When one does not come up.
    pub async fn start(kind: Kind, program: &str, wired: usize) -> Result<Self> {
        // Stored offsets are read from their log in the end: nothing of it is compacted away before.
        let options = KafkaOptions::new()
            .separate_controller()
            .wires(wired)
            .property("offsets.topic.segment.bytes", 1 << 30);
        let kafka = Kafka::start(options).await?;
        let mut postgres = None;
        let store = match kind {
            Kind::Kafka => Some(Store::topic(&kafka, PARTITIONS_MAX).await?),
            Kind::Sqlite => None,
            Kind::Postgres => {
                let server = postgres.insert(Postgres::start(PostgresOptions::new()).await?);
                Some(Store::database(server).await?)
            }
        };
        let mut store_wires = Vec::new();
        if let Some(Store::Postgres(url)) = &store {
            for _ in 0..wired {
                store_wires.push(Wire::to(address(url)?.to_owned(), Protocol::Postgres)?);
            }
        }
        let input = unique("input");
        kafka.create_topic(&input, PARTITIONS, &[]).await?;
        let scene = match store {
            Some(store) => Scene::on(program, &kafka, store, &input)?,
            None => Scene::with_file(program, &kafka, &input)?,
        };
        Ok(Self { kind, kafka, postgres, store_wires, wired, scene })
    }

    /// Breaks what the schedule says while records come in, lets everything heal, and compares.
    ///
    /// # Errors
    /// When something does not come back, does not end, or is not there exactly once.
    pub async fn run(&self, length: &Length, schedule: Schedule) -> Result<(Outcome, Verdict)> {
        let wires: Vec<_> = (0..self.wired)
            .map(|i| Wires { broker: self.kafka.wire(i), store: self.store_wires.get(i) })
            .collect();
        let postgres = self.postgres.as_ref();
        let servers = Servers { kafka: &self.kafka, postgres, wires: &wires };
        let run = Torture {
            seed: length.seed,
            schedule,
            over: length.over,
            records: length.records,
            partitions: PARTITIONS,
            servers,
            scene: &self.scene,
        };
        let (mut outcome, ()) = match &self.scene.store {
            Store::Postgres(url) => {
                tokio::try_join!(torture(&run, self.copiers(length)?), ledger::keep(url))?
            }
            _ => (torture(&run, self.copiers(length)?).await?, ()),
        };
        println!("{:?}, seed {}: {outcome}", self.kind, length.seed);
        if self.kafka.lost_markers().await? {
            return Ok((outcome, Verdict::Unknown));
        }
        let compared = self.judge(&mut outcome, length.records).await?;
        Ok((outcome, Verdict::Exact(compared)))
    }

    /// It showed what it should: nothing is kept.
    pub fn passed(self) {
        self.scene.passed();
    }

    async fn judge(&self, outcome: &mut Outcome, records: usize) -> Result<Compared> {
        let (mut evidence, order) = self.scene.evidence().await.context("read back")?;
        let rules = Rules { retries: 2, order, ..Rules::default() };
        outcome.read_twice = self.read_again(&evidence)?;
        add_deleted(&mut evidence, std::mem::take(&mut outcome.deleted));
        let compared = audit(&evidence, &rules).exactly_once().map_err(anyhow::Error::msg)?;
        ensure!(compared.inputs >= records, "only {} of {records} came in", compared.inputs);
        let wanted = Wanted::of(&evidence.inputs, &rules);
        let agreed = transactions_agree(&self.kafka, &self.scene, &evidence, &wanted).await;
        outcome.agreed = agreed.context("segments of the output")?;
        if let Some(agreed) = outcome.agreed {
            println!("segments: {agreed}");
        }
        (outcome.filtered, outcome.dead) = (wanted.filtered(), compared.dead);
        outcome.expired = self.kafka.expired().await?;
        outcome.holes = holes(&self.kafka, &self.scene).await.context("segments of the input")?;
        if !matches!(self.scene.store, Store::Kafka(_)) {
            let moments = watched(&outcome.moments, &wanted).map_err(anyhow::Error::msg)?;
            println!("every second: {moments}");
            outcome.watched = Some(moments);
        }
        if let Store::Postgres(url) = &self.scene.store {
            ledger::check(url).await?;
        }
        let overlap = outcome.trail.overlap();
        ensure!(overlap.is_none(), "two commits stored the same: {overlap:?}");
        Ok(compared)
    }

    /// What is compared with is not only what our own client saw.
    fn read_again(&self, evidence: &Evidence) -> Result<Option<usize>> {
        let again = || agrees_with_java(&self.kafka, &self.scene.input, evidence.inputs.iter());
        let compared = tokio::task::block_in_place(again).context("the input")?;
        match compared {
            Some(count) => println!("input: Kafka's own consumer reads the same {count} records"),
            None => println!("input: read by our own client only, the broker is no process here"),
        }
        Ok(compared)
    }

    /// Copiers of one group; whether they have names, and which order they keep, is drawn too.
    fn copiers(&self, length: &Length) -> Result<Vec<Orders>> {
        let mut dice = fastrand::Rng::with_seed(!length.seed);
        let order = *dice.choice(&["partition", "key"]).expect("two");
        (0..length.copiers).map(|number| self.copier(number, order, dice.bool(), length)).collect()
    }

    fn copier(&self, number: usize, order: &str, named: bool, length: &Length) -> Result<Orders> {
        let name = format!("copier-{number}");
        let mut orders = self
            .scene
            .copier(&name)
            .flag("--order", order)
            .flag("--threads", "3")
            .flag("--work-us", "0..300")
            .flag("--retries", "2")
            .flag("--in-flight", "4000")
            .flag("--commit-interval-ms", "50")
            .flag("--transaction-timeout-ms", "10000")
            .flag("--drain-ms", "5000");
        if number < self.wired {
            orders = orders.flag("--bootstrap", self.kafka.wire(number).address());
        }
        if let (Some(wire), Store::Postgres(url)) =
            (self.store_wires.get(number), &self.scene.store)
        {
            let url = url.replacen(address(url)?, &wire.address(), 1);
            orders = orders.flag("--sink", format!("postgres:{url}"));
        }
        orders = match length.broker_assigns {
            true => orders.flag("--protocol", "consumer"),
            false => orders.flag("--session-timeout-ms", SESSION.as_millis().to_string()),
        };
        println!("{name}: order {order}, {}", if named { "named" } else { "no name" });
        Ok(if named { orders.flag("--instance", name) } else { orders })
    }
}

/// What an operator has deleted is input all the same. A broker that was killed may have forgotten that it was.
fn add_deleted(evidence: &mut Evidence, deleted: Vec<Input>) {
    let mut first: HashMap<i32, i64> = HashMap::new();
    for input in &evidence.inputs {
        let first = first.entry(input.partition.1).or_insert(input.offset);
        *first = input.offset.min(*first);
    }
    let there =
        |input: &Input| first.get(&input.partition.1).is_some_and(|first| *first <= input.offset);
    let gone: Vec<_> = deleted.into_iter().filter(|input| !there(input)).collect();
    if !gone.is_empty() {
        println!("input: {} records had been deleted", gone.len());
    }
    evidence.inputs.extend(gone);
}

/// `host:port` of a database's URL.
fn address(url: &str) -> Result<&str> {
    let (_, rest) = url.split_once('@').context("a URL with a user")?;
    Ok(rest.split_once('/').context("a URL with a database")?.0)
}
