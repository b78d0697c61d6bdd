//! Async functions: a task for each job on the runtime that the engine runs on.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::FutureExt;
use futures::future::{AbortHandle, Abortable};
use tokio::runtime::Handle;

use super::{Bell, Replaced, Running, Standing, Workers, attempted, forget, not_started, panicked};
use crate::engine::work::{Completion, Job, LaneKey};
use crate::process::{AsyncFunction, Attempt};

pub(super) struct Tasks<O> {
    shared: Arc<Shared<O>>,
    runtime: Handle,
    started: usize,
}

struct Shared<O> {
    function: AsyncFunction<O>,
    bell: Bell,
    state: Mutex<State<O>>,
}

struct State<O> {
    finished: Vec<Completion<O>>,
    /// The jobs that are out. A task that is not here any more was abandoned: it reports nothing.
    out: HashMap<usize, Out>,
}

struct Out {
    standing: Standing,
    abort: AbortHandle,
}

impl<O: Send + 'static> Tasks<O> {
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn start(function: AsyncFunction<O>, bell: Bell) -> Self {
        Self {
            shared: Arc::new(Shared {
                function,
                bell,
                state: Mutex::new(State { finished: Vec::new(), out: HashMap::new() }),
            }),
            runtime: Handle::current(),
            started: 0,
        }
    }
}

impl<O: Send + 'static> Workers<O> for Tasks<O> {
    fn submit(&mut self, jobs: Vec<Job>) {
        let now = Instant::now();
        for job in jobs {
            let Some(standing) = Standing::at_start_of(&job, now) else {
                continue;
            };
            let task = self.started;
            self.started += 1;
            let (abort, registration) = AbortHandle::new_pair();
            self.shared.lock().out.insert(task, Out { standing, abort });
            let run = run(Arc::clone(&self.shared), task, job);
            self.runtime.spawn(Abortable::new(run, registration));
        }
    }

    fn drain(&mut self, finished: &mut Vec<Completion<O>>) {
        self.shared.bell.answer();
        finished.append(&mut self.shared.lock().finished);
    }

    fn running(&self) -> Vec<Running> {
        let state = self.shared.lock();
        let running = state.out.iter();
        running.map(|(task, out)| out.standing.running(*task)).collect()
    }

    fn replace(&mut self, key: LaneKey, seq: u64) -> Replaced {
        let mut state = self.shared.lock();
        let finished = forget(&mut state.finished, key, seq);
        let task =
            state.out.iter().find_map(|(task, out)| out.standing.covers(key, seq).then_some(*task));
        let Some(out) = task.and_then(|task| state.out.remove(&task)) else {
            return if finished { Replaced::Yes } else { Replaced::NotOut };
        };
        drop(state);
        out.abort.abort();
        Replaced::Yes
    }

    fn shutdown(&mut self) -> Vec<Running> {
        let running = self.running();
        self.shared.abort_all();
        running
    }
}

impl<O> Drop for Tasks<O> {
    fn drop(&mut self) {
        self.shared.abort_all();
    }
}

impl<O> Shared<O> {
    /// No user code runs under this lock, so poison would mean nothing.
    fn lock(&self) -> MutexGuard<'_, State<O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn abort_all(&self) {
        let out = std::mem::take(&mut self.lock().out);
        for job in out.into_values() {
            job.abort.abort();
        }
    }

    /// Puts a result down and enters the next record; breaks if the job was abandoned.
    fn enter(&self, task: usize, last: &mut Option<Completion<O>>, seq: u64) -> ControlFlow<()> {
        let rings = last.is_some();
        let mut state = self.lock();
        let Some(out) = state.out.get_mut(&task) else {
            return ControlFlow::Break(());
        };
        out.standing.seq = seq;
        out.standing.since = Instant::now();
        state.finished.extend(last.take());
        drop(state);
        if rings {
            self.bell.ring();
        }
        ControlFlow::Continue(())
    }

    /// Puts the last results of a job down, unless it was abandoned.
    fn leave(&self, task: usize, results: impl Iterator<Item = Completion<O>>) {
        let mut state = self.lock();
        if state.out.remove(&task).is_none() {
            return;
        }
        state.finished.extend(results);
        drop(state);
        self.bell.ring();
    }
}

/// Runs a job from front to back.
async fn run<O>(shared: Arc<Shared<O>>, task: usize, job: Job) {
    let Job { key, gate, tickets } = job;
    let mut last: Option<Completion<O>> = None;
    let mut failed = false;
    for ticket in tickets {
        if failed || gate.is_closed() {
            let rest = not_started(key, ticket.seq);
            shared.leave(task, last.take().into_iter().chain([rest]));
            return;
        }
        if shared.enter(task, &mut last, ticket.seq).is_break() {
            return;
        }
        // The call itself may panic before there is a future, hence the block around it.
        let call = async { (shared.function)(ticket.record, ticket.attempt).await };
        let attempt = AssertUnwindSafe(call).catch_unwind().await;
        let attempt = attempt.unwrap_or_else(panicked);
        failed = matches!(attempt, Attempt::Failed(_));
        last = Some(attempted(key, ticket.seq, attempt));
    }
    shared.leave(task, last.into_iter());
}
