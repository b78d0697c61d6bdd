//! One guarantee each: how claims, commits and progress are put together.
//!
//! The engine's delivery task owns a [`Delivery`] and calls it one call at a time; no call is
//! cancelled.

use std::sync::Arc;

use async_trait::async_trait;

use crate::batch::Batch;
use crate::error::{Cause, Error};
use crate::record::{Coordinates, PartitionId};
use crate::sink::{
    Claim, ClaimRequest, CommitError, Move, SinkContext, SinkDescription, SinkError,
};
use crate::source::{GroupOffsets, Position};

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
    /// Gives the group's offsets; before `open`.
    fn attach(&mut self, group: Arc<dyn GroupOffsets>);
    async fn open(&mut self, context: &SinkContext) -> Result<(), SinkError>;
    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError>;
    /// At most once: stores progress past these records before they run.
    async fn admit(&mut self, positions: &[Position]) -> Result<(), SinkError>;
    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError>;
    async fn commit(&mut self, batch: Batch<O>) -> (Batch<O>, Fate);
    /// Waits for group commits that were sent without waiting; before a revocation is answered.
    async fn settle(&mut self);
    async fn release(&mut self, partitions: &[PartitionId]);
    async fn close(&mut self);
}
