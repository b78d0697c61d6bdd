//! The core against a naive model of one partition: a list of what was delivered, and how far it is
//! stored.

use std::time::Duration;

use proptest::prelude::*;

use super::rig::{Rig, at, cause, p, settings, spans};
use crate::batch::Batch;
use crate::delivery::Fate;
use crate::engine::work::Job;
use crate::policy::Retry;
use crate::record::Coordinates;
use crate::settings::Settings;
use crate::sink::Stored;

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many records arrive, each behind a hole of so many offsets.
    Deliver(i64, i64),
    /// The end of the log is seen, so far behind the last record.
    End(i64),
    /// A job that is out ends, well or not.
    Run(bool),
    Wait(u64),
    /// The commit that is out ends.
    Commit(Ends),
}

#[derive(Clone, Copy, Debug)]
enum Ends {
    Committed,
    Aborted,
    /// In doubt, and found stored or not.
    InDoubt(bool),
    /// The first record of the batch is refused.
    Rejected,
    /// Somebody else was there and stored nothing.
    Fenced,
}

fn step() -> impl Strategy<Value = Step> {
    let ends = prop_oneof![
        4 => Just(Ends::Committed),
        1 => Just(Ends::Aborted),
        1 => any::<bool>().prop_map(Ends::InDoubt),
        1 => Just(Ends::Rejected),
        1 => Just(Ends::Fenced),
    ];
    prop_oneof![
        3 => (1..4_i64, 0..3_i64).prop_map(|(count, hole)| Step::Deliver(count, hole)),
        1 => (0..3_i64).prop_map(Step::End),
        4 => prop::bool::weighted(0.8).prop_map(Step::Run),
        2 => (1..30_u64).prop_map(Step::Wait),
        3 => ends.prop_map(Step::Commit),
    ]
}

/// One partition, as plainly as possible.
struct Naive {
    /// Every record that the log holds so far.
    log: Vec<i64>,
    log_end: i64,
    /// Stored progress, and the records that are stored.
    stored: i64,
    results: Vec<i64>,
}

impl Naive {
    /// A batch is stored, or would be: it holds what the log has between its ends.
    fn check(&self, batch: &Batch<u32>) -> Result<(i64, Vec<i64>), TestCaseError> {
        let spans = spans(batch);
        prop_assert_eq!(spans.len(), 1);
        let (index, first, next) = spans[0];
        prop_assert_eq!((index, first), (0, self.stored), "it begins where progress stands");
        prop_assert!(next > first && next <= self.log_end, "{} of {}", next, self.log_end);
        let wanted: Vec<i64> =
            self.log.iter().copied().filter(|offset| (first..next).contains(offset)).collect();
        let found: Vec<i64> =
            batch.finished().iter().map(|done| done.record.offset.get()).collect();
        prop_assert_eq!(&found, &wanted);
        Ok((next, found))
    }

    fn store(&mut self, batch: &Batch<u32>) -> Result<(), TestCaseError> {
        let (next, records) = self.check(batch)?;
        self.results.extend(records);
        self.stored = next;
        Ok(())
    }
}

/// The core with its log: what is fenced is read again.
struct Bench {
    rig: Rig,
    naive: Naive,
    /// How much of the log was delivered under this epoch.
    read: usize,
    end_told: bool,
}

impl Bench {
    fn start(start: i64, now: Duration) -> Self {
        // Small cuts, so that a batch rarely takes all that is finished.
        let settings = Settings { commit_records: 3, ..settings() };
        let mut rig = Rig::with(|config| {
            config.limits = settings.check().expect("allowed");
            config.policy = Retry::times(2).then_dead_letter();
            config.run_max = 2;
        });
        rig.now = now;
        rig.assign(&[0], 10_000);
        rig.claimed(|_| Stored::At(at(start)));
        rig.resolved(0);
        let (log, results) = (Vec::new(), Vec::new());
        let naive = Naive { log, log_end: start, stored: start, results };
        Self { rig, naive, read: 0, end_told: false }
    }

    fn read(&mut self) {
        let offsets: Vec<i64> = self.naive.log[self.read..].to_vec();
        self.read = self.naive.log.len();
        if !offsets.is_empty() {
            self.rig.deliver(0, offsets);
        }
        if self.end_told {
            self.rig.end(0, self.naive.log_end);
        }
    }

    fn end_job(&mut self, job: &Job, well: bool) {
        let said = if well { Rig::done(job) } else { Rig::failed(job) };
        self.rig.step([said]);
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Deliver(count, hole) => {
                for _ in 0..count {
                    let offset = self.naive.log_end + hole;
                    self.naive.log.push(offset);
                    self.naive.log_end = offset + 1;
                }
                self.end_told = false;
                self.read();
            }
            Step::End(behind) => {
                self.naive.log_end += behind;
                self.end_told = true;
                self.read();
            }
            Step::Run(well) => {
                if let Some(job) = self.rig.jobs.pop_front() {
                    self.end_job(&job, well);
                }
            }
            Step::Wait(millis) => self.rig.wait(millis),
            Step::Commit(ends) => {
                if let Some(batch) = self.rig.commits.pop_front() {
                    self.end_commit(batch, ends)?;
                }
            }
        }
        prop_assert!(self.rig.commits.len() <= 1, "one commit at a time");
        Ok(())
    }

    fn end_commit(&mut self, batch: Batch<u32>, ends: Ends) -> Result<(), TestCaseError> {
        self.naive.check(&batch)?;
        match ends {
            Ends::Committed => {
                self.naive.store(&batch)?;
                self.rig.ends(batch, Fate::Committed);
            }
            Ends::Aborted => self.rig.ends(batch, Fate::Aborted(cause())),
            Ends::InDoubt(is_stored) => {
                if is_stored {
                    self.naive.store(&batch)?;
                }
                self.rig.ends(batch, Fate::InDoubt(cause()));
                let stored = self.naive.stored;
                self.rig.claimed(|_| Stored::At(at(stored)));
            }
            Ends::Rejected => {
                let Some(first) = batch.finished().first() else {
                    return self.end_commit(batch, Ends::Committed);
                };
                let record = Coordinates { partition: p(0), offset: first.record.offset };
                // Once as it is and once without its value: a third time would be the end.
                if matches!(&first.outcome, crate::batch::Outcome::Dead(dead) if dead.without_value)
                {
                    return self.end_commit(batch, Ends::Committed);
                }
                self.rig.ends(batch, Fate::Rejected { record, cause: cause() });
            }
            Ends::Fenced => {
                self.rig.ends(batch, Fate::Fenced(cause()));
                self.claim_again();
            }
        }
        Ok(())
    }

    /// After a fence, an hour later so that it is the first of its minute: what is not stored is
    /// read again.
    fn claim_again(&mut self) {
        self.rig.jobs.clear();
        self.rig.wait(3_600_000);
        let stored = self.naive.stored;
        self.rig.claimed(|_| Stored::At(at(stored)));
        self.rig.resolved(0);
        self.read = self.naive.log.iter().filter(|offset| **offset < stored).count();
        self.read();
    }

    /// Nothing goes wrong any more.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        self.end_told = true;
        self.read();
        for _ in 0..1_000 {
            if self.naive.stored == self.naive.log_end {
                break;
            }
            match (self.rig.jobs.pop_front(), self.rig.commits.pop_front()) {
                (Some(job), commit) => {
                    self.rig.commits.extend(commit);
                    self.end_job(&job, true);
                }
                (None, Some(batch)) => self.end_commit(batch, Ends::Committed)?,
                (None, None) => self.rig.wait(5_000),
            }
        }
        prop_assert_eq!(self.naive.stored, self.naive.log_end, "everything is stored");
        prop_assert_eq!(&self.naive.results, &self.naive.log, "once, and in order");
        self.rig.assert_rests();
        Ok(())
    }
}

proptest! {
    #[test]
    fn the_core_agrees_with_a_naive_model(
        start in prop_oneof![
            Just(0_i64), Just((1 << 31) - 5), Just((1 << 32) - 5), Just((1 << 62) - 5), Just(i64::MAX - 1_000),
        ],
        // Since the start of the process, in milliseconds.
        now in prop_oneof![Just(0_u64), Just((1 << 31) - 5), Just((1 << 32) - 5), Just(1 << 53)],
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut bench = Bench::start(start, Duration::from_millis(now));
        for step in steps {
            bench.take(step)?;
            prop_assert_eq!(bench.rig.finished.is_some(), false);
        }
        bench.drain()?;
    }
}
