//! What is stored: when to cut, what a cut takes, and what follows from each fate.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Action, Core, Partition};
use crate::batch::{Batch, Span};
use crate::engine::observe::EngineEvent;
use crate::record::{Epoch, PartitionId};

/// When nothing is running, a cut waits only this long after the end of the commit before. Short
/// transactions cost the broker more than they are worth, and one that follows another at once, while
/// the broker still ends that, is told to come back after 20 ms.
const IDLE_GAP: Duration = Duration::from_millis(5);
/// At most one commit is out; the next cut gathers meanwhile.
pub(super) struct Committing<O> {
    pub(super) out: Option<Out>,
    /// Batches whose commit was definitely not stored, in order; the first is tried again first.
    pub(super) retained: VecDeque<Batch<O>>,
    pub(super) retry_at: Duration,
    pub(super) refusals: u32,
    /// Set while large batches were refused again and again; it grows back with every success.
    pub(super) records_max: Option<usize>,
    /// A batch that may or may not be stored; nothing is committed until a claim has told.
    pub(super) doubt: Option<Batch<O>>,
    pub(super) claim_at: Duration,
    /// Since when something could be cut.
    pub(super) ready_since: Option<Duration>,
    pub(super) last_ended: Duration,
    /// Nothing more is cut; what is kept is still committed.
    pub(super) closing: bool,
    /// An operator must act: nothing is committed any more.
    pub(super) closed: bool,
}

pub(super) struct Out {
    pub(super) spans: Vec<Span>,
    pub(super) sent: Duration,
}

impl<O> Default for Committing<O> {
    fn default() -> Self {
        Self {
            out: None,
            retained: VecDeque::new(),
            retry_at: Duration::ZERO,
            refusals: 0,
            records_max: None,
            doubt: None,
            claim_at: Duration::ZERO,
            ready_since: None,
            last_ended: Duration::ZERO,
            closing: false,
            closed: false,
        }
    }
}

impl<O> Committing<O> {
    /// Whether work of this partition and epoch is cut and its fate unknown.
    pub(super) fn holds(&self, id: &PartitionId, epoch: Epoch) -> bool {
        let out = self.out.iter().flat_map(|out| &out.spans);
        let kept = self.retained.iter().chain(&self.doubt).flat_map(|batch| batch.spans());
        out.chain(kept).any(|span| span.partition == *id && span.epoch == epoch)
    }

    /// Whether nothing is out, kept or in doubt.
    pub(super) fn is_idle(&self) -> bool {
        self.out.is_none() && (self.closed || (self.retained.is_empty() && self.doubt.is_none()))
    }

    /// The batch in doubt, if it is time to claim for it.
    pub(super) fn wants_claim(&self, now: Duration) -> Option<&Batch<O>> {
        self.doubt.as_ref().filter(|_| self.claim_at <= now)
    }

    /// The group changed: what was refused for membership may be accepted now.
    pub(super) fn hurry(&mut self, now: Duration) {
        self.retry_at = self.retry_at.min(now);
    }
}

impl<O> Core<O> {
    /// When the next cut or retry is due.
    pub(super) fn commit_wake(&self) -> Option<Duration> {
        let state = &self.committing;
        if self.sink_busy || state.closed {
            return None;
        }
        if state.doubt.is_some() {
            return Some(state.claim_at);
        }
        if !state.retained.is_empty() {
            return Some(state.retry_at);
        }
        self.cut_due()
    }

    /// When a cut is due; `None` if nothing could be cut.
    fn cut_due(&self) -> Option<Duration> {
        let since = self.committing.ready_since?;
        let interval = self.config.limits.commit_interval;
        let ready = self.ready_records();
        let open: usize = self.partitions().map(|partition| partition.tracker.open()).sum();
        if self.is_hurried() || ready >= self.cut_records_max() {
            return Some(self.now);
        }
        let is_idle = open == 0 && ready > 0;
        let after_gap = self.committing.last_ended + IDLE_GAP.min(interval);
        Some(if is_idle { after_gap } else { since + interval })
    }

    /// How many records are finished and could be cut.
    fn ready_records(&self) -> usize {
        self.partitions().map(|partition| partition.tracker.prefix_records()).sum()
    }

    /// Half of what may be in flight: the other half keeps the pool busy meanwhile.
    fn cut_records_max(&self) -> usize {
        let limits = &self.config.limits;
        let most = limits.commit_records.min(limits.in_flight_records.div_ceil(2));
        self.committing.records_max.map_or(most, |halved| halved.min(most))
    }

    /// Somebody waits for the work to be stored.
    fn is_hurried(&self) -> bool {
        self.stopping.is_some() || !self.revocations.is_empty()
    }

    pub(super) fn pump_commit(&mut self, actions: &mut Vec<Action<O>>) {
        match (self.can_cut(), self.committing.ready_since) {
            (true, None) => self.committing.ready_since = Some(self.now),
            (false, Some(_)) => self.committing.ready_since = None,
            _ => {}
        }
        self.drop_stale();
        let state = &self.committing;
        if self.sink_busy || state.doubt.is_some() || state.closed {
            return;
        }
        if !state.retained.is_empty() {
            if self.now >= state.retry_at {
                self.retry_commit(actions);
            }
            return;
        }
        if self.cut_due().is_some_and(|due| due <= self.now) {
            self.cut(actions);
        }
    }

    /// Whether a cut would take anything.
    pub(super) fn can_cut(&self) -> bool {
        self.partitions().any(|p| self.is_cuttable(p))
    }

    /// Whether something of this partition would be cut. One that is being sought is left alone,
    /// because its work is about to be dropped; one that is released is not ours any more.
    pub(super) fn is_cuttable(&self, partition: &Partition<O>) -> bool {
        !self.committing.closing
            && !self.committing.closed
            && partition.is_read()
            && !partition.seeking
            && !partition.released
            && partition.tracker.can_cut()
    }

    fn cut(&mut self, actions: &mut Vec<Action<O>>) {
        let mut spans = Vec::new();
        let mut finished = Vec::with_capacity(self.ready_records().min(self.cut_records_max()));
        for (slot, records) in self.shares_of_cut() {
            let partition = self.slots[slot].as_mut().expect("it has a share");
            let Some(prefix) = partition.tracker.take(records, &mut finished) else {
                continue;
            };
            partition.cut_records += prefix.records;
            partition.cut_bytes += prefix.bytes;
            spans.push(Span {
                partition: partition.id.clone(),
                epoch: partition.epoch,
                first: prefix.first,
                next: prefix.next,
            });
        }
        if spans.is_empty() {
            return;
        }
        let batch = Batch::new(spans, finished);
        self.committing.ready_since = None;
        let (spans, records) = (batch.spans().to_vec(), batch.len());
        actions.push(Action::Tell(EngineEvent::Cut { spans, records }));
        self.send_commit(batch, actions);
    }

    /// Which partitions a cut takes from and how many records of each, sorted by partition.
    fn shares_of_cut(&self) -> Vec<(usize, usize)> {
        let mut room = self.cut_records_max();
        let mut shares = Vec::new();
        // Another partition is first each time, so that a full batch starves none for ever.
        let count = self.slots.len();
        let first = usize::try_from(self.totals.commits).unwrap_or(0) % count.max(1);
        for slot in (first..count).chain(0..first) {
            let partition = self.slots[slot].as_ref().filter(|p| self.is_cuttable(p));
            if let Some(partition) = partition {
                let records = partition.tracker.prefix_records().min(room);
                room -= records;
                shares.push((slot, records));
            }
        }
        shares.sort_by_key(|(slot, _)| self.slots[*slot].as_ref().map(|partition| &partition.id));
        shares
    }

    fn send_commit(&mut self, batch: Batch<O>, actions: &mut Vec<Action<O>>) {
        self.sink_busy = true;
        self.committing.out = Some(Out { spans: batch.spans().to_vec(), sent: self.now });
        actions.push(Action::Commit(batch));
    }

    /// Tries the first kept batch again.
    fn retry_commit(&mut self, actions: &mut Vec<Action<O>>) {
        if let Some(batch) = self.committing.retained.pop_front() {
            self.send_commit(batch, actions);
        }
    }

    /// Whatever is kept and not of a current epoch any more goes.
    fn drop_stale(&mut self) {
        if self.committing.retained.is_empty() {
            return;
        }
        let kept = std::mem::take(&mut self.committing.retained).into_iter();
        let current = kept.map(|batch| self.only_current(batch)).filter(|b| !b.is_empty());
        self.committing.retained = current.collect();
    }

    pub(super) fn only_current(&self, batch: Batch<O>) -> Batch<O> {
        let stale = |span: &Span| self.get(&span.partition).is_none_or(|p| p.epoch != span.epoch);
        if !batch.spans().iter().any(stale) {
            return batch;
        }
        let (mut spans, mut finished) = batch.into_parts();
        spans.retain(|span| !stale(span));
        finished.retain(|f| spans.iter().any(|span| span.partition == f.record.partition));
        Batch::new(spans, finished)
    }
}
