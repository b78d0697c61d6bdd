//! Takes the times of commits out of the framework's metrics.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};

use crate::measure::Phases;

/// Records the phases of commits and nothing else.
#[derive(Debug)]
pub(super) struct Recorder {
    phases: Phases,
}

struct Phase {
    name: String,
    phases: Phases,
}

impl Recorder {
    pub(super) fn new(phases: Phases) -> Self {
        Self { phases }
    }
}

impl HistogramFn for Phase {
    fn record(&self, seconds: f64) {
        self.phases.record(&self.name, Duration::from_secs_f64(seconds));
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let known = [tidegate::metrics::COMMIT_SECONDS.name, tidegate_kafka::metrics::TRANSACTION];
        let phase = key.labels().find(|label| label.key() == "phase");
        match phase.filter(|_| known.contains(&key.name())) {
            Some(phase) => Histogram::from_arc(Arc::new(Phase {
                name: phase.value().to_owned(),
                phases: self.phases.clone(),
            })),
            None => Histogram::noop(),
        }
    }
}
