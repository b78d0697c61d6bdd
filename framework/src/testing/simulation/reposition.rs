//! Positions that are stored without results: first starts and seeks.

use super::chance::Fault;
use super::checker::Effect;
use super::coverage::Seen;
use super::delivery::{Call, Delivery, Stage};
use super::kafka::{Answer, End, Offsets};
use super::log::number;
use super::source::Source;
use super::sql::What;
use super::store::Store;
use super::world::Shared;
use crate::Cause;
use crate::engine::core::{Call as OnBehalfOf, Event};
use crate::record::Offset;
use crate::sink::{CommitError, Move};

/// How far a call has come: to its end, or to the stage it goes on from; `None` if it waits for
/// somebody else's transaction.
type Step = Option<Result<Result<(), CommitError>, Stage>>;

impl Delivery {
    pub(super) fn reposition(
        &mut self,
        call: OnBehalfOf,
        moves: Vec<Move>,
        source: &Source,
        shared: &mut Shared,
    ) -> Option<Event<Effect>> {
        if self.stage == Stage::New && shared.chance.hits(Fault::MoveFails) && shared.chance.coin()
        {
            shared.cover.saw(Seen::MoveAborted);
            let result = Err(aborted("planted"));
            return Some(Event::Repositioned { call, moves, result });
        }
        let step = match &shared.store {
            Store::Sql(_) => self.move_rows(&moves, shared),
            Store::Kafka(_) => self.move_offsets(&moves, source, shared),
            Store::Group(_) => Some(Ok(move_group(&moves, source, shared))),
        };
        let result = match step {
            None => {
                let partitions: Vec<usize> = moves.iter().map(|to| number(&to.partition)).collect();
                return self.wait(Call::Reposition { call, moves }, &partitions, shared);
            }
            Some(Err(stage)) => return self.keep(Call::Reposition { call, moves }, stage),
            Some(Ok(result)) => result,
        };
        match &result {
            Ok(()) => shared.cover.saw(match (call, moves.first()) {
                (OnBehalfOf::Seek(_), Some(to)) if to.expected > Some(to.next) => Seen::SoughtBack,
                (OnBehalfOf::Seek(_), _) => Seen::SoughtForward,
                (OnBehalfOf::Starts, _) => Seen::StartStored,
            }),
            Err(CommitError::InDoubt(_)) => shared.cover.saw(Seen::MoveInDoubt),
            Err(_) => {}
        }
        Some(Event::Repositioned { call, moves, result })
    }

    /// One transaction of a few rows. Its answer may be lost, and so may its statements, or they
    /// arrive when nobody waits for them any more.
    fn move_rows(&mut self, moves: &[Move], shared: &mut Shared) -> Step {
        let Store::Sql(sql) = &mut shared.store else { unreachable!("the caller knows") };
        if shared.chance.hits(Fault::MoveFails) && shared.chance.coin() {
            if shared.chance.coin() {
                sql.leave_unread(&self.claims, What::Moves(moves.to_vec()));
            }
            return Some(Ok(Err(in_doubt())));
        }
        let result = match sql.reposition(&self.claims, moves, &mut shared.history)? {
            Ok(true) if shared.chance.hits(Fault::MoveFails) => Err(in_doubt()),
            Ok(true) => Ok(()),
            Ok(false) => Err(CommitError::Fenced(Cause::new("not where it is expected"))),
            Err(wrong) => {
                shared.fail(wrong);
                Ok(())
            }
        };
        Some(Ok(result))
    }

    /// Offsets alone, in a transaction of their own.
    fn move_offsets(&mut self, moves: &[Move], source: &Source, shared: &mut Shared) -> Step {
        let Some(epoch) = self.producer else { return Some(Ok(Err(in_doubt()))) };
        let now = shared.now;
        match self.stage {
            Stage::New => self.places(moves, source, shared),
            Stage::Begun => unreachable!("no results are sent here"),
            Stage::Sent(member, generation) => {
                if !shared.group.accepts(member, generation) {
                    shared.cover.saw(Seen::StaleGeneration);
                    return Some(Ok(Err(aborted("illegal generation"))));
                }
                let positions = self.positions.clone();
                let Store::Kafka(kafka) = &mut shared.store else { unreachable!("as above") };
                let offsets = Offsets { moves: positions, ..Offsets::default() };
                match kafka.send_offsets((self.name, epoch), 0, offsets, now) {
                    Answer::Done => Some(Err(Stage::Open(0))),
                    Answer::Busy => Some(Err(self.stage)),
                    Answer::Fenced => {
                        self.producer = None;
                        Some(Ok(Err(CommitError::Fenced(Cause::new("invalid producer epoch")))))
                    }
                }
            }
            Stage::Open(_) => {
                let Store::Kafka(kafka) = &mut shared.store else { unreachable!("as above") };
                let (late, lost) =
                    (shared.chance.hits(Fault::LateCommit), shared.chance.hits(Fault::MoveFails));
                let ended = match late {
                    true => {
                        kafka.send_end(self.name, epoch, End::Commit);
                        false
                    }
                    false => kafka.end(self.name, epoch, End::Commit) == Answer::Done,
                };
                if ended && !lost {
                    return Some(Ok(Ok(())));
                }
                self.producer = None;
                Some(Ok(Err(in_doubt())))
            }
        }
    }

    /// What is stored now and who we are in the group, both asked before anything is sent.
    fn places(&mut self, moves: &[Move], source: &Source, shared: &mut Shared) -> Step {
        let Store::Kafka(kafka) = &shared.store else { unreachable!("the caller knows") };
        let partitions: Vec<usize> = moves.iter().map(|to| number(&to.partition)).collect();
        let stored = kafka.stable(&partitions)?;
        let Some((member, generation)) = source.place() else {
            return Some(Ok(Err(aborted("membership"))));
        };
        self.positions.clear();
        for ((to, stored), partition) in moves.iter().zip(stored).zip(partitions) {
            let expected = to.expected.map(Offset::get);
            let ours = source.owns(&to.partition);
            match (expected, stored) {
                (None, Some(_)) => {}
                (None, None) if !ours => {}
                _ if expected != stored => {
                    let cause = Cause::new("not where it is expected");
                    return Some(Ok(Err(CommitError::Fenced(cause))));
                }
                _ if !ours => return Some(Ok(Err(aborted("not assigned any more")))),
                _ => self.positions.push((partition, stored, to.next.get())),
            }
        }
        Some(match self.positions.is_empty() {
            true => Ok(Ok(())),
            false => Err(Stage::Sent(member, generation)),
        })
    }
}

fn aborted(why: &str) -> CommitError {
    CommitError::Aborted(Cause::new(why))
}

fn in_doubt() -> CommitError {
    CommitError::InDoubt(Cause::new("no answer"))
}

/// The group's offsets without a transaction.
fn move_group(moves: &[Move], source: &Source, shared: &mut Shared) -> Result<(), CommitError> {
    let place = source.place();
    if !place.is_some_and(|(member, generation)| shared.group.accepts(member, generation)) {
        return Err(CommitError::Fenced(Cause::new("illegal generation")));
    }
    let Store::Group(offsets) = &mut shared.store else { unreachable!("the caller knows") };
    for to in moves {
        let (partition, next) = (number(&to.partition), to.next.get());
        let checked = match (to.expected, offsets[partition]) {
            (None, Some(_)) => Ok(()),
            (None, None) => {
                offsets[partition] = Some(next);
                shared.history.started(partition, next)
            }
            (Some(_), stored) => {
                offsets[partition] = Some(next);
                shared.history.sought(partition, stored.unwrap_or(next), next)
            }
        };
        if let Err(wrong) = checked {
            shared.wrong.get_or_insert(wrong);
        }
    }
    if shared.chance.hits(Fault::MoveFails) {
        return Err(in_doubt());
    }
    Ok(())
}
