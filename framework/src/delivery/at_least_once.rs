//! At least once: write, then move the group's offsets.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::group::Group;
use super::ordered_commits::OrderedCommits;
use super::{Delivery, Fate, Guarantee, Progress, aborted, contains, fate_of_write, last_record};
use crate::batch::Batch;
use crate::error::Cause;
use crate::record::{Coordinates, Epoch, Offset, PartitionId};
use crate::sink::{
    Claim, ClaimRequest, CommitError, Move, Sink, SinkContext, SinkDescription, SinkError,
};
use crate::source::{GroupOffsets, Position, SourceError};

/// When the group's offsets are committed after results were written (at-least-once).
///
/// Whatever is chosen, offsets are committed only behind results that the sink has acknowledged,
/// and everything is committed before partitions are handed back and before the pipeline ends.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum GroupCommits {
    /// After every write, waiting for the broker's answer: the fewest repeats after a crash.
    #[default]
    Sync,
    /// After every write, without waiting. One commit is in flight at a time; while it is, newer
    /// positions replace older ones. The hook hears of every answer, in the order of the commits.
    Async(CommitHook),
    /// At most once in this time: the fewest requests, the most repeats after a crash.
    Every(Duration),
}

type Hook = dyn Fn(&[Position], Result<(), &SourceError>) + Send + Sync;

/// Called when an asynchronous group commit was answered; see [`GroupCommits::Async`].
#[derive(Clone, Default)]
pub struct CommitHook(Option<Arc<Hook>>);

impl CommitHook {
    /// Calls `hook` with the positions of each commit and what the broker said. It runs on the
    /// engine's runtime and must not block. Positions of a failed commit are sent again.
    pub fn new(
        hook: impl Fn(&[Position], Result<(), &SourceError>) + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(hook)))
    }

    /// Nobody is told.
    pub fn none() -> Self {
        Self(None)
    }

    pub(super) fn call(&self, positions: &[Position], result: Result<(), &SourceError>) {
        if let Some(hook) = &self.0 {
            hook(positions, result);
        }
    }
}

impl fmt::Debug for CommitHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.0.is_some() { "hook" } else { "no hook" };
        f.write_str(name)
    }
}

pub(crate) struct AtLeastOnce<S> {
    sink: S,
    group: Group,
    commits: GroupCommits,
    /// The task that commits when `commits` is not `Sync`, from `open` to `close`.
    ordered: Option<OrderedCommits>,
    /// Up to where results are durable although the group's offsets may not be: what is repeated
    /// for the offsets' sake is not written again.
    written: HashMap<PartitionId, (Epoch, Offset)>,
}

impl<S: Sink> AtLeastOnce<S> {
    pub(crate) fn new(sink: S, commits: GroupCommits) -> Self {
        Self { sink, group: Group::default(), commits, ordered: None, written: HashMap::new() }
    }

    fn is_written(&self, batch: &Batch<S::Output>) -> bool {
        batch.spans().iter().all(|span| {
            self.written
                .get(&span.partition)
                .is_some_and(|(epoch, next)| *epoch == span.epoch && span.next <= *next)
        })
    }

    async fn write(&mut self, batch: Batch<S::Output>) -> (Batch<S::Output>, Option<Fate>) {
        if self.is_written(&batch) {
            return (batch, None);
        }
        let (batch, fate) = match self.sink.write(&batch).await {
            Ok(()) => (batch, None),
            Err(SinkError::Rejected(rejection)) => match rejection.record {
                Some(record) if contains(&batch, &record) => {
                    let cause = rejection.cause;
                    (batch, Some(Fate::Rejected { record, cause }))
                }
                _ => isolate(&mut self.sink, batch).await,
            },
            Err(error) => (batch, Some(fate_of_write(error))),
        };
        if fate.is_none() {
            for span in batch.spans() {
                self.written.insert(span.partition.clone(), (span.epoch, span.next));
            }
        }
        (batch, fate)
    }

    async fn store(&mut self, positions: Vec<Position>) -> Fate {
        if positions.is_empty() {
            return Fate::Committed;
        }
        if let Some(ordered) = &self.ordered {
            if let Some(error) = ordered.take_error() {
                return Fate::Stop(error);
            }
            ordered.put(positions);
            return Fate::Committed;
        }
        match self.group.offsets().commit(&positions).await {
            Ok(()) => Fate::Committed,
            Err(SourceError::Retry(cause)) => aborted(cause),
            Err(SourceError::Fenced(cause)) => Fate::Fenced(cause),
            Err(SourceError::Stop(error)) => Fate::Stop(error),
        }
    }

    /// Nothing older may overwrite what is stored for these partitions from now on.
    async fn forget(&mut self, partitions: Vec<PartitionId>) {
        for partition in &partitions {
            self.written.remove(partition);
        }
        if let Some(ordered) = &self.ordered {
            ordered.forget(partitions).await;
        }
    }
}

#[async_trait]
impl<S: Sink> Delivery<S::Output> for AtLeastOnce<S> {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn progress(&self) -> Progress {
        Progress::Group
    }

    fn describe(&self) -> SinkDescription {
        self.sink.describe()
    }

    fn measure(&self) -> fn(&S::Output) -> usize {
        self.sink.measure()
    }

    fn attach(&mut self, group: Arc<dyn GroupOffsets>) {
        self.group.attach(group);
    }

    async fn open(&mut self, context: &SinkContext) -> Result<(), SinkError> {
        self.sink.open(context).await?;
        let (pace, hook) = match &self.commits {
            GroupCommits::Sync => return Ok(()),
            GroupCommits::Async(hook) => (Duration::ZERO, hook.clone()),
            GroupCommits::Every(pace) => (*pace, CommitHook::none()),
        };
        let offsets = Arc::clone(self.group.offsets());
        self.ordered = Some(OrderedCommits::start(offsets, pace, hook));
        Ok(())
    }

    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        let claimed = partitions.iter().map(|claim| claim.partition.clone());
        self.forget(claimed.collect()).await;
        self.group.claim(partitions).await
    }

    async fn admit(&mut self, _: &[Position]) -> Result<(), SinkError> {
        Ok(())
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        let moved = moves.iter().map(|to| to.partition.clone());
        self.forget(moved.collect()).await;
        self.group.reposition(moves).await
    }

    async fn commit(&mut self, batch: Batch<S::Output>) -> (Batch<S::Output>, Fate) {
        let (batch, refused) = self.write(batch).await;
        if let Some(fate) = refused {
            return (batch, fate);
        }
        let moved = batch.spans().iter().filter(|span| span.first < span.next);
        let positions =
            moved.map(|span| Position { partition: span.partition.clone(), next: span.next });
        let fate = self.store(positions.collect()).await;
        (batch, fate)
    }

    async fn settle(&mut self) {
        if let Some(ordered) = &self.ordered {
            ordered.settle().await;
        }
    }

    async fn release(&mut self, partitions: &[PartitionId]) {
        self.forget(partitions.to_vec()).await;
    }

    async fn close(&mut self) {
        self.settle().await;
        self.ordered = None;
        self.sink.close().await;
    }
}

/// Finds the record a plain sink refuses by writing halves: what passes is durable already, and
/// writing it again later is what at-least-once allows. No fate means that all of it was written.
async fn isolate<S: Sink>(
    sink: &mut S,
    batch: Batch<S::Output>,
) -> (Batch<S::Output>, Option<Fate>) {
    let mut written: Option<Batch<S::Output>> = None;
    let mut unwritten = vec![batch];
    let mut fate = None;
    while let Some(part) = unwritten.pop() {
        let error = match sink.write(&part).await {
            Ok(()) => {
                written = Some(joined(written, part));
                continue;
            }
            Err(error) => error,
        };
        if let SinkError::Rejected(rejection) = &error
            && rejection.record.is_none()
            && part.len() > 1
        {
            let half = part.len() / 2;
            let (left, right) = part.split(half);
            unwritten.extend([right, left]);
            continue;
        }
        fate = Some(fate_of_part(&part, error));
        unwritten.push(part);
        break;
    }
    for part in unwritten.into_iter().rev() {
        written = Some(joined(written, part));
    }
    let batch = written.expect("the parts make up the batch");
    (batch, fate)
}

fn joined<O>(first: Option<Batch<O>>, rest: Batch<O>) -> Batch<O> {
    match first {
        Some(first) => first.join(rest),
        None => rest,
    }
}

/// The fate of a part that cannot be divided further.
fn fate_of_part<O>(part: &Batch<O>, error: SinkError) -> Fate {
    let rejection = match error {
        SinkError::Rejected(rejection) => rejection,
        other => return fate_of_write(other),
    };
    let blamed = rejection.record.filter(|record| contains(part, record));
    let only: Option<Coordinates> = last_record(part).filter(|_| part.len() == 1);
    match blamed.or(only) {
        Some(record) => Fate::Rejected { record, cause: rejection.cause },
        None => Fate::Aborted(Cause::new(format_args!(
            "the sink refuses the batch's data, but no single record of it: {}",
            rejection.cause
        ))),
    }
}
