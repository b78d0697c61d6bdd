//! Two members of one group: hand-over, positions across it, deadlines, namesakes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tidegate::record::PartitionId;
use tidegate::sink::{CommitError, TransactionalSink};
use tidegate::source::{Source, SourceError, SourceEvent};
use tidegate_kafka::{GroupProtocol, KafkaSource};

use crate::support::*;

fn source(topic: &str, protocol: GroupProtocol) -> KafkaSource {
    kafka().source(topic).group_protocol(protocol)
}

/// Every partition handed from one member to the other, and what goes on meanwhile.
async fn hand_over(protocol: GroupProtocol) {
    let topic = topic("hand-over", 4).await;
    for partition in 0..4 {
        fill(&topic, partition, 10);
    }
    let group = unique("g");
    let mut first = Member::join(source(&topic, protocol), &group).await;
    let assignment = first.assigned().await;
    assert_eq!(assignment.partitions.len(), 4);
    first.answer(assignment, |_| 0);
    first.credit_all();
    // Read to the end everywhere: librdkafka believes to be one further now.
    let mut ends = BTreeMap::new();
    let mut read = 0;
    while ends.len() < 4 || read < 40 {
        match first.event().await {
            SourceEvent::Records(chunk) => read += first.checked(chunk).len(),
            SourceEvent::End { partition, next, .. } => {
                ends.insert(partition, next.get());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(ends.values().all(|next| *next == 10));

    let mut second = Member::join(source(&topic, protocol), &group).await;
    let revocation = first.revoked().await;
    let moved: BTreeSet<PartitionId> = revocation.partitions.iter().cloned().collect();
    assert_eq!(moved.len(), 2, "half of them move");
    assert!(
        second.is_quiet_for(Duration::from_secs(2)).await,
        "nobody gets them before they are settled"
    );
    revocation.answer();
    for partition in &moved {
        first.epochs.remove(partition);
    }
    let assignment = loop {
        let assignment = second.assigned().await;
        if !assignment.partitions.is_empty() {
            break assignment;
        }
        assignment.answer(Vec::new());
    };
    let given: BTreeSet<PartitionId> =
        assignment.partitions.iter().map(|assigned| assigned.partition.clone()).collect();
    assert_eq!(given, moved);
    second.answer(assignment, |_| 4);
    second.credit_all();

    // One more record everywhere: the kept partitions go on behind their end with exactly that
    // one, the moved ones start where they were told.
    for partition in 0..4 {
        fill(&topic, partition, 1);
    }
    let mut kept = BTreeMap::new();
    while kept.len() < 2 {
        match first.event().await {
            SourceEvent::Records(chunk) => {
                for record in first.checked(chunk) {
                    let twice = kept.insert(record.partition.clone(), record.offset.get());
                    assert_eq!(twice, None, "each record once");
                }
            }
            SourceEvent::End { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(kept.iter().all(|(partition, offset)| !moved.contains(partition) && *offset == 10));
    let mut offsets: BTreeMap<PartitionId, Vec<i64>> = BTreeMap::new();
    for record in second.read(14).await {
        offsets.entry(record.partition.clone()).or_default().push(record.offset.get());
    }
    assert_eq!(offsets.keys().cloned().collect::<BTreeSet<_>>(), moved);
    assert!(offsets.values().all(|offsets| *offsets == (4..11).collect::<Vec<_>>()));

    // The second leaves: the first gets everything back.
    second.close().await;
    let assignment = loop {
        match first.event().await {
            SourceEvent::Assigned(assignment) => break assignment,
            SourceEvent::End { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(assignment.partitions.len(), 2);
    first.answer(assignment, |_| 10);
    first.credit_all();
    let records = first.read(2).await;
    assert!(records.iter().all(|record| moved.contains(&record.partition)));
    first.close().await;
}

#[tokio::test]
async fn partitions_are_handed_over_and_the_others_go_on_classic() {
    hand_over(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn partitions_are_handed_over_and_the_others_go_on_consumer() {
    hand_over(GroupProtocol::Consumer).await;
}

/// Partitions nobody started yet can be revoked, and those that stay can be started after.
async fn unstarted_partitions_move(protocol: GroupProtocol) {
    let topic = topic("unstarted", 2).await;
    fill(&topic, 0, 3);
    fill(&topic, 1, 3);
    let group = unique("g");
    let mut first = Member::join(source(&topic, protocol), &group).await;
    first.assigned().await.answer(Vec::new());
    let mut second = Member::join(source(&topic, protocol), &group).await;
    let revocation = first.revoked().await;
    let moved = revocation.partitions.clone();
    assert_eq!(moved.len(), 1);
    revocation.answer();
    let assignment = second.assigned().await;
    assert_eq!(assignment.partitions[0].partition, moved[0]);
    second.answer(assignment, |_| 0);
    second.credit_all();
    assert_eq!(second.read(3).await.len(), 3);
    let kept = PartitionId::new(topic.as_str(), 1 - moved[0].index());
    let start = first.start(&kept, 1);
    first.source.reposition(vec![start]);
    first.credit_all();
    assert_eq!(first.read(2).await.len(), 2);
    second.close().await;
    first.close().await;
}

#[tokio::test]
async fn partitions_nobody_started_can_move_classic() {
    unstarted_partitions_move(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn partitions_nobody_started_can_move_consumer() {
    unstarted_partitions_move(GroupProtocol::Consumer).await;
}

#[tokio::test]
async fn a_revocation_that_is_not_settled_ends_at_its_deadline() {
    let topic = topic("deadline", 2).await;
    let group = unique("g");
    let mut context = source_context(&group);
    context.drain_max = Duration::from_secs(1);
    let mut first = Member::join_with(source(&topic, GroupProtocol::Classic), &context).await;
    let assignment = first.assigned().await;
    first.answer(assignment, |_| 0);
    let mut second = Member::join(source(&topic, GroupProtocol::Classic), &group).await;
    let revocation = first.revoked().await;
    let assignment = second.assigned().await;
    assert_eq!(assignment.partitions[0].partition, revocation.partitions[0]);
    second.answer(assignment, |_| 0);
    // Too late: nothing happens.
    revocation.answer();
    second.close().await;
    first.close().await;
}

/// While a revocation is being settled its partitions can still be committed; after it not.
async fn commits_around_a_revocation(protocol: GroupProtocol) {
    let (input, output) = (topic("in", 2).await, topic("out", 1).await);
    fill(&input, 0, 6);
    fill(&input, 1, 6);
    let group = unique("g");
    let first = source(&input, protocol);
    let sink = first.sink();
    let mut copier = Copier::start_with(first, sink, &group, &output).await;
    let records = copier.member.read(12).await;
    let of = |index: i32| -> Vec<_> {
        records.iter().filter(|r| r.partition.index() == index).cloned().collect()
    };
    let mut second = Member::join(source(&input, protocol), &group).await;
    let revocation = copier.member.revoked().await;
    assert_eq!(revocation.partitions.len(), 1);
    let moved = revocation.partitions[0].index();
    let (moving, staying) = (of(moved), of(1 - moved));
    // Under way: the commit may meet the rebalance itself, then it is repeated from memory.
    let batch = copier.batch(&moving[..3], 0);
    commit_soon(&mut copier, &batch).await;
    assert_eq!(stored(&group, &input, moved), Some(3));
    revocation.answer();
    let assignment = second.assigned().await;
    // Settled: a result from before the revoke is refused, though the member is well.
    let late = copier.batch(&moving[3..], 3);
    match copier.sink.commit(&late).await.unwrap_err() {
        CommitError::Aborted(cause) => {
            assert!(cause.to_string().contains("not assigned"), "{cause}")
        }
        other => panic!("{other}"),
    }
    let staying = copier.batch(&staying, 0);
    commit_soon(&mut copier, &staying).await;
    assert_eq!(stored(&group, &input, 1 - moved), Some(6));
    assert_eq!(stored(&group, &input, moved), Some(3));
    second.answer(assignment, |_| 3);
    second.credit_all();
    assert_eq!(second.read(3).await.len(), 3);
    assert_eq!(read_all(&output).len(), 9);
    second.close().await;
    copier.member.close().await;
}

/// Commits; an abort for membership is repeated, as the engine does.
async fn commit_soon(copier: &mut Copier, batch: &tidegate::batch::Batch<tidegate_kafka::Message>) {
    let begun = std::time::Instant::now();
    loop {
        match copier.sink.commit(batch).await {
            Ok(()) => return,
            Err(CommitError::Aborted(cause)) if begun.elapsed() < PATIENCE => {
                println!("repeated: {cause}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn commits_are_possible_until_a_revocation_is_settled_and_not_after_classic() {
    commits_around_a_revocation(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn commits_are_possible_until_a_revocation_is_settled_and_not_after_consumer() {
    commits_around_a_revocation(GroupProtocol::Consumer).await;
}

#[tokio::test]
async fn a_member_that_is_given_no_credit_keeps_its_membership() {
    let topic = topic("patient", 2).await;
    fill(&topic, 0, 5000);
    let group = unique("g");
    let mut context = source_context(&group);
    context.drain_max = Duration::from_secs(2);
    context.claim_max = Duration::from_secs(2);
    let source = source(&topic, GroupProtocol::Classic)
        .max_poll_interval(Duration::from_secs(6))
        .session_timeout(Duration::from_secs(6));
    let mut member = Member::join_with(source, &context).await;
    let assignment = member.assigned().await;
    member.answer(assignment, |_| 0);
    assert!(member.is_quiet_for(Duration::from_secs(10)).await, "neither records nor group events");
    member.credit_all();
    assert_eq!(numbers(&member.read(5000).await), (0..5000).collect::<Vec<_>>());
    member.close().await;
}

#[tokio::test]
async fn a_namesake_ends_the_member_it_takes_the_place_of_by_name() {
    let topic = topic("namesake", 1).await;
    let group = unique("g");
    let mut context = source_context(&group);
    context.instance = Some("one".into());
    let mut first = Member::join_with(source(&topic, GroupProtocol::Classic), &context).await;
    let assignment = first.assigned().await;
    first.answer(assignment, |_| 0);
    let second = Member::join_with(source(&topic, GroupProtocol::Classic), &context).await;
    let error = loop {
        match first.event().await {
            SourceEvent::Failed(SourceError::Stop(error)) => break error,
            SourceEvent::Lost(_) | SourceEvent::End { .. } | SourceEvent::Records(_) => {}
            SourceEvent::Revoked(revocation) => revocation.answer(),
            other => panic!("{other:?}"),
        }
    };
    assert!(error.is_fenced(), "{error}");
    assert!(error.to_string().contains("same instance name"), "{error}");
    // Closing does not hang after a fatal error, and neither does dropping.
    first.close().await;
    drop(second);
}

/// What a member was given and has not handed back.
async fn follow(member: &mut Member, owned: &RefCell<BTreeSet<PartitionId>>) {
    loop {
        match member.event().await {
            SourceEvent::Assigned(assignment) => {
                owned
                    .borrow_mut()
                    .extend(assignment.partitions.iter().map(|a| a.partition.clone()));
                member.answer(assignment, |_| 0);
            }
            SourceEvent::Revoked(revocation) => {
                owned.borrow_mut().retain(|id| !revocation.partitions.contains(id));
                revocation.answer();
            }
            SourceEvent::End { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A member with a name ends while it is to hand partitions over, and comes back before its session
/// ends: the coordinator gives it what it was to keep, and what was withheld from the other one is
/// nobody's. Nothing but a member that joins anew changes that.
#[tokio::test]
async fn partitions_left_over_by_an_interrupted_hand_over_get_a_member() {
    let topic = topic("left-over", 4).await;
    let group = unique("g");
    let named = |name: &str| {
        let mut context = source_context(&group);
        context.instance = Some(name.into());
        context.drain_max = Duration::from_secs(3);
        context
    };
    let join = |name: &str| {
        let (source, context) = (source(&topic, GroupProtocol::Classic), named(name));
        async move { Member::join_with(source, &context).await }
    };
    let mut first = join("one").await;
    let assignment = first.assigned().await;
    assert_eq!(assignment.partitions.len(), 4);
    first.answer(assignment, |_| 0);
    let mut second = join("two").await;
    let revocation = first.revoked().await;
    assert_eq!(revocation.partitions.len(), 2);
    // With a name it does not leave; while it ends it does not ask for the next rebalance either.
    let settle_late = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(revocation);
    };
    tokio::join!(first.close(), settle_late);
    let mut first = join("one").await;
    let (ones, twos) = (RefCell::new(BTreeSet::new()), RefCell::new(BTreeSet::new()));
    let seen = async {
        let begun = Instant::now();
        let mut were_left_over = false;
        loop {
            let (one, two) = (ones.borrow().len(), twos.borrow().len());
            // After the answer to the join, and before anybody looks.
            were_left_over |= one == 2 && two == 0 && begun.elapsed() > Duration::from_secs(2);
            if one == 2 && two == 2 {
                return were_left_over;
            }
            assert!(begun.elapsed() < PATIENCE, "{one} and {two} of 4 partitions have a member");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let were_left_over = tokio::select! {
        were = seen => were,
        () = follow(&mut first, &ones) => unreachable!("it follows for ever"),
        () = follow(&mut second, &twos) => unreachable!("it follows for ever"),
    };
    assert!(were_left_over, "the hand-over was not interrupted: nothing was shown");
    assert!(ones.borrow().is_disjoint(&twos.borrow()));
    first.close().await;
    second.close().await;
}

#[tokio::test]
async fn a_source_that_is_dropped_leaves_its_group() {
    let topic = topic("dropped", 1).await;
    let group = unique("g");
    let mut first = Member::join(source(&topic, GroupProtocol::Classic), &group).await;
    let assignment = first.assigned().await;
    first.answer(assignment, |_| 0);
    drop(first);
    let mut second = Member::join(source(&topic, GroupProtocol::Classic), &group).await;
    // Well before the session of 45 s would have ended.
    let assigned = tokio::time::timeout(Duration::from_secs(30), second.assigned());
    let assignment = assigned.await.expect("the first has left");
    assert_eq!(assignment.partitions.len(), 1);
    assignment.answer(Vec::new());
    second.close().await;
}

/// Partitions read to their ends stay readable however often the group changes around them.
async fn ends_survive_rebalances(protocol: GroupProtocol) {
    let topic = topic("idle", 4).await;
    for partition in 0..4 {
        fill(&topic, partition, 5);
    }
    let group = unique("g");
    // No fetch is held up at the broker, so that one from a wrong place would leave at once.
    let busy = source(&topic, protocol).fetch_wait_max(Duration::from_millis(1));
    let mut first = Member::join(busy, &group).await;
    let assignment = first.assigned().await;
    first.answer(assignment, |_| 0);
    first.credit_all();
    first.read(20).await;
    for _ in 0..6 {
        let mut second = Member::join(source(&topic, protocol), &group).await;
        let revocation = first.revoked().await;
        for partition in &revocation.partitions {
            first.epochs.remove(partition);
        }
        revocation.answer();
        let assignment = second.assigned().await;
        second.answer(assignment, |_| 5);
        second.credit_all();
        second.close().await;
        let assignment = loop {
            match first.event().await {
                SourceEvent::Assigned(assignment) => break assignment,
                SourceEvent::End { next, .. } => assert_eq!(next.get(), 5),
                other => panic!("{other:?}"),
            }
        };
        first.answer(assignment, |_| 5);
        first.credit_all();
        // Long enough for the ends to be told, and for a fetch from a wrong place to fail.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for partition in 0..4 {
        fill(&topic, partition, 1);
    }
    let mut offsets = BTreeMap::new();
    while offsets.len() < 4 {
        match first.event().await {
            SourceEvent::Records(chunk) => {
                for record in first.checked(chunk) {
                    let twice = offsets.insert(record.partition.index(), record.offset.get());
                    assert_eq!(twice, None, "each record once");
                }
            }
            SourceEvent::End { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(offsets.values().all(|offset| *offset == 5));
    first.close().await;
}

#[tokio::test]
async fn partitions_at_their_end_survive_many_rebalances_classic() {
    ends_survive_rebalances(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn partitions_at_their_end_survive_many_rebalances_consumer() {
    ends_survive_rebalances(GroupProtocol::Consumer).await;
}
