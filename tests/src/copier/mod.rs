//! The copier: the program that torture runs and outside checks drive.
//!
//! It writes every input record once to the sink, unchanged, with its coordinates; values steer
//! it (see [`work::wish`]).

pub mod args;
pub mod evidence;
pub mod jobs;
pub mod work;

use std::process::ExitCode;
use std::time::Duration;

use tidegate::source::Health;
use tidegate::{Error, Handle, Job, PartitionState, Summary};
use tokio::time::Instant;

use self::args::{Args, Target};

/// The whole program: reads its command line, runs, and says in one line how it ended.
pub fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(Some(args)) => args,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    // Unasked, nothing stands beside the one line that a refusal is worth.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the runtime did not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(args));
    // Calls and functions that hang must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(summary) => {
            eprintln!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", error.to_string().replace('\n', " "));
            if error.is_configuration() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// Runs the copier until a signal, an error, or until it is idle.
///
/// # Errors
/// Whatever ended it.
pub async fn run(args: Args) -> Result<Summary, Error> {
    if let Some(address) = args.metrics {
        metrics_exporter_prometheus::PrometheusBuilder::new()
            .with_http_listener(address)
            .install()
            .map_err(|error| Error::configuration("metrics", error))?;
    }
    match &args.sink {
        Target::Kafka(topic) => drive(jobs::to_kafka(&args, topic)?, &args).await,
        Target::Postgres(url) => {
            drive(jobs::to_postgres(&args, url)?, &args).await.map_err(of_the_sink)
        }
        Target::Sqlite(path) => {
            drive(jobs::to_sqlite(&args, path)?, &args).await.map_err(of_the_sink)
        }
    }
}

/// What the library calls a URL or a path is one flag here.
fn of_the_sink(error: Error) -> Error {
    let text = error.to_string();
    if error.is_configuration() && (text.starts_with("postgres url:") || text.starts_with("path:"))
    {
        return Error::configuration("--sink", text);
    }
    error
}

async fn drive<O: Send + Sync + 'static>(job: Job<O>, args: &Args) -> Result<Summary, Error> {
    match args.exit_when_idle_ms {
        None => job.run().await,
        Some(idle) => {
            job.run_with(|handle| stop_when_idle(handle, Duration::from_millis(idle))).await
        }
    }
}

/// A member may be given its first partitions late: the first group of a broker takes seconds.
const FIRST_ASSIGNMENT_MAX: Duration = Duration::from_secs(10);

/// Asks for a stop once nothing has come in and nothing has been in flight for this long.
async fn stop_when_idle(handle: Handle, idle: Duration) {
    let mut since = Instant::now();
    let mut last = None;
    let began = Instant::now();
    while let Ok(status) = handle.status().await {
        let now = (status.totals.records_in, status.totals.committed_records);
        let waits = status.partitions.is_empty() && began.elapsed() < FIRST_ASSIGNMENT_MAX;
        // A partition that waits for the transaction of a dead owner is not idle.
        let busy = status.partitions.iter().any(|partition| {
            partition.in_flight_records > 0 || partition.state == PartitionState::Starting
        });
        if last != Some(now) || busy || waits || status.source != Health::Ready {
            last = Some(now);
            since = Instant::now();
        }
        if since.elapsed() >= idle {
            handle.begin_stop("idle");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
