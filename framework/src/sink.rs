//! The traits that sink authors implement, and errors by what the caller must do.
//!
//! [`Sink`] writes results: enough for at-least-once and at-most-once. [`TransactionalSink`] also
//! stores progress in the same step: what exactly-once asks for. A sink knows nothing of threads,
//! lanes or rebalances; it is called by one task, one call at a time, and no call is cancelled.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::batch::Batch;
use crate::error::{Cause, Error};
use crate::record::{Coordinates, Offset, PartitionId};

/// What a sink learns when it is opened.
#[derive(Clone, Debug)]
pub struct SinkContext {
    /// The consumer group, which is also the name of the pipeline and the key of stored progress.
    pub group: String,
    /// The name of this instance, if the user gave one; stable over restarts.
    pub instance: Option<String>,
    /// How long opening may take before the pipeline gives up.
    pub deadline: Duration,
    /// Whether batches may hold dead letters: a sink that has no place for them refuses to open.
    pub dead_letters: DeadLetters,
}

/// Whether the failure policy can set records aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeadLetters {
    /// It can: the sink needs a place for them.
    Expected,
    /// It never does.
    Never,
}

/// How a sink describes itself in `explain()`, in logs and in the checks of `run()`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SinkDescription {
    /// The kind of sink in one word: `kafka`, `postgres`, `sqlite`, `memory`.
    pub kind: String,
    /// Where it writes, without secrets: topics, tables, a host.
    pub target: String,
    /// Further lines for `explain()`: how rows are written, what the guarantee does not cover.
    pub notes: Vec<String>,
    /// Set by a sink that is bound to one source (the Kafka exactly-once sink): that source's
    /// [`SourceDescription::id`](crate::source::SourceDescription::id).
    pub bound_to: Option<u64>,
}

/// A store of results.
///
/// Call order: `open` once, then any number of `write`, then `close` once. Implementors may write
/// `async fn`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a sink",
    note = "implement `tidegate::sink::Sink` for it, or use the sink of a connector; \
            a sink that stores progress too (`TransactionalSink`) goes with `.exactly_once(…)`"
)]
pub trait Sink: Send + 'static {
    /// What the pipeline's functions emit for this sink.
    type Output: Send + Sync + 'static;

    /// Checks the target and creates what is missing and allowed, before anything is consumed.
    fn open(&mut self, context: &SinkContext)
    -> impl Future<Output = Result<(), SinkError>> + Send;

    /// For `explain()`; callable before `open`.
    fn describe(&self) -> SinkDescription;

    /// Measures one result in bytes, for the limit of bytes that one record may emit.
    fn measure(&self) -> fn(&Self::Output) -> usize {
        |_| size_of::<Self::Output>()
    }

    /// Writes the batch's results and dead letters. `Ok` means they are durable. After
    /// [`SinkError::Retry`] the same batch is written again, so results may appear twice.
    fn write(
        &mut self,
        batch: &Batch<Self::Output>,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Ends the sink; nothing is called after it.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// A store of results **and** progress in one step.
///
/// Call order: `open` once; then `claim` before anything else that touches a partition; then
/// `reposition`, `probe`, `commit`, `release` and `claim` again in any order; `close` last.
/// Whatever ends in [`CommitError::InDoubt`] is followed by a `claim` of every partition involved.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot promise exactly-once: it does not store results and progress in one step",
    label = "not a `TransactionalSink`",
    note = "use `.at_least_once(…)` or `.at_most_once(…)` with this sink",
    note = "or use a sink that stores progress with the results: the tables of `tidegate-postgres` \
            or `tidegate-sqlite`, or `source.sink()` of `tidegate-kafka`",
    note = "or implement `tidegate::sink::TransactionalSink` for it: see docs/WRITING_A_SINK.md"
)]
pub trait TransactionalSink: Send + 'static {
    /// What the pipeline's functions emit for this sink.
    type Output: Send + Sync + 'static;

    /// As [`Sink::open`].
    fn open(&mut self, context: &SinkContext)
    -> impl Future<Output = Result<(), SinkError>> + Send;

    /// As [`Sink::describe`].
    fn describe(&self) -> SinkDescription;

    /// As [`Sink::measure`].
    fn measure(&self) -> fn(&Self::Output) -> usize {
        |_| size_of::<Self::Output>()
    }

    /// Takes ownership of these partitions: fences every earlier owner, settles whatever an
    /// earlier owner (or this one, after a commit in doubt) left open, and says where each
    /// partition resumes. It is the one recovery path: start, rebalance, restart and a commit in
    /// doubt all end here. One answer per asked partition, in any order.
    fn claim(
        &mut self,
        partitions: &[ClaimRequest],
    ) -> impl Future<Output = Result<Vec<Claim>, SinkError>> + Send;

    /// Stores positions without results, under the same fence: a first start, a seek.
    ///
    /// A move with `expected: None` is an insert-if-absent and may name a partition that is not
    /// claimed (all partitions of a topic get their start at once); if something is stored
    /// already, it is left as it is and the call succeeds.
    fn reposition(
        &mut self,
        moves: &[Move],
    ) -> impl Future<Output = Result<(), CommitError>> + Send;

    /// Stores results, dead letters and progress: all or nothing, and only if every span starts
    /// where the stored progress ends and this sink still owns it.
    fn commit(
        &mut self,
        batch: &Batch<Self::Output>,
    ) -> impl Future<Output = Result<(), CommitError>> + Send;

    /// Does everything `commit` does up to, not including, making it durable, and undoes it.
    /// Called with prefixes of a batch that `commit` rejected, to find the record at fault.
    fn probe(
        &mut self,
        batch: &Batch<Self::Output>,
    ) -> impl Future<Output = Result<(), CommitError>> + Send;

    /// Hands partitions back after a clean revoke; conditional on the claim. A failure is the
    /// sink's to log: the next claim fences anyway.
    fn release(&mut self, partitions: &[PartitionId]) -> impl Future<Output = ()> + Send;

    /// Ends the sink; nothing is called after it.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// The identity of one incarnation of a topic: a topic that is deleted and created again gets
/// another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TopicId(pub [u8; 16]);

/// A partition to claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimRequest {
    /// The partition.
    pub partition: PartitionId,
    /// The incarnation of its topic, if the source knows it.
    pub topic_id: Option<TopicId>,
}

/// The answer for one claimed partition.
#[derive(Debug)]
pub struct Claim {
    /// The partition.
    pub partition: PartitionId,
    /// What is stored.
    pub stored: Stored,
}

/// What a store of progress knows of a partition.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stored {
    /// It resumes here.
    At(Offset),
    /// Nothing is stored: the start policy decides, once.
    Nothing,
    /// Nothing is stored, but the topic's other partitions are and this one was added to them
    /// later: it starts at its beginning, whatever the start policy says.
    Added,
    /// It must not be resumed: the topic was recreated, a row is missing. The partition stops
    /// with this cause; others go on.
    Refused(Cause),
}

/// One position to store without results.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// The partition.
    pub partition: PartitionId,
    /// What must be stored now; `None`: nothing.
    pub expected: Option<Offset>,
    /// What is stored after.
    pub next: Offset,
    /// The incarnation of its topic, if known.
    pub topic_id: Option<TopicId>,
}

/// Why opening, claiming or writing failed, by what the caller must do.
#[derive(Debug)]
#[non_exhaustive]
pub enum SinkError {
    /// Temporary: try the same call again with backoff. A cause that
    /// [needs an operator](Cause::needs_operator) ends the pipeline instead.
    Retry(Cause),
    /// Another owner took over.
    Fenced(Cause),
    /// The data is refused: find the record and apply the failure policy.
    Rejected(Rejection),
    /// It can never work as configured: stop. The error is the pipeline's.
    Stop(Error),
}

/// How a commit failed, by what the caller must do. What a sink does not recognise is in doubt.
#[derive(Debug)]
#[non_exhaustive]
pub enum CommitError {
    /// Definitely nothing was stored: retry the same batch. A cause that
    /// [needs an operator](Cause::needs_operator) ends the pipeline instead.
    Aborted(Cause),
    /// Another owner took over, or stored progress is not where the batch starts: drop the work
    /// and claim again. Nothing was stored.
    Fenced(Cause),
    /// It may or may not have been stored: claim and look.
    InDoubt(Cause),
    /// Definitely nothing was stored and the data is at fault: find the record and apply the
    /// failure policy.
    Rejected(Rejection),
}

/// A refusal of data.
#[derive(Debug)]
pub struct Rejection {
    /// What the store said; no payload.
    pub cause: Cause,
    /// The record at fault, if the sink knows it; it is searched for otherwise.
    pub record: Option<Coordinates>,
}

impl Rejection {
    /// A rejection whose record must be searched for.
    pub fn of_some_record(cause: Cause) -> Self {
        Self { cause, record: None }
    }

    /// A rejection of this record.
    pub fn of_record(cause: Cause, record: Coordinates) -> Self {
        Self { cause, record: Some(record) }
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(cause) => write!(f, "temporarily failed: {cause}"),
            Self::Fenced(cause) => write!(f, "fenced: {cause}"),
            Self::Rejected(rejection) => write!(f, "rejected: {}", rejection.cause),
            Self::Stop(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SinkError {}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted(cause) => write!(f, "aborted: {cause}"),
            Self::Fenced(cause) => write!(f, "fenced: {cause}"),
            Self::InDoubt(cause) => write!(f, "in doubt: {cause}"),
            Self::Rejected(rejection) => write!(f, "rejected: {}", rejection.cause),
        }
    }
}

impl std::error::Error for CommitError {}
