//! How a source leaves its group: revocations are settled like any other, until a deadline.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::thread::Reader;

/// How long leaving the group may take beyond the settling of revocations.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// The group is being left.
pub(crate) struct Closing {
    pub(crate) deadline: Instant,
    pub(crate) done: Option<oneshot::Sender<()>>,
}

impl Reader {
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.closing
            .as_ref()
            .is_some_and(|closing| self.consumer.closed() || Instant::now() >= closing.deadline)
    }

    /// Starts to leave the group. Revocations that follow are settled like any other.
    pub(crate) fn close(&mut self, done: Option<oneshot::Sender<()>>) {
        if self.closing.is_some() {
            return;
        }
        let mut deadline = Instant::now() + self.rebalances.limits().drain_max + LEAVE_MAX;
        if let Err(error) = self.consumer.close_queue() {
            // After a fatal error there is nothing to leave.
            tracing::debug!(%error, "cannot leave the group");
            deadline = Instant::now();
        }
        self.closing = Some(Closing { deadline, done });
    }

    /// Waits for the group no longer, if it is being left; returns whether it is.
    pub(crate) fn give_up_closing(&mut self) -> bool {
        let Some(closing) = &mut self.closing else { return false };
        closing.deadline = Instant::now();
        true
    }
}
