//! The limit loops: the least code around librdkafka and sqlx that does the work, each with the
//! settings and the order of calls that were found to be fastest.
//!
//! They handle no rebalance, no failure and no shutdown: they are a bound, not a program.

mod kafka;
mod postgres;
mod rows;
mod sqlite;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset, TopicPartitionList};
use tidegate_kafka::limit::BatchConsumer;

use crate::case::{Case, Outcome, READY, Work};
use crate::load::PARTITIONS;
use crate::measure::Span;

/// Messages taken from the queue at once.
const TAKE: usize = 10_000;

pub(crate) fn run(case: &Case) -> Result<Outcome> {
    match case.work {
        Work::Consume => consume(case),
        Work::AtLeastOnce => kafka::at_least_once(case),
        Work::Kafka => kafka::exactly_once(case),
        Work::Postgres => rows::run(case, postgres::open),
        Work::Sqlite => rows::run(case, sqlite::open),
    }
}

/// A member of the case's group, with all partitions assigned.
fn consumer(case: &Case) -> Result<BatchConsumer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &case.bootstrap)
        .set("group.id", &case.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "earliest")
        .set("heartbeat.interval.ms", "500")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.min.messages", "20000");
    let mut consumer = BatchConsumer::new(&config, TAKE)?;
    consumer.client().subscribe(&[&case.input])?;
    let begun = Instant::now();
    // What comes with the assignment is put back by a new start: nothing is fetched before the
    // callback has returned, so nothing can come in this loop.
    while consumer.client().assignment()?.count() < usize::try_from(PARTITIONS)? {
        ensure!(begun.elapsed() < Duration::from_secs(60), "no assignment");
        ensure!(consumer.take(Duration::ZERO).next().is_none(), "a record before its time");
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("{READY}");
    Ok(consumer)
}

/// The next offsets to read, by partition.
#[derive(Clone, Debug)]
struct Next(Vec<i64>);

impl Next {
    fn new() -> Self {
        Self(vec![0; usize::try_from(PARTITIONS).expect("a few partitions")])
    }

    fn passed(&mut self, partition: i32, offset: i64) {
        self.0[usize::try_from(partition).expect("partitions are numbered from 0")] = offset + 1;
    }

    fn list(&self, topic: &str) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, next) in (0..).zip(&self.0).filter(|(_, next)| **next > 0) {
            list.add_partition_offset(topic, partition, Offset::Offset(*next))
                .expect("an offset can be represented");
        }
        list
    }
}

/// L1: takes every record, touches one byte of it, and commits the group's offsets now and then.
fn consume(case: &Case) -> Result<Outcome> {
    let mut consumer = consumer(case)?;
    let span = Span::default();
    let (mut seen, mut sum, mut next) = (0, 0_u64, Next::new());
    let mut committed = Instant::now();
    while seen < case.records {
        for message in consumer.take(case.interval()) {
            ensure!(message.error().is_none(), "{:?}", message.error());
            sum = sum.wrapping_add(message.value()[0].into());
            next.passed(message.partition(), message.offset());
            seen += 1;
        }
        if seen > 0 {
            span.begin();
        }
        if committed.elapsed() >= case.interval() || seen == case.records {
            let mode = rdkafka::consumer::CommitMode::Async;
            consumer.client().commit(&next.list(&case.input), mode)?;
            committed = Instant::now();
        }
    }
    span.end();
    std::hint::black_box(sum);
    span.outcome(seen)
}
