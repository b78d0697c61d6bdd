//! Producers, and the transactional one with the thread its calls wait on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaResult;
use rdkafka::producer::{Producer as _, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, TopicPartitionList};
use tidegate::mutant;
use tidegate::record::Topic;

use crate::error::{Call, Verdict, judge};
use crate::ffi::{self, Failure, GroupMetadata, TopicHandle};
use crate::helper::Helper;
use crate::metrics;
use crate::notes::Notes;
use crate::security::TokenSource;

/// A producer whose delivery reports are served by a thread of its own.
pub(crate) type Producer = ThreadedProducer<Notes>;

/// How long a call is waited for beyond the transaction's time, after which the broker has given
/// the transaction up.
const PATIENCE_BEYOND: Duration = Duration::from_secs(1);
/// How often a flush looks for messages that came back.
const FLUSH_STEP: Duration = Duration::from_millis(20);
/// How long one attempt of `init_transactions` may take; the next goes on where it was. Between two
/// of them a refused password is noticed.
const INIT_ATTEMPT: Duration = Duration::from_secs(1);
/// How long the last attempt may be overdue before it is taken for stuck.
const INIT_LATE: Duration = Duration::from_secs(10);

/// The topics a producer has handles of.
pub(crate) struct TopicHandles {
    producer: Arc<Producer>,
    handles: Vec<TopicHandle>,
    places: HashMap<Topic, usize>,
    /// Messages in a row mostly go to one topic: comparing is cheaper than hashing its name.
    last: Option<(Topic, usize)>,
}

impl TopicHandles {
    pub(crate) fn new(producer: &Arc<Producer>) -> Self {
        let producer = Arc::clone(producer);
        Self { producer, handles: Vec::new(), places: HashMap::new(), last: None }
    }

    /// The handle of this topic.
    pub(crate) fn get(&mut self, topic: &Topic) -> Result<&TopicHandle, Code> {
        if let Some((_, place)) = self.last.as_ref().filter(|(last, _)| last == topic) {
            return Ok(&self.handles[*place]);
        }
        let place = match self.places.entry(topic.clone()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.handles.push(TopicHandle::new(&self.producer, topic.as_str())?);
                *new.insert(self.handles.len() - 1)
            }
        };
        self.last = Some((topic.clone(), place));
        Ok(&self.handles[place])
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
            patience: times.transaction + PATIENCE_BEYOND,
            suspicious: times.socket / 2,
        };
        let init = started.calls.ask(move || init(&producer, deadline));
        // The call keeps its own deadline; this one only ends the waiting.
        match tokio::time::timeout(deadline + INIT_LATE, init).await {
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
        self.notes().begin();
        self.call(Call::Begin, |producer| {
            producer.client().context().bootstrap.lead_back(producer.client());
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
    pub(crate) async fn finish(
        &self,
        offsets: TopicPartitionList,
        group: Arc<GroupMetadata>,
    ) -> Ended {
        let suspicious = self.suspicious;
        self.call(Call::Commit, move |producer| finish(producer, &offsets, &group, suspicious))
            .await
    }

    /// Sends everything out and aborts; fails if a message did not arrive.
    pub(crate) async fn flush_and_abort(&self) -> Ended {
        self.call(Call::Abort, |producer| match delivered(producer) {
            Delivered::All => aborted(producer),
            Delivered::Some => settle(producer, Call::Delivery, behind(producer, not_delivered())),
        })
        .await
    }

    /// Ends the transaction because a message was not taken.
    pub(crate) async fn not_taken(&self, failure: Failure) -> Ended {
        self.call(Call::Abort, |producer| {
            let failure = behind(producer, failure);
            settle(producer, Call::Produce, failure)
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
    let notes = producer.client().context();
    loop {
        let result = ffi::init_transactions(producer, INIT_ATTEMPT);
        match result.map_err(|failure| notes.explain(failure)) {
            Err(failure) if failure.retriable && begun.elapsed() < deadline => {
                tracing::debug!(%failure, "init_transactions is repeated");
                notes.bootstrap.wait_on(begun, producer.client());
            }
            result => return result.inspect(|()| notes.bootstrap.found()),
        }
    }
}

fn finish(
    producer: &Producer,
    offsets: &TopicPartitionList,
    group: &GroupMetadata,
    suspicious: Duration,
) -> Ended {
    let begun = Instant::now();
    if let Err(failure) = ffi::send_offsets(producer, offsets, group) {
        return settle(producer, Call::SendOffsets, behind(producer, failure));
    }
    let offsets_took = begun.elapsed();
    metrics::phase("offsets", offsets_took);
    if delivered(producer) == Delivered::Some {
        return settle(producer, Call::Delivery, behind(producer, not_delivered()));
    }
    let result = ffi::commit_transaction(producer);
    let took = begun.elapsed();
    metrics::phase("commit", took - offsets_took);
    let disturbed = producer.client().context().disturbed() || took > suspicious;
    let sent_twice = disturbed && !mutant::is("M20");
    match result {
        Err(failure) if sent_twice && !failure.fatal => {
            Ended::failed(Call::Commit, Verdict::InDoubt, failure, true)
        }
        Err(failure) => settle(producer, Call::Commit, failure),
        Ok(()) if sent_twice => {
            tracing::warn!(?took, "a commit was answered, but may have been sent twice");
            Ended::in_doubt(Call::Commit, "the commit may have been sent twice")
        }
        Ok(()) => {
            producer.client().context().bootstrap.found();
            Ended { result: Ok(()), condemned: false }
        }
    }
}

/// Whether the transaction's messages arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Delivered {
    All,
    /// At least one did not, and never will.
    Some,
}

/// Sends everything out and waits until all is delivered or the first message came back. The
/// commit would do the same, but go on waiting for those behind a refused message until they run
/// out of time.
fn delivered(producer: &Producer) -> Delivered {
    let notes = producer.client().context();
    let begun = Instant::now();
    loop {
        let flushed = ffi::flush(producer, FLUSH_STEP);
        if notes.has_failures() {
            return Delivered::Some;
        }
        notes.bootstrap.wait_on(begun, producer.client());
        // Messages run out of time before the transaction does, so this ends.
        if flushed != Err(Code::OperationTimedOut) {
            return Delivered::All;
        }
    }
}

/// What is said of a transaction whose messages did not all arrive; which ones is in the notes.
fn not_delivered() -> Failure {
    Failure {
        code: Code::State,
        fatal: false,
        retriable: false,
        abort: true,
        text: "a message was not delivered".into(),
    }
}

/// Why a transaction failed while nobody was calling: other calls only say that it is in the wrong
/// state then. Asked to begin where nothing may begin, librdkafka says what had happened, and does
/// nothing.
fn behind(producer: &Producer, failure: Failure) -> Failure {
    if failure.code != Code::State || failure.fatal {
        return failure;
    }
    let reason = ffi::begin_transaction(producer).err();
    reason.filter(|reason| reason.abort || reason.fatal).unwrap_or(failure)
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
    let begun = Instant::now();
    let result = ffi::abort_transaction(producer);
    metrics::phase("abort", begun.elapsed());
    match result {
        Ok(()) => Ended { result: Ok(()), condemned: producer.client().context().disturbed() },
        Err(failure) => {
            let verdict = judge(Call::Abort, &failure);
            Ended::failed(Call::Abort, verdict, failure, true)
        }
    }
}
