//! The topic of a run: records with holes between them, and what must become of each.

use std::sync::Arc;

use bytes::Bytes;

use super::chance::Chance;
use super::plan::Plan;
use crate::record::{Headers, Offset, PartitionId, RawRecord, Record};

/// Where a log may begin: also just before an offset no longer fits into 31, 32 or 62 bits, and before
/// there are no more.
const BEGINNINGS: &[i64] =
    &[0, 0, 0, 0, (1 << 31) - 20, (1 << 32) - 20, (1 << 62) - 20, i64::MAX - 1000];

/// What a record does to whoever processes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Nature {
    /// So many results.
    Emits(u8),
    Filtered,
    /// Fails so often, then emits one.
    FailsFirst(u32),
    /// Never works.
    Poison,
    /// The first call never returns.
    Hangs,
    /// The store refuses its result.
    Refused,
    /// The store refuses its result, and its dead letter while that has the value.
    RefusedTwice,
}

pub(super) struct Entry {
    pub(super) record: Arc<RawRecord>,
    pub(super) nature: Nature,
    /// Where the log ends while this is its last record: trailing holes lie before it.
    end: i64,
}

impl Entry {
    pub(super) fn offset(&self) -> i64 {
        self.record.offset.get()
    }
}

pub(super) struct Log {
    pub(super) id: PartitionId,
    entries: Vec<Entry>,
    produced: usize,
    empty_end: i64,
    /// Where the log begins: what lies before was deleted for its age.
    low: i64,
}

/// All partitions of the topic; the simulation names them by number.
pub(super) struct Logs(Vec<Log>);

impl Logs {
    pub(super) fn new(plan: &Plan, chance: &mut Chance) -> Self {
        Self((0..plan.partitions).map(|number| Log::new(number, plan, chance)).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, number: usize) -> &Log {
        &self.0[number]
    }

    pub(super) fn id(&self, number: usize) -> PartitionId {
        self.0[number].id.clone()
    }

    /// Appends a few records somewhere.
    pub(super) fn produce(&mut self, number: usize, records: usize) {
        let log = &mut self.0[number];
        log.produced = (log.produced + records).min(log.entries.len());
    }

    /// Deletes what lies before this offset.
    pub(super) fn delete_before(&mut self, number: usize, low: i64) {
        let log = &mut self.0[number];
        log.low = log.low.max(low.min(log.end()));
    }

    pub(super) fn produce_all(&mut self) {
        for log in &mut self.0 {
            log.produced = log.entries.len();
        }
    }
}

/// The number of a partition.
pub(super) fn number(id: &PartitionId) -> usize {
    usize::try_from(id.index()).expect("partitions are numbered from 0")
}

impl Log {
    fn new(number: usize, plan: &Plan, chance: &mut Chance) -> Self {
        let id = PartitionId::new("in", i32::try_from(number).expect("few partitions"));
        let low = BEGINNINGS[chance.below(BEGINNINGS.len())];
        let mut next = low + if chance.one_in(3) { chance.between(1, 4) as i64 } else { 0 };
        let empty_end = next;
        let count = if chance.one_in(8) { 0 } else { chance.below(plan.records_max) };
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let key = match chance.below(5) {
                0 => None,
                1 => Some(Bytes::new()),
                key => Some(Bytes::from(vec![key as u8])),
            };
            let size = match chance.below(40) {
                0 => 2000,
                _ => chance.below(24),
            };
            let record = Arc::new(Record {
                partition: id.clone(),
                offset: Offset::new(next),
                timestamp: None,
                key,
                value: Some(Bytes::from(vec![0; size])),
                headers: Headers::default(),
            });
            let behind = if chance.one_in(4) { chance.between(1, 3) as i64 } else { 0 };
            let end = next + 1 + if chance.coin() { behind } else { 0 };
            entries.push(Entry { record, nature: nature(plan, chance), end });
            next += 1 + behind;
        }
        let produced = chance.below(entries.len() / 4 + 1);
        Self { id, entries, produced, empty_end, low }
    }

    /// Where it begins.
    pub(super) fn low(&self) -> i64 {
        self.low
    }

    /// The records from this offset on that are there already, or were.
    pub(super) fn from(&self, offset: i64) -> &[Entry] {
        let at = self.entries.partition_point(|entry| entry.offset() < offset);
        self.entries.get(at..self.produced).unwrap_or_default()
    }

    /// The records of a span.
    pub(super) fn between(&self, first: i64, next: i64) -> &[Entry] {
        let rest = self.from(first);
        &rest[..rest.partition_point(|entry| entry.offset() < next)]
    }

    pub(super) fn at(&self, offset: i64) -> Option<&Entry> {
        self.from(offset).first().filter(|entry| entry.offset() == offset)
    }

    /// Behind everything that is there already.
    pub(super) fn end(&self) -> i64 {
        match self.produced.checked_sub(1) {
            Some(last) => self.entries[last].end,
            None => self.empty_end,
        }
    }
}

fn nature(plan: &Plan, chance: &mut Chance) -> Nature {
    match chance.below(60) {
        0..4 => Nature::Filtered,
        4..7 if plan.retries > 0 => {
            Nature::FailsFirst(chance.between(1, u64::from(plan.retries)) as u32)
        }
        7..9 if plan.has_last_resort => Nature::Poison,
        9 if plan.has_hung => Nature::Hangs,
        10 | 11 if plan.has_last_resort => Nature::Refused,
        12 if plan.has_last_resort => Nature::RefusedTwice,
        13..16 => Nature::Emits(0),
        16..20 => Nature::Emits(2),
        _ => Nature::Emits(1),
    }
}
