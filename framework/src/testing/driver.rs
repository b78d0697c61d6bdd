//! Runs a whole pipeline on fed records: no server, no clock, no threads.
//!
//! The driver takes a [`Job`] and swaps both ends: the real decoder, functions, order, failure
//! policy and engine run over a log and a store that are plain values. Time passes only where the
//! pipeline waits (a retry, a commit interval), and then at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::batch::{Batch, DeadLetter, Finished, Outcome, Span};
use crate::delivery::{Fate, Progress};
use crate::engine::core::{Action, Call, Config, Core, Event};
use crate::engine::observe::EngineEvent;
use crate::error::Error;
use crate::pipeline::Job;
use crate::pool::Pool;
use crate::record::{Headers, Offset, PartitionId, RawRecord, Record, Timestamp, Topic};
use crate::sink::{Claim, ClaimRequest, Move, Stored};
use crate::source::{AssignedPartition, Chunk, Credit, Resolved, Start, Wanted};
use crate::testing::Row;

/// Rounds without progress after which the driver gives up: a pipeline that turns in circles is a
/// bug worth a message instead of a hang.
const ROUNDS_MAX: u32 = 1_000_000;

/// A pipeline under test.
///
/// ```
/// # #[cfg(feature = "json")] {
/// use tidegate::prelude::*;
/// use tidegate::testing::{MemoryBroker, MemoryStore, TestDriver};
///
/// // In a program this is the same `fn pipeline()` that `main` runs.
/// let broker = MemoryBroker::new();
/// let store = MemoryStore::<u64>::new();
/// let job = Pipeline::new("lengths")
///     .from(broker.source(&["words"]))
///     .decode(Json::<String>::new())
///     .map(|word| word.value.len() as u64)
///     .on_failure(Retry::never().then_dead_letter())
///     .exactly_once(store.sink());
///
/// let mut driver = TestDriver::new(job).expect("the settings are allowed");
/// driver.feed("words", Some("k"), Some("\"tide\""));
/// driver.feed("words", Some("k"), Some("no json"));
/// driver.run().expect("nothing stops it");
/// assert_eq!(driver.outputs(), [4]);
/// assert_eq!(driver.dead_letters().len(), 1);
/// assert_eq!(driver.progress("words", 0), Some(2));
/// # }
/// ```
pub struct TestDriver<O> {
    core: Core<O>,
    pool: Pool<O>,
    now: Duration,
    logs: BTreeMap<PartitionId, Log>,
    rows: Vec<Row<O>>,
    dead: Vec<(RawRecord, DeadLetter)>,
    progress: BTreeMap<PartitionId, Offset>,
    happened: Vec<EngineEvent>,
    ended: Option<Result<(), Error>>,
    pending: Vec<Event<O>>,
    numbers: u64,
}

#[derive(Default)]
struct Log {
    records: Vec<Arc<RawRecord>>,
    reading: Option<Reading>,
}

struct Reading {
    start: Start,
    at: usize,
    records: usize,
    bytes: u64,
    told_end: bool,
}

impl<O: Send + Sync + 'static> TestDriver<O> {
    /// A driver for this job. Its source and sink are never opened.
    ///
    /// # Errors
    /// What `run()` would refuse: a setting that cannot work.
    pub fn new(job: Job<O>) -> Result<Self, Error> {
        let limits = job.check()?;
        let config = Config {
            order: job.order,
            policy: job.policy,
            guarantee: job.delivery.guarantee(),
            progress: Progress::Sink,
            prove_membership: false,
            outstanding_max: limits.threads.saturating_mul(64),
            run_max: 8,
            seed: 1,
            limits,
        };
        Ok(Self {
            core: Core::new(config),
            pool: Pool::inline(job.process, 1, Arc::new(Notify::new())),
            now: Duration::ZERO,
            logs: BTreeMap::new(),
            rows: Vec::new(),
            dead: Vec::new(),
            progress: BTreeMap::new(),
            happened: Vec::new(),
            ended: None,
            pending: Vec::new(),
            numbers: 0,
        })
    }

    /// Appends a record to partition 0 of a topic and answers its offset.
    pub fn feed(&mut self, topic: &str, key: Option<&str>, value: Option<&str>) -> i64 {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        self.feed_record(Record {
            partition: PartitionId::new(topic, 0),
            offset: Offset::ZERO,
            timestamp: Some(Timestamp::from_millis(0)),
            key: key.map(bytes),
            value: value.map(bytes),
            headers: Headers::default(),
        })
    }

    /// Appends a record to its partition and answers its offset; the offset it carries is taken if
    /// it lies behind the log's end, so that holes can be made.
    pub fn feed_record(&mut self, mut record: RawRecord) -> i64 {
        let id = record.partition.clone();
        if !self.logs.contains_key(&id) {
            self.numbers += 1;
            let partitions = vec![AssignedPartition { partition: id.clone(), topic_id: None }];
            let (id, deadline) = (self.numbers, Duration::MAX);
            self.pending.push(Event::Assigned { id, partitions, deadline });
        }
        let log = self.logs.entry(id).or_default();
        let end = log.end();
        record.offset = record.offset.max(end);
        let offset = record.offset;
        log.records.push(Arc::new(record));
        if let Some(reading) = &mut log.reading {
            reading.told_end = false;
        }
        offset.get()
    }

    /// Runs until everything that was fed is stored, or nothing moves any more.
    ///
    /// # Errors
    /// The error the pipeline stopped with.
    pub fn run(&mut self) -> Result<(), &Error> {
        for _ in 0..ROUNDS_MAX {
            if self.ended.is_some() || !self.round() {
                break;
            }
        }
        match &self.ended {
            Some(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Lets all that has happened be taken in and acted on; `false` when nothing moves any more.
    fn round(&mut self) -> bool {
        let mut completions = Vec::new();
        self.pool.drain(&mut completions);
        let mut events = std::mem::take(&mut self.pending);
        if !completions.is_empty() {
            events.push(Event::Completed(completions));
        }
        self.read(&mut events);
        if events.is_empty() {
            match self.core.wake_at() {
                Some(at) if at < Duration::MAX => self.now = self.now.max(at),
                _ => return false,
            }
        }
        let mut actions = Vec::new();
        self.core.step(self.now, events, &mut actions);
        for action in actions {
            self.perform(action);
        }
        true
    }

    /// What the source would send now.
    fn read(&mut self, events: &mut Vec<Event<O>>) {
        for (partition, log) in &mut self.logs {
            let end = log.end();
            let Some(reading) = &mut log.reading else { continue };
            let rest = &log.records[reading.at..];
            let epoch = reading.start.epoch;
            let take = rest.len().min(reading.records).min(if reading.bytes > 0 { 64 } else { 0 });
            if take > 0 {
                let records = rest[..take].to_vec();
                reading.at += take;
                reading.records -= take;
                let bytes: usize = records.iter().map(|record| record.size_bytes()).sum();
                reading.bytes = reading.bytes.saturating_sub(bytes as u64);
                let partition = partition.clone();
                events.push(Event::Records(Chunk { partition, epoch, records }));
            } else if rest.is_empty() && !reading.told_end {
                reading.told_end = true;
                events.push(Event::End { partition: partition.clone(), epoch, next: end });
            }
        }
    }

    fn perform(&mut self, action: Action<O>) {
        match action {
            Action::AnswerAssigned { starts, .. } | Action::StartReading(starts) => {
                self.start(starts);
            }
            Action::AnswerRevoked { .. } | Action::Reply { .. } | Action::Mirror(_) => {}
            Action::Credit(grants) => self.credit(grants),
            Action::Resolve { call, wanted } => self.resolve(call, wanted),
            Action::Claim(requests) => self.claim(requests),
            Action::Reposition { call, moves } => self.reposition(call, moves),
            Action::Prove(_) => self.pending.push(Event::Proved(Ok(()))),
            Action::Admit(spans) => self.admit(spans),
            Action::Commit(batch) => self.commit(batch),
            Action::Release { revocation, .. } => {
                self.pending.push(Event::Released { revocation });
            }
            Action::Run(jobs) => self.pool.submit(jobs),
            Action::WriteOff { key, seq } => {
                self.pool.replace(key, seq);
            }
            Action::Tell(event) => self.happened.push(event),
            Action::Finish(result) => self.ended = Some(result),
        }
    }

    fn start(&mut self, starts: Vec<Start>) {
        for start in starts {
            let log = self.logs.entry(start.partition.clone()).or_default();
            let at = log.records.partition_point(|record| record.offset < start.offset);
            log.reading = Some(Reading { start, at, records: 0, bytes: 0, told_end: false });
        }
    }

    fn credit(&mut self, grants: Vec<Credit>) {
        for grant in grants {
            let log = self.logs.get_mut(&grant.partition);
            if let Some(reading) = log.and_then(|log| log.reading.as_mut())
                && reading.start.epoch == grant.epoch
            {
                reading.records += grant.records as usize;
                reading.bytes += grant.bytes;
            }
        }
    }

    fn resolve(&mut self, call: Call, wanted: Vec<Wanted>) {
        let mut found = BTreeSet::new();
        let mut add = |partition: &PartitionId, offset: Offset| {
            found.insert((partition.clone(), offset));
        };
        for want in wanted {
            match want {
                Wanted::StartOfTopic(topic) => {
                    let mine = self.logs.keys().filter(|id| *id.topic() == topic);
                    mine.for_each(|id| add(id, Offset::ZERO));
                }
                Wanted::Stored(id, offset) => add(&id, offset),
                Wanted::End(id) => add(&id, self.logs.get(&id).map_or(Offset::ZERO, Log::end)),
                Wanted::Start(id) | Wanted::Beginning(id) | Wanted::At(id, _) => {
                    add(&id, Offset::ZERO);
                }
            }
        }
        let found = found
            .into_iter()
            .map(|(partition, offset)| Resolved { partition, position: Ok(offset) })
            .collect();
        self.pending.push(Event::Resolved { call, result: Ok(found) });
    }

    fn claim(&mut self, requests: Vec<ClaimRequest>) {
        let claims = requests
            .into_iter()
            .map(|request| Claim {
                stored: match self.progress.get(&request.partition) {
                    Some(next) => Stored::At(*next),
                    None => Stored::Nothing,
                },
                partition: request.partition,
            })
            .collect();
        self.pending.push(Event::Claimed(Ok(claims)));
    }

    fn reposition(&mut self, call: Call, moves: Vec<Move>) {
        for to in &moves {
            self.progress.insert(to.partition.clone(), to.next);
        }
        self.pending.push(Event::Repositioned { call, moves, result: Ok(()) });
    }

    fn admit(&mut self, spans: Vec<Span>) {
        for span in &spans {
            self.progress.insert(span.partition.clone(), span.next);
        }
        self.pending.push(Event::Admitted(Ok(())));
    }

    /// Stores a batch; its results are moved out of it, so they need not be cloned.
    fn commit(&mut self, batch: Batch<O>) {
        let (spans, mut finished) = batch.into_parts();
        for done in &mut finished {
            self.store(done);
        }
        for span in &spans {
            self.progress.insert(span.partition.clone(), span.next);
        }
        let batch = Batch::new(spans, finished);
        self.pending.push(Event::Committed { batch, fate: Fate::Committed });
    }

    fn store(&mut self, done: &mut Finished<O>) {
        match std::mem::replace(&mut done.outcome, Outcome::Filtered) {
            Outcome::Emit(outputs) => {
                let source = done.record.coordinates();
                let rows = outputs.into_iter().zip(0..);
                self.rows.extend(rows.map(|(value, index)| Row {
                    source: source.clone(),
                    index,
                    value,
                }));
            }
            Outcome::Dead(letter) => self.dead.push(((*done.record).clone(), letter)),
            Outcome::Filtered => {}
        }
    }

    /// Every stored result in commit order, with the record it came from.
    pub fn rows(&self) -> &[Row<O>] {
        &self.rows
    }

    /// Every stored dead letter with its record.
    pub fn dead_letters(&self) -> &[(RawRecord, DeadLetter)] {
        &self.dead
    }

    /// Stored progress of a partition: the next offset to read.
    pub fn progress(&self, topic: &str, partition: i32) -> Option<i64> {
        let id = PartitionId::new(Topic::new(topic), partition);
        self.progress.get(&id).map(|next| next.get())
    }

    /// Everything the engine told, in order.
    pub fn events(&self) -> &[EngineEvent] {
        &self.happened
    }
}

impl<O: Clone + Send + Sync + 'static> TestDriver<O> {
    /// Every stored result in commit order.
    pub fn outputs(&self) -> Vec<O> {
        self.rows.iter().map(|row| row.value.clone()).collect()
    }
}

impl<O> fmt::Debug for TestDriver<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestDriver")
            .field("now", &self.now)
            .field("rows", &self.rows.len())
            .field("dead_letters", &self.dead.len())
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

impl Log {
    fn end(&self) -> Offset {
        self.records.last().map_or(Offset::ZERO, |record| record.offset.next())
    }
}
