//! A consumer: hears the group, reads against credit, and tells its core both in one queue.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::chance::Fault;
use super::checker::Effect;
use super::coverage::Seen;
use super::group::{Notice, Protocol};
use super::log::number;
use super::plan::{Planted, ms};
use super::world::Shared;
use crate::batch::Span;
use crate::engine::core::Event;
use crate::record::{Epoch, Offset, PartitionId};
use crate::source::{AssignedPartition, Chunk, Credit, Position, Start};

pub(super) struct Source {
    /// Its name in the group, as far as it knows.
    member: Option<u32>,
    generation: u32,
    /// What it has said and its core has not taken in.
    said: VecDeque<Event<Effect>>,
    cursors: BTreeMap<usize, Cursor>,
    /// Credit that came before the start it belongs to.
    early: Vec<Credit>,
    step: Option<Step>,
    /// Assignments whose answer missed its deadline.
    late: Vec<u64>,
    owned_before: BTreeSet<usize>,
    /// When its process began: the core counts from there.
    origin: Duration,
    closed: bool,
    /// It hears nothing of the group before this time.
    deaf_until: Duration,
}

/// The rebalance under way on this side.
struct Step {
    id: u64,
    assigns: bool,
    partitions: Vec<usize>,
    deadline: Duration,
}

struct Cursor {
    state: State,
    epoch: Epoch,
    at: i64,
    told_end: Option<i64>,
    records: u64,
    bytes: i64,
    assignment: u64,
    /// To which member it was given.
    member: Option<u32>,
}

#[derive(PartialEq, Eq)]
enum State {
    /// Nobody said yet where it starts.
    Parked,
    Reading,
    Stopped,
}

impl Source {
    pub(super) fn new(origin: Duration) -> Self {
        Self {
            member: None,
            generation: 0,
            said: VecDeque::new(),
            cursors: BTreeMap::new(),
            early: Vec::new(),
            step: None,
            late: Vec::new(),
            owned_before: BTreeSet::new(),
            origin,
            closed: false,
            deaf_until: Duration::ZERO,
        }
    }

    pub(super) fn deafen(&mut self, until: Duration) {
        self.deaf_until = until;
    }

    pub(super) fn member(&self) -> Option<u32> {
        self.member
    }

    pub(super) fn has_said(&self) -> usize {
        self.said.len()
    }

    pub(super) fn next_said(&mut self) -> Option<Event<Effect>> {
        self.said.pop_front()
    }

    pub(super) fn close(&mut self, shared: &mut Shared) {
        self.closed = true;
        if let Some(member) = self.member {
            shared.group.remove(member);
        }
    }

    /// When it gives up waiting for an answer.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.step.as_ref().map(|step| step.deadline)
    }

    /// Hears the group; `false` if there was nothing to hear.
    pub(super) fn poll(&mut self, shared: &mut Shared) -> bool {
        if self.closed || self.deaf_until > shared.now {
            return false;
        }
        let Some(member) = self.member else {
            self.member = Some(shared.group.join());
            return true;
        };
        if !shared.group.knows(member) {
            let is_quiet = self.step.is_none() && shared.chance.hits(Fault::NewMemberId);
            if is_quiet {
                self.join_anew(shared)
            } else {
                self.lost(shared)
            }
            return true;
        }
        if let Some(step) = self.step.take_if(|step| step.deadline <= shared.now) {
            self.give_up(step, shared);
            return true;
        }
        if self.step.is_some() {
            return false;
        }
        match shared.group.notice(member) {
            None => return false,
            Some(Notice::Revoke(partitions)) => self.begin_revoke(partitions, shared),
            Some(Notice::Joined { .. }) if self.keeps_what_was_anothers() => {
                shared.cover.saw(Seen::GaveUpWhatWasAnothers);
                shared.group.remove(member);
                self.lost(shared);
            }
            Some(Notice::Joined { generation, mut assigned }) => {
                self.generation = generation;
                // Only one with a planted fault has any of them.
                assigned.retain(|partition| !self.cursors.contains_key(partition));
                if assigned.is_empty() {
                    self.said.push_back(Event::GroupChanged);
                } else {
                    self.begin_assign(assigned, shared);
                }
            }
        }
        true
    }

    /// Joins under a new id and says nothing.
    fn join_anew(&mut self, shared: &mut Shared) {
        shared.cover.saw(Seen::NewMemberId);
        (self.member, self.generation) = (Some(shared.group.join()), 0);
        if shared.plan.has(Planted::FormerMember) {
            self.cursors.values_mut().for_each(|cursor| cursor.member = self.member);
        }
    }

    /// What was given to a member that this one no longer is may have been given to others since.
    fn keeps_what_was_anothers(&self) -> bool {
        self.cursors.values().any(|cursor| cursor.member != self.member)
    }

    fn lost(&mut self, shared: &mut Shared) {
        let mut lost: BTreeSet<usize> = self.cursors.keys().copied().collect();
        lost.extend(self.step.iter().flat_map(|step| &step.partitions));
        shared.cover.saw(Seen::Evicted);
        self.said.push_back(Event::Lost(lost.iter().map(|p| shared.logs.id(*p)).collect()));
        self.cursors.clear();
        (self.step, self.member, self.generation) = (None, None, 0);
        self.late.clear();
    }

    fn begin_assign(&mut self, partitions: Vec<usize>, shared: &mut Shared) {
        let id = shared.number();
        if partitions.iter().any(|p| !self.owned_before.insert(*p)) {
            shared.cover.saw(Seen::Regained);
        }
        let named = |p: &usize| AssignedPartition { partition: shared.logs.id(*p), topic_id: None };
        let names = partitions.iter().map(named).collect();
        let deadline = shared.now + shared.plan.limits.claim_max;
        let told = self.told_deadline(deadline, shared);
        self.said.push_back(Event::Assigned { id, partitions: names, deadline: told });
        self.step = Some(Step { id, assigns: true, partitions, deadline });
    }

    fn begin_revoke(&mut self, partitions: Vec<usize>, shared: &mut Shared) {
        let id = shared.number();
        shared.cover.saw(match shared.group.protocol() {
            Protocol::Eager => Seen::RevokedEagerly,
            Protocol::Cooperative => Seen::RevokedCooperatively,
            Protocol::Consumer => Seen::RevokedByTheBroker,
        });
        if !shared.plan.reads_while_revoking {
            for partition in &partitions {
                if let Some(cursor) = self.cursors.get_mut(partition) {
                    cursor.state = State::Stopped;
                }
            }
        }
        let names = partitions.iter().map(|p| shared.logs.id(*p)).collect();
        let deadline = shared.now + shared.plan.limits.drain_max;
        let told = self.told_deadline(deadline, shared);
        self.said.push_back(Event::Revoked { id, partitions: names, deadline: told });
        self.step = Some(Step { id, assigns: false, partitions, deadline });
    }

    /// The core's clock counts from its start, and a margin is taken off for the way.
    fn told_deadline(&self, at: Duration, shared: &mut Shared) -> Duration {
        let margin = ms(shared.chance.between(0, 200));
        (at - self.origin).saturating_sub(margin)
    }

    /// The answer did not come in time.
    fn give_up(&mut self, step: Step, shared: &mut Shared) {
        if step.assigns {
            shared.cover.saw(Seen::AssignedLate);
            self.late.push(step.id);
            self.finish_assign(&step, &[]);
        } else {
            shared.cover.saw(Seen::RevokedLate);
            self.finish_revoke(&step, shared);
        }
    }

    pub(super) fn answer_assigned(&mut self, id: u64, starts: &[Start], shared: &mut Shared) {
        if let Some(step) = self.step.take_if(|step| step.id == id) {
            self.finish_assign(&step, starts);
        } else if let Some(at) = self.late.iter().position(|late| *late == id) {
            self.late.swap_remove(at);
            for start in starts {
                let cursor = self.cursors.get(&number(&start.partition));
                if cursor.is_some_and(|c| c.state == State::Parked && c.assignment == id) {
                    shared.cover.saw(Seen::StartedLate);
                    self.reposition(std::slice::from_ref(start));
                }
            }
        }
    }

    pub(super) fn answer_revoked(&mut self, id: u64, shared: &mut Shared) {
        if let Some(step) = self.step.take_if(|step| step.id == id) {
            self.finish_revoke(&step, shared);
        }
    }

    fn finish_assign(&mut self, step: &Step, starts: &[Start]) {
        for partition in &step.partitions {
            let cursor = Cursor {
                state: State::Parked,
                epoch: Epoch::new(0),
                at: 0,
                told_end: None,
                records: 0,
                bytes: 0,
                assignment: step.id,
                member: self.member,
            };
            self.cursors.insert(*partition, cursor);
        }
        self.reposition(starts);
        self.said.push_back(Event::GroupChanged);
    }

    fn finish_revoke(&mut self, step: &Step, shared: &mut Shared) {
        for partition in &step.partitions {
            self.cursors.remove(partition);
        }
        if let Some(member) = self.member {
            shared.group.revoked(member, &step.partitions);
        }
        self.said.push_back(Event::GroupChanged);
    }

    pub(super) fn reposition(&mut self, starts: &[Start]) {
        for start in starts {
            let partition = number(&start.partition);
            let revoking = self.step.as_ref().is_some_and(|s| s.partitions.contains(&partition));
            if let Some(cursor) = self.cursors.get_mut(&partition) {
                cursor.epoch = start.epoch;
                cursor.at = start.offset.get();
                cursor.told_end = None;
                (cursor.records, cursor.bytes) = (0, 0);
                if !revoking {
                    cursor.state = State::Reading;
                }
            }
        }
        let early = std::mem::take(&mut self.early);
        self.credit(early);
    }

    pub(super) fn credit(&mut self, grants: Vec<Credit>) {
        for grant in grants {
            match self.cursors.get_mut(&number(&grant.partition)) {
                Some(cursor) if cursor.epoch == grant.epoch => {
                    cursor.records += u64::from(grant.records);
                    cursor.bytes = cursor.bytes.saturating_add_unsigned(grant.bytes);
                }
                Some(cursor) if cursor.epoch > grant.epoch => {}
                _ => self.early.push(grant),
            }
        }
    }

    /// Reads a little of one partition; `false` if there is nothing to read or no credit.
    pub(super) fn read(&mut self, shared: &mut Shared) -> bool {
        let able = self.cursors.iter().filter(|(partition, cursor)| {
            let log = shared.logs.get(**partition);
            cursor.state == State::Reading
                && cursor.records > 0
                && cursor.bytes > 0
                && (!log.from(cursor.at).is_empty() || cursor.told_end != Some(log.end()))
        });
        let able: Vec<usize> = able.map(|(partition, _)| *partition).collect();
        if able.is_empty() {
            return false;
        }
        let partition = able[shared.chance.below(able.len())];
        let fails = shared.chance.hits(Fault::PartitionFails) && shared.chance.one_in(20);
        let most = 1 + shared.chance.below(6);
        let log = shared.logs.get(partition);
        let (id, end, low) = (log.id.clone(), log.end(), log.low());
        let cursor = self.cursors.get_mut(&partition).expect("chosen from the cursors");
        let epoch = cursor.epoch;
        if cursor.at < low && shared.plan.has(Planted::SilentReset) {
            cursor.at = low;
        }
        if fails || cursor.at < low {
            cursor.state = State::Stopped;
            shared.cover.saw(if fails { Seen::PartitionFailed } else { Seen::OutOfRange });
            let error = if fails { "planted" } else { "offset out of range" }.to_owned();
            self.said.push_back(Event::PartitionFailed { partition: id, epoch, error });
            return true;
        }
        let mut records = Vec::new();
        for entry in log.from(cursor.at).iter().take(most) {
            let may_read = cursor.records > 0 && cursor.bytes > 0;
            if !may_read && !shared.plan.has(Planted::NoCredit) {
                break;
            }
            let bytes = entry.record.size_bytes() as u64;
            if bytes > shared.plan.limits.in_flight_bytes as u64 {
                shared.cover.saw(Seen::Oversize);
            }
            cursor.records = cursor.records.saturating_sub(1);
            cursor.bytes = cursor.bytes.saturating_sub_unsigned(bytes);
            cursor.at = entry.offset() + 1;
            records.push(Arc::clone(&entry.record));
        }
        if records.is_empty() {
            cursor.told_end = Some(end);
            cursor.at = cursor.at.max(end);
            let next = Offset::new(end);
            self.said.push_back(Event::Ends(vec![Position { partition: id.clone(), next }]));
            self.said.push_back(Event::End { partition: id, epoch, next });
        } else {
            // Where the log ends is told at any time, also to who is far from it.
            let position = Position { partition: id.clone(), next: Offset::new(end) };
            self.said.push_back(Event::Ends(vec![position]));
            self.said.push_back(Event::Records(Chunk { partition: id, epoch, records }));
        }
        true
    }

    /// Its place in the group, if all these spans are of partitions it has under these epochs.
    pub(super) fn membership(&self, spans: &[Span]) -> Option<(u32, u32)> {
        let current = |span: &Span| {
            let cursor = self.cursors.get(&number(&span.partition));
            let ours = cursor.filter(|cursor| cursor.member == self.member);
            ours.is_some_and(|c| c.state != State::Parked && c.epoch == span.epoch)
        };
        spans.iter().all(current).then_some(())?;
        self.place()
    }

    /// Its place in the group.
    pub(super) fn place(&self) -> Option<(u32, u32)> {
        (self.generation > 0).then_some((self.member?, self.generation))
    }

    /// Whether a partition is its own, one that it is being given included.
    pub(super) fn owns(&self, id: &PartitionId) -> bool {
        let partition = number(id);
        let coming = self.step.as_ref().filter(|step| step.assigns);
        self.cursors.contains_key(&partition)
            || coming.is_some_and(|step| step.partitions.contains(&partition))
    }
}
