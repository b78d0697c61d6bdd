//! A sink with its task: one call at a time, in order, each in several steps with time in between.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::chance::Fault;
use super::checker::Effect;
use super::coverage::Seen;
use super::kafka::End;
use super::log::number;
use super::plan::{Planted, ms};
use super::source::Source;
use super::sql::{Claims, What};
use super::store::Store;
use super::world::Shared;
use crate::Cause;
use crate::batch::{Batch, Span};
use crate::engine::core::{Call as OnBehalfOf, Event};
use crate::record::{Epoch, Offset, PartitionId};
use crate::sink::{Claim, ClaimRequest, Move, SinkError, Stored};

/// The claim of somebody who is no owner: nothing may be stored under it.
const NOBODYS: u64 = u64::MAX;

pub(super) enum Call {
    Claim(Vec<ClaimRequest>),
    Reposition { call: OnBehalfOf, moves: Vec<Move> },
    Admit(Vec<Span>),
    Commit(Batch<Effect>),
    Release { revocation: u64, partitions: Vec<PartitionId> },
}

/// How far the call under way has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    New,
    /// Its first step is done: a producer is there, or a part of the results is sent.
    Begun,
    /// What was to be sent is sent; the group is asked next, as this member of this generation.
    Sent(u32, u32),
    /// A transaction that holds its rows, or whose offsets the broker has.
    Open(u64),
}

pub(super) struct Delivery {
    queue: VecDeque<Call>,
    pub(super) running: Option<Call>,
    pub(super) stage: Stage,
    /// The call does not go on before this time.
    not_before: Duration,
    waits_since: Option<Duration>,
    /// Names this client: a transactional id in Kafka.
    pub(super) name: u64,
    pub(super) claims: Claims,
    /// Kafka: the epoch of its producer; there is none between a commit in doubt and the next claim.
    pub(super) producer: Option<u64>,
    /// Partitions of a commit in doubt that no claim has named since.
    pub(super) doubtful: BTreeSet<usize>,
    /// For the checks: under which claims it commits, the commit under way, and one in doubt.
    pub(super) fences: BTreeMap<usize, u64>,
    pub(super) attempt: Option<u64>,
    pub(super) doubt: Option<u64>,
    /// Positions that are being stored: partition, what stands there, what will.
    pub(super) positions: Vec<(usize, Option<i64>, i64)>,
}

impl Delivery {
    pub(super) fn new(name: u64, shared: &mut Shared) -> Self {
        Self {
            queue: VecDeque::new(),
            running: None,
            stage: Stage::New,
            not_before: Duration::ZERO,
            waits_since: None,
            name,
            claims: Claims::new(),
            producer: init(name, shared),
            doubtful: BTreeSet::new(),
            fences: BTreeMap::new(),
            attempt: None,
            doubt: None,
            positions: Vec::new(),
        }
    }

    pub(super) fn call(&mut self, call: Call) {
        self.queue.push_back(call);
    }

    pub(super) fn is_committing(&self) -> bool {
        matches!(self.running, Some(Call::Commit(_))) && self.stage != Stage::New
    }

    /// Whether a commit holds work of this partition and epoch.
    pub(super) fn holds(&self, partition: usize, epoch: Epoch) -> bool {
        self.running.iter().chain(&self.queue).any(|call| match call {
            Call::Commit(batch) => batch
                .spans()
                .iter()
                .any(|span| number(&span.partition) == partition && span.epoch == epoch),
            _ => false,
        })
    }

    /// When a stalled call may go on.
    pub(super) fn wakes_at(&self) -> Option<Duration> {
        self.running.as_ref().map(|_| self.not_before)
    }

    /// Takes the call under way a step further. Answers whether anything moved, and the call's
    /// answer if it is done.
    pub(super) fn advance(
        &mut self,
        source: &Source,
        shared: &mut Shared,
    ) -> (bool, Option<Event<Effect>>) {
        let Some(call) = self.running.take().or_else(|| self.queue.pop_front()) else {
            return (false, None);
        };
        if shared.now < self.not_before {
            self.running = Some(call);
            return (false, None);
        }
        if shared.chance.hits(Fault::Stall) && shared.chance.one_in(6) {
            let longest = if shared.chance.one_in(3) { 4000 } else { 300 };
            self.not_before = shared.now + ms(shared.chance.between(1, longest));
            self.running = Some(call);
            return (true, None);
        }
        let before = self.stage;
        let answer = match call {
            Call::Claim(requests) => self.claim(requests, source, shared),
            Call::Reposition { call, moves } => self.reposition(call, moves, source, shared),
            Call::Admit(spans) => self.admit(spans, source, shared),
            Call::Commit(batch) => self.commit(batch, source, shared),
            Call::Release { revocation, partitions } => {
                Some(self.release(revocation, &partitions, shared))
            }
        };
        let moved = answer.is_some() || self.stage != before;
        if answer.is_some() {
            self.stage = Stage::New;
            self.waits_since = None;
            self.attempt = None;
        }
        (moved, answer)
    }

    fn claim(
        &mut self,
        requests: Vec<ClaimRequest>,
        source: &Source,
        shared: &mut Shared,
    ) -> Option<Event<Effect>> {
        let partitions: Vec<usize> = requests.iter().map(|r| number(&r.partition)).collect();
        let fails = shared.chance.hits(Fault::ClaimFails);
        if fails && self.stage == Stage::New && shared.chance.coin() {
            shared.cover.saw(Seen::ClaimFailed);
            return Some(claim_failed("planted"));
        }
        if self.producer.is_none() && matches!(shared.store, Store::Kafka(_)) {
            self.producer = init(self.name, shared);
            return self.keep(Call::Claim(requests), Stage::Begun);
        }
        let waits = !shared.plan.has(Planted::ClaimDoesNotWait);
        let owner = shared.number();
        let claimed = match &mut shared.store {
            Store::Sql(sql) => {
                sql.claim(owner, &partitions, waits, &shared.history).map(|claimed| {
                    claimed
                        .into_iter()
                        .map(|(partition, stored, claim)| {
                            if !fails && matches!(stored, Stored::At(_)) {
                                self.claims.insert(partition, (owner, claim));
                            }
                            // Only a fail-over deletes rows: its topic was started in parts.
                            let may_be_gone = shared.history.was_rewound();
                            if matches!(stored, Stored::Refused(_)) && !may_be_gone {
                                let wrong =
                                    format!("partition {partition} was left out of the start");
                                shared.wrong.get_or_insert(wrong);
                            }
                            stored
                        })
                        .collect()
                })
            }
            Store::Kafka(kafka) => match shared.plan.has(Planted::UnstableOffsets) {
                true => Some(stored_of(kafka.unstable(&partitions))),
                false => kafka.stable(&partitions).map(stored_of),
            },
            Store::Group(offsets) => Some(stored_of(partitions.iter().map(|p| offsets[*p]))),
        };
        let Some(claimed): Option<Vec<Stored>> = claimed else {
            return self.wait(Call::Claim(requests), &partitions, shared);
        };
        self.note_claims(&partitions, !fails, source, shared);
        if fails {
            shared.cover.saw(Seen::ClaimAnswerLost);
            return Some(claim_failed("the answer was lost"));
        }
        for (partition, stored) in partitions.iter().zip(&claimed) {
            self.doubtful.remove(partition);
            if matches!(stored, Stored::Added) {
                shared.cover.saw(Seen::Added);
            }
        }
        let claims = requests.into_iter().zip(claimed);
        let claims = claims.map(|(r, stored)| Claim { partition: r.partition, stored });
        Some(Event::Claimed(Ok(claims.collect())))
    }

    /// A claim in the database counts, whoever makes it. To ask for the group's offsets takes nothing
    /// from anybody: there it is the group that says whose they are.
    fn note_claims(
        &mut self,
        partitions: &[usize],
        is_answered: bool,
        source: &Source,
        shared: &mut Shared,
    ) {
        for partition in partitions {
            let counts = match &shared.store {
                Store::Sql(_) => true,
                _ => source.member().is_some_and(|member| shared.group.owns(member, *partition)),
            };
            let fence = if counts { shared.history.attempts.claimed(*partition) } else { NOBODYS };
            if is_answered {
                self.fences.insert(*partition, fence);
            }
        }
    }

    /// Somebody else's transaction stands in the way: wait for it, or end it after a while.
    pub(super) fn wait(
        &mut self,
        call: Call,
        partitions: &[usize],
        shared: &mut Shared,
    ) -> Option<Event<Effect>> {
        let since = *self.waits_since.get_or_insert(shared.now);
        if since == shared.now {
            shared.cover.saw(Seen::ClaimWaited);
        }
        if let Store::Sql(sql) = &mut shared.store
            && since + ms(700) < shared.now
        {
            shared.cover.saw(Seen::Terminated);
            sql.terminate(partitions);
        }
        self.running = Some(call);
        self.not_before = shared.now + ms(5);
        None
    }

    /// Keeps the call for its next step.
    pub(super) fn keep(&mut self, call: Call, stage: Stage) -> Option<Event<Effect>> {
        self.running = Some(call);
        self.stage = stage;
        None
    }

    fn release(
        &mut self,
        revocation: u64,
        partitions: &[PartitionId],
        shared: &mut Shared,
    ) -> Event<Effect> {
        if let Store::Sql(sql) = &mut shared.store {
            for partition in partitions {
                sql.release(&self.claims, number(partition));
            }
        }
        Event::Released { revocation }
    }

    /// The process dies: what was sent goes on without it.
    pub(super) fn die(mut self, shared: &mut Shared) {
        let sends_end = shared.chance.coin();
        match (self.running.take(), self.stage, &mut shared.store) {
            (_, Stage::Open(_), Store::Kafka(kafka)) => {
                if let Some(epoch) = self.producer.filter(|_| sends_end) {
                    kafka.send_end(self.name, epoch, End::Commit);
                }
            }
            (Some(Call::Commit(_)), Stage::Open(id), Store::Sql(sql)) => sql.leave(id),
            (Some(Call::Commit(batch)), Stage::New, Store::Sql(_)) => {
                let attempt = self.begin_attempt(&batch, shared);
                let Store::Sql(sql) = &mut shared.store else { unreachable!("matched above") };
                if let Ok(effects) = super::checker::Effects::of(&batch) {
                    sql.leave_unread(&self.claims, What::Batch(attempt, effects));
                }
            }
            _ => {}
        }
    }

    /// The commit under way, which begins now if it has not.
    pub(super) fn begin_attempt(&mut self, batch: &Batch<Effect>, shared: &mut Shared) -> u64 {
        if let Some(attempt) = self.attempt {
            return attempt;
        }
        let attempt = shared.number();
        self.attempt = Some(attempt);
        let partitions = batch.spans().iter().map(|span| number(&span.partition));
        let claim = |partition| self.fences.get(&partition).copied().unwrap_or_default();
        let claims = partitions.map(|partition| (partition, claim(partition))).collect();
        shared.history.attempts.begun(attempt, claims);
        attempt
    }
}

/// A new producer of this name, where the store has producers; its epoch.
fn init(name: u64, shared: &mut Shared) -> Option<u64> {
    let Shared { chance, history, logs, store, .. } = shared;
    let Store::Kafka(kafka) = store else { return None };
    match kafka.init(name, chance, history, logs) {
        Ok(epoch) => Some(epoch),
        Err(wrong) => {
            shared.fail(wrong);
            None
        }
    }
}

fn claim_failed(why: &str) -> Event<Effect> {
    Event::Claimed(Err(SinkError::Retry(Cause::new(why))))
}

fn stored_of(offsets: impl IntoIterator<Item = Option<i64>>) -> Vec<Stored> {
    let stored = offsets.into_iter().map(|offset| match offset {
        Some(offset) => Stored::At(Offset::new(offset)),
        None => Stored::Nothing,
    });
    stored.collect()
}
