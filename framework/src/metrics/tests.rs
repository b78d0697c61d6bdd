//! The table says everything: what is recorded is in it, with its labels, and nothing else is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ::metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
};

use super::*;

/// Remembers the last value, or the sum, of every metric, by name and labels.
#[derive(Clone, Default)]
struct Memory {
    values: Arc<Mutex<BTreeMap<String, f64>>>,
    described: Arc<Mutex<Vec<(Kind, String)>>>,
    kinds: Arc<Mutex<Vec<(Kind, Key)>>>,
}

struct Cell {
    key: String,
    values: Arc<Mutex<BTreeMap<String, f64>>>,
}

impl Cell {
    fn add(&self, value: f64) {
        let mut values = self.values.lock().expect("no panic");
        *values.entry(self.key.clone()).or_default() += value;
    }
}

impl CounterFn for Cell {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }

    fn absolute(&self, _: u64) {
        unreachable!("counters are only incremented")
    }
}

impl GaugeFn for Cell {
    fn increment(&self, _: f64) {
        unreachable!("gauges are only set")
    }

    fn decrement(&self, _: f64) {
        unreachable!("gauges are only set")
    }

    fn set(&self, value: f64) {
        let mut values = self.values.lock().expect("no panic");
        values.insert(self.key.clone(), value);
    }
}

impl HistogramFn for Cell {
    fn record(&self, value: f64) {
        self.add(value);
    }
}

impl Memory {
    fn cell(&self, kind: Kind, key: &Key) -> Arc<Cell> {
        self.kinds.lock().expect("no panic").push((kind, key.clone()));
        let labels = key.labels().map(|label| format!("{}={}", label.key(), label.value()));
        let labels: Vec<String> = labels.collect();
        Arc::new(Cell {
            key: format!("{}{{{}}}", key.name(), labels.join(",")),
            values: Arc::clone(&self.values),
        })
    }

    fn describe(&self, kind: Kind, name: &KeyName) {
        let mut described = self.described.lock().expect("no panic");
        described.push((kind, name.as_str().to_owned()));
    }
}

impl Recorder for Memory {
    fn describe_counter(&self, name: KeyName, _: Option<::metrics::Unit>, _: SharedString) {
        self.describe(Kind::Counter, &name);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<::metrics::Unit>, _: SharedString) {
        self.describe(Kind::Gauge, &name);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<::metrics::Unit>, _: SharedString) {
        self.describe(Kind::Histogram, &name);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(Kind::Counter, key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(Kind::Gauge, key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.cell(Kind::Histogram, key))
    }
}

/// Calls every recording function once or twice.
fn record_everything() {
    let meter = Meter::new("g");
    meter.delivered(3);
    meter.delivered(4);
    meter.stored(Stored { records: 5, outputs: 6, filtered: 1 });
    meter.replayed(2);
    meter.retried(1);
    meter.dead_lettered(DeadReason::Decode, 1);
    meter.skipped("policy", 1);
    meter.given_up(1);
    meter.commit_ended("committed", 5, Duration::from_millis(250));
    meter.commit_phase("begin", Duration::from_millis(125));
    meter.rebalanced(Rebalance::Assign, Duration::from_secs(1));
    meter.rebalanced(Rebalance::Revoke, Duration::from_secs(2));
    meter.guarantee("memory", Guarantee::ExactlyOnce);
    meter.in_flight(InFlight {
        records: 10,
        bytes: 1_000,
        oldest: Duration::from_millis(1_500),
        stuck: 1,
        busy: 1,
        workers: 4,
    });
    let standing = Standing {
        committed: Offset::new(90),
        contiguous: Offset::new(95),
        end: Some(Offset::new(100)),
        lag: Some(Duration::from_secs(3)),
    };
    meter.partition(&PartitionId::new("t", 2), standing);
}

fn recorded() -> Memory {
    let memory = Memory::default();
    ::metrics::with_local_recorder(&memory, || {
        describe();
        record_everything();
    });
    memory
}

#[test]
fn every_metric_of_the_table_is_described_and_recorded_and_no_other() {
    let memory = recorded();
    let mut table: Vec<(Kind, String)> =
        TABLE.iter().map(|metric| (metric.kind, metric.name.to_owned())).collect();
    assert_eq!(*memory.described.lock().expect("no panic"), table);
    let kinds = memory.kinds.lock().expect("no panic");
    let mut recorded: Vec<(Kind, String)> =
        kinds.iter().map(|(kind, key)| (*kind, key.name().to_owned())).collect();
    table.sort_by(|a, b| a.1.cmp(&b.1));
    recorded.sort_by(|a, b| a.1.cmp(&b.1));
    recorded.dedup();
    assert_eq!(recorded, table);
}

#[test]
fn every_metric_has_the_labels_of_the_table_and_the_group() {
    let memory = recorded();
    for (_, key) in memory.kinds.lock().expect("no panic").iter() {
        let metric = TABLE.iter().find(|metric| metric.name == key.name());
        let metric = metric.expect("it is in the table");
        let labels: Vec<&str> = key.labels().map(|label| label.key()).collect();
        assert_eq!(labels, [&["group"], metric.labels].concat(), "{}", metric.name);
    }
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    for metric in TABLE {
        assert!(metric.name.starts_with("tidegate_"), "{}", metric.name);
        let total = metric.name.ends_with("_total");
        assert_eq!(total, metric.kind == Kind::Counter, "{}", metric.name);
        let seconds = metric.name.ends_with("_seconds");
        assert_eq!(seconds, metric.unit == Unit::Seconds, "{}", metric.name);
        assert!(metric.meaning.ends_with('.'), "{}", metric.name);
    }
}

#[test]
fn numbers_arrive_in_the_unit_of_the_table() {
    let memory = recorded();
    let values = memory.values.lock().expect("no panic");
    for (key, value) in [
        ("tidegate_records_total{group=g,dir=in}", 7.0),
        ("tidegate_records_total{group=g,dir=done}", 5.0),
        ("tidegate_records_total{group=g,dir=out}", 6.0),
        ("tidegate_dlq_total{group=g,reason=decode}", 1.0),
        ("tidegate_txn_total{group=g,result=committed}", 1.0),
        ("tidegate_txn_seconds{group=g,phase=total}", 0.25),
        ("tidegate_txn_seconds{group=g,phase=begin}", 0.125),
        ("tidegate_txn_records{group=g}", 5.0),
        ("tidegate_pool_busy_ratio{group=g}", 0.25),
        ("tidegate_oldest_inflight_seconds{group=g}", 1.5),
        ("tidegate_pinned_bytes{group=g}", 1_000.0),
        ("tidegate_lag_records{group=g,topic=t,partition=2}", 10.0),
        ("tidegate_lag_seconds{group=g,topic=t,partition=2}", 3.0),
        ("tidegate_contiguous_offset{group=g,topic=t,partition=2}", 95.0),
        ("tidegate_guarantee_info{group=g,sink=memory,mode=exactly-once}", 1.0),
    ] {
        assert_eq!(values.get(key), Some(&value), "{key}");
    }
}
