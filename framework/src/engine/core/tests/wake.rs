//! The core asks to be woken only when there is something to do then.

use super::rig::{Rig, at, cause, ms, p};
use crate::delivery::Fate;
use crate::engine::core::{Control, Event, SeekTo};
use crate::sink::{SinkError, Stored};

#[test]
fn an_idle_engine_wants_never_to_be_woken() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    rig.commit_ends(Fate::Committed);
    assert_eq!(rig.core.wake_at(), None);
}

#[test]
fn a_claim_that_is_due_while_the_sink_is_busy_wakes_nobody() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    rig.assign(&[1], 10_000);
    rig.assert_rests();
}

#[test]
fn a_claim_that_is_due_while_its_partition_is_wanted_back_wakes_nobody() {
    let mut rig = Rig::start(&[0, 1]);
    rig.process(0, [0]);
    rig.deliver(1, [0]);
    rig.commit_ends(Fate::Fenced(cause()));
    rig.revoke(&[0, 1], 5000);
    rig.wait(1000);
    rig.assert_rests();
}

#[test]
fn a_claim_that_is_due_while_the_engine_stops_wakes_nobody() {
    let mut rig = Rig::start(&[0, 1]);
    rig.process(0, [0]);
    rig.deliver(1, [0]);
    rig.commit_ends(Fate::Fenced(cause()));
    rig.stop();
    rig.wait(1000);
    rig.assert_rests();
}

#[test]
fn a_proof_that_is_due_while_the_engine_stops_wakes_nobody() {
    let mut rig = Rig::with(|config| config.prove_membership = true);
    rig.begin(&[0, 1]);
    rig.process(0, [0]);
    rig.deliver(1, [0]);
    rig.commit_ends(Fate::Fenced(cause()));
    rig.stop();
    rig.wait(1000);
    rig.assert_rests();
}

#[test]
fn a_commit_that_is_due_while_the_sink_is_busy_wakes_nobody() {
    let mut rig = Rig::start(&[0]);
    rig.assign(&[1], 10_000);
    rig.deliver(0, [0]);
    rig.run();
    rig.wait(1000);
    rig.assert_rests();
}

#[test]
fn work_that_is_finished_while_a_partition_is_sought_wakes_nobody() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    rig.control(Control::Seek { partition: p(0), to: SeekTo::Beginning });
    rig.run();
    rig.wait(1000);
    rig.assert_rests();
}

#[test]
fn a_doubt_whose_claim_failed_is_woken_for_after_a_wait() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    rig.commit_ends(Fate::InDoubt(cause()));
    rig.claims.clear();
    rig.step([Event::Claimed(Err(SinkError::Retry(cause())))]);
    let wake = rig.core.wake_at().expect("the claim is repeated");
    assert!(wake > rig.now + ms(10), "{wake:?}");
}

#[test]
fn finished_work_is_cut_after_the_interval_at_the_latest() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0, 1]);
    let job = rig.jobs.pop_front().expect("it runs");
    rig.step([Event::Completed(vec![super::rig::one(&job, 0)])]);
    let wake = rig.core.wake_at().expect("something is finished");
    assert!(wake > rig.now && wake <= rig.now + ms(10));
    rig.now = wake;
    rig.step([]);
    assert_eq!(rig.commits.len(), 1);
}

#[test]
fn the_next_commit_of_an_idle_engine_comes_a_moment_after_the_end_of_the_one_before() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    rig.process(0, [1]);
    assert_eq!(rig.commits.len(), 1, "the first is still out");
    rig.commit_ends(Fate::Committed);
    assert_eq!(rig.commits.len(), 0, "at once it would be told to come back");
    assert_eq!(rig.core.wake_at(), Some(rig.now + ms(5)));
    rig.wait(5);
    assert_eq!(rig.commits.len(), 1);
}

#[test]
fn a_hand_over_in_the_same_step_leaves_no_wake_up_behind() {
    let mut rig = Rig::start(&[0]);
    rig.assign(&[1], 10_000);
    rig.deliver(0, [0]);
    rig.run();
    rig.revoke(&[0], 0);
    rig.assert_rests();
    rig.claimed(|_| Stored::At(at(0)));
    rig.assert_rests();
}
