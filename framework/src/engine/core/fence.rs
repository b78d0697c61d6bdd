//! Somebody else was there: drop the work, prove the membership, claim again.

use std::fmt;
use std::time::Duration;

use super::claim::CLAIM_BACKOFF;
use super::{Action, Core, Partition, Phase};
use crate::batch::Span;
use crate::engine::observe::EngineEvent;
use crate::error::Error;
use crate::record::PartitionId;
use crate::source::SourceError;

/// More fences than this within a minute mean a twin: the engine stops and says so.
const FENCES_PER_MINUTE: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);

impl<O> Core<O> {
    /// Another owner took over, or stored progress is not where it was expected: the work goes,
    /// and the partition is claimed again if it is still ours after a while.
    pub(super) fn fence(
        &mut self,
        ids: &[PartitionId],
        why: &'static str,
        cause: &impl fmt::Display,
        actions: &mut Vec<Action<O>>,
    ) {
        if ids.is_empty() {
            // What was fenced had been taken away already, and we know it.
            return;
        }
        let now = self.now;
        // The work goes also if this is the end: what is cut after it would jump over it.
        for id in ids {
            let wait = self.jittered(CLAIM_BACKOFF * 3);
            let at = now + wait;
            let proof = self.config.prove_membership;
            let phase = if proof { Phase::Proving { at: Some(at) } } else { Phase::Claim { at } };
            self.recover(id, phase, why, actions);
        }
        self.fences.retain(|at| *at + MINUTE > now);
        self.fences.push_back(now);
        if self.fences.len() > FENCES_PER_MINUTE {
            let error = Error::fenced(format_args!(
                "fenced {} times within a minute: {cause}",
                self.fences.len()
            ))
            .remedy("look for another process with the same group and instance name");
            self.begin_stop_with(error, actions);
        }
    }

    /// Drops a partition's work under a new epoch and starts over in this phase.
    pub(super) fn recover(
        &mut self,
        id: &PartitionId,
        phase: Phase,
        why: &'static str,
        actions: &mut Vec<Action<O>>,
    ) {
        let epoch = self.next_epoch();
        let order = self.config.order;
        let Some(partition) = self.get_mut(id) else {
            return;
        };
        let lost = partition.admitted_open() as u64;
        let old = partition.epoch;
        let cut = partition.cut_records;
        let records = partition.restart(epoch, order) + cut;
        partition.phase = phase;
        self.forget_waiting(old);
        self.totals.given_up += lost;
        if records > 0 {
            let partition = id.clone();
            actions.push(Action::Tell(EngineEvent::Dropped {
                partition,
                epoch: old,
                records,
                why,
            }));
        }
    }

    pub(super) fn pump_proof(&mut self, actions: &mut Vec<Action<O>>) {
        if self.proof_out || self.stopping.is_some() {
            return;
        }
        let now = self.now;
        let due: Vec<Span> = self
            .partitions()
            .filter(|p| {
                matches!(p.phase, Phase::Proving { at: Some(at) } if at <= now) && !p.is_frozen()
            })
            .map(Partition::known_progress)
            .collect();
        if !due.is_empty() {
            self.proof_out = true;
            for span in &due {
                if let Some(partition) = self.get_mut(&span.partition) {
                    partition.phase = Phase::Proving { at: None };
                }
            }
            actions.push(Action::Prove(due));
        }
    }

    pub(super) fn on_proved(
        &mut self,
        result: Result<(), SourceError>,
        actions: &mut Vec<Action<O>>,
    ) {
        self.proof_out = false;
        let next = match result {
            Ok(()) => Phase::Claim { at: self.now },
            Err(SourceError::Stop(error)) => return self.begin_stop_with(error, actions),
            Err(SourceError::Retry(_) | SourceError::Fenced(_)) => {
                let wait = self.jittered(Duration::from_secs(1));
                Phase::Proving { at: Some(self.now + wait) }
            }
        };
        for partition in self.partitions_mut() {
            if partition.phase == (Phase::Proving { at: None }) {
                partition.phase = next.clone();
            }
        }
    }
}

impl<O> Partition<O> {
    /// Where progress is known to stand, under the epoch that the source knows: the new one is told
    /// when the partition is read again.
    fn known_progress(&self) -> Span {
        let next = self.committed.max(self.admitted);
        Span { partition: self.id.clone(), epoch: self.read_under, first: next, next }
    }
}
