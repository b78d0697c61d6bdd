//! Doubles for the tests of the guarantees: a group, and sinks that answer by rule.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::batch::{Batch, Finished, Outcome, Outputs, Span};
use crate::error::Cause;
use crate::record::{Epoch, Headers, Offset, PartitionId, RawRecord};
use crate::sink::{
    Claim, ClaimRequest, CommitError, DeadLetters, Move, Sink, SinkContext, SinkDescription,
    SinkError, TransactionalSink,
};
use crate::source::{GroupOffsets, Position, SourceError};

pub(super) fn partition(index: i32) -> PartitionId {
    PartitionId::new("t", index)
}

pub(super) fn position(index: i32, next: i64) -> Position {
    Position { partition: partition(index), next: Offset::new(next) }
}

pub(super) fn request(index: i32) -> ClaimRequest {
    ClaimRequest { partition: partition(index), topic_id: None }
}

pub(super) fn context(dead_letters: DeadLetters) -> SinkContext {
    SinkContext {
        group: "g".into(),
        instance: None,
        deadline: Duration::from_secs(1),
        dead_letters,
    }
}

pub(super) fn finished(index: i32, offset: i64, outcome: Outcome<i64>) -> Finished<i64> {
    Finished {
        record: Arc::new(RawRecord {
            partition: partition(index),
            offset: Offset::new(offset),
            timestamp: None,
            key: None,
            value: None,
            headers: Headers::default(),
        }),
        outcome,
        attempts: 1,
    }
}

pub(super) fn emits(index: i32, offset: i64, value: i64) -> Finished<i64> {
    finished(index, offset, Outcome::Emit(Outputs::One(value)))
}

pub(super) fn span(index: i32, epoch: u64, first: i64, next: i64) -> Span {
    Span {
        partition: partition(index),
        epoch: Epoch::new(epoch),
        first: Offset::new(first),
        next: Offset::new(next),
    }
}

/// So many records that emit 0, 1, 2 …, alternating holes between them, over three partitions; a
/// fourth partition has a span without records.
pub(super) fn batch_of(records: usize) -> Batch<i64> {
    let mut all = Vec::new();
    let mut spans = Vec::new();
    let mut value = 0;
    for index in 0..3 {
        let here = (records + 2 - index) / 3;
        let index = i32::try_from(index).expect("small");
        for at in 0..here {
            let offset = 10 + 2 * i64::try_from(at).expect("small");
            all.push(emits(index, offset, value));
            value += 1;
        }
        if here > 0 {
            let next = 10 + 2 * i64::try_from(here).expect("small") + 5;
            spans.push(span(index, 1, 8, next));
        }
    }
    spans.push(span(3, 1, 8, 9));
    Batch::new(spans, all)
}

/// What a batch holds, to compare: spans, and each record with its outcome.
pub(super) fn contents(batch: &Batch<i64>) -> (Vec<Span>, Vec<(String, Outcome<i64>)>) {
    let records = batch.finished().iter().map(|finished| {
        let place = finished.record.coordinates().to_string();
        (place, finished.outcome.clone())
    });
    (batch.spans().to_vec(), records.collect())
}

pub(super) fn values(batch: &Batch<i64>) -> Vec<i64> {
    batch.outputs().map(|output| *output.value).collect()
}

/// A consumer group: answers from a list, then Ok; can be held up.
pub(super) struct Group {
    pub(super) stored: Mutex<HashMap<PartitionId, Offset>>,
    pub(super) commits: Mutex<Vec<Vec<Position>>>,
    pub(super) answers: Mutex<VecDeque<SourceError>>,
    /// A commit takes a permit when it ends.
    pub(super) permits: Semaphore,
}

impl Group {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            stored: Mutex::default(),
            commits: Mutex::default(),
            answers: Mutex::default(),
            permits: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    /// A group whose commits wait for permits.
    pub(super) fn held_up() -> Arc<Self> {
        let group = Self::new();
        group.permits.forget_permits(Semaphore::MAX_PERMITS);
        group
    }

    pub(super) fn answer(&self, error: SourceError) {
        self.answers.lock().expect("no panic").push_back(error);
    }

    pub(super) fn commits(&self) -> Vec<Vec<Position>> {
        self.commits.lock().expect("no panic").clone()
    }
}

#[async_trait]
impl GroupOffsets for Group {
    async fn committed(
        &self,
        partitions: &[PartitionId],
    ) -> Result<Vec<Option<Offset>>, SourceError> {
        let stored = self.stored.lock().expect("no panic");
        Ok(partitions.iter().map(|p| stored.get(p).copied()).collect())
    }

    async fn commit(&self, positions: &[Position]) -> Result<(), SourceError> {
        self.commits.lock().expect("no panic").push(positions.to_vec());
        let permit = self.permits.acquire().await.expect("never closed");
        permit.forget();
        if let Some(error) = self.answers.lock().expect("no panic").pop_front() {
            return Err(error);
        }
        let mut stored = self.stored.lock().expect("no panic");
        stored.extend(positions.iter().map(|p| (p.partition.clone(), p.next)));
        Ok(())
    }

    async fn commit_reached(&self, spans: &[Span]) -> Result<(), SourceError> {
        let positions: Vec<Position> = spans.iter().map(Position::reached).collect();
        self.commit(&positions).await
    }

    fn mirror(&self, _: Vec<Position>) {}
}

/// What was asked of a sink, in order.
#[derive(Clone, Default)]
pub(super) struct Calls(Arc<Mutex<Vec<Call>>>);

/// What was called, with which results.
type Call = (&'static str, Vec<i64>);

impl Calls {
    pub(super) fn note(&self, call: &'static str, batch: &Batch<i64>) {
        self.0.lock().expect("no panic").push((call, values(batch)));
    }

    pub(super) fn of(&self, wanted: &str) -> Vec<Vec<i64>> {
        let calls = self.0.lock().expect("no panic");
        let wanted = calls.iter().filter(|(call, _)| *call == wanted);
        wanted.map(|(_, values)| values.clone()).collect()
    }
}

type Rule<E> = Box<dyn FnMut(&Batch<i64>) -> Result<(), E> + Send>;

/// A plain sink that answers every write by a rule.
pub(super) struct PlainSink {
    pub(super) calls: Calls,
    pub(super) rule: Rule<SinkError>,
}

impl PlainSink {
    pub(super) fn new(
        rule: impl FnMut(&Batch<i64>) -> Result<(), SinkError> + Send + 'static,
    ) -> Self {
        Self { calls: Calls::default(), rule: Box::new(rule) }
    }
}

impl Sink for PlainSink {
    type Output = i64;

    async fn open(&mut self, _: &SinkContext) -> Result<(), SinkError> {
        Ok(())
    }

    fn describe(&self) -> SinkDescription {
        SinkDescription::default()
    }

    async fn write(&mut self, batch: &Batch<i64>) -> Result<(), SinkError> {
        self.calls.note("write", batch);
        (self.rule)(batch)
    }

    async fn close(&mut self) {}
}

/// A transactional sink that answers every commit and every probe by a rule.
pub(super) struct RuledSink {
    pub(super) calls: Calls,
    pub(super) commit: Rule<CommitError>,
    pub(super) probe: Rule<CommitError>,
    pub(super) bound_to: Option<u64>,
}

impl RuledSink {
    /// Commits and probes follow the same rule.
    pub(super) fn new(
        rule: impl Fn(&Batch<i64>) -> Result<(), CommitError> + Clone + Send + 'static,
    ) -> Self {
        Self {
            calls: Calls::default(),
            commit: Box::new(rule.clone()),
            probe: Box::new(rule),
            bound_to: None,
        }
    }
}

impl TransactionalSink for RuledSink {
    type Output = i64;

    async fn open(&mut self, _: &SinkContext) -> Result<(), SinkError> {
        Ok(())
    }

    fn describe(&self) -> SinkDescription {
        SinkDescription { bound_to: self.bound_to, ..SinkDescription::default() }
    }

    async fn claim(&mut self, _: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        Ok(Vec::new())
    }

    async fn reposition(&mut self, _: &[Move]) -> Result<(), CommitError> {
        Ok(())
    }

    async fn commit(&mut self, batch: &Batch<i64>) -> Result<(), CommitError> {
        self.calls.note("commit", batch);
        (self.commit)(batch)
    }

    async fn probe(&mut self, batch: &Batch<i64>) -> Result<(), CommitError> {
        self.calls.note("probe", batch);
        (self.probe)(batch)
    }

    async fn release(&mut self, _: &[PartitionId]) {}

    async fn close(&mut self) {}
}

pub(super) fn cause(text: &str) -> Cause {
    Cause::new(text)
}
