//! Group events are answered in time, and only with what is true.

use super::rig::{Rig, at, cause, ms, p, spans};
use crate::delivery::Fate;
use crate::engine::core::{Control, Event};
use crate::sink::{Claim, Stored};

#[test]
fn a_revocation_that_was_not_waited_for_takes_nothing_of_the_next_assignment() {
    for settles_first in [true, false] {
        let mut rig = Rig::start(&[0, 1]);
        let revocation = rig.revoke(&[0, 1], 5_000);
        if !settles_first {
            rig.now += ms(6_000);
        }
        let id = rig.assign(&[1], 60_000);
        rig.step([Event::Released { revocation }]);
        rig.wait(10_000);
        assert_eq!(rig.revoked, [revocation]);
        assert_eq!(rig.core.status().partitions.len(), 1, "0 is handed back, 1 is ours again");
        rig.claimed(|_| Stored::At(at(0)));
        rig.resolved(0);
        assert_eq!(rig.assigned.last(), Some(&id));
        rig.process(1, [0]);
        assert_eq!(spans(&rig.commit()), [(1, 0, 1)]);
    }
}

#[test]
fn an_assignment_is_answered_when_every_position_is_known() {
    let mut rig = Rig::new();
    let id = rig.assign(&[0, 1], 10_000);
    assert!(rig.assigned.is_empty());
    rig.claimed(|index| Stored::At(at(i64::from(index) * 5)));
    assert!(rig.assigned.is_empty());
    rig.resolved(0);
    assert_eq!(rig.assigned, [id]);
    let starts: Vec<_> = rig.started.iter().map(|s| (s.partition.index(), s.offset)).collect();
    assert_eq!(starts, [(0, at(0)), (1, at(5))]);
}

#[test]
fn at_the_deadline_only_known_partitions_are_answered_and_the_rest_is_started_later() {
    let mut rig = Rig::new();
    let id = rig.assign(&[0, 1], 1000);
    rig.claims.clear();
    let claim = Claim { partition: p(0), stored: Stored::At(at(3)) };
    rig.step([Event::Claimed(Ok(vec![claim]))]);
    rig.resolved(0);
    assert!(rig.assigned.is_empty());
    rig.wait(1000);
    assert_eq!(rig.assigned, [id]);
    assert_eq!(rig.started.len(), 1);
    assert_eq!(rig.started[0].partition, p(0));
    rig.claimed(|_| Stored::At(at(8)));
    rig.resolved(0);
    assert_eq!(rig.started.len(), 2, "started by itself");
    assert_eq!((rig.started[1].partition.index(), rig.started[1].offset), (1, at(8)));
}

#[test]
fn what_is_known_only_after_the_partition_has_gone_is_not_started() {
    let mut rig = Rig::new();
    rig.assign(&[0], 1000);
    rig.wait(1000);
    rig.step([Event::Lost(vec![p(0)])]);
    rig.claimed(|_| Stored::At(at(8)));
    assert!(rig.started.is_empty() && rig.asked.is_empty());
}

#[test]
fn a_partition_that_is_wanted_back_already_is_not_started_with_its_assignment() {
    let mut rig = Rig::start(&[5]);
    rig.deliver(5, [0]);
    rig.assign(&[0], 10_000);
    rig.revoke(&[0, 5], 5000);
    rig.started.clear();
    rig.claimed(|_| Stored::At(at(8)));
    rig.resolved(0);
    assert!(rig.started.is_empty());
}

#[test]
fn a_revocation_waits_for_what_runs_and_for_its_commit() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0, 1]);
    let id = rig.revoke(&[0], 5000);
    assert!(rig.releases.is_empty(), "it runs");
    let job = rig.jobs.pop_front().expect("it runs");
    assert!(job.gate.is_closed(), "the second record is not started");
    rig.step([Event::Completed(vec![super::rig::one(&job, 0), super::rig::not_started(&job, 1)])]);
    assert!(rig.jobs.is_empty());
    let batch = rig.commit();
    assert_eq!(spans(&batch), [(0, 0, 1)], "what is finished is stored at once");
    assert!(rig.releases.is_empty(), "it is being stored");
    rig.ends(batch, Fate::Committed);
    assert_eq!(rig.releases.pop_front(), Some((id, vec![p(0)])));
    assert!(rig.revoked.is_empty());
    rig.step([Event::Released { revocation: id }]);
    assert_eq!(rig.revoked, [id]);
}

#[test]
fn a_revocation_waits_for_a_batch_that_is_tried_again() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    rig.commit_ends(Fate::Aborted(cause()));
    rig.revoke(&[0], 5000);
    assert!(rig.releases.is_empty());
    rig.assert_rests();
    rig.wait(1000);
    rig.commit_ends(Fate::Committed);
    assert_eq!(rig.releases.len(), 1);
}

#[test]
fn at_its_deadline_a_revocation_is_answered_and_nothing_more_of_it_is_stored() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    rig.commit_ends(Fate::Aborted(cause()));
    let wake = rig.core.wake_at().expect("it is tried again");
    let left = wake - rig.now;
    let id = rig.revoke(&[0], u64::try_from(left.as_millis()).expect("short"));
    // The retry and the deadline fall together.
    rig.wait(u64::try_from(left.as_millis()).expect("short") + 1);
    assert_eq!(rig.revoked, [id]);
    assert!(rig.commits.is_empty(), "the source hands it back now");
}

#[test]
fn nothing_is_stored_of_a_partition_that_is_being_released() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    rig.commit_ends(Fate::Committed);
    rig.control(Control::Pause(None));
    rig.deliver(0, [1]);
    rig.revoke(&[0], 5000);
    assert_eq!(rig.releases.len(), 1);
    // Both would move progress.
    rig.control(Control::Skip { partition: p(0), offset: at(1) });
    rig.end(0, 9);
    rig.wait(50);
    assert!(rig.commits.is_empty());
}

#[test]
fn a_stop_for_an_operator_does_not_make_a_revocation_wait() {
    let mut rig = Rig::start(&[0, 1]);
    rig.deliver(1, [0]);
    rig.process(0, [0]);
    let batch = rig.commit();
    rig.deliver(0, [1]);
    rig.run();
    rig.deliver(1, [1]);
    rig.revoke(&[0], 5000);
    rig.ends(batch, Fate::Aborted(cause().needs_operator()));
    assert_eq!(rig.releases.len(), 1, "what can never be stored is not waited for");
}

#[test]
fn lost_partitions_start_no_commit() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    rig.run();
    rig.step([Event::Lost(vec![p(0)])]);
    rig.wait(100);
    assert!(rig.commits.is_empty());
    rig.assert_rests();
}

#[test]
fn a_partition_that_is_assigned_twice_starts_over() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    let before = rig.epoch(0);
    rig.begin(&[0]);
    assert!(rig.epoch(0) > before);
    rig.run();
    rig.wait(100);
    assert!(rig.commits.is_empty());
}
