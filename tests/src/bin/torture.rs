//! Copiers under fire for as long as wanted: servers of its own, everything that can break, and a verdict.
//!
//! Exit codes: 0 everything is there once and enough was reached; 1 it is not; 2 the command line is wrong; 3 the run
//! says nothing: too little was reached, or the broker broke its own promise.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use tidegate_tests::torture::{
    ALL, Coverage, Kind, Length, Nemesis, Plan, Schedule, Session, Verdict, gaps,
};

/// Breaks everything around copiers by a schedule from a seed, lets everything heal, and compares what is there with
/// what should be.
#[derive(Parser, Debug)]
#[command(name = "torture", version)]
struct Args {
    /// Where the copies go: kafka, postgres or sqlite.
    #[arg(long)]
    sink: Kind,
    /// How long things break.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// From which everything is drawn; a new one each time unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// What may break; everything that applies unless given.
    #[arg(long, value_delimiter = ',')]
    nemesis: Vec<Nemesis>,
    /// Records of the input a second. Half an hour of them makes a million and a half.
    #[arg(long, default_value_t = 800)]
    rate: usize,
    /// Copiers.
    #[arg(long, default_value_t = 3)]
    copiers: usize,
    /// Let the broker assign partitions (`group.protocol=consumer`).
    #[arg(long)]
    broker_assigns: bool,
}

impl Args {
    fn nemeses(&self) -> Vec<Nemesis> {
        let asked = if self.nemesis.is_empty() { &ALL[..] } else { &self.nemesis };
        let applies = |nemesis: &Nemesis| match self.sink {
            Kind::Postgres => true,
            Kind::Kafka => !nemesis.needs_database(),
            Kind::Sqlite => !nemesis.needs_database() && !nemesis.needs_wire(),
        };
        asked.iter().copied().filter(applies).collect()
    }
}

fn main() -> ExitCode {
    // Called by this name it is the copier, so that it needs no other program beside it.
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == "copier") {
        return tidegate_tests::copier::main();
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(shown) => {
            let _ = shown.print();
            return if shown.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the runtime did not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&args)) {
        Ok(code) => code,
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<ExitCode> {
    let began = Instant::now();
    let seed = args.seed.map_or_else(tidegate_tests::torture::seed, Ok)?;
    let over = Duration::from_secs_f64(args.minutes * 60.0);
    let nemeses = args.nemeses();
    let names: Vec<_> = nemeses.iter().map(|nemesis| nemesis.name()).collect();
    println!("sink {:?}, seed {seed}, {over:?}, nemeses {}", args.sink, names.join(","));

    let dir = tempfile::TempDir::with_prefix("tidegate-torture-")?;
    let copier = dir.path().join("copier");
    std::os::unix::fs::symlink(std::env::current_exe()?, &copier)?;
    let copier = copier.to_str().context("the directory's name is not UTF-8")?;

    let session = Session::start(args.sink, copier, args.copiers).await?;
    let plan = Plan { seed, over, copiers: args.copiers, nemeses: nemeses.clone() };
    let length = Length {
        seed,
        over,
        records: (over.as_secs_f64() * args.rate as f64) as usize,
        copiers: args.copiers,
        broker_assigns: args.broker_assigns,
    };
    let (outcome, verdict) = session.run(&length, Schedule::mixed(&plan)).await?;
    let coverage = Coverage::of(&outcome);
    println!("\nreached:\n{coverage}");
    let gaps = gaps(&coverage, &outcome, args.sink, &nemeses, over);
    let took = began.elapsed();
    println!("seed {seed}, {took:.0?}: {verdict}");
    Ok(match verdict {
        Verdict::Unknown => ExitCode::from(3),
        Verdict::Exact(_) => {
            session.passed();
            if gaps.is_empty() {
                println!("GREEN");
                ExitCode::SUCCESS
            } else {
                println!("INVALID, the run reached too little: {}", gaps.join("; "));
                ExitCode::from(3)
            }
        }
    })
}
