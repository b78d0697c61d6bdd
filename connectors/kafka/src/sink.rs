//! The sink for exactly-once: results, dead letters and the source's progress in one transaction.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use tidegate::batch::Batch;
use tidegate::record::{Offset, PartitionId, Topic};
use tidegate::sink::{
    Claim, ClaimRequest, CommitError, Move, SinkContext, SinkDescription, SinkError, Stored,
    TransactionalSink,
};
use tidegate::source::{GroupOffsets as _, SourceError};
use tidegate::{Cause, Error};

use crate::consumer_options::millis;
use crate::keys::Side;
use crate::message::Message;
use crate::outbox::Outbox;
use crate::producer::Times;
use crate::replacement::Open;
use crate::settings::Kafka;
use crate::sink_options::{
    SinkOptions, check_options, check_topics, common_options, describe_target, producer_config,
};
use crate::source::{Connected, KafkaSource, Link};

/// The transaction time-out without an instance name: after a crash nobody comes back for the
/// open transaction, and readers wait for it so long.
const TRANSACTION_TIMEOUT_RANDOM: Duration = Duration::from_secs(10);
/// The transaction time-out with an instance name: its next start settles the open transaction.
const TRANSACTION_TIMEOUT_NAMED: Duration = Duration::from_secs(60);
/// Shorter than this the requests of a transaction do not fit into it.
const TRANSACTION_TIMEOUT_MIN: Duration = Duration::from_secs(2);
/// Writes results, dead letters and the progress of one source in one Kafka transaction; made by
/// [`KafkaSource::sink`].
#[derive(Debug)]
pub struct KafkaSink {
    kafka: Kafka,
    source_id: u64,
    link: Arc<Link>,
    options: SinkOptions,
    pub(crate) outbox: Outbox,
    pub(crate) open: Option<Open>,
}

/// The sink of this source.
pub(crate) fn new(kafka: Kafka, source: &KafkaSource) -> KafkaSink {
    KafkaSink {
        kafka,
        source_id: source.id(),
        link: source.link(),
        options: SinkOptions::default(),
        outbox: Outbox::default(),
        open: None,
    }
}

impl KafkaSink {
    /// How long a transaction may stay open before the broker aborts it. Default 10 s, or 60 s
    /// if the pipeline has an instance name. It must exceed any commit by far and stay below the
    /// broker's `transaction.max.timeout.ms`.
    #[must_use]
    pub fn transaction_timeout(mut self, timeout: Duration) -> Self {
        self.options.transaction_timeout = Some(timeout);
        self
    }

    common_options!();

    fn config(&self, transactional_id: &str, times: Times) -> Result<ClientConfig, Error> {
        let mut config = producer_config(&self.kafka)?;
        config
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", millis(times.transaction))
            .set("message.timeout.ms", millis(times.transaction * 9 / 10))
            .set("socket.timeout.ms", millis(times.socket));
        self.options.overrides.apply(&mut config, Side::Sink)?;
        Ok(config)
    }

    /// The source, or why it cannot be asked now.
    pub(crate) fn connected(&self) -> Result<Connected, Cause> {
        self.link.connected().ok_or_else(|| {
            Cause::new("the Kafka source this sink belongs to is not open in this pipeline")
        })
    }

    /// The stable stored offsets, in the order asked.
    pub(crate) async fn stored(
        &self,
        ids: &[PartitionId],
    ) -> Result<Vec<Option<Offset>>, SinkError> {
        let connected = self.connected().map_err(SinkError::Retry)?;
        connected.offsets.committed(ids).await.map_err(|error| match error {
            SourceError::Retry(cause) => SinkError::Retry(cause),
            SourceError::Fenced(cause) => SinkError::Fenced(cause),
            SourceError::Stop(error) => SinkError::Stop(error),
            other => SinkError::Retry(Cause::new(other)),
        })
    }
}

fn not_open() -> SinkError {
    SinkError::Stop(Error::sink_failed("the Kafka sink was used before it was opened"))
}

/// `<group>-<instance or random>-0`: one engine per process for now.
fn transactional_id(context: &SinkContext) -> String {
    let instance = context.instance.clone().unwrap_or_else(|| {
        let random = || RandomState::new().build_hasher().finish();
        format!("{:016x}{:016x}", random(), random())
    });
    format!("{}-{instance}-0", context.group)
}

impl TransactionalSink for KafkaSink {
    type Output = Message;

    async fn open(&mut self, context: &SinkContext) -> Result<(), SinkError> {
        check_options(&self.options, context).map_err(SinkError::Stop)?;
        let transaction = self.options.transaction_timeout.unwrap_or(match context.instance {
            Some(_) => TRANSACTION_TIMEOUT_NAMED,
            None => TRANSACTION_TIMEOUT_RANDOM,
        });
        if transaction < TRANSACTION_TIMEOUT_MIN {
            return Err(SinkError::Stop(Error::configuration(
                "transaction_timeout",
                format_args!("{transaction:?} is below {TRANSACTION_TIMEOUT_MIN:?}"),
            )));
        }
        let times = Times { transaction, socket: (transaction / 2).min(Duration::from_secs(30)) };
        let transactional_id = transactional_id(context);
        let config = self.config(&transactional_id, times).map_err(SinkError::Stop)?;
        self.outbox =
            Outbox::new(self.options.lineage, self.options.dead_letters.as_deref().map(Topic::new));
        let mut open = Open::new(self.kafka.clone(), config, transactional_id, times);
        open.ensure_producer(context.deadline).await?;
        let producer = open.producer().map(|producer| Arc::clone(producer.native()));
        self.open = Some(open);
        check_topics(producer.ok_or_else(not_open)?, &self.options).await
    }

    fn describe(&self) -> SinkDescription {
        SinkDescription {
            kind: "kafka".into(),
            target: describe_target(&self.options, &self.kafka),
            notes: vec![
                "results, dead letters and group offsets in one transaction".into(),
                "readers see it with isolation.level=read_committed, partition by partition".into(),
            ],
            bound_to: Some(self.source_id),
        }
    }

    fn measure(&self) -> fn(&Message) -> usize {
        Message::size_bytes
    }

    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        let open = self.open.as_mut().ok_or_else(not_open)?;
        open.ensure_producer(open.times.transaction).await?;
        let ids: Vec<PartitionId> = partitions.iter().map(|p| p.partition.clone()).collect();
        let stored = self.stored(&ids).await?;
        let open = self.open.as_mut().ok_or_else(not_open)?;
        Ok(partitions
            .iter()
            .zip(stored)
            .map(|(request, offset)| Claim {
                partition: request.partition.clone(),
                stored: match (open.recreated(request), offset) {
                    (Some(cause), _) => Stored::Refused(cause),
                    (None, Some(offset)) => Stored::At(offset),
                    (None, None) => Stored::Nothing,
                },
            })
            .collect())
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        self.store_positions(moves).await
    }

    async fn commit(&mut self, batch: &Batch<Message>) -> Result<(), CommitError> {
        self.commit_batch(batch).await
    }

    async fn probe(&mut self, batch: &Batch<Message>) -> Result<(), CommitError> {
        self.probe_batch(batch).await
    }

    async fn release(&mut self, _: &[PartitionId]) {
        // The group itself hands partitions on; nothing of ours is stored with them.
    }

    async fn close(&mut self) {
        self.open = None;
    }
}

#[cfg(test)]
mod tests {
    use tidegate::sink::DeadLetters;

    use super::*;

    fn context(instance: Option<&str>) -> SinkContext {
        SinkContext {
            group: "orders".into(),
            instance: instance.map(Into::into),
            deadline: Duration::from_secs(1),
            dead_letters: DeadLetters::Never,
        }
    }

    #[test]
    fn a_named_instance_keeps_its_transactional_id_and_others_differ() {
        assert_eq!(transactional_id(&context(Some("a"))), "orders-a-0");
        let (first, second) = (transactional_id(&context(None)), transactional_id(&context(None)));
        assert_ne!(first, second);
        assert!(first.starts_with("orders-") && first.ends_with("-0") && first.len() > 30);
    }

    #[test]
    fn dead_letters_without_a_topic_are_refused() {
        let mut options = SinkOptions::default();
        let context = SinkContext { dead_letters: DeadLetters::Expected, ..context(None) };
        let error = check_options(&options, &context).unwrap_err();
        assert!(error.is_configuration() && error.to_string().starts_with("dead_letters: "));
        options.dead_letters = Some("dead".into());
        check_options(&options, &context).unwrap();
    }
}
