//! Kafka as a source and as a sink of Tidegate.
//!
//! ```no_run
//! use tidegate::prelude::*;
//! use tidegate_kafka::{Kafka, Message, StartPolicy};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), tidegate::Error> {
//!     let kafka = Kafka::connect("localhost:9092");
//!     let source = kafka.source("flights").start(StartPolicy::Earliest);
//!     let sink = source
//!         .sink()                                      // bound to this source
//!         .outputs(["routes"])                         // checked before anything is consumed
//!         .dead_letters("flights.dead-letters");
//!
//!     Pipeline::new("flights-to-routes")               // also the consumer group
//!         .from(source)
//!         .map(|flight| Message::to("routes")
//!             .key(flight.key.clone().unwrap_or_default())
//!             .value(flight.value.clone().unwrap_or_default()))
//!         .on_failure(Retry::times(3).then_dead_letter())
//!         .exactly_once(sink)
//!         .run()
//!         .await?;
//!     Ok(())
//! }
//! ```
//!
//! # What it gives
//!
//! | you need | you write | what is stored together |
//! |---|---|---|
//! | exactly-once, Kafka to Kafka | `.exactly_once(source.sink())` | results, dead letters and the group's offsets, in one Kafka transaction |
//! | at-least-once or at-most-once into Kafka | `kafka.sink()` | results and dead letters; the offsets apart |
//! | Kafka into a database | `kafka.source(..)` with that database's sink | see there; the group's offsets are a mirror |
//!
//! The result of a transaction is seen by readers with `isolation.level=read_committed`, partition
//! by partition. The function may run more than once for a record; what is exact is what the
//! readers see.
//!
//! # How it is built
//!
//! One thread owns the consumer (`thread.rs`). librdkafka fetches each assigned partition into a
//! queue of its own; the thread drains a queue only while its partition has credit
//! (`partition.rs`), so a partition at its share is simply not drained while all others go on.
//! Rebalances are a state machine of that thread (`rebalance.rs`): the callback only takes a note.
//! librdkafka's idea of a position is never trusted; it is told ours (`position.rs`). A consumer
//! that librdkafka gave up over a late request of its own is replaced (`renewal.rs`), and a client
//! that knows no broker any more is led back (`bootstrap.rs`).
//!
//! The transactional sink (`sink.rs`, `transaction.rs`) asks that thread for its place in the
//! group before each commit, and gets it only if every span still belongs to it under the span's
//! epoch. Every failure goes through one table (`error.rs`); whatever is not known to be definite
//! throws the producer away (`replacement.rs`) and is settled by the next claim.
//!
//! # What it does not promise
//!
//! - A topic that is deleted and created again while no pipeline runs is not noticed: the group's
//!   offsets carry no topic id.
//! - A partition added while no pipeline runs starts by the start policy, not at its beginning.
//! - While a rebalance is being settled librdkafka fetches nothing, also for partitions that stay.

mod admin;
mod bootstrap;
mod closing;
mod commits;
mod consumer_options;
mod context;
mod current;
mod ends;
mod error;
mod ffi;
mod former;
mod health;
mod helper;
mod keys;
mod last_error;
mod limits;
mod membership;
mod message;
mod meters;
pub mod metrics;
mod mirror;
mod notes;
mod offsets;
mod orphans;
mod outbox;
mod partition;
mod partitioner;
mod plain_sink;
mod position;
mod producer;
mod read;
mod rebalance;
mod renewal;
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

pub use admin::{Admin, GroupMember, LogRange};
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
pub use read::{ReadRange, ReadRecord};
#[cfg(feature = "tls")]
pub use security::{OauthToken, Security};
pub use settings::Kafka;
pub use sink::KafkaSink;
pub use source::{KafkaSource, Topics};
