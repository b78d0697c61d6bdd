//! The pipelines that are measured.

use std::sync::Arc;

use bytes::Bytes;
use tidegate::batch::Batch;
use tidegate::prelude::*;
use tidegate::record::{RawRecord, Topic};
use tidegate::sink::{Sink, SinkContext, SinkDescription, SinkError, TransactionalSink};
use tidegate_kafka::{Kafka, KafkaSource, Message};
use tidegate_postgres::Postgres;
use tidegate_sqlite::{Sqlite, Table};

use super::watch::{Eye, Watch};
use crate::case::Case;

fn source(case: &Case) -> (Kafka, KafkaSource) {
    let kafka = Kafka::connect(&case.bootstrap);
    // The loops look at no headers either.
    let source = kafka.source(case.input.as_str()).without_headers();
    (kafka, source)
}

/// Reads, and commits the group's offsets.
pub(super) fn consume(case: &Case, watch: &Arc<Watch>) -> Job<()> {
    let watching = Arc::clone(watch);
    Pipeline::new(&case.group)
        .from(source(case).1)
        .commit_interval(case.interval())
        .observe(Eye(Arc::clone(watch)))
        .map(move |record: &RawRecord| watching.saw(record))
        .at_least_once(Nothing)
}

/// Copies to a topic; the group's offsets follow.
pub(super) fn at_least_once(case: &Case, watch: &Arc<Watch>) -> Job<Message> {
    let (kafka, source) = source(case);
    Pipeline::new(&case.group)
        .from(source)
        .commit_interval(case.interval())
        .observe(Eye(Arc::clone(watch)))
        .map(copy_to(case, watch))
        .at_least_once(kafka.sink().outputs([case.output.as_str()]))
}

/// Copies to a topic in transactions.
pub(super) fn kafka(case: &Case, watch: &Arc<Watch>) -> Job<Message> {
    let (_, source) = source(case);
    let sink = source.sink().outputs([case.output.as_str()]);
    Pipeline::new(&case.group)
        .from(source)
        .commit_interval(case.interval())
        .observe(Eye(Arc::clone(watch)))
        .map(copy_to(case, watch))
        .exactly_once(sink)
}

/// Copies to PostgreSQL.
pub(super) fn postgres(case: &Case, watch: &Arc<Watch>) -> Job<Row> {
    let sink = Postgres::connect(&case.output).into(table());
    rows(case, watch, sink)
}

/// Copies to SQLite.
pub(super) fn sqlite(case: &Case, watch: &Arc<Watch>) -> Job<Row> {
    let sink = Sqlite::open(&case.output).into(table());
    rows(case, watch, sink)
}

/// The identity function: the message is the record, in the partition of the same number.
pub(crate) fn copy_to(
    case: &Case,
    watch: &Arc<Watch>,
) -> impl Fn(&RawRecord) -> Message + Send + Sync + 'static {
    let (topic, watch) = (Topic::new(&case.output), Arc::clone(watch));
    move |record| {
        watch.saw(record);
        let mut message = Message::to(topic.clone()).partition(record.partition.index());
        message.key = record.key.clone();
        message.value = record.value.clone();
        message
    }
}

/// A record as a row.
#[derive(Debug)]
pub(crate) struct Row {
    partition: i32,
    offset: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
}

fn table() -> Table<Row> {
    Table::new("bench")
        .int4("partition", |row: &Row| row.partition)
        .int8("offset", |row| row.offset)
        .bytea_opt("key", |row| row.key.as_deref())
        .bytea_opt("value", |row| row.value.as_deref())
}

/// The identity function: the row is the record with its place.
fn rows(case: &Case, watch: &Arc<Watch>, sink: impl TransactionalSink<Output = Row>) -> Job<Row> {
    let watching = Arc::clone(watch);
    Pipeline::new(&case.group)
        .from(source(case).1)
        .commit_interval(case.interval())
        .observe(Eye(Arc::clone(watch)))
        .map(move |record: &RawRecord| {
            watching.saw(record);
            Row {
                partition: record.partition.index(),
                offset: record.offset.get(),
                key: record.key.clone(),
                value: record.value.clone(),
            }
        })
        .exactly_once(sink)
}

/// A sink that stores nothing.
#[derive(Debug)]
struct Nothing;

impl Sink for Nothing {
    type Output = ();

    async fn open(&mut self, _: &SinkContext) -> Result<(), SinkError> {
        Ok(())
    }

    fn describe(&self) -> SinkDescription {
        SinkDescription { kind: "nothing".to_owned(), ..SinkDescription::default() }
    }

    async fn write(&mut self, _: &Batch<()>) -> Result<(), SinkError> {
        Ok(())
    }

    async fn close(&mut self) {}
}
