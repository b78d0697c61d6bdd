//! The sink for exactly-once: results, dead letters and the source's progress in one transaction.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use tidegate::batch::Batch;
use tidegate::record::{Offset, PartitionId, Topic};
use tidegate::sink::{
    Claim, ClaimRequest, CommitError, DeadLetters, Move, SinkContext, SinkDescription, SinkError,
    Stored, TopicId, TransactionalSink,
};
use tidegate::source::{GroupOffsets as _, SourceError};
use tidegate::{Cause, Error};

use crate::ffi;
use crate::keys::Side;
use crate::message::Message;
use crate::metrics;
use crate::outbox::{Lineage, Outbox};
use crate::producer::{Times, TransactionalProducer};
use crate::settings::{Kafka, Overrides};
use crate::source::{Connected, KafkaSource, Link, millis};
use crate::{limits, start};

/// The transaction time-out without an instance name: after a crash nobody comes back for the
/// open transaction, and readers wait for it so long.
const TRANSACTION_TIMEOUT_RANDOM: Duration = Duration::from_secs(10);
/// The transaction time-out with an instance name: its next start settles the open transaction.
const TRANSACTION_TIMEOUT_NAMED: Duration = Duration::from_secs(60);
/// Shorter than this the requests of a transaction do not fit into it.
const TRANSACTION_TIMEOUT_MIN: Duration = Duration::from_secs(2);
/// Producers made in [`REPLACEMENT_WINDOW`] above which another process is suspected.
const REPLACEMENTS_MAX: usize = 5;
const REPLACEMENT_WINDOW: Duration = Duration::from_secs(60);
/// Commits after which messages are sent in sets again.
pub(crate) const ONE_BY_ONE_COMMITS: u32 = 100;
/// How long the topics may take to be looked up.
const DESCRIBE_MAX: Duration = Duration::from_secs(10);

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

/// What both sinks can be told.
#[derive(Clone, Debug, Default)]
pub(crate) struct SinkOptions {
    pub(crate) transaction_timeout: Option<Duration>,
    pub(crate) dead_letters: Option<String>,
    pub(crate) lineage: Lineage,
    pub(crate) outputs: Vec<String>,
    pub(crate) overrides: Overrides,
}

/// What an open sink has.
pub(crate) struct Open {
    config: ClientConfig,
    transactional_id: String,
    pub(crate) times: Times,
    /// Missing after a result that is in doubt, until the next claim.
    pub(crate) producer: Option<TransactionalProducer>,
    replaced: VecDeque<Instant>,
    /// Commits left in which every message is sent in a set of its own.
    pub(crate) one_by_one: u32,
    topic_ids: HashMap<Topic, TopicId>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open")
            .field("transactional_id", &self.transactional_id)
            .finish_non_exhaustive()
    }
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

    /// Where records go that were set aside; needed if the failure policy sets any aside.
    #[must_use]
    pub fn dead_letters(mut self, topic: impl Into<String>) -> Self {
        self.options.dead_letters = Some(topic.into());
        self
    }

    /// Adds to every result the header `tidegate-source` = `topic/partition/offset/i`: the record
    /// it came from, and its number among that record's results. Dead letters always have it.
    #[must_use]
    pub fn lineage(mut self) -> Self {
        self.options.lineage = Lineage::On;
        self
    }

    /// The topics results go to, to be checked before anything is consumed. Messages to other
    /// topics are possible.
    #[must_use]
    pub fn outputs<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.options.outputs = topics.into_iter().map(Into::into).collect();
        self
    }

    /// Passes a setting to librdkafka's producer. What would break the guarantee is refused with
    /// the reason when the pipeline starts, and so is a name that librdkafka does not know.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.overrides.set(key, value);
        self
    }

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

    /// Makes a producer if there is none: it fences the former ones and settles what they left.
    async fn ensure_producer(
        &mut self,
        reason: &'static str,
        deadline: Duration,
    ) -> Result<(), SinkError> {
        let (kafka, tokens) = (self.kafka.clone(), self.kafka.tokens());
        let open = self.open.as_mut().ok_or_else(not_open)?;
        if open.producer.is_some() {
            return Ok(());
        }
        if reason != "start" {
            open.count_replacement().map_err(SinkError::Stop)?;
        }
        let mut config = open.config.clone();
        if open.one_by_one > 0 {
            config.set("batch.num.messages", "1");
        }
        metrics::replaced(reason);
        tracing::info!(transactional_id = open.transactional_id, reason, "new producer");
        match TransactionalProducer::start(config, tokens, open.times, deadline).await {
            Ok(producer) => {
                open.producer = Some(producer);
                Ok(())
            }
            Err(failure) => Err(limits::start_failed(&kafka, failure, open.times).await),
        }
    }

    /// Replaces the producer by one that sends every message in a set of its own for the next
    /// `commits`, so that a refusal for size hits exactly the messages that are too large. With
    /// zero, by one that sends sets again.
    pub(crate) async fn send_one_by_one(&mut self, commits: u32) -> Result<(), SinkError> {
        let open = self.open.as_mut().ok_or_else(not_open)?;
        open.producer = None;
        open.one_by_one = commits;
        let deadline = open.times.transaction;
        self.make_without_counting("size", deadline).await
    }

    async fn make_without_counting(
        &mut self,
        reason: &'static str,
        deadline: Duration,
    ) -> Result<(), SinkError> {
        let counted = self.open.as_ref().map(|open| open.replaced.clone());
        let result = self.ensure_producer(reason, deadline).await;
        if let (Some(open), Some(counted)) = (&mut self.open, counted) {
            open.replaced = counted;
        }
        result
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

impl Open {
    /// Notes a replacement; too many in a short time point to a twin.
    fn count_replacement(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.replaced.retain(|at| now.duration_since(*at) < REPLACEMENT_WINDOW);
        self.replaced.push_back(now);
        if self.replaced.len() <= REPLACEMENTS_MAX {
            return Ok(());
        }
        Err(Error::fenced(format_args!(
            "the producer {} had to be replaced {} times within {REPLACEMENT_WINDOW:?}",
            self.transactional_id,
            self.replaced.len()
        ))
        .remedy(
            "another process probably runs with the same transactional id (the same instance \
             name); otherwise the broker does not answer in time",
        ))
    }

    /// A commit went through; whether messages can be sent in sets again, by a new producer.
    pub(crate) fn committed(&mut self) -> bool {
        let counting = self.one_by_one > 0;
        self.one_by_one = self.one_by_one.saturating_sub(1);
        counting && self.one_by_one == 0
    }
}

fn not_open() -> SinkError {
    SinkError::Stop(Error::sink_failed("the Kafka sink was used before it was opened"))
}

/// What both sinks' producers are configured with.
pub(crate) fn producer_config(kafka: &Kafka) -> Result<ClientConfig, Error> {
    let mut config = kafka.common()?;
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("delivery.report.only.error", "true")
        .set("queue.buffering.max.messages", "20000")
        .set("linger.ms", "1");
    Ok(config)
}

/// `<group>-<instance or random>-0`: one engine per process for now.
fn transactional_id(context: &SinkContext) -> String {
    let instance = context.instance.clone().unwrap_or_else(|| {
        let random = || RandomState::new().build_hasher().finish();
        format!("{:016x}{:016x}", random(), random())
    });
    format!("{}-{instance}-0", context.group)
}

/// Checks what can be checked without asking the broker.
pub(crate) fn check_options(options: &SinkOptions, context: &SinkContext) -> Result<(), Error> {
    if context.dead_letters == DeadLetters::Expected && options.dead_letters.is_none() {
        return Err(Error::configuration(
            "dead_letters",
            "the failure policy sets records aside, but the Kafka sink has no topic for them",
        )
        .remedy("name one with `.dead_letters(\"topic\")`"));
    }
    for topic in options.outputs.iter().chain(&options.dead_letters) {
        start::check_topic_name(topic)
            .map_err(|problem| Error::configuration("outputs", problem))?;
    }
    Ok(())
}

/// Checks that the topics a sink was told of exist. None is created by asking.
pub(crate) async fn check_topics(
    producer: Arc<crate::producer::Producer>,
    options: &SinkOptions,
) -> Result<(), SinkError> {
    let topics: Vec<Topic> =
        options.outputs.iter().chain(&options.dead_letters).map(|name| Topic::new(name)).collect();
    if topics.is_empty() {
        return Ok(());
    }
    let helper = crate::helper::Helper::start("tidegate-kafka-topics")
        .map_err(|error| SinkError::Retry(Cause::from_error("no thread", error)))?;
    let asked = topics.clone();
    let found = helper
        .ask(move || ffi::describe_topics(producer.client(), &asked, DESCRIBE_MAX))
        .await
        .ok_or_else(|| SinkError::Retry(Cause::new("the helper thread ended")))?
        .map_err(|failure| match failure.code {
            Code::UnsupportedFeature => SinkError::Retry(Cause::new(failure).needs_operator()),
            _ => SinkError::Retry(Cause::from_error("topics", failure)),
        })?;
    for topic in &topics {
        if !found.contains_key(topic) {
            let setting = if options.dead_letters.as_deref() == Some(topic.as_str()) {
                "dead_letters"
            } else {
                "outputs"
            };
            return Err(SinkError::Stop(
                Error::configuration(setting, format_args!("topic {topic} does not exist"))
                    .remedy("create it first: sinks create no topics"),
            ));
        }
    }
    Ok(())
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
        self.open = Some(Open {
            config,
            transactional_id,
            times,
            producer: None,
            replaced: VecDeque::new(),
            one_by_one: 0,
            topic_ids: HashMap::new(),
        });
        self.ensure_producer("start", context.deadline).await?;
        match self.open.as_ref().and_then(|open| open.producer.as_ref()) {
            Some(producer) => check_topics(Arc::clone(producer.native()), &self.options).await,
            None => Err(not_open()),
        }
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
        let deadline = self.open.as_ref().ok_or_else(not_open)?.times.transaction;
        self.ensure_producer("doubt", deadline).await?;
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

impl Open {
    /// The group's offsets carry no topic id, so only a topic that is created anew while this
    /// process runs is noticed.
    fn recreated(&mut self, request: &ClaimRequest) -> Option<Cause> {
        let id = request.topic_id?;
        let topic = request.partition.topic();
        let first = *self.topic_ids.entry(topic.clone()).or_insert(id);
        (first != id).then(|| {
            Cause::new(format_args!(
                "topic {topic} was deleted and created again: its stored offsets belong to the \
                 old one; reset them to go on"
            ))
        })
    }
}

/// Where a sink writes, for descriptions.
pub(crate) fn describe_target(options: &SinkOptions, kafka: &Kafka) -> String {
    let topics = match options.outputs.as_slice() {
        [] => "topics named by the messages".to_string(),
        topics => topics.join(", "),
    };
    match &options.dead_letters {
        Some(dead) => format!("{topics}, dead letters to {dead}, at {}", kafka.servers()),
        None => format!("{topics} at {}", kafka.servers()),
    }
}

#[cfg(test)]
mod tests {
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
