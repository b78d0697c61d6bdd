//! Group commits that nobody waits for: in order, one in flight, the newest waits.
//!
//! One task owns the positions. Positions that arrive while a commit is in flight replace older
//! ones of their partitions, so nothing queues up however slow the broker is.

use std::collections::BTreeMap;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::CommitHook;
use crate::batch::Span;
use crate::error::Error;
use crate::record::PartitionId;
use crate::source::{GroupOffsets, Position, SourceError};

/// The wait before a failed commit is sent again, unless newer positions or a settlement come first.
const RETRY: Duration = Duration::from_millis(500);

/// The handle of the task. When it is dropped the task ends; what waits then is not sent.
pub(super) struct OrderedCommits {
    requests: mpsc::UnboundedSender<Request>,
    ended: Arc<Mutex<Option<Error>>>,
}

enum Request {
    Put(Vec<Span>),
    Forget(Vec<PartitionId>, oneshot::Sender<()>),
    Settle(oneshot::Sender<()>),
}

impl OrderedCommits {
    /// Starts the task; it sends a commit at most once in `pace`.
    pub(super) fn start(group: Arc<dyn GroupOffsets>, pace: Duration, hook: CommitHook) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        let ended = Arc::new(Mutex::new(None));
        let keeper = Keeper {
            group,
            pace,
            hook,
            ended: Arc::clone(&ended),
            waiting: BTreeMap::new(),
            not_before: Instant::now(),
            in_flight: None,
            hurry: false,
            to_answer: Vec::new(),
        };
        tokio::spawn(keeper.run(inbox));
        Self { requests, ended }
    }

    /// The ends of these spans are to be committed.
    pub(super) fn put(&self, spans: Vec<Span>) {
        // The task only ends when this handle does.
        let _ = self.requests.send(Request::Put(spans));
    }

    /// Sends what waits without regard to the pace, once, and waits for its answer.
    pub(super) async fn settle(&self) {
        self.ask(Request::Settle).await;
    }

    /// Drops what waits of these partitions, and waits for the commit in flight: nothing older can
    /// overwrite what is stored for them from now on.
    pub(super) async fn forget(&self, partitions: Vec<PartitionId>) {
        self.ask(|reply| Request::Forget(partitions, reply)).await;
    }

    /// The error that no repetition can mend, once.
    pub(super) fn take_error(&self) -> Option<Error> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn ask(&self, request: impl FnOnce(oneshot::Sender<()>) -> Request) {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(request(reply)).is_ok() {
            let _ = answer.await;
        }
    }
}

type Answer = (Vec<Span>, Result<(), SourceError>);

/// The task and what it owns.
struct Keeper {
    group: Arc<dyn GroupOffsets>,
    pace: Duration,
    hook: CommitHook,
    ended: Arc<Mutex<Option<Error>>>,
    waiting: BTreeMap<PartitionId, Span>,
    not_before: Instant,
    in_flight: Option<BoxFuture<'static, Answer>>,
    /// A settlement asked for what waits; cleared when that is sent.
    hurry: bool,
    /// Who waits until nothing is in flight.
    to_answer: Vec<oneshot::Sender<()>>,
}

impl Keeper {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Request>) {
        loop {
            self.send_what_is_due();
            self.answer_who_waits();
            let timer =
                (self.in_flight.is_none() && !self.waiting.is_empty()).then_some(self.not_before);
            tokio::select! {
                biased;
                answer = maybe(&mut self.in_flight) => {
                    self.in_flight = None;
                    self.take_in(answer);
                }
                request = inbox.recv() => match request {
                    Some(request) => self.serve(request),
                    None => return,
                },
                () = until(timer) => {}
            }
        }
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Put(spans) => {
                self.waiting.extend(spans.into_iter().map(|span| (span.partition.clone(), span)));
            }
            Request::Forget(partitions, reply) => {
                for partition in &partitions {
                    self.waiting.remove(partition);
                }
                self.to_answer.push(reply);
            }
            Request::Settle(reply) => {
                self.hurry = !self.waiting.is_empty();
                self.to_answer.push(reply);
            }
        }
    }

    fn send_what_is_due(&mut self) {
        let due = self.hurry || Instant::now() >= self.not_before;
        if self.in_flight.is_some() || self.waiting.is_empty() || !due {
            self.hurry &= !self.waiting.is_empty();
            return;
        }
        self.hurry = false;
        self.not_before = Instant::now() + self.pace;
        let spans: Vec<Span> = std::mem::take(&mut self.waiting).into_values().collect();
        let group = Arc::clone(&self.group);
        self.in_flight = Some(Box::pin(async move {
            let result = group.commit_reached(&spans).await;
            (spans, result)
        }));
    }

    fn answer_who_waits(&mut self) {
        if self.in_flight.is_none() && !self.hurry {
            for reply in self.to_answer.drain(..) {
                let _ = reply.send(());
            }
        }
    }

    fn take_in(&mut self, (spans, result): Answer) {
        let positions: Vec<Position> = spans.iter().map(Position::reached).collect();
        // A hook that panics must not end the commits.
        let call = || self.hook.call(&positions, result.as_ref().copied());
        if catch_unwind(AssertUnwindSafe(call)).is_err() {
            tracing::error!("the commit hook panicked");
        }
        match result {
            Ok(()) => {}
            Err(SourceError::Retry(cause)) => {
                tracing::warn!(%cause, "group commit failed, will be sent again");
                self.not_before = Instant::now() + self.pace.max(RETRY);
                for span in spans {
                    self.waiting.entry(span.partition.clone()).or_insert(span);
                }
            }
            // The partitions belong to somebody else; a group event tells the engine.
            Err(SourceError::Fenced(cause)) => tracing::warn!(%cause, "group commit fenced"),
            Err(SourceError::Stop(error)) => {
                *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        }
    }
}

async fn maybe(in_flight: &mut Option<BoxFuture<'static, Answer>>) -> Answer {
    match in_flight {
        Some(answer) => answer.await,
        None => pending().await,
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
