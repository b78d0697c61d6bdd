//! Where partitions come from and go to: assignment, claim, start, fence, revocation.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Action, Core, Partition, Phase};
use crate::delivery::Guarantee;
use crate::engine::observe::EngineEvent;
use crate::engine::work::Gate;
use crate::error::Error;
use crate::lanes::Lanes;
use crate::mutant;
use crate::record::{Epoch, Offset, PartitionId};
use crate::source::{AssignedPartition, SourceError, Start};
use crate::tracker::Tracker;

/// An assignment or revocation that waits for its answer.
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) partitions: Vec<PartitionId>,
    pub(super) deadline: Duration,
    /// Revocations: their partitions are being released.
    pub(super) releasing: bool,
}

impl<O> Core<O> {
    pub(super) fn on_assigned(
        &mut self,
        id: u64,
        partitions: Vec<AssignedPartition>,
        deadline: Duration,
        actions: &mut Vec<Action<O>>,
    ) {
        let names: Vec<PartitionId> = partitions.iter().map(|p| p.partition.clone()).collect();
        if self.finished {
            actions.push(Action::AnswerAssigned { id, starts: Vec::new() });
            return;
        }
        actions.push(Action::Tell(EngineEvent::Assigned { partitions: names.clone() }));
        // The source did not wait for the answer to an earlier revocation: that is not about these.
        for pending in &mut self.revocations {
            pending.partitions.retain(|id| !names.contains(id));
        }
        for assigned in partitions {
            self.forget(&assigned.partition, "assigned again", actions);
            let epoch = if mutant::is("M16") { Epoch::new(0) } else { self.next_epoch() };
            let partition = Partition {
                topic_id: assigned.topic_id,
                epoch,
                read_under: epoch,
                phase: Phase::Claim { at: self.now },
                tracker: Tracker::new(Offset::ZERO),
                lanes: Lanes::new(self.config.order),
                gate: Arc::new(Gate::default()),
                committed: Offset::ZERO,
                has_stored: false,
                known_start: None,
                cut_records: 0,
                cut_bytes: 0,
                credit_records: 0,
                credit_bytes: 0,
                broken: None,
                end: None,
                paused: self.pauses.holds(&assigned.partition),
                revoking: false,
                released: false,
                seeking: false,
                unadmitted: VecDeque::new(),
                admitted: Offset::ZERO,
                finishes_admitted: self.config.guarantee == Guarantee::AtMostOnce,
                assignment: Some(id),
                reported_stuck: None,
                id: assigned.partition,
            };
            self.insert(partition);
        }
        self.assignments.push(Pending { id, partitions: names, deadline, releasing: false });
    }

    fn insert(&mut self, partition: Partition<O>) {
        let id = partition.id.clone();
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(free) => {
                self.slots[free] = Some(partition);
                free
            }
            None => {
                self.slots.push(Some(partition));
                self.slots.len() - 1
            }
        };
        self.index.insert(id, u32::try_from(slot).expect("fewer partitions than u32::MAX"));
    }

    /// Takes a partition out with all its work.
    pub(super) fn forget(
        &mut self,
        id: &PartitionId,
        why: &'static str,
        actions: &mut Vec<Action<O>>,
    ) {
        let Some(slot) = self.index.remove(id) else {
            return;
        };
        let partition = self.slots[slot as usize].take().expect("indexed slots are filled");
        partition.gate.close();
        self.forget_waiting(partition.epoch);
        self.totals.given_up += partition.admitted_open() as u64;
        let records = partition.tracker.len() + partition.cut_records;
        if records > 0 {
            let epoch = partition.epoch;
            let partition = partition.id;
            actions.push(Action::Tell(EngineEvent::Dropped { partition, epoch, records, why }));
        }
    }

    /// The partition stops by name; the others go on.
    pub(super) fn fail(&mut self, id: &PartitionId, error: String, actions: &mut Vec<Action<O>>) {
        let Some(partition) = self.get_mut(id) else {
            return;
        };
        if partition.is_read() {
            partition.broken = Some(error.clone());
        } else {
            partition.phase = Phase::Failed(error.clone());
        }
        let partition = id.clone();
        actions.push(Action::Tell(EngineEvent::PartitionFailed { partition, error }));
    }

    pub(super) fn on_partition_failed(
        &mut self,
        id: &PartitionId,
        epoch: Epoch,
        error: String,
        actions: &mut Vec<Action<O>>,
    ) {
        if self.current(id, epoch).is_some() {
            self.fail(id, error, actions);
        }
    }

    pub(super) fn on_source_failed(&mut self, error: SourceError, actions: &mut Vec<Action<O>>) {
        let error = match error {
            SourceError::Stop(error) => error,
            SourceError::Fenced(cause) => Error::fenced(cause),
            SourceError::Retry(cause) => Error::source_failed(cause),
        };
        self.begin_stop_with(error, actions);
    }

    /// Answers assignments whose partitions are all known, or whose time is up; starts partitions
    /// that became known after their assignment was answered.
    pub(super) fn pump_assignments(&mut self, actions: &mut Vec<Action<O>>) {
        let now = self.now;
        let mut at = 0;
        while at < self.assignments.len() {
            let pending = &self.assignments[at];
            let open = pending.partitions.iter().any(|id| {
                self.get(id).is_some_and(|p| {
                    p.assignment == Some(pending.id)
                        && !matches!(p.phase, Phase::Ready | Phase::Failed(_))
                })
            });
            if open && now < pending.deadline && self.stopping.is_none() {
                at += 1;
                continue;
            }
            let pending = self.assignments.swap_remove(at);
            let mut starts = Vec::new();
            for id in &pending.partitions {
                let Some(partition) = self.get_mut(id) else {
                    continue;
                };
                if partition.assignment == Some(pending.id) {
                    partition.assignment = None;
                    if !partition.is_frozen() {
                        starts.extend(partition.begin());
                    }
                }
            }
            tell_started(&starts, actions);
            actions.push(Action::AnswerAssigned { id: pending.id, starts });
        }
        let mut late = Vec::new();
        if self.stopping.is_some() {
            return;
        }
        for partition in self.partitions_mut() {
            if partition.assignment.is_none() && !partition.is_frozen() {
                late.extend(partition.begin());
            }
        }
        if !late.is_empty() {
            tell_started(&late, actions);
            actions.push(Action::StartReading(late));
        }
    }
}

impl<O> Partition<O> {
    /// A partition whose position is known begins to be read.
    fn begin(&mut self) -> Option<Start> {
        if self.phase != Phase::Ready {
            return None;
        }
        self.phase = Phase::Active;
        self.read_under = self.epoch;
        Some(Start { partition: self.id.clone(), epoch: self.epoch, offset: self.committed })
    }
}

fn tell_started<O>(starts: &[Start], actions: &mut Vec<Action<O>>) {
    for start in starts {
        let Start { partition, epoch, offset } = start.clone();
        actions.push(Action::Tell(EngineEvent::Started { partition, epoch, offset }));
    }
}
