//! SIGTERM in every state a pipeline can be in: it ends in time, says how, and what it did is whole. The busy state and
//! the second signal are in `copier.rs`.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidegate_tests::audit::{Finding, Rules};
use tidegate_tests::fleet::{
    Copier, Ended, Mix, Orders, Planned, Scene, Store, Trail, generate, until,
};
use tidegate_tests::servers::{self, Kafka, Postgres, PostgresOptions, unique};

const COPIER: &str = env!("CARGO_BIN_EXE_copier");
const PARTITIONS: i32 = 4;
/// What anything here may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// How long a copier drains, and what leaving and closing may take besides.
const DRAIN_MS: &str = "2000";
const IN_TIME: Duration = Duration::from_secs(15);

async fn scene(kafka: &Kafka, partitions: i32, records: Vec<Planned>) -> Result<Scene> {
    let input = unique("input");
    kafka.create_topic(&input, partitions, &[]).await?;
    let scene = Scene::with_file(COPIER, kafka, &input)?;
    scene.feed(records).await?;
    Ok(scene)
}

fn copier(scene: &Scene, name: &str) -> Orders {
    scene.copier(name).flag("--retries", "2").flag("--threads", "2").flag("--drain-ms", DRAIN_MS)
}

fn trail_of(orders: &Orders) -> Result<Trail> {
    if orders.evidence().exists() { orders.trail() } else { Ok(Trail::default()) }
}

/// Waits until the copier has told of this.
async fn told(
    copier: &mut Copier,
    orders: &Orders,
    what: &str,
    enough: impl Fn(&Trail) -> bool,
) -> Result<()> {
    until(what, SOON, async || {
        ensure!(copier.is_running()?, "it ended: {}", copier.words());
        Ok(enough(&trail_of(orders)?))
    })
    .await
}

/// Asks the copier to end; it does so by itself, and in time.
async fn terminated(copier: &mut Copier) -> Result<Ended> {
    copier.signal("TERM")?;
    let asked = Instant::now();
    let ended = copier.end(IN_TIME).await?;
    ensure!(ended.signal.is_none(), "the signal itself ended it after {:?}", asked.elapsed());
    Ok(ended)
}

/// A copier without obstacles does the rest, and everything is there once.
async fn finish(scene: Scene, orders: Orders) -> Result<()> {
    let mut orders = orders;
    let mut finisher = orders.start()?;
    until("the rest", SOON, async || {
        ensure!(finisher.is_running()?, "it ended: {}", finisher.words());
        scene.is_done().await
    })
    .await?;
    terminated(&mut finisher).await?.with_code(0)?;
    let rules = Rules { retries: 2, ..Rules::default() };
    scene.audit(&rules).await?.exactly_once().map_err(anyhow::Error::msg)?;
    scene.passed();
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_a_start_that_waits_for_its_broker() -> Result<()> {
    let kafka = Kafka::shared().await?;
    // One address where nobody listens, and one where whoever listens says nothing.
    let (nobody, silent) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    let addresses = [nobody.local_addr()?, silent.local_addr()?];
    drop(nobody);
    for address in addresses {
        let scene = Scene::with_file(COPIER, kafka, &unique("input"))?;
        let Store::Sqlite(path) = scene.store.clone() else { unreachable!("asked for") };
        let mut orders = copier(&scene, "early").flag("--bootstrap", address.to_string());
        let mut early = orders.start()?;
        // The bookkeeping is there: what is waited for now is the broker.
        until("the sink to be open", SOON, async || {
            ensure!(early.is_running()?, "it ended: {}", early.words());
            Ok(path.exists() && tables(&path).await.is_ok_and(|names| names.len() > 1))
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let ended = terminated(&mut early).await?.with_code(0)?;
        ensure!(ended.last_line().starts_with("stored 0 of 0 records"), "{}", ended.last_line());
        ensure!(ended.words.contains("stopped before it had started"), "{}", ended.words);
        scene.passed();
    }
    Ok(())
}

async fn tables(path: &std::path::Path) -> Result<Vec<String>> {
    use sqlx::Connection;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).read_only(true);
    let mut database = sqlx::SqliteConnection::connect_with(&options).await?;
    let names = "select name from sqlite_master where type = 'table'";
    let names = sqlx::query_scalar(names).fetch_all(&mut database).await?;
    database.close().await?;
    Ok(names)
}

#[tokio::test]
async fn sigterm_ends_a_member_that_waits_for_its_first_partition() -> Result<()> {
    let kafka = Kafka::shared().await?;
    for protocol in ["classic", "consumer"] {
        // The only partition is another member's.
        let scene = scene(kafka, 1, generate(1, 200, 1, Mix::PLAIN)).await?;
        let orders = |name| copier(&scene, name).flag("--protocol", protocol);
        let (mut one, mut other) = (orders("owner"), orders("waiting"));
        let mut owner = one.start()?;
        told(&mut owner, &one, "the partition", |trail| trail.count("start") == 1).await?;
        let mut waiting = other.start()?;
        until("the second member", SOON, async || {
            ensure!(waiting.is_running()?, "it ended: {}", waiting.words());
            Ok(waiting.words().contains("started"))
        })
        .await?;
        // Long enough to have joined; which of the two has the partition then is the group's to say.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let idle = if holds_it(&one)? { &mut waiting } else { &mut owner };
        terminated(idle).await?.with_code(0).context(protocol)?;
        let rest = if owner.is_running()? { &mut owner } else { &mut waiting };
        told_done(rest, &scene).await?;
        terminated(rest).await?.with_code(0)?;
        let report = scene.audit(&Rules::default()).await?;
        report.exactly_once().map_err(anyhow::Error::msg)?;
        scene.passed();
    }
    Ok(())
}

/// Whether this copier was given more partitions than it gave back.
fn holds_it(orders: &Orders) -> Result<bool> {
    let trail = trail_of(orders)?;
    let named = |event| trail.all(event).map(|line| line.partitions.len()).sum::<usize>();
    Ok(named("assign") > named("revoke") + named("lost"))
}

async fn told_done(copier: &mut Copier, scene: &Scene) -> Result<()> {
    until("everything to be stored", SOON, async || {
        ensure!(copier.is_running()?, "it ended: {}", copier.words());
        scene.is_done().await
    })
    .await
}

#[tokio::test]
async fn sigterm_ends_a_pipeline_whose_topic_does_not_exist_and_the_next_one_waits_for_it()
-> Result<()> {
    let kafka = Kafka::shared().await?;
    let scene = Scene::with_file(COPIER, kafka, &unique("later"))?;
    let mut orders = copier(&scene, "early");
    let waits = |words: String| words.contains("source waits") && words.contains(&scene.input);
    for last in [false, true] {
        let mut copier = orders.start()?;
        until("it to say what it waits for", SOON, async || {
            ensure!(copier.is_running()?, "it ended: {}", copier.words());
            Ok(waits(copier.words()))
        })
        .await?;
        if last {
            kafka.create_topic(&scene.input, PARTITIONS, &[]).await?;
            scene.feed(generate(2, 500, PARTITIONS, Mix::ALL)).await?;
            told_done(&mut copier, &scene).await?;
        }
        terminated(&mut copier).await?.with_code(0)?;
    }
    let rules = Rules { retries: 2, ..Rules::default() };
    scene.audit(&rules).await?.exactly_once().map_err(anyhow::Error::msg)?;
    scene.passed();
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_an_idle_pipeline_with_everything_stored() -> Result<()> {
    let kafka = Kafka::shared().await?;
    let scene = scene(kafka, PARTITIONS, generate(3, 500, PARTITIONS, Mix::ALL)).await?;
    let mut idle = copier(&scene, "idle").start()?;
    told_done(&mut idle, &scene).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ended = terminated(&mut idle).await?.with_code(0)?;
    ensure!(ended.last_line().starts_with("stored 500 of 500"), "{}", ended.last_line());
    let rules = Rules { retries: 2, ..Rules::default() };
    scene.audit(&rules).await?.exactly_once().map_err(anyhow::Error::msg)?;
    scene.passed();
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_in_time_although_no_database_answers() -> Result<()> {
    let kafka = Kafka::shared().await?;
    let postgres = Postgres::start(PostgresOptions::new()).await?;
    let input = unique("input");
    kafka.create_topic(&input, PARTITIONS, &[]).await?;
    let scene = Scene::on(COPIER, kafka, Store::database(&postgres).await?, &input)?;
    scene.feed(generate(4, 4000, PARTITIONS, Mix::ALL)).await?;
    for dead in [false, true] {
        let mut orders = copier(&scene, if dead { "dead" } else { "paused" })
            .flag("--work-us", "2000..9000")
            .flag("--instance", "one");
        let mut copier = orders.start()?;
        told(&mut copier, &orders, "a commit", |trail| trail.fates("committed") > 0).await?;
        if dead {
            postgres.kill().await?
        } else {
            postgres.pause().await?
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ended = terminated(&mut copier).await?.with_code(1)?;
        // What could not be stored is named, not passed over.
        ensure!(ended.last_line().contains("stop_max"), "{}", ended.last_line());
        if dead {
            postgres.start_again().await?
        } else {
            postgres.resume().await?
        }
        postgres.ready().await?;
        let report = scene.audit(&Rules { retries: 2, ..Rules::default() }).await?;
        report.exactly_once_so_far().map_err(anyhow::Error::msg)?;
        ensure!(report.count(Finding::Unfinished) > 0, "it was done already");
    }
    let finisher = copier(&scene, "finisher").flag("--instance", "one");
    finish(scene, finisher).await
}

#[tokio::test]
async fn sigterm_ends_a_start_that_waits_for_its_database() -> Result<()> {
    let kafka = Kafka::shared().await?;
    let postgres = Postgres::start(PostgresOptions::new()).await?;
    let store = Store::database(&postgres).await?;
    let scene = Scene::on(COPIER, kafka, store, &unique("input"))?;
    for dead in [false, true] {
        if dead {
            postgres.kill().await?
        } else {
            postgres.pause().await?
        }
        let mut orders = copier(&scene, if dead { "dead" } else { "paused" });
        let mut early = orders.start()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ended = terminated(&mut early).await?.with_code(0)?;
        ensure!(ended.last_line().starts_with("stored 0 of 0 records"), "{}", ended.last_line());
        ensure!(ended.words.contains("stopped before it had started"), "{}", ended.words);
        if !dead {
            postgres.resume().await?;
        }
    }
    scene.passed();
    Ok(())
}

#[tokio::test]
async fn sigterm_does_not_wait_for_a_record_that_waits_for_its_retry() -> Result<()> {
    let kafka = Kafka::shared().await?;
    let mut records = generate(5, 300, 1, Mix::PLAIN);
    records[150].value = Some(b"poison:always".to_vec());
    let scene = scene(kafka, 1, records).await?;
    let mut orders = copier(&scene, "retrying")
        .flag("--retries", "1000000")
        .flag("--instance", "one")
        .flag("--drain-ms", "60000");
    let mut retrying = orders.start()?;
    told(&mut retrying, &orders, "what is before it", |trail| {
        trail.committed().any(|stretch| stretch.next == 150)
    })
    .await?;
    // By now it waits a second between two calls.
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Not the minute of the drain.
    let ended = terminated(&mut retrying).await?.with_code(0)?;
    ensure!(ended.last_line().starts_with("stored 150 of"), "{}", ended.last_line());
    let report = scene.audit(&Rules { retries: 2, ..Rules::default() }).await?;
    report.exactly_once_so_far().map_err(anyhow::Error::msg)?;
    let finisher = copier(&scene, "finisher").flag("--instance", "one");
    finish(scene, finisher).await
}

#[tokio::test]
async fn sigterm_ends_at_its_deadline_although_a_function_hangs() -> Result<()> {
    let shared = servers::shared().await?;
    for (name, work) in [("thread", "sleep"), ("task", "async"), ("busy thread", "spin")] {
        let input = unique("input");
        shared.kafka.create_topic(&input, PARTITIONS, &[]).await?;
        let store = Store::database(shared.postgres).await?;
        let scene = Scene::on(COPIER, shared.kafka, store, &input)?;
        scene.feed(generate(6, 400, PARTITIONS, Mix::ALL)).await?;
        let mut orders = copier(&scene, name)
            .flag("--work", work)
            .flag("--work-us", "3600000000..3600000000")
            .flag("--instance", "one");
        let mut hanging = orders.start()?;
        told(&mut hanging, &orders, "the first records", |trail| {
            trail.count("start") == usize::try_from(PARTITIONS).expect("few")
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ended = terminated(&mut hanging).await?.with_code(1).context(name)?;
        let says = ended.last_line();
        // Which record it was, and which setting allows it more time.
        ensure!(says.contains("stop_max") && says.contains(&scene.input), "{says}");
        let finisher = copier(&scene, "finisher").flag("--instance", "one");
        finish(scene, finisher).await.context(name)?;
    }
    Ok(())
}
