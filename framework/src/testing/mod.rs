//! Tests without servers: a broker and a store in memory, and a driver that runs a whole pipeline
//! on fed records.
//!
//! The memory broker and sink keep the same promises as the real ones and run under the real
//! engine; they are proven by the same conformance tests as the connectors.

#[cfg(test)]
mod broken;
mod broker;
pub mod conformance;
mod driver;
mod faulty;
pub mod history;
mod polls;
#[cfg(test)]
mod simulation;
mod sink;
mod source;

pub use broker::MemoryBroker;
pub use driver::TestDriver;
pub use faulty::{Call, Fault, FaultScript, Faulty, Happens, Told};
pub use sink::{MemorySink, MemoryStore, Row, Snapshot};
pub use source::MemorySource;
