//! What librdkafka tells a consumer while it is polled: noted here, acted upon by the thread.
//!
//! The rebalance callback only writes down what happened. librdkafka waits for the answering
//! assign or unassign as long as it is not given, so the thread goes on polling and serving
//! everybody while the engine settles its work.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{Statistics, TopicPartitionList};
use tidegate::record::PartitionId;

use crate::bootstrap::Bootstrap;
use crate::error;
use crate::last_error::LastError;
use crate::security::TokenSource;
use crate::settings::Kafka;

/// A consumer as this crate uses it.
pub(crate) type Consumer = BaseConsumer<Context>;

/// Whether revoked partitions are still ours until we hand them back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ownership {
    Ours,
    Lost,
}

impl Ownership {
    /// What librdkafka says of the whole assignment now. An assign or unassign makes it forget.
    pub(crate) fn now(consumer: &Consumer) -> Self {
        if consumer.assignment_lost() { Self::Lost } else { Self::Ours }
    }
}

/// Something that was heard while polling.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The group gives partitions.
    Assign(Vec<PartitionId>),
    /// The group takes partitions back, or somebody else may own them already.
    Revoke(Vec<PartitionId>, Ownership),
    /// An error that belongs to no partition.
    Error(RDKafkaErrorCode, String),
}

/// The notebook of one consumer.
#[derive(Debug)]
pub(crate) struct Context {
    /// The way back, for whoever waits for the cluster.
    pub(crate) bootstrap: Bootstrap,
    heard: Mutex<VecDeque<Heard>>,
    last_error: LastError,
    /// Nobody reads the notebook any more: rebalances are answered at once.
    unattended: AtomicBool,
    tokens: Option<TokenSource>,
}

impl Context {
    /// A context whose notebook will be read.
    pub(crate) fn new(kafka: &Kafka) -> Self {
        Self {
            bootstrap: Bootstrap::new(kafka.servers()),
            heard: Mutex::default(),
            last_error: LastError::default(),
            unattended: AtomicBool::new(false),
            tokens: kafka.tokens(),
        }
    }

    /// Takes the oldest note.
    pub(crate) fn next(&self) -> Option<Heard> {
        locked(&self.heard).pop_front()
    }

    /// The newest error, for the message of whoever gives up waiting.
    pub(crate) fn last_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.last_error.get()
    }

    /// From now on rebalances are answered at once with nothing.
    pub(crate) fn leave_unattended(&self) {
        self.unattended.store(true, Ordering::Release);
    }

    fn note(&self, heard: Heard) {
        locked(&self.heard).push_back(heard);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error::code_of(&error);
        tracing::debug!(?code, reason, "consumer reports an error");
        self.last_error.note(code, reason);
        if code == RDKafkaErrorCode::AllBrokersDown {
            self.bootstrap.lost();
        }
        self.note(Heard::Error(code, reason.to_string()));
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn StdError>> {
        fresh_token(self.tokens.as_ref())
    }
}

/// A token, if the connection is protected by tokens at all.
pub(crate) fn fresh_token(source: Option<&TokenSource>) -> Result<OAuthToken, Box<dyn StdError>> {
    match source {
        Some(source) => source.fresh().map_err(|error| -> Box<dyn StdError> { error }),
        None => Err("no source of tokens is set".into()),
    }
}

/// Passes librdkafka's log lines on. None is an error here: whatever ends something is logged as
/// one where it is decided.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => tracing::warn!(facility, "librdkafka: {message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(facility, "librdkafka: {message}"),
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let assign = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.unattended.load(Ordering::Acquire) {
            let _ = match (assign, consumer.rebalance_protocol()) {
                (true, RebalanceProtocol::Cooperative) => {
                    consumer.incremental_assign(&TopicPartitionList::new())
                }
                (true, _) => consumer.assign(&TopicPartitionList::new()),
                (false, RebalanceProtocol::Cooperative) => consumer.incremental_unassign(list),
                (false, _) => consumer.unassign(),
            };
            return;
        }
        let partitions = list
            .elements()
            .iter()
            .map(|element| PartitionId::new(element.topic(), element.partition()))
            .collect();
        self.note(if assign {
            Heard::Assign(partitions)
        } else {
            Heard::Revoke(partitions, Ownership::now(consumer))
        });
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            // Only mirrored offsets are committed this way; the next mirror repairs it.
            tracing::debug!(%error, "mirrored offsets were not stored");
        }
    }
}
