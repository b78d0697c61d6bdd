//! Stream processing from Kafka with transactional exactly-once sinks.
#![forbid(unsafe_code)]

pub mod batch;
mod error;
pub mod record;
pub mod sink;
pub mod source;

pub use error::{BoxError, Cause, Error};
