//! A seek settles what is out, opens a new epoch, and is stored before anything is read.

use super::rig::{Rig, at, cause, p, spans};
use crate::delivery::Fate;
use crate::engine::core::{Control, Event, PartitionState, SeekTo};
use crate::sink::{CommitError, Stored};
use crate::source::{Resolved, Unresolved};

fn to(offset: i64) -> Control {
    Control::Seek { partition: p(0), to: SeekTo::Offset(at(offset)) }
}

fn refuse_move(rig: &mut Rig, error: CommitError) {
    let (call, moves) = rig.moves.pop_front().expect("out");
    rig.step([Event::Repositioned { call, moves, result: Err(error) }]);
}

#[test]
fn a_seek_waits_for_the_commit_in_flight_and_is_stored_before_it_is_read() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0, 1]);
    let batch = rig.commit();
    rig.deliver(0, [2]);
    rig.control(to(40));
    assert!(rig.asked.is_empty(), "a commit is out");
    rig.ends(batch, Fate::Committed);
    let before = rig.epoch(0);
    rig.resolved(0);
    let stored = &rig.moves[0].1[0];
    assert_eq!((stored.expected, stored.next), (Some(at(2)), at(40)));
    rig.started.clear();
    rig.moved();
    assert!(rig.epoch(0) > before);
    assert_eq!((rig.started[0].offset, rig.started[0].epoch), (at(40), rig.epoch(0)));
    rig.reply().expect("it is done");
    rig.run();
    rig.wait(50);
    assert!(rig.commits.is_empty(), "2 was read before the seek");
    rig.process(0, [40]);
    assert_eq!(spans(&rig.commit()), [(0, 40, 41)]);
}

#[test]
fn nothing_is_started_and_nothing_cut_of_a_partition_that_is_being_sought() {
    let mut rig = Rig::start(&[0, 1]);
    rig.deliver(0, [0]);
    rig.run();
    rig.control(to(40));
    rig.deliver(0, [1]);
    rig.process(1, [0]);
    assert!(rig.running().is_empty());
    assert_eq!(spans(&rig.commit()), [(1, 0, 1)], "the others go on");
}

#[test]
fn a_seek_that_fails_leaves_the_partition_where_it_was() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    rig.control(to(40));
    rig.resolved(0);
    refuse_move(&mut rig, CommitError::Aborted(cause()));
    rig.reply().expect_err("it is refused");
    rig.run();
    rig.wait(50);
    assert_eq!(spans(&rig.commit()), [(0, 0, 1)]);
}

#[test]
fn a_seek_outside_the_log_is_refused_with_its_bounds() {
    let mut rig = Rig::start(&[0]);
    rig.control(to(40));
    let (call, _) = rig.asked.pop_front().expect("asked");
    let (stored, low, high) = (at(40), at(0), at(9));
    let position = Err(Unresolved::OutOfRange { stored, low, high });
    let found = vec![Resolved { partition: p(0), position }];
    rig.step([Event::Resolved { call, result: Ok(found) }]);
    let error = rig.reply().expect_err("it is refused");
    assert!(error.to_string().contains("40 is outside the log 0..9"), "{error}");
    rig.process(0, [0]);
    assert_eq!(rig.commits.len(), 1);
}

#[test]
fn after_a_seek_in_doubt_the_claim_tells_where_to_read() {
    let mut rig = Rig::start(&[0]);
    rig.control(to(40));
    rig.resolved(0);
    refuse_move(&mut rig, CommitError::InDoubt(cause()));
    rig.reply().expect_err("it is not known");
    rig.started.clear();
    rig.claimed(|_| Stored::At(at(40)));
    rig.resolved(0);
    assert_eq!(rig.started[0].offset, at(40));
}

#[test]
fn a_seek_of_a_partition_that_stopped_by_name_starts_it_again() {
    let mut rig = Rig::start(&[0]);
    let (partition, epoch) = (p(0), rig.epoch(0));
    rig.step([Event::PartitionFailed { partition, epoch, error: "bad row".into() }]);
    rig.credits.clear();
    rig.control(to(5));
    rig.resolved(0);
    rig.moved();
    rig.reply().expect("it is done");
    assert_eq!(rig.state(0), PartitionState::Running);
    assert!(rig.credit_of(0) > 0);
}

#[test]
fn a_revocation_ends_a_seek_that_is_not_stored_yet() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    rig.run();
    rig.control(to(40));
    rig.revoke(&[0], 5000);
    rig.reply().expect_err("it is handed back");
    let batch = rig.commit();
    assert_eq!(spans(&batch), [(0, 0, 1)], "what is finished is stored");
    rig.ends(batch, Fate::Committed);
    assert_eq!(rig.releases.len(), 1);
    rig.resolved(0);
    assert!(rig.moves.is_empty());
}

#[test]
fn a_revocation_waits_for_a_seek_that_is_being_stored_and_reads_nothing_more() {
    let mut rig = Rig::start(&[0]);
    rig.control(to(40));
    rig.resolved(0);
    rig.revoke(&[0], 5000);
    assert!(rig.releases.is_empty());
    rig.started.clear();
    rig.moved();
    rig.reply().expect("it is stored");
    assert_eq!(rig.releases.len(), 1);
    rig.wait(50);
    assert!(rig.started.is_empty());
}

#[test]
fn a_seek_that_ends_does_not_start_what_is_being_handed_back() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0, 1]);
    rig.control(to(40));
    rig.resolved(0);
    rig.revoke(&[0], 5000);
    refuse_move(&mut rig, CommitError::Aborted(cause()));
    let started = rig.jobs.len();
    rig.wait(50);
    assert_eq!(rig.jobs.len(), started);
    assert_eq!(rig.state(0), PartitionState::Settling);
}

#[test]
fn a_seek_that_ends_does_not_start_anything_while_the_engine_stops() {
    let mut rig = Rig::start(&[0, 1]);
    rig.deliver(1, [0]);
    rig.deliver(0, [0]);
    rig.control(to(40));
    rig.resolved(0);
    rig.stop();
    rig.moved();
    rig.started.clear();
    rig.wait(50);
    assert!(rig.started.is_empty());
    rig.reply().expect("it is stored");
}

#[test]
fn a_seek_ends_with_the_assignment_it_was_asked_for() {
    let mut rig = Rig::start(&[0]);
    rig.control(to(40));
    rig.step([Event::Lost(vec![p(0)])]);
    rig.assign(&[0], 10_000);
    rig.reply().expect_err("it is another assignment now");
    rig.resolved(0);
    assert!(rig.moves.is_empty(), "nothing is stored for it");
    rig.claimed(|_| Stored::At(at(3)));
    rig.resolved(0);
    assert_eq!(rig.started.last().expect("started").offset, at(3));
}

#[test]
fn a_seek_that_was_being_stored_when_its_partition_was_regained_does_not_start_it() {
    let mut rig = Rig::start(&[0]);
    rig.control(to(40));
    rig.resolved(0);
    rig.step([Event::Lost(vec![p(0)])]);
    rig.started.clear();
    rig.assign(&[0], 10_000);
    assert!(rig.claims.is_empty(), "the sink is busy");
    rig.moved();
    assert!(rig.started.is_empty(), "it is not claimed");
    rig.claimed(|_| Stored::At(at(40)));
    rig.resolved(0);
    assert_eq!(rig.started[0].offset, at(40));
}

#[test]
fn a_seek_ends_when_its_partition_is_fenced() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    rig.control(to(40));
    rig.commit_ends(Fate::Fenced(cause()));
    rig.reply().expect_err("somebody else has it");
    rig.wait(1000);
    assert_eq!(rig.claims.len(), 1, "it is not left idle");
}

#[test]
fn a_seek_where_nothing_is_stored_is_believed_only_when_the_claim_finds_it() {
    for (found, done) in [(5, true), (9, false)] {
        let mut rig = Rig::new();
        rig.assign(&[0], 60_000);
        rig.claimed(|_| Stored::Refused(cause()));
        rig.control(to(5));
        rig.resolved(0);
        assert_eq!(rig.moves[0].1[0].expected, None);
        rig.moved();
        assert!(rig.replies.is_empty() && rig.started.is_empty());
        rig.claimed(|_| Stored::At(at(found)));
        rig.resolved(0);
        assert_eq!(rig.reply().is_ok(), done);
        assert_eq!(rig.started[0].offset, at(found));
    }
}

#[test]
fn a_second_seek_of_a_partition_and_one_of_a_foreign_partition_are_refused() {
    let mut rig = Rig::start(&[0]);
    rig.control(to(40));
    rig.control(to(50));
    rig.reply().expect_err("one at a time");
    rig.control(Control::Seek { partition: p(7), to: SeekTo::End });
    rig.reply().expect_err("not here");
}

#[test]
fn every_seek_is_answered_when_the_engine_ends() {
    let mut rig = Rig::start(&[0]);
    rig.control(to(40));
    rig.resolved(0);
    rig.stop();
    assert!(rig.finished.is_none(), "its fate is waited for");
    rig.wait(60_000);
    assert!(rig.finished.is_some());
    rig.reply().expect_err("nobody knows");
    rig.control(to(50));
    rig.reply().expect_err("it has ended");
}
