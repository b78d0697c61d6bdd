//! What librdkafka tells a producer's owner: messages that were not delivered, and connections
//! that were lost.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, Statistics};
use tidegate::mutant;

use crate::bootstrap::Bootstrap;
use crate::context;
use crate::error;
use crate::ffi::Failure;
use crate::last_error::LastError;
use crate::security::TokenSource;

/// What librdkafka tells about a producer's work.
#[derive(Debug)]
pub(crate) struct Notes {
    /// The way back, for whoever waits for the cluster.
    pub(crate) bootstrap: Bootstrap,
    /// Messages that were not delivered, by the number they were produced under.
    failures: Mutex<Vec<(usize, Code)>>,
    /// Connections that broke and requests that timed out.
    disturbances: AtomicU64,
    disturbances_before: AtomicU64,
    last_error: LastError,
    tokens: Option<TokenSource>,
    /// Whether the user asked for librdkafka's debug log.
    shows_debug: bool,
}

impl Notes {
    fn new(config: &ClientConfig, tokens: Option<TokenSource>, shows_debug: bool) -> Self {
        Self {
            bootstrap: Bootstrap::new(config.get("bootstrap.servers").unwrap_or_default()),
            failures: Mutex::default(),
            disturbances: AtomicU64::default(),
            disturbances_before: AtomicU64::default(),
            last_error: LastError::default(),
            tokens,
            shows_debug,
        }
    }

    /// The notebook of a producer with these settings whose connections need not be watched.
    pub(crate) fn unwatched(config: &ClientConfig, tokens: Option<TokenSource>) -> Self {
        Self::new(config, tokens, true)
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
        Self::new(config, tokens, debug.is_some())
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

    /// Whether a message came back undelivered.
    pub(crate) fn has_failures(&self) -> bool {
        let failures = self.failures.lock();
        !failures.unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(crate) fn forget_failures(&self) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A transaction begins: what was noted before does not concern it.
    pub(crate) fn begin(&self) {
        self.forget_failures();
        let so_far = self.disturbances.load(Ordering::Acquire);
        self.disturbances_before.store(so_far, Ordering::Release);
    }

    /// Whether a connection broke or a request timed out since the transaction began. librdkafka
    /// then silently sends requests again: the first ones may still arrive, and hit the next
    /// transaction of this producer.
    pub(crate) fn disturbed(&self) -> bool {
        self.disturbances.load(Ordering::Acquire)
            != self.disturbances_before.load(Ordering::Acquire)
    }
}

impl Notes {
    /// A call that failed for want of an answer, in the words of the connections that there were
    /// not.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        match self.last_error.get() {
            Some((code, text)) if failure.retriable || failure.code == Code::OperationTimedOut => {
                let refused = error::is_authentication(code);
                Failure {
                    code: if refused { code } else { failure.code },
                    retriable: failure.retriable && !refused,
                    text: format!("{}; {text}", failure.text),
                    ..failure
                }
            }
            _ => failure,
        }
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
        let code = error::code_of(&error);
        self.last_error.note(code, reason);
        if code == Code::AllBrokersDown {
            self.bootstrap.lost();
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn StdError>> {
        context::fresh_token(self.tokens.as_ref())
    }
}

impl ProducerContext for Notes {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        if let Err((error, _)) = result
            && !mutant::is("M23")
        {
            let failure = (id, error::code_of(error));
            self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
        }
    }
}
