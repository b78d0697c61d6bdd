//! What the author of a sink tells the kit: how to make one, how to read what it stored, and what
//! its store cannot do.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;

use crate::record::{Coordinates, Offset, PartitionId};
use crate::sink::TransactionalSink;

/// What the sink of a harness takes.
pub type OutputOf<H> = <<H as Harness>::Sink as TransactionalSink>::Output;

/// A fresh store, sinks on it, and a reader of it. Each promise gets a harness of its own.
///
/// Only [`sink`](Self::sink), [`output`](Self::output) and [`view`](Self::view) have to be written.
/// Every other method belongs to an [`Ability`]: write it, or declare in [`lacks`](Self::lacks) that
/// the store has no such thing; a promise that needs a method which is neither fails.
pub trait Harness: Sync {
    /// The sink under test.
    type Sink: TransactionalSink;

    /// A sink on the store, as another process would make it: an owner of its own, not opened yet.
    /// The kit opens it.
    fn sink(&self) -> impl Future<Output = Self::Sink> + Send;

    /// The result of this number. Different numbers are different results, and [`View::outputs`]
    /// gives the number back: it stands for the record that the result came from.
    fn output(&self, number: u64) -> OutputOf<Self>;

    /// What a reader of the store sees now: in one snapshot, unless the store lacks
    /// [`Ability::Snapshot`]. It must not go through the sink.
    fn view(&self) -> impl Future<Output = View> + Send;

    /// Why the store does not have this ability; `None`: it has it. What is declared here is not
    /// skipped: each promise says what it asserts instead.
    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        let _ = ability;
        None
    }

    /// The partition that the kit calls by this number, from 0 to 2. Overridden where partitions
    /// must exist before they can be claimed.
    fn partition(&self, number: i32) -> PartitionId {
        PartitionId::new("conformance", number)
    }

    /// A result that the store refuses for its data. Belongs to [`Ability::Rejection`].
    fn refused_output(&self) -> OutputOf<Self> {
        panic!("the harness neither writes `refused_output` nor lacks Ability::Rejection")
    }

    /// Breaks the connection of the sink that commits next, in the middle of that commit. Belongs
    /// to [`Ability::Wire`].
    fn sever(&self, at: Severed) -> impl Future<Output = ()> + Send {
        async move { panic!("the harness neither writes `sever` ({at:?}) nor lacks Ability::Wire") }
    }

    /// Whether the last break that [`sever`](Self::sever) prepared has happened.
    fn was_severed(&self) -> bool {
        panic!("the harness neither writes `was_severed` nor lacks Ability::Wire")
    }

    /// Leaves a transaction open that wrote this result and this progress in the name of the
    /// partition's owner, as a process does that is killed before its commit. What is given back is
    /// kept until the promise has been looked at. Belongs to [`Ability::Transaction`].
    fn leave_open(&self, left: LeftOpen<OutputOf<Self>>) -> impl Future<Output = Guard> + Send {
        drop(left);
        async { panic!("the harness neither writes `leave_open` nor lacks Ability::Transaction") }
    }
}

/// Keeps something as it is until it is dropped.
pub type Guard = Box<dyn Any + Send>;

/// What a reader sees.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct View {
    /// The numbers of all results, as often as each is there; in any order.
    pub outputs: Vec<u64>,
    /// The records of all dead letters, as often as each is there; in any order.
    pub dead: Vec<Coordinates>,
    /// The next offset of every partition that has one.
    pub progress: BTreeMap<PartitionId, Offset>,
}

/// Where a commit is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severed {
    /// What would make it durable does not reach the store.
    BeforeRequest,
    /// The store did it; the answer does not come back.
    BeforeAnswer,
}

/// A transaction to be left open.
#[derive(Debug)]
pub struct LeftOpen<O> {
    /// The partition whose progress it moves.
    pub partition: PartitionId,
    /// Where progress stands.
    pub first: Offset,
    /// Where the transaction moves it.
    pub next: Offset,
    /// The result that it wrote.
    pub output: O,
}

/// Something a store may not be able to do. What the kit asserts of one that cannot is said with
/// each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Ability {
    /// Stored progress is compared with where the batch starts. Without it: a gap and a replay are
    /// accepted, so that nobody takes the store for a second line of defence. Refusals for want of
    /// ownership may then be answered with `Aborted` as well, because whoever lost a partition
    /// learns it from the source.
    Compare,
    /// A reader sees results, dead letters and progress as of one moment. Without it: a reader
    /// still sees the results of each batch together.
    Snapshot,
    /// Two sinks can be open at a time. Without it: the second is told to try again (`Retry`) as
    /// long as the first lives, and opens once it is gone.
    Owners,
    /// A process that is stopped in the middle of its commit does not keep its heir from
    /// claiming. Without it: at some point of a commit the heir's claim is put off (`Retry`),
    /// and gets its turn once the process goes on.
    Succession,
    /// A transaction can be open. Without it: a commit is over after one poll.
    Transaction,
    /// There is a connection that can break. Without it: the answer of a commit is lost on the way
    /// from the sink to its caller.
    Wire,
    /// Some data is refused. Without it: there is a probe, it passes, and it leaves nothing.
    Rejection,
    /// Dead letters have a place. Without it: a sink that is told to expect them refuses to open
    /// (`Stop`).
    DeadLetters,
}
