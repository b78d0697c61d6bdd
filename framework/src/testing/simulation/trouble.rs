//! What goes wrong while a run is young, and how it calms down.

use std::time::Duration;

use super::chance::Fault;
use super::coverage::Seen;
use super::member::{Asked, Member};
use super::plan::{StoreKind, ms};
use super::store::Store;
use super::world::{Shared, World, answer_one};
use crate::engine::core::{Control, PartitionState, SeekTo};
use crate::record::Offset;

/// Rounds after which a run that has calmed down must be done, and the time they may take.
const ROUNDS_MAX: usize = 30_000;
const CALM_SECONDS: u64 = 180;
/// How often somebody looks after the members then.
const LOOKS_EVERY: Duration = ms(200);

impl World {
    /// One kind of trouble, for one member.
    pub(super) fn make_trouble(&mut self, at: usize) {
        let Some(member) = &mut self.members[at] else {
            if self.shared.chance.one_in(3) {
                self.shared.cover.saw(Seen::Restarted);
                self.members[at] = Some(Member::new(at, &mut self.shared));
            }
            return;
        };
        let shared = &mut self.shared;
        let kinds = [
            Fault::Crash,
            Fault::Freeze,
            Fault::Evict,
            Fault::Pause,
            Fault::Seek,
            Fault::Skip,
            Fault::Stop,
            Fault::FailOver,
            Fault::Retention,
        ];
        let kind = kinds[shared.chance.below(kinds.len())];
        if !shared.chance.is_on(kind) || !shared.chance.one_in(3) {
            return;
        }
        shared.trace.say(shared.now, || format!("m{at} {kind:?}"));
        match kind {
            Fault::Crash => self.crash(at),
            Fault::Freeze if !member.is_frozen(shared.now) => freeze(member, shared),
            Fault::Evict => {
                if let Some(id) = member.source.member() {
                    shared.group.remove(id);
                }
                // It goes on for a while as if nothing had happened.
                member.source.deafen(shared.now + ms(shared.chance.between(0, 1500)));
            }
            Fault::Pause => pause_or_resume(member, shared),
            Fault::Seek => seek(member, shared),
            Fault::Skip => skip(member, shared),
            Fault::Stop => member.stop(),
            Fault::FailOver => fail_over(shared),
            Fault::Retention => {
                let number = shared.chance.below(shared.logs.len());
                let log = shared.logs.get(number);
                let (low, end) = (log.low() as u64, log.end() as u64);
                let low = shared.chance.between(low, end);
                shared.logs.delete_before(number, low as i64);
            }
            _ => {}
        }
    }

    fn crash(&mut self, at: usize) {
        let Some(member) = self.members[at].take() else { return };
        let shared = &mut self.shared;
        shared.cover.saw(Seen::Crashed);
        if member.delivery.is_committing() {
            shared.cover.saw(Seen::CrashedInCommit);
        }
        if let Some(id) = member.source.member() {
            shared.group.silent(id, Some(shared.now));
        }
        member.delivery.die(shared);
    }

    /// The trouble ends: everything must be drained, and everybody stops when asked.
    pub(super) fn calm_down(&mut self) {
        self.shared.chance.calm();
        self.shared.logs.produce_all();
        let deadline = self.shared.now + ms(CALM_SECONDS * 1000);
        let mut looked = Duration::ZERO;
        for _ in 0..ROUNDS_MAX {
            if self.shared.wrong.is_some() || self.is_done() {
                break;
            }
            if self.shared.now > deadline {
                self.stuck("is not drained");
                return;
            }
            if looked + LOOKS_EVERY <= self.shared.now {
                looked = self.shared.now;
                self.operate();
            }
            if !self.round() {
                self.wait();
            }
        }
        if self.shared.wrong.is_some() {
            return;
        }
        if !self.is_done() {
            self.stuck("goes round and round");
            return;
        }
        self.stop_all();
    }

    fn is_done(&self) -> bool {
        let mut living = self.members.iter().flatten();
        let stays_down = self.shared.stays_down();
        if stays_down && living.clone().next().is_none() {
            return true;
        }
        (stays_down || self.members.iter().all(Option::is_some))
            && self.shared.is_drained()
            && self.shared.group.is_settled()
            && living.all(|member| member.waiting.is_empty())
    }

    /// Everybody does everything there is to do; `false` if there was nothing.
    fn round(&mut self) -> bool {
        let mut moved = self.shared.tick_group();
        moved |= self.shared.store.has_strays() && self.tick_strays();
        for at in 0..self.members.len() {
            let Some(member) = &mut self.members[at] else { continue };
            if member.is_frozen(self.shared.now) {
                continue;
            }
            let shared = &mut self.shared;
            moved |= member.source.poll(shared);
            moved |= member.source.read(shared);
            moved |= member.pool.work(shared);
            moved |= member.deliver(shared);
            moved |= answer_one(member, shared);
            let due = member.wakes_at().is_some_and(|at| at <= shared.now);
            if member.has_input() || due {
                moved = true;
                member.step(shared, true);
            }
        }
        self.end_members();
        moved
    }

    /// Nothing can move now: the time goes on to the next thing that is due.
    fn wait(&mut self) {
        let now = self.shared.now;
        let members = self.members.iter().flatten();
        let due = members.flat_map(|member| {
            let core = [member.wakes_at(), member.source.deadline(), member.delivery.wakes_at()];
            core.into_iter().chain([member.frozen_until]).flatten()
        });
        let next = due.filter(|at| *at > now).min().unwrap_or(now + ms(50));
        self.advance_to(next.min(now + ms(50)));
    }

    /// What somebody does who watches: restarts what ended, resumes, skips what hangs, and seeks
    /// partitions that stopped.
    fn operate(&mut self) {
        for at in 0..self.members.len() {
            let shared = &mut self.shared;
            let Some(member) = &mut self.members[at] else {
                if !shared.stays_down() {
                    self.members[at] = Some(Member::new(at, shared));
                }
                continue;
            };
            if member.stopping || !member.waiting.is_empty() {
                continue;
            }
            if is_elsewhere_at_rest(member, shared) {
                member.stop();
                continue;
            }
            if !member.paused.is_empty() {
                member.ask(Control::Resume(None), Asked::Resume(None), shared);
            }
            let hung = member.pool.hung();
            let status = member.core.status().partitions;
            for holder in status.iter().filter_map(|p| p.holder.as_ref()) {
                let (partition, offset) = (holder.record.partition.clone(), holder.record.offset);
                if hung.contains(&(super::log::number(&partition), offset.get())) {
                    member.ask(Control::Skip { partition, offset }, Asked::Other, shared);
                }
            }
            for partition in
                status.into_iter().filter(|p| matches!(p.state, PartitionState::Stopped(_)))
            {
                let to = SeekTo::Offset(partition.committed);
                let partition = partition.partition;
                let low = shared.logs.get(super::log::number(&partition)).low();
                let fell_out = matches!(to, SeekTo::Offset(at) if at.get() < low);
                let is_lost = shared.history.progress(super::log::number(&partition)).is_none();
                let to = if fell_out || is_lost { SeekTo::Beginning } else { to };
                let asked = Asked::Seek(super::log::number(&partition));
                member.ask(Control::Seek { partition, to }, asked, shared);
            }
        }
    }

    fn stop_all(&mut self) {
        for member in self.members.iter_mut().flatten() {
            member.stop();
        }
        let patience = self.shared.plan.limits.stop_max + ms(500);
        let deadline = self.shared.now + patience;
        while self.members.iter().any(Option::is_some) && self.shared.wrong.is_none() {
            if self.shared.now > deadline {
                return self.stuck("does not stop");
            }
            if !self.round() {
                self.wait();
            }
        }
    }

    fn tick_strays(&mut self) -> bool {
        self.shared.tick_store()
    }

    fn stuck(&mut self, how: &str) {
        let progress: Vec<_> = (0..self.shared.logs.len())
            .map(|p| (self.shared.history.progress(p), self.shared.logs.get(p).end()))
            .collect();
        let status: Vec<_> =
            self.members.iter().flatten().map(|m| (m.number, m.core.status().partitions)).collect();
        self.shared.fail(format!("it {how}: progress and end {progress:?}, {status:#?}"));
    }
}

/// Whether a partition at rest stands elsewhere than a fail-over, or an operator at a member that was
/// put out, has left its progress: it would notice with its next record, and there is none.
fn is_elsewhere_at_rest(member: &Member, shared: &Shared) -> bool {
    member.core.status().partitions.iter().any(|partition| {
        let number = super::log::number(&partition.partition);
        let was_moved = shared.history.was_rewound() || shared.history.was_sought(number);
        was_moved
            && partition.in_flight_records == 0
            && partition.state == PartitionState::Running
            && shared.history.progress(number) != Some(partition.committed.get())
    })
}

/// The database goes on somewhere else, from an earlier state.
fn fail_over(shared: &mut Shared) {
    let Shared { chance, history, store: Store::Sql(sql), .. } = shared else { return };
    let Some(lost) = sql.fail_over(chance, history) else { return };
    if lost > 0 {
        shared.cover.saw(Seen::FailedOver);
    }
    if (0..shared.logs.len()).any(|partition| shared.history.progress(partition).is_none()) {
        shared.cover.saw(Seen::StartForgotten);
    }
    shared.trace.note(shared.now, 9, "fail-over", &[lost as i64]);
}

fn freeze(member: &mut Member, shared: &mut Shared) {
    shared.cover.saw(Seen::Frozen);
    if member.delivery.is_committing() {
        shared.cover.saw(Seen::FrozenInCommit);
    }
    member.frozen_until = Some(shared.now + ms(shared.chance.between(50, 4000)));
    if let Some(id) = member.source.member() {
        shared.group.silent(id, Some(shared.now));
    }
    let longer = ms(shared.chance.between(0, 300));
    member.source.deafen(member.frozen_until.unwrap_or_default() + longer);
}

fn pause_or_resume(member: &mut Member, shared: &mut Shared) {
    let partition = shared.chance.below(shared.logs.len());
    let which = if shared.chance.one_in(3) { None } else { Some(partition) };
    let id = which.map(|partition| shared.logs.id(partition));
    if member.paused.is_empty() || shared.chance.one_in(3) {
        member.ask(Control::Pause(id), Asked::Pause(which), shared);
    } else {
        member.ask(Control::Resume(id), Asked::Resume(which), shared);
    }
}

fn seek(member: &mut Member, shared: &mut Shared) {
    if shared.plan.store == StoreKind::AtLeastOnce {
        return;
    }
    let number = shared.chance.below(shared.logs.len());
    let (low, end) = (shared.logs.get(number).low(), shared.logs.get(number).end());
    let from = (low - 1).max(0);
    let at = from + shared.chance.between(0, (end - from) as u64 + 2) as i64;
    let to = match shared.chance.below(4) {
        0 => SeekTo::Beginning,
        1 => SeekTo::End,
        _ => SeekTo::Offset(Offset::new(at)),
    };
    let partition = shared.logs.id(number);
    member.ask(Control::Seek { partition, to }, Asked::Seek(number), shared);
}

fn skip(member: &mut Member, shared: &mut Shared) {
    let hung = member.pool.hung();
    let holders = member.core.status().partitions.into_iter().filter_map(|p| p.holder);
    let held: Vec<_> = holders.map(|holder| holder.record).collect();
    let (partition, offset) = match (hung.first(), held.first()) {
        (Some((partition, offset)), _) => (shared.logs.id(*partition), Offset::new(*offset)),
        (None, Some(record)) => (record.partition.clone(), record.offset),
        (None, None) => return,
    };
    member.ask(Control::Skip { partition, offset }, Asked::Other, shared);
}
