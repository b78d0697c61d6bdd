//! A transactional sink in memory, with everything a real one has: claims, compare, rollback.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::batch::{Batch, DeadLetter};
use crate::error::Cause;
use crate::record::{Coordinates, Offset, PartitionId, RawRecord};
use crate::sink::{
    Claim, ClaimRequest, CommitError, Move, Rejection, SinkContext, SinkDescription, SinkError,
    Stored, TopicId, TransactionalSink,
};

/// The store behind any number of [`MemorySink`]s: what a database is to its clients.
#[derive(Debug)]
pub struct MemoryStore<O>(Arc<Mutex<State<O>>>);

#[derive(Debug)]
struct State<O> {
    rows: Vec<Row<O>>,
    dead: Vec<(RawRecord, DeadLetter)>,
    progress: BTreeMap<PartitionId, Progress>,
    owners: u64,
}

/// One stored result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row<O> {
    /// The record it came from.
    pub source: Coordinates,
    /// Its number among that record's results.
    pub index: u32,
    /// The result.
    pub value: O,
}

/// Everything in a [`MemoryStore`] at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot<O> {
    /// Every result, in commit order.
    pub rows: Vec<Row<O>>,
    /// Every dead letter with its record, in commit order.
    pub dead: Vec<(RawRecord, DeadLetter)>,
    /// The next offset of every partition that has one.
    pub progress: BTreeMap<PartitionId, Offset>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    next: Offset,
    claim: u64,
    owner: u64,
    topic_id: Option<TopicId>,
    resets: u64,
}

impl<O> Clone for MemoryStore<O> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<O> Default for MemoryStore<O> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            rows: Vec::new(),
            dead: Vec::new(),
            progress: BTreeMap::new(),
            owners: 0,
        })))
    }
}

impl<O: Clone> MemoryStore<O> {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A sink that writes here, an owner of its own.
    pub fn sink(&self) -> MemorySink<O> {
        let mut state = self.lock();
        state.owners += 1;
        let owner = state.owners;
        MemorySink { store: self.clone(), owner, claims: BTreeMap::new(), refuses: None }
    }

    /// Everything stored, as of one moment.
    pub fn snapshot(&self) -> Snapshot<O> {
        let state = self.lock();
        let progress = state.progress.iter().map(|(id, stored)| (id.clone(), stored.next));
        Snapshot {
            rows: state.rows.clone(),
            dead: state.dead.clone(),
            progress: progress.collect(),
        }
    }

    /// Everything stored, in commit order.
    pub fn rows(&self) -> Vec<Row<O>> {
        self.lock().rows.clone()
    }

    /// Every dead letter with its record, in commit order.
    pub fn dead_letters(&self) -> Vec<(RawRecord, DeadLetter)> {
        self.lock().dead.clone()
    }

    /// Stored progress of a partition.
    pub fn progress(&self, partition: &PartitionId) -> Option<Offset> {
        self.lock().progress.get(partition).map(|progress| progress.next)
    }

    /// How often the position of a partition was set without results.
    pub fn resets(&self, partition: &PartitionId) -> u64 {
        self.lock().progress.get(partition).map_or(0, |progress| progress.resets)
    }
}

impl<O> MemoryStore<O> {
    fn lock(&self) -> MutexGuard<'_, State<O>> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

type Refusal<O> = Arc<dyn Fn(&O) -> Option<String> + Send + Sync>;

/// A transactional sink into a [`MemoryStore`].
pub struct MemorySink<O> {
    store: MemoryStore<O>,
    owner: u64,
    claims: BTreeMap<PartitionId, u64>,
    refuses: Option<Refusal<O>>,
}

impl<O> std::fmt::Debug for MemorySink<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemorySink").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl<O> MemorySink<O> {
    /// Refuses results for which this answers a reason, as a database refuses bad data; it does
    /// not say which record was at fault.
    #[must_use]
    pub fn refusing(
        mut self,
        reason: impl Fn(&O) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.refuses = Some(Arc::new(reason));
        self
    }

    /// The compare: every span starts where progress stands, and is still ours.
    fn compare(&self, state: &State<O>, batch: &Batch<O>) -> Result<(), CommitError> {
        for span in batch.spans() {
            let ours = self.claims.get(&span.partition);
            let stored = state.progress.get(&span.partition);
            let matches = stored.is_some_and(|stored| {
                Some(&stored.claim) == ours
                    && stored.owner == self.owner
                    && stored.next == span.first
            });
            if !matches {
                let partition = &span.partition;
                return Err(CommitError::Fenced(Cause::new(format_args!(
                    "{partition} is not ours at {}, stored: {stored:?}",
                    span.first
                ))));
            }
        }
        Ok(())
    }

    fn refuse(&self, batch: &Batch<O>) -> Result<(), CommitError> {
        let Some(refuses) = &self.refuses else { return Ok(()) };
        match batch.outputs().find_map(|output| refuses(output.value)) {
            Some(reason) => {
                Err(CommitError::Rejected(Rejection::of_some_record(Cause::new(reason))))
            }
            None => Ok(()),
        }
    }
}

#[diagnostic::do_not_recommend]
impl<O: Clone + Send + Sync + 'static> TransactionalSink for MemorySink<O> {
    type Output = O;

    async fn open(&mut self, _: &SinkContext) -> Result<(), SinkError> {
        Ok(())
    }

    fn describe(&self) -> SinkDescription {
        SinkDescription {
            kind: "memory".into(),
            target: "a store in this process".into(),
            ..SinkDescription::default()
        }
    }

    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        let store = self.store.clone();
        let mut state = store.lock();
        let mut claims = Vec::with_capacity(partitions.len());
        for request in partitions {
            let partition = request.partition.clone();
            let stored = match state.progress.get_mut(&partition) {
                None => Stored::Nothing,
                Some(stored)
                    if request.topic_id.is_some()
                        && stored.topic_id.is_some()
                        && stored.topic_id != request.topic_id =>
                {
                    Stored::Refused(Cause::new("the topic was recreated; reset its offsets"))
                }
                Some(stored) => {
                    stored.claim += 1;
                    stored.owner = self.owner;
                    self.claims.insert(partition.clone(), stored.claim);
                    Stored::At(stored.next)
                }
            };
            claims.push(Claim { partition, stored });
        }
        Ok(claims)
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        let store = self.store.clone();
        let mut state = store.lock();
        for to in moves {
            let stored = state.progress.get(&to.partition);
            let fits = match (to.expected, stored) {
                (None, _) => true,
                (Some(expected), Some(stored)) => {
                    stored.next == expected
                        && stored.owner == self.owner
                        && Some(&stored.claim) == self.claims.get(&to.partition)
                }
                (Some(_), None) => false,
            };
            if !fits {
                let partition = &to.partition;
                let cause = Cause::new(format_args!("{partition} is not ours: {stored:?}"));
                return Err(CommitError::Fenced(cause));
            }
        }
        for to in moves {
            let absent =
                Progress { next: to.next, claim: 0, owner: 0, topic_id: to.topic_id, resets: 0 };
            let stored = state.progress.entry(to.partition.clone()).or_insert(absent);
            if to.expected.is_some() {
                stored.next = to.next;
                stored.resets += 1;
            }
        }
        Ok(())
    }

    async fn commit(&mut self, batch: &Batch<O>) -> Result<(), CommitError> {
        let store = self.store.clone();
        let mut state = store.lock();
        self.compare(&state, batch)?;
        self.refuse(batch)?;
        state.rows.extend(batch.outputs().map(|output| Row {
            source: output.record.coordinates(),
            index: output.index,
            value: output.value.clone(),
        }));
        let dead = batch.dead_letters();
        state.dead.extend(dead.map(|(f, letter)| ((*f.record).clone(), letter.clone())));
        for span in batch.spans() {
            if let Some(stored) = state.progress.get_mut(&span.partition) {
                stored.next = span.next;
            }
        }
        Ok(())
    }

    async fn probe(&mut self, batch: &Batch<O>) -> Result<(), CommitError> {
        self.compare(&self.store.lock(), batch)?;
        self.refuse(batch)
    }

    async fn release(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            self.claims.remove(partition);
        }
    }

    async fn close(&mut self) {}
}
