use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::batch::Outputs;
use crate::record::{Headers, PartitionId, Record};

fn record(offset: i64) -> Arc<RawRecord> {
    Arc::new(Record {
        partition: PartitionId::new("t", 0),
        offset: Offset::new(offset),
        timestamp: None,
        key: None,
        value: Some(bytes::Bytes::from_static(b"0123456789")),
        headers: Headers::default(),
    })
}

fn done() -> Outcome<i64> {
    Outcome::Emit(Outputs::One(7))
}

fn tracker_with(start: i64, offsets: &[i64]) -> Tracker<i64> {
    let mut tracker = Tracker::new(Offset::new(start));
    for &offset in offsets {
        tracker.deliver(record(offset), Duration::ZERO).expect("ascending");
    }
    tracker
}

#[test]
fn a_slow_record_holds_back_what_follows_it() {
    let mut tracker = tracker_with(0, &[0, 1, 2]);
    assert!(tracker.finish(1, done()));
    assert!(tracker.finish(2, done()));
    assert!(!tracker.can_cut());
    assert_eq!(tracker.holder().map(|holder| holder.record.offset), Some(Offset::ZERO));
    assert!(tracker.finish(0, done()));
    assert_eq!(tracker.contiguous(), Offset::new(3));
}

#[test]
fn holes_between_records_are_normal_and_close_with_the_next_record() {
    let mut tracker = tracker_with(5, &[9, 40]);
    tracker.finish(0, done());
    assert_eq!(tracker.contiguous(), Offset::new(10), "the hole before 40 is not closed by 9");
    tracker.finish(1, done());
    assert_eq!(tracker.contiguous(), Offset::new(41));
}

#[test]
fn the_end_of_a_partition_closes_the_hole_behind_the_last_record_only_once_it_is_finished() {
    let mut tracker = tracker_with(0, &[0, 1]);
    tracker.end(Offset::new(4));
    tracker.finish(0, done());
    assert_eq!(tracker.contiguous(), Offset::new(1));
    tracker.finish(1, done());
    assert_eq!(tracker.contiguous(), Offset::new(4));
}

#[test]
fn an_end_with_nothing_delivered_moves_progress_without_records() {
    let mut tracker = tracker_with(3, &[]);
    tracker.end(Offset::new(6));
    let mut finished = Vec::new();
    let prefix = tracker.take(100, &mut finished).expect("progress moves");
    assert_eq!((prefix.first, prefix.next), (Offset::new(3), Offset::new(6)));
    assert!(finished.is_empty() && prefix.records == 0);
    assert!(tracker.take(100, &mut finished).is_none(), "and only once");
}

#[test]
fn the_first_outcome_of_a_ticket_wins() {
    let mut tracker = tracker_with(0, &[0]);
    assert!(tracker.finish(0, Outcome::Filtered));
    assert!(!tracker.finish(0, done()));
    let mut finished = Vec::new();
    tracker.take(1, &mut finished).expect("finished");
    assert_eq!(finished[0].outcome, Outcome::Filtered);
}

#[test]
fn a_record_from_before_what_was_delivered_is_refused() {
    let mut tracker = tracker_with(5, &[7]);
    assert!(tracker.deliver(record(7), Duration::ZERO).is_none());
    assert!(tracker.deliver(record(4), Duration::ZERO).is_none());
    assert!(tracker.deliver(record(8), Duration::ZERO).is_some());
}

#[test]
fn offsets_beyond_32_and_near_63_bits_are_kept_whole() {
    for start in [(1_i64 << 31) - 2, (1 << 32) - 2, i64::MAX - 3] {
        let mut tracker = tracker_with(start, &[start, start + 1, start + 2]);
        for seq in 0..3 {
            tracker.finish(seq, done());
        }
        assert_eq!(tracker.contiguous(), Offset::new(start + 3));
    }
}

/// The same rules, written as plainly as possible.
#[derive(Default)]
struct Naive {
    delivered: Vec<(i64, i64)>,
    finished: BTreeMap<i64, bool>,
    last_end: i64,
    cut: i64,
}

impl Naive {
    fn contiguous(&self) -> i64 {
        self.contiguous_within(usize::MAX)
    }

    /// As far as the first `max` records go.
    fn contiguous_within(&self, max: usize) -> i64 {
        let mut at = self.cut;
        for (count, (offset, closes)) in self.delivered.iter().enumerate() {
            if count == max || !self.finished[offset] {
                return at;
            }
            at = at.max(*closes);
        }
        at.max(self.last_end)
    }
}

proptest! {
    #[test]
    fn the_tracker_agrees_with_a_naive_model(
        start in prop_oneof![
            Just(0_i64), Just((1 << 31) - 3), Just((1 << 32) - 3), Just(1 << 62), Just(i64::MAX - 1_000),
        ],
        steps in proptest::collection::vec((0_u8..5, 0_usize..24, 1_i64..5), 1..120),
    ) {
        let mut tracker = Tracker::<i64>::new(Offset::new(start));
        let mut naive = Naive { cut: start, last_end: start, ..Naive::default() };
        let mut seqs: Vec<(u64, i64)> = Vec::new();
        let mut at = start;
        for (what, pick, gap) in steps {
            match what {
                0 | 1 => {
                    at += gap - 1;
                    let seq = tracker.deliver(record(at), Duration::ZERO).expect("ascending");
                    seqs.push((seq, at));
                    naive.delivered.push((at, at + 1));
                    naive.finished.insert(at, false);
                    at += 1;
                    naive.last_end = naive.last_end.max(0);
                }
                2 if !seqs.is_empty() => {
                    let (seq, offset) = seqs[pick % seqs.len()];
                    let was = naive.finished.insert(offset, true).expect("delivered");
                    prop_assert_eq!(tracker.finish(seq, done()), !was);
                }
                3 => {
                    at += gap - 1;
                    tracker.end(Offset::new(at));
                    match naive.delivered.last_mut() {
                        Some(last) => last.1 = last.1.max(at),
                        None => naive.last_end = naive.last_end.max(at),
                    }
                }
                _ => {
                    let max = if gap == 1 { usize::MAX } else { pick / 4 };
                    let expected = naive.contiguous_within(max);
                    let mut finished = Vec::new();
                    let taken = tracker.take(max, &mut finished);
                    prop_assert_eq!(taken.is_some(), expected > naive.cut);
                    if let Some(prefix) = taken {
                        prop_assert_eq!(prefix.first.get(), naive.cut);
                        prop_assert_eq!(prefix.next.get(), expected);
                        let offsets: Vec<i64> =
                            finished.iter().map(|f| f.record.offset.get()).collect();
                        prop_assert_eq!(prefix.records, offsets.len());
                        let wanted: Vec<i64> = naive
                            .delivered
                            .iter()
                            .map(|d| d.0)
                            .take(offsets.len())
                            .collect();
                        prop_assert_eq!(&offsets, &wanted);
                        naive.delivered.drain(..offsets.len());
                        seqs.retain(|(_, offset)| !offsets.contains(offset));
                        naive.cut = expected;
                    }
                }
            }
            prop_assert_eq!(tracker.contiguous().get(), naive.contiguous());
            prop_assert_eq!(
                tracker.open(),
                naive.delivered.iter().filter(|d| !naive.finished[&d.0]).count()
            );
        }
    }
}
