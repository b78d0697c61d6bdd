//! Stream processing from Kafka with transactional exactly-once sinks.
#![forbid(unsafe_code)]
#![allow(dead_code)] // removed when the engine lands

pub mod batch;
mod delivery;
mod engine;
mod error;
mod lanes;
mod policy;
mod process;
pub mod record;
mod settings;
pub mod sink;
pub mod source;
#[cfg(feature = "testing")]
pub mod testing;
mod tracker;

pub use delivery::Guarantee;
pub use error::{BoxError, Cause, Error};
pub use policy::{FailurePolicy, Retry};
pub use settings::Order;

/// What most programs import.
pub mod prelude {
    pub use crate::{FailurePolicy, Guarantee, Order, Retry};
}
