//! What the user asks: pause, resume, seek, skip, status, stop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::seek::{Seek, SeekTo};
use super::status::CoreStatus;
use super::{Action, Core, Partition, Stopping};
use crate::batch::Outcome;
use crate::delivery::Guarantee;
use crate::engine::observe::EngineEvent;
use crate::engine::work::{Gate, LaneKey};
use crate::error::Error;
use crate::mutant;
use crate::record::{Coordinates, Offset, PartitionId};

/// A request of the handle.
#[derive(Debug)]
pub(crate) enum Control {
    /// Starts nothing more, of one partition or of all.
    Pause(Option<PartitionId>),
    Resume(Option<PartitionId>),
    Seek {
        partition: PartitionId,
        to: SeekTo,
    },
    Skip {
        partition: PartitionId,
        offset: Offset,
    },
    Status,
}

/// Its answer.
#[derive(Debug)]
pub(crate) enum ControlReply {
    Done(Result<(), Error>),
    Status(Box<CoreStatus>),
}

/// What the user has paused: partitions, or all but some. It outlives the assignment of a
/// partition, so that a rebalance does not undo a pause behind the user's back.
#[derive(Default)]
pub(super) struct Pauses {
    all: bool,
    except: BTreeSet<PartitionId>,
}

impl Pauses {
    pub(super) fn holds(&self, id: &PartitionId) -> bool {
        self.all != self.except.contains(id)
    }

    fn set(&mut self, which: Option<&PartitionId>, paused: bool) {
        match which {
            None => *self = Self { all: paused, except: BTreeSet::new() },
            Some(id) if self.all == paused => _ = self.except.remove(id),
            Some(id) => _ = self.except.insert(id.clone()),
        }
    }
}

impl<O> Core<O> {
    pub(super) fn on_control(&mut self, id: u64, control: Control, actions: &mut Vec<Action<O>>) {
        let result = match control {
            Control::Status => {
                let reply = ControlReply::Status(Box::new(self.status()));
                actions.push(Action::Reply { id, reply });
                return;
            }
            Control::Seek { partition, to } => match self.begin_seek(id, partition, to) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Control::Pause(which) => self.pause(which.as_ref()),
            Control::Resume(which) => self.resume(which.as_ref()),
            Control::Skip { partition, offset } => self.skip(&partition, offset, actions),
        };
        actions.push(Action::Reply { id, reply: ControlReply::Done(result) });
    }

    fn pause(&mut self, which: Option<&PartitionId>) -> Result<(), Error> {
        if let Some(id) = which {
            self.get(id).ok_or_else(|| not_assigned(id))?;
        }
        self.pauses.set(which, true);
        for partition in self.partitions_mut().filter(|p| which.is_none_or(|id| p.id == *id)) {
            partition.paused = true;
            partition.gate.close();
        }
        Ok(())
    }

    fn resume(&mut self, which: Option<&PartitionId>) -> Result<(), Error> {
        if let Some(id) = which
            && self.get(id).is_none()
            && !self.pauses.holds(id)
        {
            return Err(not_assigned(id));
        }
        self.pauses.set(which, false);
        let ids: Vec<PartitionId> = match which {
            Some(id) => vec![id.clone()],
            None => self.partitions().map(|partition| partition.id.clone()).collect(),
        };
        for id in ids {
            if let Some(partition) = self.get_mut(&id) {
                partition.paused = false;
            }
            self.open_gate(&id);
        }
        Ok(())
    }

    /// Lets a partition's records start again, unless something else keeps it shut.
    pub(super) fn open_gate(&mut self, id: &PartitionId) {
        let stopping = self.stopping.is_some();
        let Some(partition) = self.get_mut(id) else {
            return;
        };
        if !partition.is_shut() && (!stopping || partition.finishes_admitted) {
            partition.gate = Arc::new(Gate::default());
            self.wake_lanes(id);
        }
    }

    /// Completes a record as skipped, whether it waits, runs or hangs; it is an outcome like any
    /// other and stored with its neighbours.
    fn skip(
        &mut self,
        id: &PartitionId,
        offset: Offset,
        actions: &mut Vec<Action<O>>,
    ) -> Result<(), Error> {
        let record = Coordinates { partition: id.clone(), offset };
        let slot = *self.index.get(id).ok_or_else(|| not_assigned(id))?;
        let partition = self.slots[slot as usize].as_mut().expect("indexed slots are filled");
        let seq = partition.tracker.find_open(offset).ok_or_else(|| {
            Error::configuration("skip", format_args!("{record} is not in flight"))
                .remedy("status() shows the record that holds a partition back")
        })?;
        partition.tracker.finish(seq, Outcome::Filtered);
        partition.unadmitted.retain(|(waiting, _)| *waiting != seq);
        let epoch = partition.epoch;
        if let Some(removed) = partition.lanes.remove(seq) {
            let key = LaneKey { slot, epoch, lane: removed.lane };
            if removed.was_running {
                // Whatever else the hung worker still holds must not start behind our back.
                partition.gate.close();
                partition.gate = Arc::new(Gate::default());
                actions.push(Action::WriteOff { key, seq });
            }
            if removed.is_ready {
                self.ready.push_back(key);
            }
        }
        self.totals.skipped += 1;
        let error = "skipped on request".to_owned();
        actions.push(Action::Tell(EngineEvent::Skipped { record, by: "operator", error }));
        Ok(())
    }

    pub(super) fn begin_stop_with(&mut self, error: Error, actions: &mut Vec<Action<O>>) {
        self.begin_stop(error.to_string(), Some(error), actions);
    }

    /// Drains: nothing more is started, what runs may finish, what is finished is stored.
    pub(super) fn begin_stop(
        &mut self,
        why: String,
        error: Option<Error>,
        actions: &mut Vec<Action<O>>,
    ) {
        if let Some(stopping) = &mut self.stopping {
            // The first error is the cause, what follows from it is not.
            if stopping.error.is_none() {
                stopping.error = error;
            }
            return;
        }
        for partition in self.partitions_mut().filter(|p| !p.finishes_admitted) {
            partition.gate.close();
            while let Some(open) = partition.tracker.holder().filter(|_| mutant::is("M40")) {
                partition.tracker.finish(open.seq, Outcome::Filtered);
            }
        }
        let deadline = self.now + self.config.limits.stop_max;
        self.stopping = Some(Stopping { deadline, error });
        self.cancel_seeks(None, actions);
        actions.push(Action::Tell(EngineEvent::Stopping { why }));
    }

    /// A shorter or longer time to drain than the setting says.
    pub(super) fn stop_within(&mut self, within: Option<Duration>) {
        let now = self.now;
        if let (Some(stopping), Some(within)) = (&mut self.stopping, within) {
            stopping.deadline = now.saturating_add(within);
        }
    }

    /// Ends when everything is settled, or when the time is up.
    pub(super) fn pump_stop(&mut self, actions: &mut Vec<Action<O>>) {
        let Some(stopping) = &self.stopping else {
            return;
        };
        let running: usize = self.partitions().map(Partition::unfinished).sum();
        let storing = self.seeks.iter().any(Seek::is_storing);
        let waiting = !self.committing.is_idle() || self.can_cut() || storing;
        let late = self.now >= stopping.deadline;
        if !late && (running > 0 || waiting || !self.revocations.is_empty()) {
            return;
        }
        let stopping = self.stopping.take().expect("checked above");
        let after = match self.config.guarantee {
            Guarantee::AtMostOnce => "are given up",
            _ => "will be read again",
        };
        let result = match stopping.error {
            Some(error) => Err(error),
            None if running > 0 => {
                let oldest = self.longest_running().map_or_else(String::new, |(record, age)| {
                    format!(", {record} for {:.1} s", age.as_secs_f32())
                });
                let what = format_args!("{running} records still running{oldest}; they {after}");
                let error = Error::deadline(format_args!("stop_max passed with {what}"));
                Err(error.remedy("allow more time with stop_max, or mend what holds them"))
            }
            None if waiting => Err(Error::deadline(format_args!(
                "stop_max passed before the last results were stored; they {after}"
            ))
            .remedy("the log says what the sink answered; allow more time with stop_max")),
            None => Ok(()),
        };
        self.finish(result, actions);
    }

    /// The unfinished record that was started first, and how long ago.
    fn longest_running(&self) -> Option<(Coordinates, Duration)> {
        let holders = self.partitions().filter_map(|partition| partition.tracker.holder());
        let oldest = holders.min_by_key(|holder| holder.since)?;
        Some((oldest.record.coordinates(), self.now.saturating_sub(oldest.since)))
    }

    fn finish(&mut self, result: Result<(), Error>, actions: &mut Vec<Action<O>>) {
        self.finished = true;
        self.totals.given_up += self.partitions().map(|p| p.admitted_open() as u64).sum::<u64>();
        self.drop_seeks(actions);
        for pending in std::mem::take(&mut self.assignments) {
            actions.push(Action::AnswerAssigned { id: pending.id, starts: Vec::new() });
        }
        for pending in std::mem::take(&mut self.revocations) {
            actions.push(Action::AnswerRevoked { id: pending.id });
        }
        let partitions: Vec<PartitionId> =
            self.partitions().filter(|p| p.is_read()).map(|p| p.id.clone()).collect();
        if !partitions.is_empty() {
            actions.push(Action::Release { revocation: u64::MAX, partitions });
        }
        actions.push(Action::Finish(result));
    }
}

pub(super) fn not_assigned(id: &PartitionId) -> Error {
    Error::configuration("partition", format_args!("{id} is not assigned to this instance"))
}
