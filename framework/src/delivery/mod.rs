//! One guarantee each: how claims, commits and progress are put together.
//!
//! The engine's delivery task owns a [`Delivery`] and calls it one call at a time; no call is
//! cancelled. What a guarantee knows of threads, lanes and rebalances: nothing.

mod at_least_once;
mod at_most_once;
mod bisect;
mod exactly_once;
mod group;
mod isolate;
mod ordered_commits;
#[cfg(test)]
mod test_doubles;

use std::sync::Arc;

use async_trait::async_trait;

use crate::batch::{Batch, Span};
use crate::error::{Cause, Error};
use crate::record::{Coordinates, PartitionId};
use crate::sink::{
    Claim, ClaimRequest, CommitError, Move, SinkContext, SinkDescription, SinkError,
};
use crate::source::GroupOffsets;

pub use at_least_once::{CommitHook, GroupCommits};

pub(crate) use at_least_once::AtLeastOnce;
pub(crate) use at_most_once::AtMostOnce;
#[cfg(feature = "testing")]
pub(crate) use bisect::{Found, find_culprit};
pub(crate) use exactly_once::ExactlyOnce;

/// The promise a pipeline makes about what its sink shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guarantee {
    /// Every record's results exactly once.
    ExactlyOnce,
    /// Every record's results at least once.
    AtLeastOnce,
    /// Every record's results at most once.
    AtMostOnce,
}

impl Guarantee {
    /// The guarantee as it is written in settings and labels: `exactly-once`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly-once",
            Self::AtLeastOnce => "at-least-once",
            Self::AtMostOnce => "at-most-once",
        }
    }
}

/// Where progress lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// In the consumer group at the broker.
    Group,
    /// With the results; the group holds a mirror for lag tools.
    Sink,
}

/// How a commit ended, with the record at fault already found.
#[derive(Debug)]
pub(crate) enum Fate {
    Committed,
    Aborted(Cause),
    Fenced(Cause),
    InDoubt(Cause),
    Rejected { record: Coordinates, cause: Cause },
    Stop(Error),
}

/// What the engine asks of a guarantee and its sink.
#[async_trait]
pub(crate) trait Delivery<O>: Send {
    fn guarantee(&self) -> Guarantee;
    fn progress(&self) -> Progress;
    fn describe(&self) -> SinkDescription;
    fn measure(&self) -> fn(&O) -> usize;
    /// Gives the group's offsets: once source and sink are open, before the first claim.
    fn attach(&mut self, group: Arc<dyn GroupOffsets>);
    async fn open(&mut self, context: &SinkContext) -> Result<(), SinkError>;
    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError>;
    /// At most once: stores progress past these records before they run.
    async fn admit(&mut self, spans: &[Span]) -> Result<(), SinkError>;
    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError>;
    async fn commit(&mut self, batch: Batch<O>) -> (Batch<O>, Fate);
    /// Waits for group commits that were sent without waiting; before a revocation is answered.
    async fn settle(&mut self);
    async fn release(&mut self, partitions: &[PartitionId]);
    async fn close(&mut self);
}

/// The fate of a batch that a plain sink refused to write, its rejections dealt with already.
fn fate_of_write(error: SinkError) -> Fate {
    match error {
        SinkError::Retry(cause) => aborted(cause),
        SinkError::Fenced(cause) => Fate::Fenced(cause),
        SinkError::Rejected(rejection) => Fate::Aborted(rejection.cause),
        SinkError::Stop(error) => Fate::Stop(error),
    }
}

/// The fate of a batch that was not committed, its rejections dealt with already.
fn fate_of_commit(error: CommitError) -> Fate {
    match error {
        CommitError::Aborted(cause) => aborted(cause),
        CommitError::Fenced(cause) => Fate::Fenced(cause),
        CommitError::InDoubt(cause) => Fate::InDoubt(cause),
        CommitError::Rejected(rejection) => Fate::Aborted(rejection.cause),
    }
}

/// Nothing was stored: try again, unless only an operator can help.
fn aborted(cause: Cause) -> Fate {
    if cause.is_for_operator() {
        Fate::Stop(Error::sink_failed(cause))
    } else {
        Fate::Aborted(cause)
    }
}

/// Whether there is anything for a sink to write: a batch may be nothing but progress.
fn has_content<O>(batch: &Batch<O>) -> bool {
    batch.outputs().next().is_some() || batch.dead_letters().next().is_some()
}

/// Whether the record that a sink blames is in the batch at all.
fn contains<O>(batch: &Batch<O>, record: &Coordinates) -> bool {
    let mut records = batch.finished().iter().map(|finished| &finished.record);
    records.any(|known| known.offset == record.offset && known.partition == record.partition)
}

/// The place of the last record of a batch.
fn last_record<O>(batch: &Batch<O>) -> Option<Coordinates> {
    Some(batch.finished().last()?.record.coordinates())
}
