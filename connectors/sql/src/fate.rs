//! What a failed step means for the batch: the rows of each connector's one table of errors.

use tidegate::Cause;
use tidegate::sink::{CommitError, Rejection, SinkError};

/// How far a transaction was when it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nothing that could make it durable was sent.
    BeforeCommit,
    /// `COMMIT`, or a statement that commits by itself, was sent.
    CommitSent,
}

/// How a transaction ended that did not commit, or may not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nothing was stored; the same batch can be tried again.
    Aborted,
    /// Nothing was stored; as [`Aborted`](Self::Aborted), on a new connection.
    Reconnect,
    /// Nothing was stored, and nothing will be until an operator acts.
    Operator,
    /// Nothing was stored: the compare found another owner or another position.
    Fenced,
    /// Nothing was stored: the data is refused.
    Rejected,
    /// It may or may not have been stored.
    InDoubt,
}

impl Fate {
    /// Whether the connection can be used again. After doubt it is closed, so that what it left
    /// behind ends with it.
    pub fn keeps_connection(self) -> bool {
        !matches!(self, Self::InDoubt | Self::Reconnect)
    }

    /// The error of a commit with this fate.
    pub fn commit_error(self, cause: Cause) -> CommitError {
        match self {
            Self::Aborted | Self::Reconnect => CommitError::Aborted(cause),
            Self::Operator => CommitError::Aborted(cause.needs_operator()),
            Self::Fenced => CommitError::Fenced(cause),
            Self::Rejected => CommitError::Rejected(Rejection::of_some_record(cause)),
            Self::InDoubt => CommitError::InDoubt(cause),
        }
    }

    /// The error of any other call with this fate. What is in doubt there is simply done again.
    pub fn sink_error(self, cause: Cause) -> SinkError {
        match self {
            Self::Aborted | Self::Reconnect | Self::InDoubt => SinkError::Retry(cause),
            Self::Operator => SinkError::Retry(cause.needs_operator()),
            Self::Fenced => SinkError::Fenced(cause),
            Self::Rejected => SinkError::Rejected(Rejection::of_some_record(cause)),
        }
    }
}
