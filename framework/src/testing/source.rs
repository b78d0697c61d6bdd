//! A source over the memory broker.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;

use super::broker::{MemoryBroker, StartedAt};
use crate::batch::Span;
use crate::error::Cause;
use crate::record::{Epoch, Offset, PartitionId, Topic};
use crate::source::{
    Chunk, Credit, EventSender, GroupOffsets, Position, Resolved, Source, SourceContext,
    SourceDescription, SourceError, SourceEvent, Start, Unresolved, Wanted,
};

/// Records in one chunk.
const CHUNK: usize = 64;

/// Reads a [`MemoryBroker`]; made by [`MemoryBroker::source`].
#[derive(Debug)]
pub struct MemorySource {
    broker: MemoryBroker,
    topics: Vec<Topic>,
    reading: Arc<Reading>,
    group: Arc<Mutex<Option<(String, u64)>>>,
    id: u64,
}

/// What is being read, shared with the task that reads.
#[derive(Debug, Default)]
struct Reading {
    partitions: Mutex<BTreeMap<PartitionId, Cursor>>,
    /// Credit that came before the start it belongs to.
    early: Mutex<Vec<Credit>>,
    wake: Notify,
}

#[derive(Debug)]
struct Cursor {
    epoch: Epoch,
    at: Offset,
    /// The last end that was told.
    ended_at: Option<Offset>,
    records: usize,
    /// Less than none behind a record that was larger than what was left.
    bytes: i64,
}

impl MemorySource {
    pub(super) fn new(broker: MemoryBroker, topics: Vec<Topic>) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Self { broker, topics, reading: Arc::default(), group: Arc::default(), id }
    }
}

impl Reading {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Cursor>> {
        self.partitions.lock().expect("no holder of the lock panics")
    }

    fn start(&self, starts: Vec<Start>) {
        for Start { partition, epoch, offset } in starts {
            let cursor = Cursor { epoch, at: offset, ended_at: None, records: 0, bytes: 0 };
            self.lock().insert(partition, cursor);
        }
        let early = std::mem::take(&mut *self.early.lock().expect("no holder of the lock panics"));
        self.credit(early);
        self.wake.notify_one();
    }

    fn credit(&self, grants: Vec<Credit>) {
        let mut early = self.early.lock().expect("no holder of the lock panics");
        for grant in grants {
            match self.lock().get_mut(&grant.partition) {
                Some(cursor) if cursor.epoch == grant.epoch => {
                    cursor.records += grant.records as usize;
                    cursor.bytes = cursor.bytes.saturating_add_unsigned(grant.bytes);
                }
                Some(cursor) if cursor.epoch > grant.epoch => {}
                _ => early.push(grant),
            }
        }
    }

    /// Sends what credit allows; answers whether anything was sent.
    fn send(&self, broker: &MemoryBroker, events: &EventSender) -> bool {
        let mut sent = false;
        for (partition, cursor) in self.lock().iter_mut() {
            if cursor.records == 0 || cursor.bytes <= 0 {
                continue;
            }
            let (records, end) = broker.read(partition, cursor.at, CHUNK.min(cursor.records));
            let epoch = cursor.epoch;
            if let Some(last) = records.last() {
                cursor.at = last.offset.next();
                cursor.records -= records.len();
                let bytes: usize = records.iter().map(|record| record.size_bytes()).sum();
                cursor.bytes = cursor.bytes.saturating_sub_unsigned(bytes as u64);
                let partition = partition.clone();
                sent |= events.send(SourceEvent::Records(Chunk { partition, epoch, records }));
            } else if cursor.ended_at != Some(end) {
                cursor.at = end;
                cursor.ended_at = Some(end);
                let partition = partition.clone();
                sent |= events.send(SourceEvent::End { partition, epoch, next: end });
            }
        }
        sent
    }
}

#[diagnostic::do_not_recommend]
impl Source for MemorySource {
    fn describe(&self) -> SourceDescription {
        let topics: Vec<&str> = self.topics.iter().map(Topic::as_str).collect();
        SourceDescription {
            kind: "memory".into(),
            target: topics.join(", "),
            notes: Vec::new(),
            id: self.id,
        }
    }

    async fn open(
        &mut self,
        context: &SourceContext,
        events: EventSender,
    ) -> Result<(), SourceError> {
        let reading = Arc::clone(&self.reading);
        let (member_events, broker) = (events.clone(), self.broker.clone());
        let started = Arc::clone(&self.reading);
        let id = self.broker.join(
            &context.group,
            self.topics.clone(),
            member_events,
            StartedAt::new(move |starts| started.start(starts)),
        );
        *self.group.lock().expect("no holder of the lock panics") =
            Some((context.group.clone(), id));
        tokio::spawn(async move {
            loop {
                let changed = broker.changed();
                if reading.send(&broker, &events) {
                    tokio::task::yield_now().await;
                    continue;
                }
                tokio::select! {
                    () = changed => {}
                    () = reading.wake.notified() => {}
                    () = tokio::time::sleep(std::time::Duration::from_millis(5)) => {}
                }
                if Arc::strong_count(&reading) == 1 {
                    return;
                }
            }
        });
        Ok(())
    }

    fn credit(&mut self, grants: Vec<Credit>) {
        self.reading.credit(grants);
        self.reading.wake.notify_one();
    }

    fn resolve(
        &mut self,
        wanted: Vec<Wanted>,
    ) -> BoxFuture<'static, Result<Vec<Resolved>, SourceError>> {
        let broker = self.broker.clone();
        async move { Ok(wanted.into_iter().flat_map(|want| find(&broker, want)).collect()) }.boxed()
    }

    fn reposition(&mut self, starts: Vec<Start>) {
        self.reading.start(starts);
    }

    fn group_offsets(&self) -> Arc<dyn GroupOffsets> {
        // As with a real client: whoever asks before the source is open gets nothing that works.
        let open = self.group.lock().expect("no holder of the lock panics").is_some();
        let group = if open { Arc::clone(&self.group) } else { Arc::default() };
        let reading = Arc::clone(&self.reading);
        Arc::new(MemoryGroup { broker: self.broker.clone(), reading, group })
    }

    fn close(&mut self) -> BoxFuture<'static, ()> {
        self.reading.lock().clear();
        let broker = self.broker.clone();
        let group = self.group.lock().expect("no holder of the lock panics").take();
        async move {
            if let Some((group, id)) = group {
                broker.leave(&group, id).await;
            }
        }
        .boxed()
    }
}

fn find(broker: &MemoryBroker, want: Wanted) -> Vec<Resolved> {
    let one = |partition: PartitionId,
               pick: &dyn Fn(Offset, Offset) -> Result<Offset, Unresolved>| {
        let position = match broker.bounds(&partition) {
            Some((low, high)) => pick(low, high),
            None => Err(Unresolved::Unknown),
        };
        vec![Resolved { partition, position }]
    };
    match want {
        Wanted::StartOfTopic(topic) => broker
            .partitions_of(&topic)
            .into_iter()
            .flat_map(|partition| one(partition, &|low, _| Ok(low)))
            .collect(),
        Wanted::Start(partition) | Wanted::Beginning(partition) => {
            one(partition, &|low, _| Ok(low))
        }
        Wanted::End(partition) => one(partition, &|_, high| Ok(high)),
        Wanted::Stored(partition, stored) => one(partition, &|low, high| {
            if stored < low || stored > high {
                return Err(Unresolved::OutOfRange { stored, low, high });
            }
            Ok(stored)
        }),
        Wanted::At(partition, time) => {
            let (records, end) = broker.read(&partition, Offset::ZERO, usize::MAX);
            let at = records.iter().find(|r| r.timestamp.is_some_and(|stamp| stamp >= time));
            let position = Ok(at.map_or(end, |record| record.offset));
            vec![Resolved { partition, position }]
        }
    }
}

struct MemoryGroup {
    broker: MemoryBroker,
    reading: Arc<Reading>,
    group: Arc<Mutex<Option<(String, u64)>>>,
}

impl MemoryGroup {
    fn name(&self) -> Result<String, SourceError> {
        let group = self.group.lock().expect("no holder of the lock panics");
        group
            .as_ref()
            .map(|(name, _)| name.clone())
            .ok_or_else(|| SourceError::Retry(Cause::new("the source is not open")))
    }
}

#[async_trait]
impl GroupOffsets for MemoryGroup {
    async fn committed(
        &self,
        partitions: &[PartitionId],
    ) -> Result<Vec<Option<Offset>>, SourceError> {
        let group = self.name()?;
        Ok(partitions.iter().map(|id| self.broker.group_offset(&group, id)).collect())
    }

    async fn commit(&self, positions: &[Position]) -> Result<(), SourceError> {
        let group = self.name()?;
        for position in positions {
            self.broker.commit_group(&group, &position.partition, position.next);
        }
        Ok(())
    }

    async fn commit_reached(&self, spans: &[Span]) -> Result<(), SourceError> {
        let stale = {
            let reading = self.reading.lock();
            let is_current = |span: &&Span| {
                reading.get(&span.partition).is_some_and(|cursor| cursor.epoch == span.epoch)
            };
            spans.iter().find(|span| !is_current(span)).map(|span| span.partition.clone())
        };
        if let Some(id) = stale {
            let cause = Cause::new(format_args!("{id} was repositioned meanwhile"));
            return Err(SourceError::Retry(cause));
        }
        let positions: Vec<Position> = spans.iter().map(Position::reached).collect();
        self.commit(&positions).await
    }

    fn mirror(&self, positions: Vec<Position>) {
        if let Ok(group) = self.name() {
            for position in positions {
                self.broker.commit_group(&group, &position.partition, position.next);
            }
        }
    }
}
