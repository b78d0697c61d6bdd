//! What an operator asks: partitions, stored offsets, ends of logs, setting offsets.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::Producer;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tidegate::record::{Offset, PartitionId, Timestamp};
use tidegate::source::Position;
use tidegate_kafka::{GroupMember, GroupProtocol};

use crate::support::*;

#[tokio::test]
async fn logs_are_described_and_times_are_found() {
    let topic = topic("described", 2).await;
    fill(&topic, 0, 4);
    let producer = open_transaction("described");
    write(&producer, &topic, 0, "open");
    producer.flush(PATIENCE).unwrap();
    let admin = kafka().admin().unwrap();
    let partitions = admin.partitions([topic.as_str()]).await.unwrap();
    assert_eq!(
        partitions,
        [PartitionId::new(topic.as_str(), 0), PartitionId::new(topic.as_str(), 1)]
    );
    let ranges = admin.log_ranges(&partitions).await.unwrap();
    let numbers: Vec<(i64, i64, i64)> = ranges
        .iter()
        .map(|range| (range.start.get(), range.stable_end.get(), range.end.get()))
        .collect();
    assert_eq!(numbers, [(0, 4, 5), (0, 0, 0)]);
    let early = admin.offsets_at(&partitions, Timestamp::from_millis(0)).await.unwrap();
    assert_eq!(early, [Offset::ZERO, Offset::ZERO]);
    let late = Timestamp::from_millis(4_000_000_000_000);
    assert_eq!(admin.offsets_at(&partitions, late).await.unwrap(), [Offset::new(4), Offset::ZERO]);
    producer.abort_transaction(PATIENCE).unwrap();
    let error = admin.partitions(["no-such-topic"]).await.unwrap_err();
    assert!(error.to_string().contains("no-such-topic does not exist"), "{error}");
}

async fn offsets_are_set(protocol: GroupProtocol) {
    let topic = topic("set", 2).await;
    let group = unique("g");
    let admin = kafka().admin().unwrap();
    assert_eq!(admin.group_members(&group).await.unwrap(), 0);
    assert_eq!(admin.group_offsets(&group).await.unwrap(), []);
    let at = |partition, next| Position {
        partition: PartitionId::new(topic.as_str(), partition),
        next: Offset::new(next),
    };
    let both = vec![at(0, 3), at(1, 4)];
    admin.set_group_offsets(&group, both.clone()).await.unwrap();
    assert_eq!(admin.group_offsets(&group).await.unwrap(), both);

    let mut member =
        Member::join(kafka().source(topic.as_str()).group_protocol(protocol), &group).await;
    let assignment = member.assigned().await;
    assert_eq!(admin.group_members(&group).await.unwrap(), 1);
    let members = admin.group_assignments(&group).await.unwrap();
    let [GroupMember { id, partitions }] = &members[..] else { panic!("{members:?}") };
    assert!(!id.is_empty());
    let mut given = partitions.clone();
    given.sort();
    assert_eq!(given, [at(0, 0).partition, at(1, 0).partition]);
    let error = admin.set_group_offsets(&group, vec![at(0, 9)]).await.unwrap_err();
    assert!(error.to_string().contains("1 live members"), "{error}");
    assignment.answer(Vec::new());
    member.close().await;
    let begun = std::time::Instant::now();
    while admin.group_members(&group).await.unwrap() > 0 {
        assert!(begun.elapsed() < PATIENCE, "the member left");
    }
    admin.set_group_offsets(&group, vec![at(0, 9)]).await.unwrap();
    assert_eq!(admin.group_offsets(&group).await.unwrap(), [at(0, 9), at(1, 4)]);
}

#[tokio::test]
async fn offsets_of_an_empty_group_are_set_and_of_a_live_one_refused_classic() {
    offsets_are_set(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn offsets_of_an_empty_group_are_set_and_of_a_live_one_refused_consumer() {
    offsets_are_set(GroupProtocol::Consumer).await;
}

#[tokio::test]
async fn offsets_that_a_transaction_is_about_to_store_count_only_once_it_has_ended() {
    let topic = topic("pending", 1).await;
    let group = unique("g");
    let admin = kafka().admin().unwrap();
    let at =
        |next| Position { partition: PartitionId::new(topic.as_str(), 0), next: Offset::new(next) };
    admin.set_group_offsets(&group, vec![at(3)]).await.unwrap();
    let consumer: BaseConsumer = config().set("group.id", &group).create().unwrap();
    let producer = open_transaction("pending");
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&topic, 0, KafkaOffset::Offset(7)).unwrap();
    let metadata = consumer.group_metadata().unwrap();
    producer.send_offsets_to_transaction(&offsets, &metadata, PATIENCE).unwrap();
    assert_eq!(admin.group_offsets(&group).await.unwrap(), [at(3)]);
    let stable = tokio::spawn(async move { admin.stable_group_offsets(&group).await });
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(!stable.is_finished(), "it waits");
    producer.commit_transaction(PATIENCE).unwrap();
    assert_eq!(stable.await.unwrap().unwrap(), [at(7)]);
}
