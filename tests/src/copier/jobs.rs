//! The copier's pipelines, one for each kind of sink.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate::prelude::*;
use tidegate::record::RawRecord;
use tidegate::sink::{Sink, TransactionalSink};
use tidegate::{BoxError, Error};
use tidegate_kafka::{GroupProtocol, Kafka, KafkaSource, Message, StartPolicy};
use tidegate_postgres::Postgres;
use tidegate_sqlite::{Sqlite, Table};

use super::args::{Args, OnFailure, Ordering, Promise, Protocol, Start, Work};
use super::evidence::Evidence;
use super::work::{Copied, Wish, duration, wish, work};

/// Copies into a topic.
///
/// # Errors
/// A setting that cannot be used.
pub fn to_kafka(args: &Args, topic: &str) -> Result<Job<Message>, Error> {
    let kafka = Kafka::connect(&args.bootstrap);
    let source = source(args, &kafka);
    let dead = format!("{topic}.dead-letters");
    let output = topic.to_owned();
    let copy = move |record: &RawRecord| {
        let mut message = Message::to(output.as_str());
        message.key = record.key.clone();
        message.value = record.value.clone();
        // By murmur2 of the key; a null key keeps its partition, so that order can be compared.
        match &record.key {
            Some(_) => message,
            None => message.partition(record.partition.index()),
        }
    };
    if args.guarantee == Promise::ExactlyOnce {
        let mut sink = source.sink().outputs([topic]).dead_letters(dead).lineage();
        if let Some(timeout) = args.transaction_timeout_ms {
            sink = sink.transaction_timeout(Duration::from_millis(timeout));
        }
        return exactly(args, source, copy, sink);
    }
    let sink = kafka.sink().outputs([topic]).dead_letters(dead).lineage();
    weaker(args, source, copy, sink)
}

/// Copies into PostgreSQL.
///
/// # Errors
/// A setting that cannot be used.
pub fn to_postgres(args: &Args, url: &str) -> Result<Job<Copied>, Error> {
    let source = source(args, &Kafka::connect(&args.bootstrap));
    let sink = Postgres::connect(url).setup(CREATE_IN_POSTGRES).into(table());
    match args.guarantee {
        Promise::ExactlyOnce => exactly(args, source, Copied::of, sink),
        _ => weaker(args, source, Copied::of, sink),
    }
}

/// Copies into SQLite.
///
/// # Errors
/// A setting that cannot be used.
pub fn to_sqlite(args: &Args, path: &Path) -> Result<Job<Copied>, Error> {
    let source = source(args, &Kafka::connect(&args.bootstrap));
    let sink = Sqlite::open(path).setup(CREATE_IN_SQLITE).into(table());
    match args.guarantee {
        Promise::ExactlyOnce => exactly(args, source, Copied::of, sink),
        _ => weaker(args, source, Copied::of, sink),
    }
}

/// Written by column name: the real table may have more columns. No unique constraint: a
/// duplicate must show, not fail.
fn table() -> Table<Copied> {
    Table::new("copied")
        .lineage_as(["topic", "partition", "offset", "i"])
        .bytea_opt("key", |copied: &Copied| copied.key.as_deref())
        .bytea_opt("value", |copied| copied.value.as_deref())
        .int4("pid", |copied| copied.pid)
}

/// Creates the table when it is missing. What is missing is what a statement would not find: in PostgreSQL,
/// `IF NOT EXISTS` looks only into the first schema of the search path, which for a user of the name `tidegate` is the
/// one of the bookkeeping tables as soon as that exists.
const CREATE_IN_POSTGRES: &str = "DO $$ BEGIN IF to_regclass('copied') IS NULL THEN \
    CREATE TABLE copied (topic text, partition int, \"offset\" bigint, i int, key bytea, value bytea, pid int); \
    END IF; END $$";
const CREATE_IN_SQLITE: &str = "CREATE TABLE IF NOT EXISTS copied (topic text, partition int, \
    \"offset\" bigint, i int, key blob, value blob, pid int)";

fn source(args: &Args, kafka: &Kafka) -> KafkaSource {
    let mut source = kafka
        .source(args.input.clone())
        .start(match args.start {
            Start::Earliest => StartPolicy::Earliest,
            Start::Latest => StartPolicy::Latest,
            Start::Error => StartPolicy::Error,
        })
        .group_protocol(match args.protocol {
            Protocol::Classic => GroupProtocol::Classic,
            Protocol::Consumer => GroupProtocol::Consumer,
        });
    if let Some(timeout) = args.session_timeout_ms {
        source = source.session_timeout(Duration::from_millis(timeout));
    }
    if let Some(interval) = args.max_poll_interval_ms {
        source = source.max_poll_interval(Duration::from_millis(interval));
    }
    source
}

fn exactly<O, S>(
    args: &Args,
    source: KafkaSource,
    copy: impl Fn(&RawRecord) -> O + Send + Sync + 'static,
    sink: S,
) -> Result<Job<O>, Error>
where
    O: Clone + Send + Sync + 'static,
    S: TransactionalSink<Output = O>,
{
    let records = configured(args, Pipeline::new(&args.group).from(source))?;
    Ok(match args.work {
        Work::Async => records.process_async(in_task(args, copy)).exactly_once(sink),
        _ => records.process(on_thread(args, copy)).exactly_once(sink),
    })
}

fn weaker<O, S>(
    args: &Args,
    source: KafkaSource,
    copy: impl Fn(&RawRecord) -> O + Send + Sync + 'static,
    sink: S,
) -> Result<Job<O>, Error>
where
    O: Clone + Send + Sync + 'static,
    S: Sink<Output = O>,
{
    let records = configured(args, Pipeline::new(&args.group).from(source))?;
    let at_most = args.guarantee == Promise::AtMostOnce;
    Ok(match (args.work, at_most) {
        (Work::Async, true) => records.process_async(in_task(args, copy)).at_most_once(sink),
        (Work::Async, false) => records.process_async(in_task(args, copy)).at_least_once(sink),
        (_, true) => records.process(on_thread(args, copy)).at_most_once(sink),
        (_, false) => records.process(on_thread(args, copy)).at_least_once(sink),
    })
}

fn on_thread<O: Clone>(
    args: &Args,
    copy: impl Fn(&RawRecord) -> O + Send + Sync + 'static,
) -> impl Fn(&RawRecord, &mut Context<'_, O>) -> Result<(), BoxError> + Send + Sync + 'static {
    let (range, kind) = (args.work_us.clone(), args.work);
    move |record, context| {
        work(kind, duration(&range, record));
        let copies = granted(record, context.attempt())?;
        emit(copies, || copy(record), |output| context.emit(output));
        Ok(())
    }
}

fn in_task<O: Clone + Send + 'static>(
    args: &Args,
    copy: impl Fn(&RawRecord) -> O + Send + Sync + 'static,
) -> impl Fn(Arc<RawRecord>, Emitter<O>) -> futures::future::BoxFuture<'static, Result<(), BoxError>>
+ Send
+ Sync
+ 'static {
    let range = args.work_us.clone();
    let copy = Arc::new(copy);
    move |record, emitter| {
        let (copy, time) = (Arc::clone(&copy), duration(&range, &record));
        Box::pin(async move {
            tokio::time::sleep(time).await;
            let copies = granted(&record, emitter.attempt())?;
            emit(copies, || copy(&record), |output| emitter.emit(output));
            Ok(())
        })
    }
}

fn emit<O: Clone>(copies: u32, make: impl Fn() -> O, mut emit: impl FnMut(O)) {
    if copies > 0 {
        let output = make();
        for _ in 1..copies {
            emit(output.clone());
        }
        emit(output);
    }
}

/// How many copies the record's value asks for, if it does not ask for a failure.
fn granted(record: &RawRecord, attempt: u32) -> Result<u32, BoxError> {
    match wish(record.value.as_deref(), attempt) {
        Wish::Copies(copies) => Ok(copies),
        Wish::Drop => Ok(0),
        Wish::Fail => Err(format!("the value asks for a failure at call {attempt}").into()),
        Wish::Panic => panic!("the value asks for a panic"),
    }
}

fn configured<S>(args: &Args, pipeline: Pipeline<S>) -> Result<Pipeline<S>, Error> {
    let retry =
        Retry::times(args.retries).backoff(Duration::from_millis(10), Duration::from_secs(1));
    let mut pipeline = pipeline
        .order(match args.order {
            Ordering::Partition => Order::ByPartition,
            Ordering::Key => Order::ByKey,
            Ordering::None => Order::Unordered,
        })
        .on_failure(match args.on_failure {
            OnFailure::DeadLetter => retry.then_dead_letter(),
            OnFailure::Skip => retry.then_skip(),
            OnFailure::Stop => retry.then_stop(),
        })
        .threads(args.threads)
        .concurrency(args.threads.saturating_mul(64).max(1))
        .in_flight(args.in_flight, 64 << 20)
        .commit_interval(Duration::from_millis(args.commit_interval_ms))
        .commit_records(args.commit_records);
    if let Some(name) = &args.instance {
        pipeline = pipeline.instance(name);
    }
    if let Some(drain) = args.drain() {
        pipeline = pipeline.drain_max(drain).stop_max(drain);
    }
    if let Some(interval) = args.max_poll_interval_ms {
        // A rebalance must settle within the interval: a drain, a claim, and a margin.
        let interval = Duration::from_millis(interval);
        let drain = args.drain().unwrap_or((interval / 2).min(Duration::from_secs(10)));
        let claim = (interval.saturating_sub(drain) / 2).min(Duration::from_secs(30));
        pipeline = pipeline.drain_max(drain).claim_max(claim.max(Duration::from_millis(1)));
    }
    match &args.evidence {
        None => Ok(pipeline),
        Some(path) => {
            let evidence = Evidence::open(path).map_err(|error| {
                Error::configuration("--evidence", path.display()).with_source(error)
            })?;
            Ok(pipeline.observe(evidence))
        }
    }
}
