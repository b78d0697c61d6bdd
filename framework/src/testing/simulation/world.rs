//! A run: members, their group and their store, driven by one seed.
//!
//! First anything may happen at any moment, trouble included. Then the trouble ends, and everything
//! must be processed, stored and stopped in bounded time.

use std::time::Duration;

use super::chance::{Chance, Fault};
use super::checker::History;
use super::coverage::{Coverage, Seen};
use super::group::Group;
use super::log::{Logs, number};
use super::member::{Ask, Member};
use super::plan::{Plan, Planted, StoreKind, ms};
use super::store::Store;
use super::trace::Trace;
use crate::Cause;
use crate::batch::Span;
use crate::engine::core::{Call, Event};
use crate::policy::Then;
use crate::record::{Offset, PartitionId};
use crate::source::{Resolved, SourceError, Unresolved, Wanted};

/// What all members share: the world outside their processes.
pub(super) struct Shared {
    pub(super) now: Duration,
    pub(super) chance: Chance,
    pub(super) plan: Plan,
    pub(super) logs: Logs,
    pub(super) group: Group,
    pub(super) store: Store,
    pub(super) history: History,
    pub(super) cover: Coverage,
    pub(super) trace: Trace,
    /// The first thing that was wrong.
    pub(super) wrong: Option<String>,
    numbers: u64,
}

impl Shared {
    fn new(seed: u64, with_words: bool, planted: Option<Planted>) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::new(&mut chance, planted);
        let logs = Logs::new(&plan, &mut chance);
        let mut history = History::new(plan.partitions, plan.policy.then(), plan.is_at_most_once());
        let mut trace = Trace::new(with_words);
        trace.say(Duration::ZERO, || {
            format!(
                "{:?}, {:?}, {:?}, {}, {} partitions, {} members, in flight {} and {} bytes",
                plan.store,
                plan.protocol,
                plan.order,
                plan.policy,
                plan.partitions,
                plan.members,
                plan.limits.in_flight_records,
                plan.limits.in_flight_bytes
            )
        });
        Self {
            now: Duration::ZERO,
            group: Group::new(plan.protocol, plan.partitions),
            store: Store::new(&plan, &logs, &mut history),
            cover: Coverage::new(),
            wrong: None,
            numbers: 0,
            chance,
            plan,
            logs,
            history,
            trace,
        }
    }

    pub(super) fn fail(&mut self, wrong: String) {
        self.wrong.get_or_insert(wrong);
    }

    pub(super) fn check(&mut self, checked: Result<(), String>) {
        if let Err(wrong) = checked {
            self.fail(wrong);
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Whether everything that can be processed is stored.
    pub(super) fn is_drained(&self) -> bool {
        (0..self.logs.len()).all(|p| self.history.progress(p) == Some(self.logs.get(p).end()))
    }

    /// With a policy of stop and a record that never works there is no end to reach: what has ended
    /// is not started again.
    pub(super) fn stays_down(&self) -> bool {
        self.plan.policy.then() == Then::Stop && self.plan.has_last_resort
    }

    pub(super) fn tick_store(&mut self) -> bool {
        let Self { now, chance, history, logs, cover, store, .. } = self;
        match store.tick(*now, chance, history, logs, cover) {
            Ok(moved) => moved,
            Err(wrong) => {
                self.fail(wrong);
                true
            }
        }
    }

    /// Whatever is on its way when everybody has gone arrives, or is given up by the store.
    fn settle_store(&mut self) {
        while self.wrong.is_none() && self.store.has_strays() {
            self.tick_store();
            self.now += ms(50);
        }
    }

    fn tick_store_sometimes(&mut self) {
        if self.chance.one_in(self.plan.store_lag) {
            self.tick_store();
        }
    }

    pub(super) fn tick_group(&mut self) -> bool {
        let Some(what) = self.group.tick(self.now, &mut self.chance) else { return false };
        self.trace.note(self.now, 9, what, &[]);
        self.cover.saw(Seen::Rebalanced);
        true
    }

    /// Answers a question that was asked of the broker.
    pub(super) fn answer(&mut self, ask: Ask, member: &Member) -> Event<super::checker::Effect> {
        match ask {
            Ask::Resolve(call, wanted) => {
                let result = if self.chance.hits(Fault::ResolveFails) {
                    self.cover.saw(Seen::ResolveFailed);
                    Err(SourceError::Retry(Cause::new("planted")))
                } else {
                    Ok(wanted.into_iter().flat_map(|want| self.resolve(want)).collect())
                };
                Event::Resolved { call, result }
            }
            Ask::Prove(spans) => Event::Proved(self.prove(&spans, member)),
        }
    }

    /// A group commit that proves the membership; it stores what stands there already.
    fn prove(&mut self, spans: &[Span], member: &Member) -> Result<(), SourceError> {
        let place = member.source.membership(spans);
        let lost = self.chance.hits(Fault::ProofFails);
        if !place.is_some_and(|(m, generation)| self.group.accepts(m, generation)) {
            self.cover.saw(Seen::ProofRefused);
            return Err(SourceError::Fenced(Cause::new("illegal generation")));
        }
        if let Store::Group(offsets) = &mut self.store {
            for span in spans {
                let partition = number(&span.partition);
                let next = offsets[partition].unwrap_or(span.next.get());
                offsets[partition] = Some(next);
                let checked = self.history.group_progress((partition, 0), next, &self.logs);
                self.wrong = self.wrong.take().or(checked.err());
            }
        }
        if lost {
            self.cover.saw(Seen::ProofRefused);
            return Err(SourceError::Retry(Cause::new("no answer")));
        }
        self.cover.saw(Seen::ProofAccepted);
        Ok(())
    }

    fn resolve(&mut self, want: Wanted) -> Vec<Resolved> {
        let one =
            |partition: PartitionId, at: i64| Resolved { partition, position: Ok(Offset::new(at)) };
        if self.chance.hits(Fault::ResolveFails)
            && let Wanted::Start(partition) | Wanted::Stored(partition, _) = want
        {
            let position = Err(Unresolved::Temporary(Cause::new("planted")));
            return vec![Resolved { partition, position }];
        }
        let in_part =
            matches!(want, Wanted::StartOfTopic(_)) && self.chance.hits(Fault::ResolveFails);
        let end = |id: &PartitionId| self.logs.get(number(id)).end();
        let low = |id: &PartitionId| self.logs.get(number(id)).low();
        let start = |id: &PartitionId| if self.plan.starts_at_end { end(id) } else { low(id) };
        match want {
            Wanted::StartOfTopic(_) => {
                let all = (0..self.logs.len()).map(|p| self.logs.id(p));
                let mut all: Vec<_> = all.map(|id| one(id.clone(), start(&id))).collect();
                if in_part {
                    let without = self.chance.below(all.len());
                    all[without].position = Err(Unresolved::Temporary(Cause::new("no leader")));
                    self.cover.saw(Seen::ResolvedInPart);
                }
                all
            }
            Wanted::Start(id) => vec![one(id.clone(), start(&id))],
            Wanted::Beginning(id) => vec![one(id.clone(), low(&id))],
            Wanted::End(id) => vec![one(id.clone(), end(&id))],
            Wanted::Stored(id, stored) if !(low(&id)..=end(&id)).contains(&stored.get()) => {
                let (low, high) = (Offset::new(low(&id)), Offset::new(end(&id)));
                let position = match self.plan.has(Planted::SilentReset) {
                    true => Ok(low),
                    false => Err(Unresolved::OutOfRange { stored, low, high }),
                };
                self.cover.saw(Seen::OutOfRange);
                vec![Resolved { partition: id, position }]
            }
            Wanted::Stored(id, stored) => vec![one(id, stored.get())],
            Wanted::At(id, _) => vec![one(id.clone(), low(&id))],
        }
    }
}

pub(super) struct World {
    pub(super) shared: Shared,
    pub(super) members: Vec<Option<Member>>,
}

/// What a run leaves behind.
pub(super) struct Report {
    pub(super) hash: u64,
    pub(super) cover: Coverage,
    /// What was wrong, and what happened before.
    pub(super) wrong: Option<(String, Vec<String>)>,
    /// Records that were compared in the recount.
    pub(super) compared: usize,
}

/// Runs one seed, with a fault planted in the models or not.
pub(super) fn run(seed: u64, with_words: bool, planted: Option<Planted>) -> Report {
    let mut shared = Shared::new(seed, with_words, planted);
    let members = shared.plan.members;
    let members = (0..members).map(|number| Some(Member::new(number, &mut shared))).collect();
    let mut world = World { shared, members };
    world.trouble();
    world.calm_down();
    let mut shared = world.shared;
    shared.settle_store();
    let mut compared = 0;
    if shared.wrong.is_none() && matches!(shared.plan.store, StoreKind::Sql | StoreKind::Kafka) {
        let recounted = shared.history.recount(&shared.logs);
        let settled = shared.history.attempts.settled();
        match recounted.and_then(|records| settled.map(|_| records)) {
            Ok(count) => compared = count,
            Err(wrong) => shared.fail(wrong),
        }
    }
    Report {
        hash: shared.trace.hash(),
        cover: shared.cover,
        wrong: shared.wrong.map(|wrong| (wrong, shared.trace.lines())),
        compared,
    }
}

impl World {
    /// Everything in a random order.
    fn trouble(&mut self) {
        for _ in 0..self.shared.plan.actions {
            if self.shared.wrong.is_some() {
                return;
            }
            self.act();
        }
    }

    fn act(&mut self) {
        let at = self.shared.chance.below(self.members.len());
        match self.shared.chance.below(100) {
            0..30 => self.with(at, turn),
            30..46 => self.with(at, |member, shared| member.step(shared, false)),
            46..58 => self.with(at, |member, shared| _ = member.pool.work(shared)),
            58..66 => self.with(at, |member, shared| _ = member.source.read(shared)),
            66..70 => self.with(at, |member, shared| _ = member.source.poll(shared)),
            70..80 => self.with(at, |member, shared| _ = member.deliver(shared)),
            80..83 => self.with(at, |member, shared| _ = answer_one(member, shared)),
            83..86 => self.shared.tick_store_sometimes(),
            86..89 => _ = self.shared.tick_group(),
            89..95 => self.pass_time(),
            95..98 => {
                let partition = self.shared.chance.below(self.shared.logs.len());
                let records = 1 + self.shared.chance.below(5);
                self.shared.logs.produce(partition, records);
            }
            _ => self.make_trouble(at),
        }
        self.end_members();
    }

    /// Does something with a member, if it lives and is not frozen.
    pub(super) fn with(&mut self, at: usize, does: impl FnOnce(&mut Member, &mut Shared)) {
        if let Some(member) = &mut self.members[at]
            && !member.is_frozen(self.shared.now)
        {
            does(member, &mut self.shared);
        }
    }

    fn pass_time(&mut self) {
        let chance = &mut self.shared.chance;
        let millis = match chance.below(200) {
            0..120 => chance.between(1, 5),
            120..190 => chance.between(5, 40),
            190..199 => chance.between(50, 400),
            _ => chance.between(400, 2000),
        };
        self.advance_to(self.shared.now + ms(millis));
    }

    pub(super) fn advance_to(&mut self, at: Duration) {
        self.shared.now = at;
        for member in self.members.iter_mut().flatten() {
            if member.frozen_until.is_some_and(|until| until <= at) {
                member.frozen_until = None;
                if let Some(id) = member.source.member() {
                    self.shared.group.silent(id, None);
                }
            }
        }
    }

    /// Processes that have ended go; what they called goes on or not.
    pub(super) fn end_members(&mut self) {
        for slot in &mut self.members {
            if let Some(mut member) = slot.take_if(|member| member.finished.is_some()) {
                let shared = &mut self.shared;
                let result = member.finished.take().expect("checked above");
                shared.cover.saw(match &result {
                    Ok(()) => Seen::Stopped,
                    Err(error) if error.is_fenced() => Seen::StoppedByFences,
                    Err(error) if error.is_deadline() => Seen::StoppedLate,
                    Err(error) if error.is_record() => Seen::StoppedByRecord,
                    Err(_) => Seen::Operator,
                });
                if let Some((_, asked)) = member.waiting.first_key_value() {
                    shared.fail(format!("m{}: no reply to {asked:?}", member.number));
                }
                member.source.close(shared);
                // The sink is closed after what was called before.
                while shared.chance.one_in(8) || shared.chance.is_calm() {
                    if !member.deliver(shared) {
                        break;
                    }
                }
                member.delivery.die(shared);
            }
        }
    }
}

/// A little of everything, as when nothing stands in the way.
fn turn(member: &mut Member, shared: &mut Shared) {
    member.source.poll(shared);
    member.source.read(shared);
    for _ in 0..shared.chance.below(6) {
        member.pool.work(shared);
    }
    shared.tick_store_sometimes();
    while answer_one(member, shared) {}
    member.step(shared, true);
    while shared.chance.below(4) > 0 && member.deliver(shared) {}
    member.step(shared, true);
}

/// Answers one question of a member.
pub(super) fn answer_one(member: &mut Member, shared: &mut Shared) -> bool {
    if member.asks.is_empty() {
        return false;
    }
    let at = shared.chance.below(member.asks.len());
    let ask = member.asks.swap_remove(at);
    let event = shared.answer(ask, member);
    if let Event::Resolved { call: Call::Seek(_), .. } = &event {
        shared.trace.note(shared.now, member.number, "seek resolved", &[]);
    }
    member.push_answer(event);
    true
}
