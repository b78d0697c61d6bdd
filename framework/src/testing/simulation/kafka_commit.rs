//! A Kafka transaction in its requests, and every way in which they get lost.

use super::chance::Fault;
use super::checker::{Effect, Effects};
use super::commit::{aborted, in_doubt, rejected, spans_asked};
use super::coverage::Seen;
use super::delivery::{Delivery, Stage};
use super::kafka::{Answer, End, Kafka, Offsets};
use super::plan::Planted;
use super::source::Source;
use super::store::Store;
use super::world::Shared;
use crate::Cause;
use crate::batch::Batch;
use crate::delivery::Fate;

impl Delivery {
    pub(super) fn commit_kafka(
        &mut self,
        attempt: u64,
        batch: &Batch<Effect>,
        effects: Effects,
        source: &Source,
        shared: &mut Shared,
    ) -> Result<Fate, Stage> {
        let Some(epoch) = self.producer else {
            return Ok(Fate::InDoubt(Cause::new("there is no producer until the next claim")));
        };
        let producer = (self.name, epoch);
        let now = shared.now;
        if shared.chance.hits(Fault::ProducerFenced) && shared.chance.one_in(4) {
            kafka_of(shared).hijack(self.name);
        }
        let half = effects.records.len() / 2;
        let answer = match self.stage {
            Stage::New => {
                if let Some(fate) = refused_at_first(batch, source, shared) {
                    return Ok(fate);
                }
                let answer =
                    kafka_of(shared).produce(producer, attempt, &effects.records[..half], now);
                (answer, Stage::Begun)
            }
            Stage::Begun => {
                if let Some((record, is_dead)) = effects.refused(&shared.logs) {
                    let rejected = rejected(record, is_dead, shared);
                    return Ok(self.abort_kafka(producer, rejected, shared));
                }
                // What the broker compares is the newest membership: whether these spans are still
                // of our current epochs is asked at the same moment.
                let Some((member, generation)) = source.membership(spans_asked(batch, shared))
                else {
                    shared.cover.saw(Seen::StaleEpoch);
                    let fate = Fate::Aborted(Cause::new("membership"));
                    return Ok(self.abort_kafka(producer, fate, shared));
                };
                let rest = &effects.records[half..];
                let answer = kafka_of(shared).produce(producer, attempt, rest, now);
                (answer, Stage::Sent(member, generation))
            }
            Stage::Sent(member, generation) => {
                let accepts = shared.group.accepts(member, generation)
                    || shared.plan.has(Planted::AnyGeneration);
                if !accepts {
                    shared.cover.saw(Seen::StaleGeneration);
                    let fate = Fate::Aborted(Cause::new("illegal generation"));
                    return Ok(self.abort_kafka(producer, fate, shared));
                }
                let offsets = Offsets { spans: effects.spans, ..Offsets::default() };
                let answer = kafka_of(shared).send_offsets(producer, attempt, offsets, now);
                (answer, Stage::Open(0))
            }
            Stage::Open(_) => return Ok(self.end_kafka(producer, shared)),
        };
        match answer {
            (Answer::Done, stage) => Err(stage),
            (Answer::Busy, _) => {
                shared.cover.saw(Seen::Busy);
                Err(self.stage)
            }
            (Answer::Fenced, _) => {
                shared.cover.saw(Seen::ProducerFenced);
                self.producer = None;
                Ok(Fate::Fenced(Cause::new("invalid producer epoch")))
            }
        }
    }

    /// Nothing of this transaction may be seen: it is aborted before its batch is tried again. An
    /// abort of which nobody knows whether it arrived is a doubt like any other.
    fn abort_kafka(&mut self, (name, epoch): (u64, u64), fate: Fate, shared: &mut Shared) -> Fate {
        let lost = shared.chance.hits(Fault::Doubt);
        let late = shared.chance.hits(Fault::LateCommit);
        let kafka = kafka_of(shared);
        if late {
            kafka.send_end(name, epoch, End::Abort);
        } else if kafka.end(name, epoch, End::Abort) == Answer::Done && !lost {
            return fate;
        }
        self.producer = None;
        in_doubt(Seen::AbortInDoubt, shared)
    }

    /// The end of the transaction. Its request may vanish, its answer too; it may be held up until
    /// much later; and a copy of it may still be on its way when it is answered.
    fn end_kafka(&mut self, (name, epoch): (u64, u64), shared: &mut Shared) -> Fate {
        if shared.chance.hits(Fault::Abort) {
            let fate = aborted(shared);
            return self.abort_kafka((name, epoch), fate, shared);
        }
        let late = shared.chance.hits(Fault::LateCommit);
        let lost = shared.chance.hits(Fault::Doubt);
        let vanishes = lost && shared.chance.coin();
        let twice = shared.chance.hits(Fault::SentTwice);
        let forgives = shared.plan.has(Planted::ProducerReused);
        let kafka = kafka_of(shared);
        if late || twice {
            kafka.send_end(name, epoch, End::Commit);
        }
        let answer = match late || vanishes {
            true => None,
            false => Some(kafka.end(name, epoch, End::Commit)),
        };
        if answer == Some(Answer::Done) && shared.chance.coin() {
            let Shared { store: Store::Kafka(kafka), history, logs, .. } = shared else {
                unreachable!("the caller knows")
            };
            let checked = kafka.write_markers(name, history, logs);
            shared.check(checked);
        }
        let seen = match answer {
            Some(Answer::Done) if twice && forgives => return Fate::Committed,
            Some(Answer::Done) if twice => Seen::SentTwice,
            Some(Answer::Done) if lost => Seen::DoubtStored,
            Some(Answer::Done) => {
                shared.cover.saw(Seen::Committed);
                return Fate::Committed;
            }
            Some(_) => Seen::FencedAtTheEnd,
            None => Seen::DoubtNotStored,
        };
        self.producer = None;
        in_doubt(seen, shared)
    }
}

/// Why nothing at all is sent of a batch.
fn refused_at_first(batch: &Batch<Effect>, source: &Source, shared: &mut Shared) -> Option<Fate> {
    if shared.chance.hits(Fault::Abort) {
        return Some(aborted(shared));
    }
    if source.membership(spans_asked(batch, shared)).is_none() {
        shared.cover.saw(Seen::StaleEpoch);
        return Some(Fate::Aborted(Cause::new("membership")));
    }
    None
}

fn kafka_of(shared: &mut Shared) -> &mut Kafka {
    match &mut shared.store {
        Store::Kafka(kafka) => kafka,
        _ => unreachable!("the caller knows"),
    }
}
