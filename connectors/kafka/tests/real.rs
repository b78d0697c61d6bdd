//! The Kafka source and sinks on a real broker. Its address comes from `TIDEGATE_KAFKA`.

#[path = "real/support.rs"]
mod support;

#[path = "real/admin.rs"]
mod admin;
#[path = "real/conformance.rs"]
mod conformance;
#[path = "real/ends.rs"]
mod ends;
#[path = "real/process.rs"]
mod process;
#[path = "real/read.rs"]
mod read;
#[path = "real/rebalance.rs"]
mod rebalance;
#[path = "real/sink.rs"]
mod sink;
#[path = "real/source.rs"]
mod source;
