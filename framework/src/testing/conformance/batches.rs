//! Batches made by hand, by one rule, so that whoever knows progress knows what must be there.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::harness::{Harness, OutputOf, View};
use crate::batch::{Batch, DeadLetter, DeadReason, Finished, Outcome, Outputs, Span};
use crate::record::{
    Coordinates, Epoch, Header, Headers, Offset, PartitionId, RawRecord, Record, Timestamp,
};

/// What becomes of the record at this offset, by its remainder: one result, two, none.
const RESULTS: [u64; 4] = [1, 2, 0, 1];
/// Offsets that are left out, as transaction markers and compaction do: every seventh from here.
const HOLE: i64 = 5;

/// The number of a result: it says which record it came from.
pub(super) fn number(partition: i32, offset: i64, index: u64) -> u64 {
    let partition = u64::try_from(partition).expect("partitions are numbered from 0");
    let offset = u64::try_from(offset).expect("offsets are not negative");
    partition * 1_000_000 + offset * 10 + index
}

fn is_hole(offset: i64) -> bool {
    offset % 7 == HOLE
}

fn results(offset: i64) -> u64 {
    RESULTS[usize::try_from(offset % 4).expect("not negative")]
}

/// The numbers of the results that offsets `0..next` of a partition have.
pub(super) fn numbers(partition: i32, next: i64) -> Vec<u64> {
    let offsets = (0..next).filter(|offset| !is_hole(*offset));
    offsets.flat_map(|o| (0..results(o)).map(move |index| number(partition, o, index))).collect()
}

/// A batch in the making.
pub(super) struct Cut<'a, H: Harness> {
    harness: &'a H,
    spans: Vec<Span>,
    finished: Vec<Finished<OutputOf<H>>>,
}

/// A batch of what `numbers` says of these offsets.
pub(super) fn cut<H: Harness>(
    harness: &H,
    partition: i32,
    offsets: Range<i64>,
) -> Batch<OutputOf<H>> {
    Cut::new(harness).filled(partition, offsets).batch()
}

impl<'a, H: Harness> Cut<'a, H> {
    pub(super) fn new(harness: &'a H) -> Self {
        Self { harness, spans: Vec::new(), finished: Vec::new() }
    }

    /// Begins the next partition, without any records.
    pub(super) fn span(mut self, partition: i32, offsets: Range<i64>) -> Self {
        self.spans.push(Span {
            partition: self.harness.partition(partition),
            epoch: Epoch::new(1),
            first: Offset::new(offsets.start),
            next: Offset::new(offsets.end),
        });
        self
    }

    /// Begins the next partition, with the results that the rule gives these offsets.
    pub(super) fn filled(self, partition: i32, offsets: Range<i64>) -> Self {
        let mut cut = self.span(partition, offsets.clone());
        for offset in offsets.filter(|offset| !is_hole(*offset)) {
            let outputs = (0..results(offset)).map(|i| number(partition, offset, i));
            let outputs: Outputs<_> = outputs.map(|number| cut.harness.output(number)).collect();
            cut = cut.record(offset, Outcome::Emit(outputs));
        }
        cut
    }

    /// A record of the last partition.
    pub(super) fn record(mut self, offset: i64, outcome: Outcome<OutputOf<H>>) -> Self {
        let partition = self.spans.last().expect("a span first").partition.clone();
        let record = Arc::new(record(partition, offset));
        self.finished.push(Finished { record, outcome, attempts: 1 });
        self
    }

    /// One result for each of these offsets, holes or not.
    pub(super) fn one_each(mut self, partition: i32, offsets: Range<i64>) -> Self {
        for offset in offsets {
            let output = self.harness.output(number(partition, offset, 0));
            self = self.record(offset, Outcome::Emit(Outputs::One(output)));
        }
        self
    }

    /// A dead letter of the last partition.
    pub(super) fn dead(self, offset: i64) -> Self {
        let error = "set aside by the conformance kit".to_owned();
        let reason = DeadReason::Process;
        self.record(offset, Outcome::Dead(DeadLetter { reason, error, without_value: false }))
    }

    pub(super) fn batch(mut self) -> Batch<OutputOf<H>> {
        // A harness names its partitions as it likes; a batch has them sorted.
        self.spans.sort_by(|one, other| one.partition.cmp(&other.partition));
        self.finished.sort_by(|one, other| {
            let key = |finished: &Finished<_>| finished.record.coordinates();
            (key(one).partition, key(one).offset).cmp(&(key(other).partition, key(other).offset))
        });
        Batch::new(self.spans, self.finished)
    }
}

/// A record with everything a record can have, bytes that are no text among it.
fn record(partition: PartitionId, offset: i64) -> RawRecord {
    Record {
        partition,
        offset: Offset::new(offset),
        timestamp: Some(Timestamp::from_millis(1_700_000_000_000)),
        key: Some(Bytes::from_static(b"k\0\xff")),
        value: Some(Bytes::from_static(b"v\0\xfe")),
        headers: Headers::new(vec![Header {
            name: "h".into(),
            value: Some(Bytes::from_static(b"\0")),
        }]),
    }
}

/// Asserts that exactly the results are there that progress asks for.
#[track_caller]
pub(super) fn assert_whole<H: Harness>(harness: &H, view: &View) {
    let mut wanted: Vec<u64> = (0..PARTITIONS)
        .filter_map(|n| Some((n, view.progress.get(&harness.partition(n))?)))
        .flat_map(|(n, next)| numbers(n, next.get()))
        .collect();
    wanted.sort_unstable();
    assert_eq!(
        sorted(&view.outputs),
        wanted,
        "results, and those that {:?} asks for",
        view.progress
    );
}

/// How many partitions the kit uses.
pub(super) const PARTITIONS: i32 = 3;

pub(super) fn sorted(numbers: &[u64]) -> Vec<u64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted
}

pub(super) fn coordinates<H: Harness>(harness: &H, partition: i32, offset: i64) -> Coordinates {
    Coordinates { partition: harness.partition(partition), offset: Offset::new(offset) }
}
