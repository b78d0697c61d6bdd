//! Data that the sink refuses: the record is set aside, its neighbours are stored.

use super::rig::{Rig, at, cause, p, spans};
use crate::batch::{Batch, DeadReason, Outcome};
use crate::delivery::Fate;
use crate::policy::{FailurePolicy, Retry};
use crate::record::Coordinates;

fn with(policy: FailurePolicy) -> Rig {
    let mut rig = Rig::with(|config| config.policy = policy);
    rig.begin(&[0, 1]);
    rig.deliver(0, [0, 1, 2]);
    rig.process(1, [0, 1]);
    rig
}

fn reject(rig: &mut Rig, index: i32, offset: i64) {
    let record = Coordinates { partition: p(index), offset: at(offset) };
    rig.commit_ends(Fate::Rejected { record, cause: cause() });
}

fn dead(batch: &Batch<u32>) -> Vec<(i64, DeadReason, bool)> {
    let letters = batch.dead_letters();
    letters.map(|(f, l)| (f.record.offset.get(), l.reason, l.without_value)).collect()
}

#[test]
fn the_culprit_becomes_a_dead_letter_and_the_rest_commits_as_one_batch() {
    let mut rig = with(Retry::never().then_dead_letter());
    reject(&mut rig, 0, 1);
    let batch = rig.commit();
    assert_eq!(spans(&batch), [(0, 0, 3), (1, 0, 2)]);
    assert_eq!(dead(&batch), [(1, DeadReason::Rejected, false)]);
    assert_eq!(batch.outputs().count(), 4);
}

#[test]
fn a_refused_dead_letter_is_stored_once_more_without_its_value() {
    let mut rig = with(Retry::never().then_dead_letter());
    reject(&mut rig, 0, 1);
    reject(&mut rig, 0, 1);
    let batch = rig.commit();
    assert_eq!(dead(&batch), [(1, DeadReason::Rejected, true)]);
    rig.ends(batch, Fate::Committed);
    assert_eq!(rig.core.totals().dead_letters, 1, "it is one dead letter");
}

#[test]
fn a_dead_letter_that_is_refused_without_its_value_is_a_named_stop() {
    let mut rig = with(Retry::never().then_dead_letter());
    reject(&mut rig, 0, 1);
    reject(&mut rig, 0, 1);
    reject(&mut rig, 0, 1);
    let error = rig.finished.expect("it ends").expect_err("with an error");
    assert!(error.to_string().contains("in/0/1: its dead letter"), "{error}");
    assert!(rig.commits.is_empty());
}

#[test]
fn a_policy_of_skip_leaves_the_culprit_out() {
    let mut rig = with(Retry::never().then_skip());
    reject(&mut rig, 1, 0);
    let batch = rig.commit();
    assert_eq!(batch.finished()[3].outcome, Outcome::Filtered);
    assert_eq!((rig.core.totals().skipped, batch.outputs().count()), (1, 4));
}

#[test]
fn a_policy_of_stop_stores_what_is_before_the_culprit_and_nothing_behind_it() {
    let mut rig = with(Retry::never().then_stop());
    let batch = rig.commit();
    rig.deliver(0, [3]);
    rig.run();
    let record = Coordinates { partition: p(0), offset: at(1) };
    rig.ends(batch, Fate::Rejected { record, cause: cause() });
    let before = rig.commit();
    assert_eq!(spans(&before), [(0, 0, 1), (1, 0, 2)]);
    rig.ends(before, Fate::Committed);
    assert!(rig.commits.is_empty(), "3 would jump over 1");
    let error = rig.finished.expect("it ends").expect_err("with an error");
    assert!(error.is_record() && error.to_string().contains("in/0/1"), "{error}");
}

#[test]
fn what_is_before_the_culprit_is_stored_also_when_that_was_in_doubt() {
    let mut rig = with(Retry::never().then_stop());
    reject(&mut rig, 0, 1);
    rig.commit_ends(Fate::InDoubt(cause()));
    rig.claimed(|_| crate::sink::Stored::At(at(0)));
    let again = rig.commit();
    assert_eq!(spans(&again), [(0, 0, 1), (1, 0, 2)]);
    rig.ends(again, Fate::Committed);
    assert!(rig.finished.is_some());
}

#[test]
fn a_culprit_in_the_first_half_keeps_its_place_before_the_second() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, 0..8);
    for _ in 0..3 {
        rig.commit_ends(Fate::Aborted(cause()));
        rig.wait(10_000);
    }
    reject(&mut rig, 0, 2);
    let first = rig.commit();
    assert_eq!((spans(&first), dead(&first).len()), (vec![(0, 0, 4)], 1));
    rig.ends(first, Fate::Committed);
    assert_eq!(spans(&rig.commit()), [(0, 4, 8)]);
}

#[test]
fn a_record_that_is_blamed_and_not_in_the_batch_is_a_named_stop() {
    let mut rig = with(Retry::never().then_dead_letter());
    reject(&mut rig, 0, 77);
    let error = rig.finished.expect("it ends").expect_err("with an error");
    assert!(error.to_string().contains("in/0/77"), "{error}");
}
