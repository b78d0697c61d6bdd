//! User functions behind one face: what the pool calls for each record.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::batch::{DeadReason, Outputs};
use crate::record::RawRecord;

/// What one call of the user's function said.
pub enum Attempt<O> {
    /// It succeeded with these results; `None` means it was filtered.
    Done(Option<Outputs<O>>),
    /// It failed.
    Failed(Failure),
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure.
    pub reason: DeadReason,
    /// The error's text.
    pub error: String,
    /// Whether another call may end otherwise; a value that cannot be decoded never will.
    pub retriable: bool,
}

/// A sync function with its decoder: takes the record and the number of the call, from 1.
pub(crate) type SyncFunction<O> = Arc<dyn Fn(&Arc<RawRecord>, u32) -> Attempt<O> + Send + Sync>;

/// As [`SyncFunction`], for functions that wait.
pub(crate) type AsyncFunction<O> =
    Arc<dyn Fn(Arc<RawRecord>, u32) -> BoxFuture<'static, Attempt<O>> + Send + Sync>;

/// The user's function with its decoder, types erased. A panic is the caller's to catch.
pub enum Process<O> {
    /// Runs on a thread of the pool.
    Sync(SyncFunction<O>),
    /// Runs as a task.
    Async(AsyncFunction<O>),
}

impl<O> fmt::Debug for Attempt<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(None) => f.write_str("filtered"),
            Self::Done(Some(outputs)) => write!(f, "{} results", outputs.len()),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl<O> fmt::Debug for Process<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sync(_) => "Sync",
            Self::Async(_) => "Async",
        })
    }
}

impl<O> Clone for Process<O> {
    fn clone(&self) -> Self {
        match self {
            Self::Sync(function) => Self::Sync(Arc::clone(function)),
            Self::Async(function) => Self::Async(Arc::clone(function)),
        }
    }
}

/// The longest text that is kept of an error: it is stored with the dead letter, logged and shown.
const ERROR_TEXT_MAX: usize = 2_000;

/// An error as text, with the errors underneath that it does not repeat itself, cut to a length
/// that any sink can store.
pub(crate) fn error_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    // Chains are short; the bound is for an error that names itself as its cause.
    for cause in std::iter::successors(error.source(), |cause| cause.source()).take(16) {
        let more = cause.to_string();
        if text.len() < ERROR_TEXT_MAX && !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
    }
    if text.len() > ERROR_TEXT_MAX {
        text.truncate(text.floor_char_boundary(ERROR_TEXT_MAX));
        text.push('…');
    }
    text
}
