//! Kafka as a source and as a sink of Tidegate.

mod admin;
mod commits;
mod consumer_options;
mod context;
mod error;
mod ffi;
mod health;
mod helper;
mod keys;
mod limits;
mod membership;
mod message;
mod meters;
pub mod metrics;
mod notes;
mod offsets;
mod outbox;
mod partition;
mod partitioner;
mod plain_sink;
mod position;
mod producer;
mod rebalance;
mod replacement;
mod resolve;
mod security;
mod settings;
mod sink;
mod sink_options;
mod source;
mod start;
#[cfg(feature = "testing")]
pub mod testing;
mod thread;
mod transaction;
mod wake;

pub use admin::{Admin, LogRange};
pub use consumer_options::{GroupProtocol, StartPolicy};
#[cfg(feature = "limit")]
#[doc(hidden)]
pub use ffi::limit;
pub use message::Message;
pub use outbox::{
    HEADER_ATTEMPTS, HEADER_ERROR, HEADER_ERROR_REASON, HEADER_SOURCE, HEADER_VALUE_BYTES,
    HEADER_VALUE_SHA256,
};
pub use partitioner::partition_for_key;
pub use plain_sink::KafkaPlainSink;
#[cfg(feature = "tls")]
pub use security::{OauthToken, Security};
pub use settings::Kafka;
pub use sink::KafkaSink;
pub use source::{KafkaSource, Topics};
