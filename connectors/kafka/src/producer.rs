//! A producer with its notebook, and the transactional one with the thread its calls wait on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, Statistics, TopicPartitionList};
use tidegate::record::Topic;

use crate::context;
use crate::error::{self, Call, Verdict, judge};
use crate::ffi::{self, Failure, GroupMetadata, TopicHandle};
use crate::helper::Helper;
use crate::metrics;
use crate::security::TokenSource;

/// A producer whose delivery reports are served by a thread of its own.
pub(crate) type Producer = ThreadedProducer<Notes>;

/// How long one attempt of `init_transactions` may take; it is repeated.
const INIT_ATTEMPT: Duration = Duration::from_secs(5);

/// What librdkafka tells about a producer's work.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Messages that were not delivered, by the number they were produced under.
    failures: Mutex<Vec<(usize, Code)>>,
    /// Connections that broke and requests that timed out.
    disturbances: AtomicU64,
    tokens: Option<TokenSource>,
    /// Whether the user asked for librdkafka's debug log.
    shows_debug: bool,
}

impl Notes {
    /// The notebook of a producer whose connections need not be watched.
    pub(crate) fn unwatched(tokens: Option<TokenSource>) -> Self {
        Self { tokens, shows_debug: true, ..Self::default() }
    }

    /// The notebook of a producer with these settings, which are completed so that every lost
    /// connection is noted.
    pub(crate) fn watched(config: &mut ClientConfig, tokens: Option<TokenSource>) -> Self {
        let debug = config.get("debug").map(ToString::to_string);
        config.set_log_level(RDKafkaLogLevel::Debug);
        config.set(
            "debug",
            debug.as_ref().map_or_else(|| "broker".to_string(), |debug| format!("broker,{debug}")),
        );
        Self { tokens, shows_debug: debug.is_some(), ..Self::default() }
    }

    /// Takes the failures noted so far, in order of their numbers. Messages that were purged by
    /// an abort did not fail by themselves and are left out.
    pub(crate) fn take_failures(&self) -> Vec<(usize, Code)> {
        let mut failures =
            std::mem::take(&mut *self.failures.lock().unwrap_or_else(PoisonError::into_inner));
        failures.retain(|(_, code)| !matches!(code, Code::PurgeQueue | Code::PurgeInflight));
        failures.sort_unstable_by_key(|(id, _)| *id);
        failures
    }

    pub(crate) fn forget_failures(&self) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Grows whenever a connection breaks or a request times out.
    pub(crate) fn disturbances(&self) -> u64 {
        self.disturbances.load(Ordering::Acquire)
    }
}

impl ClientContext for Notes {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Errors about connections are told once and then suppressed for a while; only the log of
        // state changes is complete.
        let lost = match facility {
            "REQTMOUT" | "FAIL" => true,
            "STATE" => message.contains("changed state UP ->"),
            _ => false,
        };
        if lost {
            self.disturbances.fetch_add(1, Ordering::AcqRel);
        }
        if self.shows_debug || !matches!(level, RDKafkaLogLevel::Debug) {
            context::log(level, facility, message);
        }
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.disturbances.fetch_add(1, Ordering::AcqRel);
        tracing::debug!(%error, reason, "producer reports an error");
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn StdError>> {
        context::fresh_token(self.tokens.as_ref())
    }
}

impl ProducerContext for Notes {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        if let Err((error, _)) = result {
            let failure = (id, error::code_of(error));
            self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
        }
    }
}

/// The topics a producer has handles of.
pub(crate) struct TopicHandles {
    producer: Arc<Producer>,
    handles: HashMap<Topic, TopicHandle>,
}

impl TopicHandles {
    pub(crate) fn new(producer: &Arc<Producer>) -> Self {
        Self { producer: Arc::clone(producer), handles: HashMap::new() }
    }

    /// The handle of this topic.
    pub(crate) fn get(&mut self, topic: &Topic) -> Result<&TopicHandle, Code> {
        match self.handles.entry(topic.clone()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => Ok(new.insert(TopicHandle::new(&self.producer, topic.as_str())?)),
        }
    }
}

/// A transactional producer that was initialised: it fenced its predecessors.
pub(crate) struct TransactionalProducer {
    producer: Arc<Producer>,
    topics: Option<TopicHandles>,
    calls: Helper,
    /// Above this a call is taken for stuck; the calls themselves end by the transaction's time.
    patience: Duration,
    /// A commit that takes longer may have been sent twice.
    suspicious: Duration,
}

/// How a transaction ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) result: Result<(), Trouble>,
    /// The producer must not be used again.
    pub(crate) condemned: bool,
}

/// A call that failed and what that means.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) call: Call,
    pub(crate) verdict: Verdict,
    pub(crate) failure: Failure,
}

impl Ended {
    fn failed(call: Call, verdict: Verdict, failure: Failure, condemned: bool) -> Self {
        Self { result: Err(Trouble { call, verdict, failure }), condemned }
    }

    /// Nobody knows: the call did not come back, or came back suspiciously.
    fn in_doubt(call: Call, text: &str) -> Self {
        let failure = Failure {
            code: Code::OperationTimedOut,
            fatal: false,
            retriable: false,
            abort: false,
            text: text.into(),
        };
        Self::failed(call, Verdict::InDoubt, failure, true)
    }
}

/// The times a transactional producer lives by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) transaction: Duration,
    pub(crate) socket: Duration,
}

impl TransactionalProducer {
    /// Makes a producer and registers its transactional id: every earlier producer of this id is
    /// fenced, and what it left open is settled. Only this call is ever repeated.
    pub(crate) async fn start(
        mut config: ClientConfig,
        tokens: Option<TokenSource>,
        times: Times,
        deadline: Duration,
    ) -> Result<Self, Failure> {
        let broken = |error: &dyn std::fmt::Display| Failure {
            code: Code::InvalidArgument,
            fatal: true,
            retriable: false,
            abort: false,
            text: error.to_string(),
        };
        let calls = Helper::start("tidegate-kafka-transactions").map_err(|error| broken(&error))?;
        let producer: KafkaResult<Producer> = {
            let notes = Notes::watched(&mut config, tokens);
            config.create_with_context(notes)
        };
        let producer = Arc::new(producer.map_err(|error| broken(&error))?);
        let started = Self {
            topics: Some(TopicHandles::new(&producer)),
            producer: Arc::clone(&producer),
            calls,
            patience: times.transaction + times.socket + Duration::from_secs(5),
            suspicious: times.socket / 2,
        };
        let init = started.calls.ask(move || init(&producer, deadline));
        // The call keeps its own deadline; this one only ends the waiting.
        match tokio::time::timeout(deadline + INIT_ATTEMPT + INIT_ATTEMPT, init).await {
            Ok(Some(result)) => result.map(|()| started),
            Ok(None) | Err(_) => Err(broken(&"init_transactions did not come back")),
        }
    }

    pub(crate) fn native(&self) -> &Arc<Producer> {
        &self.producer
    }

    pub(crate) fn notes(&self) -> &Notes {
        self.producer.client().context()
    }

    pub(crate) fn topics(&mut self) -> &mut TopicHandles {
        self.topics.as_mut().expect("taken only by drop")
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&self) -> Ended {
        self.notes().forget_failures();
        self.call(Call::Begin, |producer| {
            let begun = Instant::now();
            let result = ffi::begin_transaction(producer);
            metrics::phase("begin", begun.elapsed());
            match result {
                Ok(()) => Ended { result: Ok(()), condemned: false },
                Err(failure) => settle(producer, Call::Begin, failure),
            }
        })
        .await
    }

    /// Adds the offsets and commits; on a failure that allows it, aborts.
    pub(crate) async fn finish(&self, offsets: TopicPartitionList, group: GroupMetadata) -> Ended {
        let suspicious = self.suspicious;
        self.call(Call::Commit, move |producer| finish(producer, &offsets, &group, suspicious))
            .await
    }

    /// Sends everything out, as far as the broker takes it, and aborts.
    pub(crate) async fn flush_and_abort(&self, timeout: Duration) -> Ended {
        self.call(Call::Abort, move |producer| {
            if let Err(code) = ffi::flush(producer, timeout) {
                tracing::debug!(?code, "flush failed");
            }
            aborted(producer)
        })
        .await
    }

    /// Aborts the transaction.
    pub(crate) async fn abort(&self) -> Ended {
        self.call(Call::Abort, aborted).await
    }

    /// Makes a call on the thread for calls. Waiting ends when the call is taken for stuck; the
    /// call itself is never cancelled.
    async fn call(
        &self,
        call: Call,
        job: impl FnOnce(&Producer) -> Ended + Send + 'static,
    ) -> Ended {
        let producer = Arc::clone(&self.producer);
        let answer = self.calls.ask(move || job(&producer));
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Some(ended)) => ended,
            Ok(None) => Ended::in_doubt(call, "the producer's thread ended"),
            Err(_) => Ended::in_doubt(call, "the call did not come back"),
        }
    }
}

impl Drop for TransactionalProducer {
    fn drop(&mut self) {
        // Releasing a producer waits for its threads: not on a thread of the runtime.
        let (producer, topics) = (Arc::clone(&self.producer), self.topics.take());
        self.calls.run(move || drop((topics, producer)));
    }
}

fn init(producer: &Producer, deadline: Duration) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        match ffi::init_transactions(producer, INIT_ATTEMPT) {
            Err(failure) if failure.retriable && begun.elapsed() < deadline => {
                tracing::debug!(%failure, "init_transactions is repeated");
            }
            result => return result,
        }
    }
}

fn finish(
    producer: &Producer,
    offsets: &TopicPartitionList,
    group: &GroupMetadata,
    suspicious: Duration,
) -> Ended {
    let notes = producer.client().context();
    let (begun, before) = (Instant::now(), notes.disturbances());
    if let Err(failure) = ffi::send_offsets(producer, offsets, group) {
        return settle(producer, Call::SendOffsets, failure);
    }
    let offsets_took = begun.elapsed();
    metrics::phase("offsets", offsets_took);
    let result = ffi::commit_transaction(producer);
    let took = begun.elapsed();
    metrics::phase("commit", took - offsets_took);
    // librdkafka silently sends both requests again after a broken connection or a time-out: the
    // first ones may still arrive, and hit the next transaction.
    let sent_twice = notes.disturbances() != before || took > suspicious;
    match result {
        Err(failure) if sent_twice && !failure.fatal => {
            Ended::failed(Call::Commit, Verdict::InDoubt, failure, true)
        }
        Err(failure) => settle(producer, Call::Commit, failure),
        Ok(()) if sent_twice => {
            tracing::warn!(?took, "a commit was answered, but may have been sent twice");
            Ended::in_doubt(Call::Commit, "the commit may have been sent twice")
        }
        Ok(()) => Ended { result: Ok(()), condemned: false },
    }
}

/// What a failed call means, after the abort it asks for.
fn settle(producer: &Producer, call: Call, failure: Failure) -> Ended {
    let verdict = judge(call, &failure);
    tracing::debug!(?call, ?verdict, %failure, "transaction failed");
    if failure.fatal || matches!(verdict, Verdict::Fenced | Verdict::InDoubt) {
        return Ended::failed(call, verdict, failure, true);
    }
    let abort = aborted(producer);
    match abort.result {
        // Whether the abort arrived is not known: neither is what a successor will find.
        Err(_) => Ended { condemned: true, ..abort },
        Ok(()) => Ended::failed(call, verdict, failure, abort.condemned),
    }
}

fn aborted(producer: &Producer) -> Ended {
    let notes = producer.client().context();
    let (begun, before) = (Instant::now(), notes.disturbances());
    let result = ffi::abort_transaction(producer);
    metrics::phase("abort", begun.elapsed());
    match result {
        Ok(()) => Ended {
            result: Ok(()),
            // Sent twice, the second abort could hit the next transaction.
            condemned: notes.disturbances() != before,
        },
        Err(failure) => {
            let verdict = judge(Call::Abort, &failure);
            Ended::failed(Call::Abort, verdict, failure, true)
        }
    }
}
