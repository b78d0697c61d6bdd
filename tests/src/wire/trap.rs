//! A trap for one request.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::time::timeout;

use super::What;

/// What happens to the request that steps into a trap, and to its connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Act {
    /// Nothing: the trap only notes that it came by.
    Pass,
    /// It is lost, and the connection with it.
    LoseRequest,
    /// The server answers it; the answer is lost, and the connection with it.
    LoseAnswer,
    /// The connection is cut for the client only. The server still gets the request, when the trap is opened.
    CutAndHold,
    /// The server gets it when the trap is opened, whether the client still waits or not.
    Hold,
    /// The client gets the answer when the trap is opened.
    HoldAnswer,
}

/// A trap for one request: what it does, and whether it has done it.
pub struct Trap {
    pub(super) act: Act,
    takes: Box<dyn Fn(&What) -> bool + Send + Sync>,
    set: AtomicBool,
    hit: watch::Sender<bool>,
    open: watch::Sender<bool>,
}

impl fmt::Debug for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hit, open) = (*self.hit.borrow(), *self.open.borrow());
        write!(f, "Trap {{ act: {:?}, hit: {hit}, open: {open} }}", self.act)
    }
}

impl Trap {
    pub(super) fn new(act: Act, takes: Box<dyn Fn(&What) -> bool + Send + Sync>) -> Self {
        let (hit, open) = (watch::Sender::new(false), watch::Sender::new(false));
        Self { act, takes, set: AtomicBool::new(true), hit, open }
    }

    /// Whether this request is the one.
    pub(super) fn catches(&self, what: &What) -> bool {
        self.waits() && (self.takes)(what) && self.set.swap(false, Ordering::SeqCst)
    }

    /// Whether it has caught nothing yet.
    pub(super) fn waits(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }

    /// The request was caught, and what comes before the opening is done.
    pub(super) fn done(&self) {
        self.hit.send_replace(true);
    }

    /// Waits until it is opened.
    pub(super) async fn opened(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    /// Waits until a request has stepped into it.
    ///
    /// # Errors
    /// When none does within this long: a fault that did not happen proves nothing.
    pub async fn hit(&self, within: Duration) -> Result<()> {
        let mut hit = self.hit.subscribe();
        let waited = timeout(within, hit.wait_for(|hit| *hit)).await;
        waited
            .ok()
            .and_then(Result::ok)
            .with_context(|| format!("{self:?}: not within {within:?}"))?;
        Ok(())
    }

    /// Whether a request has stepped into it.
    #[must_use]
    pub fn was_hit(&self) -> bool {
        *self.hit.borrow()
    }

    /// Catches nothing any more.
    pub fn disarm(&self) {
        self.set.store(false, Ordering::SeqCst);
    }

    /// Lets go what it holds.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}
