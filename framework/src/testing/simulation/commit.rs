//! A commit in its steps, and every way it can end.

use super::chance::Fault;
use super::checker::{Effect, Effects};
use super::coverage::Seen;
use super::delivery::{Call, Delivery, Stage};
use super::log::number;
use super::plan::Planted;
use super::source::Source;
use super::sql::{Begun, Compare, What};
use super::store::Store;
use super::world::Shared;
use crate::batch::{Batch, Span};
use crate::delivery::Fate;
use crate::engine::core::Event;
use crate::record::Coordinates;
use crate::sink::SinkError;
use crate::{Cause, Error};

impl Delivery {
    pub(super) fn commit(
        &mut self,
        batch: Batch<Effect>,
        source: &Source,
        shared: &mut Shared,
    ) -> Option<Event<Effect>> {
        let mut effects = match Effects::of(&batch) {
            Ok(effects) => effects,
            Err(wrong) => {
                shared.fail(wrong);
                return None;
            }
        };
        if shared.plan.has(Planted::RecordLost) && shared.chance.one_in(4) {
            effects.records.pop();
        }
        if self.stage == Stage::New {
            let touched = effects.spans.iter().find(|span| self.doubtful.contains(&span.0));
            if let Some((partition, ..)) = touched {
                shared.fail(format!("{partition} is in doubt, and more of it is committed"));
            }
            if shared.chance.hits(Fault::Operator) {
                shared.cover.saw(Seen::Operator);
                let fate = match shared.chance.coin() {
                    true => Fate::Stop(Error::sink_failed("planted")),
                    false => Fate::Aborted(Cause::new("planted").needs_operator()),
                };
                return Some(Event::Committed { batch, fate });
            }
        }
        let attempt = self.begin_attempt(&batch, shared);
        let fate = match shared.store {
            Store::Sql(_) => self.commit_sql(attempt, effects, shared),
            Store::Kafka(_) => self.commit_kafka(attempt, &batch, effects, source, shared),
            Store::Group(_) => self.commit_group(&batch, effects, source, shared),
        };
        match fate {
            Ok(fate) => {
                let fate = planted(fate, shared);
                self.is_told(attempt, &batch, &fate, shared);
                Some(Event::Committed { batch, fate })
            }
            Err(stage) => self.keep(Call::Commit(batch), stage),
        }
    }

    /// The core is about to hear what became of its commit.
    fn is_told(&mut self, id: u64, batch: &Batch<Effect>, fate: &Fate, shared: &mut Shared) {
        if let Fate::InDoubt(_) = fate {
            let spans = batch.spans().iter();
            self.doubtful.extend(spans.map(|span| number(&span.partition)));
            self.doubt = Some(id);
        } else if !matches!(shared.store, Store::Group(_)) {
            let checked = shared.history.attempts.told(id, matches!(fate, Fate::Committed));
            shared.check(checked);
        }
    }

    /// A fate, or the stage it goes on from.
    fn commit_sql(
        &mut self,
        attempt: u64,
        effects: Effects,
        shared: &mut Shared,
    ) -> Result<Fate, Stage> {
        let Store::Sql(sql) = &mut shared.store else { unreachable!("the caller knows") };
        let chance = &mut shared.chance;
        if let Stage::Open(id) = self.stage {
            if chance.hits(Fault::LateCommit) {
                sql.leave(id);
                return Ok(Fate::InDoubt(Cause::new("no answer")));
            }
            if chance.hits(Fault::Abort) {
                sql.roll_back(id);
                return Ok(aborted(shared));
            }
            let lost = chance.hits(Fault::Doubt);
            if lost && chance.coin() {
                sql.roll_back(id);
                return Ok(in_doubt(Seen::DoubtNotStored, shared));
            }
            let stored = sql.commit(id, &mut shared.history, &shared.logs);
            return Ok(match stored {
                None => in_doubt(Seen::DoubtNotStored, shared),
                Some(checked) => stored_or_lost(checked, lost, shared),
            });
        }
        if chance.hits(Fault::Abort) {
            return Ok(aborted(shared));
        }
        if chance.hits(Fault::LateCommit) && chance.coin() {
            sql.leave_unread(&self.claims, What::Batch(attempt, effects));
            return Ok(Fate::InDoubt(Cause::new("no answer")));
        }
        let compare = match shared.plan.planted {
            Some(Planted::NoCompare) => Compare::Nothing,
            Some(Planted::NoFence) => Compare::Position,
            _ => Compare::All,
        };
        match sql.begin(&self.claims, (attempt, &effects), &shared.logs, compare) {
            Begun::Open(id) => Err(Stage::Open(id)),
            Begun::Waits if chance.one_in(10) => Ok(aborted(shared)),
            Begun::Waits => Err(Stage::New),
            Begun::Fenced => {
                shared.cover.saw(Seen::Fenced);
                Ok(Fate::Fenced(Cause::new("not ours, or not there")))
            }
            Begun::Rejected(record, is_dead) => Ok(rejected(record, is_dead, shared)),
        }
    }

    /// Results first; then, at least once, the group's offsets.
    fn commit_group(
        &mut self,
        batch: &Batch<Effect>,
        effects: Effects,
        source: &Source,
        shared: &mut Shared,
    ) -> Result<Fate, Stage> {
        if let Stage::Sent(member, generation) = self.stage {
            if !shared.group.accepts(member, generation) {
                shared.cover.saw(Seen::GroupCommitRefused);
                let cause = Cause::new("illegal generation");
                let gone = shared.chance.coin();
                return Ok(if gone { Fate::Fenced(cause) } else { Fate::Aborted(cause) });
            }
            let Store::Group(offsets) = &mut shared.store else { unreachable!("as above") };
            for (partition, _, next) in &effects.spans {
                offsets[*partition] = Some(*next);
                let claim = self.fences.get(partition).copied().unwrap_or_default();
                let committed = (*partition, claim);
                let checked = shared.history.group_progress(committed, *next, &shared.logs);
                if let Err(wrong) = checked {
                    shared.wrong.get_or_insert(wrong);
                }
            }
            if shared.chance.hits(Fault::Doubt) {
                return Ok(aborted(shared));
            }
            shared.cover.saw(Seen::Committed);
            return Ok(Fate::Committed);
        }
        if shared.plan.is_at_most_once() {
            return Ok(self.write_once(effects, shared));
        }
        if let Some((record, is_dead)) = effects.refused(&shared.logs) {
            return Ok(rejected(record, is_dead, shared));
        }
        self.write(&effects, shared);
        if shared.chance.hits(Fault::Abort) {
            return Ok(aborted(shared));
        }
        match source.membership(spans_asked(batch, shared)) {
            Some((member, generation)) => Err(Stage::Sent(member, generation)),
            None => {
                shared.cover.saw(Seen::StaleEpochOfAGroup);
                let gone = batch.spans().iter().any(|span| !source.owns(&span.partition));
                let cause = Cause::new("not assigned, or repositioned");
                Ok(if gone { Fate::Fenced(cause) } else { Fate::Aborted(cause) })
            }
        }
    }

    fn write(&mut self, effects: &Effects, shared: &mut Shared) {
        let written = effects.records.iter();
        if written.clone().any(|(p, at, _)| shared.history.times_written(*p, *at) > 0) {
            shared.cover.saw(Seen::WrittenTwice);
        }
        let checked = shared.history.written(effects, &shared.logs);
        shared.check(checked);
    }

    /// At most once: whatever happens, it is not written again.
    fn write_once(&mut self, mut effects: Effects, shared: &mut Shared) -> Fate {
        if effects.refused(&shared.logs).is_some() || shared.chance.hits(Fault::Abort) {
            let kept = shared.chance.below(effects.records.len() + 1);
            effects.records.truncate(kept);
            while effects.refused(&shared.logs).is_some() {
                effects.records.pop();
            }
            shared.cover.saw(Seen::GivenUp);
        }
        for (partition, offset, kind) in &effects.records {
            let again = shared.history.times_written(*partition, *offset) > 0;
            if again
                && *kind != super::checker::Kind::Filtered
                && !shared.history.was_sought(*partition)
            {
                shared.fail(format!("{partition}/{offset} is written twice, at most once"));
            }
        }
        let checked = shared.history.written(&effects, &shared.logs);
        shared.check(checked);
        Fate::Committed
    }

    pub(super) fn admit(
        &mut self,
        spans: Vec<Span>,
        source: &Source,
        shared: &mut Shared,
    ) -> Option<Event<Effect>> {
        let failed = |why: &str| Err(SinkError::Retry(Cause::new(why)));
        let asked: &[Span] = if shared.plan.has(Planted::StaleAdmission) { &[] } else { &spans };
        let place = source.membership(asked);
        let result = match (self.stage, place) {
            (Stage::New, Some((member, generation))) => {
                return self.keep(Call::Admit(spans), Stage::Sent(member, generation));
            }
            (Stage::Sent(member, generation), _) if shared.group.accepts(member, generation) => {
                let Store::Group(offsets) = &mut shared.store else { unreachable!("at most once") };
                for span in &spans {
                    let partition = number(&span.partition);
                    offsets[partition] = Some(span.next.get());
                    let checked = shared.history.admitted(partition, span.next.get());
                    shared.wrong = shared.wrong.take().or(checked.err());
                }
                shared.cover.saw(Seen::Admitted);
                shared.trace.say(shared.now, || format!("sink {} admits {spans:?}", self.name));
                if shared.chance.hits(Fault::Doubt) { failed("no answer") } else { Ok(()) }
            }
            _ => {
                shared.cover.saw(Seen::GroupCommitRefused);
                failed("illegal generation")
            }
        };
        Some(Event::Admitted(result))
    }
}

/// What the consumer is asked about: all spans, unless a fault forgets them.
pub(super) fn spans_asked<'a>(batch: &'a Batch<Effect>, shared: &Shared) -> &'a [Span] {
    if shared.plan.has(Planted::EpochsForgotten) { &[] } else { batch.spans() }
}

/// The sink says something else than it should.
fn planted(fate: Fate, shared: &Shared) -> Fate {
    match (fate, shared.plan.planted) {
        (Fate::InDoubt(cause), Some(Planted::DoubtIsAborted)) => Fate::Aborted(cause),
        (Fate::InDoubt(_), Some(Planted::DoubtIsCommitted)) => Fate::Committed,
        (fate, _) => fate,
    }
}

pub(super) fn aborted(shared: &mut Shared) -> Fate {
    shared.cover.saw(Seen::Aborted);
    Fate::Aborted(Cause::new("planted"))
}

pub(super) fn in_doubt(seen: Seen, shared: &mut Shared) -> Fate {
    shared.cover.saw(seen);
    Fate::InDoubt(Cause::new("no answer"))
}

fn stored_or_lost(checked: Result<(), String>, lost: bool, shared: &mut Shared) -> Fate {
    shared.check(checked);
    if lost {
        return in_doubt(Seen::DoubtStored, shared);
    }
    shared.cover.saw(Seen::Committed);
    Fate::Committed
}

pub(super) fn rejected(record: Coordinates, is_dead: bool, shared: &mut Shared) -> Fate {
    shared.cover.saw(if is_dead { Seen::RejectedTwice } else { Seen::Rejected });
    Fate::Rejected { record, cause: Cause::new("bad data") }
}
