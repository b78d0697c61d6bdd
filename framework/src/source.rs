//! The trait that source authors implement, its events and its errors.
//!
//! A source delivers group events, records and ends of partition in **one** first-in-first-out
//! queue, and records only against credit, so the queue needs no other bound and its sender never
//! blocks. It knows nothing of processing or sinks.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::batch::Span;
use crate::error::{Cause, Error};
use crate::record::{Epoch, Offset, PartitionId, RawRecord, Timestamp, Topic};
use crate::sink::TopicId;

/// Reads partitions on behalf of a group.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a source",
    note = "use the source of a connector, such as `kafka.source(\"topic\")`, or implement \
            `tidegate::source::Source` for it"
)]
pub trait Source: Send + 'static {
    /// For `explain()` and the checks of `run()`; callable before `open`.
    fn describe(&self) -> SourceDescription;

    /// Checks the settings, joins the group and starts to send events. Consumes nothing: records
    /// flow only after an [`Assignment`] was answered and credit was given.
    fn open(
        &mut self,
        context: &SourceContext,
        events: EventSender,
    ) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// Allows so many more records and bytes of each partition. A new epoch starts without credit.
    /// Credit of an older epoch than the partition's current one is ignored; credit of a newer one
    /// is kept until the partition gets there, because it may overtake the answer to an
    /// [`Assignment`]. The last record may exceed the bytes; by how much it did is taken off what is
    /// allowed next, which is granted on top of it. A partition without credit is not read while all
    /// others go on.
    fn credit(&mut self, grants: Vec<Credit>);

    /// Finds positions: where to start, whether a stored offset still lies in the log. Must be
    /// answered also while the source waits for the answer to an [`Assignment`].
    fn resolve(
        &mut self,
        wanted: Vec<Wanted>,
    ) -> BoxFuture<'static, Result<Vec<Resolved>, SourceError>>;

    /// Goes on reading assigned partitions at these positions under these epochs; whatever was
    /// fetched before is discarded. Partitions that are not assigned any more are left out
    /// silently: a group event tells of them.
    fn reposition(&mut self, starts: Vec<Start>);

    /// The group's own store of offsets; asked for once the source is open.
    fn group_offsets(&self) -> Arc<dyn GroupOffsets>;

    /// Leaves the group. Revocations still arrive as events while it runs and must be answered.
    fn close(&mut self) -> BoxFuture<'static, ()>;
}

/// How a source describes itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SourceDescription {
    /// The kind of source in one word: `kafka`, `memory`.
    pub kind: String,
    /// What it reads, without secrets: topics, a broker.
    pub target: String,
    /// Further lines for `explain()`.
    pub notes: Vec<String>,
    /// A number unique in this process, by which a bound sink recognises its source.
    pub id: u64,
}

/// What a source learns when it is opened.
#[derive(Clone, Debug)]
pub struct SourceContext {
    /// The consumer group, which is also the name of the pipeline.
    pub group: String,
    /// The name of this instance, if the user gave one: static membership.
    pub instance: Option<String>,
    /// How long a revocation may take: running records, one commit, the answer.
    pub drain_max: std::time::Duration,
    /// How long an assignment may take: claim, resolve, store, answer.
    pub claim_max: std::time::Duration,
    /// How long the broker may stay unreachable at start before `open` gives up.
    pub start_max: std::time::Duration,
}

/// What a source tells.
#[derive(Debug)]
#[non_exhaustive]
pub enum SourceEvent {
    /// The group gave these partitions to this member.
    Assigned(Assignment),
    /// The group wants these partitions back.
    Revoked(Revocation),
    /// These partitions are gone already; somebody else may own them.
    Lost(Vec<PartitionId>),
    /// Records of one partition.
    Records(Chunk),
    /// The end of a partition was reached: the next record will have this offset or a later one.
    /// It closes trailing holes (transaction markers, aborted records).
    End {
        /// The partition.
        partition: PartitionId,
        /// The epoch it is read under.
        epoch: Epoch,
        /// The position behind the last thing in the log.
        next: Offset,
    },
    /// A partition cannot be read on; the others can.
    PartitionFailed {
        /// The partition.
        partition: PartitionId,
        /// The epoch it was read under.
        epoch: Epoch,
        /// Why; a named error.
        cause: Cause,
    },
    /// The ends of these partitions' logs as last seen, about once a second: for lag only.
    Ends(Vec<Position>),
    /// Whether the source works: a broker went away, came back, a topic does not exist yet. Shown
    /// in the status; ends nothing.
    Health(Health),
    /// The group's membership or its metadata changed: a commit that was aborted for membership
    /// may be tried again.
    GroupChanged,
    /// The source cannot go on at all.
    Failed(SourceError),
}

/// Whether a source works.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// It does.
    Ready,
    /// It waits for this.
    Waiting(String),
}

/// A partition that the group gave to this member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssignedPartition {
    /// The partition.
    pub partition: PartitionId,
    /// The incarnation of its topic, if known.
    pub topic_id: Option<TopicId>,
}

/// A set of newly assigned partitions, to be answered with explicit start positions.
#[derive(Debug)]
pub struct Assignment {
    /// The partitions; may be empty.
    pub partitions: Vec<AssignedPartition>,
    /// When the source stops waiting.
    pub deadline: Instant,
    reply: oneshot::Sender<Vec<Start>>,
}

impl Assignment {
    /// An assignment and the receiver of its answer. If the answer is dropped the source assigns
    /// nothing.
    pub fn new(
        partitions: Vec<AssignedPartition>,
        deadline: Instant,
    ) -> (Self, oneshot::Receiver<Vec<Start>>) {
        let (reply, answer) = oneshot::channel();
        (Self { partitions, deadline, reply }, answer)
    }

    /// Answers: these partitions start here. Partitions that are left out stay assigned without
    /// being read; they are started later by [`Source::reposition`].
    pub fn answer(self, starts: Vec<Start>) {
        // A source that stopped waiting has assigned nothing; the core hears of it by an event.
        let _ = self.reply.send(starts);
    }
}

/// A set of partitions to hand back, to be answered when their work is settled.
#[derive(Debug)]
pub struct Revocation {
    /// The partitions; may be empty.
    pub partitions: Vec<PartitionId>,
    /// When the source stops waiting and hands them back anyway.
    pub deadline: Instant,
    reply: oneshot::Sender<()>,
}

impl Revocation {
    /// A revocation and the receiver of its answer.
    pub fn new(partitions: Vec<PartitionId>, deadline: Instant) -> (Self, oneshot::Receiver<()>) {
        let (reply, answer) = oneshot::channel();
        (Self { partitions, deadline, reply }, answer)
    }

    /// Answers: nothing of these partitions is running or being committed any more.
    pub fn answer(self) {
        let _ = self.reply.send(());
    }
}

/// Where a partition starts, and the epoch its records are stamped with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// The partition.
    pub partition: PartitionId,
    /// The epoch to stamp on its chunks.
    pub epoch: Epoch,
    /// The first offset to read.
    pub offset: Offset,
}

/// Records of one partition in the order of the log, at most a few hundred.
#[derive(Debug)]
pub struct Chunk {
    /// The partition.
    pub partition: PartitionId,
    /// The epoch it was read under.
    pub epoch: Epoch,
    /// The records, offsets strictly ascending.
    pub records: Vec<Arc<RawRecord>>,
}

/// Allows `records` and `bytes` more of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credit {
    /// The partition.
    pub partition: PartitionId,
    /// The epoch the credit belongs to.
    pub epoch: Epoch,
    /// So many more records.
    pub records: u32,
    /// So many more bytes of key, value and headers.
    pub bytes: u64,
}

/// A position to find.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Wanted {
    /// Where a partition with no stored progress starts: the source's start policy, or the
    /// beginning if the partition appeared while the pipeline ran.
    Start(PartitionId),
    /// The starts of **all** partitions of a topic, so that they can be stored at once.
    StartOfTopic(Topic),
    /// Whether this stored offset still lies in the log.
    Stored(PartitionId, Offset),
    /// The first offset in the log.
    Beginning(PartitionId),
    /// The end of the log: what a reader of committed data can reach.
    End(PartitionId),
    /// The first record at or after this time; the end if there is none.
    At(PartitionId, Timestamp),
}

/// A position that was looked for.
#[derive(Debug)]
pub struct Resolved {
    /// The partition.
    pub partition: PartitionId,
    /// The position, or why there is none.
    pub position: Result<Offset, Unresolved>,
}

/// Why a position was not found. Except for `Temporary`, the partition stops with this as its
/// named error; nothing is ever reset silently.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unresolved {
    /// The stored offset is not in the log.
    OutOfRange {
        /// What is stored.
        stored: Offset,
        /// The first offset in the log.
        low: Offset,
        /// The end of the log.
        high: Offset,
    },
    /// Nothing is stored and the start policy says error.
    NoStart,
    /// The partition does not exist.
    Unknown,
    /// The broker did not answer: ask again.
    Temporary(Cause),
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { stored, low, high } if stored < low => write!(
                f,
                "stored offset {stored} is below the log's start {low}: {} records were deleted \
                 before they were read; reset the offset to go on",
                low.get() - stored.get()
            ),
            Self::OutOfRange { stored, high, .. } => write!(
                f,
                "stored offset {stored} is above the log's end {high}: the log was truncated or \
                 the topic recreated; reset the offset to go on"
            ),
            Self::NoStart => f.write_str(
                "no progress is stored and the start policy is `error`; set the offset or choose \
                 earliest, latest or a timestamp",
            ),
            Self::Unknown => f.write_str("the partition does not exist"),
            Self::Temporary(cause) => cause.fmt(f),
        }
    }
}

/// A position of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    /// The partition.
    pub partition: PartitionId,
    /// The next offset to read.
    pub next: Offset,
}

impl Position {
    /// Where this span ends.
    pub(crate) fn reached(span: &Span) -> Self {
        Self { partition: span.partition.clone(), next: span.next }
    }
}

/// The offsets a consumer group keeps at the broker: progress for at-least-once and at-most-once,
/// a mirror for lag tools where progress lives in SQL. Callable from any task.
#[async_trait]
pub trait GroupOffsets: Send + Sync {
    /// Stable committed offsets, waiting for pending transactions; in the order asked.
    async fn committed(
        &self,
        partitions: &[PartitionId],
    ) -> Result<Vec<Option<Offset>>, SourceError>;

    /// Commits and waits for the broker's answer. An `Err` of [`SourceError::Fenced`] means the
    /// member no longer owns them.
    ///
    /// For positions that were chosen: first starts, and where somebody seeks to.
    async fn commit(&self, positions: &[Position]) -> Result<(), SourceError>;

    /// As [`commit`](Self::commit), for what processing has reached: the ends of these spans. The
    /// broker takes offsets from any member, so a source refuses the whole call with
    /// [`SourceError::Retry`] if one of the partitions is not at its span's epoch any more: somebody
    /// else may have gone on from there meanwhile, and would be set back.
    async fn commit_reached(&self, spans: &[Span]) -> Result<(), SourceError>;

    /// Commits without waiting, best effort; a later call overtakes an earlier one that was not
    /// sent yet. For the mirror of offsets that are kept elsewhere.
    fn mirror(&self, positions: Vec<Position>);
}

/// Why a source failed, by what the caller must do.
#[derive(Debug)]
#[non_exhaustive]
pub enum SourceError {
    /// Temporary: try the same call again with backoff.
    Retry(Cause),
    /// The member lost its place in the group.
    Fenced(Cause),
    /// It can never work as configured, or ended for good: stop.
    Stop(Error),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(cause) => write!(f, "temporarily failed: {cause}"),
            Self::Fenced(cause) => write!(f, "fenced: {cause}"),
            Self::Stop(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SourceError {}

/// Where a source puts its events: one queue, first in, first out, whose sender never blocks.
#[derive(Clone, Debug)]
pub struct EventSender(mpsc::UnboundedSender<SourceEvent>);

impl EventSender {
    /// A queue of events. It is bounded by the credit given, not by itself.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<SourceEvent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Sends an event; `false` if the engine is gone.
    pub fn send(&self, event: SourceEvent) -> bool {
        self.0.send(event).is_ok()
    }
}
