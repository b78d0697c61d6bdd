//! One process: a real core between its consumer, its pool and its sink.
//!
//! After every step it is checked what can be seen from outside the core: nothing is started that
//! may not be, at most one commit is out and none of a stale epoch, what is in flight is bounded, a
//! revocation that is answered in time is settled, and the core never asks to be woken for nothing.

mod checks;
mod hears;
mod notes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::checker::Effect;
use super::coverage::Seen;
use super::delivery::{Call, Delivery};
use super::log::number;
use super::plan::StoreKind;
use super::pool::Pool;
use super::source::Source;
use super::world::Shared;
use crate::Error;
use crate::batch::Span;
use crate::engine::core::{Action, Control, Core, Event};
use crate::record::Epoch;
use crate::source::Wanted;

/// Steps without events that may follow one another before the core has nothing to do.
const ROUNDS: usize = 20;

pub(super) struct Member {
    pub(super) number: usize,
    pub(super) core: Core<Effect>,
    pub(super) source: Source,
    pub(super) pool: Pool,
    pub(super) delivery: Delivery,
    origin: Duration,
    pub(super) asks: Vec<Ask>,
    answers: VecDeque<Event<Effect>>,
    controls: VecDeque<Event<Effect>>,
    /// Requests of the handle that wait for their reply.
    pub(super) waiting: BTreeMap<u64, Asked>,
    /// Partitions of which records may be started.
    mine: BTreeSet<usize>,
    pub(super) paused: BTreeSet<usize>,
    revocations: BTreeMap<u64, (Vec<usize>, Duration)>,
    epochs: BTreeMap<usize, Epoch>,
    commits_out: usize,
    last_commit: Option<(Span, usize)>,
    pub(super) stopping: bool,
    /// When a stop under way ends everything.
    stops_by: Option<Duration>,
    pub(super) frozen_until: Option<Duration>,
    pub(super) finished: Option<Result<(), Error>>,
}

/// What is asked of others than the sink; answers come in any order.
pub(super) enum Ask {
    Resolve(crate::engine::core::Call, Vec<Wanted>),
    Prove(Vec<Span>),
}

/// What a request was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    Pause(Option<usize>),
    Resume(Option<usize>),
    Seek(usize),
    Other,
}

impl Member {
    pub(super) fn new(number: usize, shared: &mut Shared) -> Self {
        let core = Core::new(shared.plan.core(shared.chance.seed()));
        let process = shared.number();
        let is_named = shared.plan.is_named && shared.plan.store == StoreKind::Kafka;
        // No process has a number as high.
        let name = if is_named { u64::MAX - number as u64 } else { process };
        Self {
            number,
            core,
            source: Source::new(shared.now),
            pool: Pool::default(),
            delivery: Delivery::new(name, shared),
            origin: shared.now,
            asks: Vec::new(),
            answers: VecDeque::new(),
            controls: VecDeque::new(),
            waiting: BTreeMap::new(),
            mine: BTreeSet::new(),
            paused: BTreeSet::new(),
            revocations: BTreeMap::new(),
            epochs: BTreeMap::new(),
            commits_out: 0,
            last_commit: None,
            stopping: false,
            stops_by: None,
            frozen_until: None,
            finished: None,
        }
    }

    pub(super) fn is_frozen(&self, now: Duration) -> bool {
        self.frozen_until.is_some_and(|until| until > now)
    }

    /// When the core wants to be called, in the time of the run.
    pub(super) fn wakes_at(&self) -> Option<Duration> {
        self.core.wake_at().map(|at| self.origin.saturating_add(at))
    }

    /// Whether something waits to be taken in.
    pub(super) fn has_input(&self) -> bool {
        self.source.has_said() > 0
            || !self.answers.is_empty()
            || !self.controls.is_empty()
            || self.pool.has_finished()
    }

    pub(super) fn ask(&mut self, control: Control, asked: Asked, shared: &mut Shared) {
        let id = shared.number();
        self.waiting.insert(id, asked);
        self.controls.push_back(Event::Control { id, control });
    }

    pub(super) fn stop(&mut self) {
        self.controls.push_back(Event::Stop { why: "asked".into(), within: None });
    }

    /// Takes the sink's call under way a step further.
    pub(super) fn deliver(&mut self, shared: &mut Shared) -> bool {
        let (moved, answer) = self.delivery.advance(&self.source, shared);
        self.answers.extend(answer);
        moved
    }

    /// An answer that does not come from the sink.
    pub(super) fn push_answer(&mut self, event: Event<Effect>) {
        self.answers.push_back(event);
    }

    /// Hands the core what has arrived, all of it or a part, and performs what it says.
    pub(super) fn step(&mut self, shared: &mut Shared, everything: bool) {
        let events = self.gather(shared, everything);
        let mut told = 0;
        self.run_core(events, shared, &mut told);
        for round in 0.. {
            let due = self.wakes_at().is_some_and(|at| at <= shared.now);
            if !due || self.finished.is_some() {
                break;
            }
            self.run_core(Vec::new(), shared, &mut told);
            if round > ROUNDS {
                shared.fail(format!(
                    "m{}: the core asks to be woken for nothing: {:?}",
                    self.number,
                    self.core.status()
                ));
                break;
            }
        }
        self.check_bounds(shared);
    }

    fn gather(&mut self, shared: &mut Shared, everything: bool) -> Vec<Event<Effect>> {
        let chance = &mut shared.chance;
        let mut some = |most: usize| match everything || chance.coin() {
            true => most,
            false => chance.below(most + 1),
        };
        let (mut said, mut answered) = (some(self.source.has_said()), some(self.answers.len()));
        let mut events = Vec::new();
        while said + answered > 0 {
            if answered == 0 || (said > 0 && chance.coin()) {
                said -= 1;
                events.extend(self.source.next_said());
            } else {
                answered -= 1;
                events.extend(self.answers.pop_front());
            }
        }
        events.extend(self.controls.drain(..));
        let completions = self.pool.drain();
        if !completions.is_empty() {
            let at = chance.below(events.len() + 1);
            events.insert(at, Event::Completed(completions));
        }
        events
    }

    fn run_core(&mut self, events: Vec<Event<Effect>>, shared: &mut Shared, told: &mut usize) {
        for event in &events {
            self.before(event, shared);
        }
        let mut actions = Vec::new();
        let before = self.core.totals();
        self.core.step(shared.now - self.origin, events, &mut actions);
        let after = self.core.totals();
        if after.stale_results > before.stale_results {
            shared.cover.saw(Seen::StaleResult);
        }
        *told += actions.len();
        for action in actions {
            self.perform(action, shared);
        }
    }

    /// What the core is about to learn, as far as the checks need it.
    fn before(&mut self, event: &Event<Effect>, shared: &mut Shared) {
        let number_of = |ids: &[crate::record::PartitionId]| ids.iter().map(number).collect();
        let (name, numbers): (&str, Vec<i64>) = match event {
            Event::Assigned { partitions, .. } => {
                let names: Vec<usize> = partitions.iter().map(|p| number(&p.partition)).collect();
                self.mine.extend(&names);
                if names.iter().any(|p| self.paused.contains(p)) {
                    shared.cover.saw(Seen::PausedAndRegained);
                }
                ("assigned", names.iter().map(|p| *p as i64).collect())
            }
            Event::Revoked { id, partitions, deadline } => {
                let names: Vec<usize> = number_of(partitions);
                if !shared.plan.is_at_most_once() {
                    self.mine.retain(|p| !names.contains(p));
                }
                let now = shared.now - self.origin;
                let deadline = (*deadline).min(now + shared.plan.limits.drain_max);
                let numbers = names.iter().map(|p| *p as i64).collect();
                self.revocations.insert(*id, (names, deadline));
                ("revoked", numbers)
            }
            Event::Lost(partitions) => {
                let names: Vec<usize> = number_of(partitions);
                self.mine.retain(|p| !names.contains(p));
                ("lost", names.iter().map(|p| *p as i64).collect())
            }
            Event::Records(chunk) => {
                let partition = number(&chunk.partition);
                if self.epochs.get(&partition) != Some(&chunk.epoch) {
                    shared.cover.saw(Seen::StaleChunk);
                }
                let first = chunk.records.first().map_or(-1, |record| record.offset.get());
                ("records", vec![partition as i64, first, chunk.records.len() as i64])
            }
            Event::End { partition, next, .. } => {
                ("end", vec![number(partition) as i64, next.get()])
            }
            Event::Committed { .. } => {
                self.commits_out -= 1;
                ("commit ended", vec![])
            }
            Event::Stop { .. } => {
                self.stopping = true;
                ("stop", vec![])
            }
            Event::Control { control, .. } => {
                if let Control::Skip { partition, offset } = control {
                    shared.history.may_skip(number(partition), offset.get());
                }
                shared.trace.say(shared.now, || format!("m{} asks {control:?}", self.number));
                ("control", vec![])
            }
            Event::Completed(completions) => ("completed", vec![completions.len() as i64]),
            Event::Claimed(result) => ("claim ended", vec![i64::from(result.is_ok())]),
            Event::Resolved { result, .. } => ("resolved", vec![i64::from(result.is_ok())]),
            Event::Repositioned { result, .. } => ("repositioned", vec![i64::from(result.is_ok())]),
            Event::Proved(result) => ("proved", vec![i64::from(result.is_ok())]),
            Event::Admitted(result) => ("admitted", vec![i64::from(result.is_ok())]),
            Event::PartitionFailed { partition, .. } => ("failed", vec![number(partition) as i64]),
            Event::Released { .. } => ("released", vec![]),
            Event::Ends(_) => ("ends", vec![]),
            Event::GroupChanged => ("group changed", vec![]),
            Event::SourceFailed(_) => ("source failed", vec![]),
        };
        shared.trace.note(shared.now, self.number, name, &numbers);
    }

    fn perform(&mut self, action: Action<Effect>, shared: &mut Shared) {
        if self.finished.is_some() {
            return;
        }
        self.note_action(&action, shared);
        match action {
            Action::AnswerAssigned { id, starts } => {
                self.check_starts(&starts, shared);
                self.source.answer_assigned(id, &starts, shared);
            }
            Action::AnswerRevoked { id } => {
                self.check_settled(id, shared);
                self.source.answer_revoked(id, shared);
            }
            Action::Credit(grants) => self.source.credit(grants),
            Action::StartReading(starts) => {
                self.check_starts(&starts, shared);
                self.source.reposition(&starts);
            }
            Action::Resolve { call, wanted } => self.asks.push(Ask::Resolve(call, wanted)),
            Action::Prove(spans) => self.asks.push(Ask::Prove(spans)),
            Action::Mirror(_) => {}
            Action::Claim(requests) => self.delivery.call(Call::Claim(requests)),
            Action::Reposition { call, moves } => {
                self.delivery.call(Call::Reposition { call, moves });
            }
            Action::Admit(spans) => self.delivery.call(Call::Admit(spans)),
            Action::Commit(batch) => {
                self.check_commit(&batch, shared);
                self.delivery.call(Call::Commit(batch));
            }
            Action::Release { revocation, partitions } => {
                self.delivery.call(Call::Release { revocation, partitions });
            }
            Action::Run(jobs) => {
                self.check_jobs(&jobs, shared);
                self.pool.submit(jobs);
            }
            Action::WriteOff { key, seq } => self.pool.write_off(key, seq),
            Action::Reply { id, reply } => self.replied(id, &reply, shared),
            Action::Tell(event) => self.told(&event, shared),
            Action::Finish(result) => {
                shared.trace.say(shared.now, || format!("m{} ends: {result:?}", self.number));
                self.finished = Some(result);
            }
        }
    }
}
