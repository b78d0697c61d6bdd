//! Runs of many seeds, and proof that they can fail.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::coverage::Coverage;
use super::plan::Planted;
use super::world::{Report, run};
use crate::mutant;

/// How many seeds a test run takes, unless `TIDEGATE_SEEDS` says otherwise. `scripts/simulate` runs as
/// many as one likes.
const SEEDS: u64 = 3_000;
/// How often a long run says how far it is.
const TELLS_EVERY: Duration = Duration::from_secs(10);

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

/// The bug that is built into a connector, as a fault of its model here: `scripts/mutants`.
fn planted() -> Option<Planted> {
    let built_in = [("M20", Planted::ProducerReused), ("M47", Planted::FormerMember)];
    built_in.into_iter().find(|(bug, _)| mutant::is(bug)).map(|(_, planted)| planted)
}

/// Shows what happened in a seed that fails, and how to see it again.
fn show(seed: u64) -> ! {
    eprintln!("seed {seed} fails; run it alone with TIDEGATE_SEED={seed}");
    let Report { wrong, .. } = run(seed, true, planted());
    let (wrong, lines) = wrong.expect("it fails each time it is run");
    let lines = lines.join("\n");
    panic!("{lines}\n\nseed {seed}: {wrong}\nrun it alone with TIDEGATE_SEED={seed}");
}

/// Many seeds on all processors, and what came of them so far.
struct Many {
    first: u64,
    seeds: u64,
    next: AtomicU64,
    failed: AtomicU64,
    seen: Mutex<Seen>,
}

struct Seen {
    cover: Coverage,
    compared: usize,
    done: u64,
    began: Instant,
    told: Instant,
}

impl Many {
    fn new(first: u64, seeds: u64) -> Self {
        let now = Instant::now();
        let seen = Seen { cover: Coverage::new(), compared: 0, done: 0, began: now, told: now };
        let (next, failed) = (AtomicU64::new(first), AtomicU64::new(u64::MAX));
        Self { first, seeds, next, failed, seen: Mutex::new(seen) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no holder of the lock panics")
    }

    /// Takes seeds until there are no more, or one fails.
    fn work(&self) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let is_last = seed >= self.first + self.seeds;
            if is_last || self.failed.load(Ordering::Relaxed) < u64::MAX {
                return;
            }
            // The core may hold an assertion of its own against what happens to it.
            match catch_unwind(AssertUnwindSafe(|| run(seed, false, planted()))) {
                Ok(report) if report.wrong.is_none() => self.add(&report),
                _ => _ = self.failed.fetch_min(seed, Ordering::Relaxed),
            }
        }
    }

    fn add(&self, report: &Report) {
        let mut seen = self.seen();
        seen.cover.add(&report.cover);
        seen.compared += report.compared;
        seen.done += 1;
        if seen.told.elapsed() >= TELLS_EVERY {
            seen.told = Instant::now();
            let (done, seconds) = (seen.done, seen.began.elapsed().as_secs());
            let (first, of) = (self.first, self.seeds);
            eprintln!("{done} of {of} seeds from {first} on, {seconds} s");
        }
    }
}

#[test]
fn whatever_goes_wrong_every_record_is_stored_exactly_once_and_in_order() {
    if let Some(seed) = from_environment("TIDEGATE_SEED") {
        if run(seed, false, planted()).wrong.is_some() {
            show(seed);
        }
        return;
    }
    let seeds = from_environment("TIDEGATE_SEEDS").unwrap_or(SEEDS);
    let many = Many::new(from_environment("TIDEGATE_SEED_FIRST").unwrap_or(0), seeds);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| many.work());
        }
    });
    let failed = many.failed.load(Ordering::Relaxed);
    if failed < u64::MAX {
        show(failed);
    }
    let seen = many.seen();
    assert_eq!(seen.done, seeds, "each seed is run");
    if std::env::var("TIDEGATE_COVERAGE").is_ok() {
        let seconds = seen.began.elapsed().as_secs();
        eprintln!("{seeds} seeds in {seconds} s, {} records compared", seen.compared);
        eprintln!("{:?}", seen.cover.list());
    }
    if seeds >= SEEDS {
        assert_eq!(seen.cover.never(), [], "never happened in {seeds} seeds");
        assert!(seen.compared > 0, "nothing was compared");
    }
}

/// The traces of some seeds in one number.
fn hash_of_seeds() -> u64 {
    (0..60).map(|seed| run(seed, false, None).hash).fold(0, |all, hash| all.rotate_left(7) ^ hash)
}

#[test]
fn a_seed_runs_the_same_way_each_time() {
    for seed in 0..60 {
        let (first, second) = (run(seed, false, None), run(seed, true, None));
        assert_eq!(first.hash, second.hash, "seed {seed}");
    }
}

/// Set for the process that the next test starts.
const IN_ANOTHER_PROCESS: &str = "TIDEGATE_IN_ANOTHER_PROCESS";

#[test]
fn a_seed_runs_the_same_way_in_another_process() {
    let marked = |hash: u64| format!("the seeds run like {hash:016x}");
    if std::env::var(IN_ANOTHER_PROCESS).is_ok() {
        println!("{}", marked(hash_of_seeds()));
        return;
    }
    // Other addresses, another seed of every map of the standard library.
    let name = "testing::simulation::tests::a_seed_runs_the_same_way_in_another_process";
    let other = Command::new(std::env::current_exe().expect("a test program"))
        .args(["--exact", name, "--nocapture"])
        .env(IN_ANOTHER_PROCESS, "1")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&other.stdout).into_owned();
    assert!(said.contains(&marked(hash_of_seeds())), "{said}");
}

/// How many seeds a planted fault may stay hidden.
const HIDDEN_MAX: u64 = 2_000;

fn assert_found(planted: Planted) {
    let is_found = |seed: &u64| run(*seed, false, Some(planted)).wrong.is_some();
    let found = (0..HIDDEN_MAX).find(is_found);
    let seed = found.unwrap_or_else(|| panic!("{planted:?} was not found in {HIDDEN_MAX} seeds"));
    eprintln!("{planted:?} is found by seed {seed}");
}

#[test]
fn a_sink_that_forgets_epochs_is_found() {
    assert_found(Planted::EpochsForgotten);
}

#[test]
fn a_member_that_keeps_what_was_given_to_a_former_one_is_found() {
    assert_found(Planted::FormerMember);
}

#[test]
fn a_broker_that_takes_offsets_of_any_generation_is_found() {
    assert_found(Planted::AnyGeneration);
}

#[test]
fn a_producer_that_goes_on_after_a_commit_that_was_sent_twice_is_found() {
    assert_found(Planted::ProducerReused);
}

#[test]
fn an_admission_of_an_old_epoch_is_found() {
    assert_found(Planted::StaleAdmission);
}

#[test]
fn a_compare_without_claim_and_owner_is_found() {
    assert_found(Planted::NoFence);
}

#[test]
fn a_claim_that_does_not_wait_for_a_pending_commit_is_found() {
    assert_found(Planted::ClaimDoesNotWait);
}

#[test]
fn a_position_that_is_reset_in_silence_is_found() {
    assert_found(Planted::SilentReset);
}

#[test]
fn a_claim_that_reads_unstable_offsets_is_found() {
    assert_found(Planted::UnstableOffsets);
}

#[test]
fn a_store_without_the_compare_is_found() {
    assert_found(Planted::NoCompare);
}

#[test]
fn a_doubt_that_counts_as_aborted_is_found() {
    assert_found(Planted::DoubtIsAborted);
}

#[test]
fn a_doubt_that_counts_as_committed_is_found() {
    assert_found(Planted::DoubtIsCommitted);
}

#[test]
fn a_lost_record_is_found() {
    assert_found(Planted::RecordLost);
}

#[test]
fn a_pool_that_runs_records_backwards_is_found() {
    assert_found(Planted::Backwards);
}

#[test]
fn a_source_that_reads_without_credit_is_found() {
    assert_found(Planted::NoCredit);
}
