//! Reading topics back, for whoever checks a pipeline from outside.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidegate::record::{Offset, PartitionId};
use tidegate_kafka::{HEADER_SOURCE, ReadRange};

use crate::support::*;

/// What was read: range, offset, value and lineage.
type Seen = Vec<(usize, i64, String, Option<String>)>;

fn range(topic: &str, partition: i32, first: i64, next: i64) -> ReadRange {
    let partition = PartitionId::new(topic, partition);
    ReadRange { partition, first: Offset::new(first), next: Offset::new(next) }
}

async fn read(ranges: Vec<ReadRange>) -> Result<Seen, tidegate::Error> {
    let group = unique("reader");
    let kafka = kafka();
    let read = kafka.read_committed(&group, ranges, Seen::new(), |seen, record| {
        let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
        let lineage = record.lineage.map(|lineage| lineage.to_string());
        seen.push((record.range, record.offset.get(), value, lineage));
    });
    let mut seen = read.await?;
    seen.sort();
    // It only looks.
    let admin = kafka.admin()?;
    assert_eq!(admin.group_members(&group).await?, 0);
    assert_eq!(admin.group_offsets(&group).await?, []);
    Ok(seen)
}

fn write_from(producer: &BaseProducer, topic: &str, value: &str, sources: &[&str]) {
    let headers = sources.iter().fold(OwnedHeaders::new(), |headers, source| {
        headers.insert(Header { key: HEADER_SOURCE, value: Some(*source) })
    });
    let record = BaseRecord::<str, str>::to(topic).partition(0).payload(value).headers(headers);
    producer.send(record).map_err(|(error, _)| error).expect("queued");
}

#[tokio::test]
async fn ranges_are_read_back_committed_with_what_each_record_was_made_from() {
    let (one, two) = (topic("read", 2).await, topic("read", 1).await);
    fill(&one, 1, 10);
    // Offsets 0 to 2, then a marker at 3.
    let producer = open_transaction("read");
    write_from(&producer, &one, "a", &["in/0/7/0"]);
    // The last one counts: a result of a result carries both.
    write_from(&producer, &one, "b", &["in/0/7/0", "mid/1/8/2"]);
    write_from(&producer, &one, "c", &["not lineage"]);
    producer.commit_transaction(PATIENCE).expect("committed");
    // Offset 4 is never seen; 5 is its marker.
    producer.begin_transaction().expect("begun");
    write(&producer, &one, 0, "aborted");
    producer.flush(PATIENCE).expect("delivered");
    producer.abort_transaction(PATIENCE).expect("aborted");
    fill(&one, 0, 1);
    fill(&two, 0, 3);
    let seen = read(vec![
        range(&one, 1, 4, 6),
        range(&one, 0, 0, 7),
        range(&two, 0, 1, 3),
        range(&two, 0, 2, 2),
    ]);
    let lineage = |text: &str| Some(text.to_owned());
    let expected = [
        (0, 4, "4", None),
        (0, 5, "5", None),
        (1, 0, "a", lineage("in/0/7/0")),
        (1, 1, "b", lineage("mid/1/8/2")),
        (1, 2, "c", None),
        (1, 6, "0", None),
        (2, 1, "1", None),
        (2, 2, "2", None),
    ];
    let expected =
        expected.map(|(range, offset, value, lineage)| (range, offset, value.to_owned(), lineage));
    assert_eq!(seen.await.expect("it is read"), expected);
    assert_eq!(read(vec![range(&one, 0, 3, 6)]).await.expect("read"), [], "markers alone");
}

#[tokio::test]
async fn a_range_that_cannot_be_seen_whole_is_refused_with_the_reason() {
    let topic = topic("read", 1).await;
    fill(&topic, 0, 4);
    let deleted = range(&topic, 0, 1, 4);
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, rdkafka::Offset::Offset(2)).expect("an offset");
    let options = rdkafka::admin::AdminOptions::new();
    admin().delete_records(&list, &options).await.expect("deleted");
    let problem = read(vec![deleted]).await.expect_err("some are gone").to_string();
    assert!(problem.contains("records from 1 to 2 were deleted"), "{problem}");

    let producer = open_transaction("read");
    write(&producer, &topic, 0, "open");
    producer.flush(PATIENCE).expect("delivered");
    let problem = read(vec![range(&topic, 0, 2, 5)]).await.expect_err("it is open").to_string();
    assert!(problem.contains("an open transaction hides what lies from 4 to 5"), "{problem}");
    assert_eq!(read(vec![range(&topic, 0, 2, 4)]).await.expect("in front of it").len(), 2);
    producer.abort_transaction(PATIENCE).expect("aborted");
}
