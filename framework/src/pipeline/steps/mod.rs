//! The typed steps of a pipeline. They compose statically and are erased once, at the end.
//!
//! Three kinds follow one another: steps that *read* ([`Read`]: from raw bytes to a record, or to
//! nothing), one *head* ([`Head`]: from a record to results) and a *tail* ([`Tail`]: from results
//! to results). Results flow forward through [`Emit`] one by one, so nothing piles up in between
//! and the limits at the end bound everything.

mod collect;
mod context;
mod head;
mod head_async;
mod read;
mod tail;

use std::fmt;
use std::marker::PhantomData;
use std::ops::ControlFlow;

pub use context::{Context, Emitter};
pub use head::{Call, Each, FlatMap, Head, Map, Now, TryMap};
pub use head_async::{EachAsync, MapAsync};
pub use read::{Decoded, FilterRecords, Read, Undecoded};
pub use tail::{FilterResults, FlatMapResults, MapResults, Tail, Whole};

pub(crate) use collect::Bounds;

/// A step: what comes before it, its function, and of which kind it is.
pub struct Step<K, A, F> {
    before: A,
    function: F,
    kind: PhantomData<fn() -> K>,
}

impl<K, A, F> Step<K, A, F> {
    pub(super) fn new(before: A, function: F) -> Self {
        Self { before, function, kind: PhantomData }
    }
}

impl<K, A: fmt::Debug, F> fmt::Debug for Step<K, A, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = std::any::type_name::<K>();
        let kind = kind.split('<').next().unwrap_or(kind);
        let kind = kind.rsplit("::").next().unwrap_or(kind);
        write!(f, "{:?} → {kind}", self.before)
    }
}

/// Takes results one by one.
pub trait Emit<O> {
    /// Takes one; breaks when no more are wanted, because the record is over its limits.
    fn emit(&mut self, item: O) -> ControlFlow<()>;

    /// Notes that something was deliberately left out: a record, or a result, was filtered.
    fn withhold(&mut self);
}
