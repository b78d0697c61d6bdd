//! A sink with its task: one call at a time, in order, each in several steps with time in between.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::chance::Fault;
use super::checker::Effect;
use super::coverage::Seen;
use super::log::number;
use super::plan::{Planted, ms};
use super::source::Source;
use super::sql::Claims;
use super::store::Store;
use super::world::Shared;
use crate::Cause;
use crate::batch::Batch;
use crate::engine::core::{Call as OnBehalfOf, Event};
use crate::record::{Epoch, Offset, PartitionId};
use crate::sink::{Claim, ClaimRequest, CommitError, Move, SinkError, Stored};
use crate::source::Position;

pub(super) enum Call {
    Claim(Vec<ClaimRequest>),
    Reposition { call: OnBehalfOf, moves: Vec<Move> },
    Admit(Vec<Position>),
    Commit(Batch<Effect>),
    Release { revocation: u64, partitions: Vec<PartitionId> },
}

/// How far the call under way has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    New,
    /// A transaction that holds its rows, or whose offsets the broker has.
    Open(u64),
    /// What was to be sent is sent; the group is asked next, as this member of this generation.
    Sent(u32, u32),
}

pub(super) struct Delivery {
    queue: VecDeque<Call>,
    pub(super) running: Option<Call>,
    pub(super) stage: Stage,
    /// The call does not go on before this time.
    not_before: Duration,
    waits_since: Option<Duration>,
    /// Names this client: an owner in SQL, a transactional id in Kafka.
    pub(super) name: u64,
    pub(super) claims: Claims,
    /// Kafka: there is none between a commit in doubt and the next claim.
    pub(super) has_producer: bool,
    /// Partitions of a commit in doubt that no claim has named since.
    pub(super) doubtful: BTreeSet<usize>,
}

impl Delivery {
    pub(super) fn new(name: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            running: None,
            stage: Stage::New,
            not_before: Duration::ZERO,
            waits_since: None,
            name,
            claims: Claims::new(),
            has_producer: true,
            doubtful: BTreeSet::new(),
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
            Call::Claim(requests) => self.claim(requests, shared),
            Call::Reposition { call, moves } => self.reposition(call, moves, source, shared),
            Call::Admit(positions) => self.admit(positions, source, shared),
            Call::Commit(batch) => self.commit(batch, source, shared),
            Call::Release { revocation, partitions } => {
                Some(self.release(revocation, &partitions, shared))
            }
        };
        let moved = answer.is_some() || self.stage != before;
        if answer.is_some() {
            self.stage = Stage::New;
            self.waits_since = None;
        }
        (moved, answer)
    }

    fn claim(&mut self, requests: Vec<ClaimRequest>, shared: &mut Shared) -> Option<Event<Effect>> {
        let partitions: Vec<usize> = requests.iter().map(|r| number(&r.partition)).collect();
        let fails = shared.chance.hits(Fault::ClaimFails);
        if fails && shared.chance.coin() {
            shared.cover.saw(Seen::ClaimFailed);
            return Some(claim_failed("planted"));
        }
        let claimed = match &mut shared.store {
            Store::Sql(sql) => sql.claim(self.name, &partitions).map(|claimed| {
                claimed
                    .into_iter()
                    .map(|(partition, stored, claim)| {
                        if !fails && matches!(stored, Stored::At(_)) {
                            self.claims.insert(partition, claim);
                        }
                        // Nothing here deletes a row: its topic was started in parts.
                        if matches!(stored, Stored::Refused(_)) {
                            let wrong = format!("partition {partition} was left out of the start");
                            shared.wrong.get_or_insert(wrong);
                        }
                        stored
                    })
                    .collect()
            }),
            Store::Kafka(kafka) => {
                if !self.has_producer {
                    let (chance, history) = (&mut shared.chance, &mut shared.history);
                    let checked = kafka.init(self.name, chance, history, &shared.logs);
                    self.has_producer = true;
                    shared.check(checked);
                }
                let Store::Kafka(kafka) = &shared.store else { unreachable!("as above") };
                match shared.plan.has(Planted::UnstableOffsets) {
                    true => Some(stored_of(kafka.unstable(&partitions))),
                    false => kafka.stable(&partitions).map(stored_of),
                }
            }
            Store::Group(offsets) => Some(stored_of(partitions.iter().map(|p| offsets[*p]))),
        };
        let Some(claimed): Option<Vec<Stored>> = claimed else {
            return self.wait(Call::Claim(requests), &partitions, shared);
        };
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

    /// Somebody else's transaction stands in the way: wait for it, or end it after a while.
    fn wait(
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

    fn reposition(
        &mut self,
        call: OnBehalfOf,
        moves: Vec<Move>,
        source: &Source,
        shared: &mut Shared,
    ) -> Option<Event<Effect>> {
        let fails = shared.chance.hits(Fault::MoveFails);
        if fails && shared.chance.coin() {
            shared.cover.saw(Seen::MoveAborted);
            let result = Err(CommitError::Aborted(Cause::new("planted")));
            return Some(Event::Repositioned { call, moves, result });
        }
        let partitions: Vec<usize> = moves.iter().map(|to| number(&to.partition)).collect();
        let result = match &mut shared.store {
            Store::Sql(sql) => {
                match sql.reposition(self.name, &self.claims, &moves, &mut shared.history) {
                    None => {
                        return self.wait(Call::Reposition { call, moves }, &partitions, shared);
                    }
                    Some(moved) => moved,
                }
            }
            Store::Kafka(_) => match self.move_offsets(&moves, &partitions, source, shared) {
                None => return self.wait(Call::Reposition { call, moves }, &partitions, shared),
                Some(moved) => moved,
            },
            Store::Group(_) => move_group(&moves, source, shared),
        };
        let result = match result {
            Ok(true) if fails => {
                shared.cover.saw(Seen::MoveInDoubt);
                Err(CommitError::InDoubt(Cause::new("the answer was lost")))
            }
            Ok(true) => Ok(()),
            Ok(false) => Err(CommitError::Fenced(Cause::new("not where it is expected"))),
            Err(wrong) => {
                shared.fail(wrong);
                Ok(())
            }
        };
        if result.is_ok() {
            shared.cover.saw(match (call, moves.first()) {
                (OnBehalfOf::Seek(_), Some(to)) if to.expected > Some(to.next) => Seen::SoughtBack,
                (OnBehalfOf::Seek(_), _) => Seen::SoughtForward,
                (OnBehalfOf::Starts, _) => Seen::StartStored,
            });
        }
        Some(Event::Repositioned { call, moves, result })
    }

    /// Offsets alone, in a transaction of their own; `None` while stable offsets are held back.
    fn move_offsets(
        &mut self,
        moves: &[Move],
        partitions: &[usize],
        source: &Source,
        shared: &mut Shared,
    ) -> Option<Result<bool, String>> {
        let Store::Kafka(kafka) = &mut shared.store else { unreachable!("the caller knows") };
        let stored = kafka.stable(partitions)?;
        let Some((member, generation)) = source.place() else { return Some(Ok(false)) };
        let mut positions = Vec::new();
        for ((to, stored), partition) in moves.iter().zip(stored).zip(partitions) {
            let expected = to.expected.map(Offset::get);
            match (expected, stored) {
                (None, Some(_)) => {}
                (None, None) if !source.owns(&to.partition) => {}
                _ if expected != stored || !source.owns(&to.partition) => return Some(Ok(false)),
                _ => positions.push((*partition, stored, to.next.get())),
            }
        }
        if positions.is_empty() {
            return Some(Ok(true));
        }
        if !self.has_producer || !shared.group.accepts(member, generation) {
            return Some(Ok(false));
        }
        let stores = super::kafka::Stores::Positions(positions);
        let id = kafka.open(self.name, stores, shared.now);
        let stored = kafka.commit(id, &mut shared.history, &shared.logs);
        Some(stored.expect("it was opened just now").map(|()| true))
    }

    fn release(
        &mut self,
        revocation: u64,
        partitions: &[PartitionId],
        shared: &mut Shared,
    ) -> Event<Effect> {
        if let Store::Sql(sql) = &mut shared.store {
            for partition in partitions {
                sql.release(self.name, &self.claims, number(partition));
            }
        }
        Event::Released { revocation }
    }

    /// The process dies: what was sent goes on without it.
    pub(super) fn die(self, shared: &mut Shared) {
        let Some(Call::Commit(batch)) = self.running else { return };
        match (&mut shared.store, self.stage) {
            (Store::Sql(sql), Stage::Open(id)) => sql.leave(id),
            (Store::Kafka(kafka), Stage::Open(id)) => kafka.leave(id),
            (Store::Sql(sql), Stage::New) => {
                if let Ok(effects) = super::checker::Effects::of(&batch) {
                    sql.leave_unread(self.name, &self.claims, effects);
                }
            }
            _ => {}
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

/// The group's offsets without a transaction.
fn move_group(moves: &[Move], source: &Source, shared: &mut Shared) -> Result<bool, String> {
    let place = source.place();
    if !place.is_some_and(|(member, generation)| shared.group.accepts(member, generation)) {
        return Ok(false);
    }
    let Store::Group(offsets) = &mut shared.store else { unreachable!("the caller knows") };
    for to in moves {
        let (partition, next) = (number(&to.partition), to.next.get());
        match (to.expected, offsets[partition]) {
            (None, Some(_)) => {}
            (None, None) => {
                offsets[partition] = Some(next);
                shared.history.started(partition, next)?;
            }
            (Some(_), stored) => {
                offsets[partition] = Some(next);
                shared.history.sought(partition, stored.unwrap_or(next), next)?;
            }
        }
    }
    Ok(true)
}
