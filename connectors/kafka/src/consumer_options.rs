//! What a source can be told, checked and turned into librdkafka's settings.

use std::time::Duration;

use rdkafka::ClientConfig;
use tidegate::Error;
use tidegate::mutant;
use tidegate::record::Timestamp;
use tidegate::source::SourceContext;

use crate::keys::Side;
use crate::settings::{Kafka, Overrides};
use crate::source::Subscription;
use crate::start;

/// Where a partition starts that has no stored progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum StartPolicy {
    /// At the first record that is still there.
    #[default]
    Earliest,
    /// Behind the last record.
    Latest,
    /// Nowhere: the partition stops by name until somebody sets its offset.
    Error,
    /// At the first record of this time or later; behind the last record if there is none.
    Timestamp(Timestamp),
}

/// How the members of a group agree on who reads what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum GroupProtocol {
    /// The members choose a leader, which assigns (cooperative-sticky). Works with every broker.
    #[default]
    Classic,
    /// The broker assigns (KIP-848, Kafka 4.0 or newer). Members that keep their partitions go on
    /// through a rebalance. Session time-out and heartbeat are the broker's settings then.
    Consumer,
}

/// What a source was told.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerOptions {
    pub(crate) start: StartPolicy,
    pub(crate) protocol: GroupProtocol,
    pub(crate) fetch_min_bytes: Option<u32>,
    pub(crate) fetch_wait_max: Option<Duration>,
    pub(crate) session_timeout: Option<Duration>,
    pub(crate) heartbeat_interval: Option<Duration>,
    pub(crate) max_poll_interval: Duration,
    pub(crate) records_per_fetch: Option<u32>,
    pub(crate) topic_refresh: Duration,
    pub(crate) headers: bool,
    pub(crate) overrides: Overrides,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            start: StartPolicy::default(),
            protocol: GroupProtocol::default(),
            fetch_min_bytes: None,
            fetch_wait_max: None,
            session_timeout: None,
            heartbeat_interval: None,
            max_poll_interval: Duration::from_secs(300),
            records_per_fetch: None,
            topic_refresh: Duration::from_secs(10),
            headers: true,
            overrides: Overrides::default(),
        }
    }
}

impl ConsumerOptions {
    /// The consumer's settings, checked.
    pub(crate) fn config(
        &self,
        kafka: &Kafka,
        subscription: &Subscription,
        context: &SourceContext,
    ) -> Result<ClientConfig, Error> {
        if context.group.is_empty() {
            return Err(Error::configuration(
                "group",
                "is empty; the pipeline's name is the group",
            ));
        }
        check_subscription(subscription)?;
        let settle = context.drain_max + context.claim_max;
        if settle >= self.max_poll_interval {
            return Err(Error::configuration(
                "max_poll_interval",
                format_args!(
                    "{:?} is not above drain_max + claim_max = {settle:?}: the group would go on \
                     without this member while it settles a rebalance",
                    self.max_poll_interval
                ),
            ));
        }
        let reads_open = mutant::is("M25") || mutant::is("M26");
        let mut config = kafka.common()?;
        config
            .set("group.id", &context.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", if reads_open { "read_uncommitted" } else { "read_committed" })
            .set("auto.offset.reset", if mutant::is("M27") { "latest" } else { "error" })
            .set("enable.partition.eof", "true")
            .set("check.crcs", "true")
            .set("allow.auto.create.topics", "false")
            .set("fetch.queue.backoff.ms", "5")
            // Of each partition as well. With 5,000 reading was slower in most runs (docs/DECISIONS.md).
            .set("queued.min.messages", "20000")
            // Of each partition: each has a queue of its own.
            .set("queued.max.messages.kbytes", "4096")
            .set("max.poll.interval.ms", millis(self.max_poll_interval))
            .set("topic.metadata.refresh.interval.ms", millis(self.topic_refresh));
        if let Some(instance) = &context.instance {
            config.set("group.instance.id", instance);
        }
        self.set_protocol(&mut config)?;
        if let Some(bytes) = self.fetch_min_bytes {
            config.set("fetch.min.bytes", positive("fetch_min_bytes", bytes)?);
        }
        if let Some(wait) = self.fetch_wait_max {
            config.set("fetch.wait.max.ms", millis(wait));
        }
        if let Some(records) = self.records_per_fetch {
            config.set("queued.min.messages", positive("records_per_fetch", records)?);
        }
        self.overrides.apply(&mut config, Side::Source)?;
        Ok(config)
    }

    /// The group, if its members have names under which they are given what they had before.
    /// Under [`GroupProtocol::Consumer`] the broker finds what is left over by itself.
    pub(crate) fn keeps_places(&self, context: &SourceContext) -> Option<String> {
        let by_members = self.protocol == GroupProtocol::Classic && context.instance.is_some();
        by_members.then(|| context.group.clone())
    }

    fn set_protocol(&self, config: &mut ClientConfig) -> Result<(), Error> {
        if self.protocol == GroupProtocol::Consumer {
            let owned_by_broker = [
                ("session_timeout", self.session_timeout),
                ("heartbeat_interval", self.heartbeat_interval),
            ];
            if let Some((name, _)) = owned_by_broker.iter().find(|(_, value)| value.is_some()) {
                return Err(Error::configuration(
                    name,
                    "is the broker's setting under `GroupProtocol::Consumer`",
                )
                .remedy(
                    "set group.consumer.session.timeout.ms or \
                     group.consumer.heartbeat.interval.ms there",
                ));
            }
            config.set("group.protocol", "consumer");
            return Ok(());
        }
        let session = self.session_timeout.unwrap_or(Duration::from_secs(45));
        let heartbeat = self.heartbeat_interval.unwrap_or(Duration::from_millis(500));
        if heartbeat.is_zero() || heartbeat >= session {
            return Err(Error::configuration(
                "heartbeat_interval",
                format_args!(
                    "{heartbeat:?} must be above zero and below session_timeout {session:?}"
                ),
            ));
        }
        if session > self.max_poll_interval {
            return Err(Error::configuration(
                "session_timeout",
                format_args!(
                    "{session:?} must not be above max_poll_interval {:?}",
                    self.max_poll_interval
                ),
            ));
        }
        config
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", millis(session))
            .set("heartbeat.interval.ms", millis(heartbeat));
        Ok(())
    }
}

fn check_subscription(subscription: &Subscription) -> Result<(), Error> {
    match subscription {
        Subscription::Pattern(pattern) if !pattern.starts_with('^') => Err(Error::configuration(
            "source_pattern",
            format_args!("{pattern:?} must start with `^`"),
        )),
        Subscription::Pattern(_) => Ok(()),
        Subscription::Topics(names) if names.is_empty() => {
            Err(Error::configuration("source", "names no topic"))
        }
        Subscription::Topics(names) => names.iter().try_for_each(|name| {
            start::check_topic_name(name).map_err(|problem| Error::configuration("source", problem))
        }),
    }
}

fn positive(setting: &str, value: u32) -> Result<String, Error> {
    if value == 0 {
        return Err(Error::configuration(setting, "must be above zero"));
    }
    Ok(value.to_string())
}

/// A duration as librdkafka takes it.
pub(crate) fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}
