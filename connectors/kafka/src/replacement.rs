//! The producer of an open sink, and its successors: thrown away after every result that nobody
//! knows, made anew by the next claim.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::types::RDKafkaErrorCode as Code;
use tidegate::mutant;
use tidegate::record::Topic;
use tidegate::sink::{ClaimRequest, SinkError, TopicId};
use tidegate::{Cause, Error};

use crate::error::is_authentication;
use crate::limits;
use crate::metrics;
use crate::producer::{Times, TransactionalProducer};
use crate::settings::Kafka;

/// Times a producer may be fenced within [`FENCED_WINDOW`] before a twin is suspected.
const FENCED_MAX: usize = 5;
const FENCED_WINDOW: Duration = Duration::from_secs(60);
/// Commits after which messages are sent in sets again.
pub(crate) const ONE_BY_ONE_COMMITS: u32 = 100;

/// Why a producer is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// The sink opens.
    Start,
    /// What the former one did last is not known.
    Doubt,
    /// The former one was fenced: by a twin, or because its transaction ran out of time.
    Fenced,
    /// Messages are sent one by one from now on, or in sets again.
    Size,
}

impl Why {
    /// Why a producer whose last call ended with this code is replaced.
    pub(crate) fn after(code: Code) -> Self {
        match code {
            Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Self::Fenced,
            _ => Self::Doubt,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Doubt => "doubt",
            Self::Fenced => "fenced",
            Self::Size => "size",
        }
    }
}

/// What an open sink has.
pub(crate) struct Open {
    kafka: Kafka,
    config: ClientConfig,
    transactional_id: String,
    pub(crate) times: Times,
    /// Missing after a result that is in doubt, until the next claim.
    producer: Option<TransactionalProducer>,
    /// Why the next producer is made.
    why: Why,
    fenced: VecDeque<Instant>,
    /// Commits left in which every message is sent in a set of its own.
    one_by_one: u32,
    topic_ids: HashMap<Topic, TopicId>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open")
            .field("transactional_id", &self.transactional_id)
            .finish_non_exhaustive()
    }
}

impl Open {
    /// A sink that has no producer yet.
    pub(crate) fn new(
        kafka: Kafka,
        config: ClientConfig,
        transactional_id: String,
        times: Times,
    ) -> Self {
        Self {
            kafka,
            config,
            transactional_id,
            times,
            producer: None,
            why: Why::Start,
            fenced: VecDeque::new(),
            one_by_one: 0,
            topic_ids: HashMap::new(),
        }
    }

    pub(crate) fn producer(&mut self) -> Option<&mut TransactionalProducer> {
        self.producer.as_mut()
    }

    /// Throws the producer away.
    pub(crate) fn lose(&mut self, why: Why) {
        self.producer = None;
        self.why = why;
    }

    /// Makes a producer if there is none: it fences the former ones and settles what they left.
    pub(crate) async fn ensure_producer(&mut self, deadline: Duration) -> Result<(), SinkError> {
        if self.producer.is_some() {
            return Ok(());
        }
        let mut config = self.config.clone();
        if self.one_by_one > 0 {
            config.set("batch.num.messages", "1");
            // Sets already sent behind the one that is refused come back as out of order, are
            // queued again after the abort has emptied the queue, and hold the abort up until
            // they run out of time (librdkafka 2.12.1): nearly the whole time of the transaction.
            config.set("max.in.flight.requests.per.connection", "1");
        }
        let why = self.why;
        let id = &self.transactional_id;
        tracing::info!(transactional_id = id, why = why.as_str(), "new producer");
        let tokens = self.kafka.tokens();
        match TransactionalProducer::start(config, tokens, self.times, deadline).await {
            Ok(producer) => {
                metrics::replaced(why.as_str());
                self.producer = Some(producer);
                // Only one that could be made counts: a broker that is away is no twin.
                self.check_for_a_twin(why).map_err(SinkError::Stop)
            }
            // It was accepted before: a broker that is starting may not know its users yet.
            Err(failure) if why != Why::Start && is_authentication(failure.code) => {
                Err(SinkError::Retry(Cause::from_error("a producer could not be started", failure)))
            }
            Err(failure) => Err(limits::start_failed(&self.kafka, failure, self.times).await),
        }
    }

    fn check_for_a_twin(&mut self, why: Why) -> Result<(), Error> {
        if why != Why::Fenced {
            return Ok(());
        }
        let now = Instant::now();
        self.fenced.retain(|at| now.duration_since(*at) < FENCED_WINDOW);
        self.fenced.push_back(now);
        if self.fenced.len() <= FENCED_MAX {
            return Ok(());
        }
        Err(Error::fenced(format_args!(
            "the producer {} was fenced {} times within {FENCED_WINDOW:?}",
            self.transactional_id,
            self.fenced.len()
        ))
        .remedy(
            "another process runs with the same transactional id, that is with the same group \
             and the same instance name; give each its own",
        ))
    }

    /// Replaces the producer by one that sends every message in a set of its own for the next
    /// `commits`, so that a refusal for size hits exactly the messages that are too large. With
    /// zero, by one that sends sets again.
    pub(crate) async fn send_one_by_one(&mut self, commits: u32) -> Result<(), SinkError> {
        self.expect_one_by_one(commits);
        self.ensure_producer(self.times.transaction).await
    }

    /// As [`send_one_by_one`](Self::send_one_by_one), with the next claim.
    pub(crate) fn expect_one_by_one(&mut self, commits: u32) {
        self.lose(Why::Size);
        self.one_by_one = commits;
    }

    /// Replaces the producer by one of the same kind.
    pub(crate) async fn renew(&mut self) -> Result<(), SinkError> {
        self.send_one_by_one(self.one_by_one).await
    }

    pub(crate) fn sends_one_by_one(&self) -> bool {
        self.one_by_one > 0
    }

    /// A commit went through; whether messages can be sent in sets again, by a new producer.
    pub(crate) fn committed(&mut self) -> bool {
        let counting = self.one_by_one > 0;
        self.one_by_one = self.one_by_one.saturating_sub(1);
        counting && self.one_by_one == 0
    }

    /// The group's offsets carry no topic id, so only a topic that is created anew while this
    /// process runs is noticed.
    pub(crate) fn recreated(&mut self, request: &ClaimRequest) -> Option<Cause> {
        let id = request.topic_id?;
        let topic = request.partition.topic();
        let first = *self.topic_ids.entry(topic.clone()).or_insert(id);
        (first != id && !mutant::is("M41")).then(|| {
            Cause::new(format_args!(
                "topic {topic} was deleted and created again: its stored offsets belong to the \
                 old one; reset them to go on"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use tidegate::record::PartitionId;

    use super::*;

    #[test]
    fn a_topic_that_is_created_anew_while_the_process_runs_is_refused() {
        let times = Times { transaction: Duration::from_secs(10), socket: Duration::from_secs(5) };
        let kafka = Kafka::connect("localhost:9092");
        let mut open = Open::new(kafka, ClientConfig::new(), "id".into(), times);
        let asked = |topic: &str, index, id: Option<u8>| ClaimRequest {
            partition: PartitionId::new(topic, index),
            topic_id: id.map(|byte| TopicId([byte; 16])),
        };
        assert!(open.recreated(&asked("t", 0, Some(1))).is_none());
        assert!(open.recreated(&asked("t", 1, Some(1))).is_none(), "it is the same topic");
        assert!(open.recreated(&asked("t", 0, None)).is_none(), "the broker tells no id");
        assert!(open.recreated(&asked("other", 0, Some(2))).is_none());
        for index in [0, 1] {
            let cause = open.recreated(&asked("t", index, Some(2))).expect("another topic");
            assert!(cause.to_string().contains("t was deleted and created again"), "{cause}");
        }
    }
}
