//! The main job, killed again and again: flights from Kafka, enriched, into SQL, exactly once.
//!
//! The parent process hosts Kafka (librdkafka's mock cluster, no server needed), sends the flights,
//! runs the pipeline as a child process, kills it with SIGKILL at moments spread over the work, and
//! counts by plain SQL what arrived. See the README beside this file.
#![forbid(unsafe_code)]

mod audit;
mod bar;
mod child;
mod input;
mod pipeline;
mod store;
mod trial;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::pipeline::Broker;
use crate::store::Store;

/// Where the results go unless told.
const FILE: &str = "target/quickstart.sqlite";

/// Runs 20,000 flights through a pipeline that is killed again and again, and counts what arrived.
#[derive(Parser, Debug)]
#[command(name = "quickstart")]
struct Args {
    /// How often the pipeline is killed.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(..=100))]
    kills: u16,
    /// A real Kafka, instead of the one inside this process.
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// A PostgreSQL, instead of a SQLite file; everything goes into its schema `quickstart`, which
    /// is made anew.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// The SQLite file; it must not exist. Default: target/quickstart.sqlite, made anew.
    #[arg(long, value_name = "PATH", conflicts_with = "postgres")]
    sqlite: Option<PathBuf>,
    /// Work for each flight, in microseconds, so that kills land in the middle of it.
    #[arg(long, default_value_t = 1_000, value_name = "US")]
    work_us: u64,
    /// Says what the pipeline does and promises, and ends.
    #[arg(long)]
    explain: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand, Debug)]
enum Part {
    /// The child: runs the pipeline that its standard input describes until that closes.
    #[command(hide = true)]
    Pipeline,
}

fn main() -> ExitCode {
    let args = Args::parse();
    tidegate_examples::run::log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("quickstart: the runtime did not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match args.part {
            Some(Part::Pipeline) => child::run().await.map(|()| true),
            None => trial::run(&args).await,
        }
    });
    runtime.shutdown_background();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Args {
    fn store(&self) -> Store {
        match (&self.postgres, &self.sqlite) {
            (Some(url), _) => Store::Postgres(url.clone()),
            (None, Some(path)) => Store::Sqlite(path.clone()),
            (None, None) => Store::Sqlite(PathBuf::from(FILE)),
        }
    }

    fn broker(&self) -> Broker {
        if self.kafka.is_some() { Broker::Real } else { Broker::Embedded }
    }
}
