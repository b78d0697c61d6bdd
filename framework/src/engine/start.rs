//! From a job to a running engine: checks, opens the sink, then the source, then starts the loop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::core::{Config, Core};
use super::deliver::Caller;
use super::handle::{Ended, Handle, Summary};
use super::tell::Teller;
use super::{Engine, source_queue};
use crate::delivery::Delivery;
use crate::error::{Cause, Error};
use crate::pipeline::Job;
use crate::pool::Pool;
use crate::process::Process;
use crate::settings::Limits;
use crate::sink::{DeadLetters, SinkContext, SinkError};
use crate::source::{Health, SourceContext, SourceError};

/// Waits between attempts to open a sink or source that is not there yet.
const OPEN_AGAIN: Duration = Duration::from_millis(500);
/// Records of one lane in one run of a thread: enough that handing over costs little beside them.
const RUN_RECORDS: usize = 64;
/// Runs that may wait per thread, so that no thread waits for the engine.
const RUNS_PER_THREAD: usize = 8;

impl<O: Send + Sync + 'static> Job<O> {
    /// Runs until SIGTERM, Ctrl-C or an error. A signal drains within `stop_max`; a second one
    /// gives up at once, which breaks no guarantee.
    ///
    /// # Errors
    /// A setting that cannot work, a source or sink that cannot be opened, or whatever ended the
    /// pipeline before a signal did.
    pub async fn run(self) -> Result<Summary, Error> {
        self.run_with(|_| std::future::ready(())).await
    }

    /// As [`Job::run`], beside a companion that is given the handle once the pipeline runs: an
    /// admin endpoint, a progress bar, a condition that ends it. The companion ends with the
    /// pipeline.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub async fn run_with<F, W>(self, companion: F) -> Result<Summary, Error>
    where
        F: FnOnce(Handle) -> W,
        W: Future<Output = ()> + Send + 'static,
    {
        let handle = self.start().await?;
        let watched = handle.clone();
        let signals = tokio::spawn(async move { watch_signals(&watched).await });
        let companion = tokio::spawn(companion(handle.clone()));
        let result = handle.join().await;
        signals.abort();
        companion.abort();
        result
    }

    /// Checks everything, opens the sink and the source, and runs in the background. Signals are
    /// left to the program.
    ///
    /// # Errors
    /// A setting that cannot work, or a source or sink that cannot be opened within `start_max`.
    pub async fn start(mut self) -> Result<Handle, Error> {
        let limits = self.check()?;
        let deadline = Instant::now() + limits.start_max;
        self.delivery.attach(self.source.group_offsets());
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
        let pool_wake = Arc::new(Notify::new());
        let config = self.core_config(&limits);
        let workers = match &self.process {
            Process::Sync(_) => limits.threads,
            Process::Async(_) => limits.concurrency,
        };
        let pool = Pool::start(limits.threads, self.process, Arc::clone(&pool_wake))?;
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
                crate::policy::Then::DeadLetter => DeadLetters::Expected,
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

/// The first signal drains, the second gives up.
async fn watch_signals(handle: &Handle) {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals cannot be watched, stop with the handle");
            return;
        }
    };
    let name = signals.next().await;
    handle.begin_stop(name);
    let name = signals.next().await;
    tracing::warn!(signal = name, "second signal, giving up at once");
    handle.give_up();
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
