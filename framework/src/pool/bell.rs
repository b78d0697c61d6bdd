//! Wakes the engine once for any number of completions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Rings at most once between two [`Bell::answer`]s, so that wakes batch by themselves: while the
/// engine is busy, workers only look at a flag.
pub(super) struct Bell {
    rung: AtomicBool,
    wake: Arc<Notify>,
}

impl Bell {
    pub(super) fn new(wake: Arc<Notify>) -> Self {
        Self { rung: AtomicBool::new(false), wake }
    }

    /// Called after something was put where the engine takes it.
    pub(super) fn ring(&self) {
        if !self.rung.load(Ordering::Acquire) && !self.rung.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Called by the engine *before* it takes: whatever is put down after it took rings again.
    pub(super) fn answer(&self) {
        self.rung.store(false, Ordering::Release);
    }
}
