//! Counts what was read, per topic, and tells the metrics once a second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tidegate::record::Topic;

use crate::metrics;
use crate::partition::Drained;

/// How often the metrics are told.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// What was read since the metrics were told.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    counted: HashMap<Topic, (u64, u64)>,
    flushed_at: Option<Instant>,
}

impl Meters {
    /// Counts one chunk.
    pub(crate) fn count(&mut self, topic: &Topic, drained: Drained) {
        // Looked up before it is inserted: the name is cloned once, not per chunk.
        match self.counted.get_mut(topic) {
            Some((records, bytes)) => {
                *records += drained.records;
                *bytes += drained.bytes;
            }
            None => {
                self.counted.insert(topic.clone(), (drained.records, drained.bytes));
            }
        }
    }

    /// Whether it is time to tell; then it is not for a second.
    pub(crate) fn are_due(&mut self) -> bool {
        let due = self.flushed_at.is_none_or(|at| at.elapsed() >= FLUSH_EVERY);
        if due {
            self.flushed_at = Some(Instant::now());
        }
        due
    }

    /// Tells what was read.
    pub(crate) fn flush(&mut self) {
        for (topic, (records, bytes)) in self.counted.drain() {
            metrics::read(&topic, records, bytes);
        }
    }
}
