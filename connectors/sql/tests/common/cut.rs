//! Batches made by hand.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tidegate::batch::{Batch, DeadLetter, DeadReason, Finished, Outcome, Outputs, Span};
use tidegate::record::{Epoch, Header, Headers, Offset, RawRecord, Record, Timestamp};

use super::partition;

/// A batch in the making.
pub(crate) struct Cut<O> {
    spans: Vec<Span>,
    finished: Vec<Finished<O>>,
}

/// A batch that begins with this span of a partition of topic `in`.
pub(crate) fn cut<O>(index: i32, offsets: Range<i64>) -> Cut<O> {
    let cut = Cut { spans: Vec::new(), finished: Vec::new() };
    cut.span(index, offsets)
}

impl<O> Cut<O> {
    /// Begins the next partition.
    pub(crate) fn span(mut self, index: i32, offsets: Range<i64>) -> Self {
        self.spans.push(Span {
            partition: partition(index),
            epoch: Epoch::new(1),
            first: Offset::new(offsets.start),
            next: Offset::new(offsets.end),
        });
        self
    }

    fn add(mut self, record: RawRecord, outcome: Outcome<O>) -> Self {
        self.finished.push(Finished { record: Arc::new(record), outcome, attempts: 2 });
        self
    }

    fn record(&self, offset: i64) -> RawRecord {
        Record {
            partition: self.spans.last().expect("a span").partition.clone(),
            offset: Offset::new(offset),
            timestamp: Some(Timestamp::from_millis(i64::MAX)),
            key: Some(Bytes::from_static(b"k\0\xff")),
            value: Some(Bytes::from_static(b"v\0\xfe")),
            headers: Headers::new(vec![Header {
                name: "h".into(),
                value: Some(Bytes::from_static(b"\0")),
            }]),
        }
    }

    /// The record at this offset emitted these results.
    pub(crate) fn emit(self, offset: i64, outputs: impl IntoIterator<Item = O>) -> Self {
        let outputs: Outputs<O> = outputs.into_iter().collect();
        let record = self.record(offset);
        self.add(record, Outcome::Emit(outputs))
    }

    /// The record at this offset was set aside.
    pub(crate) fn dead(self, offset: i64, error: &str, without_value: bool) -> Self {
        let record = self.record(offset);
        let letter =
            DeadLetter { reason: DeadReason::Process, error: error.to_owned(), without_value };
        self.add(record, Outcome::Dead(letter))
    }

    pub(crate) fn batch(self) -> Batch<O> {
        Batch::new(self.spans, self.finished)
    }
}
