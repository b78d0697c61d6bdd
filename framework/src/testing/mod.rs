//! Tests without servers: a broker and a store in memory, and a driver that runs a whole pipeline
//! on fed records.
//!
//! The memory broker and sink keep the same promises as the real ones and run under the real
//! engine; they are proven by the same conformance tests as the connectors.

mod broker;
mod driver;
#[cfg(test)]
mod simulation;
mod sink;
mod source;

pub use broker::MemoryBroker;
pub use driver::TestDriver;
pub use sink::{MemorySink, MemoryStore, Row};
pub use source::MemorySource;
