//! Topics for the examples: made, filled, looked at.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use std::sync::Mutex;

/// How long a broker may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

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
    config.set("partitioner", "murmur2_random").set("enable.idempotence", "true");
    let producer: BaseProducer<Deliveries> = config.create_with_context(Deliveries::default())?;
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
