//! What a failed step means for the batch: the rows of each connector's one table of errors.

use tidegate::record::Coordinates;
use tidegate::sink::{CommitError, Rejection, SinkError};
use tidegate::{Cause, Error};

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

/// A failed step: its fate and what is said of it.
#[derive(Debug)]
pub struct Failure {
    /// How it ended.
    pub fate: Fate,
    /// Why.
    pub cause: Cause,
    /// The record at fault, if it is known.
    pub record: Option<Coordinates>,
    /// Whether the connection may still hold what the transaction left behind.
    pub taints_connection: bool,
}

impl Failure {
    /// A failure of this fate.
    pub fn new(fate: Fate, cause: Cause) -> Self {
        Self {
            fate,
            cause,
            record: None,
            // After doubt the connection is closed, so that what it left behind ends with it.
            taints_connection: matches!(fate, Fate::InDoubt | Fate::Reconnect),
        }
    }

    /// Dead letters in a batch of a sink that was told there would be none.
    pub fn no_place_for_dead_letters() -> Self {
        let cause = "the batch holds dead letters and the sink has no place for them";
        Self::new(Fate::Operator, Cause::new(cause))
    }

    /// The user's own SQL ended the transaction that it was given.
    pub fn transaction_was_ended() -> Self {
        let cause = "`write_with` ended the transaction: what it wrote before may be stored \
                     without its progress; remove COMMIT and ROLLBACK from it";
        Self::new(Fate::Operator, Cause::new(cause))
    }

    /// The compare did not hold; the words for it are found after the rollback.
    pub fn compare_differs() -> Self {
        let cause = "stored progress is not where the batch starts";
        Self::new(Fate::Fenced, Cause::new(cause))
    }

    /// The same failure on a connection that could not even roll back.
    #[must_use]
    pub fn not_rolled_back(self) -> Self {
        Self { taints_connection: true, ..self }
    }

    /// The error of a commit.
    pub fn into_commit_error(self) -> CommitError {
        match self.fate {
            Fate::Aborted | Fate::Reconnect => CommitError::Aborted(self.cause),
            Fate::Operator => CommitError::Aborted(self.cause.needs_operator()),
            Fate::Fenced => CommitError::Fenced(self.cause),
            Fate::Rejected => CommitError::Rejected(self.into_rejection()),
            Fate::InDoubt => CommitError::InDoubt(self.cause),
        }
    }

    /// The error of any other call. What is in doubt there is simply done again.
    pub fn into_sink_error(self) -> SinkError {
        match self.fate {
            Fate::Aborted | Fate::Reconnect | Fate::InDoubt => SinkError::Retry(self.cause),
            Fate::Operator => SinkError::Stop(Error::sink_failed(self.cause)),
            Fate::Fenced => SinkError::Fenced(self.cause),
            Fate::Rejected => SinkError::Rejected(self.into_rejection()),
        }
    }

    /// The error of the user's statements at the start: what waiting does not mend is theirs.
    pub fn into_setup_error(self) -> SinkError {
        match self.fate {
            Fate::Aborted | Fate::Reconnect => SinkError::Retry(self.cause),
            _ => SinkError::Stop(
                Error::configuration("setup", self.cause)
                    .remedy("run the statements by hand as this user, and see what is refused"),
            ),
        }
    }

    fn into_rejection(self) -> Rejection {
        Rejection { cause: self.cause, record: self.record }
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self { record: rejection.record, ..Self::new(Fate::Rejected, rejection.cause) }
    }
}
