//! The sink for the weaker guarantees: results and dead letters, without progress.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaResult;
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use tidegate::batch::Batch;
use tidegate::record::Topic;
use tidegate::sink::{Rejection, Sink, SinkContext, SinkDescription, SinkError};
use tidegate::{Cause, Error};

use crate::consumer_options::millis;
use crate::error::{Call, Verdict, judge};
use crate::ffi::{self, Failure};
use crate::helper::Helper;
use crate::keys::Side;
use crate::message::Message;
use crate::metrics;
use crate::notes::Notes;
use crate::outbox::{Outbox, items};
use crate::producer::{Producer, TopicHandles};
use crate::settings::Kafka;
use crate::sink_options::{
    SinkOptions, check_options, check_topics, common_options, describe_target, producer_config,
};
use crate::start;

/// How long librdkafka tries to deliver a message.
const DELIVERY_MAX: Duration = Duration::from_secs(60);
/// How long a flush may take: a little longer than any delivery.
const FLUSH_MAX: Duration = Duration::from_secs(65);
/// How often a flush looks whether the cluster is lost.
const FLUSH_STEP: Duration = Duration::from_secs(1);
/// How long to wait when the producer's queue is full.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);
/// Messages after which other tasks get a turn.
const YIELD_EVERY: usize = 1024;

/// Writes results and dead letters by an idempotent producer, without progress; made by
/// [`Kafka::sink`](crate::Kafka::sink). After a restart results may appear twice.
#[derive(Debug)]
pub struct KafkaPlainSink {
    kafka: Kafka,
    options: SinkOptions,
    outbox: Outbox,
    open: Option<Open>,
}

struct Open {
    topics: TopicHandles,
    producer: Arc<Producer>,
    calls: Helper,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Open")
    }
}

pub(crate) fn new(kafka: Kafka) -> KafkaPlainSink {
    KafkaPlainSink { kafka, options: SinkOptions::default(), outbox: Outbox::default(), open: None }
}

impl KafkaPlainSink {
    common_options!();

    fn start_producer(&self) -> Result<Open, SinkError> {
        let mut config = producer_config(&self.kafka).map_err(SinkError::Stop)?;
        config.set("message.timeout.ms", millis(DELIVERY_MAX));
        self.options.overrides.apply(&mut config, Side::Sink).map_err(SinkError::Stop)?;
        let notes = Notes::unwatched(&config, self.kafka.tokens());
        let producer: KafkaResult<Producer> = config.create_with_context(notes);
        let producer = Arc::new(producer.map_err(|error| SinkError::Stop(start::refused(&error)))?);
        let calls = Helper::start("tidegate-kafka-producer").map_err(|error| {
            SinkError::Stop(Error::sink_failed("a thread cannot be started").with_source(error))
        })?;
        Ok(Open { topics: TopicHandles::new(&producer), producer, calls })
    }

    /// Hands every message to the producer; the first that is not taken ends it.
    async fn send(&mut self, batch: &Batch<Message>) -> Result<usize, (usize, Code)> {
        let begun = Instant::now();
        let mut sent = 0;
        for (id, item) in items(batch.finished()).enumerate() {
            loop {
                let open = self.open.as_mut().ok_or((id, Code::State))?;
                match self.outbox.send(&item, id, &mut open.topics) {
                    Ok(()) => break,
                    Err(Code::QueueFull) if begun.elapsed() < DELIVERY_MAX => {
                        tokio::time::sleep(QUEUE_FULL_WAIT).await;
                    }
                    Err(code) => return Err((id, code)),
                }
            }
            sent = id + 1;
            if sent % YIELD_EVERY == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(sent)
    }

    /// Waits until every message was delivered or has failed; the failures in order.
    async fn flush(&mut self) -> Result<Vec<(usize, Code)>, SinkError> {
        let open = self.open.as_ref().ok_or_else(not_open)?;
        let producer = Arc::clone(&open.producer);
        let flush = open.calls.ask(move || flush(&producer));
        let flushed = tokio::time::timeout(FLUSH_MAX + Duration::from_secs(5), flush).await;
        let failures = open.producer.client().context().take_failures();
        if let Some((code, text)) = open.producer.client().fatal_error() {
            // The producer lost track of what was delivered: only a new one may go on.
            self.open = Some(self.start_producer()?);
            return Err(SinkError::Retry(Cause::new(format_args!(
                "the producer failed and was replaced: {text} ({code:?})"
            ))));
        }
        match flushed {
            Ok(Some(Ok(()))) => {
                if failures.is_empty() {
                    open.producer.client().context().bootstrap.found();
                }
                Ok(failures)
            }
            Ok(Some(Err(code))) => Err(SinkError::Retry(Cause::new(format_args!(
                "messages were not delivered in time: {code}"
            )))),
            Ok(None) | Err(_) => Err(SinkError::Retry(Cause::new("the flush did not come back"))),
        }
    }
}

fn flush(producer: &Producer) -> Result<(), Code> {
    let bootstrap = &producer.client().context().bootstrap;
    let begun = Instant::now();
    loop {
        match ffi::flush(producer, FLUSH_STEP) {
            Err(Code::OperationTimedOut) if begun.elapsed() < FLUSH_MAX => {
                bootstrap.wait_on(begun, producer.client());
            }
            flushed => return flushed,
        }
    }
}

fn not_open() -> SinkError {
    SinkError::Stop(Error::sink_failed("the Kafka sink was used before it was opened"))
}

/// What a message that was not taken or not delivered means.
fn failed(batch: &Batch<Message>, call: Call, id: usize, others: usize, code: Code) -> SinkError {
    let failure =
        Failure { code, fatal: false, retriable: false, abort: false, text: code.to_string() };
    let cause = Cause::new(match others {
        0 => format!("message {id} of the batch was not written: {code}"),
        _ => format!("message {id} of the batch and {others} more were not written: {code}"),
    });
    // A set that is too large comes back whole, the healthy with the one at fault.
    let item = items(batch.finished()).nth(id).filter(|_| others == 0);
    match judge(call, &failure) {
        Verdict::Rejected => SinkError::Rejected(match item {
            Some(item) => Rejection::of_record(cause, item.coordinates()),
            None => Rejection::of_some_record(cause),
        }),
        Verdict::Operator => SinkError::Retry(cause.needs_operator()),
        _ => SinkError::Retry(cause),
    }
}

impl Sink for KafkaPlainSink {
    type Output = Message;

    async fn open(&mut self, context: &SinkContext) -> Result<(), SinkError> {
        check_options(&self.options, context).map_err(SinkError::Stop)?;
        self.outbox =
            Outbox::new(self.options.lineage, self.options.dead_letters.as_deref().map(Topic::new));
        let open = self.start_producer()?;
        let producer = Arc::clone(&open.producer);
        self.open = Some(open);
        check_topics(producer, &self.options).await
    }

    fn describe(&self) -> SinkDescription {
        SinkDescription {
            kind: "kafka".into(),
            target: describe_target(&self.options, &self.kafka),
            notes: vec!["results only: after a restart they may appear twice".into()],
            bound_to: None,
        }
    }

    fn measure(&self) -> fn(&Message) -> usize {
        Message::size_bytes
    }

    async fn write(&mut self, batch: &Batch<Message>) -> Result<(), SinkError> {
        let open = self.open.as_ref().ok_or_else(not_open)?;
        open.producer.client().context().forget_failures();
        let sent = self.send(batch).await;
        let failures = self.flush().await?;
        metrics::produced(sent.as_ref().copied().unwrap_or_else(|(id, _)| *id));
        if let Err((id, code)) = sent {
            return Err(failed(batch, Call::Produce, id, 0, code));
        }
        match failures.first() {
            None => Ok(()),
            Some((id, code)) => Err(failed(batch, Call::Delivery, *id, failures.len() - 1, *code)),
        }
    }

    async fn close(&mut self) {
        if let Some(open) = self.open.take() {
            let Open { topics, producer, calls } = open;
            // Releasing a producer waits for its threads: not on a thread of the runtime.
            calls.run(move || drop((topics, producer)));
        }
    }
}
