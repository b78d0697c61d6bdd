//! Runs of many seeds, and proof that they can fail.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::coverage::Coverage;
use super::plan::Planted;
use super::world::{Report, run};

/// How many seeds a test run takes, unless `TIDEGATE_SEEDS` says otherwise.
const SEEDS: u64 = 2_000;

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

fn show(seed: u64) -> ! {
    let Report { wrong, .. } = run(seed, true, None);
    let (wrong, lines) = wrong.expect("it fails each time it is run");
    let lines = lines.join("\n");
    panic!("{lines}\n\nseed {seed}: {wrong}\nrun it alone with TIDEGATE_SEED={seed}");
}

#[test]
fn whatever_goes_wrong_every_record_is_stored_exactly_once_and_in_order() {
    if let Some(seed) = from_environment("TIDEGATE_SEED") {
        if run(seed, false, None).wrong.is_some() {
            show(seed);
        }
        return;
    }
    let seeds = from_environment("TIDEGATE_SEEDS").unwrap_or(SEEDS);
    let first = from_environment("TIDEGATE_SEED_FIRST").unwrap_or(0);
    let next = AtomicU64::new(first);
    let failed = AtomicU64::new(u64::MAX);
    let seen = Mutex::new((Coverage::new(), 0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || failed.load(Ordering::Relaxed) < u64::MAX {
                        return;
                    }
                    let report = run(seed, false, None);
                    if report.wrong.is_some() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                    let mut seen = seen.lock().expect("no holder of the lock panics");
                    seen.0.add(&report.cover);
                    seen.1 += report.compared;
                }
            });
        }
    });
    let failed = failed.into_inner();
    if failed < u64::MAX {
        show(failed);
    }
    let (cover, compared) = seen.into_inner().expect("no holder of the lock panics");
    if std::env::var("TIDEGATE_COVERAGE").is_ok() {
        eprintln!("{seeds} seeds, {compared} records compared: {:?}", cover.list());
    }
    if seeds >= SEEDS {
        assert_eq!(cover.never(), [], "never happened in {seeds} seeds");
        assert!(compared > 0, "nothing was compared");
    }
}

#[test]
fn a_seed_runs_the_same_way_each_time() {
    for seed in 0..40 {
        let (first, second) = (run(seed, false, None), run(seed, true, None));
        assert_eq!(first.hash, second.hash, "seed {seed}");
    }
}

/// How many seeds a planted fault may stay hidden.
const HIDDEN_MAX: u64 = 400;

fn assert_found(planted: Planted) {
    let found = (0..HIDDEN_MAX).find_map(|seed| run(seed, false, Some(planted)).wrong);
    assert!(found.is_some(), "{planted:?} was not found in {HIDDEN_MAX} seeds");
}

#[test]
fn a_sink_that_forgets_epochs_is_found() {
    assert_found(Planted::EpochsForgotten);
}

#[test]
fn a_broker_that_takes_offsets_of_any_generation_is_found() {
    assert_found(Planted::AnyGeneration);
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

#[test]
fn zz_survey() {
    let seeds = from_environment("TIDEGATE_SURVEY").unwrap_or(0);
    let mut cover = Coverage::new();
    let began = std::time::Instant::now();
    let mut kinds: std::collections::BTreeMap<String, (u64, u64)> = Default::default();
    for seed in 0..seeds {
        let report = std::panic::catch_unwind(|| run(seed, false, None));
        let wrong = match report {
            Ok(report) => {
                cover.add(&report.cover);
                report.wrong.map(|w| w.0)
            }
            Err(p) => Some(format!(
                "PANIC {:?}",
                p.downcast_ref::<String>()
                    .cloned()
                    .or(p.downcast_ref::<&str>().map(|s| s.to_string()))
            )),
        };
        if let Some(wrong) = wrong {
            let key: String =
                wrong.chars().take(300).filter(|c| !c.is_ascii_digit()).take(60).collect();
            let e = kinds.entry(key).or_insert((0, seed));
            e.0 += 1;
        }
    }
    eprintln!("{seeds} in {:?}", began.elapsed());
    for (k, (n, first)) in kinds {
        eprintln!("{n:>5} first {first:>5}: {k}");
    }
    eprintln!("never {:?}", cover.never());
    eprintln!("{:?}", cover.list());
}
