//! The contiguous finished prefix of one partition, by delivery order.
//!
//! Pure bookkeeping. "Contiguous" never means offset + 1: transaction markers, compaction and
//! aborted data leave holes. A hole is closed by the next delivered record or by the end of the
//! partition, and by nothing else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::{Finished, Outcome};
use crate::mutant;
use crate::record::{Offset, RawRecord};

/// What was delivered of one partition under one epoch and is not cut yet.
pub(crate) struct Tracker<O> {
    slots: VecDeque<Slot<O>>,
    /// Sequence number of `slots[0]`.
    base: u64,
    /// How many leading slots are finished.
    prefix: usize,
    /// How many slots are not finished.
    open: usize,
    /// Where the next span starts: everything before was cut.
    cut: Offset,
    /// Behind the last thing delivered, ends of partition included.
    delivered: Offset,
    /// Bytes of the records in `slots`.
    bytes: usize,
    highest_finished: Option<Offset>,
}

struct Slot<O> {
    record: Arc<RawRecord>,
    /// Where stored progress may go once this and everything before is finished.
    closes: Offset,
    bytes: usize,
    state: State<O>,
}

enum State<O> {
    Open { attempts: u32, since: Duration },
    Finished { outcome: Outcome<O>, attempts: u32 },
}

/// What a cut takes from one partition.
pub(crate) struct Prefix {
    pub(crate) first: Offset,
    pub(crate) next: Offset,
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// The record that holds the contiguous prefix back.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) seq: u64,
    pub(crate) record: Arc<RawRecord>,
    /// When it was delivered, or last started.
    pub(crate) since: Duration,
    pub(crate) attempts: u32,
}

impl<O> Tracker<O> {
    /// Nothing delivered; stored progress stands at `start`.
    pub(crate) fn new(start: Offset) -> Self {
        Self {
            slots: VecDeque::new(),
            base: 0,
            prefix: 0,
            open: 0,
            cut: start,
            delivered: start,
            bytes: 0,
            highest_finished: None,
        }
    }

    /// Adds a record behind the others and names it; `None` if it lies before what was delivered
    /// already, which a source must not do and which would break the order of progress.
    pub(crate) fn deliver(&mut self, record: Arc<RawRecord>, now: Duration) -> Option<u64> {
        if record.offset < self.delivered || (mutant::is("M35") && self.repeats(&record)) {
            return None;
        }
        let seq = self.base + self.slots.len() as u64;
        let bytes = record.size_bytes();
        self.delivered = if mutant::is("M02") { record.offset } else { record.offset.next() };
        self.bytes += bytes;
        self.open += 1;
        self.slots.push_back(Slot {
            closes: self.delivered,
            record,
            bytes,
            state: State::Open { attempts: 0, since: now },
        });
        Some(seq)
    }

    /// The end of the partition was seen at `next`: closes the hole behind the last record.
    pub(crate) fn end(&mut self, next: Offset) {
        if next > self.delivered && !mutant::is("M04") {
            self.delivered = next;
            if let Some(last) = self.slots.back_mut() {
                last.closes = next;
            }
        }
    }

    /// The record of an open ticket, and which call of the function comes next.
    pub(crate) fn start(&mut self, seq: u64, now: Duration) -> Option<(Arc<RawRecord>, u32)> {
        let slot = self.slot(seq)?;
        match &mut slot.state {
            State::Open { attempts, since } => {
                *since = now;
                Some((Arc::clone(&slot.record), *attempts + 1))
            }
            State::Finished { .. } => None,
        }
    }

    /// Counts a call of an open ticket that failed; answers its record and how many calls were made.
    pub(crate) fn failed(&mut self, seq: u64) -> Option<(&RawRecord, u32)> {
        let slot = self.slot(seq)?;
        match &mut slot.state {
            State::Open { attempts, .. } => {
                *attempts += 1;
                Some((&slot.record, *attempts))
            }
            State::Finished { .. } => None,
        }
    }

    /// Finishes a ticket with what a call of the function said; otherwise as [`Tracker::finish`].
    pub(crate) fn succeed(&mut self, seq: u64, outcome: Outcome<O>) -> bool {
        self.end_with(seq, outcome, 1)
    }

    /// Finishes a ticket. The first outcome wins: `false` if it has one already or is gone.
    pub(crate) fn finish(&mut self, seq: u64, outcome: Outcome<O>) -> bool {
        self.end_with(seq, outcome, 0)
    }

    fn end_with(&mut self, seq: u64, outcome: Outcome<O>, more_attempts: u32) -> bool {
        let Some(slot) = self.slot(seq) else { return false };
        let State::Open { attempts, .. } = slot.state else { return false };
        slot.state = State::Finished { outcome, attempts: attempts + more_attempts };
        let offset = slot.record.offset;
        self.open -= 1;
        self.highest_finished = self.highest_finished.max(Some(offset));
        if seq == self.base + self.prefix as u64 {
            while self.slots.get(self.prefix).is_some_and(Slot::is_finished) {
                self.prefix += 1;
            }
        }
        true
    }

    /// Moves up to `max` records of the finished prefix to the end of `finished`; `None` if progress
    /// would not move.
    pub(crate) fn take(&mut self, max: usize, finished: &mut Vec<Finished<O>>) -> Option<Prefix> {
        let records = self.prefix.min(max);
        let first = self.cut;
        let next = self.next_of_cut(records);
        if next <= first {
            return None;
        }
        let mut bytes = 0;
        finished.extend(self.slots.drain(..records).map(|slot| {
            bytes += slot.bytes;
            let State::Finished { outcome, attempts } = slot.state else {
                unreachable!("the prefix holds finished slots only")
            };
            Finished { record: slot.record, outcome, attempts }
        }));
        self.base += records as u64;
        self.prefix -= records;
        self.bytes -= bytes;
        self.cut = next;
        Some(Prefix { first, next, records, bytes })
    }

    /// Where progress goes with a cut of so many records.
    fn next_of_cut(&self, records: usize) -> Offset {
        let next = self.closes_after(records);
        match self.highest_finished {
            Some(_) if mutant::is("M01") && records > 0 => next.next(),
            Some(highest) if mutant::is("M03") => next.max(highest.next()),
            _ if mutant::is("M22") => self.contiguous(),
            _ if mutant::is("M42") => Offset::new(next.get() & i64::from(i32::MAX)),
            _ => next,
        }
    }

    /// Where progress may go after the first `count` slots of the finished prefix.
    fn closes_after(&self, count: usize) -> Offset {
        if count == self.slots.len() {
            return self.delivered;
        }
        match count.checked_sub(1) {
            Some(last) => self.slots[last].closes,
            None => self.cut,
        }
    }

    /// How far progress could be stored now.
    pub(crate) fn contiguous(&self) -> Offset {
        self.closes_after(self.prefix)
    }

    /// The oldest record held.
    pub(crate) fn oldest(&self) -> Option<&RawRecord> {
        self.slots.front().map(|slot| &*slot.record)
    }

    /// Behind the last thing delivered.
    pub(crate) fn delivered(&self) -> Offset {
        self.delivered
    }

    /// Where the record of this ticket stands, if it is still held.
    pub(crate) fn offset_of(&self, seq: u64) -> Option<Offset> {
        let at = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        self.slots.get(at).map(|slot| slot.record.offset)
    }

    /// Whether a cut would move progress.
    pub(crate) fn can_cut(&self) -> bool {
        self.contiguous() > self.cut
    }

    /// How many records a cut could take.
    pub(crate) fn prefix_records(&self) -> usize {
        self.prefix
    }

    /// How many records are delivered and not finished.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// How many records are held.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of the records held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The highest offset that is finished, whether or not it can be stored yet.
    pub(crate) fn highest_finished(&self) -> Option<Offset> {
        self.highest_finished
    }

    /// The oldest record that is not finished.
    pub(crate) fn holder(&self) -> Option<Holder> {
        let slot = self.slots.get(self.prefix)?;
        match slot.state {
            State::Open { attempts, since } => Some(Holder {
                seq: self.base + self.prefix as u64,
                record: Arc::clone(&slot.record),
                since,
                attempts,
            }),
            State::Finished { .. } => unreachable!("the prefix ends at an open slot"),
        }
    }

    /// The open ticket of the record at this offset.
    pub(crate) fn find_open(&self, offset: Offset) -> Option<u64> {
        let at = self.slots.binary_search_by_key(&offset, |slot| slot.record.offset).ok()?;
        (!self.slots[at].is_finished()).then_some(self.base + at as u64)
    }

    /// Whether the record before this one had the same key and value.
    fn repeats(&self, record: &RawRecord) -> bool {
        let last = self.slots.back().map(|slot| &slot.record);
        last.is_some_and(|last| last.key == record.key && last.value == record.value)
    }

    fn slot(&mut self, seq: u64) -> Option<&mut Slot<O>> {
        let at = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        self.slots.get_mut(at)
    }
}

impl<O> Slot<O> {
    fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished { .. })
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
