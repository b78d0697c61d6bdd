//! A topic from its beginning to its end, as a reader of committed records sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::audit::Partition;

/// How long a broker may take to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long nothing may come before a reader gives up.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a transaction may stay open after its writer has ended: its time-out, and the coordinator's scan.
const OPEN_MAX: Duration = Duration::from_secs(60);
/// The header that says what a record was made from.
const SOURCE: &str = "tidegate-source";

/// One record of a topic.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// The last header `tidegate-source`, if there is one and it is text.
    pub source: Option<String>,
    /// All headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A topic as it was read.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Its records, partition by partition in the order of their offsets.
    pub messages: Vec<Message>,
    /// Where each partition ended.
    pub ends: BTreeMap<Partition, i64>,
}

/// Reads a topic to its end, committed records only.
///
/// # Errors
/// When it cannot be read to its end.
pub async fn read_topic(client: &ClientConfig, topic: &str) -> Result<Log> {
    let (mut messages, ends) = read_mapped(client, topic, Ok).await?;
    messages.sort_by_key(|message: &Message| (message.partition, message.offset));
    Ok(Log { messages, ends })
}

/// What `keep` makes of each record of a topic, in the order in which they came, and the topic's ends. What is not kept
/// takes no room.
pub(super) async fn read_mapped<T: Send + 'static>(
    client: &ClientConfig,
    topic: &str,
    keep: impl FnMut(Message) -> Result<T> + Send + 'static,
) -> Result<(Vec<T>, BTreeMap<Partition, i64>)> {
    let (client, topic) = (client.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || read(&client, &topic, keep)).await?
}

/// Whether a transaction is open in the topic.
///
/// # Errors
/// When the broker does not answer.
pub async fn open_transactions(client: &ClientConfig, topic: &str) -> Result<bool> {
    let (client, topic) = (client.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let committed = ends(&consumer(&client, "read_committed", "reader")?, &topic)?;
        Ok(committed != ends(&consumer(&client, "read_uncommitted", "reader")?, &topic)?)
    })
    .await?
}

/// Waits until no transaction is open in the topic: until then a reader of committed records does not see its end.
///
/// # Errors
/// When one stays open, or the broker does not answer.
pub async fn open_transactions_end(client: &ClientConfig, topic: &str) -> Result<()> {
    let start = Instant::now();
    while open_transactions(client, topic).await? {
        ensure!(start.elapsed() < OPEN_MAX, "{topic}: a transaction stays open");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

pub(super) async fn read_ends(
    client: &ClientConfig,
    topic: &str,
) -> Result<BTreeMap<Partition, i64>> {
    let (client, topic) = (client.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        ends(&consumer(&client, "read_committed", "reader")?, &topic)
    })
    .await?
}

/// What the group has stored: the next offset of each partition. A partition without one is not there. A group whose
/// coordinator is only just coming up, and an offset that hangs on an open transaction, are waited for.
///
/// # Errors
/// When there is no answer for too long.
pub async fn group_offsets(
    client: &ClientConfig,
    group: &str,
    partitions: impl IntoIterator<Item = &Partition>,
) -> Result<BTreeMap<Partition, i64>> {
    let mut wanted = TopicPartitionList::new();
    for (topic, partition) in partitions {
        wanted.add_partition(topic, *partition);
    }
    let (client, group) = (client.clone(), group.to_owned());
    tokio::task::spawn_blocking(move || {
        // Stable offsets only.
        let consumer = consumer(&client, "read_committed", &group)?;
        let start = Instant::now();
        loop {
            match stored(&consumer, &wanted) {
                Ok(offsets) => return Ok(offsets),
                Err(error) if start.elapsed() < OPEN_MAX && may_pass(&error) => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(error).with_context(|| format!("offsets of {group}")),
            }
        }
    })
    .await?
}

fn stored(
    consumer: &BaseConsumer,
    wanted: &TopicPartitionList,
) -> Result<BTreeMap<Partition, i64>, KafkaError> {
    let stored = consumer.committed_offsets(wanted.clone(), ANSWER)?;
    let mut offsets = BTreeMap::new();
    for element in stored.elements() {
        element.error()?;
        if let Offset::Offset(next) = element.offset() {
            offsets.insert((element.topic().into(), element.partition()), next);
        }
    }
    Ok(offsets)
}

/// Whether a question for offsets is worth asking again.
fn may_pass(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::NotCoordinator
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::UnstableOffsetCommit
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::WaitingForCoordinator
        )
    )
}

fn read<T>(
    client: &ClientConfig,
    topic: &str,
    mut keep: impl FnMut(Message) -> Result<T>,
) -> Result<(Vec<T>, BTreeMap<Partition, i64>)> {
    let consumer = consumer(client, "read_committed", "reader")?;
    let (name, mut ended) = (Arc::<str>::from(topic), BTreeSet::new());
    let (mut kept, mut ends) = (Vec::new(), BTreeMap::new());
    let mut all = TopicPartitionList::new();
    for partition in partitions(&consumer, topic)? {
        let end = consumer.fetch_watermarks(topic, partition, ANSWER)?.1;
        ends.insert((Arc::clone(&name), partition), end);
        all.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let mut heard = Instant::now();
    while ended.len() < ends.len() {
        ensure!(
            heard.elapsed() < SILENCE,
            "{topic}: nothing more after {} records, and only {ended:?} of {} partitions ended",
            kept.len(),
            ends.len()
        );
        match consumer.poll(Timeout::After(Duration::from_millis(100))) {
            Some(Ok(message)) => {
                heard = Instant::now();
                kept.push(keep(own(&name, &message))?);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            Some(Err(error)) => return Err(error).with_context(|| format!("read {topic}")),
            None => {}
        }
    }
    Ok((kept, ends))
}

fn ends(consumer: &BaseConsumer, topic: &str) -> Result<BTreeMap<Partition, i64>> {
    let name = Arc::<str>::from(topic);
    let mut ends = BTreeMap::new();
    for partition in partitions(consumer, topic)? {
        let end = consumer.fetch_watermarks(topic, partition, ANSWER)?.1;
        ends.insert((Arc::clone(&name), partition), end);
    }
    Ok(ends)
}

fn own(topic: &Arc<str>, message: &BorrowedMessage<'_>) -> Message {
    let headers: Vec<_> = message.headers().map_or_else(Vec::new, |headers| {
        let header = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_owned(), header.value.map(<[u8]>::to_vec))
        };
        headers.iter().map(header).collect()
    });
    // The last one: a record that was itself a copy brings the one it came with.
    let source = headers.iter().rfind(|(name, _)| name == SOURCE);
    let source = source.and_then(|(_, value)| String::from_utf8(value.clone()?).ok());
    Message {
        topic: Arc::clone(topic),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        source,
        headers,
    }
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let topic = metadata.topics().first().context("the topic is not in the answer")?;
    let numbers: Vec<_> = topic.partitions().iter().map(|partition| partition.id()).collect();
    ensure!(!numbers.is_empty(), "{} has no partitions: {:?}", topic.name(), topic.error());
    Ok(numbers)
}

fn consumer(client: &ClientConfig, isolation: &str, group: &str) -> Result<BaseConsumer> {
    let mut client = client.clone();
    client
        .set("group.id", group)
        .set("isolation.level", isolation)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "100");
    Ok(client.create()?)
}
