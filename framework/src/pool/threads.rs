//! Sync functions: a fixed number of threads and one queue of jobs.
//!
//! Each thread has a desk: one lock that holds what it finished and what it runs now. A record
//! costs one uncontended lock, in which the last result is put down and the next record is entered.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Bell, Replaced, Running, Standing, Workers, attempted, forget, not_started, panicked};
use crate::engine::work::{Completion, Job, LaneKey};
use crate::error::Error;
use crate::process::{Attempt, SyncFunction};

pub(super) struct Threads<O> {
    shared: Arc<Shared<O>>,
    desks: Vec<Arc<Desk<O>>>,
    started: usize,
}

struct Shared<O> {
    function: SyncFunction<O>,
    /// After this long a thread hands back what it has not started of its job.
    turn: Duration,
    bell: Bell,
    queue: Mutex<Queue>,
    /// Something came into the queue, or it was closed.
    changed: Condvar,
    /// As [`Queue::closed`], to be seen between two records of a job.
    closed: AtomicBool,
}

struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
    /// Threads that wait for a job.
    idle: usize,
    /// How many threads there should be, and are, at work.
    wanted: usize,
    on_duty: usize,
    /// Threads that were written off and have not come back.
    astray: usize,
}

impl Queue {
    /// Takes out a job that no thread has begun.
    fn take_back(&mut self, key: LaneKey, seq: u64) -> bool {
        let holds =
            |job: &Job| job.key == key && job.tickets.iter().any(|ticket| ticket.seq == seq);
        let place = self.jobs.iter().position(holds);
        place.is_some_and(|place| self.jobs.remove(place).is_some())
    }
}

/// Where an abandoned job was.
enum Abandoned {
    /// In the queue, or at its end: no thread runs it.
    Idle,
    /// At a desk whose thread is to be replaced.
    Running,
    /// At a desk whose thread cannot be replaced.
    RunningTooMany,
    Nowhere,
}

/// What one thread has finished and runs now. Whoever holds this lock may not wait for the queue's.
struct Desk<O> {
    worker: usize,
    state: Mutex<DeskState<O>>,
}

struct DeskState<O> {
    finished: Vec<Completion<O>>,
    standing: Option<Standing>,
    duty: Duty,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Duty {
    On,
    /// Its job was abandoned while it ran.
    WrittenOff,
    /// The thread has ended.
    Over,
}

impl<O: Send + 'static> Threads<O> {
    pub(super) fn start(
        threads: usize,
        function: SyncFunction<O>,
        turn: Duration,
        bell: Bell,
    ) -> Result<Self, Error> {
        let queue = Queue {
            jobs: VecDeque::new(),
            closed: false,
            idle: 0,
            wanted: threads,
            on_duty: 0,
            astray: 0,
        };
        let mut pool = Self {
            shared: Arc::new(Shared {
                function,
                turn,
                bell,
                queue: Mutex::new(queue),
                changed: Condvar::new(),
                closed: AtomicBool::new(false),
            }),
            desks: Vec::with_capacity(threads),
            started: 0,
        };
        for _ in 0..threads {
            if let Err(error) = pool.spawn() {
                let problem = format!("thread {} of {threads} cannot be started", pool.started);
                return Err(Error::configuration("threads", problem)
                    .with_source(error)
                    .remedy("ask for fewer threads or raise the system's limit"));
            }
            lock(&pool.shared.queue).on_duty += 1;
        }
        Ok(pool)
    }

    /// Abandons the job wherever it is: in the queue, at a desk or finished. The queue is locked all
    /// the while, so that no thread begins a job or comes back in the middle of it.
    fn abandon(&self, key: LaneKey, seq: u64) -> Abandoned {
        let mut queue = lock(&self.shared.queue);
        if queue.take_back(key, seq) {
            return Abandoned::Idle;
        }
        let (mut finished, mut running) = (false, false);
        for desk in &self.desks {
            let mut state = lock(&desk.state);
            finished |= forget(&mut state.finished, key, seq);
            let standing = state.standing.filter(|_| state.duty == Duty::On);
            if standing.is_some_and(|standing| standing.covers(key, seq)) {
                state.duty = Duty::WrittenOff;
                running = true;
            }
        }
        if !running {
            return if finished { Abandoned::Idle } else { Abandoned::Nowhere };
        }
        queue.on_duty -= 1;
        queue.astray += 1;
        if queue.astray > queue.wanted || queue.closed {
            return Abandoned::RunningTooMany;
        }
        queue.on_duty += 1;
        Abandoned::Running
    }

    fn spawn(&mut self) -> std::io::Result<()> {
        let worker = self.started;
        self.started += 1;
        let desk = Arc::new(Desk {
            worker,
            state: Mutex::new(DeskState { finished: Vec::new(), standing: None, duty: Duty::On }),
        });
        self.desks.push(Arc::clone(&desk));
        let shared = Arc::clone(&self.shared);
        let spawned = std::thread::Builder::new()
            .name(format!("tidegate-{worker}"))
            .spawn(move || shared.work(&desk));
        if spawned.is_err() {
            self.desks.pop();
        }
        // The handle is dropped: threads are never joined, because one of them may be stuck.
        spawned.map(drop)
    }
}

impl<O: Send + 'static> Workers<O> for Threads<O> {
    fn submit(&mut self, jobs: Vec<Job>) {
        let mut queue = lock(&self.shared.queue);
        if queue.closed {
            return;
        }
        let wake = jobs.len().min(queue.idle);
        queue.jobs.extend(jobs);
        drop(queue);
        for _ in 0..wake {
            self.shared.changed.notify_one();
        }
    }

    fn drain(&mut self, finished: &mut Vec<Completion<O>>) {
        self.shared.bell.answer();
        self.desks.retain(|desk| {
            let mut state = lock(&desk.state);
            finished.append(&mut state.finished);
            state.duty != Duty::Over
        });
    }

    fn running(&self) -> Vec<Running> {
        self.desks
            .iter()
            .filter_map(|desk| {
                let state = lock(&desk.state);
                let standing = state.standing.filter(|_| state.duty == Duty::On);
                standing.map(|standing| standing.running(desk.worker))
            })
            .collect()
    }

    fn replace(&mut self, key: LaneKey, seq: u64) -> Replaced {
        match self.abandon(key, seq) {
            Abandoned::Idle => return Replaced::Yes,
            Abandoned::Nowhere => return Replaced::NotOut,
            Abandoned::RunningTooMany => return Replaced::Shrunk,
            Abandoned::Running => {}
        }
        if self.spawn().is_err() {
            lock(&self.shared.queue).on_duty -= 1;
            return Replaced::Shrunk;
        }
        Replaced::Yes
    }

    fn shutdown(&mut self) -> Vec<Running> {
        self.shared.close();
        self.running()
    }
}

impl<O> Drop for Threads<O> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<O> Shared<O> {
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let mut queue = lock(&self.queue);
        queue.closed = true;
        queue.jobs.clear();
        drop(queue);
        self.changed.notify_all();
    }

    /// The life of one thread.
    fn work(&self, desk: &Desk<O>) {
        while let Some(job) = self.next_job(desk) {
            if self.run(desk, job).is_break() && !self.come_back(desk) {
                return;
            }
        }
        lock(&desk.state).duty = Duty::Over;
    }

    /// The next job, already entered at the desk: there is no moment at which a job is neither in
    /// the queue nor at a desk.
    fn next_job(&self, desk: &Desk<O>) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                lock(&desk.state).standing = Standing::at_start_of(&job, Instant::now());
                return Some(job);
            }
            queue.idle += 1;
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    /// Runs a job as far as its turn goes; breaks if it was abandoned meanwhile.
    fn run(&self, desk: &Desk<O>, job: Job) -> ControlFlow<()> {
        let Job { key, gate, tickets } = job;
        let begun = Instant::now();
        let mut last: Option<Completion<O>> = None;
        let mut failed = false;
        for ticket in tickets {
            let now = Instant::now();
            let had_its_turn = last.is_some() && now.duration_since(begun) >= self.turn;
            let stop = failed || had_its_turn || gate.is_closed();
            let mut state = desk.put_down(last.take())?;
            if stop || self.closed.load(Ordering::Relaxed) {
                state.finished.push(not_started(key, ticket.seq));
                state.standing = None;
                drop(state);
                self.bell.ring();
                return ControlFlow::Continue(());
            }
            let rings = !state.finished.is_empty();
            if let Some(standing) = &mut state.standing
                && standing.seq != ticket.seq
            {
                standing.seq = ticket.seq;
                standing.since = now;
            }
            drop(state);
            if rings {
                self.bell.ring();
            }
            let call = || (self.function)(&ticket.record, ticket.attempt);
            let attempt = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(panicked);
            failed = matches!(attempt, Attempt::Failed(_));
            last = Some(attempted(key, ticket.seq, attempt));
        }
        let mut state = desk.put_down(last)?;
        state.standing = None;
        drop(state);
        self.bell.ring();
        ControlFlow::Continue(())
    }

    /// A thread that was written off has returned from its function: it goes back to work if its
    /// place is still empty, and ends otherwise.
    fn come_back(&self, desk: &Desk<O>) -> bool {
        let mut queue = lock(&self.queue);
        let mut state = lock(&desk.state);
        queue.astray -= 1;
        let needed = queue.on_duty < queue.wanted;
        if needed {
            queue.on_duty += 1;
        }
        state.standing = None;
        state.duty = if needed { Duty::On } else { Duty::Over };
        needed
    }
}

impl<O> Desk<O> {
    /// Puts a result down, unless the job was abandoned: then the result is dropped.
    fn put_down(
        &self,
        result: Option<Completion<O>>,
    ) -> ControlFlow<(), MutexGuard<'_, DeskState<O>>> {
        let mut state = lock(&self.state);
        if state.duty == Duty::WrittenOff {
            drop(state);
            // Dropping a result may run the user's code, and this thread may be needed again.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(result)));
            return ControlFlow::Break(());
        }
        state.finished.extend(result);
        ControlFlow::Continue(state)
    }
}

/// No user code runs under any of these locks, so poison would mean nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
