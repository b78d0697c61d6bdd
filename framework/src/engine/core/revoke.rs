//! Partitions go: handed back when their work is settled, or lost.

use std::time::Duration;

use super::assign::Pending;
use super::{Action, Core, Partition};
use crate::engine::observe::EngineEvent;
use crate::mutant;
use crate::record::PartitionId;

impl<O> Core<O> {
    pub(super) fn on_revoked(
        &mut self,
        id: u64,
        partitions: Vec<PartitionId>,
        deadline: Duration,
        actions: &mut Vec<Action<O>>,
    ) {
        if self.finished {
            actions.push(Action::AnswerRevoked { id });
            return;
        }
        actions.push(Action::Tell(EngineEvent::Revoked { partitions: partitions.clone() }));
        for name in &partitions {
            if let Some(partition) = self.get_mut(name) {
                partition.revoking = true;
                if !partition.finishes_admitted {
                    partition.gate.close();
                }
            }
        }
        self.cancel_seeks(Some(&partitions), actions);
        let deadline = deadline.min(self.now + self.config.limits.drain_max);
        self.revocations.push(Pending { id, partitions, deadline, releasing: false });
    }

    /// Hands partitions back whose time is up, before anything more is stored of them.
    pub(super) fn expire_revocations(&mut self, actions: &mut Vec<Action<O>>) {
        for at in (0..self.revocations.len()).rev() {
            if self.revocations[at].deadline <= self.now && !mutant::is("M39") {
                let pending = self.revocations.swap_remove(at);
                self.hand_back(&pending, actions);
            }
        }
    }

    /// Hands partitions back when nothing of them runs, waits or is being stored any more.
    pub(super) fn pump_revocations(&mut self, actions: &mut Vec<Action<O>>) {
        for at in 0..self.revocations.len() {
            let pending = &self.revocations[at];
            let settled = pending.partitions.iter().all(|id| self.is_settled(id));
            if settled && !pending.releasing {
                let partitions: Vec<PartitionId> = pending
                    .partitions
                    .iter()
                    .filter(|id| self.get(id).is_some_and(Partition::is_owned))
                    .cloned()
                    .collect();
                let revocation = pending.id;
                for id in &partitions {
                    if let Some(partition) = self.get_mut(id) {
                        partition.released = true;
                    }
                }
                self.revocations[at].releasing = true;
                actions.push(Action::Release { revocation, partitions });
            }
        }
    }

    /// Whether nothing of this partition is running, can be cut or is being stored.
    pub(super) fn is_settled(&self, id: &PartitionId) -> bool {
        let is_sought = self.seeks.iter().any(|seek| seek.is_storing_of(id));
        !is_sought
            && self.get(id).is_none_or(|partition| {
                !partition.is_read()
                    || (partition.unfinished() == 0
                        && !self.is_cuttable(partition)
                        && !self.committing.holds(id, partition.epoch))
            })
    }

    pub(super) fn on_released(&mut self, revocation: u64, actions: &mut Vec<Action<O>>) {
        if let Some(at) = self.revocations.iter().position(|pending| pending.id == revocation) {
            let pending = self.revocations.swap_remove(at);
            self.hand_back(&pending, actions);
        }
    }

    fn hand_back(&mut self, pending: &Pending, actions: &mut Vec<Action<O>>) {
        for id in &pending.partitions {
            self.forget(id, "revoked", actions);
        }
        let partitions = pending.partitions.clone();
        actions.push(Action::Tell(EngineEvent::HandedBack { partitions }));
        actions.push(Action::AnswerRevoked { id: pending.id });
    }

    pub(super) fn on_lost(&mut self, partitions: Vec<PartitionId>, actions: &mut Vec<Action<O>>) {
        for id in &partitions {
            self.forget(id, "lost", actions);
        }
        actions.push(Action::Tell(EngineEvent::Lost { partitions }));
    }
}
