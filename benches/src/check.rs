//! Reads what a case wrote to a topic: as a check that it is all there once, or as it comes, for
//! its latency.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::load::{PARTITIONS, due};
use crate::measure::{Distribution, now_nanos};
use crate::table::Stored;

/// Without a record for so long nothing more comes.
const SILENCE: Duration = Duration::from_secs(30);

fn reader(bootstrap: &str, topic: &str) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", format!("{topic}-reader"))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "5")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

/// Reads committed records until as many as expected came, and a moment longer, and counts them:
/// all, and those whose number was not seen before.
pub(crate) fn count(bootstrap: &str, topic: &str, expected: u64) -> Result<Stored> {
    let reader = reader(bootstrap, topic)?;
    let mut seen = vec![false; usize::try_from(expected)?];
    let mut stored = Stored { rows: 0, different: 0 };
    let mut last = Instant::now();
    loop {
        let complete = u64::try_from(stored.rows)? >= expected;
        let patience = if complete { Duration::from_millis(200) } else { SILENCE };
        match reader.poll(Duration::from_millis(100)) {
            Some(message) => {
                let message = message?;
                let key: [u8; 8] = message.key().unwrap_or_default().try_into()?;
                let place = seen.get_mut(usize::try_from(u64::from_be_bytes(key))?);
                stored.rows += 1;
                if let Some(place) = place.filter(|place| !**place) {
                    *place = true;
                    stored.different += 1;
                }
                last = Instant::now();
            }
            None if last.elapsed() >= patience => return Ok(stored),
            None => {}
        }
    }
}

/// Reads committed records as they come and measures how late they are.
pub(crate) fn latency(bootstrap: &str, topic: &str, expected: u64) -> Result<Distribution> {
    let reader = reader(bootstrap, topic)?;
    let mut latency = Distribution::default();
    let mut last = Instant::now();
    for _ in 0..expected {
        let message = loop {
            if let Some(message) = reader.poll(Duration::from_millis(100)) {
                break message?;
            }
            ensure!(last.elapsed() < SILENCE, "records are missing");
        };
        let due = due(message.payload().unwrap_or_default());
        latency.record(Duration::from_nanos(now_nanos().saturating_sub(due)));
        last = Instant::now();
    }
    Ok(latency)
}
