//! Counts what was read, per topic, and tells the metrics once a second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tidegate::record::Topic;

use crate::context::Consumer;
use crate::ffi;
use crate::metrics;
use crate::partition::{Drained, Partition};

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

    /// Tells the metrics, if it is time. The lag is that of the newest fetch answer; nothing is
    /// asked of the broker.
    pub(crate) fn flush<'a>(
        &mut self,
        consumer: &Consumer,
        partitions: impl Iterator<Item = &'a Partition>,
    ) {
        if self.flushed_at.is_some_and(|at| at.elapsed() < FLUSH_EVERY) {
            return;
        }
        self.flushed_at = Some(Instant::now());
        for (topic, (records, bytes)) in self.counted.drain() {
            metrics::read(&topic, records, bytes);
        }
        for partition in partitions.filter(|partition| !partition.is_parked()) {
            if let Some(high) = ffi::cached_high_watermark(consumer, &partition.id) {
                metrics::lag(&partition.id, (high - partition.next().get()).max(0));
            }
        }
    }
}
