//! The ends of logs, told for lag.

use tidegate::record::PartitionId;
use tidegate::source::SourceEvent;

use crate::support::*;

/// Waits until the end of this partition is told to be there.
async fn told(member: &mut Member, partition: &PartitionId, end: i64) {
    loop {
        if let SourceEvent::Ends(ends) = member.any_event().await {
            let told = ends.iter().find(|told| told.partition == *partition);
            let told = told.map_or(-1, |told| told.next.get());
            assert!(told <= end, "the log of {partition} ends at {end}, not at {told}");
            if told == end {
                return;
            }
        }
    }
}

#[tokio::test]
async fn ends_are_told_whether_records_are_taken_or_not() {
    let topic = topic("ends", 2).await;
    let (first, second) =
        (PartitionId::new(topic.as_str(), 0), PartitionId::new(topic.as_str(), 1));
    fill(&topic, 0, 500);
    // Little is fetched ahead: soon nothing is, and no fetch tells of what comes then.
    let source = kafka().source(topic.as_str()).records_per_fetch(10);
    let mut member = Member::join(source, &unique("g")).await;
    let assignment = member.assigned().await;
    member.answer(assignment, |_| 0);
    told(&mut member, &first, 500).await;
    fill(&topic, 0, 700);
    told(&mut member, &first, 1200).await;
    told(&mut member, &second, 0).await;
    member.credit_all();
    assert_eq!(member.read(1200).await.len(), 1200);
    // A marker of a transaction is part of the log.
    let producer = open_transaction("ends");
    write(&producer, &topic, 0, "1");
    rdkafka::producer::Producer::commit_transaction(&producer, PATIENCE).expect("committed");
    told(&mut member, &first, 1202).await;
    fill(&topic, 1, 3);
    told(&mut member, &second, 3).await;
    member.close().await;
}
