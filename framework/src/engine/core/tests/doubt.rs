//! A commit may or may not be stored: a claim tells, and until then nothing more is stored.

use super::rig::{Rig, at, cause, p, spans};
use crate::delivery::Fate;
use crate::engine::core::Event;
use crate::engine::observe::EngineEvent;
use crate::error::Error;
use crate::sink::{Claim, SinkError, Stored};

/// Two partitions, a commit of 0..2 and 0..3 in doubt.
fn in_doubt() -> Rig {
    let mut rig = Rig::start(&[0, 1]);
    rig.deliver(0, [0, 1]);
    rig.process(1, [0, 1, 2]);
    rig.commit_ends(Fate::InDoubt(cause()));
    rig
}

fn committed(rig: &Rig, index: usize) -> i64 {
    rig.core.status().partitions[index].committed.get()
}

#[test]
fn what_is_found_behind_the_batch_was_committed() {
    let mut rig = in_doubt();
    rig.claimed(|index| Stored::At(at(2 + i64::from(index))));
    assert_eq!((committed(&rig, 0), committed(&rig, 1)), (2, 3));
    assert_eq!(rig.core.totals().committed_records, 5);
    rig.wait(1000);
    assert!(rig.commits.is_empty(), "it is not stored twice");
}

#[test]
fn what_is_found_before_the_batch_is_committed_once_more() {
    let mut rig = in_doubt();
    rig.claimed(|_| Stored::At(at(0)));
    let again = rig.commit();
    assert_eq!(spans(&again), [(0, 0, 2), (1, 0, 3)]);
    rig.ends(again, Fate::Committed);
    rig.wait(1000);
    assert!(rig.commits.is_empty());
    assert_eq!(rig.core.totals().committed_records, 5);
}

#[test]
fn what_is_found_anywhere_else_was_taken_over() {
    let mut rig = in_doubt();
    let before = rig.epoch(0);
    rig.claimed(|_| Stored::At(at(70)));
    assert!(rig.epoch(0) > before);
    let is_resolved = |event: &EngineEvent| matches!(event, EngineEvent::DoubtResolved { .. });
    assert!(!rig.told.iter().any(is_resolved), "whether it was stored is not known");
    rig.wait(1000);
    assert!(rig.commits.is_empty());
    rig.claimed(|_| Stored::At(at(70)));
    rig.resolved(0);
    rig.process(0, [70]);
    assert_eq!(spans(&rig.commit()), [(0, 70, 71)]);
}

#[test]
fn one_partition_decides_for_all() {
    let mut rig = in_doubt();
    rig.claimed(|index| Stored::At(at(if index == 0 { 55 } else { 3 })));
    assert_eq!(committed(&rig, 1), 3, "the other one tells that the batch was stored");
    assert!(rig.commits.is_empty());
}

#[test]
fn a_contradiction_is_a_named_stop_and_nothing_more_is_stored() {
    let mut rig = in_doubt();
    rig.deliver(1, [3]);
    rig.run();
    rig.claimed(|index| Stored::At(at(if index == 0 { 2 } else { 0 })));
    let error = rig.finished.expect("it ends").expect_err("with an error");
    assert!(error.is_sink() && error.to_string().contains("not for another"), "{error}");
    assert!(rig.commits.is_empty());
}

#[test]
fn nothing_else_is_committed_meanwhile() {
    let mut rig = Rig::start(&[0, 1]);
    rig.process(0, [0]);
    let batch = rig.commit();
    rig.process(1, [0]);
    rig.ends(batch, Fate::InDoubt(cause()));
    rig.wait(5000);
    assert!(rig.commits.is_empty());
    rig.claimed(|_| Stored::At(at(1)));
    assert_eq!(spans(&rig.commit()), [(1, 0, 1)]);
}

#[test]
fn the_claim_asks_only_for_the_partitions_of_the_batch_and_those_that_are_due() {
    let mut rig = Rig::start(&[0, 1]);
    rig.process(0, [0]);
    let batch = rig.commit();
    rig.assign(&[2], 10_000);
    rig.ends(batch, Fate::InDoubt(cause()));
    let claim = rig.claims.front().expect("a claim is out");
    assert_eq!(claim.iter().map(|c| c.partition.index()).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn a_claim_that_fails_leaves_the_doubt_and_is_repeated() {
    let mut rig = in_doubt();
    rig.claims.clear();
    rig.step([Event::Claimed(Err(SinkError::Retry(cause())))]);
    assert!(rig.claims.is_empty() && rig.commits.is_empty());
    rig.assert_rests();
    rig.wait(5000);
    rig.claimed(|_| Stored::At(at(0)));
    assert_eq!(spans(&rig.commit()), [(0, 0, 2), (1, 0, 3)]);
}

#[test]
fn a_claim_that_says_nothing_of_the_batch_leaves_the_doubt() {
    let mut rig = in_doubt();
    rig.claims.clear();
    rig.step([Event::Claimed(Ok(Vec::<Claim>::new()))]);
    assert!(rig.commits.is_empty());
    rig.wait(5000);
    rig.claimed(|_| Stored::At(at(0)));
    assert_eq!(spans(&rig.commit()), [(0, 0, 2), (1, 0, 3)]);
}

#[test]
fn a_claim_that_is_refused_for_good_ends_it_and_nothing_more_is_stored() {
    let mut rig = in_doubt();
    rig.deliver(1, [3]);
    rig.run();
    rig.claims.clear();
    let error = Error::sink_failed("gone for good");
    rig.step([Event::Claimed(Err(SinkError::Stop(error)))]);
    rig.wait(10);
    let error = rig.finished.expect("it ends").expect_err("with an error");
    assert!(error.to_string().contains("gone for good"));
    assert!(rig.commits.is_empty() && rig.claims.is_empty());
}

#[test]
fn a_doubt_is_settled_before_the_engine_stops() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    let batch = rig.commit();
    rig.stop();
    rig.ends(batch, Fate::InDoubt(cause()));
    rig.assert_rests();
    rig.claimed(|_| Stored::At(at(0)));
    rig.commit_ends(Fate::Committed);
    rig.finished.expect("it ends at once").expect("without an error");
}

#[test]
fn a_doubt_that_arises_before_the_stop_is_settled_too() {
    let mut rig = in_doubt();
    rig.stop();
    rig.claims.clear();
    rig.step([Event::Claimed(Err(SinkError::Retry(cause())))]);
    rig.assert_rests();
    rig.wait(1000);
    rig.claimed(|index| Stored::At(at(2 + i64::from(index))));
    rig.finished.expect("it ends").expect("without an error");
}

#[test]
fn the_doubt_about_partitions_that_are_gone_is_left_to_their_owners() {
    let mut rig = Rig::start(&[0, 1]);
    rig.process(0, [0]);
    let batch = rig.commit();
    rig.step([Event::Lost(vec![p(0)])]);
    rig.ends(batch, Fate::InDoubt(cause()));
    rig.process(1, [0]);
    assert!(rig.claims.is_empty());
    assert_eq!(spans(&rig.commit()), [(1, 0, 1)]);
}

#[test]
fn a_partition_that_was_lost_and_regained_says_nothing_of_the_doubt() {
    let mut rig = in_doubt();
    rig.claims.clear();
    rig.step([Event::Lost(vec![p(0)])]);
    rig.assign(&[0], 10_000);
    let claims = [(0, 2), (1, 0)]
        .map(|(index, next)| Claim { partition: p(index), stored: Stored::At(at(next)) });
    rig.step([Event::Claimed(Ok(claims.into()))]);
    assert!(rig.finished.is_none(), "that would be a contradiction");
    // The regained partition is claimed first, then the rest of the batch is tried again.
    rig.claimed(|_| Stored::At(at(2)));
    assert_eq!(spans(&rig.commit()), [(1, 0, 3)]);
}

#[test]
fn a_batch_kept_behind_the_doubtful_one_follows_it() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, 0..8);
    for _ in 0..3 {
        rig.commit_ends(Fate::Aborted(cause()));
        rig.wait(10_000);
    }
    rig.commit_ends(Fate::InDoubt(cause()));
    rig.claimed(|_| Stored::At(at(4)));
    assert_eq!(spans(&rig.commit()), [(0, 4, 8)]);
}
