//! A web server's log from Kafka into PostgreSQL: rows, totals, and odd lines set aside.
#![forbid(unsafe_code)]

mod parse;

use std::process::ExitCode;

use anyhow::Result;
use tidegate::prelude::*;
use tidegate::sink::TransactionalSink;
use tidegate_examples::args::Args;
use tidegate_examples::postgres::Database;
use tidegate_examples::show::{Checks, Table as Shown, thousands};
use tidegate_examples::{kafka, run};
use tidegate_postgres::{Postgres, Table};

use crate::parse::{Request, parse};

/// 10,000 lines of May 2015.
const LOG: &str = include_str!("../data/access.log");

const TABLES: &str = "
    CREATE SCHEMA IF NOT EXISTS access;
    CREATE TABLE IF NOT EXISTS access.requests (
        client   text NOT NULL,
        at       timestamptz NOT NULL,
        method   text NOT NULL,
        path     text NOT NULL,
        status   integer NOT NULL,
        bytes    bigint,
        agent    text,
        source_topic text, source_partition integer, source_offset bigint, source_index integer
    );
    CREATE TABLE IF NOT EXISTS access.paths (
        path   text PRIMARY KEY,
        hits   bigint NOT NULL,
        bytes  bigint NOT NULL,
        errors bigint NOT NULL
    )";

/// A line that does not have the format, or breaks a rule of HTTP, becomes a dead letter.
fn pipeline<S>(args: &Args, sink: S) -> Job<Request>
where
    S: TransactionalSink<Output = Request>,
{
    let work = args.work();
    Pipeline::new(args.named("access", ""))
        .instance(&args.instance)
        .from(args.kafka().source(args.named("access", "")))
        .decode(Utf8)
        .try_map(move |record| {
            work();
            parse(&record.value)
        })
        .order(Order::ByKey)
        .on_failure(Retry::never().then_dead_letter())
        .exactly_once(sink)
}

/// One row a line. Some lines are the same to the letter (two requests in one second), so only
/// their coordinates tell them apart.
fn requests() -> Table<Request> {
    Table::new("access.requests")
        .text("client", |request: &Request| &request.client)
        .timestamptz("at", |request| request.at)
        .text("method", |request| &request.method)
        .text("path", |request| &request.path)
        .int4("status", |request| request.status)
        .int8_opt("bytes", |request| request.bytes)
        .text_opt("agent", |request| request.agent.as_deref())
        .lineage()
}

/// One row a path, of requests that were answered.
fn paths() -> Table<Request> {
    Table::new("access.paths")
        .text("path", |request: &Request| &request.path)
        .int8_add("hits", |_| 1)
        .int8_add("bytes", |request| request.bytes.unwrap_or(0))
        .int8_add("errors", |request| i64::from(request.status >= 400))
        .upsert_on(["path"])
}

#[tokio::main]
async fn main() -> ExitCode {
    run::exit(example(&Args::read()).await)
}

async fn example(args: &Args) -> Result<()> {
    let sink = Postgres::connect(&args.postgres()).setup(TABLES).into(requests()).into(paths());
    let job = pipeline(args, sink);
    if args.explained(&job) {
        return Ok(());
    }
    let topic = args.named("access", "");
    let mut database = Database::connect(&args.postgres()).await?;
    kafka::load(&args.bootstrap(), &topic, 4, lines()).await?;
    let summary = run::run(job, args, &topic).await?;
    println!("{summary}\n");
    if args.drain { report(&mut database, &topic).await } else { Ok(()) }
}

/// The lines, the client's address as their key.
fn lines() -> impl Iterator<Item = (String, &'static str)> {
    LOG.lines().map(|line| (line.split(' ').next().unwrap_or_default().to_owned(), line))
}

async fn report(database: &mut Database, group: &str) -> Result<()> {
    let (rows, bytes): (i64, i64) = database
        .row("SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM access.requests", &[])
        .await?;
    let (hits, sent): (i64, i64) = database
        .row(
            "SELECT coalesce(sum(hits), 0)::bigint, coalesce(sum(bytes), 0)::bigint \
             FROM access.paths",
            &[],
        )
        .await?;
    let odd: Vec<(String, i64)> = database
        .rows(
            "SELECT error, count(*) FROM tidegate.dead_letter WHERE group_id = $1 \
             GROUP BY error ORDER BY 2 DESC, 1",
            &[group],
        )
        .await?;
    Checks::default()
        .equal("requests", rows, 9_995)
        .equal("their bytes", bytes, 2_747_241_229)
        .equal("hits of all paths", hits, 9_995)
        .equal("bytes of all paths", sent, 2_747_241_229)
        .equal("odd lines", odd.iter().map(|(_, lines)| lines).sum(), 5)
        .verify("10,000 lines, each once (access.requests, access.paths)")?;
    let mut table = Shown::new(["odd lines, set aside because", "lines"]);
    for (error, lines) in odd {
        table.row([error, thousands(lines)]);
    }
    println!("{table}");
    let most: Vec<(String, i64, i64, i64)> = database
        .rows(
            "SELECT path, hits, bytes, errors FROM access.paths ORDER BY hits DESC, path LIMIT 5",
            &[],
        )
        .await?;
    let mut table = Shown::new(["most wanted", "hits", "bytes", "errors"]);
    for (path, hits, bytes, errors) in most {
        table.row([path, thousands(hits), thousands(bytes), thousands(errors)]);
    }
    print!("{table}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate::testing::TestDriver;

    #[test]
    fn odd_lines_are_set_aside_and_the_others_become_requests() {
        let sink = Postgres::connect("postgres://127.0.0.1:1/nowhere").into(requests());
        let mut driver =
            TestDriver::new(pipeline(&Args::nowhere(), sink)).expect("the settings are allowed");
        for (client, line) in lines() {
            driver.feed("access", Some(&client), Some(line));
        }
        driver.run().expect("nothing stops it");
        assert_eq!(driver.rows().len(), 9_995);
        assert_eq!(driver.dead_letters().len(), 5);
        assert_eq!(driver.progress("access", 0), Some(10_000));
    }
}
