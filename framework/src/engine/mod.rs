//! The engine: a pure core and the one loop that acts for it.
//!
//! The loop waits for whatever comes first — a group event or records, finished work, the answer
//! of the delivery task, a request of the handle, the time the core asked for — hands it to the
//! core and performs what the core says. It takes no decision of its own.

pub(crate) mod core;
mod deliver;
mod handle;
pub(crate) mod observe;
mod proof;
pub(crate) mod start;
mod tell;
pub(crate) mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use self::core::{Action, ControlReply, Core, CoreStatus, Event};
use self::deliver::{Call, Caller};
use self::handle::{Ask, Request};
use self::tell::Teller;
use crate::error::Error;
use crate::metrics::Rebalance;
use crate::pool::{Pool, Running};
use crate::source::{Assignment, EventSender, Health, Revocation, SourceEvent};
use crate::source_erased::ErasedSource;

pub use self::core::{Holder, PartitionState, PartitionStatus, SeekTo, Totals};
pub use self::handle::{Handle, State, Status, Summary};

/// The source answers a group event late rather than never: this much of its deadline is kept for
/// the way there.
const MARGIN: Duration = Duration::from_millis(250);
/// How long leaving the group, and closing the sink, may take after everything else is done.
const CLOSE_MAX: Duration = Duration::from_secs(3);
/// How often stuck records are looked for.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Source events taken in before the core is asked once: it sees what arrived together together.
const EVENTS_PER_STEP: usize = 128;

/// One running pipeline.
struct Engine<O> {
    core: Core<O>,
    origin: Instant,
    source: Box<dyn ErasedSource>,
    source_events: mpsc::UnboundedReceiver<SourceEvent>,
    pool: Pool<O>,
    pool_wake: Arc<Notify>,
    delivery: Caller<O>,
    answers: mpsc::UnboundedReceiver<Event<O>>,
    requests: mpsc::UnboundedReceiver<Request>,
    teller: Teller,
    /// Group events that wait for their answer, by the number the core knows them by.
    assignments: HashMap<u64, (Assignment, Instant)>,
    revocations: HashMap<u64, (Revocation, Instant)>,
    replies: HashMap<u64, oneshot::Sender<ControlReply>>,
    numbers: u64,
    health: Health,
    /// What the core wants next; kept to reuse its space.
    actions: Vec<Action<O>>,
    events: Vec<Event<O>>,
    releasing: bool,
    workers: usize,
}

/// How the loop ended.
enum End {
    /// Everything is settled, or the time is up.
    Finished(Result<(), Error>),
    /// Asked to give up at once.
    GivenUp,
}

impl<O: Send + Sync + 'static> Engine<O> {
    async fn run(mut self) -> Result<Summary, Error> {
        let mut watch = tokio::time::interval(WATCH_EVERY);
        watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let end = loop {
            let wake = self.core.wake_at().map(|at| self.origin + at);
            let pool_wake = Arc::clone(&self.pool_wake);
            tokio::select! {
                Some(event) = self.source_events.recv() => self.take_source(event),
                () = pool_wake.notified() => {}
                Some(event) = self.answers.recv() => self.events.push(event),
                Some(request) = self.requests.recv() => {
                    if let Some(end) = self.take_request(request) {
                        break end;
                    }
                }
                () = sleep_until(wake) => {}
                _ = watch.tick() => self.watch(),
            }
            if let Some(result) = self.step() {
                break End::Finished(result);
            }
        };
        self.close(end).await
    }

    /// Hands everything that has arrived to the core and performs what it says.
    fn step(&mut self) -> Option<Result<(), Error>> {
        while self.events.len() < EVENTS_PER_STEP {
            match self.source_events.try_recv() {
                Ok(event) => self.take_source(event),
                Err(_) => break,
            }
        }
        while let Ok(event) = self.answers.try_recv() {
            self.events.push(event);
        }
        let mut completions = Vec::new();
        self.pool.drain(&mut completions);
        if !completions.is_empty() {
            self.events.push(Event::Completed(completions));
        }
        let now = self.origin.elapsed();
        self.core.step(now, self.events.drain(..), &mut self.actions);
        let mut result = None;
        for action in std::mem::take(&mut self.actions) {
            if let Action::Finish(end) = action {
                result = Some(end);
            } else {
                self.perform(action);
            }
        }
        self.teller.totals(&self.core.totals());
        result
    }

    fn take_source(&mut self, event: SourceEvent) {
        let event = match event {
            SourceEvent::Assigned(assignment) => {
                let id = self.number();
                let partitions = assignment.partitions.clone();
                let deadline = self.deadline(assignment.deadline);
                self.assignments.insert(id, (assignment, Instant::now()));
                Event::Assigned { id, partitions, deadline }
            }
            SourceEvent::Revoked(revocation) => {
                let id = self.number();
                let partitions = revocation.partitions.clone();
                let deadline = self.deadline(revocation.deadline);
                self.revocations.insert(id, (revocation, Instant::now()));
                Event::Revoked { id, partitions, deadline }
            }
            SourceEvent::Lost(partitions) => Event::Lost(partitions),
            SourceEvent::Records(chunk) => Event::Records(chunk),
            SourceEvent::End { partition, epoch, next } => Event::End { partition, epoch, next },
            SourceEvent::PartitionFailed { partition, epoch, cause } => {
                Event::PartitionFailed { partition, epoch, error: cause.to_string() }
            }
            SourceEvent::GroupChanged => Event::GroupChanged,
            SourceEvent::Ends(ends) => Event::Ends(ends),
            SourceEvent::Health(health) => {
                self.teller.health(&self.health, &health);
                self.health = health;
                return;
            }
            SourceEvent::Failed(error) => Event::SourceFailed(error),
        };
        self.events.push(event);
    }

    /// A source's deadline in the core's time, with the margin taken off.
    fn deadline(&self, at: std::time::Instant) -> Duration {
        let left = at.saturating_duration_since(std::time::Instant::now());
        self.origin.elapsed() + left.saturating_sub(MARGIN.min(left / 2))
    }

    fn take_request(&mut self, request: Request) -> Option<End> {
        match request.ask {
            Ask::GiveUp => return Some(End::GivenUp),
            Ask::Stop { why, within } => self.events.push(Event::Stop { why, within }),
            Ask::Control(control) => {
                let id = self.number();
                if let Some(reply) = request.reply {
                    self.replies.insert(id, reply);
                }
                self.events.push(Event::Control { id, control });
            }
        }
        None
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn perform(&mut self, action: Action<O>) {
        match action {
            Action::AnswerAssigned { id, starts } => {
                if let Some((assignment, since)) = self.assignments.remove(&id) {
                    assignment.answer(starts);
                    self.teller.rebalanced(Rebalance::Assign, since.elapsed());
                }
            }
            Action::AnswerRevoked { id } => {
                if let Some((revocation, since)) = self.revocations.remove(&id) {
                    revocation.answer();
                    self.teller.rebalanced(Rebalance::Revoke, since.elapsed());
                }
            }
            Action::Credit(grants) => self.source.credit(grants),
            Action::StartReading(starts) => self.source.reposition(starts),
            Action::Resolve { call, wanted } => {
                let found = self.source.resolve(wanted);
                self.delivery
                    .answer_later(async move { Event::Resolved { call, result: found.await } });
            }
            Action::Prove(spans) => {
                let group = self.source.group_offsets();
                self.delivery
                    .answer_later(async move { Event::Proved(proof::prove(&*group, spans).await) });
            }
            Action::Mirror(positions) => self.source.group_offsets().mirror(positions),
            Action::Claim(requests) => self.delivery.call(Call::Claim(requests)),
            Action::Reposition { call, moves } => {
                self.delivery.call(Call::Reposition { call, moves });
            }
            Action::Admit(spans) => self.delivery.call(Call::Admit(spans)),
            Action::Commit(batch) => self.delivery.call(Call::Commit(batch)),
            Action::Release { revocation, partitions } => {
                self.releasing |= revocation == u64::MAX;
                self.delivery.call(Call::Release { revocation, partitions });
            }
            Action::Run(jobs) => self.pool.submit(jobs),
            Action::WriteOff { key, seq } => {
                self.pool.replace(key, seq);
            }
            Action::Reply { id, reply } => self.reply(id, reply),
            Action::Tell(event) => self.teller.tell(&event),
            Action::Finish(_) => unreachable!("taken by the caller"),
        }
    }

    fn reply(&mut self, id: u64, reply: ControlReply) {
        let reply = match reply {
            ControlReply::Status(mut status) => {
                self.complete(&mut status);
                ControlReply::Status(status)
            }
            done => done,
        };
        if let Some(sender) = self.replies.remove(&id) {
            // Whoever asked may have stopped waiting.
            let _ = sender.send(reply);
        }
    }

    /// Once a second: stuck records, and the gauges that no event updates.
    fn watch(&mut self) {
        let mut actions = Vec::new();
        self.core.report_stuck(self.origin.elapsed(), &mut actions);
        for action in actions {
            self.perform(action);
        }
        let mut status = self.core.status();
        self.complete(&mut status);
        self.teller.status(&status, self.pool.running().len(), self.workers);
    }

    /// Adds what the core cannot know: who runs a record, the time of day, the source's health.
    fn complete(&self, status: &mut CoreStatus) {
        name_workers(status, &self.pool.running());
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now =
            since_1970.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        for partition in &mut status.partitions {
            partition.lag = partition.oldest.map(|stamp| {
                let behind = now.saturating_sub(stamp.millis());
                Duration::from_millis(u64::try_from(behind).unwrap_or(0))
            });
        }
        status.health = Some(self.health.clone());
    }

    /// Leaves the group and closes the sink, each within its bound: threads and calls that hang
    /// are left behind, never waited for.
    async fn close(mut self, end: End) -> Result<Summary, Error> {
        let stuck = self.pool.shutdown();
        let summary = Summary::new(self.core.status());
        let End::Finished(result) = end else {
            return Err(Error::deadline("given up on a second request to stop")
                .remedy("what was not stored will be read again"));
        };
        if self.releasing {
            let _ = tokio::time::timeout(CLOSE_MAX, self.released()).await;
        }
        // Side by side: a broker that hangs must not take the store's time, nor the reverse.
        let leave = leave(self.source.close(), &mut self.source_events);
        let (left, closed) = tokio::join!(
            tokio::time::timeout(CLOSE_MAX, leave),
            tokio::time::timeout(CLOSE_MAX, self.delivery.close())
        );
        self.teller.ended(&result, &summary, stuck.len(), left.is_ok(), closed.is_ok());
        result.map(|()| summary)
    }

    async fn released(&mut self) {
        while let Some(event) = self.answers.recv().await {
            if matches!(event, Event::Released { revocation: u64::MAX }) {
                return;
            }
        }
    }
}

/// Waits for the source to close; whatever the group still asks is answered at once.
async fn leave(
    mut closing: BoxFuture<'static, ()>,
    events: &mut mpsc::UnboundedReceiver<SourceEvent>,
) {
    loop {
        tokio::select! {
            () = &mut closing => return,
            event = events.recv() => match event {
                Some(SourceEvent::Assigned(assignment)) => assignment.answer(Vec::new()),
                Some(SourceEvent::Revoked(revocation)) => revocation.answer(),
                Some(_) => {}
                None => return closing.await,
            },
        }
    }
}

fn name_workers(status: &mut CoreStatus, running: &[Running]) {
    for partition in &mut status.partitions {
        let Some(holder) = &mut partition.holder else { continue };
        let worker = running
            .iter()
            .find(|running| running.seq == holder.seq && running.key.epoch == partition.epoch);
        if let Some(running) = worker {
            holder.worker = Some(running.worker);
            holder.age = running.since.elapsed();
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A queue for a source's events.
fn source_queue() -> (EventSender, mpsc::UnboundedReceiver<SourceEvent>) {
    EventSender::channel()
}
