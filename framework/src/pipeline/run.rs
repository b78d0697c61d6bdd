//! Running a job: until a signal, or in the background.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Job;
use crate::engine::start::Plan;
use crate::engine::{Handle, Summary};
use crate::error::Error;

impl<O: Send + Sync + 'static> Job<O> {
    /// Runs until SIGTERM, Ctrl-C or an error. A signal drains within `stop_max`; a second one
    /// gives up at once, which breaks no guarantee. A signal that comes before everything is open,
    /// while a broker or a database is waited for, ends the start at once: nothing was consumed.
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
        // Watched from here on, because a broker that is away may be waited for until `start_max`.
        let mut signals = Signals::watch();
        let handle = tokio::select! {
            handle = self.start() => handle?,
            name = signals.next() => {
                tracing::info!(signal = name, "stopped before it had started");
                return Ok(Summary::default());
            }
        };
        let watched = handle.clone();
        let signals = tokio::spawn(async move { follow_signals(&mut signals, &watched).await });
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
    pub async fn start(self) -> Result<Handle, Error> {
        let limits = self.check()?;
        let plan = Plan {
            name: self.name,
            instance: self.instance,
            source: self.source,
            delivery: self.delivery,
            process: self.process,
            order: self.order,
            policy: self.policy,
            limits,
            observer: self.observer,
        };
        plan.start().await
    }
}

/// The first signal drains, the second gives up.
async fn follow_signals(signals: &mut Signals, handle: &Handle) {
    let name = signals.next().await;
    handle.begin_stop(name);
    let name = signals.next().await;
    tracing::warn!(signal = name, "second signal, giving up at once");
    handle.give_up();
}

/// SIGTERM and Ctrl-C, as far as the system lets them be watched.
struct Signals(Option<(Signal, Signal)>);

impl Signals {
    fn watch() -> Self {
        let both = || -> std::io::Result<_> {
            Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
        };
        Self(both().map_or_else(
            |error| {
                tracing::error!(%error, "signals cannot be watched, stop with the handle");
                None
            },
            Some,
        ))
    }

    async fn next(&mut self) -> &'static str {
        let Some((terminate, interrupt)) = &mut self.0 else { return std::future::pending().await };
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    }
}
