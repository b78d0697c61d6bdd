//! A pool without threads: jobs go on in a random order, one call at a time per worker.
//!
//! It keeps the promises of the real one: it looks at the gate before each record, ends a run at
//! the first failure or when its turn is over, and says nothing more of a job that was written off. It checks what the core
//! must keep: records of one lane never run at the same time, and never out of order.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::checker::Effect;
use super::coverage::Seen;
use super::log::{Nature, number};
use super::plan::Planted;
use super::world::Shared;
use crate::batch::DeadReason;
use crate::engine::work::{Completion, Gate, Job, LaneKey, Said, Ticket};
use crate::process::{Attempt, Failure};
use crate::record::Epoch;
use crate::settings::Order;

#[derive(Default)]
pub(super) struct Pool {
    jobs: Vec<Active>,
    finished: Vec<Completion<Effect>>,
    /// What was started last in each order.
    order: BTreeMap<(usize, Epoch, Domain), Last>,
}

/// The record that was started last.
struct Last {
    seq: u64,
    lane: u32,
    /// Whether it still runs.
    running: bool,
}

/// What must run one after another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Domain {
    All,
    Key(Option<Bytes>),
    Record(u64),
}

struct Active {
    key: LaneKey,
    gate: Arc<Gate>,
    waiting: std::collections::VecDeque<Ticket>,
    running: Option<Ticket>,
    hangs: bool,
    /// The first and the last record it began with.
    first: u64,
    last: u64,
}

impl Pool {
    pub(super) fn submit(&mut self, jobs: Vec<Job>) {
        self.jobs.extend(jobs.into_iter().map(|job| Active {
            key: job.key,
            gate: job.gate,
            first: job.tickets.first().map_or(0, |ticket| ticket.seq),
            last: job.tickets.last().map_or(0, |ticket| ticket.seq),
            waiting: job.tickets.into(),
            running: None,
            hangs: false,
        }));
    }

    pub(super) fn drain(&mut self) -> Vec<Completion<Effect>> {
        std::mem::take(&mut self.finished)
    }

    pub(super) fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Records whose call never returns.
    pub(super) fn hung(&self) -> Vec<(usize, i64)> {
        let hung = self.jobs.iter().filter(|job| job.hangs);
        hung.filter_map(|job| job.running.as_ref())
            .map(|ticket| (number(&ticket.record.partition), ticket.record.offset.get()))
            .collect()
    }

    /// Whether a record of this partition and epoch is being run.
    pub(super) fn runs(&self, partition: usize, epoch: Epoch) -> bool {
        self.jobs.iter().any(|job| {
            let running = job.running.as_ref();
            job.key.epoch == epoch
                && running.is_some_and(|ticket| number(&ticket.record.partition) == partition)
        })
    }

    /// Takes one job a step further; `false` if nothing can go on.
    pub(super) fn work(&mut self, shared: &mut Shared) -> bool {
        let busy = self.jobs.iter().filter(|job| job.running.is_some() && !job.hangs).count();
        let may_start = busy < shared.plan.workers;
        let able: Vec<usize> = (0..self.jobs.len())
            .filter(|at| match &self.jobs[*at].running {
                Some(_) => !self.jobs[*at].hangs,
                None => may_start,
            })
            .collect();
        if able.is_empty() {
            return false;
        }
        let at = able[shared.chance.below(able.len())];
        match self.jobs[at].running.take() {
            Some(ticket) => self.end(at, ticket, shared),
            None => self.start(at, shared),
        }
        true
    }

    fn start(&mut self, at: usize, shared: &mut Shared) {
        let job = &mut self.jobs[at];
        let ticket = match shared.plan.has(Planted::Backwards) {
            true => job.waiting.pop_back(),
            false => job.waiting.pop_front(),
        };
        let ticket = ticket.expect("a job without records is removed");
        let turn_is_over = ticket.seq > job.first && shared.chance.below(8) == 0;
        if turn_is_over {
            shared.cover.saw(Seen::TurnOver);
        }
        if turn_is_over || job.gate.is_closed() {
            let (key, seq) = (job.key, ticket.seq);
            self.finished.push(Completion { key, seq, said: Said::NotStarted });
            self.jobs.swap_remove(at);
            return;
        }
        let partition = number(&ticket.record.partition);
        let nature =
            shared.logs.get(partition).at(ticket.record.offset.get()).expect("read").nature;
        // A call that hangs once works when the record is read again.
        job.hangs = nature == Nature::Hangs
            && !shared.chance.is_calm()
            && ticket.attempt == 1
            && shared.chance.coin();
        if job.hangs {
            shared.cover.saw(Seen::Hung);
        }
        let domain = match shared.plan.order {
            Order::ByPartition => Domain::All,
            Order::ByKey => Domain::Key(ticket.record.key.clone()),
            Order::Unordered => Domain::Record(ticket.seq),
        };
        let last = self.order.get(&(partition, job.key.epoch, domain.clone()));
        if let Some(Last { seq, running, .. }) = last
            && (*running || *seq > ticket.seq)
        {
            shared.fail(format!(
                "{:?} starts beside or behind its successor {seq}, running: {running}",
                ticket.record
            ));
        }
        let last = Last { seq: ticket.seq, lane: job.key.lane, running: true };
        self.order.insert((partition, job.key.epoch, domain), last);
        job.running = Some(ticket);
    }

    fn end(&mut self, at: usize, ticket: Ticket, shared: &mut Shared) {
        let key = self.jobs[at].key;
        self.no_longer_runs(key.epoch, &ticket);
        let attempt = said_of(&ticket, shared);
        let failed = matches!(attempt, Attempt::Failed(_));
        self.finished.push(Completion { key, seq: ticket.seq, said: Said::Attempt(attempt) });
        let job = &mut self.jobs[at];
        if failed && let Some(next) = job.waiting.front() {
            let seq = next.seq;
            self.finished.push(Completion { key, seq, said: Said::NotStarted });
            job.waiting.clear();
        }
        if self.jobs[at].waiting.is_empty() {
            self.jobs.swap_remove(at);
        }
    }

    fn no_longer_runs(&mut self, epoch: Epoch, ticket: &Ticket) {
        let partition = number(&ticket.record.partition);
        for ((p, e, _), last) in &mut self.order {
            if *p == partition && *e == epoch && last.seq == ticket.seq {
                last.running = false;
            }
        }
    }

    /// The job that holds this record is abandoned: nothing more is heard of it.
    pub(super) fn write_off(&mut self, key: LaneKey, seq: u64) {
        self.finished.retain(|done| done.key != key || done.seq < seq);
        let holds = |job: &Active| job.key == key && (job.first..=job.last).contains(&seq);
        if let Some(at) = self.jobs.iter().position(holds) {
            self.jobs.swap_remove(at);
        }
        // What had been run behind the written-off record is run once more, also where the job had
        // ended and only its words were still on their way.
        self.order.retain(|(_, epoch, _), last| {
            (*epoch, last.lane) != (key.epoch, key.lane) || last.seq < seq
        });
    }
}

/// What the call of this record says, the same each time it is read.
fn said_of(ticket: &Ticket, shared: &mut Shared) -> Attempt<Effect> {
    let partition = number(&ticket.record.partition);
    let offset = ticket.record.offset.get();
    let emits = |count: u8| {
        let outputs = (0..count).map(|index| Effect { partition, offset, index });
        Attempt::Done(Some(outputs.collect()))
    };
    let fails = |retriable| {
        let error = "does not work".to_owned();
        Attempt::Failed(Failure { reason: DeadReason::Process, error, retriable })
    };
    match shared.logs.get(partition).at(offset).expect("read").nature {
        Nature::Emits(count) => emits(count),
        Nature::Filtered => Attempt::Done(None),
        Nature::FailsFirst(times) if ticket.attempt <= times => fails(true),
        Nature::FailsFirst(_) | Nature::Hangs | Nature::Refused | Nature::RefusedTwice => emits(1),
        Nature::Poison => fails(shared.chance.coin()),
    }
}
