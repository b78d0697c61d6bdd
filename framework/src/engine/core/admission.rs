//! At most once: progress past the delivered records is stored before they run.
//!
//! What is admitted will never be read again, by nobody: it is run even while its partition is
//! being handed back or the engine drains, as far as the time goes.

use std::time::Duration;

use super::{Action, Core, Partition};
use crate::batch::{Outcome, Span};
use crate::delivery::Guarantee;
use crate::engine::observe::EngineEvent;
use crate::engine::work::LaneKey;
use crate::record::{Epoch, Offset, PartitionId};
use crate::sink::SinkError;

/// First wait after an admission that failed; it doubles up to three seconds. What is delivered
/// meanwhile is not given up.
const BACKOFF: Duration = Duration::from_millis(100);

/// Positions on their way to the group's offsets.
#[derive(Default)]
pub(super) struct Admission {
    out: Vec<(PartitionId, Epoch, Offset)>,
    failures: u32,
    not_before: Duration,
}

impl<O> Core<O> {
    /// Stores progress past what was delivered, ends of partition included; one call at a time.
    pub(super) fn pump_admission(&mut self, actions: &mut Vec<Action<O>>) {
        if !self.may_admit() || self.now < self.admission.not_before {
            return;
        }
        let waiting: Vec<(PartitionId, Epoch, Offset)> =
            self.to_admit().map(|p| (p.id.clone(), p.epoch, p.tracker.delivered())).collect();
        if waiting.is_empty() {
            return;
        }
        let spans = self.to_admit().map(Partition::delivered_span).collect();
        self.admission.out = waiting;
        self.sink_busy = true;
        actions.push(Action::Admit(spans));
    }

    fn to_admit(&self) -> impl Iterator<Item = &Partition<O>> {
        self.partitions().filter(|p| p.may_read() && p.tracker.delivered() > p.admitted)
    }

    /// Whether positions may be stored before records run, now or after a wait.
    fn may_admit(&self) -> bool {
        self.config.guarantee == Guarantee::AtMostOnce && !self.sink_busy && self.stopping.is_none()
    }

    /// When an admission that failed is followed by the next one.
    pub(super) fn admission_wake(&self) -> Option<Duration> {
        let waits = self.may_admit() && self.to_admit().next().is_some();
        waits.then_some(self.admission.not_before)
    }

    pub(super) fn on_admitted(
        &mut self,
        result: Result<(), SinkError>,
        actions: &mut Vec<Action<O>>,
    ) {
        self.sink_busy = false;
        let admitted = result.is_ok();
        match result {
            Ok(()) => self.admission.failures = 0,
            Err(SinkError::Stop(error)) => self.begin_stop_with(error, actions),
            Err(_) => {
                self.admission.failures += 1;
                let doublings = self.admission.failures.min(6) - 1;
                self.admission.not_before = self.now + self.jittered(BACKOFF * (1 << doublings));
            }
        }
        for (id, epoch, next) in std::mem::take(&mut self.admission.out) {
            if admitted {
                self.admit(&id, epoch, next);
            } else {
                self.give_up(&id, epoch, next, actions);
            }
        }
    }

    /// What lies before `next` is stored as done: it may run.
    fn admit(&mut self, id: &PartitionId, epoch: Epoch, next: Offset) {
        let Some((slot, partition)) = self.current(id, epoch) else {
            return;
        };
        partition.admitted = next;
        let mut ready = Vec::new();
        while let Some((seq, key)) = partition.next_unadmitted(next) {
            if let Some(lane) = partition.lanes.add(seq, key.as_deref()) {
                ready.push(LaneKey { slot, epoch, lane });
            }
        }
        self.ready.extend(ready);
    }

    /// Whether it was admitted is not known: running it now and reading it again later could show
    /// it twice.
    fn give_up(
        &mut self,
        id: &PartitionId,
        epoch: Epoch,
        next: Offset,
        actions: &mut Vec<Action<O>>,
    ) {
        let Some((_, partition)) = self.current(id, epoch) else {
            return;
        };
        let mut records = 0;
        while let Some((seq, _)) = partition.next_unadmitted(next) {
            partition.tracker.finish(seq, Outcome::Filtered);
            records += 1;
        }
        if records > 0 {
            self.totals.given_up += records as u64;
            let (partition, why) = (id.clone(), "admission in doubt");
            actions.push(Action::Tell(EngineEvent::Dropped { partition, epoch, records, why }));
        }
    }
}

impl<O> Partition<O> {
    /// What was delivered and is not admitted.
    fn delivered_span(&self) -> Span {
        Span {
            partition: self.id.clone(),
            epoch: self.epoch,
            first: self.admitted,
            next: self.tracker.delivered(),
        }
    }

    /// Takes out the next record before this offset that waits for its admission.
    fn next_unadmitted(&mut self, next: Offset) -> Option<(u64, Option<bytes::Bytes>)> {
        let (seq, _) = self.unadmitted.front()?;
        let at = self.tracker.offset_of(*seq)?;
        if at < next { self.unadmitted.pop_front() } else { None }
    }

    /// Records that are admitted and have no outcome: if they are dropped now, they are lost.
    pub(super) fn admitted_open(&self) -> usize {
        if self.finishes_admitted { self.tracker.open() - self.unadmitted.len() } else { 0 }
    }
}
