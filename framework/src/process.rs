//! User functions behind one face: what the pool calls for each record.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::batch::{DeadReason, Outputs};
use crate::record::RawRecord;

/// What one call of the user's function said.
pub(crate) enum Attempt<O> {
    /// It succeeded with these results; `None` means it was filtered.
    Done(Option<Outputs<O>>),
    /// It failed.
    Failed(Failure),
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: DeadReason,
    pub(crate) error: String,
    /// Whether another call may end otherwise; a value that cannot be decoded never will.
    pub(crate) retriable: bool,
}

/// The user's function with its decoder, types erased.
pub(crate) enum Process<O> {
    /// Runs on a thread of the pool; a panic is the caller's to catch.
    Sync(Arc<dyn Fn(&Arc<RawRecord>, u32) -> Attempt<O> + Send + Sync>),
    /// Runs as a task.
    Async(Arc<dyn Fn(Arc<RawRecord>, u32) -> BoxFuture<'static, Attempt<O>> + Send + Sync>),
}

impl<O> Clone for Process<O> {
    fn clone(&self) -> Self {
        match self {
            Self::Sync(function) => Self::Sync(Arc::clone(function)),
            Self::Async(function) => Self::Async(Arc::clone(function)),
        }
    }
}
