//! Somebody else was there: the work goes, the partition does not stay idle.

use super::rig::{Rig, at, cause, p, spans};
use crate::delivery::Fate;
use crate::engine::core::Event;
use crate::sink::Stored;
use crate::source::SourceError;

#[test]
fn a_fenced_partition_is_claimed_again_and_read_on() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    rig.commit_ends(Fate::Fenced(cause()));
    assert!(rig.claims.is_empty(), "with a wait: the other one may still be there");
    rig.wait(1000);
    rig.started.clear();
    rig.claimed(|_| Stored::At(at(40)));
    rig.resolved(0);
    assert_eq!(rig.started[0].offset, at(40));
    assert_eq!(rig.started[0].epoch, rig.epoch(0));
    rig.process(0, [40]);
    assert_eq!(spans(&rig.commit()), [(0, 40, 41)]);
}

#[test]
fn what_was_kept_behind_a_fenced_batch_goes_with_it() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, 0..8);
    for _ in 0..3 {
        rig.commit_ends(Fate::Aborted(cause()));
        rig.wait(10_000);
    }
    let half = rig.commit();
    assert_eq!(spans(&half), [(0, 0, 4)]);
    rig.ends(half, Fate::Fenced(cause()));
    rig.wait(10_000);
    assert!(rig.commits.is_empty(), "the second half would jump over the first");
}

#[test]
fn a_proof_is_made_under_the_epoch_that_the_source_knows() {
    let mut rig = Rig::with(|config| config.prove_membership = true);
    rig.begin(&[0]);
    let known = rig.epoch(0);
    rig.process(0, [0]);
    rig.commit_ends(Fate::Fenced(cause()));
    rig.wait(1000);
    assert!(rig.epoch(0) > known);
    assert_eq!(rig.proofs[0][0].epoch, known, "the new one is told when it is read again");
}

#[test]
fn a_claim_after_a_fence_waits_for_the_proof_of_membership() {
    let mut rig = Rig::with(|config| config.prove_membership = true);
    rig.begin(&[0]);
    rig.process(0, [0]);
    rig.commit_ends(Fate::Fenced(cause()));
    rig.wait(1000);
    assert_eq!(rig.proofs.len(), 1);
    assert!(rig.claims.is_empty());
    rig.step([Event::Proved(Err(SourceError::Fenced(cause())))]);
    rig.wait(100);
    assert!(rig.claims.is_empty(), "it is not a member: claiming would fence the rightful owner");
    rig.wait(5000);
    assert_eq!(rig.proofs.len(), 2);
    rig.step([Event::Proved(Ok(()))]);
    assert_eq!(rig.claims.len(), 1);
}

#[test]
fn a_partition_that_is_lost_while_its_membership_is_proved_is_not_claimed() {
    let mut rig = Rig::with(|config| config.prove_membership = true);
    rig.begin(&[0]);
    rig.process(0, [0]);
    rig.commit_ends(Fate::Fenced(cause()));
    rig.wait(1000);
    rig.step([Event::Lost(vec![p(0)]), Event::Proved(Ok(()))]);
    rig.wait(5000);
    assert!(rig.claims.is_empty());
}

/// Fences a partition so often, each time starting it again.
fn fence(rig: &mut Rig, times: usize) {
    for _ in 0..times {
        rig.process(0, [0]);
        rig.commit_ends(Fate::Fenced(cause()));
        rig.wait(1000);
        if rig.finished.is_none() {
            rig.claimed(|_| Stored::At(at(0)));
            rig.resolved(0);
        }
    }
}

#[test]
fn more_than_five_fences_a_minute_are_a_named_stop() {
    let mut rig = Rig::start(&[0]);
    fence(&mut rig, 5);
    assert!(rig.finished.is_none());
    fence(&mut rig, 1);
    let error = rig.finished.expect("it ends").expect_err("with an error");
    assert!(error.is_fenced(), "{error}");
    assert!(error.to_string().contains("another process"), "{error}");
}

#[test]
fn five_fences_a_minute_are_borne_for_ever() {
    let mut rig = Rig::start(&[0]);
    for _ in 0..4 {
        fence(&mut rig, 5);
        rig.wait(60_000);
    }
    assert!(rig.finished.is_none());
}

#[test]
fn the_last_fence_before_the_stop_leaves_no_work_that_jumps_over_its_batch() {
    let mut rig = Rig::start(&[0, 1]);
    fence(&mut rig, 5);
    rig.process(0, [0]);
    let batch = rig.commit();
    rig.deliver(0, [1, 2]);
    rig.run();
    rig.ends(batch, Fate::Fenced(cause()));
    rig.wait(50);
    assert!(rig.commits.is_empty(), "1 and 2 would be stored, and 0 never");
}

#[test]
fn a_fence_of_what_was_taken_away_already_is_not_counted() {
    let mut rig = Rig::start(&[0]);
    for _ in 0..9 {
        rig.process(0, [0]);
        let batch = rig.commit();
        rig.step([Event::Lost(vec![p(0)])]);
        rig.ends(batch, Fate::Fenced(cause()));
        rig.begin(&[0]);
    }
    assert!(rig.finished.is_none(), "a rebalance is no twin");
}

#[test]
fn a_partition_that_stopped_by_name_is_read_again_after_a_fence() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    let (partition, epoch) = (p(0), rig.epoch(0));
    rig.step([Event::PartitionFailed { partition, epoch, error: "bad row".into() }]);
    rig.run();
    rig.wait(20);
    rig.commit_ends(Fate::Fenced(cause()));
    rig.wait(1000);
    rig.credits.clear();
    rig.claimed(|_| Stored::At(at(0)));
    rig.resolved(0);
    assert!(rig.credit_of(0) > 0, "what was delivered before the bad row is still to be done");
}

#[test]
fn a_refusal_for_membership_keeps_the_batch_until_the_group_has_changed() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    rig.commit_ends(Fate::Aborted(cause()));
    assert!(rig.commits.is_empty());
    rig.step([Event::GroupChanged]);
    assert_eq!(spans(&rig.commit()), [(0, 0, 1)], "tried again at once");
}
