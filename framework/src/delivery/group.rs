//! The consumer group's offsets as the store of progress, for the two weaker guarantees.

use std::sync::Arc;

use crate::record::PartitionId;
use crate::sink::{Claim, ClaimRequest, CommitError, Move, SinkError, Stored};
use crate::source::{GroupOffsets, Position, SourceError};

/// The group's offsets, once they are attached.
#[derive(Default)]
pub(super) struct Group(Option<Arc<dyn GroupOffsets>>);

impl Group {
    pub(super) fn attach(&mut self, offsets: Arc<dyn GroupOffsets>) {
        self.0 = Some(offsets);
    }

    pub(super) fn offsets(&self) -> &Arc<dyn GroupOffsets> {
        self.0.as_ref().expect("attached before the first claim")
    }

    /// Where each partition resumes. Nothing is fenced here: the broker fences members.
    pub(super) async fn claim(&self, requests: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        let partitions: Vec<PartitionId> =
            requests.iter().map(|request| request.partition.clone()).collect();
        let committed = self.offsets().committed(&partitions).await.map_err(sink_error)?;
        let stored = committed.into_iter().map(|offset| match offset {
            Some(offset) => Stored::At(offset),
            None => Stored::Nothing,
        });
        let claims = partitions.into_iter().zip(stored);
        Ok(claims.map(|(partition, stored)| Claim { partition, stored }).collect())
    }

    /// Stores positions. One that expects nothing stored leaves alone what is stored.
    pub(super) async fn reposition(&self, moves: &[Move]) -> Result<(), CommitError> {
        let (known, first): (Vec<&Move>, Vec<&Move>) =
            moves.iter().partition(|to| to.expected.is_some());
        let mut positions: Vec<Position> = known.into_iter().map(position).collect();
        if !first.is_empty() {
            let partitions: Vec<PartitionId> =
                first.iter().map(|to| to.partition.clone()).collect();
            let committed = self.offsets().committed(&partitions).await.map_err(commit_error)?;
            let absent = first.into_iter().zip(committed).filter(|(_, stored)| stored.is_none());
            positions.extend(absent.map(|(to, _)| position(to)));
        }
        if positions.is_empty() {
            return Ok(());
        }
        self.offsets().commit(&positions).await.map_err(commit_error)
    }
}

fn position(to: &Move) -> Position {
    Position { partition: to.partition.clone(), next: to.next }
}

pub(super) fn sink_error(error: SourceError) -> SinkError {
    match error {
        SourceError::Retry(cause) => SinkError::Retry(cause),
        SourceError::Fenced(cause) => SinkError::Fenced(cause),
        SourceError::Stop(error) => SinkError::Stop(error),
    }
}

/// Committing a position again is harmless, so a commit that may have been stored counts as one
/// that was not.
fn commit_error(error: SourceError) -> CommitError {
    match error {
        SourceError::Retry(cause) => CommitError::Aborted(cause),
        SourceError::Fenced(cause) => CommitError::Fenced(cause),
        SourceError::Stop(error) => {
            let cause =
                crate::error::Cause::from_error("the group's offsets cannot be stored", error);
            CommitError::Aborted(cause.needs_operator())
        }
    }
}
