//! The copier keeps its word where nothing breaks: every sink, guarantee and order; every way to start and to end it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use tidegate_tests::audit::{Evidence, Failed, Finding, Rules};
use tidegate_tests::fleet::{Copier, Mix, Orders, Progress, Scene, Store, generate, until};
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
        .flag("--exit-when-idle-ms", "700")
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
    // Most of a copier's life is waiting for others: three at a time.
    for guarantee in ["exactly-once", "at-least-once", "at-most-once"] {
        let runs = ["partition", "key", "none"]
            .map(|order| copies_all(shared, kind, &input, guarantee, order));
        for (order, result) in ["partition", "key", "none"].iter().zip(join_all(runs).await) {
            result.context(format!("{kind:?}, {guarantee}, order {order}"))?;
        }
    }
    Ok(())
}

async fn copies_all(
    shared: Shared,
    kind: Kind,
    input: &str,
    guarantee: &str,
    order: &str,
) -> Result<()> {
    let mut scene = scene(shared, kind, input).await?;
    if guarantee != "exactly-once" {
        scene.progress = Progress::Group;
    }
    let mut orders = quick(&scene, "copier").flag("--guarantee", guarantee).flag("--order", order);
    orders.start()?.end(SOON).await?.with_code(0)?;
    let report = scene.audit(&rules()).await?;
    // Where nothing breaks, the weaker guarantees are exact too.
    let compared = report.exactly_once().map_err(anyhow::Error::msg)?;
    ensure!(compared.done == RECORDS, "{compared:?}");
    let trail = orders.trail()?;
    for event in ["assign", "claim", "start", "cut", "commit", "dead_letter", "stopping"] {
        ensure!(trail.count(event) > 0, "no event {event} in the evidence");
    }
    ensure!(trail.overlap().is_none(), "{:?}", trail.overlap());
    if let Store::Kafka(_) = &scene.store {
        every_copy_lies_where_its_key_says(&scene.evidence().await?.0)?;
    }
    scene.passed();
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

/// By murmur2 of the key, as Kafka's own producers do; where there is no key, in the partition it came from.
fn every_copy_lies_where_its_key_says(evidence: &Evidence) -> Result<()> {
    ensure!(!evidence.outputs.is_empty(), "no copies");
    for output in &evidence.outputs {
        let home = match &output.key {
            Some(key) => i32::try_from((murmur2(key) & 0x7fff_ffff) % PARTITIONS.unsigned_abs())?,
            None => output.source.0.1,
        };
        ensure!(output.stream == home, "{:?} is not in partition {home}", output);
    }
    Ok(())
}

fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(bytes.len()).expect("keys are short");
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let mut mixed = u32::from_le_bytes(word.try_into().expect("four bytes")).wrapping_mul(M);
        mixed = (mixed ^ (mixed >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ mixed;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[tokio::test]
async fn members_of_the_consumer_protocol_share_the_work_of_async_functions() -> Result<()> {
    let shared = servers::shared().await?;
    let input = new_input(shared).await?;
    let scene = scene(shared, Kind::Sqlite, &input).await?;
    scene.feed(generate(2, RECORDS, PARTITIONS, Mix::ALL)).await?;
    let orders = |name| {
        quick(&scene, name)
            .flag("--protocol", "consumer")
            .flag("--work", "async")
            .flag("--work-us", "1000..3000")
            .flag("--order", "key")
    };
    let (mut one, mut other) = (orders("one"), orders("other"));
    let (mut first, mut second) = (one.start()?, other.start()?);
    first.end(SOON).await?.with_code(0)?;
    second.end(SOON).await?.with_code(0)?;
    scene.audit(&rules()).await?.exactly_once().map_err(anyhow::Error::msg)?;
    for orders in [&one, &other] {
        ensure!(orders.trail()?.count("claim") > 0, "one member had nothing to do");
    }
    scene.passed();
    Ok(())
}

/// A copier that is in the middle of slow work.
async fn at_work(scene: &Scene, orders: &mut Orders) -> Result<Copier> {
    let mut copier = orders.start()?;
    until("the first commit", SOON, async || {
        ensure!(copier.is_running()?, "it ended: {}", copier.words());
        Ok(orders.evidence().exists() && orders.trail()?.fates("committed") > 0)
    })
    .await?;
    ensure!(!scene.is_done().await?, "it is done already, nothing will be interrupted");
    Ok(copier)
}

/// Lets a second copier finish, and audits.
async fn finish(scene: Scene) -> Result<()> {
    let mut finisher = scene.copier("finisher").flag("--retries", "2").start()?;
    until("the rest", SOON, async || {
        ensure!(finisher.is_running()?, "it ended: {}", finisher.words());
        scene.is_done().await
    })
    .await?;
    finisher.signal("TERM")?;
    finisher.end(SOON).await?.with_code(0)?;
    scene.audit(&rules()).await?.exactly_once().map_err(anyhow::Error::msg)?;
    scene.passed();
    Ok(())
}

#[tokio::test]
async fn sigterm_drains_what_runs_and_the_next_copier_goes_on_behind_it() -> Result<()> {
    let shared = servers::shared().await?;
    let input = new_input(shared).await?;
    scene(shared, Kind::Kafka, &input)
        .await?
        .feed_and_pass(generate(3, 2000, PARTITIONS, Mix::ALL))
        .await?;
    for kind in [Kind::Kafka, Kind::Postgres, Kind::Sqlite] {
        let scene = scene(shared, kind, &input).await?;
        let mut orders = quick(&scene, "drained").flag("--work-us", "1000..5000");
        let mut copier = at_work(&scene, &mut orders).await?;
        copier.signal("TERM")?;
        copier.end(SOON).await?.with_code(0)?;
        // A clean stop leaves nothing half done: results and progress agree at once.
        let report = scene.audit(&rules()).await?;
        report.exactly_once_so_far().map_err(anyhow::Error::msg).context(format!("{kind:?}"))?;
        ensure!(report.count(Finding::Unfinished) > 0, "{kind:?}: it was done already");
        finish(scene).await.context(format!("{kind:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once_and_breaks_nothing() -> Result<()> {
    let shared = servers::shared().await?;
    let input = new_input(shared).await?;
    scene(shared, Kind::Kafka, &input)
        .await?
        .feed_and_pass(generate(4, 2000, PARTITIONS, Mix::ALL))
        .await?;
    for kind in [Kind::Kafka, Kind::Postgres, Kind::Sqlite] {
        let scene = scene(shared, kind, &input).await?;
        // Instead of the drain's minute, the copier is to take no time at all.
        let mut orders = quick(&scene, "impatient")
            .flag("--work-us", "2000000..2000000")
            .flag("--drain-ms", "60000")
            .flag("--instance", "impatient");
        let mut copier = orders.start()?;
        until("the first assignment", SOON, async || {
            Ok(orders.evidence().exists() && orders.trail()?.count("start") > 0)
        })
        .await?;
        copier.signal("TERM")?;
        until("the drain", SOON, async || Ok(orders.trail()?.count("stopping") > 0)).await?;
        copier.signal("TERM")?;
        let ended = copier.end(Duration::from_secs(10)).await?.with_code(1)?;
        ensure!(ended.last_line().contains("second request to stop"), "{}", ended.last_line());
        let scene_group = scene.group.clone();
        // Static membership: nobody waits for the session of the one that is gone.
        quick(&scene, "finisher")
            .flag("--instance", "impatient")
            .start()?
            .end(SOON)
            .await?
            .with_code(0)?;
        let report = scene.audit(&rules()).await?;
        report
            .exactly_once()
            .map_err(anyhow::Error::msg)
            .context(format!("{kind:?} {scene_group}"))?;
        scene.passed();
    }
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_in_time_although_no_broker_answers() -> Result<()> {
    let kafka = Kafka::start(KafkaOptions::new().separate_controller()).await?;
    let postgres = servers::Postgres::shared().await?;
    let input = unique("input");
    kafka.create_topic(&input, PARTITIONS, &[]).await?;
    let records = generate(5, 4000, PARTITIONS, Mix::ALL);
    let to_topic = Scene::on(COPIER, &kafka, Store::topic(&kafka, PARTITIONS).await?, &input)?;
    let to_table = Scene::on(COPIER, &kafka, Store::database(postgres).await?, &input)?;
    to_topic.feed(records).await?;
    let scenes = [to_topic, to_table];
    for dead in [false, true] {
        let mut running = Vec::new();
        for (scene, name) in scenes.iter().zip(["topic", "table"]) {
            let name = format!("{name}-{}", if dead { "dead" } else { "paused" });
            let mut orders = quick(scene, &name)
                .flag("--work-us", "2000..9000")
                .flag("--drain-ms", "2000")
                .flag("--exit-when-idle-ms", "60000")
                .flag("--session-timeout-ms", "6000");
            running.push((at_work(scene, &mut orders).await?, name));
        }
        if dead {
            kafka.kill().await?
        } else {
            kafka.pause().await?
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = Instant::now();
        for (copier, _) in &mut running {
            copier.signal("TERM")?;
        }
        for (copier, name) in &mut running {
            // The drain's two seconds, and a few for leaving and closing.
            let left = Duration::from_secs(20).saturating_sub(asked.elapsed());
            let ended = copier.end(left).await.context(name.clone())?;
            ensure!(ended.signal.is_none(), "{name}: {ended:?}");
            println!(
                "{name}: ended after {:?} with code {:?}: {}",
                asked.elapsed(),
                ended.code,
                ended.last_line()
            );
        }
        if dead {
            kafka.start_again().await?
        } else {
            kafka.resume().await?
        }
        kafka.ready().await?;
    }
    for scene in scenes {
        finish(scene).await?;
    }
    ensure!(!kafka.lost_markers().await?, "broker lost markers: result unknown");
    Ok(())
}

/// A copier with these flags ends with this code, says why in one line, and the line names this.
async fn refuses(orders: Orders, code: i32, names: &[&str]) -> Result<()> {
    let mut orders = orders.quiet();
    let ended = orders.start()?.end(SOON).await?;
    let words = ended.words.clone();
    ended.with_code(code).context(format!("{names:?}"))?;
    ensure!(words.lines().count() == 1, "{names:?}: one line was expected:\n{words}");
    for name in names {
        ensure!(words.contains(name), "{name:?} is not in: {words}");
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_work_is_refused_in_one_line_that_names_it() -> Result<()> {
    let shared = servers::shared().await?;
    let input = new_input(shared).await?;
    let scene = scene(shared, Kind::Kafka, &input).await?;
    scene.feed(generate(6, 10, PARTITIONS, Mix::PLAIN)).await?;
    let copier = || scene.copier("refused");
    for (flag, value, names) in [
        ("--bootstrap", "", &["bootstrap.servers"][..]),
        ("--bootstrap", "localhost", &["bootstrap.servers"]),
        ("--bootstrap", "localhost:0", &["bootstrap.servers"]),
        ("--bootstrap", "kafka.example:9092", &["bootstrap.servers"]),
        ("--group", "", &["--group"]),
        ("--input", "", &["--input"]),
        ("--sink", "nowhere", &["--sink"]),
        ("--order", "chaos", &["--order"]),
        ("--guarantee", "hope", &["--guarantee"]),
        ("--threads", "0", &["threads"]),
        ("--in-flight", "0", &["in_flight"]),
        ("--commit-interval-ms", "0", &["commit_interval"]),
        ("--commit-records", "-1", &["--commit-records"]),
        ("--drain-ms", "0", &["drain_max"]),
        ("--work-us", "9..1", &["--work-us"]),
        ("--session-timeout-ms", "0", &["session_timeout"]),
        ("--max-poll-interval-ms", "1000", &["max_poll_interval"]),
        ("--transaction-timeout-ms", "3600000", &["transaction_timeout", "3600000", "900000"]),
        ("--evidence", "/nonexistent/evidence", &["--evidence"]),
        ("--metrics", "127.0.0.1:99999", &["--metrics"]),
    ] {
        refuses(copier().flag(flag, value), 2, names).await.context(format!("{flag} {value:?}"))?;
    }
    refuses(copier().without("--sink"), 2, &["--sink"]).await?;
    let session = copier().flag("--protocol", "consumer").flag("--session-timeout-ms", "6000");
    refuses(session, 2, &["session_timeout"]).await?;
    refuses(copier().flag("--sink", "kafka:no-such-topic"), 2, &["no-such-topic"]).await?;
    let url = shared.postgres.new_database().await?;
    let wrong = url.replace(":tidegate@", ":wrong@");
    ensure!(wrong != url, "the shared server has another password");
    let sink = format!("postgres:{wrong}");
    refuses(copier().flag("--sink", sink), 2, &["--sink", "password"]).await?;
    refuses(
        copier().flag("--sink", "sqlite:/nonexistent/x.sqlite"),
        2,
        &["--sink", "/nonexistent"],
    )
    .await?;
    scene.passed();
    Ok(())
}

#[tokio::test]
async fn a_policy_of_skip_leaves_out_and_a_policy_of_stop_ends_before_the_record() -> Result<()> {
    let shared = servers::shared().await?;
    let input = new_input(shared).await?;
    let skipping = scene(shared, Kind::Postgres, &input).await?;
    skipping.feed(generate(7, RECORDS, PARTITIONS, Mix::ALL)).await?;
    let mut orders = quick(&skipping, "skips").flag("--on-failure", "skip");
    orders.start()?.end(SOON).await?.with_code(0)?;
    let skip = Rules { failed: Failed::Skipped, ..rules() };
    skipping.audit(&skip).await?.exactly_once().map_err(anyhow::Error::msg)?;
    ensure!(orders.trail()?.count("skip") > 0, "nothing was skipped");

    let stopping = scene(shared, Kind::Sqlite, &input).await?;
    let mut orders = quick(&stopping, "stops").flag("--on-failure", "stop");
    let ended = orders.start()?.end(SOON).await?.with_code(1)?;
    ensure!(
        ended.last_line().contains(&input),
        "it does not name the record: {}",
        ended.last_line()
    );
    let report = stopping.audit(&rules()).await?;
    report.exactly_once_so_far().map_err(anyhow::Error::msg)?;
    ensure!(report.compared.dead == 0, "a policy of stop has no dead letters");
    ensure!(report.count(Finding::Unfinished) > 0, "it did not stop");
    skipping.passed();
    stopping.passed();
    Ok(())
}

#[tokio::test]
async fn a_record_with_a_million_outputs_is_set_aside_and_takes_no_memory() -> Result<()> {
    let shared = servers::shared().await?;
    for kind in [Kind::Kafka, Kind::Postgres, Kind::Sqlite] {
        let input = new_input(shared).await?;
        let scene = scene(shared, kind, &input).await?;
        let mut records = generate(8, 200, PARTITIONS, Mix::PLAIN);
        records[100].value = Some(b"fan:1000000:x".to_vec());
        records[150].value = Some(b"fan:1000:x".to_vec());
        scene.feed(records).await?;
        let mut orders =
            quick(&scene, "copier").flag("--retries", "0").flag("--exit-when-idle-ms", "4000");
        let mut copier = orders.start()?;
        until("the dead letter", SOON, async || {
            Ok(orders.evidence().exists() && orders.trail()?.count("dead_letter") > 0)
        })
        .await?;
        let peak = peak_memory_mib(copier.pid())?;
        copier.end(SOON).await?.with_code(0)?;
        let report = scene.audit(&Rules { retries: 0, ..Rules::default() }).await?;
        let compared = report.exactly_once().map_err(anyhow::Error::msg)?;
        ensure!((compared.outputs, compared.dead) == (1198, 1), "{compared:?}");
        ensure!(peak < 200, "{kind:?}: {peak} MiB for one record");
        scene.passed();
    }
    Ok(())
}

/// The most memory a process ever held, in MiB.
fn peak_memory_mib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.context("VmHWM")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024)
}

#[tokio::test]
async fn metrics_are_served_while_the_copier_runs() -> Result<()> {
    let shared = servers::shared().await?;
    let input = new_input(shared).await?;
    let scene = scene(shared, Kind::Sqlite, &input).await?;
    scene.feed(generate(9, 500, PARTITIONS, Mix::PLAIN)).await?;
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0")?;
        free.local_addr()?
    };
    let mut orders = scene.copier("copier").flag("--metrics", address.to_string());
    let mut copier = orders.start()?;
    let mut page = String::new();
    until("metrics of 500 stored records", SOON, async || {
        ensure!(copier.is_running()?, "it ended: {}", copier.words());
        page = get(address).await.unwrap_or_default();
        Ok(page.lines().any(|line| {
            line.starts_with("tidegate_records_total") && line.ends_with("dir=\"done\"} 500")
        }))
    })
    .await
    .with_context(|| page.clone())?;
    copier.signal("TERM")?;
    copier.end(SOON).await?.with_code(0)?;
    scene.audit(&rules()).await?.exactly_once().map_err(anyhow::Error::msg)?;
    scene.passed();
    Ok(())
}

async fn get(address: std::net::SocketAddr) -> Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: copier\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}

#[tokio::test]
async fn a_start_policy_decides_once_and_for_new_groups_only() -> Result<()> {
    let shared = servers::shared().await?;
    let input = new_input(shared).await?;
    let scene = scene(shared, Kind::Sqlite, &input).await?;
    scene.feed(generate(10, 400, PARTITIONS, Mix::PLAIN)).await?;
    quick(&scene, "latest").flag("--start", "latest").start()?.end(SOON).await?.with_code(0)?;
    let (before, _) = scene.evidence().await?;
    ensure!(before.outputs.is_empty(), "`latest` copied what was there before");
    ensure!(before.progress == before.ends, "the resolved start is stored: {:?}", before.progress);
    scene.feed(generate(11, 400, PARTITIONS, Mix::PLAIN)).await?;
    // What is stored decides now, whatever the policy.
    quick(&scene, "again").flag("--start", "latest").start()?.end(SOON).await?.with_code(0)?;
    let (mut after, _) = scene.evidence().await?;
    after.inputs.retain(|input| input.offset >= before.ends[&input.partition]);
    let report = tidegate_tests::audit::audit(&after, &rules());
    let compared = report.exactly_once().map_err(anyhow::Error::msg)?;
    ensure!(compared.outputs == 400, "{compared:?}");
    scene.passed();
    Ok(())
}
