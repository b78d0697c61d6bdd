//! The copier keeps its word where nothing breaks: every sink, guarantee and order; every way to start and to end it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidegate_tests::audit::{Failed, Finding, Rules};
use tidegate_tests::fleet::{Copier, Ended, Mix, Orders, Progress, Scene, Store, generate, until};
use tidegate_tests::servers::{self, Kafka, KafkaOptions, Shared, unique};

const COPIER: &str = env!("CARGO_BIN_EXE_copier");
/// What a copier may take to come up, work through a small input and end on a busy machine.
const SOON: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 4;
const RECORDS: usize = 5000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Kafka,
    Postgres,
    Sqlite,
}

async fn scene(shared: Shared, kind: Kind, input: &str) -> Result<Scene> {
    let store = match kind {
        Kind::Kafka => Store::topic(shared.kafka, PARTITIONS).await?,
        Kind::Postgres => Store::database(shared.postgres).await?,
        Kind::Sqlite => return Scene::with_file(COPIER, shared.kafka, input),
    };
    Scene::on(COPIER, shared.kafka, store, input)
}

async fn new_input(shared: Shared) -> Result<String> {
    let input = unique("input");
    shared.kafka.create_topic(&input, PARTITIONS, &[]).await?;
    Ok(input)
}

/// A copier that ends by itself when the input is done.
fn quick(scene: &Scene, name: &str) -> Orders {
    scene
        .copier(name)
        .flag("--retries", "2")
        .flag("--threads", "2")
        .flag("--exit-when-idle-ms", "1000")
}

fn rules() -> Rules {
    Rules { retries: 2, ..Rules::default() }
}

/// Every guarantee and order into one kind of sink, all from the same input.
async fn copies_everything_into(kind: Kind) -> Result<()> {
    let shared = servers::shared().await?;
    let input = new_input(shared).await?;
    let first = scene(shared, kind, &input).await?;
    first.feed(generate(1, RECORDS, PARTITIONS, Mix::ALL)).await?;
    first.passed();
    for guarantee in ["exactly-once", "at-least-once", "at-most-once"] {
        for order in ["partition", "key", "none"] {
            let mut scene = scene(shared, kind, &input).await?;
            if guarantee != "exactly-once" {
                scene.progress = Progress::Group;
            }
            let what = format!("{kind:?}, {guarantee}, order {order}");
            let mut orders =
                quick(&scene, "copier").flag("--guarantee", guarantee).flag("--order", order);
            let ended = orders.start()?.end(SOON).await.context(what.clone())?;
            ended.with_code(0).context(what.clone())?;
            let report = scene.audit(&rules()).await.context(what.clone())?;
            // Where nothing breaks, the weaker guarantees are exact too.
            let compared =
                report.exactly_once().map_err(anyhow::Error::msg).context(what.clone())?;
            ensure!(compared.done == RECORDS, "{what}: {compared:?}");
            let trail = orders.trail()?;
            for event in ["assign", "claim", "start", "cut", "commit", "dead_letter", "stopping"] {
                ensure!(trail.count(event) > 0, "{what}: no event {event} in the evidence");
            }
            ensure!(trail.overlap().is_none(), "{what}: {:?}", trail.overlap());
            scene.passed();
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_guarantee_and_order_is_exact_into_kafka() -> Result<()> {
    copies_everything_into(Kind::Kafka).await
}

#[tokio::test]
async fn every_guarantee_and_order_is_exact_into_postgres() -> Result<()> {
    copies_everything_into(Kind::Postgres).await
}

#[tokio::test]
async fn every_guarantee_and_order_is_exact_into_sqlite() -> Result<()> {
    copies_everything_into(Kind::Sqlite).await
}
