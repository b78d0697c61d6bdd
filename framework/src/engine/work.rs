//! What travels between the engine and the pool: jobs out, completions back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::process::Attempt;
use crate::record::{Epoch, RawRecord};

/// Names the lane a job belongs to: partition slot, epoch of that partition, lane number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct LaneKey {
    pub(crate) slot: u32,
    pub(crate) epoch: Epoch,
    pub(crate) lane: u32,
}

/// Names one dispatched record: its sequence in delivery order within partition and epoch.
pub(crate) struct Ticket {
    pub(crate) seq: u64,
    /// Which call this is, from 1.
    pub(crate) attempt: u32,
    pub(crate) record: Arc<RawRecord>,
}

/// Records of one lane, to be run one after another by one worker.
///
/// The worker looks at the gate before each record. It ends the run at the first failure, or with
/// [`Said::NotStarted`] when the gate is closed or its turn is over; what was not started goes back
/// to the lane.
pub(crate) struct Job {
    pub(crate) key: LaneKey,
    pub(crate) gate: Arc<Gate>,
    pub(crate) tickets: Vec<Ticket>,
}

/// Whether records of a partition may still be started.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicBool);

impl Gate {
    pub(crate) fn close(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What became of one ticket.
pub(crate) struct Completion<O> {
    pub(crate) key: LaneKey,
    pub(crate) seq: u64,
    pub(crate) said: Said<O>,
}

/// See [`Completion`].
pub(crate) enum Said<O> {
    /// The function was called.
    Attempt(Attempt<O>),
    /// This ticket and all behind it in the job were not started: the gate is closed, or the run
    /// took its turn.
    NotStarted,
}
