//! The servers of the tests do what tests rely on: they serve, they can be broken, and what was acknowledged
//! before is there after.

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use sqlx::{Connection, PgConnection};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tidegate_tests::servers::{self, Kafka, KafkaOptions, Postgres, PostgresOptions, unique};
use tokio::time::timeout;

#[tokio::test]
async fn shared_servers_serve_under_unique_names() -> Result<()> {
    let shared = servers::shared().await?;
    let topic = unique("servers");
    shared.kafka.create_topic(&topic, 3, &[("cleanup.policy", "compact")]).await?;
    let again = shared.kafka.create_topic(&topic, 3, &[]).await;
    assert!(again.is_err(), "a second topic of the same name must be refused");

    transaction(shared.kafka, &topic, "aborted", 0..10, End::Abort)?;
    transaction(shared.kafka, &topic, "committed", 10..200, End::Commit)?;
    assert_eq!(committed(shared.kafka, &topic)?, (10..200).collect());

    let (one, other) =
        (shared.postgres.new_database().await?, shared.postgres.new_database().await?);
    assert_ne!(one, other);
    insert(&one, 1).await?;
    assert_eq!(rows(&one).await?, [1]);
    assert!(rows(&other).await.is_err(), "databases must not share tables");
    Ok(())
}

#[tokio::test]
async fn a_shared_server_refuses_to_be_broken_by_one_test() -> Result<()> {
    let kafka = Kafka::shared().await?;
    assert!(kafka.kill().await.is_err());
    kafka.ready().await
}

#[tokio::test]
async fn a_killed_broker_keeps_what_was_committed() -> Result<()> {
    let kafka = Kafka::start(KafkaOptions::new().separate_controller()).await?;
    kafka.create_topic("t", 3, &[]).await?;
    transaction(&kafka, "t", "p", 0..100, End::Commit)?;

    kafka.kill().await?;
    assert!(
        transaction_within(&kafka, "t", "q", 1000..1001, End::Commit, Duration::from_secs(2))
            .is_err()
    );
    assert!(kafka.kill().await.is_err(), "a dead broker cannot be killed");
    kafka.start_again().await?;

    transaction(&kafka, "t", "p", 100..200, End::Commit)?;
    assert_eq!(committed(&kafka, "t")?, (0..200).collect());
    ensure!(!kafka.lost_markers().await?, "broker lost markers: result unknown");
    Ok(())
}

/// The controller has given it up already, and says so no second time.
#[tokio::test]
async fn a_broker_that_is_killed_after_a_long_pause_comes_back() -> Result<()> {
    let kafka = Kafka::start(KafkaOptions::new().separate_controller()).await?;
    kafka.create_topic("t", 1, &[]).await?;
    kafka.pause().await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    kafka.kill().await?;
    kafka.start_again().await?;
    transaction(&kafka, "t", "p", 0..10, End::Commit)
}

#[tokio::test]
async fn a_paused_broker_answers_nothing_until_it_is_resumed() -> Result<()> {
    let kafka = Kafka::start(KafkaOptions::new()).await?;
    kafka.create_topic("t", 1, &[]).await?;
    assert!(kafka.kill().await.is_err(), "a combined Kafka must not be killed: it loses markers");
    kafka.pause().await?;
    assert!(metadata(&kafka.client()).is_err(), "a paused broker must not answer");
    kafka.resume().await?;
    kafka.ready().await?;
    transaction(&kafka, "t", "p", 0..10, End::Commit)?;
    assert_eq!(committed(&kafka, "t")?, (0..10).collect());
    Ok(())
}

#[tokio::test]
async fn a_broker_takes_the_properties_of_its_test() -> Result<()> {
    let kafka =
        Kafka::start(KafkaOptions::new().property("transaction.max.timeout.ms", 5000)).await?;
    kafka.create_topic("t", 1, &[]).await?;
    // The client's default of a minute is over that maximum.
    let error =
        transaction(&kafka, "t", "p", 0..1, End::Commit).expect_err("over the broker's maximum");
    assert!(format!("{error:#}").contains("maximum value allowed by the broker"), "{error:#}");
    Ok(())
}

#[tokio::test]
async fn a_secure_listener_lets_in_who_it_knows_and_who_knows_it() -> Result<()> {
    let kafka = Kafka::start(KafkaOptions::new().secure()).await?;
    let secure = kafka.secure()?;
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "OAUTHBEARER"] {
        metadata(&secure.client(mechanism)).context(mechanism)?;
    }
    let wrong_password = secure.client("SCRAM-SHA-256").set("sasl.password", "wrong").to_owned();
    assert!(metadata(&wrong_password).is_err(), "a wrong password must be refused");
    // Trusting only the system's authorities, a client must not believe this broker.
    let mut stranger = secure.client("SCRAM-SHA-256");
    stranger.remove("ssl.ca.pem");
    assert!(metadata(&stranger).is_err(), "an unknown authority must be refused");
    let plaintext = kafka.client().set("bootstrap.servers", secure.bootstrap()).to_owned();
    assert!(metadata(&plaintext).is_err(), "plain text must be refused");
    Ok(())
}

#[tokio::test]
async fn a_killed_postgres_keeps_what_was_committed() -> Result<()> {
    let postgres = Postgres::start(PostgresOptions::new().setting("max_connections", 33)).await?;
    let url = postgres.new_database().await?;
    insert(&url, 1).await?;
    let mut open = PgConnection::connect(&url).await?;
    let (limit,): (String,) = sqlx::query_as("show max_connections").fetch_one(&mut open).await?;
    assert_eq!(limit, "33");
    sqlx::query("begin").execute(&mut open).await?;
    sqlx::query("insert into t values (2)").execute(&mut open).await?;

    postgres.kill().await?;
    assert!(
        sqlx::query("commit").execute(&mut open).await.is_err(),
        "a killed server must not commit"
    );
    assert!(PgConnection::connect(&url).await.is_err(), "a killed server must not answer");
    postgres.start_again().await?;
    assert_eq!(rows(&url).await?, [1]);

    postgres.pause().await?;
    assert!(
        timeout(Duration::from_secs(1), rows(&url)).await.is_err(),
        "a paused server must not answer"
    );
    postgres.resume().await?;
    postgres.ready().await?;
    insert(&url, 3).await?;
    assert_eq!(rows(&url).await?, [1, 3]);
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_refused() -> Result<()> {
    let postgres = Postgres::shared().await?;
    let wrong = postgres.url().replace(":tidegate@", ":wrong@");
    ensure!(wrong != postgres.url(), "the shared server has another password");
    let error = PgConnection::connect(&wrong).await.expect_err("the password is wrong");
    assert!(error.to_string().contains("password"), "{error}");
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Commit,
    Abort,
}

fn transaction(
    kafka: &Kafka,
    topic: &str,
    id: &str,
    keys: std::ops::Range<u32>,
    end: End,
) -> Result<()> {
    transaction_within(kafka, topic, id, keys, end, Duration::from_secs(60))
}

fn transaction_within(
    kafka: &Kafka,
    topic: &str,
    id: &str,
    keys: std::ops::Range<u32>,
    end: End,
    within: Duration,
) -> Result<()> {
    let id = format!("{topic}-{id}");
    // zstd, because a broker without its native library fails only there.
    let config =
        kafka.client().set("transactional.id", id).set("compression.type", "zstd").to_owned();
    let producer: BaseProducer = config.create()?;
    producer.init_transactions(within).context("init")?;
    producer.begin_transaction()?;
    for key in keys {
        let (key, value) = (key.to_string(), format!("value {key}"));
        producer
            .send(BaseRecord::to(topic).key(&key).payload(&value))
            .map_err(|(error, _)| error)?;
    }
    match end {
        End::Commit => producer.commit_transaction(within).context("commit")?,
        End::Abort => {
            producer.flush(within)?;
            producer.abort_transaction(within).context("abort")?;
        }
    }
    Ok(())
}

/// The keys that a reader of committed records sees from the beginning to the end; each must be there once.
fn committed(kafka: &Kafka, topic: &str) -> Result<BTreeSet<u32>> {
    let mut config = kafka.client();
    config
        .set("group.id", "unused")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create()?;
    let partitions = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?.topics()[0]
        .partitions()
        .len();
    let mut all = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions)? {
        all.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    // Not as a member of the group: this is about the server, and a group's first start takes longer than the rest.
    consumer.assign(&all)?;
    let (mut keys, mut ended, start) = (BTreeSet::new(), BTreeSet::new(), Instant::now());
    while ended.len() < partitions {
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "only {} keys after a minute",
            keys.len()
        );
        match consumer.poll(Timeout::After(Duration::from_millis(100))) {
            Some(Ok(record)) => {
                let key = std::str::from_utf8(record.key().context("no key")?)?.parse()?;
                ensure!(keys.insert(key), "{key} is there twice");
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
    }
    Ok(keys)
}

fn metadata(client: &ClientConfig) -> Result<()> {
    let consumer: BaseConsumer = client.create()?;
    consumer.fetch_metadata(None, Duration::from_secs(3))?;
    Ok(())
}

async fn insert(url: &str, value: i32) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query("create table if not exists t (v int)").execute(&mut connection).await?;
    sqlx::query("insert into t values ($1)").bind(value).execute(&mut connection).await?;
    Ok(())
}

async fn rows(url: &str) -> Result<Vec<i32>> {
    let mut connection = PgConnection::connect(url).await?;
    Ok(sqlx::query_scalar("select v from t order by v").fetch_all(&mut connection).await?)
}
