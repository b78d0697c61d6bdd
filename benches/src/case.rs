//! One measurement: what it is told, what it answers, and its life as a process.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{framework, loops, memory};

/// What is done with the records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Nothing: L1.
    Consume,
    /// Copied to a topic, at least once: L2.
    AtLeastOnce,
    /// Copied to a topic in transactions that hold the offsets: L3.
    Kafka,
    /// Copied to PostgreSQL with the offsets: L4.
    Postgres,
    /// Copied to SQLite with the offsets: L5.
    Sqlite,
}

/// Who does it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum Who {
    Loop,
    Framework,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) work: Work,
    pub(crate) who: Who,
    pub(crate) bootstrap: String,
    pub(crate) group: String,
    pub(crate) input: String,
    /// The topic, the URL of the database or the path of the file.
    pub(crate) output: String,
    pub(crate) interval_ms: u64,
    pub(crate) records: u64,
    /// Records come at this rate, and their values begin with the time they were due; otherwise
    /// all are there already.
    pub(crate) rate: Option<u64>,
    /// The function is slow now and then, and the memory of the process is printed.
    pub(crate) slow: bool,
}

impl Case {
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

/// What a measurement found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) records: u64,
    /// From the first record to the end of the commit that stored the last.
    pub(crate) seconds: f64,
    /// User and system time of the process, all threads, in that time.
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_mib: f64,
    /// Times of a commit and its phases.
    pub(crate) phases: BTreeMap<String, Times>,
    /// From due to visible.
    pub(crate) latency: Option<Times>,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53 records")]
        let records = self.records as f64;
        records / self.seconds
    }

    /// CPU seconds of a million records.
    pub(crate) fn cpu_per_million(&self) -> f64 {
        self.cpu_seconds / (self.per_second() * self.seconds / 1e6)
    }
}

/// A distribution of times, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Times {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// What a case prints when the partitions are assigned and records may come.
pub(crate) const READY: &str = "ready";

/// Runs a case and prints its outcome.
pub(crate) fn run(json: &str) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let case: Case = serde_json::from_str(json).context("a case is what the benchmark wrote")?;
    let outcome = match case.who {
        Who::Framework if case.slow => memory::run(&case)?,
        Who::Loop => loops::run(&case)?,
        Who::Framework => framework::run(&case)?,
    };
    println!("{}", serde_json::to_string(&outcome)?);
    // Clients are not closed: what was measured is over, and the process ends.
    std::process::exit(0);
}
