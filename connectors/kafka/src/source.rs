//! The source: reads topics as a member of a consumer group.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tidegate::Error;
use tidegate::record::Topic;
use tidegate::source::{
    Credit, EventSender, GroupOffsets, Resolved, Source, SourceContext, SourceDescription,
    SourceError, Start, Wanted,
};
use tokio::sync::oneshot;

use crate::consumer_options::{ConsumerOptions, GroupProtocol, StartPolicy};
use crate::context::{Consumer, Context};
use crate::current::Current;
use crate::helper::Helper;
use crate::offsets::ConsumerOffsets;
use crate::orphans::Orphans;
use crate::renewal::Again;
use crate::resolve::{self, Resolver};
use crate::settings::Kafka;
use crate::sink::KafkaSink;
use crate::start;
use crate::thread::{self, Command, Limits, Reading, Remote};

/// Numbers the sources of this process, so that a sink knows its own.
static SOURCES: AtomicU64 = AtomicU64::new(1);

/// Topic names: one, or several.
pub trait Topics {
    /// The names.
    fn names(self) -> Vec<String>;
}

impl Topics for &str {
    fn names(self) -> Vec<String> {
        vec![self.to_string()]
    }
}

impl Topics for String {
    fn names(self) -> Vec<String> {
        vec![self]
    }
}

impl<T: Into<String>, const N: usize> Topics for [T; N] {
    fn names(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<T: Into<String>> Topics for Vec<T> {
    fn names(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<T: AsRef<str>> Topics for &[T] {
    fn names(self) -> Vec<String> {
        self.iter().map(|name| name.as_ref().to_string()).collect()
    }
}

/// What a source reads.
#[derive(Clone, Debug)]
pub(crate) enum Subscription {
    /// These topics.
    Topics(Vec<String>),
    /// Topics whose names match.
    Pattern(String),
}

/// Reads topics as a member of a consumer group; made by [`Kafka::source`].
#[derive(Debug)]
pub struct KafkaSource {
    kafka: Kafka,
    subscription: Subscription,
    options: ConsumerOptions,
    id: u64,
    link: Arc<Link>,
    running: Option<Running>,
}

/// What a sink bound to the source reaches it by, once it is open.
#[derive(Debug, Default)]
pub(crate) struct Link(Mutex<Option<Connected>>);

/// An open source as others see it.
#[derive(Clone)]
pub(crate) struct Connected {
    pub(crate) remote: Remote,
    pub(crate) offsets: Arc<ConsumerOffsets>,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connected")
    }
}

impl Link {
    /// The source, if it is open.
    pub(crate) fn connected(&self) -> Option<Connected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, connected: Option<Connected>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = connected;
    }
}

struct Running {
    connected: Connected,
    resolver: Arc<Resolver>,
    helper: Helper,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

/// A source of this cluster with default settings.
pub(crate) fn new(kafka: Kafka, subscription: Subscription) -> KafkaSource {
    KafkaSource {
        kafka,
        subscription,
        options: ConsumerOptions::default(),
        id: SOURCES.fetch_add(1, Ordering::Relaxed),
        link: Arc::default(),
        running: None,
    }
}

impl KafkaSource {
    /// The sink for exactly-once: results, dead letters and this source's progress in one
    /// transaction. It works only in the same pipeline as this source.
    pub fn sink(&self) -> KafkaSink {
        self.kafka.transactional_sink(self)
    }

    /// Where partitions start that have no stored progress; it decides once, at the first start.
    /// The default is [`StartPolicy::Earliest`].
    #[must_use]
    pub fn start(mut self, policy: StartPolicy) -> Self {
        self.options.start = policy;
        self
    }

    /// How the group agrees on who reads what. The default is [`GroupProtocol::Classic`].
    #[must_use]
    pub fn group_protocol(mut self, protocol: GroupProtocol) -> Self {
        self.options.protocol = protocol;
        self
    }

    /// The broker answers a fetch only when it has so many bytes, or after
    /// [`fetch_wait_max`](Self::fetch_wait_max). Default 1.
    #[must_use]
    pub fn fetch_min_bytes(mut self, bytes: u32) -> Self {
        self.options.fetch_min_bytes = Some(bytes);
        self
    }

    /// How long the broker may wait for [`fetch_min_bytes`](Self::fetch_min_bytes). Default 500 ms.
    #[must_use]
    pub fn fetch_wait_max(mut self, wait: Duration) -> Self {
        self.options.fetch_wait_max = Some(wait);
        self
    }

    /// Without a heartbeat for so long the member is taken for dead. Default 45 s; a
    /// configuration error under [`GroupProtocol::Consumer`].
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.options.session_timeout = Some(timeout);
        self
    }

    /// How often the member says that it lives, and learns of rebalances. Default 500 ms; a
    /// configuration error under [`GroupProtocol::Consumer`].
    #[must_use]
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.options.heartbeat_interval = Some(interval);
        self
    }

    /// How long the settling of a rebalance may take before the group goes on without this
    /// member. Default 300 s. Slow records do not count: the source polls all the time.
    #[must_use]
    pub fn max_poll_interval(mut self, interval: Duration) -> Self {
        self.options.max_poll_interval = interval;
        self
    }

    /// About how many records of a partition are fetched ahead of the processing. Default 20,000;
    /// bounded by 4 MiB of each partition as well (`queued.max.messages.kbytes`).
    #[must_use]
    pub fn records_per_fetch(mut self, records: u32) -> Self {
        self.options.records_per_fetch = Some(records);
        self
    }

    /// How often new topics and partitions are looked for. Default 10 s.
    #[must_use]
    pub fn topic_refresh(mut self, interval: Duration) -> Self {
        self.options.topic_refresh = interval;
        self
    }

    /// Does not read the records' headers: the function sees none, and dead letters keep none. To
    /// look for them costs a buffer for each record, whether it has any or not.
    #[must_use]
    pub fn without_headers(mut self) -> Self {
        self.options.headers = false;
        self
    }

    /// Passes a setting to librdkafka's consumer. What would break the guarantee is refused with
    /// the reason when the pipeline starts, and so is a name that librdkafka does not know.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.overrides.set(key, value);
        self
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }
}

impl Source for KafkaSource {
    fn describe(&self) -> SourceDescription {
        let what = match &self.subscription {
            Subscription::Topics(names) => names.join(", "),
            Subscription::Pattern(pattern) => format!("topics matching {pattern}"),
        };
        let mut notes = vec![
            format!("reads committed data only; first start: {:?}", self.options.start),
            format!("group protocol {:?}", self.options.protocol),
        ];
        if !self.options.headers {
            notes.push("headers are not read; dead letters have none of them".into());
        }
        let target = format!("{what} at {}", self.kafka.servers());
        SourceDescription { kind: "kafka".into(), target, notes, id: self.id }
    }

    async fn open(
        &mut self,
        context: &SourceContext,
        events: EventSender,
    ) -> Result<(), SourceError> {
        let config = self
            .options
            .config(&self.kafka, &self.subscription, context)
            .map_err(SourceError::Stop)?;
        let (kafka, subscription) = (self.kafka.clone(), self.subscription.clone());
        let create = move || -> Result<Consumer, Error> {
            let created = config.create_with_context(Context::new(&kafka));
            created.map_err(|error| start::refused(&error))
        };
        let consumer = Arc::new(create().map_err(SourceError::Stop)?);
        let current = Current::new(Arc::clone(&consumer));
        let again: Again = Box::new(move || {
            let consumer = create()?;
            start::join(&consumer, &subscription)?;
            Ok(consumer)
        });
        let no_thread = |error: std::io::Error| {
            SourceError::Stop(Error::source_failed("a thread cannot be started").with_source(error))
        };
        let questions = Helper::start("tidegate-kafka-questions").map_err(no_thread)?;
        let group = Helper::start("tidegate-kafka-group").map_err(no_thread)?;
        let limits = Limits { drain_max: context.drain_max, claim_max: context.claim_max };
        let orphans = Orphans::new(self.options.keeps_places(context), context.drain_max);
        let reading = Reading { events, limits, headers: self.options.headers, again };
        let remote = thread::start(current.clone(), questions.clone(), reading, orphans)
            .map_err(no_thread)?;

        let (asked, subscription) = (consumer, self.subscription.clone());
        let start_max = context.start_max;
        let known = questions
            .ask(move || start::subscribe(&asked, &subscription, start_max))
            .await
            .unwrap_or_else(|| Err(Error::source_failed("the helper thread ended")))
            .map_err(SourceError::Stop)?;

        let connected = Connected {
            remote: remote.clone(),
            offsets: Arc::new(ConsumerOffsets::new(current.clone(), group, remote)),
        };
        self.link.set(Some(connected.clone()));
        self.running = Some(Running {
            connected,
            resolver: Arc::new(Resolver::new(current, self.options.start, known)),
            helper: questions,
        });
        Ok(())
    }

    fn credit(&mut self, grants: Vec<Credit>) {
        if let Some(running) = &self.running {
            running.connected.remote.send(Command::Credit(grants));
        }
    }

    fn resolve(
        &mut self,
        wanted: Vec<Wanted>,
    ) -> BoxFuture<'static, Result<Vec<Resolved>, SourceError>> {
        let Some(running) = &self.running else {
            return Box::pin(std::future::ready(Err(resolve::not_open())));
        };
        let (helper, resolver) = (running.helper.clone(), Arc::clone(&running.resolver));
        Box::pin(async move {
            helper
                .ask(move || resolver.resolve(&wanted))
                .await
                .unwrap_or_else(|| Err(resolve::not_open()))
        })
    }

    fn reposition(&mut self, starts: Vec<Start>) {
        if let Some(running) = &self.running {
            running.connected.remote.send(Command::Reposition(starts));
        }
    }

    fn group_offsets(&self) -> Arc<dyn GroupOffsets> {
        match &self.running {
            Some(running) => Arc::clone(&running.connected.offsets) as _,
            None => Arc::new(crate::offsets::NotOpen),
        }
    }

    fn close(&mut self) -> BoxFuture<'static, ()> {
        self.link.set(None);
        let Some(running) = self.running.take() else {
            return Box::pin(std::future::ready(()));
        };
        let (done, closed) = oneshot::channel();
        running.connected.remote.send(Command::Close(done));
        Box::pin(async move {
            // A thread that is gone has left the group.
            let _ = closed.await;
            drop(running);
        })
    }
}

/// How many partitions each topic had when the source opened.
pub(crate) type KnownTopics = HashMap<Topic, i32>;

#[cfg(test)]
mod tests;
