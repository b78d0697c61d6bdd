//! Every metric of Tidegate, in one table, and the functions that record them.
//!
//! Recorded through the facade of the crate `metrics`: install any recorder before the pipeline
//! starts. Numbers are recorded per batch or per second, never per record, and every metric has the
//! label `group`, the pipeline's name. No label ever holds a key or a value.

use std::time::Duration;

use ::metrics::{
    SharedString, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::batch::DeadReason;
use crate::delivery::Guarantee;
use crate::record::{Offset, PartitionId};

/// One metric: what it is called and what it means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// The name as it is exported.
    pub name: &'static str,
    /// How its numbers behave.
    pub kind: Kind,
    /// What they count.
    pub unit: Unit,
    /// The labels beside `group`.
    pub labels: &'static [&'static str],
    /// The meaning, in one sentence.
    pub meaning: &'static str,
}

/// How the numbers of a metric behave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of values.
    Histogram,
}

/// What the numbers of a metric count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Things: records, commits.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// A part of one, from 0 to 1.
    Ratio,
    /// A position in a partition.
    Offset,
}

/// Defines the table: a constant for each metric, and [`TABLE`] with all of them.
macro_rules! table {
    ($($constant:ident = $name:literal, $kind:ident, $unit:ident, [$($label:literal),*],
        $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: Unit::$unit,
                labels: &[$($label),*],
                meaning: $meaning,
            };
        )*

        /// Every metric there is.
        pub const TABLE: &[Metric] = &[$($constant),*];
    };
}

table! {
    RECORDS = "tidegate_records_total", Counter, Count, ["dir"],
        "Records by what became of them: `in` delivered by the source, `done` stored as progress, \
         `filtered` deliberately without result; and `out`, results stored.";
    REPLAYED = "tidegate_replayed_records_total", Counter, Count, [],
        "Records that were delivered and dropped before they were stored: they are read again.";
    RETRIES = "tidegate_retries_total", Counter, Count, [],
        "Calls of the user's function that failed and are repeated.";
    DEAD_LETTERS = "tidegate_dlq_total", Counter, Count, ["reason"],
        "Records stored as dead letters.";
    SKIPPED = "tidegate_skipped_records_total", Counter, Count, ["by"],
        "Records left out, by `policy` or by `operator`.";
    GIVEN_UP = "tidegate_given_up_records_total", Counter, Count, [],
        "At most once: records whose results were not written and never will be.";
    LAG_RECORDS = "tidegate_lag_records", Gauge, Count, ["topic", "partition"],
        "How far stored progress is behind the end of the log, in offsets.";
    LAG_SECONDS = "tidegate_lag_seconds", Gauge, Seconds, ["topic", "partition"],
        "The age of the oldest record that is not stored yet, by the broker's timestamp.";
    CONTIGUOUS = "tidegate_contiguous_offset", Gauge, Offset, ["topic", "partition"],
        "Everything before this offset is finished.";
    COMMITTED = "tidegate_committed_offset", Gauge, Offset, ["topic", "partition"],
        "The next offset to read, as stored.";
    IN_FLIGHT_RECORDS = "tidegate_inflight_records", Gauge, Count, [],
        "Records delivered and not stored yet.";
    PINNED_BYTES = "tidegate_pinned_bytes", Gauge, Bytes, [],
        "Bytes of key, value and headers of the records in flight.";
    OLDEST_IN_FLIGHT = "tidegate_oldest_inflight_seconds", Gauge, Seconds, [],
        "For how long the oldest record in flight has been there.";
    STUCK = "tidegate_stuck_records", Gauge, Count, [],
        "Records that have been running for longer than `stuck_after`.";
    POOL_BUSY = "tidegate_pool_busy_ratio", Gauge, Ratio, [],
        "The part of the pool that is running records.";
    COMMITS = "tidegate_txn_total", Counter, Count, ["result"],
        "Commits by how they ended: `committed`, `aborted`, `fenced`, `in_doubt`, `rejected`, \
         `stop`. All but the first should stay at 0.";
    COMMIT_SECONDS = "tidegate_txn_seconds", Histogram, Seconds, ["phase"],
        "How long commits take: `total`, and the sink's own phases.";
    COMMIT_RECORDS = "tidegate_txn_records", Histogram, Count, [],
        "How many records one commit covers.";
    REBALANCE_SECONDS = "tidegate_rebalance_seconds", Histogram, Seconds, ["phase"],
        "How long the group waited for this member: `assign` and `revoke`.";
    GUARANTEE = "tidegate_guarantee_info", Gauge, Count, ["sink", "mode"],
        "Always 1: the kind of sink and the guarantee of the pipeline.";
}

/// Gives the installed recorder the meaning and unit of every metric.
pub fn describe() {
    for metric in TABLE {
        let unit = match metric.unit {
            Unit::Bytes => ::metrics::Unit::Bytes,
            Unit::Seconds => ::metrics::Unit::Seconds,
            Unit::Count | Unit::Ratio | Unit::Offset => ::metrics::Unit::Count,
        };
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, unit, metric.meaning),
            Kind::Gauge => describe_gauge!(metric.name, unit, metric.meaning),
            Kind::Histogram => describe_histogram!(metric.name, unit, metric.meaning),
        }
    }
}

/// Records the metrics of one pipeline. Cloning is cheap; connectors make their own.
#[derive(Clone, Debug)]
pub struct Meter {
    group: SharedString,
}

/// The numbers of one stored batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) records: usize,
    pub(crate) outputs: usize,
    pub(crate) filtered: usize,
}

/// The state of a pipeline at one moment.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct InFlight {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) oldest: Duration,
    pub(crate) stuck: usize,
    /// Workers that run a record, and workers there are.
    pub(crate) busy: usize,
    pub(crate) workers: usize,
}

/// Where one partition stands; what is not known is left out.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Standing {
    pub(crate) committed: Offset,
    pub(crate) contiguous: Offset,
    pub(crate) end: Option<Offset>,
    pub(crate) lag: Option<Duration>,
}

/// Which side of a rebalance the group waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rebalance {
    Assign,
    Revoke,
}

impl Meter {
    /// The meter of the pipeline of this name.
    pub fn new(group: &str) -> Self {
        Self { group: SharedString::from(group.to_owned()) }
    }

    /// How long one phase of a commit took, by the sink's own word for it: `begin`, `write`,
    /// `offsets`, `commit`. `total` is the engine's.
    pub fn commit_phase(&self, phase: &'static str, took: Duration) {
        histogram!(COMMIT_SECONDS.name, "group" => self.group(), "phase" => phase)
            .record(took.as_secs_f64());
    }

    pub(crate) fn delivered(&self, records: usize) {
        self.add_records("in", records);
    }

    pub(crate) fn stored(&self, stored: Stored) {
        self.add_records("done", stored.records);
        self.add_records("out", stored.outputs);
        self.add_records("filtered", stored.filtered);
    }

    pub(crate) fn replayed(&self, records: usize) {
        counter!(REPLAYED.name, "group" => self.group()).increment(count(records));
    }

    pub(crate) fn retried(&self, calls: usize) {
        counter!(RETRIES.name, "group" => self.group()).increment(count(calls));
    }

    pub(crate) fn dead_lettered(&self, reason: DeadReason, records: usize) {
        counter!(DEAD_LETTERS.name, "group" => self.group(), "reason" => reason.as_str())
            .increment(count(records));
    }

    pub(crate) fn skipped(&self, by: &'static str, records: usize) {
        counter!(SKIPPED.name, "group" => self.group(), "by" => by).increment(count(records));
    }

    pub(crate) fn given_up(&self, records: usize) {
        counter!(GIVEN_UP.name, "group" => self.group()).increment(count(records));
    }

    /// A commit ended with this result, a word as in [`COMMITS`].
    pub(crate) fn commit_ended(&self, result: &'static str, records: usize, took: Duration) {
        counter!(COMMITS.name, "group" => self.group(), "result" => result).increment(1);
        histogram!(COMMIT_RECORDS.name, "group" => self.group()).record(float(records));
        self.commit_phase("total", took);
    }

    pub(crate) fn rebalanced(&self, side: Rebalance, took: Duration) {
        let phase = match side {
            Rebalance::Assign => "assign",
            Rebalance::Revoke => "revoke",
        };
        histogram!(REBALANCE_SECONDS.name, "group" => self.group(), "phase" => phase)
            .record(took.as_secs_f64());
    }

    pub(crate) fn guarantee(&self, sink: &str, guarantee: Guarantee) {
        let sink = SharedString::from(sink.to_owned());
        let mode = guarantee.as_str();
        gauge!(GUARANTEE.name, "group" => self.group(), "sink" => sink, "mode" => mode).set(1.0);
    }

    pub(crate) fn in_flight(&self, now: InFlight) {
        let set = |metric: &Metric, value: f64| {
            gauge!(metric.name, "group" => self.group()).set(value);
        };
        set(&IN_FLIGHT_RECORDS, float(now.records));
        set(&PINNED_BYTES, float(now.bytes));
        set(&OLDEST_IN_FLIGHT, now.oldest.as_secs_f64());
        set(&STUCK, float(now.stuck));
        set(&POOL_BUSY, float(now.busy) / float(now.workers.max(1)));
    }

    pub(crate) fn partition(&self, partition: &PartitionId, standing: Standing) {
        let topic = SharedString::from(partition.topic().as_str().to_owned());
        let index = SharedString::from(partition.index().to_string());
        let set = |metric: &Metric, value: f64| {
            let (topic, index) = (topic.clone(), index.clone());
            let group = self.group();
            gauge!(metric.name, "group" => group, "topic" => topic, "partition" => index)
                .set(value);
        };
        set(&COMMITTED, position(standing.committed));
        set(&CONTIGUOUS, position(standing.contiguous));
        if let Some(end) = standing.end {
            let behind = end.get().saturating_sub(standing.committed.get()).max(0);
            set(&LAG_RECORDS, behind as f64);
        }
        if let Some(lag) = standing.lag {
            set(&LAG_SECONDS, lag.as_secs_f64());
        }
    }

    fn add_records(&self, direction: &'static str, records: usize) {
        counter!(RECORDS.name, "group" => self.group(), "dir" => direction)
            .increment(count(records));
    }

    fn group(&self) -> SharedString {
        self.group.clone()
    }
}

fn count(records: usize) -> u64 {
    u64::try_from(records).unwrap_or(u64::MAX)
}

/// Gauges are floating-point numbers: exact up to 2^53, which no such number reaches.
fn float(number: usize) -> f64 {
    number as f64
}

fn position(offset: Offset) -> f64 {
    offset.get() as f64
}

#[cfg(test)]
mod tests;
