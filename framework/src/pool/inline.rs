//! The pool of simulation and tests: no threads, one record at each drain, in a seeded order.
//!
//! Whatever order threads could finish in, some seed produces, and produces again. Calls of async
//! functions are polled where they stand; what they wait for wakes the engine.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;

use super::{Replaced, Running, Workers, attempted, not_started, panicked};
use crate::engine::work::{Completion, Gate, Job, LaneKey, Ticket};
use crate::process::{Attempt, Process};

pub(super) struct Inline<O> {
    process: Process<O>,
    random: fastrand::Rng,
    wake: Arc<Notify>,
    jobs: Vec<Active<O>>,
}

/// A job that is not at its end; `waiting` and `call` are never both empty.
struct Active<O> {
    key: LaneKey,
    gate: Arc<Gate>,
    waiting: VecDeque<Ticket>,
    call: Option<Call<O>>,
}

/// A call that was begun.
struct Call<O> {
    seq: u64,
    since: Instant,
    answer: BoxFuture<'static, Attempt<O>>,
}

impl<O: Send + 'static> Inline<O> {
    pub(super) fn new(process: Process<O>, seed: u64, wake: Arc<Notify>) -> Self {
        Self { process, random: fastrand::Rng::with_seed(seed), wake, jobs: Vec::new() }
    }

    /// Takes one job as far as one record's end, or as far as its call goes without waiting.
    fn step(&mut self, at: usize, finished: &mut Vec<Completion<O>>) {
        let job = &mut self.jobs[at];
        let key = job.key;
        let call = match &mut job.call {
            Some(call) => call,
            None => {
                let ticket = job.waiting.pop_front().expect("the job is not at its end");
                if job.gate.is_closed() {
                    finished.push(not_started(key, ticket.seq));
                    self.jobs.swap_remove(at);
                    return;
                }
                job.call.insert(Call::begin(&self.process, ticket))
            }
        };
        let waker = Waker::from(Arc::new(Ringer(Arc::clone(&self.wake))));
        let Poll::Ready(attempt) = call.answer.poll_unpin(&mut Context::from_waker(&waker)) else {
            return;
        };
        let failed = matches!(attempt, Attempt::Failed(_));
        finished.push(attempted(key, call.seq, attempt));
        job.call = None;
        let rest = job.waiting.front();
        if failed && let Some(rest) = rest {
            finished.push(not_started(key, rest.seq));
        }
        if failed || rest.is_none() {
            self.jobs.swap_remove(at);
        }
    }
}

impl<O: Send + 'static> Workers<O> for Inline<O> {
    fn submit(&mut self, jobs: Vec<Job>) {
        let jobs = jobs.into_iter().filter(|job| !job.tickets.is_empty());
        self.jobs.extend(jobs.map(|job| Active {
            key: job.key,
            gate: job.gate,
            waiting: job.tickets.into(),
            call: None,
        }));
        self.wake.notify_one();
    }

    fn drain(&mut self, finished: &mut Vec<Completion<O>>) {
        // Calls that wait for something are polled on the way to the first record that ends.
        let before = finished.len();
        let mut untried: Vec<usize> = (0..self.jobs.len()).collect();
        while finished.len() == before && !untried.is_empty() {
            let at = untried.swap_remove(self.random.usize(..untried.len()));
            self.step(at, finished);
        }
        if finished.len() > before && !self.jobs.is_empty() {
            self.wake.notify_one();
        }
    }

    fn running(&self) -> Vec<Running> {
        let begun = self.jobs.iter().enumerate();
        begun
            .filter_map(|(worker, job)| {
                let call = job.call.as_ref()?;
                Some(Running { worker, key: job.key, seq: call.seq, since: call.since })
            })
            .collect()
    }

    fn replace(&mut self, key: LaneKey, seq: u64) -> Replaced {
        let place = self.jobs.iter().position(|job| job.holds(key, seq));
        match place.map(|place| self.jobs.swap_remove(place)) {
            Some(_) => Replaced::Yes,
            None => Replaced::NotOut,
        }
    }

    fn shutdown(&mut self) -> Vec<Running> {
        let running = self.running();
        self.jobs.clear();
        running
    }
}

impl<O> Active<O> {
    fn holds(&self, key: LaneKey, seq: u64) -> bool {
        let calling = self.call.as_ref().is_some_and(|call| call.seq == seq);
        self.key == key && (calling || self.waiting.iter().any(|ticket| ticket.seq == seq))
    }
}

impl<O: Send + 'static> Call<O> {
    fn begin(process: &Process<O>, ticket: Ticket) -> Self {
        let process = process.clone();
        let call = async move {
            match process {
                Process::Sync(function) => function(&ticket.record, ticket.attempt),
                Process::Async(function) => function(ticket.record, ticket.attempt).await,
            }
        };
        let caught = AssertUnwindSafe(call).catch_unwind();
        Self {
            seq: ticket.seq,
            since: Instant::now(),
            answer: caught.map(|said| said.unwrap_or_else(panicked)).boxed(),
        }
    }
}

struct Ringer(Arc<Notify>);

impl Wake for Ringer {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}
