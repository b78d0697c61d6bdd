//! Ctrl-C and its like.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::failure::Failure;

/// Hears the signals that ask this program to end.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(watch::Receiver<u32>);

impl Interrupt {
    /// From now on signals are heard, and no longer end the program by themselves.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let failed = |error| Failure::failed(format_args!("signals cannot be heard: {error}"));
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let (sender, heard) = watch::channel(0);
        for kind in kinds {
            let mut signals = signal(kind).map_err(failed)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    sender.send_modify(|count| *count += 1);
                }
            });
        }
        Ok(Self(heard))
    }

    /// Until so many signals have come.
    pub(crate) async fn heard(&self, count: u32) {
        let mut heard = self.0.clone();
        if heard.wait_for(|heard| *heard >= count).await.is_err() {
            // Nobody listens: nothing will come.
            std::future::pending::<()>().await;
        }
    }

    /// What comes out, unless a signal comes first.
    pub(crate) async fn or<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            () = self.heard(1) => Err(Failure::Interrupted),
            result = work => result,
        }
    }
}
