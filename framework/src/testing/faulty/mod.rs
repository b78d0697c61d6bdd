//! A transactional sink that fails as a script says: did it happen × were we told × how late ×
//! cancelled at which poll.
//!
//! ```
//! use tidegate::testing::{Call, Fault, FaultScript, Happens, MemoryStore, Told};
//!
//! let store = MemoryStore::<u64>::new();
//! // The second commit is stored, and its answer is lost.
//! let script = FaultScript::new().on(Call::Commit, 2, Fault::new(Happens::Yes, Told::Nothing));
//! let sink = script.wrap(store.sink());
//! # let _ = sink;
//! // … the pipeline runs into `sink` …
//! # std::mem::forget(script);
//! # let script = FaultScript::new();
//! script.finish(); // fails the test if the fault was not met
//! ```

mod script;

use std::fmt;
use std::future::Future;

pub use script::{Call, Fault, FaultScript, Happens, Told};

use super::polls::cancelled;
use crate::batch::Batch;
use crate::error::Cause;
use crate::record::PartitionId;
use crate::sink::{
    Claim, ClaimRequest, CommitError, Move, SinkContext, SinkDescription, SinkError,
    TransactionalSink,
};
use script::Shared;

/// A sink whose calls fail as its [`FaultScript`] says; made by [`FaultScript::wrap`].
pub struct Faulty<S> {
    inner: S,
    script: Shared,
}

impl<S: fmt::Debug> fmt::Debug for Faulty<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S> Faulty<S> {
    fn new(inner: S, script: Shared) -> Self {
        Self { inner, script }
    }
}

/// What a call came to.
enum Came<T> {
    /// The store answered this.
    To(T),
    /// It never reached the store.
    ToNothing,
    /// It was dropped on its way: nobody knows.
    Unknown,
}

impl Shared {
    /// Makes a call as the script says; the fault, if it had one.
    async fn make<T>(&self, call: Call, make: impl Future<Output = T>) -> (Came<T>, Option<Fault>) {
        let Some((nth, fault)) = self.called(call) else {
            return (Came::To(make.await), None);
        };
        let came = match fault.happens {
            Happens::Yes => Came::To(make.await),
            Happens::No => Came::ToNothing,
            Happens::CancelledAtPoll(polls) => match cancelled(polls, make).await {
                // It ended before it could be cancelled: the fault was not met.
                Some(answer) => return (Came::To(answer), None),
                None => Came::Unknown,
            },
        };
        self.hit(call, nth);
        if !fault.delay.is_zero() {
            tokio::time::sleep(fault.delay).await;
        }
        (came, Some(fault))
    }
}

fn lost(what: &str) -> Cause {
    Cause::new(format_args!("a planned fault: {what}"))
}

/// What the caller of a commit or a reposition hears.
fn answer(came: Came<Result<(), CommitError>>, fault: Option<Fault>) -> Result<(), CommitError> {
    let told = fault.map_or(Told::TheTruth, |fault| fault.told);
    match (told, came) {
        (Told::TheTruth, Came::To(answer)) => answer,
        (Told::TheTruth, Came::ToNothing) | (Told::Aborted, _) => {
            Err(CommitError::Aborted(lost("nothing was stored")))
        }
        (Told::TheTruth, Came::Unknown) | (Told::Nothing, _) => {
            Err(CommitError::InDoubt(lost("no answer")))
        }
        (Told::Success, _) => Ok(()),
    }
}

#[diagnostic::do_not_recommend]
impl<S: TransactionalSink> TransactionalSink for Faulty<S> {
    type Output = S::Output;

    async fn open(&mut self, context: &SinkContext) -> Result<(), SinkError> {
        self.inner.open(context).await
    }

    fn describe(&self) -> SinkDescription {
        self.inner.describe()
    }

    fn measure(&self) -> fn(&S::Output) -> usize {
        self.inner.measure()
    }

    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        let (came, fault) = self.script.make(Call::Claim, self.inner.claim(partitions)).await;
        match (came, fault.map(|fault| fault.told)) {
            (Came::To(answer), None | Some(Told::TheTruth | Told::Success)) => answer,
            // A claim has no other answer than positions, and of those nobody can make some up.
            _ => Err(SinkError::Retry(lost("the claim has no answer"))),
        }
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        let (came, fault) = self.script.make(Call::Reposition, self.inner.reposition(moves)).await;
        answer(came, fault)
    }

    async fn commit(&mut self, batch: &Batch<S::Output>) -> Result<(), CommitError> {
        let (came, fault) = self.script.make(Call::Commit, self.inner.commit(batch)).await;
        answer(came, fault)
    }

    async fn probe(&mut self, batch: &Batch<S::Output>) -> Result<(), CommitError> {
        self.inner.probe(batch).await
    }

    async fn release(&mut self, partitions: &[PartitionId]) {
        self.script.make(Call::Release, self.inner.release(partitions)).await;
    }

    async fn close(&mut self) {
        self.inner.close().await;
    }
}
