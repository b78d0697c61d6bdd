//! Asking a Kafka whether it serves, and for topics.

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::Metadata;
use std::path::PathBuf;
use std::time::Duration;

/// How long a broker may take to answer one question. It is asked again, so this need not be long.
const ANSWER: Duration = Duration::from_secs(2);

/// Whether every partition has a leader: then clients can work. A TCP connection proves nothing, a container
/// engine's proxy accepts one before there is a broker.
pub(super) async fn serves(client: &ClientConfig) -> Result<()> {
    let metadata = metadata(client, None).await?;
    ensure!(!metadata.brokers().is_empty(), "it knows of no broker");
    let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    ensure!(partitions.all(|partition| partition.leader() >= 0), "a partition has no leader");
    Ok(())
}

/// Creates a topic and waits until each of its partitions has a leader.
pub(super) async fn create_topic(
    client: &ClientConfig,
    name: &str,
    partitions: i32,
    configs: &[(&str, &str)],
) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let topic = configs.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    for result in admin.create_topics([&topic], &options).await? {
        result.map_err(|(_, error)| anyhow!("topic {name}: {error}"))?;
    }
    for _ in 0..300 {
        if has_leaders(client, name, partitions).await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(anyhow!("topic {name} was created, but not all of its partitions have a leader after 30 s"))
}

/// Where the broker keeps its logs.
pub(super) async fn log_dir(client: &ClientConfig) -> Result<PathBuf> {
    let brokers: Vec<i32> =
        metadata(client, None).await?.brokers().iter().map(|broker| broker.id()).collect();
    let broker = *brokers.first().context("there is no broker")?;
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    let asked = [ResourceSpecifier::Broker(broker)];
    let answer = admin.describe_configs(&asked, &AdminOptions::new()).await?;
    let settings = answer.into_iter().next().context("no answer")?;
    let settings = settings.map_err(|error| anyhow!("broker {broker}: {error}"))?;
    // Either may be set; the second one has a default.
    let names = ["log.dirs", "log.dir"];
    let found = names.iter().find_map(|name| settings.get(name)?.value.clone());
    Ok(found.with_context(|| format!("broker {broker} does not say where its logs are"))?.into())
}

async fn has_leaders(client: &ClientConfig, name: &str, partitions: i32) -> bool {
    let Ok(metadata) = metadata(client, Some(name.to_owned())).await else {
        return false;
    };
    let found = metadata.topics().iter().flat_map(|topic| topic.partitions());
    found.filter(|partition| partition.leader() >= 0).count()
        == usize::try_from(partitions).unwrap_or(0)
}

async fn metadata(client: &ClientConfig, topic: Option<String>) -> Result<Metadata> {
    let client = client.clone();
    let ask = move || -> Result<Metadata> {
        let consumer: BaseConsumer = client.create()?;
        consumer.fetch_metadata(topic.as_deref(), ANSWER).context("no metadata")
    };
    tokio::task::spawn_blocking(ask).await?
}
