//! Where a partition starts is decided once, and stored before anything is read.

use super::rig::{Rig, at, cause, p, spans};
use crate::delivery::{Fate, Progress};
use crate::engine::core::{Event, PartitionState};
use crate::sink::{Claim, CommitError, Stored};
use crate::source::{Position, Resolved, Unresolved, Wanted};

fn group() -> Rig {
    Rig::with(|config| config.progress = Progress::Group)
}

#[test]
fn the_start_policy_is_asked_once_and_its_answer_stored_before_anything_is_read() {
    let mut rig = group();
    rig.assign(&[0], 10_000);
    rig.claimed(|_| Stored::Nothing);
    assert_eq!(rig.asked[0].1, [Wanted::Start(p(0))]);
    rig.resolved(17);
    assert!(rig.started.is_empty());
    let to = &rig.moves[0].1[0];
    assert_eq!((to.expected, to.next), (None, at(17)));
    rig.moved();
    assert!(rig.started.is_empty(), "what stands there is claimed first");
    rig.claimed(|_| Stored::At(at(17)));
    rig.resolved(99);
    assert_eq!(rig.started[0].offset, at(17));
}

#[test]
fn a_start_that_somebody_else_stored_first_is_taken() {
    let mut rig = group();
    rig.assign(&[0], 10_000);
    rig.claimed(|_| Stored::Nothing);
    rig.resolved(17);
    rig.moved();
    rig.claimed(|_| Stored::At(at(4)));
    rig.resolved(99);
    assert_eq!(rig.started[0].offset, at(4));
}

#[test]
fn the_first_claim_of_a_topic_stores_the_start_of_all_its_partitions_at_once() {
    let mut rig = Rig::new();
    rig.assign(&[1], 10_000);
    rig.claimed(|_| Stored::Nothing);
    let (call, wanted) = rig.asked.pop_front().expect("asked");
    assert_eq!(wanted, [Wanted::StartOfTopic("in".into())]);
    let found = (0..3).map(|index| Resolved { partition: p(index), position: Ok(at(9)) });
    rig.step([Event::Resolved { call, result: Ok(found.collect()) }]);
    let moves: Vec<_> = rig.moves[0].1.iter().map(|to| (to.partition.index(), to.next)).collect();
    assert_eq!(moves, [(0, at(9)), (1, at(9)), (2, at(9))]);
}

#[test]
fn a_topic_of_which_one_start_is_not_known_yet_stores_none_of_them() {
    let mut rig = Rig::new();
    rig.assign(&[0, 2], 60_000);
    rig.claimed(|_| Stored::Nothing);
    // A topic that was created a moment ago: not every partition has a leader.
    for unknown in [0, 1] {
        let (call, wanted) = rig.asked.pop_front().expect("asked");
        assert_eq!(wanted, [Wanted::StartOfTopic("in".into())]);
        let found = (0..3).map(|index| Resolved {
            partition: p(index),
            position: if index == unknown {
                Err(Unresolved::Temporary(cause()))
            } else {
                Ok(at(9))
            },
        });
        rig.step([Event::Resolved { call, result: Ok(found.collect()) }]);
        assert!(rig.moves.is_empty(), "the store would take {unknown} for lost");
        rig.wait(1000);
        rig.claimed(|_| Stored::Nothing);
    }
    let (call, _) = rig.asked.pop_front().expect("asked");
    let found = (0..3).map(|index| Resolved { partition: p(index), position: Ok(at(9)) });
    rig.step([Event::Resolved { call, result: Ok(found.collect()) }]);
    assert_eq!(rig.moves[0].1.len(), 3);
}

#[test]
fn a_partition_that_comes_while_its_topic_starts_gets_its_start_with_the_others() {
    let mut rig = Rig::new();
    rig.assign(&[1], 60_000);
    rig.claimed(|_| Stored::Nothing);
    let (call, _) = rig.asked.pop_front().expect("asked");
    rig.assign(&[0], 60_000);
    let found = (0..3).map(|index| Resolved { partition: p(index), position: Ok(at(9)) });
    // Its own claim is out: the start is stored when that has its answer.
    rig.step([Event::Resolved { call, result: Ok(found.collect()) }]);
    rig.claimed(|_| Stored::Nothing);
    let moves: Vec<_> = rig.moves[0].1.iter().map(|to| (to.partition.index(), to.next)).collect();
    assert_eq!(moves, [(0, at(9)), (1, at(9)), (2, at(9))]);
}

#[test]
fn a_stored_position_is_not_mistaken_for_the_start_of_its_topic() {
    let mut rig = Rig::new();
    rig.assign(&[0, 1], 60_000);
    rig.claimed(|index| if index == 0 { Stored::At(at(18)) } else { Stored::Nothing });
    let (call, wanted) = rig.asked.pop_front().expect("asked");
    assert_eq!(wanted.len(), 2);
    // The policy says the end, which is further on by now.
    let start = |index| Resolved { partition: p(index), position: Ok(at(22)) };
    let stored = Resolved { partition: p(0), position: Ok(at(18)) };
    let found = vec![start(0), start(1), stored];
    rig.step([Event::Resolved { call, result: Ok(found) }]);
    rig.moved();
    rig.claimed(|_| Stored::At(at(22)));
    rig.resolved(0);
    let starts: Vec<_> = rig.started.iter().map(|s| (s.partition.index(), s.offset)).collect();
    assert_eq!(starts, [(0, at(18)), (1, at(22))], "18 to 22 would be left out");
}

#[test]
fn a_first_start_that_could_not_be_stored_is_claimed_again_after_a_while() {
    let mut rig = group();
    rig.assign(&[0], 60_000);
    rig.claimed(|_| Stored::Nothing);
    rig.resolved(17);
    let (call, moves) = rig.moves.pop_front().expect("out");
    rig.step([Event::Repositioned { call, moves, result: Err(CommitError::InDoubt(cause())) }]);
    assert!(rig.claims.is_empty());
    rig.wait(1000);
    rig.claimed(|_| Stored::At(at(17)));
    rig.resolved(99);
    assert_eq!(rig.started[0].offset, at(17));
}

#[test]
fn a_claim_that_finds_nothing_again_keeps_the_known_start_and_stores_it_again() {
    let mut rig = group();
    rig.assign(&[0], 60_000);
    rig.claimed(|_| Stored::Nothing);
    rig.resolved(17);
    rig.moved();
    rig.claimed(|_| Stored::Nothing);
    assert_eq!(rig.asked[0].1, [Wanted::Stored(p(0), at(17))], "the policy is not asked again");
    rig.resolved(99);
    assert!(rig.started.is_empty(), "it is not stored");
    assert_eq!(rig.moves[0].1[0].next, at(17));
    rig.moved();
    rig.wait(1000);
    rig.claimed(|_| Stored::At(at(17)));
    rig.resolved(99);
    assert_eq!(rig.started[0].offset, at(17));
}

#[test]
fn progress_that_the_store_has_forgotten_goes_on_where_it_was() {
    let mut rig = group();
    rig.assign(&[0], 60_000);
    rig.claimed(|_| Stored::Nothing);
    rig.resolved(17);
    rig.moved();
    rig.claimed(|_| Stored::At(at(17)));
    rig.resolved(99);
    rig.process(0, [17, 18]);
    rig.commit_ends(Fate::Committed);
    rig.process(0, [19]);
    rig.commit_ends(Fate::Fenced(cause()));
    rig.wait(1000);
    rig.claimed(|_| Stored::Nothing);
    assert_eq!(rig.asked[0].1, [Wanted::Stored(p(0), at(19))], "17 and 18 are stored already");
}

#[test]
fn progress_that_is_gone_from_the_store_with_the_results_stops_its_partition_by_name() {
    for gone in [|| Stored::Nothing, || Stored::Added] {
        let mut rig = Rig::start(&[0, 1]);
        rig.process(0, [0, 1]);
        rig.commit_ends(Fate::Committed);
        rig.process(0, [2]);
        rig.commit_ends(Fate::Fenced(cause()));
        rig.wait(1000);
        rig.claimed(|_| gone());
        match rig.state(0) {
            PartitionState::Stopped(why) => assert!(why.contains("progress is gone"), "{why}"),
            other => panic!("a stop by name, not {other:?}"),
        }
        assert!(rig.asked.is_empty() && rig.moves.is_empty(), "nothing is stored in its place");
        rig.process(1, [0]);
        assert_eq!(spans(&rig.commit()), [(1, 0, 1)], "the other goes on");
    }
}

#[test]
fn a_first_start_that_is_gone_before_anything_was_stored_behind_it_is_stored_again() {
    let mut rig = Rig::new();
    rig.assign(&[0], 60_000);
    rig.claimed(|_| Stored::Nothing);
    rig.resolved(17);
    rig.moved();
    rig.claimed(|_| Stored::At(at(17)));
    rig.resolved(99);
    rig.process(0, [17]);
    rig.commit_ends(Fate::Fenced(cause()));
    rig.wait(1000);
    rig.claimed(|_| Stored::Nothing);
    assert_eq!(rig.asked[0].1, [Wanted::Stored(p(0), at(17))], "nothing was left out so far");
}

#[test]
fn a_partition_that_was_added_starts_at_its_beginning() {
    let mut rig = Rig::new();
    rig.assign(&[3], 10_000);
    rig.claimed(|_| Stored::Added);
    assert_eq!(rig.asked[0].1, [Wanted::Beginning(p(3))]);
}

#[test]
fn a_partition_that_the_store_refuses_stops_by_name_while_the_others_go_on() {
    let mut rig = Rig::new();
    let id = rig.assign(&[0, 1], 10_000);
    rig.claimed(|index| match index {
        0 => Stored::Refused(cause()),
        _ => Stored::At(at(0)),
    });
    rig.resolved(0);
    assert_eq!(rig.assigned, [id]);
    assert_eq!(rig.started.len(), 1);
    assert_eq!(rig.state(0), PartitionState::Stopped("planted".into()));
    rig.process(1, [0]);
    assert_eq!(spans(&rig.commit()), [(1, 0, 1)]);
}

#[test]
fn a_stored_position_outside_the_log_stops_its_partition_by_name() {
    let mut rig = Rig::new();
    rig.assign(&[0], 10_000);
    rig.claimed(|_| Stored::At(at(3)));
    let (call, _) = rig.asked.pop_front().expect("asked");
    let (stored, low, high) = (at(3), at(10), at(20));
    let position = Err(Unresolved::OutOfRange { stored, low, high });
    let found = vec![Resolved { partition: p(0), position }];
    rig.step([Event::Resolved { call, result: Ok(found) }]);
    assert!(rig.started.is_empty());
    let PartitionState::Stopped(error) = rig.state(0) else { panic!("it stops") };
    assert!(error.contains("7 records were deleted"), "{error}");
}

#[test]
fn a_partition_that_a_claim_says_nothing_of_is_claimed_again() {
    let mut rig = Rig::new();
    rig.assign(&[0, 1], 60_000);
    rig.claims.clear();
    rig.step([Event::Claimed(Ok(vec![Claim { partition: p(0), stored: Stored::At(at(0)) }]))]);
    rig.resolved(0);
    rig.wait(5000);
    let claim = rig.claims.pop_front().expect("it is not left idle");
    assert_eq!(claim[0].partition, p(1));
}

#[test]
fn behind_what_stopped_a_partition_nothing_closes_the_hole() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    let (partition, epoch) = (p(0), rig.epoch(0));
    rig.step([Event::PartitionFailed { partition, epoch, error: "bad row".into() }]);
    rig.deliver(0, [5]);
    rig.end(0, 9);
    rig.run();
    rig.wait(50);
    assert_eq!(spans(&rig.commit()), [(0, 0, 1)], "what was delivered before is still stored");
    assert_eq!(rig.state(0), PartitionState::Stopped("bad row".into()));
}

#[test]
fn an_end_closes_the_hole_behind_the_last_record_and_nothing_else_does() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0, 7]);
    let batch = rig.commit();
    assert_eq!(spans(&batch), [(0, 0, 8)], "a record closes the hole before it");
    rig.ends(batch, Fate::Committed);
    rig.step([Event::Ends(vec![Position { partition: p(0), next: at(12) }])]);
    rig.wait(1000);
    assert!(rig.commits.is_empty(), "the log's end says nothing of what is read");
    rig.end(0, 12);
    rig.wait(50);
    assert_eq!(spans(&rig.commit()), [(0, 8, 12)]);
}
