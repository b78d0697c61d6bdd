//! What is wrong with records, rows and servers, on real servers: a clear error or the stated behaviour, nothing lost.
//! Settings that cannot work are in `copier.rs`, offsets outside of the log in `fencing.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use sqlx::{Connection, PgConnection, Row, SqliteConnection};
use tidegate::Handle;
use tidegate::prelude::*;
use tidegate::sink::TransactionalSink;
use tidegate::source::Health;
use tidegate_kafka::{Kafka as Client, Message, Security};
use tidegate_postgres::rust_decimal::Decimal;
use tidegate_postgres::{Postgres as Database, Table};
use tidegate_sqlite::Sqlite;
use tidegate_tests::audit::Rules;
use tidegate_tests::fleet::{Mix, Planned, Scene, Store, generate, produce, until};
use tidegate_tests::readers::read_input;
use tidegate_tests::servers::{self, Kafka, KafkaOptions, Postgres, PostgresOptions, unique};

const COPIER: &str = env!("CARGO_BIN_EXE_copier");
/// What anything here may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Deserialize)]
struct Entry {
    id: i64,
    text: Option<String>,
    cents: i64,
    parent: i64,
    #[serde(default)]
    later: Option<i64>,
    #[serde(default)]
    #[allow(dead_code, reason = "only its decoding is of interest")]
    notes: serde_json::Value,
}

/// A record, and what becomes of it: a row, or a dead letter for this reason whose error says this.
struct Case {
    value: Option<Vec<u8>>,
    dead: Option<(&'static str, &'static str)>,
}

fn row(id: i64) -> Case {
    let value = format!(r#"{{"id":{id},"text":"good","cents":5,"parent":{},"#, id % 3 + 1);
    Case { value: Some(format!(r#"{value}"later":2}}"#).into_bytes()), dead: None }
}

fn dead(value: impl Into<Vec<u8>>, reason: &'static str, says: &'static str) -> Case {
    Case { value: Some(value.into()), dead: Some((reason, says)) }
}

/// What no decoder, and no function, can do anything with.
fn unreadable() -> Vec<Case> {
    vec![
        Case { value: None, dead: Some(("decode", "null")) },
        dead("", "decode", "EOF"),
        dead(r#"{"id":1,"text":"#, "decode", "EOF"),
        dead(r#"{"id":"one","cents":1,"parent":1}"#, "decode", "invalid type"),
        dead(r#"{"cents":1,"parent":1}"#, "decode", "missing field"),
        dead(b"{\"id\":1,\"text\":\"\xff\xfe\",\"cents\":1,\"parent\":1}", "decode", "unicode"),
        dead(format!("{{\"notes\":{}", "[".repeat(200_000)), "decode", "recursion limit"),
        dead(r#"{"id":99999999999999999999,"cents":1,"parent":1}"#, "decode", "invalid"),
        dead(r#"{"id":-1,"text":"a","cents":1,"parent":1}"#, "process", "negative"),
        dead(r#"{"id":-2,"text":"a","cents":1,"parent":1}"#, "panic", "the function gave up"),
    ]
}

/// Rows that only the database can refuse, each for another constraint.
fn refused() -> Vec<Case> {
    vec![
        dead(r#"{"id":9001,"cents":1,"parent":1}"#, "rejected", "text"),
        dead(r#"{"id":9002,"text":"a","cents":-1,"parent":1}"#, "rejected", "cents_not_negative"),
        dead(r#"{"id":9003,"text":"a","cents":1,"parent":77}"#, "rejected", "oreign key"),
        dead(r#"{"id":1,"text":"a","cents":1,"parent":1}"#, "rejected", "unique"),
        dead(r#"{"id":9005,"text":"a\u0000b","cents":1,"parent":1}"#, "rejected", "NUL"),
    ]
}

/// Every bad record among good ones, in every partition.
fn mixed(bad: impl Fn() -> Vec<Case>) -> Vec<(i32, Case)> {
    let mut cases = Vec::new();
    for partition in 0..2 {
        let first = i64::from(partition) * 1000 + 1;
        let mut id = first..;
        let mut good = move || row(id.next().expect("endless"));
        // The key of the first row is taken twice only where it stands before.
        cases.extend((0..5).map(|_| (partition, good())));
        for case in bad() {
            if partition == 1 && case.dead.is_some_and(|(_, says)| says == "unique") {
                continue;
            }
            cases.push((partition, case));
            cases.push((partition, good()));
        }
    }
    cases
}

fn planned(number: usize, partition: i32, case: &Case) -> Planned {
    // No key and the empty key are two keys.
    let key = match number % 3 {
        0 => None,
        1 => Some(Vec::new()),
        _ => Some(format!("key-{number}").into_bytes()),
    };
    Planned { partition, key, value: case.value.clone() }
}

fn table() -> Table<Entry> {
    Table::new("items")
        .lineage_as(["topic", "part", "offset", "i"])
        .int8("id", |entry: &Entry| entry.id)
        .text_opt("text", |entry| entry.text.as_deref())
        .numeric("cents", |entry| Decimal::new(entry.cents, 0))
        .int8("parent", |entry| entry.parent)
        .int8_opt("later", |entry| entry.later)
}

fn job<S>(kafka: &Kafka, input: &str, sink: S) -> Job<Entry>
where
    S: TransactionalSink<Output = Entry>,
{
    Pipeline::new(unique("bad"))
        .from(Client::connect(kafka.bootstrap()).source(input))
        .decode(Json::<Entry>::new())
        .process(|entry: &Record<Entry>, context: &mut Context<'_, Entry>| {
            match entry.value.id {
                -1 => return Err("a negative number"),
                -2 => panic!("the function gave up"),
                _ => context.emit(entry.value.clone()),
            }
            Ok(())
        })
        .order(Order::ByKey)
        .threads(2)
        .on_failure(Retry::times(1).then_dead_letter())
        .exactly_once(sink)
}

/// Runs the job until everything is stored or set aside.
async fn run_through(job: Job<Entry>, records: u64) -> Result<()> {
    let handle = job.start().await?;
    until("every record to have an outcome", SOON, async || {
        Ok(handle.status().await?.totals.committed_records == records)
    })
    .await?;
    handle.stop(Duration::from_secs(10)).await?;
    Ok(())
}

/// Partition and offset of each row; and of each dead letter its key, value, reason and error.
struct Stored {
    rows: Vec<(i32, i64)>,
    dead: BTreeMap<(i32, i64), Letter>,
}

struct Letter {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    reason: String,
    error: String,
}

const ROWS: &str = "select part, \"offset\" from items order by part, \"offset\", i";
const DEAD: &str = "select partition, \"offset\", key, value, reason, error from";

macro_rules! stored {
    ($database:expr, $letters:literal) => {{
        let rows = sqlx::query_as(ROWS).fetch_all(&mut $database).await?;
        let mut dead = BTreeMap::new();
        let query = sqlx::AssertSqlSafe(format!("{DEAD} {}", $letters));
        for row in sqlx::query(query).fetch_all(&mut $database).await? {
            let (key, value) = (row.get("key"), row.get("value"));
            let letter = Letter { key, value, reason: row.get("reason"), error: row.get("error") };
            let twice = dead.insert((row.get("partition"), row.get("offset")), letter);
            ensure!(twice.is_none(), "a dead letter is there twice");
        }
        Stored { rows, dead }
    }};
}

/// Every good record is a row, every bad one a dead letter with its story, and each there once.
fn compare(cases: &[(i32, Case)], stored: &Stored) -> Result<()> {
    let mut ends = BTreeMap::new();
    let (mut rows, mut letters) = (Vec::new(), 0);
    for (number, (partition, case)) in cases.iter().enumerate() {
        let next = ends.entry(*partition).or_insert(0);
        let (offset, at) = (*next, format!("case {number} at {partition}/{next}"));
        *next += 1;
        let Some((reason, says)) = case.dead else {
            rows.push((*partition, offset));
            continue;
        };
        letters += 1;
        let letter = stored.dead.get(&(*partition, offset)).context(at.clone())?;
        ensure!(letter.reason == reason, "{at}: {} {}", letter.reason, letter.error);
        ensure!(letter.error.contains(says), "{at}: {says:?} is not in {:?}", letter.error);
        ensure!(letter.value == case.value, "{at}: another value");
        ensure!(letter.key == planned(number, *partition, case).key, "{at}: another key");
    }
    ensure!(letters == stored.dead.len(), "dead letters of good records");
    let mut sorted = stored.rows.clone();
    sorted.sort_unstable();
    rows.sort_unstable();
    ensure!(sorted == rows, "rows: {sorted:?}, expected: {rows:?}");
    ensure!(letters > 10 && !rows.is_empty(), "nothing was compared");
    Ok(())
}

async fn fed(kafka: &Kafka, cases: &[(i32, Case)]) -> Result<String> {
    let input = unique("input");
    kafka.create_topic(&input, 2, &[]).await?;
    let numbered = cases.iter().enumerate();
    let records = numbered.map(|(number, (partition, case))| planned(number, *partition, case));
    produce(&kafka.client(), &input, records.collect::<Vec<_>>(), 0).await?;
    Ok(input)
}

#[tokio::test]
async fn every_bad_record_is_set_aside_alone_with_its_reason_in_postgres() -> Result<()> {
    let shared = servers::shared().await?;
    let url = shared.postgres.new_database().await?;
    let mut database = PgConnection::connect(&url).await?;
    let tables = "create table parent (id bigint primary key); insert into parent values (1), (2), (3); \
         create table items (topic text, part int, \"offset\" bigint, i int, id bigint unique, \
         text text not null, cents numeric(6, 0) constraint cents_not_negative check (cents >= 0), \
         parent bigint references parent, \
         later bigint references parent deferrable initially deferred)";
    sqlx::raw_sql(tables).execute(&mut database).await?;
    let cases = mixed(|| {
        let mut all = unreadable();
        all.extend(refused());
        let overflow = r#"{"id":9006,"text":"a","cents":1234567,"parent":1}"#;
        all.push(dead(overflow, "rejected", "cents"));
        let deferred = r#"{"id":9007,"text":"a","cents":1,"parent":1,"later":78}"#;
        all.push(dead(deferred, "rejected", "oreign key"));
        all
    });
    let input = fed(shared.kafka, &cases).await?;
    let sink = Database::connect(&url).into(table());
    run_through(job(shared.kafka, &input, sink), cases.len() as u64).await?;
    compare(&cases, &stored!(database, "tidegate.dead_letter"))
}

#[tokio::test]
async fn every_bad_record_is_set_aside_alone_with_its_reason_in_sqlite() -> Result<()> {
    let kafka = Kafka::shared().await?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("items.sqlite");
    let mut database = open_file(&path).await?;
    let tables = "create table parent (id integer primary key); insert into parent values (1), (2), (3); \
         create table items (topic text, part int, \"offset\" bigint, i int, id bigint unique, \
         text text not null, cents text constraint cents_not_negative check (cents not like '-%'), \
         parent bigint references parent, \
         later bigint references parent deferrable initially deferred)";
    sqlx::raw_sql(tables).execute(&mut database).await?;
    let cases = mixed(|| {
        let mut all = unreadable();
        all.extend(refused().into_iter().map(|case| match case.dead {
            // SQLite says which columns, not which kind of index.
            Some((reason, "unique")) => Case { dead: Some((reason, "UNIQUE")), ..case },
            Some((reason, "oreign key")) => Case { dead: Some((reason, "FOREIGN KEY")), ..case },
            _ => case,
        }));
        let deferred = r#"{"id":9007,"text":"a","cents":1,"parent":1,"later":78}"#;
        all.push(dead(deferred, "rejected", "deferred foreign key"));
        all
    });
    let input = fed(kafka, &cases).await?;
    let sink = Sqlite::open(&path).into(table());
    run_through(job(kafka, &input, sink), cases.len() as u64).await?;
    compare(&cases, &stored!(database, "tidegate_dead_letter"))
}

async fn open_file(path: &Path) -> Result<SqliteConnection> {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .busy_timeout(SOON);
    Ok(SqliteConnection::connect_with(&options).await?)
}

/// A superuser's statement that works also while the database is read-only.
async fn set(url: &str, statement: &str) -> Result<()> {
    let mut database = PgConnection::connect(url).await?;
    sqlx::raw_sql("set default_transaction_read_only = off").execute(&mut database).await?;
    let statement = sqlx::AssertSqlSafe(statement);
    sqlx::raw_sql(statement).execute(&mut database).await?;
    Ok(database.close().await?)
}

#[tokio::test]
async fn a_database_that_becomes_read_only_or_recovers_is_waited_for() -> Result<()> {
    let kafka = Kafka::shared().await?;
    let postgres = Postgres::start(PostgresOptions::new()).await?;
    let input = unique("input");
    kafka.create_topic(&input, 4, &[]).await?;
    let scene = Scene::on(COPIER, kafka, Store::database(&postgres).await?, &input)?;
    scene.feed(generate(1, 12_000, 4, Mix::ALL)).await?;
    let mut orders = scene.copier("patient").flag("--retries", "2").flag("--work-us", "500..2000");
    let mut patient = orders.start()?;
    let waits = async |copier: &mut tidegate_tests::fleet::Copier, fate: &str, more: usize| {
        let orders = &orders;
        let count = || -> Result<usize> {
            Ok(if orders.evidence().exists() { orders.trail()?.fates(fate) } else { 0 })
        };
        let before = count()?;
        until(fate, SOON, async || {
            ensure!(copier.is_running()?, "it ended: {}", copier.words());
            Ok(count()? >= before + more)
        })
        .await
    };
    waits(&mut patient, "committed", 3).await?;

    let url = postgres.url();
    set(url, "alter system set default_transaction_read_only = on").await?;
    set(url, "select pg_reload_conf()").await?;
    waits(&mut patient, "aborted", 3).await.context("read-only")?;
    ensure!(patient.words().contains("read-only"), "it does not say why it waits");
    set(url, "alter system reset default_transaction_read_only").await?;
    set(url, "select pg_reload_conf()").await?;
    waits(&mut patient, "committed", 3).await.context("writable again")?;

    // As after a fail-over to a standby that is not promoted yet.
    let standby = "do $$ begin execute format('copy (select '''') to %L', \
                   current_setting('data_directory') || '/standby.signal'); end $$";
    set(url, standby).await?;
    postgres.kill().await?;
    postgres.start_again().await?;
    until("it to find a database in recovery", SOON, async || {
        ensure!(patient.is_running()?, "it ended: {}", patient.words());
        Ok(patient.words().contains("in recovery"))
    })
    .await?;
    set(url, "select pg_promote()").await?;
    until("everything to be stored", SOON, async || {
        ensure!(patient.is_running()?, "it ended: {}", patient.words());
        scene.is_done().await
    })
    .await?;
    patient.signal("TERM")?;
    patient.end(SOON).await?.with_code(0)?;
    let report = scene.audit(&Rules { retries: 2, ..Rules::default() }).await?;
    report.exactly_once().map_err(anyhow::Error::msg)?;
    scene.passed();
    Ok(())
}

#[tokio::test]
async fn a_damaged_batch_stops_its_partition_there_by_name_and_no_other() -> Result<()> {
    let kafka = Kafka::start(KafkaOptions::new()).await?;
    let input = unique("input");
    kafka.create_topic(&input, 2, &[]).await?;
    let scene = Scene::with_file(COPIER, &kafka, &input)?;
    let mut marked = generate(5, 10, 1, Mix::PLAIN);
    marked[0].value = Some(b"what the disk spoils".to_vec());
    // Three batches in partition 0, and one in the other.
    let other = generate(7, 50, 1, Mix::PLAIN).into_iter();
    let other = other.map(|record| Planned { partition: 1, ..record }).collect();
    for records in [generate(4, 10, 1, Mix::PLAIN), marked, generate(6, 10, 1, Mix::PLAIN), other] {
        scene.feed(records).await?;
    }
    let (good, bad) = ("what the disk spoils", "what the disk spoilt");
    kafka.rewrite(&input, 0, good, bad).await?;

    let mut orders = scene.copier("copier").flag("--instance", "one");
    let mut copier = orders.start()?;
    let failed = format!("{input}/0");
    until("the partition to stop", SOON, async || {
        ensure!(copier.is_running()?, "it ended: {}", copier.words());
        let trail = if orders.evidence().exists() { orders.trail()? } else { return Ok(false) };
        let stopped = trail.all("partition_failed").any(|e| e.partition.as_ref() == Some(&failed));
        let behind = |name: &str, next| {
            trail.committed().any(|span| span.partition == name && span.next == next)
        };
        Ok(stopped && behind(&failed, 10) && behind(&format!("{input}/1"), 50))
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    copier.signal("TERM")?;
    let ended = copier.end(SOON).await?.with_code(0)?;
    let says = format!("{failed} cannot be read on at offset 10");
    ensure!(ended.words.contains(&says) && ended.words.contains("CRC"), "{}", ended.words);
    let report = scene.audit(&Rules::default()).await;
    ensure!(report.is_err(), "the auditor's own reader meets the damage too");

    // Put right, it is read from there: nothing was left out.
    kafka.rewrite(&input, 0, bad, good).await?;
    let mut again = orders.start()?;
    until("everything to be stored", SOON, async || {
        ensure!(again.is_running()?, "it ended: {}", again.words());
        scene.is_done().await
    })
    .await?;
    again.signal("TERM")?;
    again.end(SOON).await?.with_code(0)?;
    let report = scene.audit(&Rules::default()).await?;
    let compared = report.exactly_once().map_err(anyhow::Error::msg)?;
    ensure!(compared.outputs == 80, "{compared:?}");
    scene.passed();
    Ok(())
}

/// Copies records as they are, with their coordinates, into a file.
fn lengths(kafka: &Kafka, input: &str, path: &Path, start_max: Duration) -> Job<i64> {
    let table = Table::new("lengths").lineage_as(["topic", "part", "offset", "i"]);
    Pipeline::new(unique("lengths"))
        .from(Client::connect(kafka.bootstrap()).source(input))
        .map(|record| record.value.as_ref().map_or(0, |value| value.len() as i64))
        .start_max(start_max)
        .exactly_once(Sqlite::open(path).into(table.int8("bytes", |bytes: &i64| *bytes)))
}

async fn stored_lengths(handle: &Handle, records: u64) -> Result<()> {
    until("the records to be stored", SOON, async || {
        Ok(handle.status().await?.totals.committed_records == records)
    })
    .await
}

#[tokio::test]
async fn a_broker_that_is_away_is_waited_for_and_shown_and_named_at_the_deadline() -> Result<()> {
    let kafka = Kafka::start(KafkaOptions::new().separate_controller()).await?;
    let input = unique("input");
    kafka.create_topic(&input, 2, &[]).await?;
    produce(&kafka.client(), &input, generate(2, 100, 2, Mix::PLAIN), 0).await?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("lengths.sqlite");
    let create =
        "create table lengths (topic text, part int, \"offset\" bigint, i int, bytes bigint)";
    sqlx::raw_sql(create).execute(&mut open_file(&path).await?).await?;

    kafka.kill().await?;
    let late = lengths(&kafka, &input, &path, Duration::from_secs(2)).start().await;
    let error = late.expect_err("nobody answers");
    ensure!(error.is_deadline(), "{error}");
    for word in ["no Kafka broker was reached within 2s", "bootstrap.servers"] {
        ensure!(error.to_string().contains(word), "{word:?} is not in {error}");
    }
    let waiting = tokio::spawn(lengths(&kafka, &input, &path, SOON).start());
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(!waiting.is_finished(), "it did not wait");
    kafka.start_again().await?;
    let handle = waiting.await??;
    stored_lengths(&handle, 100).await?;

    kafka.kill().await?;
    until("the status to say so", SOON, async || {
        Ok(match handle.status().await?.source {
            Health::Waiting(what) => what.contains("no broker answers"),
            Health::Ready => false,
        })
    })
    .await?;
    kafka.start_again().await?;
    produce(&kafka.client(), &input, generate(3, 100, 2, Mix::PLAIN), 0).await?;
    stored_lengths(&handle, 200).await?;
    until("the status to be ready", SOON, async || {
        Ok(handle.status().await?.source == Health::Ready)
    })
    .await?;
    handle.stop(Duration::from_secs(10)).await?;
    let rows: i64 =
        sqlx::query_scalar("select count(distinct part || '/' || \"offset\") from lengths")
            .fetch_one(&mut open_file(&path).await?)
            .await?;
    ensure!(rows == 200, "{rows} rows");
    Ok(())
}

#[tokio::test]
async fn a_secured_broker_serves_whom_it_knows_and_refuses_others_by_the_name_of_the_setting()
-> Result<()> {
    let kafka = Kafka::start(KafkaOptions::new().secure()).await?;
    let secure = kafka.secure()?;
    let (input, output) = (unique("input"), unique("output"));
    kafka.create_topic(&input, 2, &[]).await?;
    kafka.create_topic(&output, 2, &[]).await?;
    produce(&kafka.client(), &input, generate(4, 300, 2, Mix::PLAIN), 0).await?;
    let dir = tempfile::tempdir()?;
    let authority = dir.path().join("authority.pem");
    std::fs::write(&authority, secure.authority())?;
    let copy = {
        let output = output.clone();
        move |record: &tidegate::record::RawRecord| {
            let mut message = Message::to(output.as_str());
            (message.key, message.value) = (record.key.clone(), record.value.clone());
            message
        }
    };
    let exact = |security: Security, start_max| {
        let source = Client::connect(secure.bootstrap()).security(security).source(input.as_str());
        let sink = source.sink().outputs([&output]);
        let records = Pipeline::new(unique("secure")).from(source).start_max(start_max);
        records.map(copy.clone()).exactly_once(sink)
    };
    let plain = |security: Security, start_max| {
        let client = Client::connect(secure.bootstrap()).security(security);
        let sink = client.sink().outputs([&output]);
        let source = client.source(input.as_str());
        let records = Pipeline::new(unique("secure")).from(source).start_max(start_max);
        records.map(copy.clone()).at_least_once(sink)
    };
    let store = tidegate::testing::MemoryStore::new();
    let only_read = |security: Security, start_max| {
        let source = Client::connect(secure.bootstrap()).security(security).source(input.as_str());
        let records = Pipeline::new(unique("secure")).from(source).start_max(start_max);
        records.map(copy.clone()).exactly_once(store.sink())
    };
    let trusting = |security: Security| security.certificate_authority(authority.to_string_lossy());
    let known = || trusting(Security::scram_sha_512(secure.username(), secure.password()));
    let wrong = trusting(Security::scram_sha_512(secure.username(), "hunter2"));
    let stranger = Security::scram_sha_512(secure.username(), secure.password());
    for (security, says) in [(wrong, "uthentication"), (stranger, "certificate")] {
        let jobs = [
            exact(security.clone(), SOON),
            plain(security.clone(), SOON),
            only_read(security, SOON),
        ];
        for job in jobs {
            let error = job.start().await.expect_err("it must not get in");
            let text = format!("{error} {error:?}");
            ensure!(error.is_configuration() && text.starts_with("security: "), "{text}");
            ensure!(text.contains(says) && !text.contains("hunter2"), "{text}");
        }
    }
    let handle = exact(known(), SOON).start().await?;
    stored_lengths(&handle, 300).await?;
    handle.stop(Duration::from_secs(10)).await?;
    let copies = read_input(&kafka.client(), &[&output]).await?;
    ensure!(copies.inputs.len() == 300, "{} copies", copies.inputs.len());
    Ok(())
}
