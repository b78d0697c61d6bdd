//! A stop drains: what runs may finish, what is finished is stored, in bounded time.

use super::rig::{Rig, at, cause, ms, p, spans};
use crate::delivery::Fate;
use crate::engine::core::Event;
use crate::error::Error;
use crate::policy::Retry;
use crate::sink::Stored;
use crate::source::SourceError;

#[test]
fn what_runs_is_finished_and_stored_and_nothing_more_is_started() {
    let mut rig = Rig::start(&[0, 1]);
    rig.deliver(0, [0]);
    rig.stop();
    rig.deliver(1, [0]);
    assert_eq!(rig.jobs.len(), 1);
    rig.wait(50);
    assert!(rig.commits.is_empty(), "what still runs is not stored");
    let job = rig.jobs.pop_front().expect("it runs");
    rig.step([Rig::done(&job)]);
    rig.wait(50);
    let batch = rig.commit();
    assert_eq!(spans(&batch), [(0, 0, 1)]);
    assert_eq!(batch.outputs().count(), 1);
    assert!(rig.finished.is_none());
    rig.ends(batch, Fate::Committed);
    rig.finished.take().expect("it ends").expect("without an error");
    let (_, released) = rig.releases.pop_front().expect("cleanly");
    assert_eq!(released, [p(0), p(1)]);
}

#[test]
fn an_idle_engine_stops_at_once() {
    let mut rig = Rig::start(&[0]);
    rig.stop();
    rig.finished.expect("it ends").expect("without an error");
}

#[test]
fn at_the_deadline_it_ends_with_what_still_runs() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0, 1]);
    rig.step([Event::Stop { why: "asked".into(), within: Some(ms(300)) }]);
    rig.assert_rests();
    assert_eq!(rig.core.wake_at(), Some(rig.now + ms(300)));
    rig.wait(300);
    let error = rig.finished.expect("it ends").expect_err("late");
    assert!(error.is_deadline(), "{error}");
    let says = error.to_string();
    assert!(says.contains("2 records still running, in/0/0 for 0.3 s"), "{says}");
}

#[test]
fn a_second_error_does_not_replace_the_first() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    let job = rig.jobs.pop_front().expect("it runs");
    rig.step([Event::SourceFailed(SourceError::Stop(Error::source_failed("first")))]);
    rig.step([Event::SourceFailed(SourceError::Stop(Error::source_failed("second")))]);
    rig.step([Rig::done(&job)]);
    rig.commit_ends(Fate::Committed);
    let error = rig.finished.expect("it ends").expect_err("with an error");
    assert!(error.to_string().contains("first"), "{error}");
}

#[test]
fn an_error_during_a_stop_that_was_asked_for_is_told() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    rig.stop();
    rig.commit_ends(Fate::Stop(Error::sink_failed("disk full")));
    let error = rig.finished.expect("it ends").expect_err("with an error");
    assert!(error.to_string().contains("disk full"), "{error}");
}

#[test]
fn a_stop_while_partitions_are_claimed_answers_their_assignment_with_nothing() {
    let mut rig = Rig::new();
    let id = rig.assign(&[0], 10_000);
    rig.stop();
    assert_eq!(rig.assigned, [id]);
    assert!(rig.started.is_empty());
    assert!(rig.finished.is_some());
}

#[test]
fn partitions_that_are_assigned_during_a_stop_are_not_claimed_and_wake_nobody() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    rig.stop();
    let id = rig.assign(&[1], 10_000);
    assert_eq!(rig.assigned.last(), Some(&id));
    rig.assert_rests();
    rig.wait(100);
    assert!(rig.claims.is_empty());
}

#[test]
fn what_becomes_known_during_a_stop_is_not_started() {
    let mut rig = Rig::start(&[5]);
    rig.deliver(5, [0]);
    rig.assign(&[0], 10_000);
    rig.stop();
    rig.started.clear();
    rig.claimed(|_| Stored::At(at(0)));
    rig.resolved(0);
    assert!(rig.started.is_empty());
}

#[test]
fn a_batch_that_is_refused_during_a_stop_is_tried_again_until_the_deadline() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    rig.stop();
    for _ in 0..3 {
        rig.commit_ends(Fate::Aborted(cause()));
        rig.assert_rests();
        rig.wait(500);
    }
    rig.wait(60_000);
    let error = rig.finished.expect("it ends").expect_err("late");
    assert!(error.to_string().contains("before the last results were stored"), "{error}");
}

#[test]
fn a_fence_during_a_stop_ends_it_and_wakes_nobody() {
    let mut rig = Rig::start(&[0, 1]);
    rig.process(0, [0]);
    rig.deliver(1, [0]);
    rig.stop();
    rig.commit_ends(Fate::Fenced(cause()));
    rig.assert_rests();
    rig.wait(5000);
    assert!(rig.claims.is_empty(), "nothing is claimed any more");
    let job = rig.jobs.pop_back().expect("it runs");
    rig.step([Rig::done(&job)]);
    assert_eq!(spans(&rig.commit()), [(1, 0, 1)], "the other partition is drained");
}

#[test]
fn a_record_that_waits_for_its_retry_is_not_waited_for() {
    let mut rig = Rig::with(|config| {
        config.policy = Retry::times(9).backoff(ms(9000), ms(9000)).then_stop();
    });
    rig.begin(&[0]);
    rig.deliver(0, [0]);
    let job = rig.jobs.pop_front().expect("it runs");
    rig.step([Rig::failed(&job)]);
    rig.stop();
    rig.finished.expect("it ends").expect("without an error");
}

#[test]
fn a_policy_of_stop_ends_with_the_record_and_progress_before_it() {
    let mut rig = Rig::with(|config| config.policy = Retry::never().then_stop());
    rig.begin(&[0]);
    rig.deliver(0, [0, 1, 2]);
    let job = rig.jobs.pop_front().expect("it runs");
    let rest = crate::engine::work::Job {
        key: job.key,
        gate: std::sync::Arc::clone(&job.gate),
        tickets: job.tickets[1..].iter().map(super::rig::copy).collect(),
    };
    rig.step([Event::Completed(vec![super::rig::one(&job, 0)])]);
    rig.step([Rig::failed(&rest)]);
    rig.wait(50);
    let batch = rig.commit();
    assert_eq!(spans(&batch), [(0, 0, 1)]);
    rig.ends(batch, Fate::Committed);
    let error = rig.finished.expect("it ends").expect_err("with an error");
    assert!(error.is_record() && error.to_string().contains("in/0/1"), "{error}");
}

#[test]
fn a_revocation_during_a_stop_is_answered_when_it_is_settled() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    rig.stop();
    let id = rig.revoke(&[0], 5000);
    let job = rig.jobs.pop_front().expect("it runs");
    rig.step([Rig::done(&job)]);
    rig.commit_ends(Fate::Committed);
    rig.step([Event::Released { revocation: id }]);
    assert_eq!(rig.revoked, [id]);
    assert!(rig.finished.is_some());
}

#[test]
fn group_events_after_the_end_are_answered_at_once() {
    let mut rig = Rig::start(&[0]);
    rig.stop();
    let assigned = rig.assign(&[1], 10_000);
    let revoked = rig.revoke(&[0], 10_000);
    assert_eq!((rig.assigned.last(), rig.revoked.last()), (Some(&assigned), Some(&revoked)));
}
