//! A seek is a control commit: settle what is out, find the position, store it, read from it.

use super::{Action, Call, Core, Phase};
use crate::delivery::Progress;
use crate::engine::observe::EngineEvent;
use crate::error::Error;
use crate::record::{Epoch, Offset, PartitionId, Timestamp};
use crate::sink::{CommitError, Move};
use crate::source::{Position, Resolved, SourceError, Unresolved, Wanted};

use super::control::{ControlReply, not_assigned};

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

/// A seek that is under way.
pub(super) struct Seek {
    id: u64,
    partition: PartitionId,
    /// The epoch of the partition it is about: it ends with it.
    epoch: Epoch,
    to: SeekTo,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its commit in flight is waited for.
    Settling,
    /// The position is being looked for.
    Finding,
    /// The position is to be stored.
    Found(Offset),
    /// It is being stored.
    Storing,
    /// It was stored if nothing was stored before: what the partition starts from will tell.
    Checking(Offset),
}

impl Seek {
    pub(super) fn is_storing_of(&self, id: &PartitionId) -> bool {
        self.stage == Stage::Storing && self.partition == *id
    }

    pub(super) fn is_storing(&self) -> bool {
        self.stage == Stage::Storing
    }
}

impl<O> Core<O> {
    pub(super) fn begin_seek(
        &mut self,
        id: u64,
        name: PartitionId,
        to: SeekTo,
    ) -> Result<(), Error> {
        if self.stopping.is_some() || self.finished {
            return Err(Error::configuration("seek", "the pipeline is stopping"));
        }
        if self.seeks.iter().any(|seek| seek.partition == name) {
            return Err(Error::configuration("seek", format_args!("{name}: another is under way")));
        }
        let partition = self.get_mut(&name).ok_or_else(|| not_assigned(&name))?;
        if !matches!(partition.phase, Phase::Active | Phase::Failed(_)) || partition.is_frozen() {
            let problem = format_args!("{name} is being assigned or handed back").to_string();
            return Err(Error::configuration("seek", problem).remedy("try again in a moment"));
        }
        partition.seeking = true;
        partition.gate.close();
        let epoch = partition.epoch;
        self.seeks.push(Seek { id, partition: name, epoch, to, stage: Stage::Settling });
        Ok(())
    }

    /// Goes on with seeks; ends those that lost their partition, or its place.
    pub(super) fn pump_seeks(&mut self, actions: &mut Vec<Action<O>>) {
        for at in (0..self.seeks.len()).rev() {
            let seek = &self.seeks[at];
            let (id, epoch) = (seek.id, seek.epoch);
            let Some(partition) = self.get(&seek.partition).filter(|p| p.epoch == epoch) else {
                if !seek.is_storing() {
                    let error = was_taken(&seek.partition);
                    self.end_seek(id, Err(error), actions);
                }
                continue;
            };
            match seek.stage {
                Stage::Settling if !self.committing.holds(&seek.partition, epoch) => {
                    let wanted = vec![seek.wanted()];
                    actions.push(Action::Resolve { call: Call::Seek(id), wanted });
                    self.seeks[at].stage = Stage::Finding;
                }
                Stage::Found(next) if !self.sink_busy => {
                    let moves = vec![Move {
                        partition: seek.partition.clone(),
                        expected: partition.has_stored.then_some(partition.committed),
                        next,
                        topic_id: partition.topic_id,
                    }];
                    actions.push(Action::Reposition { call: Call::Seek(id), moves });
                    self.sink_busy = true;
                    self.seeks[at].stage = Stage::Storing;
                }
                Stage::Checking(next) => match &partition.phase {
                    Phase::Ready | Phase::Active => {
                        let result = if partition.committed == next {
                            Ok(())
                        } else {
                            Err(Error::sink_failed(format_args!(
                                "seek {}: something else was stored meanwhile",
                                seek.partition
                            )))
                        };
                        self.end_seek(id, result, actions);
                    }
                    Phase::Failed(error) => {
                        let error = Error::sink_failed(error);
                        self.end_seek(id, Err(error), actions);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }

    pub(super) fn on_seek_resolved(
        &mut self,
        id: u64,
        result: Result<Vec<Resolved>, SourceError>,
        actions: &mut Vec<Action<O>>,
    ) {
        let Some(at) = self.seeks.iter().position(|seek| seek.id == id) else {
            return;
        };
        let name = &self.seeks[at].partition;
        let found = match result {
            Ok(list) => list.into_iter().find(|resolved| resolved.partition == *name),
            Err(error) => return self.end_seek(id, Err(Error::source_failed(error)), actions),
        };
        let error = match found.map(|resolved| resolved.position) {
            Some(Ok(next)) => {
                self.seeks[at].stage = Stage::Found(next);
                return;
            }
            Some(Err(Unresolved::OutOfRange { stored, low, high })) => {
                let problem = format_args!("{name}: {stored} is outside the log {low}..{high}");
                Error::configuration("seek", problem)
            }
            Some(Err(error)) => Error::source_failed(format_args!("seek {name}: {error}")),
            None => Error::source_failed(format_args!("seek {name}: no answer")),
        };
        self.end_seek(id, Err(error), actions);
    }

    pub(super) fn on_seek_stored(
        &mut self,
        id: u64,
        moves: &[Move],
        result: Result<(), CommitError>,
        actions: &mut Vec<Action<O>>,
    ) {
        let Some(to) = moves.first() else { return };
        let Some(at) = self.seeks.iter().position(|seek| seek.id == id) else { return };
        let (name, next) = (to.partition.clone(), to.next);
        let epoch = self.seeks[at].epoch;
        let is_current = self.current(&name, epoch).is_some();
        let problem = match result {
            Ok(()) => {
                let partition = name.clone();
                actions.push(Action::Tell(EngineEvent::Repositioned { partition, next }));
                if self.config.progress == Progress::Sink {
                    let partition = name.clone();
                    actions.push(Action::Mirror(vec![Position { partition, next }]));
                }
                if is_current && to.expected.is_none() {
                    self.recover(&name, Phase::Claim { at: self.now }, "seek", actions);
                    return self.check_seek(at, next);
                }
                if let Some((_, partition)) = self.current(&name, epoch) {
                    partition.committed = next;
                    self.recover(&name, Phase::Ready, "seek", actions);
                }
                return self.end_seek(id, Ok(()), actions);
            }
            Err(CommitError::Aborted(cause)) => cause.to_string(),
            Err(other) => {
                if is_current {
                    self.recover(&name, Phase::Claim { at: self.now }, "seek", actions);
                }
                other.to_string()
            }
        };
        let error = Error::sink_failed(format_args!("seek {name}: {problem}"));
        self.end_seek(id, Err(error), actions);
    }

    /// Where nothing was stored before, the position is stored only if nobody stored another one
    /// first: the claim that follows tells.
    fn check_seek(&mut self, at: usize, next: Offset) {
        let name = self.seeks[at].partition.clone();
        if let Some(partition) = self.get_mut(&name) {
            partition.seeking = false;
            let epoch = partition.epoch;
            self.seeks[at].epoch = epoch;
            self.seeks[at].stage = Stage::Checking(next);
        }
    }

    /// Ends the seeks of these partitions, or all, unless they are being stored already.
    pub(super) fn cancel_seeks(
        &mut self,
        of: Option<&[PartitionId]>,
        actions: &mut Vec<Action<O>>,
    ) {
        for at in (0..self.seeks.len()).rev() {
            let seek = &self.seeks[at];
            if !seek.is_storing() && of.is_none_or(|of| of.contains(&seek.partition)) {
                let (id, error) = (seek.id, was_taken(&seek.partition));
                self.end_seek(id, Err(error), actions);
            }
        }
    }

    /// The end of the engine: nobody hears any more how these ended.
    pub(super) fn drop_seeks(&mut self, actions: &mut Vec<Action<O>>) {
        for seek in std::mem::take(&mut self.seeks) {
            let error = Error::deadline(format_args!(
                "seek {}: stopped before it was known to be stored",
                seek.partition
            ));
            actions.push(Action::Reply { id: seek.id, reply: ControlReply::Done(Err(error)) });
        }
    }

    fn end_seek(&mut self, id: u64, result: Result<(), Error>, actions: &mut Vec<Action<O>>) {
        let Some(at) = self.seeks.iter().position(|seek| seek.id == id) else {
            return;
        };
        let seek = self.seeks.swap_remove(at);
        if let Some(partition) = self.get_mut(&seek.partition) {
            partition.seeking = false;
        }
        self.open_gate(&seek.partition);
        actions.push(Action::Reply { id, reply: ControlReply::Done(result) });
    }
}

impl Seek {
    fn wanted(&self) -> Wanted {
        let id = self.partition.clone();
        match self.to {
            SeekTo::Offset(offset) => Wanted::Stored(id, offset),
            SeekTo::Beginning => Wanted::Beginning(id),
            SeekTo::End => Wanted::End(id),
            SeekTo::Time(time) => Wanted::At(id, time),
        }
    }
}

fn was_taken(id: &PartitionId) -> Error {
    Error::configuration("seek", format_args!("{id} is being handed back or claimed again"))
        .remedy("try again on the instance that has it")
}
