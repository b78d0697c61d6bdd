//! L2 and L3: consume and produce, at least once and in transactions with the offsets.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use tidegate_kafka::limit::{BatchConsumer, Output};

use super::{Next, consumer};
use crate::case::{Case, Outcome};
use crate::measure::Span;

/// How long any call may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait when the producer's queue is full.
const FULL_WAIT: Duration = Duration::from_micros(200);

fn producer(case: &Case) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &case.bootstrap)
        .set("enable.idempotence", "true")
        .set("delivery.report.only.error", "true")
        .set("queue.buffering.max.messages", "20000")
        .set("linger.ms", "5");
    config
}

/// Takes and produces for one interval from the first record on; returns how many.
fn fill(
    case: &Case,
    consumer: &mut BatchConsumer,
    output: &Output,
    next: &mut Next,
    (span, left): (&Span, u64),
    mut first: impl FnMut() -> Result<()>,
) -> Result<u64> {
    let (mut begun, mut copied) = (None::<Instant>, 0);
    loop {
        let wait = match begun {
            None => Duration::from_millis(100),
            Some(begun) => case.interval().saturating_sub(begun.elapsed()),
        };
        for message in consumer.take(wait) {
            ensure!(message.error().is_none(), "{:?}", message.error());
            if begun.is_none() {
                span.begin();
                first()?;
                begun = Some(Instant::now());
            }
            send(output, message.partition(), message.key(), message.value())?;
            next.passed(message.partition(), message.offset());
            copied += 1;
        }
        let full = begun.is_some_and(|begun| begun.elapsed() >= case.interval());
        if full || copied >= left {
            return Ok(copied);
        }
    }
}

fn send(output: &Output, partition: i32, key: &[u8], value: &[u8]) -> Result<()> {
    loop {
        match output.send(partition, key, value) {
            Ok(()) => return Ok(()),
            Err(Code::QueueFull) => std::thread::sleep(FULL_WAIT),
            Err(code) => bail!("produce: {code}"),
        }
    }
}

/// L2: an idempotent producer; the group's offsets follow what was delivered.
pub(super) fn at_least_once(case: &Case) -> Result<Outcome> {
    let output = Output::new(&producer(case), &case.output)?;
    let mut consumer = consumer(case)?;
    let (span, mut next, mut copied) = (Span::default(), Next::new(), 0);
    while copied < case.records {
        let left = case.records - copied;
        copied += fill(case, &mut consumer, &output, &mut next, (&span, left), || Ok(()))?;
        let begun = Instant::now();
        output.flush(PATIENCE).map_err(|code| anyhow::anyhow!("flush: {code}"))?;
        span.phases.record("flush", begun.elapsed());
        consumer.client().commit(&next.list(&case.input), CommitMode::Async)?;
        span.phases.record("total", begun.elapsed());
    }
    span.end();
    span.outcome(copied)
}

/// L3: one transaction per interval; offsets first, then a commit that flushes by itself.
pub(super) fn exactly_once(case: &Case) -> Result<Outcome> {
    let mut config = producer(case);
    config.set("transactional.id", &case.group).set("transaction.timeout.ms", "10000");
    let output = Output::new(&config, &case.output)?;
    output.client().init_transactions(PATIENCE)?;
    let mut consumer = consumer(case)?;
    let (span, mut next, mut copied) = (Span::default(), Next::new(), 0);
    while copied < case.records {
        let begin = || {
            let begun = Instant::now();
            output.client().begin_transaction()?;
            span.phases.record("begin", begun.elapsed());
            Ok(())
        };
        let (filled, left) = (Instant::now(), case.records - copied);
        copied += fill(case, &mut consumer, &output, &mut next, (&span, left), begin)?;
        span.phases.record("fill", filled.elapsed());
        let begun = Instant::now();
        let group = consumer.client().group_metadata().expect("it is a member");
        let offsets = next.list(&case.input);
        output.client().send_offsets_to_transaction(&offsets, &group, PATIENCE)?;
        span.phases.record("offsets", begun.elapsed());
        let commit = Instant::now();
        output.commit().map_err(anyhow::Error::msg)?;
        span.phases.record("commit", commit.elapsed());
        span.phases.record("total", begun.elapsed());
    }
    span.end();
    span.outcome(copied)
}
