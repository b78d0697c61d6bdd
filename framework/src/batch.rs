//! The words of the output side: outcome, span, batch.
//!
//! A [`Batch`] is what a *cut* takes from the tracker: of every partition its contiguous finished
//! prefix, with exactly those records' results and dead letters. A sink stores all of it or none.

use std::fmt;
use std::sync::Arc;

use crate::record::{Epoch, Offset, PartitionId, RawRecord};

/// The half-open range `first..next` of one partition: what was stored before, what is stored
/// after.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span {
    /// The partition.
    pub partition: PartitionId,
    /// The epoch its records were read under.
    pub epoch: Epoch,
    /// Stored progress must equal this before the commit.
    pub first: Offset,
    /// Stored progress after the commit: the next offset to read.
    pub next: Offset,
}

/// The results of one record: none, one or many. None and one allocate nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Outputs<O> {
    /// Nothing.
    #[default]
    None,
    /// One result.
    One(O),
    /// Several results in the order they were emitted.
    Many(Vec<O>),
}

impl<O> Outputs<O> {
    /// Adds a result behind the others.
    pub fn push(&mut self, output: O) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(output),
            Self::One(first) => Self::Many(vec![first, output]),
            Self::Many(mut many) => {
                many.push(output);
                Self::Many(many)
            }
        };
    }

    /// The results in order.
    pub fn as_slice(&self) -> &[O] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// How many results there are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }
}

impl<O> IntoIterator for Outputs<O> {
    type Item = O;
    type IntoIter = std::vec::IntoIter<O>;

    fn into_iter(self) -> Self::IntoIter {
        match self {
            Self::None => Vec::new(),
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
        .into_iter()
    }
}

impl<O> FromIterator<O> for Outputs<O> {
    fn from_iter<I: IntoIterator<Item = O>>(items: I) -> Self {
        let mut outputs = Self::None;
        for item in items {
            outputs.push(item);
        }
        outputs
    }
}

/// Why a record was set aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DeadReason {
    /// The value could not be decoded.
    Decode,
    /// The user's function failed as often as the policy allows.
    Process,
    /// The user's function panicked as often as the policy allows.
    Panic,
    /// One record emitted more than the limit of outputs or bytes.
    TooLarge,
    /// The sink refused the record's results for their data.
    Rejected,
    /// The sink failed to write the record's results, and at-most-once does not write them again.
    NotWritten,
}

impl DeadReason {
    /// A stable lower-case word, stored with the dead letter and used as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Process => "process",
            Self::Panic => "panic",
            Self::TooLarge => "too_large",
            Self::Rejected => "rejected",
            Self::NotWritten => "not_written",
        }
    }
}

/// A record that was set aside instead of a result; stored in the same transaction as its
/// neighbours' results, with its original key, value, headers and coordinates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// Why.
    pub reason: DeadReason,
    /// The error's text. It names no payload unless the user's own error does.
    pub error: String,
    /// Store the value's size and hash instead of the value: a first attempt with the value was
    /// refused by the sink.
    pub without_value: bool,
}

/// What the function said of one record. A retry is not an outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome<O> {
    /// These results.
    Emit(Outputs<O>),
    /// Deliberately nothing: filtered or skipped.
    Filtered,
    /// Set aside.
    Dead(DeadLetter),
}

/// A record and its outcome. The raw record lives until the batch's fate is known.
pub struct Finished<O> {
    /// The record as it was read.
    pub record: Arc<RawRecord>,
    /// What became of it.
    pub outcome: Outcome<O>,
    /// How often the function was called, the successful call included.
    pub attempts: u32,
}

impl<O> Finished<O> {
    /// Its results in order, with its coordinates; nothing if it was filtered or set aside.
    pub fn outputs(&self) -> impl Iterator<Item = Output<'_, O>> {
        let outputs: &[O] = match &self.outcome {
            Outcome::Emit(outputs) => outputs.as_slice(),
            Outcome::Filtered | Outcome::Dead(_) => &[],
        };
        let record = &*self.record;
        outputs.iter().zip(0u32..).map(move |(value, index)| Output { record, index, value })
    }
}

impl<O> Clone for Finished<O>
where
    O: Clone,
{
    fn clone(&self) -> Self {
        Self {
            record: Arc::clone(&self.record),
            outcome: self.outcome.clone(),
            attempts: self.attempts,
        }
    }
}

impl<O> fmt::Debug for Finished<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match &self.outcome {
            Outcome::Emit(outputs) => {
                return write!(f, "{:?} emits {}", self.record, outputs.len());
            }
            Outcome::Filtered => "filtered",
            Outcome::Dead(_) => "dead",
        };
        write!(f, "{:?} {outcome}", self.record)
    }
}

/// One result with the coordinates of the record it came from.
#[derive(Debug)]
pub struct Output<'a, O> {
    /// The record it came from.
    pub record: &'a RawRecord,
    /// Its number among that record's results, from 0.
    pub index: u32,
    /// The result.
    pub value: &'a O,
}

/// What one commit stores: results, dead letters and the progress that goes with them.
///
/// Invariants, checked when it is made: one span per partition, sorted by partition; `finished`
/// holds each partition's records in delivery order, grouped in the order of the spans.
pub struct Batch<O> {
    spans: Vec<Span>,
    finished: Vec<Finished<O>>,
}

impl<O> Batch<O> {
    /// A batch of these spans and records.
    ///
    /// # Panics
    /// If a record belongs to no span, spans are not sorted by partition, or the records are not
    /// grouped in the order of the spans: that would be a bug of the engine, and storing it would
    /// break the guarantee.
    pub fn new(spans: Vec<Span>, finished: Vec<Finished<O>>) -> Self {
        assert!(
            spans.windows(2).all(|pair| pair[0].partition < pair[1].partition),
            "one span per partition, sorted"
        );
        let mut at = 0;
        for record in finished.iter().map(|finished| &finished.record) {
            while at < spans.len() && spans[at].partition != record.partition {
                at += 1;
            }
            let span = spans.get(at).expect("every record lies in a span, in the spans' order");
            assert!(
                span.first <= record.offset && record.offset < span.next,
                "record {record:?} lies inside its span {span:?}"
            );
        }
        Self { spans, finished }
    }

    /// The progress this batch stores, one span per partition, sorted by partition.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// All records of the batch with their outcomes, grouped by partition, in delivery order.
    pub fn finished(&self) -> &[Finished<O>] {
        &self.finished
    }

    /// All results in order, with the coordinates of their source.
    pub fn outputs(&self) -> impl Iterator<Item = Output<'_, O>> {
        self.finished.iter().flat_map(Finished::outputs)
    }

    /// All dead letters in order.
    pub fn dead_letters(&self) -> impl Iterator<Item = (&Finished<O>, &DeadLetter)> {
        self.finished.iter().filter_map(|finished| match &finished.outcome {
            Outcome::Dead(letter) => Some((finished, letter)),
            Outcome::Emit(_) | Outcome::Filtered => None,
        })
    }

    /// Whether it stores nothing at all, not even progress.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.finished.len()
    }

    /// The parts, to take the batch apart.
    pub fn into_parts(self) -> (Vec<Span>, Vec<Finished<O>>) {
        (self.spans, self.finished)
    }

    /// The first `n` records and the rest; of each partition the first part is a prefix in
    /// delivery order. This is how a rejected record is found.
    ///
    /// A partition whose records all fall into the first part keeps its whole span there, trailing
    /// holes included; a partition that is cut goes on in the second part where the first ends.
    pub fn split(self, n: usize) -> (Self, Self) {
        let n = n.min(self.finished.len());
        let mut left = self.finished;
        let right = left.split_off(n);
        let (mut left_spans, mut right_spans) = (Vec::new(), Vec::new());
        for span in self.spans {
            let next_right = right.iter().find(|f| f.record.partition == span.partition);
            match next_right {
                None => left_spans.push(span),
                Some(_) => {
                    let last = left.iter().rev().find(|f| f.record.partition == span.partition);
                    let cut = last.map_or(span.first, |finished| finished.record.offset.next());
                    if cut > span.first {
                        left_spans.push(Span { next: cut, ..span.clone() });
                    }
                    right_spans.push(Span { first: cut, ..span });
                }
            }
        }
        (Self { spans: left_spans, finished: left }, Self { spans: right_spans, finished: right })
    }
}

impl<O> Batch<O> {
    /// Puts together what [`Batch::split`] took apart.
    ///
    /// # Panics
    /// If `rest` does not go on where this batch ends: putting such parts together would store
    /// progress over records that are in neither.
    #[must_use]
    pub fn join(self, rest: Self) -> Self {
        let mut spans = self.spans;
        for span in rest.spans {
            match spans.binary_search_by(|known| known.partition.cmp(&span.partition)) {
                Ok(at) => {
                    let known = &mut spans[at];
                    assert!(
                        known.next == span.first && known.epoch == span.epoch,
                        "{span:?} goes on where {known:?} ends"
                    );
                    known.next = span.next;
                }
                Err(at) => spans.insert(at, span),
            }
        }
        let mut finished = self.finished;
        finished.extend(rest.finished);
        Self::new(spans, finished)
    }
}

impl<O> fmt::Debug for Batch<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("spans", &self.spans)
            .field("records", &self.finished.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Headers;

    fn record(index: i32, offset: i64) -> Finished<u8> {
        Finished {
            record: Arc::new(RawRecord {
                partition: PartitionId::new("t", index),
                offset: Offset::new(offset),
                timestamp: None,
                key: None,
                value: None,
                headers: Headers::default(),
            }),
            outcome: Outcome::Filtered,
            attempts: 1,
        }
    }

    fn span(index: i32, first: i64, next: i64) -> Span {
        Span {
            partition: PartitionId::new("t", index),
            epoch: Epoch::new(1),
            first: Offset::new(first),
            next: Offset::new(next),
        }
    }

    /// A batch whose partition `i` has `gaps[i]` as the distances between its records; a span may
    /// have no records, holes before, between and behind them.
    fn batch(gaps: &[Vec<i64>]) -> Batch<u8> {
        let (mut spans, mut finished) = (Vec::new(), Vec::new());
        for (index, gaps) in (0..).zip(gaps) {
            let mut next = 5;
            for gap in gaps {
                next += gap;
                finished.push(record(index, next));
                next += 1;
            }
            spans.push(span(index, 5, next + 3));
        }
        Batch::new(spans, finished)
    }

    fn places(batch: &Batch<u8>) -> Vec<String> {
        let records = batch.finished().iter();
        records.map(|f| f.record.coordinates().to_string()).collect()
    }

    proptest! {
        /// Wherever a batch is cut: the first part has the first records, both parts are sound,
        /// each partition goes on in the second part where the first ends, and together they are
        /// the batch again.
        #[test]
        fn a_batch_that_was_split_can_be_put_together_again(
            gaps in prop::collection::vec(prop::collection::vec(0_i64..4, 0..5), 0..5),
            n in 0_usize..25,
        ) {
            let whole = batch(&gaps);
            let (left, right) = batch(&gaps).split(n);
            prop_assert_eq!(left.len(), n.min(whole.len()));
            prop_assert_eq!([places(&left), places(&right)].concat(), places(&whole));
            for part in [&left, &right] {
                let checked = Batch::new(part.spans.clone(), part.finished.clone());
                prop_assert!(checked.spans.iter().all(|span| span.first < span.next));
            }
            for span in &left.spans {
                let goes_on = right.spans.iter().find(|other| other.partition == span.partition);
                prop_assert!(goes_on.is_none_or(|other| other.first == span.next));
            }
            let joined = left.join(right);
            prop_assert_eq!(&joined.spans, &whole.spans);
            prop_assert_eq!(places(&joined), places(&whole));
        }
    }

    #[test]
    #[should_panic(expected = "goes on where")]
    fn parts_with_records_missing_between_them_are_not_put_together() {
        let left = Batch::new(vec![span(0, 0, 3)], vec![record(0, 1)]);
        let right = Batch::new(vec![span(0, 4, 9)], vec![record(0, 4)]);
        let _ = left.join(right);
    }

    #[test]
    #[should_panic(expected = "lies inside its span")]
    fn a_record_outside_its_span_is_a_bug_of_the_engine() {
        Batch::new(vec![span(0, 0, 3)], vec![record(0, 3)]);
    }

    #[test]
    fn results_and_dead_letters_come_with_their_coordinates() {
        let emits = |offset, outputs: Outputs<u8>| Finished {
            outcome: Outcome::Emit(outputs),
            ..record(0, offset)
        };
        let dead = Finished {
            outcome: Outcome::Dead(DeadLetter {
                reason: DeadReason::Decode,
                error: "no".into(),
                without_value: false,
            }),
            ..record(0, 3)
        };
        let finished = vec![
            emits(0, Outputs::One(1)),
            emits(1, Outputs::None),
            emits(2, [2, 3].into_iter().collect()),
            dead,
        ];
        let batch = Batch::new(vec![span(0, 0, 4)], finished);
        let outputs = batch.outputs().map(|o| (o.record.offset.get(), o.index, *o.value));
        assert_eq!(outputs.collect::<Vec<_>>(), [(0, 0, 1), (2, 0, 2), (2, 1, 3)]);
        let letters = batch.dead_letters().map(|(f, l)| (f.record.offset.get(), l.reason));
        assert_eq!(letters.collect::<Vec<_>>(), [(3, DeadReason::Decode)]);
    }
}
