//! The metrics of this crate: every name once, with kind, unit and meaning. They are recorded per
//! batch, never per record.

use std::time::Duration;

use tidegate::record::{PartitionId, Topic};

/// What kind of metric a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// The name as it is exported.
    pub name: &'static str,
    /// What kind it is.
    pub kind: Kind,
    /// The unit of its values.
    pub unit: &'static str,
    /// What it tells, and its labels.
    pub meaning: &'static str,
}

/// Records handed to the engine; label `topic`.
pub const RECORDS: &str = "tidegate_kafka_records_total";
/// Bytes of key, value and headers handed to the engine; label `topic`.
pub const BYTES: &str = "tidegate_kafka_bytes_total";
/// High watermark minus the next offset to read; labels `topic`, `partition`.
pub const LAG: &str = "tidegate_kafka_lag_records";
/// Rebalances that ended; label `kind`: `assign`, `revoke`, `lost`.
pub const REBALANCES: &str = "tidegate_kafka_rebalances_total";
/// Partitions assigned to this process.
pub const ASSIGNED: &str = "tidegate_kafka_assigned_partitions";
/// Time of one phase of a transaction; label `phase`: `begin`, `send`, `offsets`, `commit`,
/// `abort`.
pub const TRANSACTION: &str = "tidegate_kafka_transaction_seconds";
/// Transactional producers replaced; label `reason`: `start`, `doubt`, `fenced`, `size`.
pub const REPLACEMENTS: &str = "tidegate_kafka_producer_replacements_total";
/// Messages handed to a producer.
pub const PRODUCED: &str = "tidegate_kafka_produced_total";

/// Every metric of this crate.
pub const ALL: &[Metric] = &[
    metric(RECORDS, Kind::Counter, "records", "records handed to the engine, by topic"),
    metric(
        BYTES,
        Kind::Counter,
        "bytes",
        "bytes of key, value and headers handed to the engine, by topic",
    ),
    metric(
        LAG,
        Kind::Gauge,
        "records",
        "high watermark minus the next offset to read, by topic and partition",
    ),
    metric(
        REBALANCES,
        Kind::Counter,
        "rebalances",
        "rebalances that ended, by kind: assign, revoke, lost",
    ),
    metric(ASSIGNED, Kind::Gauge, "partitions", "partitions assigned to this process"),
    metric(
        TRANSACTION,
        Kind::Histogram,
        "seconds",
        "time of one phase of a transaction: begin, send, offsets, commit, abort",
    ),
    metric(
        REPLACEMENTS,
        Kind::Counter,
        "producers",
        "transactional producers made, by reason: start, doubt, fenced, size",
    ),
    metric(PRODUCED, Kind::Counter, "messages", "messages handed to a producer"),
];

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    meaning: &'static str,
) -> Metric {
    Metric { name, kind, unit, meaning }
}

/// Counts what one topic gave.
pub(crate) fn read(topic: &Topic, records: u64, bytes: u64) {
    ::metrics::counter!(RECORDS, "topic" => topic.to_string()).increment(records);
    ::metrics::counter!(BYTES, "topic" => topic.to_string()).increment(bytes);
}

/// Shows how far behind a partition is.
pub(crate) fn lag(partition: &PartitionId, records: i64) {
    #[allow(clippy::cast_precision_loss, reason = "a gauge needs no exact count above 2^53")]
    ::metrics::gauge!(
        LAG,
        "topic" => partition.topic().to_string(),
        "partition" => partition.index().to_string()
    )
    .set(records as f64);
}

/// Counts a rebalance that ended.
pub(crate) fn rebalanced(kind: &'static str, assigned: usize) {
    ::metrics::counter!(REBALANCES, "kind" => kind).increment(1);
    #[allow(clippy::cast_precision_loss, reason = "nobody is assigned 2^53 partitions")]
    ::metrics::gauge!(ASSIGNED).set(assigned as f64);
}

/// Records one phase of a transaction.
pub(crate) fn phase(phase: &'static str, took: Duration) {
    ::metrics::histogram!(TRANSACTION, "phase" => phase).record(took);
}

/// Counts a new producer.
pub(crate) fn replaced(reason: &'static str) {
    ::metrics::counter!(REPLACEMENTS, "reason" => reason).increment(1);
}

/// Counts messages handed to a producer.
pub(crate) fn produced(messages: usize) {
    ::metrics::counter!(PRODUCED).increment(messages as u64);
}
