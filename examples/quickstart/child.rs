//! The child process: the pipeline and nothing else.

use std::io::BufRead;

use anyhow::{Context, Result};
use tidegate::{Handle, Job};
use tidegate_examples::show::thousands;
use tidegate_postgres::Postgres;
use tidegate_sqlite::Sqlite;
use tokio::sync::oneshot;

use crate::pipeline::{Leg, Task, flights, pipeline, routes};
use crate::store::{SCHEMA, Store};

/// Runs the pipeline that the first line of standard input describes, until that closes: the
/// parent is done, or it is dead. Either way the pipeline stops cleanly.
pub(crate) async fn run() -> Result<()> {
    let (task, closed) = listen()?;
    let job = job(&task);
    let stop = |handle: Handle| async move {
        let _ = closed.await;
        handle.begin_stop("standard input is closed");
    };
    let summary = job.run_with(stop).await?;
    tracing::info!(records = thousands(summary.totals.committed_records as i64), "stopped");
    Ok(())
}

/// The pipeline with its sink.
pub(crate) fn job(task: &Task) -> Job<Leg> {
    let names = task.store.names();
    match &task.store {
        Store::Sqlite(path) => {
            pipeline(task, Sqlite::open(path).into(flights(&names)).into(routes(&names)))
        }
        Store::Postgres(url) => {
            let sink = Postgres::connect(url).bookkeeping_schema(SCHEMA);
            pipeline(task, sink.into(flights(&names)).into(routes(&names)))
        }
    }
}

/// The task, and what resolves when standard input closes.
fn listen() -> Result<(Task, oneshot::Receiver<()>)> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let task = serde_json::from_str(&line).context("standard input holds no task")?;
    let (close, closed) = oneshot::channel();
    // A thread of its own: a read of standard input cannot be cancelled.
    std::thread::spawn(move || {
        let mut rest = String::new();
        while std::io::stdin().lock().read_line(&mut rest).is_ok_and(|bytes| bytes > 0) {}
        let _ = close.send(());
    });
    Ok((task, closed))
}
