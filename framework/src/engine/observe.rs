//! What an observer sees of the engine: every decision that matters, as it is taken.
//!
//! Events carry coordinates, never keys or values. They are what the logs and metrics are made
//! of; a program can take them too, as evidence for an audit.

use std::time::Duration;

use crate::batch::{DeadReason, Span};
use crate::record::{Coordinates, Epoch, Offset, PartitionId};

/// Sees every event of an engine, in order, on the engine's own task: an implementation must not
/// block.
pub trait Observer: Send + Sync {
    /// Called once per event.
    fn observe(&self, event: &EngineEvent);
}

/// One decision or finding of the engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EngineEvent {
    /// The group gave these partitions.
    Assigned {
        /// The partitions.
        partitions: Vec<PartitionId>,
    },
    /// The group wants these partitions back.
    Revoked {
        /// The partitions.
        partitions: Vec<PartitionId>,
    },
    /// A revocation was answered: their work is settled, or was dropped at the deadline.
    HandedBack {
        /// The partitions.
        partitions: Vec<PartitionId>,
    },
    /// These partitions were gone before they could be handed back.
    Lost {
        /// The partitions.
        partitions: Vec<PartitionId>,
    },
    /// A claim answered what is stored.
    Claimed {
        /// The partition.
        partition: PartitionId,
        /// Its epoch.
        epoch: Epoch,
        /// The stored position, if any.
        stored: Option<Offset>,
    },
    /// A partition is read from here.
    Started {
        /// The partition.
        partition: PartitionId,
        /// Its epoch.
        epoch: Epoch,
        /// The first offset to read.
        offset: Offset,
    },
    /// A partition stopped by name; the others go on.
    PartitionFailed {
        /// The partition.
        partition: PartitionId,
        /// Why, and what to do.
        error: String,
    },
    /// A cut was handed to the sink.
    Cut {
        /// What it covers.
        spans: Vec<Span>,
        /// How many records.
        records: usize,
    },
    /// A commit ended.
    CommitEnded {
        /// What it covered.
        spans: Vec<Span>,
        /// `committed`, `aborted`, `fenced`, `in_doubt`, `rejected` or `stop`.
        fate: &'static str,
        /// What was said, for all but `committed`.
        detail: String,
        /// How many records.
        records: usize,
        /// How long the commit took.
        took: Duration,
    },
    /// A commit in doubt was resolved by claiming.
    DoubtResolved {
        /// What it covered.
        spans: Vec<Span>,
        /// Whether it turned out to be stored.
        stored: bool,
    },
    /// A position was stored without results: a start or a seek.
    Repositioned {
        /// The partition.
        partition: PartitionId,
        /// The next offset to read.
        next: Offset,
    },
    /// A record failed and is tried again.
    Retrying {
        /// The record.
        record: Coordinates,
        /// How many calls were made.
        attempts: u32,
        /// When the next one comes.
        wait: Duration,
        /// What the function said.
        error: String,
    },
    /// A record was set aside.
    DeadLettered {
        /// The record.
        record: Coordinates,
        /// Why.
        reason: DeadReason,
        /// What was said.
        error: String,
    },
    /// A record was left out: by policy, or by the operator.
    Skipped {
        /// The record.
        record: Coordinates,
        /// `policy` or `operator`.
        by: &'static str,
        /// What was said.
        error: String,
    },
    /// A record holds its partition back for longer than the set time.
    Stuck {
        /// The record.
        record: Coordinates,
        /// For how long.
        age: Duration,
    },
    /// Work of a partition was dropped: it will be read again by whoever owns it.
    Dropped {
        /// The partition.
        partition: PartitionId,
        /// The epoch that ended.
        epoch: Epoch,
        /// Records that had been delivered and not stored.
        records: usize,
        /// Why.
        why: &'static str,
    },
    /// The engine drains.
    Stopping {
        /// Why: `signal`, `handle`, or the error.
        why: String,
    },
}
