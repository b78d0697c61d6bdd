//! What must hold of everything that was ever stored. It knows the topic and what was stored, and
//! nothing of the engine.
//!
//! Exactly once is checked twice: each commit must go on where progress stands and hold exactly the
//! records of its span with the right results; and in the end everything that was stored is counted
//! record by record, without looking at spans.

use std::collections::BTreeSet;

use super::attempts::{self, Attempts};
use super::log::{Entry, Log, Logs, Nature, number};
use crate::batch::{Batch, DeadReason, Outcome};
use crate::policy::Then;
use crate::record::{Coordinates, Offset};

/// A result: the record it came from, and its number among that record's results.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Effect {
    pub(super) partition: usize,
    pub(super) offset: i64,
    pub(super) index: u8,
}

/// What is stored of one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Emitted(u8),
    Filtered,
    Dead { reason: DeadReason, without_value: bool },
}

/// A batch in short: what a store would make durable.
#[derive(Clone, Debug)]
pub(super) struct Effects {
    /// Partition, first, next.
    pub(super) spans: Vec<(usize, i64, i64)>,
    /// Partition, offset, what.
    pub(super) records: Vec<(usize, i64, Kind)>,
}

impl Effects {
    /// # Errors
    /// If a result stands under another record than the one it came from.
    pub(super) fn of(batch: &Batch<Effect>) -> Result<Self, String> {
        let spans = batch.spans().iter();
        let spans = spans.map(|s| (number(&s.partition), s.first.get(), s.next.get())).collect();
        let mut records = Vec::with_capacity(batch.len());
        for done in batch.finished() {
            let partition = number(&done.record.partition);
            let offset = done.record.offset.get();
            let kind = match &done.outcome {
                Outcome::Emit(outputs) => {
                    for (index, output) in (0..).zip(outputs.as_slice()) {
                        if *output != (Effect { partition, offset, index }) {
                            return Err(format!("{partition}/{offset} emits {output:?}"));
                        }
                    }
                    Kind::Emitted(outputs.len() as u8)
                }
                Outcome::Filtered => Kind::Filtered,
                Outcome::Dead(letter) => {
                    Kind::Dead { reason: letter.reason, without_value: letter.without_value }
                }
            };
            records.push((partition, offset, kind));
        }
        Ok(Self { spans, records })
    }

    /// The first record that the store refuses for its data, and whether it is a dead letter
    /// already.
    pub(super) fn refused(&self, logs: &Logs) -> Option<(Coordinates, bool)> {
        let refuses = |(partition, offset, kind): &&(usize, i64, Kind)| {
            let nature = logs.get(*partition).at(*offset).map(|entry| entry.nature);
            match kind {
                Kind::Emitted(_) => {
                    matches!(nature, Some(Nature::Refused | Nature::RefusedTwice))
                }
                Kind::Dead { without_value, .. } => {
                    nature == Some(Nature::RefusedTwice) && !without_value
                }
                Kind::Filtered => false,
            }
        };
        let (partition, offset, kind) = self.records.iter().find(refuses)?;
        let offset = Offset::new(*offset);
        let record = Coordinates { partition: logs.id(*partition), offset };
        Some((record, matches!(kind, Kind::Dead { .. })))
    }
}

/// Everything that was stored of one partition.
#[derive(Default)]
struct Stored {
    progress: Option<i64>,
    records: Vec<(i64, Kind)>,
    /// Records that were left out on request: they may be stored as filtered.
    skipped: BTreeSet<i64>,
    sought: bool,
}

impl Stored {
    /// What is written for the first time comes behind everything before it, whatever was written
    /// again meanwhile: no result overtakes another.
    fn follows(&self, offset: i64, log: &Log) -> Result<(), String> {
        let Some(first) = self.records.iter().map(|(at, _)| *at).min() else { return Ok(()) };
        let is_new = self.records.iter().all(|(at, _)| *at != offset);
        let before = log.between(first, offset).last().map(Entry::offset);
        match before.filter(|before| self.records.iter().all(|(at, _)| at != before)) {
            Some(missing) if is_new => Err(format!("{offset} is written before {missing}")),
            _ => Ok(()),
        }
    }
}

pub(super) struct History {
    partitions: Vec<Stored>,
    pub(super) attempts: Attempts,
    then: Then,
    /// At most once: whatever is in doubt is left out.
    may_give_up: bool,
    /// A fail-over lost stored progress, its start perhaps.
    was_rewound: bool,
}

/// A state to which a fail-over takes the store back.
#[derive(Clone)]
pub(super) struct Mark {
    /// Progress and the number of records, of each partition.
    partitions: Vec<(Option<i64>, usize)>,
    attempts: attempts::Mark,
}

impl History {
    pub(super) fn new(partitions: usize, then: Then, may_give_up: bool) -> Self {
        let attempts = Attempts::new(partitions);
        let partitions = (0..partitions).map(|_| Stored::default()).collect();
        Self { partitions, attempts, then, may_give_up, was_rewound: false }
    }

    pub(super) fn was_rewound(&self) -> bool {
        self.was_rewound
    }

    /// What is stored now, for [`History::rewind`].
    pub(super) fn mark(&self) -> Mark {
        let of = |stored: &Stored| (stored.progress, stored.records.len());
        Mark {
            partitions: self.partitions.iter().map(of).collect(),
            attempts: self.attempts.mark(),
        }
    }

    /// A fail-over: results, progress and claims are what they were. How many commits are lost.
    pub(super) fn rewind(&mut self, mark: &Mark) -> usize {
        self.was_rewound = true;
        for (stored, (progress, records)) in self.partitions.iter_mut().zip(&mark.partitions) {
            stored.progress = *progress;
            stored.records.truncate(*records);
        }
        self.attempts.rewind(&mark.attempts)
    }

    pub(super) fn progress(&self, partition: usize) -> Option<i64> {
        self.partitions[partition].progress
    }

    /// An operator asked to leave this record out; it may or may not be.
    pub(super) fn may_skip(&mut self, partition: usize, offset: i64) {
        self.partitions[partition].skipped.insert(offset);
    }

    /// The first start of a partition was stored.
    pub(super) fn started(&mut self, partition: usize, at: i64) -> Result<(), String> {
        let stored = &mut self.partitions[partition];
        match stored.progress.replace(at) {
            None => Ok(()),
            Some(before) => {
                Err(format!("{partition} started at {before} is started again at {at}"))
            }
        }
    }

    /// An operator moved progress.
    pub(super) fn sought(&mut self, partition: usize, from: i64, to: i64) -> Result<(), String> {
        let stored = &mut self.partitions[partition];
        stored.sought = true;
        match stored.progress.replace(to) {
            Some(before) if before == from => Ok(()),
            before => Err(format!("{partition} is sought from {from}, progress is {before:?}")),
        }
    }

    /// A batch became durable, by this attempt.
    pub(super) fn committed(
        &mut self,
        attempt: u64,
        effects: &Effects,
        logs: &Logs,
    ) -> Result<(), String> {
        self.attempts.stored(attempt)?;
        let mut rest = effects.records.as_slice();
        for &(partition, first, next) in &effects.spans {
            let of_span = rest.iter().take_while(|(p, ..)| *p == partition).count();
            let (records, behind) = rest.split_at(of_span);
            rest = behind;
            let stored = &mut self.partitions[partition];
            if stored.progress != Some(first) {
                return Err(format!(
                    "{partition}: a commit of {first}..{next} over progress {:?}",
                    stored.progress
                ));
            }
            if next <= first || next > logs.get(partition).end() {
                return Err(format!("{partition}: progress moves from {first} to {next}"));
            }
            let expected = logs.get(partition).between(first, next);
            let found = records.iter().map(|(_, offset, _)| *offset);
            if !found.eq(expected.iter().map(Entry::offset)) {
                return Err(format!(
                    "{partition}: {first}..{next} holds {:?}, the log {:?}",
                    records.iter().map(|r| r.1).collect::<Vec<_>>(),
                    expected.iter().map(Entry::offset).collect::<Vec<_>>()
                ));
            }
            for (entry, &(_, offset, kind)) in expected.iter().zip(records) {
                check_kind(entry, kind, stored.skipped.contains(&offset), self.then)?;
                stored.records.push((offset, kind));
            }
            stored.progress = Some(next);
        }
        if rest.is_empty() { Ok(()) } else { Err(format!("records outside all spans: {rest:?}")) }
    }

    /// Results were written without progress: the weaker guarantees.
    pub(super) fn written(&mut self, effects: &Effects, logs: &Logs) -> Result<(), String> {
        for &(partition, offset, kind) in &effects.records {
            let Some(entry) = logs.get(partition).at(offset) else {
                return Err(format!("{partition}/{offset} is not in the log"));
            };
            let stored = &mut self.partitions[partition];
            let may_be_skipped = self.may_give_up || stored.skipped.contains(&offset);
            check_kind(entry, kind, may_be_skipped, self.then)?;
            if !self.may_give_up && !stored.sought {
                stored.follows(offset, logs.get(partition))?;
            }
            stored.records.push((offset, kind));
        }
        Ok(())
    }

    pub(super) fn times_written(&self, partition: usize, offset: i64) -> usize {
        let records = self.partitions[partition].records.iter();
        records.filter(|(at, kind)| *at == offset && *kind != Kind::Filtered).count()
    }

    pub(super) fn was_sought(&self, partition: usize) -> bool {
        self.partitions[partition].sought
    }

    /// At least once: progress may only stand behind records that were written, and only who stored
    /// it may set it back, because an answer was lost and what was refused comes again in halves.
    pub(super) fn group_progress(
        &mut self,
        (partition, claim): (usize, u64),
        next: i64,
        logs: &Logs,
    ) -> Result<(), String> {
        let stored = &mut self.partitions[partition];
        let before = stored.progress.replace(next).unwrap_or(next);
        if next < before && !self.attempts.is_newest(partition, claim) {
            return Err(format!("{partition}: progress {before} goes back to {next}"));
        }
        let written: BTreeSet<i64> = stored.records.iter().map(|(offset, _)| *offset).collect();
        let missing = |entry: &&Entry| !written.contains(&entry.offset());
        match logs.get(partition).between(before, next).iter().find(missing) {
            Some(entry) => Err(format!(
                "{partition}: progress {before} goes to {next}, {} was not written",
                entry.offset()
            )),
            None => Ok(()),
        }
    }

    /// At most once: progress is stored before anything runs.
    pub(super) fn admitted(&mut self, partition: usize, next: i64) -> Result<(), String> {
        match self.partitions[partition].progress.replace(next) {
            Some(before) if next < before => {
                Err(format!("{partition}: {before} is admitted, and then {next}"))
            }
            _ => Ok(()),
        }
    }

    /// The end of a run: everything that was stored, counted record by record.
    pub(super) fn recount(&self, logs: &Logs) -> Result<usize, String> {
        let mut compared = 0;
        for (partition, stored) in self.partitions.iter().enumerate() {
            if stored.sought {
                continue;
            }
            let Some(&(first, _)) = stored.records.first() else { continue };
            let Some(progress) = stored.progress else {
                return Err(format!("{partition}: results without progress"));
            };
            let expected = logs.get(partition).between(first, progress);
            let found = stored.records.iter().map(|(offset, _)| *offset);
            if !found.eq(expected.iter().map(Entry::offset)) {
                return Err(format!("{partition}: stored {:?} up to {progress}", stored.records));
            }
            compared += expected.len();
        }
        Ok(compared)
    }
}

/// Whether this is what must become of the record.
fn check_kind(entry: &Entry, kind: Kind, may_be_skipped: bool, then: Then) -> Result<(), String> {
    let dead = |reason, without_value| match then {
        Then::DeadLetter => kind == Kind::Dead { reason, without_value },
        Then::Skip => kind == Kind::Filtered,
        Then::Stop => false,
    };
    let given_up = kind == Kind::Dead { reason: DeadReason::NotWritten, without_value: false };
    let right = match entry.nature {
        Nature::Emits(count) => kind == Kind::Emitted(count),
        Nature::FailsFirst(_) | Nature::Hangs => kind == Kind::Emitted(1),
        Nature::Filtered => kind == Kind::Filtered,
        Nature::Poison => dead(DeadReason::Process, false),
        Nature::Refused => dead(DeadReason::Rejected, false),
        Nature::RefusedTwice => dead(DeadReason::Rejected, true),
    };
    if right || given_up || (may_be_skipped && kind == Kind::Filtered) {
        Ok(())
    } else {
        Err(format!("{:?} of nature {:?} is stored as {kind:?}", entry.record, entry.nature))
    }
}

#[cfg(test)]
mod tests {
    use super::super::chance::Chance;
    use super::super::plan::Plan;
    use super::*;

    /// A topic with at least five records in one partition, and a history that is sound so far:
    /// the records before the answered offset are stored.
    fn sound() -> (Logs, History, i64) {
        let drawn = (0..100).map(|seed| {
            let mut chance = Chance::new(seed);
            let mut plan = Plan::new(&mut chance, None);
            (plan.partitions, plan.records_max) = (1, 60);
            let mut logs = Logs::new(&plan, &mut chance);
            logs.produce_all();
            logs
        });
        let mut long = drawn.filter(|logs| logs.get(0).from(0).len() > 6);
        let logs = long.next().expect("there is something to plant faults in");
        let mut history = History::new(1, Then::DeadLetter, false);
        let middle = logs.get(0).from(0)[3].offset();
        history.started(0, 0).expect("the first start");
        commit(&mut history, &right(&logs, 0, middle), &logs).expect("sound");
        (logs, history, middle)
    }

    /// Stores this by an attempt of its own.
    fn commit(history: &mut History, effects: &Effects, logs: &Logs) -> Result<(), String> {
        let attempt = history.attempts.claimed(0);
        history.attempts.begun(attempt, vec![(0, attempt)]);
        history.committed(attempt, effects, logs)
    }

    /// What must be stored of a span.
    fn right(logs: &Logs, first: i64, next: i64) -> Effects {
        let kind = |entry: &Entry| match entry.nature {
            Nature::Emits(count) => Kind::Emitted(count),
            Nature::FailsFirst(_) | Nature::Hangs => Kind::Emitted(1),
            Nature::Filtered => Kind::Filtered,
            Nature::Poison => Kind::Dead { reason: DeadReason::Process, without_value: false },
            Nature::Refused => Kind::Dead { reason: DeadReason::Rejected, without_value: false },
            Nature::RefusedTwice => {
                Kind::Dead { reason: DeadReason::Rejected, without_value: true }
            }
        };
        let entries = logs.get(0).between(first, next).iter();
        let records = entries.map(|entry| (0, entry.offset(), kind(entry))).collect();
        Effects { spans: vec![(0, first, next)], records }
    }

    /// Stores this, and expects that it is found wrong with these words.
    fn assert_found(logs: &Logs, mut history: History, effects: &Effects, words: &str) {
        let wrong = commit(&mut history, effects, logs).expect_err("it is wrong");
        assert!(wrong.contains(words), "{wrong}");
    }

    #[test]
    fn a_sound_history_passes_and_is_counted() {
        let (logs, mut history, middle) = sound();
        let end = logs.get(0).end();
        commit(&mut history, &right(&logs, middle, end), &logs).expect("sound");
        assert_eq!(history.recount(&logs), Ok(logs.get(0).from(0).len()));
    }

    #[test]
    fn a_duplicate_is_found() {
        let (logs, history, middle) = sound();
        assert_found(&logs, history, &right(&logs, 0, middle), "over progress");
    }

    #[test]
    fn a_hole_in_progress_is_found() {
        let (logs, history, middle) = sound();
        let end = logs.get(0).end();
        assert_found(&logs, history, &right(&logs, middle + 1, end), "over progress");
    }

    #[test]
    fn progress_that_goes_back_is_found() {
        let (logs, history, middle) = sound();
        let back = Effects { spans: vec![(0, middle, middle - 1)], records: Vec::new() };
        assert_found(&logs, history, &back, "progress moves from");
    }

    #[test]
    fn progress_behind_the_end_of_the_log_is_found() {
        let (logs, history, middle) = sound();
        let mut beyond = right(&logs, middle, logs.get(0).end());
        beyond.spans[0].2 += 1;
        assert_found(&logs, history, &beyond, "progress moves from");
    }

    #[test]
    fn a_lost_record_is_found_wherever_it_is_missing() {
        for missing in 0..3 {
            let (logs, history, middle) = sound();
            let mut effects = right(&logs, middle, logs.get(0).end());
            effects.records.remove(missing);
            assert_found(&logs, history, &effects, "the log");
        }
    }

    #[test]
    fn a_wrong_order_is_found() {
        let (logs, history, middle) = sound();
        let mut effects = right(&logs, middle, logs.get(0).end());
        effects.records.swap(0, 1);
        assert_found(&logs, history, &effects, "the log");
    }

    #[test]
    fn a_record_outside_its_span_is_found() {
        let (logs, history, middle) = sound();
        let mut effects = right(&logs, middle, logs.get(0).end());
        let next = logs.get(0).from(middle)[1].offset();
        effects.spans[0].2 = next;
        assert_found(&logs, history, &effects, "the log");
    }

    #[test]
    fn a_wrong_result_is_found() {
        let (logs, history, middle) = sound();
        let mut effects = right(&logs, middle, logs.get(0).end());
        effects.records[1].2 = Kind::Emitted(9);
        assert_found(&logs, history, &effects, "is stored as");
    }

    #[test]
    fn a_second_start_and_a_seek_from_elsewhere_are_found() {
        let (_, mut history, _) = sound();
        history.started(0, 7).expect_err("the start policy runs once");
        let (_, mut history, middle) = sound();
        history.sought(0, middle + 1, 0).expect_err("somebody moved it meanwhile");
    }

    #[test]
    fn the_recount_finds_what_was_stored_twice_without_looking_at_spans() {
        let (logs, mut history, _) = sound();
        let again = history.partitions[0].records[1];
        history.partitions[0].records.insert(2, again);
        history.recount(&logs).expect_err("one more than there are");
    }
}
