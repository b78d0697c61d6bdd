//! What is in flight is bounded, and shared; trouble with the store is never a record's fault.

use super::rig::{Rig, at, cause, ms, p, settings, spans};
use crate::batch::Outcome;
use crate::delivery::Fate;
use crate::engine::core::{Control, Event};
use crate::policy::Retry;
use crate::record::RawRecord;
use crate::settings::Settings;
use crate::source::Chunk;

fn bounded(records: usize) -> Rig {
    Rig::with_settings(|settings| settings.in_flight_records = records)
}

/// Delivers all that a partition has credit for.
fn fill(rig: &mut Rig, index: i32, from: i64) -> i64 {
    let mut next = from;
    loop {
        let credit = i64::from(rig.credit_of(index));
        rig.credits.retain(|credit| credit.partition != p(index));
        if credit == 0 {
            return next;
        }
        rig.deliver(index, next..next + credit);
        next += credit;
    }
}

fn in_flight(rig: &Rig) -> usize {
    rig.core.status().partitions.iter().map(|p| p.in_flight_records).sum()
}

#[test]
fn a_record_larger_than_what_was_left_is_paid_for_by_the_next_grant() {
    let mut rig = Rig::with_settings(|settings| settings.in_flight_bytes = 4);
    rig.begin(&[0]);
    let granted = |rig: &mut Rig| rig.credits.drain(..).map(|credit| credit.bytes).sum::<u64>();
    assert_eq!(granted(&mut rig), 1);
    rig.process(0, [0]);
    assert_eq!(granted(&mut rig), 0, "the partition is above its share");
    rig.commit_ends(Fate::Committed);
    assert_eq!(granted(&mut rig), 9 + 1, "ten bytes were read against one");
}

#[test]
fn what_waits_to_run_or_to_be_tried_again_is_forgotten_with_its_partition() {
    let mut rig = Rig::with(|config| {
        config.policy = Retry::times(3).backoff(ms(3_600_000), ms(3_600_000)).then_stop();
        config.outstanding_max = 1;
    });
    for _ in 0..5 {
        rig.begin(&[0, 1]);
        rig.deliver(0, [0]);
        rig.deliver(1, [0]);
        let job = rig.jobs.pop_front().expect("it runs");
        rig.step([Rig::failed(&job)]);
        rig.deliver(1, [1]);
        let remembered = rig.core.remembered();
        assert!(remembered.retries == 1 && remembered.ready <= 1, "{remembered:?}");
        rig.step([Event::Lost(vec![p(0), p(1)])]);
        rig.jobs.clear();
        let remembered = rig.core.remembered();
        assert!(remembered.retries == 0 && remembered.ready == 0, "{remembered:?}");
        rig.started.clear();
    }
}

#[test]
fn a_partition_at_its_share_gets_no_credit_while_the_others_do() {
    let mut rig = bounded(40);
    rig.begin(&[0, 1]);
    assert_eq!(fill(&mut rig, 0, 0), 20);
    assert_eq!(fill(&mut rig, 1, 0), 20);
    let done = rig.jobs.iter().position(|job| job.tickets[0].record.partition == p(1));
    let job = rig.jobs.remove(done.expect("it runs")).expect("it is there");
    rig.step([Rig::done(&job)]);
    rig.wait(20);
    rig.commit_ends(Fate::Committed);
    assert_eq!(rig.credit_of(0), 0);
    assert!(rig.credit_of(1) > 0);
}

#[test]
fn a_partition_at_its_share_reads_on_when_something_of_it_is_stored() {
    let mut rig = bounded(40);
    rig.begin(&[0]);
    assert_eq!(fill(&mut rig, 0, 0), 40);
    rig.run();
    assert_eq!(rig.credit_of(0), 0, "finished is not stored");
    rig.wait(20);
    rig.commit_ends(Fate::Committed);
    assert!(rig.credit_of(0) > 0);
}

#[test]
fn partitions_that_come_do_not_take_what_is_in_flight_over_its_bound() {
    let mut rig = bounded(40);
    rig.begin(&[0]);
    assert_eq!(fill(&mut rig, 0, 0), 40);
    rig.begin(&[1]);
    fill(&mut rig, 1, 0);
    rig.begin(&[2, 3]);
    fill(&mut rig, 2, 0);
    fill(&mut rig, 3, 0);
    assert_eq!(in_flight(&rig), 43, "one each, or they would wait for ever");
}

#[test]
fn what_an_idle_partition_may_read_is_not_missing_elsewhere() {
    let mut rig = bounded(40);
    rig.begin(&[0]);
    assert!(rig.credit_of(0) <= 10, "credit cannot be taken back");
    rig.begin(&[1]);
    assert_eq!(fill(&mut rig, 1, 0), 20, "its full share");
}

#[test]
fn a_partition_that_holds_nothing_may_always_read_one_record_however_large() {
    let mut rig = Rig::with_settings(|settings| settings.in_flight_bytes = 8);
    rig.begin(&[0]);
    let credit = rig.credits.pop().expect("it may read");
    assert!(credit.records > 0 && credit.bytes > 0);
    let epoch = rig.epoch(0);
    let record =
        RawRecord { value: Some(vec![0; 5000].into()), ..(*Rig::record(0, 0, None)).clone() };
    let records = vec![record.into()];
    rig.step([Event::Records(Chunk { partition: p(0), epoch, records })]);
    assert!(rig.credits.is_empty(), "the bound is passed by far");
    rig.run();
    rig.wait(20);
    rig.commit_ends(Fate::Committed);
    assert!(rig.credit_of(0) > 0);
}

#[test]
fn every_partition_gets_on_however_small_the_bound() {
    let mut rig = Rig::with_settings(|settings| {
        settings.in_flight_records = 1;
        settings.in_flight_bytes = 1;
    });
    rig.begin(&[0, 1, 2]);
    for offset in 0..5 {
        for index in 0..3 {
            assert_eq!(rig.credit_of(index), 1);
        }
        rig.credits.clear();
        for index in 0..3 {
            rig.deliver(index, [offset]);
        }
        rig.run();
        while in_flight(&rig) > 0 {
            rig.wait(20);
            rig.commit_ends(Fate::Committed);
        }
    }
}

#[test]
fn a_paused_partition_gets_no_credit() {
    let mut rig = bounded(40);
    rig.begin(&[0, 1]);
    rig.control(Control::Pause(Some(p(0))));
    rig.credits.clear();
    rig.deliver(0, 0..5);
    assert_eq!(rig.credit_of(0), 0);
    rig.control(Control::Resume(None));
    assert!(rig.credit_of(0) > 0);
}

/// Refuses the commits that come until one is not longer than `records`.
fn refuse_down_to(rig: &mut Rig, records: usize) {
    loop {
        let batch = rig.commit();
        if batch.len() <= records {
            rig.ends(batch, Fate::Committed);
            return;
        }
        rig.ends(batch, Fate::Aborted(cause()));
        rig.wait(10_000);
    }
}

#[test]
fn a_batch_that_is_refused_again_and_again_is_tried_in_halves_in_order() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, 0..8);
    refuse_down_to(&mut rig, 2);
    let mut stored = vec![(0, 0, 2)];
    while rig.commits.front().is_some() {
        let batch = rig.commit();
        stored.extend(spans(&batch));
        rig.ends(batch, Fate::Committed);
        rig.wait(20);
    }
    assert_eq!(stored, [(0, 0, 2), (0, 2, 4), (0, 4, 8)]);
}

#[test]
fn what_is_cut_after_refusals_is_small_and_grows_with_success() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, 0..64);
    refuse_down_to(&mut rig, 4);
    let mut next = 64;
    let mut sizes = Vec::new();
    for _ in 0..40 {
        rig.deliver(0, next..next + 64);
        next += 64;
        rig.run();
        rig.wait(20);
        let batch = rig.commit();
        sizes.push(batch.len());
        rig.ends(batch, Fate::Committed);
    }
    // The kept halves first.
    assert_eq!(sizes[..4], [4, 8, 16, 32]);
    assert!(sizes[4] < 16 && sizes[4..24].is_sorted(), "{sizes:?}");
    assert!(sizes.contains(&64) && sizes.iter().max() > Some(&64), "it catches up: {sizes:?}");
}

#[test]
fn trouble_with_the_store_never_becomes_a_dead_letter() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    for _ in 0..30 {
        rig.commit_ends(Fate::Aborted(cause()));
        rig.wait(10_000);
    }
    let batch = rig.commit();
    assert!(matches!(batch.finished()[0].outcome, Outcome::Emit(_)));
    assert!(rig.finished.is_none());
    assert_eq!(rig.core.totals().dead_letters, 0);
}

#[test]
fn refusals_are_followed_by_longer_and_longer_waits() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    let mut waits = Vec::new();
    for _ in 0..12 {
        rig.commit_ends(Fate::Aborted(cause()));
        let wake = rig.core.wake_at().expect("it is tried again");
        waits.push(wake - rig.now);
        rig.now = wake;
        rig.step([]);
    }
    assert!(waits[0] < ms(100) && waits[11] > ms(1200) && waits[11] <= ms(5000), "{waits:?}");
}

#[test]
fn a_commit_holds_no_more_records_than_its_bound_and_starves_no_partition() {
    let small = Settings { commit_records: 4, ..settings() };
    let mut rig = Rig::with(|config| config.limits = small.check().expect("allowed"));
    rig.begin(&[0, 1]);
    rig.deliver(0, 0..100);
    rig.deliver(1, 0..4);
    rig.run();
    let mut seen = Vec::new();
    for _ in 0..4 {
        rig.wait(20);
        let batch = rig.commit();
        assert!(batch.len() <= 4);
        seen.extend(spans(&batch).into_iter().map(|span| span.0));
        rig.ends(batch, Fate::Committed);
    }
    assert!(seen.contains(&1), "{seen:?}");
    assert_eq!(rig.core.status().partitions[1].committed, at(4));
}
