//! How long a commit takes by form and size: what `copy_rows_min` is set from.
//!
//! `TIDEGATE_POSTGRES=postgres://… cargo bench -p tidegate-postgres`, with further URLs as
//! arguments (a Unix socket: `postgres:///postgres?host=/run/postgresql&user=postgres`). Forms are
//! measured in turns, so that a machine that gets slower slows all of them.

use std::io::{Write, stdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tidegate::batch::{Batch, Finished, Outcome, Outputs, Span};
use tidegate::record::{Epoch, Headers, Offset, PartitionId, Record};
use tidegate::sink::{ClaimRequest, DeadLetters, Move, SinkContext, TransactionalSink};
use tidegate_postgres::{Postgres, Table};

const SIZES: [i64; 8] = [1, 10, 100, 500, 1_000, 2_000, 5_000, 10_000];
const TURNS: usize = 15;

#[derive(Clone)]
struct Row {
    id: i64,
    key: String,
    at: DateTime<Utc>,
    amount: f64,
    text: String,
}

fn table(name: &str) -> Table<Row> {
    Table::new(name)
        .int8("id", |r: &Row| r.id)
        .text("key", |r| &r.key)
        .timestamptz("at", |r| r.at)
        .float8("amount", |r| r.amount)
        .text("text", |r| &r.text)
}

/// A sink, its name, its position and its times.
struct Form {
    name: &'static str,
    sink: Postgres<Row>,
    next: i64,
    times: Vec<Duration>,
}

impl Form {
    async fn open(url: &str, name: &'static str, table: Table<Row>, copy_rows_min: usize) -> Self {
        let mut sink = Postgres::connect(url).into(table).copy_rows_min(copy_rows_min);
        let context = SinkContext {
            group: name.to_owned(),
            instance: None,
            deadline: Duration::from_secs(10),
            dead_letters: DeadLetters::Never,
        };
        TransactionalSink::open(&mut sink, &context).await.expect("opened");
        let partition = PartitionId::new("in", 0);
        let request = ClaimRequest { partition: partition.clone(), topic_id: None };
        sink.claim(&[request]).await.expect("claimed");
        let start = Move { partition, expected: None, next: Offset::ZERO, topic_id: None };
        sink.reposition(&[start]).await.expect("started");
        let (next, times) = (0, Vec::new());
        Self { name, sink, next, times }
    }

    async fn commit(&mut self, rows: i64) {
        let batch = batch(self.next, rows);
        self.next += rows;
        let start = Instant::now();
        self.sink.commit(&batch).await.expect("committed");
        self.times.push(start.elapsed());
    }

    fn report(&mut self, rows: i64) {
        // The first turn prepares the statement.
        let mut times = self.times.split_off(1);
        self.times.clear();
        times.sort();
        let median = times[times.len() / 2];
        let rate = rows as f64 / median.as_secs_f64() / 1e3;
        let worst = times.last().expect("several turns");
        let line = format!(
            "{rows:>7} rows  {:<28} p50 {median:>10.2?}  max {worst:>10.2?}  {rate:>8.1} k rows/s",
            self.name
        );
        say(&line);
    }
}

/// Nobody reads on: then there is nobody to tell.
fn say(line: &str) {
    let _ = writeln!(stdout().lock(), "{line}");
}

fn batch(next: i64, rows: i64) -> Batch<Row> {
    let partition = PartitionId::new("in", 0);
    let finished = (next..next + rows).map(|offset| Finished {
        record: Arc::new(Record {
            partition: partition.clone(),
            offset: Offset::new(offset),
            timestamp: None,
            key: None,
            value: None,
            headers: Headers::default(),
        }),
        outcome: Outcome::Emit(Outputs::One(Row {
            id: offset,
            key: format!("key-{offset}"),
            at: DateTime::UNIX_EPOCH,
            amount: 1.5,
            text: "x".repeat(60),
        })),
        attempts: 1,
    });
    let finished = finished.collect();
    let span = Span {
        partition: partition.clone(),
        epoch: Epoch::new(1),
        first: Offset::new(next),
        next: Offset::new(next + rows),
    };
    Batch::new(vec![span], finished)
}

async fn measure(url: &str) {
    let options: PgConnectOptions = url.parse().expect("a URL");
    let mut conn: PgConnection = options.connect().await.expect("connected");
    let columns = "id bigint, key text, at timestamptz, amount float8, text text";
    let ddl = format!(
        "DROP SCHEMA IF EXISTS tidegate CASCADE; \
         DROP TABLE IF EXISTS forms_one, forms_copy, forms_upsert; \
         CREATE TABLE forms_one ({columns}); CREATE TABLE forms_copy ({columns}); \
         CREATE TABLE forms_upsert ({columns}, PRIMARY KEY (id))"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(ddl)).execute(&mut conn).await.expect("tables");
    let mut forms = [
        Form::open(url, "one statement", table("forms_one"), usize::MAX).await,
        Form::open(url, "COPY", table("forms_copy"), 1).await,
        Form::open(
            url,
            "one statement, upsert",
            table("forms_upsert").upsert_on(["id"]),
            usize::MAX,
        )
        .await,
    ];
    for rows in SIZES {
        for _ in 0..=TURNS {
            for form in &mut forms {
                form.commit(rows).await;
            }
        }
        forms.iter_mut().for_each(|form| form.report(rows));
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let first = std::env::var("TIDEGATE_POSTGRES").ok();
    let rest = std::env::args().skip(1).filter(|argument| argument.contains("://"));
    let urls: Vec<String> = first.into_iter().chain(rest).collect();
    if urls.is_empty() {
        say("nothing measured: set TIDEGATE_POSTGRES to the URL of a database for tests");
    }
    for url in urls {
        let host = url.split('@').next_back().unwrap_or_default();
        say(&format!("-- {host}"));
        measure(&url).await;
    }
}
