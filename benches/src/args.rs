//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Measures hand-written limit loops and the framework side by side, on real servers.
///
/// Servers are those that TIDEGATE_KAFKA and TIDEGATE_POSTGRES name, or are started for the run.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// What to measure.
    #[arg(long, value_enum, default_value_t = Sink::All, global = true)]
    pub(crate) sink: Sink,
    /// Records of 100 B in the backlog that each throughput case reads.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) records: u64,
    /// How often each throughput case runs; loops and framework take turns.
    #[arg(long, default_value_t = 5)]
    pub(crate) repetitions: u32,
    /// Commit intervals in milliseconds.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100])]
    pub(crate) intervals: Vec<u64>,
    /// Rates of the latency cases in records a second; none: `--rates 0`.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 20_000])]
    pub(crate) rates: Vec<u64>,
    /// Seconds of each latency case.
    #[arg(long, default_value_t = 8)]
    pub(crate) seconds: u64,
    /// A look in about a minute: 200,000 records, 2 repetitions, latency cases of 3 s.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Writes every measurement here, as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Where the SQLite files are made; the temporary directory unless set.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Copies millions of records through a function that is slow now and then, and prints how
    /// much memory that takes.
    Memory {
        /// How many records.
        #[arg(long, default_value_t = 5_000_000)]
        records: u64,
    },
    /// Starts the servers as a run does, prints their addresses as lines for a shell, and keeps
    /// them until Ctrl-C.
    Servers,
    /// One measurement, as the benchmark starts it in a process of its own.
    #[command(hide = true)]
    Case {
        /// What to measure, as JSON.
        case: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Sink {
    /// Reading only.
    None,
    /// Kafka, at least once.
    KafkaAlo,
    /// Kafka, exactly once.
    Kafka,
    Postgres,
    Sqlite,
    All,
}

impl Args {
    /// With what `--quick` stands for.
    pub(crate) fn records(&self) -> u64 {
        if self.quick { self.records.min(200_000) } else { self.records }
    }

    pub(crate) fn repetitions(&self) -> u32 {
        if self.quick { self.repetitions.min(2) } else { self.repetitions }
    }

    pub(crate) fn seconds(&self) -> u64 {
        if self.quick { self.seconds.min(3) } else { self.seconds }
    }
}
