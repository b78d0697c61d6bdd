//! What the user asks: pause, resume, seek, skip, status, stop.

use std::sync::Arc;
use std::time::Duration;

use super::status::CoreStatus;
use super::{Action, Call, Core, Phase, Stopping};
use crate::batch::Outcome;
use crate::engine::observe::EngineEvent;
use crate::engine::work::{Gate, LaneKey};
use crate::error::Error;
use crate::record::{Coordinates, Offset, PartitionId, Timestamp};
use crate::sink::{CommitError, Move};
use crate::source::{Resolved, SourceError, Unresolved, Wanted};

/// Where a seek goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SeekTo {
    /// This offset; it must lie in the log.
    Offset(Offset),
    /// The first record in the log.
    Beginning,
    /// The end of the log: only records that come later are read.
    End,
    /// The first record at or after this time.
    Time(Timestamp),
}

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

/// A seek that is under way: settle, find the position, store it, read from it.
pub(super) struct Seek {
    id: u64,
    pub(super) partition: PartitionId,
    to: SeekTo,
    asked: bool,
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
        match which {
            Some(id) => {
                let partition = self.get_mut(id).ok_or_else(|| not_assigned(id))?;
                partition.paused = true;
                partition.gate.close();
            }
            None => {
                self.paused_all = true;
                for partition in self.partitions_mut() {
                    partition.paused = true;
                    partition.gate.close();
                }
            }
        }
        Ok(())
    }

    fn resume(&mut self, which: Option<&PartitionId>) -> Result<(), Error> {
        let ids: Vec<PartitionId> = match which {
            Some(id) => vec![self.get(id).ok_or_else(|| not_assigned(id))?.id.clone()],
            None => {
                self.paused_all = false;
                self.partitions().map(|partition| partition.id.clone()).collect()
            }
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
    fn open_gate(&mut self, id: &PartitionId) {
        let Some(partition) = self.get_mut(id) else {
            return;
        };
        if !partition.paused && !partition.frozen {
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

    fn begin_seek(&mut self, id: u64, name: PartitionId, to: SeekTo) -> Result<(), Error> {
        if self.seeks.iter().any(|seek| seek.partition == name) {
            return Err(Error::configuration("seek", format_args!("{name}: another is under way")));
        }
        let partition = self.get_mut(&name).ok_or_else(|| not_assigned(&name))?;
        if !matches!(partition.phase, Phase::Active | Phase::Failed(_)) || partition.frozen {
            let problem = format_args!("{name} is being assigned or handed back").to_string();
            return Err(Error::configuration("seek", problem).remedy("try again in a moment"));
        }
        partition.frozen = true;
        partition.gate.close();
        self.seeks.push(Seek { id, partition: name, to, asked: false });
        Ok(())
    }

    /// Goes on with seeks whose commit in flight is settled; ends those that lost their partition.
    pub(super) fn pump_seeks(&mut self, actions: &mut Vec<Action<O>>) {
        for at in (0..self.seeks.len()).rev() {
            let seek = &self.seeks[at];
            let Some(partition) = self.get(&seek.partition) else {
                let seek = self.seeks.swap_remove(at);
                let result = Err(not_assigned(&seek.partition));
                let reply = ControlReply::Done(result);
                actions.push(Action::Reply { id: seek.id, reply });
                continue;
            };
            if seek.asked || self.committing.holds(&seek.partition, partition.epoch) {
                continue;
            }
            let id = seek.partition.clone();
            let wanted = vec![match seek.to {
                SeekTo::Offset(offset) => Wanted::Stored(id, offset),
                SeekTo::Beginning => Wanted::Beginning(id),
                SeekTo::End => Wanted::End(id),
                SeekTo::Time(time) => Wanted::At(id, time),
            }];
            actions.push(Action::Resolve { call: Call::Seek(seek.id), wanted });
            self.seeks[at].asked = true;
        }
    }

    pub(super) fn on_seek_resolved(
        &mut self,
        id: u64,
        result: Result<Vec<Resolved>, SourceError>,
        actions: &mut Vec<Action<O>>,
    ) {
        let Some(seek) = self.seeks.iter().find(|seek| seek.id == id) else {
            return;
        };
        let name = seek.partition.clone();
        let found = match result {
            Ok(list) => list.into_iter().find(|resolved| resolved.partition == name),
            Err(error) => {
                return self.end_seek(id, Err(Error::source_failed(error)), actions);
            }
        };
        let next = match found.map(|resolved| resolved.position) {
            Some(Ok(next)) => next,
            Some(Err(Unresolved::OutOfRange { stored, low, high })) => {
                let problem = format_args!("{name}: {stored} is outside the log {low}..{high}");
                return self.end_seek(id, Err(Error::configuration("seek", problem)), actions);
            }
            Some(Err(error)) => {
                let error = Error::source_failed(format_args!("seek {name}: {error}"));
                return self.end_seek(id, Err(error), actions);
            }
            None => {
                let error = Error::source_failed(format_args!("seek {name}: no answer"));
                return self.end_seek(id, Err(error), actions);
            }
        };
        let Some(partition) = self.get(&name) else {
            return;
        };
        let expected = partition.has_stored.then_some(partition.committed);
        let topic_id = partition.topic_id;
        let moves = vec![Move { partition: name, expected, next, topic_id }];
        actions.push(Action::Reposition { call: Call::Seek(id), moves });
    }

    pub(super) fn on_seek_stored(
        &mut self,
        id: u64,
        moves: &[Move],
        result: Result<(), CommitError>,
        actions: &mut Vec<Action<O>>,
    ) {
        let Some(to) = moves.first() else { return };
        let (name, next) = (to.partition.clone(), to.next);
        match result {
            Ok(()) => {
                if let Some(partition) = self.get_mut(&name) {
                    partition.committed = next;
                    partition.has_stored = true;
                    partition.broken = None;
                }
                self.recover(&name, Phase::Ready, "seek", actions);
                let partition = name;
                actions.push(Action::Tell(EngineEvent::Repositioned { partition, next }));
                self.end_seek(id, Ok(()), actions);
            }
            Err(CommitError::Aborted(cause)) => {
                let error = Error::sink_failed(format_args!("seek {name}: {cause}"));
                self.end_seek(id, Err(error), actions);
            }
            Err(other) => {
                let error = Error::sink_failed(format_args!("seek {name}: {other}"));
                let at = self.now;
                self.recover(&name, Phase::Claim { at }, "seek", actions);
                self.end_seek(id, Err(error), actions);
            }
        }
    }

    fn end_seek(&mut self, id: u64, result: Result<(), Error>, actions: &mut Vec<Action<O>>) {
        let Some(at) = self.seeks.iter().position(|seek| seek.id == id) else {
            return;
        };
        let seek = self.seeks.swap_remove(at);
        if let Some(partition) = self.get_mut(&seek.partition) {
            partition.frozen = false;
        }
        self.open_gate(&seek.partition);
        actions.push(Action::Reply { id, reply: ControlReply::Done(result) });
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
        for partition in self.partitions_mut() {
            partition.frozen = true;
            partition.gate.close();
        }
        let deadline = self.now + self.config.limits.stop_max;
        self.stopping = Some(Stopping { deadline, error });
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
        let running: usize = self.partitions().map(|p| p.lanes.running()).sum();
        let waiting = !self.committing.is_idle() || self.can_cut();
        let late = self.now >= stopping.deadline;
        if !late && (running > 0 || waiting || !self.revocations.is_empty()) {
            return;
        }
        let stopping = self.stopping.take().expect("checked above");
        let result = match stopping.error {
            Some(error) => Err(error),
            None if running > 0 => Err(Error::deadline(format_args!(
                "stop_max passed with {running} records still running; they will be read again"
            ))),
            None if waiting => Err(Error::deadline(
                "stop_max passed before the last results were stored; they will be read again",
            )),
            None => Ok(()),
        };
        self.finish(result, actions);
    }

    fn finish(&mut self, result: Result<(), Error>, actions: &mut Vec<Action<O>>) {
        self.finished = true;
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

fn not_assigned(id: &PartitionId) -> Error {
    Error::configuration("partition", format_args!("{id} is not assigned to this instance"))
}
