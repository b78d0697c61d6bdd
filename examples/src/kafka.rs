//! Topics for the examples: made, filled, looked at.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Message, TopicPartitionList};
use tidegate::record::{Offset, PartitionId};

/// How long a broker may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a broker may take to get ready for what was never asked of it before: a topic that has just been created
/// has no leaders for a moment, and the first transaction makes the topic that transactions are kept in.
const READY: Duration = Duration::from_secs(60);

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("client.id", "tidegate-examples");
    config
}

/// Creates a topic; answers whether it was new.
///
/// # Errors
/// If the broker does not answer, or refuses.
pub async fn create_topic(bootstrap: &str, name: &str, partitions: i32) -> Result<bool> {
    let admin: AdminClient<DefaultClientContext> = client(bootstrap).create()?;
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(ANSWER));
    let results = admin.create_topics([&topic], &options).await;
    let results = results.with_context(|| format!("no Kafka answers at {bootstrap}"))?;
    for result in results {
        match result {
            Ok(_) => {}
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => return Ok(false),
            Err((_, error)) => return Err(anyhow!("topic {name} was not created: {error}")),
        }
    }
    Ok(true)
}

/// Deletes topics, as far as they are there.
///
/// # Errors
/// If the broker does not answer.
pub async fn delete_topics(bootstrap: &str, names: &[&str]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(bootstrap).create()?;
    admin.delete_topics(names, &AdminOptions::new()).await?;
    Ok(())
}

/// Puts records into a topic, each of a key and a value, and waits until all are stored. The
/// partition is murmur2 of the key, as Kafka's own clients choose it.
///
/// # Errors
/// If one was not stored.
pub fn fill<'a>(
    bootstrap: &str,
    topic: &str,
    records: impl IntoIterator<Item = (String, &'a str)>,
) -> Result<usize> {
    let mut config = client(bootstrap);
    config.set("enable.idempotence", "true");
    send(&producer(config)?, topic, records)
}

/// Creates the topic of an example and puts these records into it, all of them or none, unless
/// there are records in it.
///
/// # Errors
/// If the broker does not answer, or refuses.
pub async fn load<'a>(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    records: impl IntoIterator<Item = (String, &'a str)>,
) -> Result<()> {
    create_topic(bootstrap, topic, partitions).await?;
    if ends(bootstrap, topic)?.values().any(|end| *end > Offset::ZERO) {
        return Ok(());
    }
    let mut config = client(bootstrap);
    config.set("transactional.id", format!("{topic}-load"));
    let producer = producer(config)?;
    producer.init_transactions(READY)?;
    producer.begin_transaction()?;
    send(&producer, topic, records)?;
    producer.commit_transaction(READY).with_context(|| format!("topic {topic}"))?;
    visible(bootstrap, topic)
}

/// Waits until readers of committed data see all there is: a commit is answered before its markers are written.
fn visible(bootstrap: &str, topic: &str) -> Result<()> {
    let begun = Instant::now();
    while ends(bootstrap, topic)?
        != ends_of(client(bootstrap).set(ISOLATION, "read_uncommitted"), topic)?
    {
        ensure!(begun.elapsed() < READY, "topic {topic}: a transaction does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether records of open transactions count.
const ISOLATION: &str = "isolation.level";

fn producer(mut config: ClientConfig) -> Result<BaseProducer<Deliveries>> {
    config.set("partitioner", "murmur2_random");
    Ok(config.create_with_context(Deliveries::default())?)
}

fn send<'a>(
    producer: &BaseProducer<Deliveries>,
    topic: &str,
    records: impl IntoIterator<Item = (String, &'a str)>,
) -> Result<usize> {
    let mut sent = 0;
    for (key, value) in records {
        let mut record = BaseRecord::to(topic).key(&key).payload(value);
        while let Err((error, back)) = producer.send(record) {
            ensure!(
                error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull),
                "topic {topic} was not filled: {error}"
            );
            producer.poll(Duration::from_millis(10));
            record = back;
        }
        sent += 1;
    }
    producer.flush(Duration::from_secs(60)).with_context(|| format!("topic {topic}"))?;
    let failed = producer.context().failed.lock().expect("no holder of the lock panics").take();
    match failed {
        None => Ok(sent),
        Some(error) => Err(anyhow!("topic {topic} was not filled: {error}")),
    }
}

/// The end of each partition for readers of committed data. A topic whose partitions have no leaders yet is waited for.
///
/// # Errors
/// If the broker does not answer, or does not know the topic.
pub fn ends(bootstrap: &str, topic: &str) -> Result<BTreeMap<PartitionId, Offset>> {
    ends_of(client(bootstrap).set(ISOLATION, "read_committed"), topic)
}

fn ends_of(client: &ClientConfig, topic: &str) -> Result<BTreeMap<PartitionId, Offset>> {
    let consumer: BaseConsumer = client.create()?;
    let begun = Instant::now();
    loop {
        match ends_now(&consumer, topic) {
            Err(_) if begun.elapsed() < ANSWER => std::thread::sleep(Duration::from_millis(50)),
            result => return result,
        }
    }
}

fn ends_now(consumer: &BaseConsumer, topic: &str) -> Result<BTreeMap<PartitionId, Offset>> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER).context("no Kafka answers")?;
    let partitions = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
    ensure!(!partitions.is_empty(), "topic {topic} has no partitions yet");
    let mut ends = BTreeMap::new();
    for partition in partitions {
        let (_, end) = consumer.fetch_watermarks(topic, partition.id(), ANSWER)?;
        let end = Offset::try_new(end).with_context(|| format!("topic {topic} has no end"))?;
        ends.insert(PartitionId::new(topic, partition.id()), end);
    }
    Ok(ends)
}

/// The values of all records of a topic that a reader of committed data sees.
///
/// # Errors
/// If the broker does not answer.
pub fn committed_values(bootstrap: &str, topic: &str) -> Result<Vec<String>> {
    let mut config = client(bootstrap);
    // No member of a group: it only looks.
    config.set("group.id", "none").set("isolation.level", "read_committed");
    config.set("enable.partition.eof", "true").set("enable.auto.commit", "false");
    config.set("fetch.wait.max.ms", "10");
    let consumer: BaseConsumer = config.create()?;
    let mut all = TopicPartitionList::new();
    for partition in ends(bootstrap, topic)?.keys() {
        all.add_partition_offset(topic, partition.index(), rdkafka::Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let (mut values, mut ended, mut heard) = (Vec::new(), 0, Instant::now());
    while ended < all.count() {
        match consumer.poll(Duration::from_millis(100)) {
            None if heard.elapsed() > ANSWER * 3 => bail!("topic {topic} cannot be read"),
            None => continue,
            Some(Ok(record)) => {
                values.push(String::from_utf8_lossy(record.payload().unwrap_or_default()).into());
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => return Err(error).with_context(|| format!("topic {topic}")),
        }
        heard = Instant::now();
    }
    Ok(values)
}

/// Remembers the first record that was not stored.
#[derive(Default)]
struct Deliveries {
    failed: Mutex<Option<KafkaError>>,
}

impl rdkafka::ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut failed = self.failed.lock().expect("no holder of the lock panics");
            failed.get_or_insert_with(|| error.clone());
        }
    }
}
