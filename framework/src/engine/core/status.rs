//! What the core knows, for the handle's `status()` and the metrics.

use std::time::Duration;

use super::{Core, Phase};
use crate::record::{Coordinates, Epoch, Offset, PartitionId, Timestamp};

/// Everything that was counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Totals {
    /// Records read.
    pub records_in: u64,
    /// Bytes of key, value and headers read.
    pub bytes_in: u64,
    /// Results emitted.
    pub outputs: u64,
    /// Records whose results, dead letters or skips are stored.
    pub committed_records: u64,
    /// Results that are stored.
    pub committed_outputs: u64,
    /// Records without result, on purpose, whose progress is stored.
    pub committed_filtered: u64,
    /// Commits that were stored.
    pub commits: u64,
    /// Commits that were definitely not stored and are tried again.
    pub aborted: u64,
    /// Commits refused because another owner took over.
    pub fenced: u64,
    /// Commits whose fate had to be found out.
    pub doubts: u64,
    /// Commits refused for a record's data.
    pub rejected: u64,
    /// Calls that failed and are tried again.
    pub retries: u64,
    /// Records set aside.
    pub dead_letters: u64,
    /// Records left out by policy or by the operator.
    pub skipped: u64,
    /// At most once: records given up because their admission was in doubt.
    pub given_up: u64,
    /// Results that came after their partition had been taken away or repositioned.
    pub stale_results: u64,
    /// Records a source delivered twice or out of order; they were ignored.
    pub out_of_order: u64,
}

/// A partition as the core sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PartitionStatus {
    /// The partition.
    pub partition: PartitionId,
    /// How often it was positioned in this process, over all partitions.
    pub epoch: Epoch,
    /// What it is doing.
    pub state: PartitionState,
    /// Stored progress: the next offset a restart would read.
    pub committed: Offset,
    /// How far progress could be stored now.
    pub contiguous: Offset,
    /// The highest finished offset; what lies between it and `contiguous` is finished but waits
    /// for the record that holds the partition back.
    pub highest_finished: Option<Offset>,
    /// The end of the log as far as it was seen, which is about once a second, read or not: at
    /// least one behind the last record read.
    pub end: Option<Offset>,
    /// By how much the oldest record that is not stored is behind this moment, by the broker's
    /// timestamp; `None` if everything read is stored or the record has no timestamp.
    pub lag: Option<Duration>,
    /// Records read and not stored.
    pub in_flight_records: usize,
    /// Their bytes of key, value and headers.
    pub in_flight_bytes: usize,
    /// The oldest record that is held, for `lag`, which needs a clock.
    pub(crate) oldest: Option<Timestamp>,
    /// The oldest unfinished record.
    pub holder: Option<Holder>,
}

impl PartitionStatus {
    /// The end of the log minus stored progress, in offsets; `None` as long as no end was seen.
    /// Markers of transactions and compacted records count until they are behind stored progress:
    /// a drained topic shows 0.
    pub fn lag_records(&self) -> Option<u64> {
        let end = self.end?;
        Some(end.get().saturating_sub(self.committed.get()).max(0).unsigned_abs())
    }
}

/// The record that holds a partition back.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Holder {
    /// The record.
    pub record: Coordinates,
    /// Since it was last started, or delivered if it was not started yet.
    pub age: Duration,
    /// How many calls failed.
    pub attempts: u32,
    /// The worker that runs it, if one does.
    pub worker: Option<usize>,
    pub(crate) seq: u64,
}

/// What a partition is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PartitionState {
    /// It is being claimed, or its position looked for.
    Starting,
    /// It is read and processed.
    Running,
    /// It was paused by the handle.
    Paused,
    /// It is being handed back, sought, or drained.
    Settling,
    /// It stopped by name; the others go on.
    Stopped(String),
}

/// The core's part of a status.
#[derive(Clone, Debug)]
pub(crate) struct CoreStatus {
    pub(crate) partitions: Vec<PartitionStatus>,
    pub(crate) totals: Totals,
    pub(crate) stopping: bool,
    /// Partitions held back for longer than `stuck_after`.
    pub(crate) stuck: usize,
    /// Filled in by the loop, which hears of it.
    pub(crate) health: Option<crate::source::Health>,
}

/// What a core remembers, for the checks of its bounds.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Remembered {
    /// Lanes in the queue of those that may run.
    pub(crate) ready: usize,
    /// Retries that wait for their time.
    pub(crate) retries: usize,
    /// Records of batches that are tried again.
    pub(crate) kept: usize,
    /// Requests of the group and of the user that are not answered.
    pub(crate) calls: usize,
}

impl<O> Core<O> {
    pub(crate) fn status(&self) -> CoreStatus {
        let mut partitions: Vec<PartitionStatus> = self
            .partitions()
            .map(|p| PartitionStatus {
                partition: p.id.clone(),
                epoch: p.epoch,
                state: match (&p.phase, &p.broken) {
                    (Phase::Failed(error), _) | (Phase::Active, Some(error)) => {
                        PartitionState::Stopped(error.clone())
                    }
                    (Phase::Active, None) if p.is_frozen() || self.stopping.is_some() => {
                        PartitionState::Settling
                    }
                    (Phase::Active, None) if p.paused => PartitionState::Paused,
                    (Phase::Active, None) => PartitionState::Running,
                    _ => PartitionState::Starting,
                },
                committed: p.committed,
                contiguous: p.tracker.contiguous(),
                highest_finished: p.tracker.highest_finished(),
                end: p.end.max(p.is_read().then(|| p.tracker.delivered())),
                lag: None,
                oldest: p.tracker.oldest().and_then(|record| record.timestamp),
                in_flight_records: p.tracker.len() + p.cut_records,
                in_flight_bytes: p.tracker.bytes() + p.cut_bytes,
                holder: p.tracker.holder().map(|holder| Holder {
                    record: holder.record.coordinates(),
                    age: self.now.saturating_sub(holder.since),
                    attempts: holder.attempts,
                    worker: None,
                    seq: holder.seq,
                }),
            })
            .collect();
        partitions.sort_by(|a, b| a.partition.cmp(&b.partition));
        let limit = self.config.limits.stuck_after;
        let held = partitions.iter().filter_map(|p| p.holder.as_ref());
        let stuck = held.filter(|holder| holder.age >= limit).count();
        let stopping = self.stopping.is_some();
        CoreStatus { partitions, totals: self.totals, stopping, stuck, health: None }
    }

    /// How much is remembered beside the records themselves, in entries of any kind.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> Remembered {
        Remembered {
            ready: self.ready.len(),
            retries: self.retries.len(),
            kept: self.committing.retained.iter().map(|batch| batch.len()).sum(),
            calls: self.assignments.len() + self.revocations.len() + self.seeks.len(),
        }
    }

    /// What was counted since the start.
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }
}
