//! A transactional sink in which one defect can be planted.

use std::collections::BTreeMap;

use super::store::{Progress, State, Store};
use super::{Defect, REFUSED};
use crate::batch::Batch;
use crate::error::Cause;
use crate::record::{Coordinates, Offset, PartitionId};
use crate::sink::{
    Claim, ClaimRequest, CommitError, Move, Rejection, SinkContext, SinkDescription, SinkError,
    Stored, TransactionalSink,
};
use crate::testing::conformance::Severed;

pub(super) struct BrokenSink {
    store: Store,
    defect: Option<Defect>,
    owner: u64,
    claims: BTreeMap<PartitionId, u64>,
    /// Where a sink thinks it stands after doubt that asks itself instead of the store.
    believed: BTreeMap<PartitionId, Offset>,
}

impl BrokenSink {
    pub(super) fn new(store: &Store, defect: Option<Defect>) -> Self {
        let mut state = store.lock();
        state.owners += 1;
        let owner = state.owners;
        drop(state);
        let (claims, believed) = (BTreeMap::new(), BTreeMap::new());
        Self { store: store.clone(), defect, owner, claims, believed }
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    fn is_ours(&self, stored: &Progress, partition: &PartitionId) -> bool {
        self.claims.get(partition) == Some(&stored.claim) && stored.owner == self.owner
    }

    /// Whether a span may be stored: it is ours, and progress is where it starts.
    fn stands(&self, state: &State, partition: &PartitionId, first: Offset) -> bool {
        state.progress.get(partition).is_some_and(|stored| {
            let is_there = match self.defect {
                Some(Defect::AcceptsGaps) => stored.next <= first,
                Some(Defect::AcceptsReplays) => stored.next >= first,
                _ => stored.next == first,
            };
            (self.is_ours(stored, partition) || self.has(Defect::HasNoFence)) && is_there
        })
    }

    fn compare(&self, state: &State, batch: &Batch<u64>) -> Result<(), CommitError> {
        let foreign = batch.spans().iter().find(|span| {
            span.first != span.next && !self.stands(state, &span.partition, span.first)
        });
        match foreign {
            None => Ok(()),
            Some(span) => Err(fenced(&span.partition)),
        }
    }

    fn refuse(batch: &Batch<u64>, record: Option<Coordinates>) -> Result<(), CommitError> {
        if batch.outputs().all(|output| *output.value != REFUSED) {
            return Ok(());
        }
        Err(CommitError::Rejected(Rejection { cause: Cause::new("a constraint"), record }))
    }

    /// The checks of a commit, and what a broken one stores on its way.
    fn check(&self, state: &mut State, batch: &Batch<u64>) -> Result<(), CommitError> {
        if self.has(Defect::WritesDeadLettersFirst) {
            state.dead.extend(dead(batch));
        }
        if self.has(Defect::KeepsWhatItWroteBeforeARefusal) {
            let standing =
                |span: &&crate::batch::Span| self.stands(state, &span.partition, span.first);
            let ours: Vec<PartitionId> =
                batch.spans().iter().take_while(standing).map(|s| s.partition.clone()).collect();
            if ours.len() < batch.spans().len() {
                let outputs = batch.outputs().filter(|o| ours.contains(&o.record.partition));
                state.outputs.extend(outputs.map(|output| *output.value));
            }
        }
        self.compare(state, batch)?;
        let first = batch.finished().first().map(|finished| finished.record.coordinates());
        Self::refuse(batch, first.filter(|_| self.has(Defect::BlamesTheFirstRecord)))
    }

    fn write(&self, state: &mut State, batch: &Batch<u64>) {
        write_results(state, batch);
        if self.has(Defect::FlushesAnOpenTransaction) {
            let open = std::mem::take(&mut state.open);
            state.outputs.extend(open.into_iter().map(|(_, _, output)| output));
        }
        if !self.has(Defect::LosesDeadLetters) && !self.has(Defect::WritesDeadLettersFirst) {
            state.dead.extend(dead(batch));
        }
        let spans = match self.defect {
            Some(Defect::StoresProgressOfOnePartition) => &batch.spans()[..1],
            _ => batch.spans(),
        };
        for span in spans {
            if let Some(stored) = state.progress.get_mut(&span.partition) {
                stored.next = span.next;
            }
        }
    }

    /// A commit with a point in the middle where a process can be stopped.
    async fn store(&self, batch: &Batch<u64>) -> Result<(), CommitError> {
        self.check(&mut self.store.lock(), batch)?;
        let mut half = Half { store: &self.store, batch, is_over: false, on_drop: OnDrop::Nothing };
        if self.has(Defect::ShowsResultsBeforeProgress) {
            write_results(&mut self.store.lock(), batch);
            half.on_drop = OnDrop::TakeBack;
        }
        if self.has(Defect::FlushesItsBufferWhenDropped) {
            half.on_drop = OnDrop::Flush;
        }
        tokio::task::yield_now().await;
        half.end();
        let mut state = self.store.lock();
        // What was true before the pause must still be.
        if !self.has(Defect::ComparesTooEarly) {
            self.compare(&state, batch)?;
        }
        self.write(&mut state, batch);
        Ok(())
    }
}

/// What a commit does that is dropped in its middle.
enum OnDrop {
    Nothing,
    TakeBack,
    Flush,
}

struct Half<'a> {
    store: &'a Store,
    batch: &'a Batch<u64>,
    is_over: bool,
    on_drop: OnDrop,
}

impl Half<'_> {
    /// The commit goes on: what it showed early is taken back, to be written for good.
    fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for Half<'_> {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        match self.on_drop {
            OnDrop::TakeBack => {
                for output in self.batch.outputs() {
                    let at = state.outputs.iter().rposition(|shown| shown == output.value);
                    state.outputs.remove(at.expect("it was shown"));
                }
            }
            OnDrop::Flush if !self.is_over => write_results(&mut state, self.batch),
            OnDrop::Flush | OnDrop::Nothing => {}
        }
    }
}

fn write_results(state: &mut State, batch: &Batch<u64>) {
    state.outputs.extend(batch.outputs().map(|output| *output.value));
}

fn dead(batch: &Batch<u64>) -> impl Iterator<Item = Coordinates> {
    batch.dead_letters().map(|(finished, _)| finished.record.coordinates())
}

fn fenced(partition: &PartitionId) -> CommitError {
    CommitError::Fenced(Cause::new(format_args!("{partition} is not ours there")))
}

impl TransactionalSink for BrokenSink {
    type Output = u64;

    async fn open(&mut self, _: &SinkContext) -> Result<(), SinkError> {
        Ok(())
    }

    fn describe(&self) -> SinkDescription {
        SinkDescription::default()
    }

    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        let store = self.store.clone();
        let mut state = store.lock();
        if self.has(Defect::CommitsAnOpenTransaction) {
            for (partition, next, output) in std::mem::take(&mut state.open) {
                state.outputs.push(output);
                state.progress.get_mut(&partition).expect("it was claimed").next = next;
            }
        } else if !self.has(Defect::FlushesAnOpenTransaction) {
            state.open.clear();
        }
        if self.has(Defect::ClaimsEverything) {
            state.progress.values_mut().for_each(|stored| stored.claim += 1);
        }
        let mut claims = Vec::new();
        for request in partitions {
            let partition = request.partition.clone();
            if self.has(Defect::StartsAnEmptyStoreAtZero) {
                let start = Progress { next: Offset::ZERO, claim: 0, owner: 0 };
                state.progress.entry(partition.clone()).or_insert(start);
            }
            let stored = match state.progress.get_mut(&partition) {
                None => Stored::Nothing,
                Some(stored) => {
                    stored.claim += 1;
                    stored.owner = self.owner;
                    self.claims.insert(partition.clone(), stored.claim);
                    let believed = self.believed.get(&partition).copied();
                    let believed = believed.filter(|_| self.has(Defect::ResumesWhereItThinks));
                    Stored::At(believed.unwrap_or(stored.next))
                }
            };
            claims.push(Claim { partition, stored });
        }
        Ok(claims)
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        let mut state = self.store.lock();
        for to in moves {
            let stored = state.progress.get(&to.partition);
            let fits = to.expected.is_none_or(|expected| {
                stored.is_some_and(|stored| {
                    self.is_ours(stored, &to.partition) && stored.next == expected
                })
            });
            if !fits && !self.has(Defect::SeeksWithoutCompare) {
                return Err(fenced(&to.partition));
            }
        }
        for to in moves {
            let absent = Progress { next: to.next, claim: 0, owner: 0 };
            let stored = state.progress.entry(to.partition.clone()).or_insert(absent);
            if to.expected.is_some() || self.has(Defect::StoresEveryStart) {
                stored.next = to.next;
            }
        }
        Ok(())
    }

    async fn commit(&mut self, batch: &Batch<u64>) -> Result<(), CommitError> {
        if self.has(Defect::SkipsEmptyBatches) && batch.outputs().next().is_none() {
            return Ok(());
        }
        let sever = self.store.lock().sever.take();
        if sever != Some(Severed::BeforeRequest) {
            self.store(batch).await?;
        }
        if sever.is_none() {
            self.believed.clear();
            return Ok(());
        }
        for span in batch.spans() {
            self.believed.insert(span.partition.clone(), span.first);
        }
        let cause = Cause::new("connection lost");
        match self.defect {
            Some(Defect::TakesDoubtForSuccess) => Ok(()),
            Some(Defect::TakesDoubtForFailure) => Err(CommitError::Aborted(cause)),
            _ => Err(CommitError::InDoubt(cause)),
        }
    }

    async fn probe(&mut self, batch: &Batch<u64>) -> Result<(), CommitError> {
        let mut state = self.store.lock();
        self.compare(&state, batch)?;
        if self.has(Defect::LeavesAProbe) {
            state.dead.extend(dead(batch));
        }
        match self.defect {
            Some(Defect::ProbesNothing) => Ok(()),
            _ => Self::refuse(batch, None),
        }
    }

    async fn release(&mut self, partitions: &[PartitionId]) {
        self.claims.retain(|partition, _| !partitions.contains(partition));
    }

    async fn close(&mut self) {}
}
