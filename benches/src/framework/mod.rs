//! The framework doing the loops' work with an identity function and its default settings, but for headers, which the
//! loops do not look at either.

pub(crate) mod jobs;
mod recorder;
pub(crate) mod watch;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tidegate::Job;

use crate::case::{Case, Outcome, Work};
use crate::framework::recorder::Recorder;
pub(crate) use crate::framework::watch::Watch;

pub(crate) fn run(case: &Case) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let watch = Arc::new(Watch::new(case));
        metrics::set_global_recorder(Recorder::new(watch.span.phases.clone()))
            .map_err(|_| anyhow::anyhow!("a recorder is installed already"))?;
        match case.work {
            Work::Consume => drive(jobs::consume(case, &watch), &watch).await?,
            Work::AtLeastOnce => drive(jobs::at_least_once(case, &watch), &watch).await?,
            Work::Kafka => drive(jobs::kafka(case, &watch), &watch).await?,
            Work::Postgres => drive(jobs::postgres(case, &watch), &watch).await?,
            Work::Sqlite => drive(jobs::sqlite(case, &watch), &watch).await?,
        }
        let mut outcome = watch.span.outcome(case.records)?;
        outcome.latency = watch.latency();
        Ok(outcome)
    })
}

/// Runs the job until everything is stored.
pub(crate) async fn drive<O: Send + Sync + 'static>(job: Job<O>, watch: &Watch) -> Result<()> {
    let handle = job.start().await?;
    tokio::select! {
        () = watch.done() => {}
        ended = handle.join() => bail!("the pipeline ended by itself: {ended:?}"),
    }
    // A group commit that was not waited for is a part of the work.
    handle.stop(Duration::from_secs(10)).await?;
    Ok(())
}
