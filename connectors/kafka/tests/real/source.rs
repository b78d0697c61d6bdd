//! Reading: order, ends, credit, positions, bad topics.

use std::time::Duration;

use rdkafka::producer::Producer;
use tidegate::record::{Offset, PartitionId, Timestamp};
use tidegate::source::{Health, Resolved, Source, SourceEvent, Unresolved, Wanted};
use tidegate_kafka::StartPolicy;

use crate::support::*;

#[tokio::test]
async fn records_arrive_in_order_and_the_end_lies_behind_the_transaction_marker() {
    let topic = topic("order", 1).await;
    fill(&topic, 0, 1000);
    let producer = open_transaction("order");
    for number in 1000..1010 {
        write(&producer, &topic, 0, &number.to_string());
    }
    producer.commit_transaction(PATIENCE).unwrap();

    let mut member = Member::join(kafka().source(topic.as_str()), &unique("g")).await;
    let assignment = member.assigned().await;
    assert!(assignment.partitions[0].topic_id.is_some(), "the broker tells the topic's id");
    member.answer(assignment, |_| 0);
    member.credit_all();
    let id = PartitionId::new(topic.as_str(), 0);
    let (mut records, mut end) = member.read_to_end(&id).await;
    while end < 1011 {
        let (more, next) = member.read_to_end(&id).await;
        records.extend(more);
        end = next;
    }
    assert_eq!(numbers(&records), (0..1010).collect::<Vec<_>>());
    assert_eq!(end, 1011, "1010 records and a commit marker");
    member.close().await;
}

#[tokio::test]
async fn aborted_records_are_invisible_and_the_end_lies_behind_them() {
    let topic = topic("aborted", 1).await;
    let producer = open_transaction("aborted");
    for number in 0..10 {
        write(&producer, &topic, 0, &number.to_string());
    }
    producer.flush(PATIENCE).unwrap();
    producer.abort_transaction(PATIENCE).unwrap();

    let mut member = Member::join(kafka().source(topic.as_str()), &unique("g")).await;
    let assignment = member.assigned().await;
    member.answer(assignment, |_| 0);
    member.credit_all();
    let (records, end) = member.read_to_end(&PartitionId::new(topic.as_str(), 0)).await;
    assert!(records.is_empty());
    assert_eq!(end, 11);
    member.close().await;
}

#[tokio::test]
async fn keys_values_headers_and_times_arrive_as_they_were_written() {
    use rdkafka::message::{Header, OwnedHeaders};
    use rdkafka::producer::{BaseProducer, BaseRecord};
    let topic = topic("bytes", 1).await;
    let producer: BaseProducer = config().create().unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: "a", value: Some("1") })
        .insert(Header::<&str> { key: "b", value: None })
        .insert(Header { key: "a", value: Some("") });
    let full = BaseRecord::<[u8], [u8]>::to(&topic)
        .key(&b"k\xff"[..])
        .payload(&b"v\0"[..])
        .timestamp(1234)
        .headers(headers);
    producer.send(full).map_err(|(e, _)| e).unwrap();
    let empty = BaseRecord::<str, str>::to(&topic).key("").payload("");
    producer.send(empty).map_err(|(e, _)| e).unwrap();
    producer.send(BaseRecord::<str, str>::to(&topic)).map_err(|(e, _)| e).unwrap();
    producer.flush(PATIENCE).unwrap();

    let mut member = Member::join(kafka().source(topic.as_str()), &unique("g")).await;
    let assignment = member.assigned().await;
    member.answer(assignment, |_| 0);
    member.credit_all();
    let records = member.read(3).await;
    assert_eq!(records[0].key.as_deref(), Some(&b"k\xff"[..]));
    assert_eq!(records[0].value.as_deref(), Some(&b"v\0"[..]));
    assert_eq!(records[0].timestamp, Some(Timestamp::from_millis(1234)));
    let headers: Vec<(&str, Option<&[u8]>)> =
        records[0].headers.iter().map(|header| (&*header.name, header.value.as_deref())).collect();
    assert_eq!(headers, [("a", Some(&b"1"[..])), ("b", None), ("a", Some(&b""[..]))]);
    assert_eq!(
        (records[1].key.as_deref(), records[1].value.as_deref()),
        (Some(&b""[..]), Some(&b""[..]))
    );
    assert_eq!((&records[2].key, &records[2].value), (&None, &None), "null differs from empty");
    assert!(records[2].headers.is_empty());
    member.close().await;

    let source = kafka().source(topic.as_str()).without_headers();
    let mut member = Member::join(source, &unique("g")).await;
    let assignment = member.assigned().await;
    member.answer(assignment, |_| 0);
    member.credit_all();
    let bare = member.read(3).await;
    assert_eq!((&bare[0].key, &bare[0].value), (&records[0].key, &records[0].value));
    assert!(bare[0].headers.is_empty(), "they were not to be read");
    member.close().await;
}

#[tokio::test]
async fn a_partition_without_credit_waits_while_the_other_goes_on() {
    let topic = topic("credit", 2).await;
    fill(&topic, 0, 2000);
    fill(&topic, 1, 2000);
    let mut member = Member::join(kafka().source(topic.as_str()), &unique("g")).await;
    let assignment = member.assigned().await;
    member.answer(assignment, |_| 0);
    let (first, second) =
        (PartitionId::new(topic.as_str(), 0), PartitionId::new(topic.as_str(), 1));
    assert!(member.is_quiet_for(Duration::from_millis(500)).await, "nothing without credit");

    member.credit(&first, 10, 10);
    let records = member.read(10).await;
    assert!(records.iter().all(|record| record.partition == first));
    assert!(
        member.is_quiet_for(Duration::from_millis(500)).await,
        "not one record above the credit"
    );

    member.credit(&second, u32::MAX, u64::MAX);
    let records = member.read(2000).await;
    assert!(records.iter().all(|record| record.partition == second));

    // Bytes bound as well: values of the first partition are two bytes long from 10 on; the last
    // record may exceed the rest.
    while !member.is_quiet_for(Duration::from_millis(200)).await {}
    member.credit(&first, u32::MAX, 5);
    let records = member.read(3).await;
    assert_eq!(numbers(&records), [10, 11, 12]);
    assert!(member.is_quiet_for(Duration::from_millis(500)).await);
    member.credit(&first, u32::MAX, u64::MAX);
    let records = member.read(1987).await;
    assert_eq!(numbers(&records), (13..2000).collect::<Vec<_>>());
    member.close().await;
}

#[tokio::test]
async fn credit_of_an_old_epoch_counts_for_nothing() {
    let topic = topic("stale-credit", 1).await;
    fill(&topic, 0, 10);
    let id = PartitionId::new(topic.as_str(), 0);
    let mut member = Member::join(kafka().source(topic.as_str()), &unique("g")).await;
    let assignment = member.assigned().await;
    member.answer(assignment, |_| 0);
    let old = member.epochs[&id];
    let start = member.start(&id, 5);
    member.source.reposition(vec![start]);
    member.source.credit(vec![tidegate::source::Credit {
        partition: id.clone(),
        epoch: old,
        records: 100,
        bytes: 100,
    }]);
    assert!(member.is_quiet_for(Duration::from_secs(1)).await);
    member.credit_all();
    assert_eq!(numbers(&member.read(5).await), [5, 6, 7, 8, 9]);
    member.close().await;
}

#[tokio::test]
async fn a_reposition_gives_every_record_of_the_new_place_and_none_of_the_old() {
    let topic = topic("seek", 1).await;
    fill(&topic, 0, 5000);
    let id = PartitionId::new(topic.as_str(), 0);
    let mut member = Member::join(kafka().source(topic.as_str()), &unique("g")).await;
    let assignment = member.assigned().await;
    member.answer(assignment, |_| 0);
    member.credit_all();
    // Jumps in the middle of the stream, again and again: `read` asserts the epoch of each chunk
    // that comes after the jump; what was sent before carries the old one.
    for target in [4000i64, 10, 2500, 0, 4990, 3, 3, 1000] {
        let _ = member.event().await;
        let start = member.start(&id, target);
        member.source.reposition(vec![start]);
        member.credit_all();
        let epoch = member.epochs[&id];
        let mut expected = target;
        while expected < 5000 {
            match member.event().await {
                SourceEvent::Records(chunk) if chunk.epoch == epoch => {
                    for record in chunk.records {
                        assert_eq!(record.offset.get(), expected, "after the jump to {target}");
                        expected += 1;
                    }
                }
                SourceEvent::Records(_) | SourceEvent::End { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    member.close().await;
}

#[tokio::test]
async fn a_record_behind_an_end_that_was_told_is_read_after_a_reposition_to_the_end() {
    let topic = topic("end-then-one", 1).await;
    fill(&topic, 0, 3);
    let id = PartitionId::new(topic.as_str(), 0);
    let mut member = Member::join(kafka().source(topic.as_str()), &unique("g")).await;
    let assignment = member.assigned().await;
    member.answer(assignment, |_| 0);
    member.credit_all();
    let (records, end) = member.read_to_end(&id).await;
    assert_eq!((records.len(), end), (3, 3));
    let start = member.start(&id, end);
    member.source.reposition(vec![start]);
    member.credit_all();
    fill(&topic, 0, 1);
    assert_eq!(member.read(1).await[0].offset, Offset::new(3));
    member.close().await;
}

#[tokio::test]
async fn a_partition_left_out_of_the_answer_is_started_by_a_reposition() {
    let topic = topic("parked", 2).await;
    fill(&topic, 0, 10);
    fill(&topic, 1, 10);
    let (first, second) =
        (PartitionId::new(topic.as_str(), 0), PartitionId::new(topic.as_str(), 1));
    let mut member = Member::join(kafka().source(topic.as_str()), &unique("g")).await;
    let assignment = member.assigned().await;
    let start = member.start(&first, 0);
    assignment.answer(vec![start]);
    member.credit(&first, 100, 1000);
    assert_eq!(member.read(10).await.len(), 10);
    let start = member.start(&second, 4);
    member.source.reposition(vec![start]);
    member.credit(&second, 100, 1000);
    let records = member.read(6).await;
    assert_eq!(numbers(&records), [4, 5, 6, 7, 8, 9]);
    assert!(records.iter().all(|record| record.partition == second));
    member.close().await;
}

#[tokio::test]
async fn an_answer_after_the_deadline_still_starts_its_partitions() {
    let topic = topic("late", 1).await;
    fill(&topic, 0, 5);
    let group = unique("g");
    let mut context = source_context(&group);
    context.claim_max = Duration::from_millis(500);
    let mut member = Member::join_with(kafka().source(topic.as_str()), &context).await;
    let assignment = member.assigned().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    member.answer(assignment, |_| 2);
    tokio::time::sleep(Duration::from_millis(300)).await;
    member.credit_all();
    assert_eq!(numbers(&member.read(3).await), [2, 3, 4]);
    member.close().await;
}

fn position(resolved: &[Resolved], partition: i32) -> i64 {
    let found = resolved.iter().find(|r| r.partition.index() == partition).expect("an answer");
    found.position.as_ref().expect("a position").get()
}

#[tokio::test]
async fn positions_are_found_in_the_log() {
    let topic = topic("resolve", 2).await;
    fill(&topic, 0, 10);
    let producer = open_transaction("resolve");
    for number in 0..5 {
        write(&producer, &topic, 0, &number.to_string());
    }
    producer.flush(PATIENCE).unwrap();
    let id = PartitionId::new(topic.as_str(), 0);
    let empty = PartitionId::new(topic.as_str(), 1);
    let none = PartitionId::new(topic.as_str(), 7);
    let mut member =
        Member::join(kafka().source(topic.as_str()).start(StartPolicy::Latest), &unique("g")).await;
    // Answered while the assignment waits for its own answer.
    let assignment = member.assigned().await;
    let wanted = vec![Wanted::Start(id.clone())];
    assert_eq!(
        position(&member.source.resolve(wanted).await.unwrap(), 0),
        10,
        "the open transaction is not reached"
    );
    let all =
        member.source.resolve(vec![Wanted::StartOfTopic(topic.as_str().into())]).await.unwrap();
    assert_eq!((all.len(), position(&all, 0), position(&all, 1)), (2, 10, 0));
    let mut ask = |wanted| {
        let answer = member.source.resolve(vec![wanted]);
        async move {
            let mut resolved = answer.await.expect("answered");
            assert_eq!(resolved.len(), 1);
            resolved.remove(0).position.map(Offset::get)
        }
    };
    assert_eq!(ask(Wanted::Beginning(id.clone())).await.unwrap(), 0);
    assert_eq!(ask(Wanted::End(id.clone())).await.unwrap(), 10);
    assert_eq!(ask(Wanted::End(empty.clone())).await.unwrap(), 0);
    assert_eq!(ask(Wanted::At(id.clone(), Timestamp::from_millis(0))).await.unwrap(), 0);
    let future = Timestamp::from_millis(4_000_000_000_000);
    assert_eq!(ask(Wanted::At(id.clone(), future)).await.unwrap(), 10);
    assert_eq!(ask(Wanted::Stored(id.clone(), Offset::new(7))).await.unwrap(), 7);
    assert_eq!(
        ask(Wanted::Stored(id.clone(), Offset::new(15))).await.unwrap(),
        15,
        "inside the open transaction"
    );
    match ask(Wanted::Stored(id.clone(), Offset::new(99))).await.unwrap_err() {
        Unresolved::OutOfRange { high, .. } => assert_eq!(high.get(), 15),
        other => panic!("{other:?}"),
    }
    let unknown = ask(Wanted::Beginning(none)).await;
    assert!(matches!(unknown, Err(Unresolved::Unknown)), "{unknown:?}");
    assignment.answer(Vec::new());
    producer.abort_transaction(PATIENCE).unwrap();
    member.close().await;
}

#[tokio::test]
async fn a_partition_that_appears_later_starts_at_its_beginning_whatever_the_policy() {
    let topic = topic("grows", 1).await;
    let source = kafka().source(topic.as_str()).start(StartPolicy::Latest);
    let mut member = Member::join(source.topic_refresh(Duration::from_secs(1)), &unique("g")).await;
    let assignment = member.assigned().await;
    assert_eq!(assignment.partitions.len(), 1);
    member.answer(assignment, |_| 0);
    let grown = rdkafka::admin::NewPartitions::new(&topic, 2);
    admin().create_partitions([&grown], &rdkafka::admin::AdminOptions::new()).await.unwrap();
    let assignment = member.assigned().await;
    let added = PartitionId::new(topic.as_str(), 1);
    assert!(assignment.partitions.iter().any(|assigned| assigned.partition == added));
    fill(&topic, 1, 5);
    let found = member.source.resolve(vec![Wanted::Start(added.clone())]).await.unwrap();
    assert_eq!(position(&found, 1), 0);
    member.answer(assignment, |_| 0);
    member.credit_all();
    assert_eq!(member.read(5).await[0].partition, added);
    member.close().await;
}

#[tokio::test]
async fn the_start_policy_error_resolves_to_a_named_refusal() {
    let topic = topic("start-error", 1).await;
    let source = kafka().source(topic.as_str()).start(StartPolicy::Error);
    let mut member = Member::join(source, &unique("g")).await;
    let id = PartitionId::new(topic.as_str(), 0);
    let mut found = member.source.resolve(vec![Wanted::Start(id)]).await.unwrap();
    assert!(matches!(found.remove(0).position, Err(Unresolved::NoStart)));
    member.close().await;
}

#[tokio::test]
async fn an_unknown_topic_is_waited_for_and_read_once_it_exists() {
    let topic = unique("unknown");
    let source = kafka().source(topic.as_str()).topic_refresh(Duration::from_secs(1));
    let mut member = Member::join(source, &unique("g")).await;
    loop {
        match member.any_event().await {
            SourceEvent::Health(Health::Waiting(text)) => {
                assert!(text.contains(&topic) && text.contains("does not exist yet"), "{text}");
                break;
            }
            SourceEvent::GroupChanged => {}
            other => panic!("{other:?}"),
        }
    }
    create(&topic, 1, &[]).await;
    fill(&topic, 0, 3);
    let mut ready = false;
    let assignment = loop {
        match member.any_event().await {
            SourceEvent::Health(health) => ready = health == Health::Ready,
            SourceEvent::GroupChanged => {}
            SourceEvent::Assigned(assignment) => break assignment,
            other => panic!("{other:?}"),
        }
    };
    assert!(ready, "it says that it works again");
    member.answer(assignment, |_| 0);
    member.credit_all();
    assert_eq!(member.read(3).await.len(), 3);
    member.close().await;
}

#[tokio::test]
async fn an_offset_outside_the_log_stops_its_partition_and_a_reposition_revives_it() {
    let topic = topic("out-of-range", 2).await;
    fill(&topic, 0, 5);
    fill(&topic, 1, 5);
    let (bad, good) = (PartitionId::new(topic.as_str(), 0), PartitionId::new(topic.as_str(), 1));
    let mut member = Member::join(kafka().source(topic.as_str()), &unique("g")).await;
    let assignment = member.assigned().await;
    let outside = bad.clone();
    member.answer(assignment, |id| if *id == outside { 99 } else { 0 });
    member.credit_all();
    let (mut read, mut failed) = (0, false);
    while read < 5 || !failed {
        match member.event().await {
            SourceEvent::Records(chunk) => {
                assert_eq!(chunk.partition, good);
                read += chunk.records.len();
            }
            SourceEvent::PartitionFailed { partition, cause, .. } => {
                assert_eq!(partition, bad);
                assert!(cause.to_string().contains("99"), "{cause}");
                failed = true;
            }
            SourceEvent::End { partition, .. } => assert_eq!(partition, good),
            other => panic!("{other:?}"),
        }
    }
    let start = member.start(&bad, 2);
    member.source.reposition(vec![start]);
    member.credit(&bad, 100, 1000);
    assert_eq!(numbers(&member.read(3).await), [2, 3, 4]);
    member.close().await;
}

#[tokio::test]
async fn a_pattern_reads_every_topic_it_matches_and_those_created_later() {
    let prefix = unique("pattern");
    create(&format!("{prefix}-a"), 1, &[]).await;
    fill(&format!("{prefix}-a"), 0, 2);
    let source =
        kafka().source_pattern(format!("^{prefix}-.*")).topic_refresh(Duration::from_secs(1));
    let mut member = Member::join(source, &unique("g")).await;
    let assignment = member.assigned().await;
    assert_eq!(assignment.partitions.len(), 1);
    member.answer(assignment, |_| 0);
    member.credit_all();
    assert_eq!(member.read(2).await.len(), 2);
    create(&format!("{prefix}-b"), 1, &[]).await;
    fill(&format!("{prefix}-b"), 0, 3);
    let assignment = loop {
        match member.event().await {
            SourceEvent::Assigned(assignment) => break assignment,
            SourceEvent::End { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    member.answer(assignment, |_| 0);
    member.credit_all();
    let records = member.read(3).await;
    assert!(records.iter().all(|r| r.partition.topic().as_str().ends_with("-b")));
    member.close().await;
}

#[tokio::test]
async fn group_offsets_are_committed_by_owners_only_and_mirrored() {
    let topic = topic("group-offsets", 2).await;
    let group = unique("g");
    let mut member = Member::join(kafka().source(topic.as_str()), &group).await;
    let assignment = member.assigned().await;
    member.answer(assignment, |_| 0);
    let (first, second) =
        (PartitionId::new(topic.as_str(), 0), PartitionId::new(topic.as_str(), 1));
    let offsets = member.source.group_offsets();
    let both = [second.clone(), first.clone()];
    assert_eq!(offsets.committed(&both).await.unwrap(), [None, None]);
    let at = |partition: &PartitionId, next| tidegate::source::Position {
        partition: partition.clone(),
        next: Offset::new(next),
    };
    // The assign is under way when the answer was given; a commit is accepted once it is done.
    let mut result = offsets.commit(&[at(&first, 7)]).await;
    while result.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        result = offsets.commit(&[at(&first, 7)]).await;
    }
    assert_eq!(offsets.committed(&both).await.unwrap(), [None, Some(Offset::new(7))]);
    let stranger = PartitionId::new(topic.as_str(), 5);
    assert!(matches!(
        offsets.commit(&[at(&stranger, 1)]).await,
        Err(tidegate::source::SourceError::Fenced(_))
    ));
    offsets.mirror(vec![at(&second, 3)]);
    offsets.mirror(vec![at(&second, 4)]);
    let begun = std::time::Instant::now();
    while stored(&group, &topic, 1) != Some(4) {
        assert!(begun.elapsed() < PATIENCE, "the newest mirrored offset arrives");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    member.close().await;
}
