//! The flights, sent to Kafka.

use anyhow::{Context, Result};
use tidegate_examples::flights::{FLIGHTS, Flight};
use tidegate_examples::kafka;
use tidegate_kafka::testing::MockKafka;

/// Partitions of the topic.
pub(crate) const PARTITIONS: i32 = 6;

/// What was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) records: i64,
    pub(crate) miles: i64,
}

/// Creates the topic and sends every flight, the route as its key.
pub(crate) async fn send(bootstrap: &str, mock: Option<&MockKafka>, topic: &str) -> Result<Sent> {
    match mock {
        Some(mock) => mock.create_topic(topic, PARTITIONS)?,
        None => {
            kafka::create_topic(bootstrap, topic, PARTITIONS).await?;
        }
    }
    let mut sent = Sent { records: 0, miles: 0 };
    let mut records = Vec::new();
    for line in FLIGHTS.lines() {
        let flight: Flight = serde_json::from_str(line).context("flights.jsonl")?;
        records.push((format!("{}-{}", flight.origin, flight.destination), line));
        sent.miles += flight.distance;
    }
    sent.records = i64::try_from(kafka::fill(bootstrap, topic, records)?)?;
    Ok(sent)
}
