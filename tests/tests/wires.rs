//! Answers that are lost, and requests that arrive late: the moments in which a client cannot know whether its commit
//! was carried out, on real servers, one at a time and with calm afterwards.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use tidegate_tests::audit::Wanted;
use tidegate_tests::fleet::staged::{SOON, commits, copier, feed, finish, rules, slow};
use tidegate_tests::fleet::{Feed, Mix, Orders, Scene, Store, generate};
use tidegate_tests::segments::transactions_agree;
use tidegate_tests::servers::{self, Kafka, KafkaOptions, unique};
use tidegate_tests::wire::{Act, Protocol, Trap, What, Wire, api};

const COPIER: &str = env!("CARGO_BIN_EXE_copier");
const PARTITIONS: i32 = 4;
/// Longer than the copier's producer waits for an answer: half of its transaction time-out.
const LATE: Duration = Duration::from_secs(7);

/// How large the batches of a copier are: within PostgreSQL's one statement, or a transaction of several steps.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Batches {
    Small,
    Large,
}

/// What becomes of a commit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    /// The server has carried it out and nobody hears of it.
    Answer,
    /// It never reaches the server.
    Request,
    /// The client is cut off, and the server gets it at once.
    Late,
    /// The client is cut off, goes on by itself, and then the server gets it.
    TooLate,
}

#[tokio::test]
async fn a_commit_to_postgres_with_a_lost_answer_ends_exactly_once_without_an_operator()
-> Result<()> {
    for batches in [Batches::Small, Batches::Large] {
        let losses = [Loss::Answer, Loss::Request, Loss::Late, Loss::TooLate];
        let lost = losses.map(async |loss| {
            lost_at_postgres(batches, loss).await.with_context(|| format!("{batches:?}, {loss:?}"))
        });
        try_join_all(lost).await?;
    }
    Ok(())
}

async fn lost_at_postgres(batches: Batches, loss: Loss) -> Result<()> {
    let shared = servers::shared().await?;
    let input = unique("input");
    shared.kafka.create_topic(&input, PARTITIONS, &[]).await?;
    let store = Store::database(shared.postgres).await?;
    let Store::Postgres(url) = &store else { unreachable!("asked for") };
    let (wire, through) = wired(url)?;
    let scene = Scene::on(COPIER, shared.kafka, store, &input)?;
    let input = match batches {
        Batches::Small => Some(feed(&scene, 20, PARTITIONS)),
        // Batches are large only while there is more to read than is read: all of it is there from the beginning, and
        // is more than the rounds can take.
        Batches::Large => {
            scene.feed(generate(21, 120_000, PARTITIONS, Mix::PLAIN)).await?;
            None
        }
    };
    let orders = copier(&scene, "copier").flag("--sink", format!("postgres:{through}"));
    let mut orders = match batches {
        Batches::Small => slow(orders),
        Batches::Large => orders
            .flag("--commit-interval-ms", "3000")
            .flag("--commit-records", "8000")
            .flag("--in-flight", "16000"),
    };
    let act = match loss {
        Loss::Answer => Act::LoseAnswer,
        Loss::Request => Act::LoseRequest,
        Loss::Late | Loss::TooLate => Act::CutAndHold,
    };
    let rounds = if batches == Batches::Small { 3 } else { 2 };
    let mut copier = orders.start()?;
    // The first that ends a transaction with the table's name in it is the one that creates the table.
    commits(&mut copier, &orders, 1).await?;
    for round in 0..rounds {
        let trap = wire.trap(act, |what| what.commits_into("copied"));
        trap.hit(SOON).await?;
        if loss == Loss::Late {
            trap.open();
        }
        let caught = orders.committed()?;
        commits(&mut copier, &orders, caught + 1)
            .await
            .with_context(|| format!("round {round}"))?;
        trap.open();
    }
    if let Some(input) = input {
        input.end().await?;
    }
    finish(&scene, vec![copier]).await?;
    let trail = orders.trail()?;
    let (doubts, resolved) = (trail.fates("in_doubt"), trail.count("fate"));
    println!("{batches:?}, {loss:?}: {doubts} in doubt, {resolved} resolved");
    ensure!(doubts >= rounds && resolved >= rounds, "{doubts} in doubt, {resolved} resolved");
    scene.passed();
    Ok(())
}

/// A wire to this database, and the database's URL through it.
fn wired(url: &str) -> Result<(Wire, String)> {
    let (front, rest) = url.split_once('@').context("a URL with a user")?;
    let (address, rest) = rest.split_once('/').context("a URL with a database")?;
    let wire = Wire::to(address.to_owned(), Protocol::Postgres)?;
    let through = format!("{front}@{}/{rest}", wire.address());
    Ok((wire, through))
}

/// A broker with a wire, an input on it, and a copier from there to there that meets the broker through the wire only.
struct Stage {
    kafka: Kafka,
    scene: Scene,
    orders: Orders,
    /// Brings input until it is dropped, so that there is always something to commit.
    feed: Feed,
}

async fn stage(seed: u64) -> Result<Stage> {
    let kafka = Kafka::start(KafkaOptions::new().wires(1)).await?;
    let input = unique("input");
    kafka.create_topic(&input, PARTITIONS, &[]).await?;
    let scene = Scene::on(COPIER, &kafka, Store::topic(&kafka, PARTITIONS).await?, &input)?;
    let feed = feed(&scene, seed, PARTITIONS);
    let orders = slow(copier(&scene, "copier"))
        .flag("--instance", "copier")
        .flag("--bootstrap", kafka.wire(0).address());
    Ok(Stage { kafka, scene, orders, feed })
}

fn ends_transaction(what: &What) -> bool {
    matches!(what, What::Kafka { api: api::END_TXN, commits: true })
}

/// Springs a trap on the commit of a running copier, several times; `then` says when to open it.
async fn lost_at_kafka(act: Act, seed: u64, then: Opening) -> Result<()> {
    let Stage { kafka, scene, mut orders, feed } = stage(seed).await?;
    let wire = kafka.wire(0);
    let mut running = orders.start()?;
    for round in 0..3 {
        let before = orders.committed()?;
        commits(&mut running, &orders, before + 2).await?;
        let trap = wire.trap(act, ends_transaction);
        trap.hit(SOON).await?;
        let next = wire.trap(Act::Pass, |what| what.is_api(api::ADD_OFFSETS_TO_TXN));
        match then {
            Opening::Never => {}
            Opening::AfterTheNextBegin => next.hit(SOON).await?,
            Opening::After(time) => tokio::time::sleep(time).await,
        }
        trap.open();
        let before = orders.committed()?;
        commits(&mut running, &orders, before + 2)
            .await
            .with_context(|| format!("{act:?}, round {round}"))?;
    }
    feed.end().await?;
    finish(&scene, vec![running]).await?;
    let trail = orders.trail()?;
    let settled = trail.fates("in_doubt") + trail.fates("aborted");
    println!("{act:?}: {} in doubt, {} aborted", trail.fates("in_doubt"), trail.fates("aborted"));
    ensure!(settled >= 3, "only {settled} commits were noticed to have gone wrong");
    scene.passed();
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Opening {
    Never,
    AfterTheNextBegin,
    After(Duration),
}

#[tokio::test]
async fn the_end_of_a_transaction_whose_answer_is_lost_ends_exactly_once() -> Result<()> {
    lost_at_kafka(Act::LoseAnswer, 22, Opening::Never).await
}

#[tokio::test]
async fn the_end_of_a_transaction_that_is_lost_ends_exactly_once() -> Result<()> {
    lost_at_kafka(Act::LoseRequest, 23, Opening::Never).await
}

#[tokio::test]
async fn the_end_of_a_transaction_that_arrives_in_the_next_one_ends_neither() -> Result<()> {
    lost_at_kafka(Act::Hold, 24, Opening::AfterTheNextBegin).await
}

#[tokio::test]
async fn the_end_of_a_transaction_that_is_answered_too_late_ends_exactly_once() -> Result<()> {
    lost_at_kafka(Act::HoldAnswer, 25, Opening::After(LATE)).await
}

#[tokio::test]
async fn records_that_arrive_late_are_not_stored_beside_their_repetition() -> Result<()> {
    let Stage { kafka, scene, mut orders, feed } = stage(26).await?;
    let wire = kafka.wire(0);
    let mut running = orders.start()?;
    for round in 0..2 {
        let before = orders.committed()?;
        commits(&mut running, &orders, before + 2).await?;
        let trap = wire.trap(Act::Hold, |what| what.is_api(api::PRODUCE));
        trap.hit(SOON).await?;
        let before = orders.committed()?;
        commits(&mut running, &orders, before + 1)
            .await
            .with_context(|| format!("behind records that hang, round {round}"))?;
        trap.open();
        let before = orders.committed()?;
        commits(&mut running, &orders, before + 1).await?;
    }
    feed.end().await?;
    finish(&scene, vec![running]).await?;
    scene.passed();
    Ok(())
}

/// Holds everything that is produced, however often it is sent again, until the client has given its transaction up.
async fn held_until_given_up(wire: &Wire) -> Result<Vec<Arc<Trap>>> {
    let mut held = Vec::new();
    let given_up = wire.trap(Act::Pass, |what| {
        matches!(what, What::Kafka { api: api::END_TXN, commits: false })
            || what.is_api(api::INIT_PRODUCER_ID)
    });
    loop {
        let trap = wire.trap(Act::Hold, |what| what.is_api(api::PRODUCE));
        tokio::select! {
            hit = trap.hit(SOON) => hit?,
            hit = given_up.hit(SOON) => {
                trap.disarm();
                hit?;
                return Ok(held);
            }
        }
        held.push(trap);
    }
}

#[tokio::test]
async fn records_that_arrive_after_their_transaction_was_aborted_are_not_part_of_the_next()
-> Result<()> {
    let Stage { kafka, scene, mut orders, feed } = stage(28).await?;
    let wire = kafka.wire(0);
    let mut running = orders.start()?;
    for round in 0..2 {
        let before = orders.committed()?;
        commits(&mut running, &orders, before + 2).await?;
        let held = held_until_given_up(wire).await?;
        ensure!(!held.is_empty(), "nothing was held, round {round}");
        wire.trap(Act::Pass, |what| what.is_api(api::ADD_PARTITIONS_TO_TXN)).hit(SOON).await?;
        held.iter().for_each(|trap| trap.open());
        let before = orders.committed()?;
        commits(&mut running, &orders, before + 2)
            .await
            .with_context(|| format!("beside late records, round {round}"))?;
    }
    feed.end().await?;
    finish(&scene, vec![running]).await?;
    let trail = orders.trail()?;
    let given_up = trail.fates("in_doubt") + trail.fates("aborted");
    ensure!(given_up >= 2, "only {given_up} transactions were given up");
    let (evidence, _) = scene.evidence().await?;
    let wanted = Wanted::of(&evidence.inputs, &rules());
    let agreed = transactions_agree(&kafka, &scene, &evidence, &wanted).await?;
    let agreed = agreed.context("there are topics")?;
    ensure!(agreed.committed > 0, "no transaction was compared");
    println!("{given_up} given up; {agreed}");
    scene.passed();
    Ok(())
}

#[tokio::test]
async fn stored_offsets_that_come_late_in_a_rebalance_are_not_taken_for_newer_ones() -> Result<()> {
    let Stage { kafka, scene, mut orders, feed } = stage(27).await?;
    let wire = kafka.wire(0);
    let fetch = |what: &What| what.is_api(api::OFFSET_FETCH);
    let trap = wire.trap(Act::HoldAnswer, fetch);
    let mut first = orders.start()?;
    trap.hit(SOON).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    trap.open();
    commits(&mut first, &orders, 3).await?;
    let mut others = slow(copier(&scene, "other")).flag("--bootstrap", wire.address());
    for _ in 0..2 {
        // The next one to ask is the other as it comes, and the first as it gets back what the other had.
        let trap = wire.trap(Act::HoldAnswer, fetch);
        let mut other = others.start()?;
        trap.hit(SOON).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        trap.open();
        let before = others.committed()?;
        commits(&mut other, &others, before + 2).await.context("the other")?;
        let trap = wire.trap(Act::HoldAnswer, fetch);
        other.kill().await?;
        trap.hit(SOON).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        trap.open();
    }
    feed.end().await?;
    finish(&scene, vec![first]).await?;
    scene.passed();
    Ok(())
}
