//! Runs a job until Ctrl-C, or until what is in its topic is stored.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use tidegate::record::{Offset, PartitionId};
use tidegate::{Handle, Job, Summary};

use crate::args::Args;
use crate::kafka;

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Sends logs to standard error: errors, or what the variable RUST_LOG says.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// The end of an example: 0, or 1 with its error in one line.
pub fn exit(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the job as the flags say; `topic` is what it reads.
///
/// # Errors
/// Whatever ended the pipeline.
pub async fn run<O>(job: Job<O>, args: &Args, topic: &str) -> Result<Summary>
where
    O: Send + Sync + 'static,
{
    if !args.drain {
        println!("reading {topic}; Ctrl-C ends it");
        return Ok(job.run().await?);
    }
    let ends = kafka::ends(&args.bootstrap(), topic)?;
    Ok(job.run_with(|handle| stop_when_stored(handle, ends)).await?)
}

/// Asks for a stop once each partition is stored up to its end.
async fn stop_when_stored(handle: Handle, ends: BTreeMap<PartitionId, Offset>) {
    while let Ok(status) = handle.status().await {
        let stored = |(id, end): (&PartitionId, &Offset)| {
            status.partitions.iter().any(|p| p.partition == *id && p.committed >= *end)
        };
        if ends.iter().all(stored) {
            handle.begin_stop("everything is stored");
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}
