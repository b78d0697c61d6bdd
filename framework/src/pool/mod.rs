//! Where user functions run: threads for sync ones, tasks for async ones, in line for simulation.
//!
//! The pool knows nothing of order, retries or limits. It runs each [`Job`] — records of one lane —
//! from front to back on one worker, looks at the job's gate before each record, and reports
//! [`Completion`]s. How much is out at once is bounded by what the core hands out.

mod bell;
#[cfg(any(test, feature = "testing"))]
mod inline;
mod tasks;
mod threads;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::batch::DeadReason;
use crate::engine::work::{Completion, Job, LaneKey, Said};
use crate::error::Error;
use crate::mutant;
use crate::process::{Attempt, Failure, Process};

use bell::Bell;
use tasks::Tasks;
use threads::Threads;

/// Runs user functions: on threads, as tasks, or in line.
pub(crate) struct Pool<O>(Box<dyn Workers<O>>);

/// What a worker is running at this moment.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    /// The number of the thread or of the task.
    pub(crate) worker: usize,
    pub(crate) key: LaneKey,
    pub(crate) seq: u64,
    /// When this call began.
    pub(crate) since: Instant,
}

/// What [`Pool::replace`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Replaced {
    /// The job is abandoned and as many workers are at work as before.
    Yes,
    /// The job is abandoned, but its worker could not be replaced: as many replaced workers hang
    /// as the pool has threads, or the system gives no more threads. The pool is one worker
    /// smaller until one of them comes back.
    Shrunk,
    /// No such record is out: its completion was drained already.
    NotOut,
}

impl<O: Send + 'static> Pool<O> {
    /// Starts the pool that this kind of function needs: `threads` threads, or tasks on the
    /// current tokio runtime. A thread that has run one job for a `turn` takes another. `wake` is notified when [`Pool::drain`] has something to take.
    pub(crate) fn start(
        threads: usize,
        process: Process<O>,
        turn: Duration,
        wake: Arc<Notify>,
    ) -> Result<Self, Error> {
        let bell = Bell::new(wake);
        Ok(Self(match process {
            Process::Sync(function) => Box::new(Threads::start(threads, function, turn, bell)?),
            Process::Async(function) => Box::new(Tasks::start(function, bell)),
        }))
    }

    /// A pool without threads: each [`Pool::drain`] runs one record, of a job that the seed
    /// chooses. One seed always gives one order.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn inline(process: Process<O>, seed: u64, wake: Arc<Notify>) -> Self {
        Self(Box::new(inline::Inline::new(process, seed, wake)))
    }

    /// Hands out jobs. A lane may be in one job at a time, unless that job was abandoned by
    /// [`Pool::replace`].
    pub(crate) fn submit(&mut self, jobs: Vec<Job>) {
        self.0.submit(jobs);
    }

    /// Appends everything that is finished by now. Completions of one job come in order; the
    /// failure that ended a run and the [`Said::NotStarted`] of what was behind it come together.
    pub(crate) fn drain(&mut self, finished: &mut Vec<Completion<O>>) {
        self.0.drain(finished);
    }

    /// What every worker runs right now and since when.
    pub(crate) fn running(&self) -> Vec<Running> {
        self.0.running()
    }

    /// Abandons the job that holds this record, wherever it stands: nothing at or behind the
    /// record will ever be reported, and what was not started never runs. The worker is written
    /// off and another takes its place; when the function returns after all, its answer is
    /// dropped.
    pub(crate) fn replace(&mut self, key: LaneKey, seq: u64) -> Replaced {
        self.0.replace(key, seq)
    }

    /// Drops what was not started and answers what is still running. Never waits: a thread ends by
    /// itself when its function returns, and a stuck one is left behind.
    pub(crate) fn shutdown(&mut self) -> Vec<Running> {
        self.0.shutdown()
    }
}

/// One kind of pool; the contract is [`Pool`]'s.
trait Workers<O>: Send {
    fn submit(&mut self, jobs: Vec<Job>);
    fn drain(&mut self, finished: &mut Vec<Completion<O>>);
    fn running(&self) -> Vec<Running>;
    fn replace(&mut self, key: LaneKey, seq: u64) -> Replaced;
    fn shutdown(&mut self) -> Vec<Running>;
}

/// Where a job stands on the worker that runs it.
#[derive(Clone, Copy)]
struct Standing {
    key: LaneKey,
    first: u64,
    last: u64,
    /// The record that runs, and since when.
    seq: u64,
    since: Instant,
}

impl Standing {
    /// At the first record; `None` if the job is empty.
    fn at_start_of(job: &Job, since: Instant) -> Option<Self> {
        let (first, last) = (job.tickets.first()?.seq, job.tickets.last()?.seq);
        Some(Self { key: job.key, first, last, seq: first, since })
    }

    fn covers(&self, key: LaneKey, seq: u64) -> bool {
        self.key == key && (self.first..=self.last).contains(&seq)
    }

    fn running(&self, worker: usize) -> Running {
        Running { worker, key: self.key, seq: self.seq, since: self.since }
    }
}

/// Forgets finished records of an abandoned job that nobody has drained yet. Answers whether there
/// were any.
fn forget<O>(finished: &mut Vec<Completion<O>>, key: LaneKey, seq: u64) -> bool {
    let before = finished.len();
    finished.retain(|done| done.key != key || done.seq < seq);
    finished.len() < before
}

fn not_started<O>(key: LaneKey, seq: u64) -> Completion<O> {
    Completion { key, seq, said: Said::NotStarted }
}

fn attempted<O>(key: LaneKey, seq: u64, attempt: Attempt<O>) -> Completion<O> {
    Completion { key, seq, said: Said::Attempt(attempt) }
}

/// A panic as a failure. It may be a passing one, so it is worth another call.
fn panicked<O>(payload: Box<dyn Any + Send>) -> Attempt<O> {
    let message = match payload.downcast_ref::<&'static str>() {
        Some(text) => (*text).to_owned(),
        None => match payload.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => "with a value that is no text".to_owned(),
        },
    };
    // Dropping a payload of the user's own type runs the user's code, which may panic again.
    std::mem::forget(payload);
    if mutant::is("M33") {
        return Attempt::Done(None);
    }
    Attempt::Failed(Failure {
        reason: DeadReason::Panic,
        error: format!("panicked: {message}"),
        retriable: true,
    })
}

#[cfg(test)]
mod measure;
#[cfg(test)]
mod tests;
