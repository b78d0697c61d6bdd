//! From a checked plan to a running engine: opens the sink, then the source, then starts the loop.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::core::{Config, Core};
use super::deliver::Caller;
use super::handle::{Ended, Handle};
use super::observe::Observer;
use super::tell::Teller;
use super::{Engine, source_queue};
use crate::delivery::Delivery;
use crate::error::{Cause, Error};
use crate::policy::{FailurePolicy, Then};
use crate::pool::Pool;
use crate::process::Process;
use crate::settings::{Limits, Order};
use crate::sink::{DeadLetters, SinkContext, SinkError};
use crate::source::{Health, SourceContext, SourceError};
use crate::source_erased::ErasedSource;

/// Waits between attempts to open a sink or source that is not there yet.
const OPEN_AGAIN: Duration = Duration::from_millis(500);
/// Records of one lane in one run of a thread: enough that handing over costs little beside the
/// fastest function. A slower one is cut short when the run's turn is over.
const RUN_RECORDS: usize = 1024;
/// After this long a run ends, so that slow records do not keep other lanes waiting.
const RUN_MAX: Duration = Duration::from_millis(2);
/// Runs that may wait per thread, so that no thread waits for the engine.
const RUNS_PER_THREAD: usize = 2;

/// Everything a pipeline runs with, checked.
pub(crate) struct Plan<O> {
    pub(crate) name: String,
    pub(crate) instance: Option<String>,
    pub(crate) source: Box<dyn ErasedSource>,
    pub(crate) delivery: Box<dyn Delivery<O>>,
    pub(crate) process: Process<O>,
    pub(crate) order: Order,
    pub(crate) policy: FailurePolicy,
    pub(crate) limits: Limits,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

impl<O: Send + Sync + 'static> Plan<O> {
    /// Opens the sink and the source, and runs in the background.
    pub(crate) async fn start(mut self) -> Result<Handle, Error> {
        let limits = self.limits.clone();
        let deadline = Instant::now() + limits.start_max;
        let sink_context = self.sink_context(&limits);
        open_sink(&mut *self.delivery, &sink_context, deadline).await?;
        let (events, source_events) = source_queue();
        let context = SourceContext {
            group: self.name.clone(),
            instance: self.instance.clone(),
            drain_max: limits.drain_max,
            claim_max: limits.claim_max,
            start_max: limits.start_max,
        };
        loop {
            match self.source.open(&context, events.clone()).await {
                Ok(()) => break,
                Err(SourceError::Stop(error)) => return Err(error),
                Err(SourceError::Retry(cause) | SourceError::Fenced(cause)) => {
                    wait_or_give_up("source", cause, deadline).await?;
                }
            }
        }
        self.delivery.attach(self.source.group_offsets());
        let pool_wake = Arc::new(Notify::new());
        let config = self.core_config(&limits);
        let workers = match &self.process {
            Process::Sync(_) => limits.threads,
            Process::Async(_) => limits.concurrency,
        };
        let pool = Pool::start(limits.threads, self.process, RUN_MAX, Arc::clone(&pool_wake))?;
        let sink = self.delivery.describe().kind;
        let guarantee = self.delivery.guarantee();
        let teller = Teller::new(&self.name, self.observer, &sink, guarantee);
        let (delivery, answers) = Caller::start(self.delivery);
        let (requests, queue) = mpsc::unbounded_channel();
        let (ended, end) = watch::channel(None);
        let engine = Engine {
            core: Core::new(config),
            origin: Instant::now(),
            source: self.source,
            source_events,
            pool,
            pool_wake,
            delivery,
            answers,
            requests: queue,
            teller,
            assignments: Default::default(),
            revocations: Default::default(),
            replies: Default::default(),
            numbers: 0,
            health: Health::Ready,
            actions: Vec::new(),
            events: Vec::new(),
            releasing: false,
            workers,
        };
        tokio::spawn(async move {
            let result = engine.run().await;
            let text = match &result {
                Ok(summary) => summary.to_string(),
                Err(error) => error.to_string(),
            };
            let result = Arc::new(std::sync::Mutex::new(Some(result)));
            ended.send_replace(Some(Ended { result, text }));
        });
        Ok(Handle::new(requests, end))
    }

    fn sink_context(&self, limits: &Limits) -> SinkContext {
        SinkContext {
            group: self.name.clone(),
            instance: self.instance.clone(),
            deadline: limits.start_max,
            dead_letters: match self.policy.then() {
                Then::DeadLetter => DeadLetters::Expected,
                _ => DeadLetters::Never,
            },
        }
    }

    fn core_config(&self, limits: &Limits) -> Config {
        let (outstanding_max, run_max) = match &self.process {
            Process::Sync(_) => (limits.threads * RUN_RECORDS * RUNS_PER_THREAD, RUN_RECORDS),
            Process::Async(_) => (limits.concurrency, 1),
        };
        Config {
            order: self.order,
            policy: self.policy,
            limits: limits.clone(),
            guarantee: self.delivery.guarantee(),
            progress: self.delivery.progress(),
            prove_membership: self.delivery.describe().bound_to.is_none(),
            outstanding_max,
            run_max,
            seed: seed(),
        }
    }
}

/// Jitter must differ between processes that start together.
fn seed() -> u64 {
    fastrand::u64(..)
}

async fn open_sink<O>(
    delivery: &mut dyn Delivery<O>,
    context: &SinkContext,
    deadline: Instant,
) -> Result<(), Error> {
    loop {
        match delivery.open(context).await {
            Ok(()) => return Ok(()),
            Err(SinkError::Stop(error)) => return Err(error),
            Err(SinkError::Rejected(rejection)) => return Err(Error::sink_failed(rejection.cause)),
            Err(SinkError::Retry(cause) | SinkError::Fenced(cause)) => {
                wait_or_give_up("sink", cause, deadline).await?;
            }
        }
    }
}

async fn wait_or_give_up(what: &str, cause: Cause, deadline: Instant) -> Result<(), Error> {
    if cause.is_for_operator() {
        return Err(Error::sink_failed(cause));
    }
    if Instant::now() + OPEN_AGAIN > deadline {
        let error = Error::deadline(format_args!("{what} not ready within start_max: {cause}"));
        return Err(error.remedy("check the address, or allow more time with start_max"));
    }
    tracing::warn!(what, %cause, "not ready yet, trying again");
    tokio::time::sleep(OPEN_AGAIN).await;
    Ok(())
}
