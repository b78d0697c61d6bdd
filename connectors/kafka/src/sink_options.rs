//! What both sinks can be told, and what is checked of it before anything is consumed.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use tidegate::record::Topic;
use tidegate::sink::{DeadLetters, SinkContext, SinkError};
use tidegate::{Cause, Error};

use crate::error;
use crate::ffi;
use crate::helper::Helper;
use crate::outbox::Lineage;
use crate::producer::Producer;
use crate::settings::{Kafka, Overrides};
use crate::start;

/// How long the topics may take to be looked up.
const DESCRIBE_MAX: Duration = Duration::from_secs(10);

/// What both sinks can be told.
#[derive(Clone, Debug, Default)]
pub(crate) struct SinkOptions {
    pub(crate) transaction_timeout: Option<Duration>,
    pub(crate) dead_letters: Option<String>,
    pub(crate) lineage: Lineage,
    pub(crate) outputs: Vec<String>,
    pub(crate) overrides: Overrides,
}

/// The methods that set them, the same for both sinks.
macro_rules! common_options {
    () => {
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
            self.options.lineage = $crate::outbox::Lineage::On;
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
    };
}
pub(crate) use common_options;

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
    producer: Arc<Producer>,
    options: &SinkOptions,
) -> Result<(), SinkError> {
    let topics: Vec<Topic> =
        options.outputs.iter().chain(&options.dead_letters).map(|name| Topic::new(name)).collect();
    if topics.is_empty() {
        return Ok(());
    }
    let helper = Helper::start("tidegate-kafka-topics")
        .map_err(|error| SinkError::Retry(Cause::from_error("no thread", error)))?;
    let asked = topics.clone();
    let found = helper
        .ask(move || {
            ffi::describe_topics(producer.client(), &asked, DESCRIBE_MAX)
                .map_err(|failure| producer.client().context().explain(failure))
        })
        .await
        .ok_or_else(|| SinkError::Retry(Cause::new("the helper thread ended")))?
        .map_err(|failure| match failure.code {
            Code::UnsupportedFeature => SinkError::Retry(Cause::new(failure).needs_operator()),
            code if error::is_authentication(code) => SinkError::Stop(error::not_accepted(failure)),
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

/// What both sinks' producers are configured with.
pub(crate) fn producer_config(kafka: &Kafka) -> Result<ClientConfig, Error> {
    let mut config = kafka.common()?;
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("delivery.report.only.error", "true")
        .set("queue.buffering.max.messages", "20000")
        // A transaction that follows another at once is told to come back while the broker still
        // ends the first: with librdkafka's 100 ms that would be a step in every such commit.
        .set("retry.backoff.ms", "10")
        // Fewer and larger requests; a commit and a flush do not wait for it.
        .set("linger.ms", "5");
    Ok(config)
}
