//! What is stored: when to cut, what a cut takes, and what follows from each fate.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Action, Core, Partition};
use crate::batch::{Batch, DeadLetter, DeadReason, Finished, Outcome, Span};
use crate::delivery::{Fate, Progress};
use crate::engine::observe::EngineEvent;
use crate::error::{Cause, Error};
use crate::policy::Then;
use crate::record::{Coordinates, Epoch, PartitionId};
use crate::source::Position;

/// When nothing is running, a cut waits only this long after the one before: short transactions
/// cost the broker more than they are worth.
const IDLE_GAP: Duration = Duration::from_millis(5);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// After this many refusals in a row, a batch is tried in halves: it may be too large for the
/// time it has.
const REFUSALS_BEFORE_HALVES: u32 = 3;

/// At most one commit is out; the next cut gathers meanwhile.
pub(super) struct Committing<O> {
    out: Option<Out>,
    /// Batches whose commit was definitely not stored, in order; the first is tried again first.
    retained: VecDeque<Batch<O>>,
    retry_at: Duration,
    refusals: u32,
    /// A batch that may or may not be stored; nothing is committed until a claim has told.
    doubt: Option<Batch<O>>,
    claim_at: Duration,
    /// Since when something could be cut.
    ready_since: Option<Duration>,
    last_sent: Duration,
    /// Nothing more is cut; what is kept is still committed.
    closing: bool,
    /// An operator must act: nothing is committed any more.
    closed: bool,
}

struct Out {
    spans: Vec<Span>,
    sent: Duration,
}

impl<O> Default for Committing<O> {
    fn default() -> Self {
        Self {
            out: None,
            retained: VecDeque::new(),
            retry_at: Duration::ZERO,
            refusals: 0,
            doubt: None,
            claim_at: Duration::ZERO,
            ready_since: None,
            last_sent: Duration::ZERO,
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

    pub(super) fn wants_claim(&self, now: Duration) -> bool {
        self.doubt.is_some() && self.claim_at <= now
    }

    pub(super) fn delay_claim(&mut self, at: Duration) {
        self.claim_at = at;
    }

    pub(super) fn drop_doubt(&mut self) {
        self.doubt = None;
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
        if state.out.is_some() || state.closed {
            return None;
        }
        if state.doubt.is_some() {
            return self.claim_out.is_none().then_some(state.claim_at);
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
        let (mut ready, mut open) = (0, 0);
        for partition in self.partitions() {
            ready += partition.tracker.prefix_records();
            open += partition.tracker.open();
        }
        if self.is_hurried() || ready >= self.cut_records_max() {
            return Some(self.now);
        }
        let idle = self.committing.last_sent + IDLE_GAP.min(interval);
        Some(if open == 0 && ready > 0 { idle.min(since + interval) } else { since + interval })
    }

    /// Half of what may be in flight: the other half keeps the pool busy meanwhile.
    fn cut_records_max(&self) -> usize {
        let limits = &self.config.limits;
        limits.commit_records.min(limits.in_flight_records.div_ceil(2))
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
        let state = &self.committing;
        if state.out.is_some()
            || state.doubt.is_some()
            || state.closed
            || self.claim_out_for_doubt()
        {
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
        !self.committing.closing
            && !self.committing.closed
            && self.partitions().any(|p| self.is_cuttable(p))
    }

    /// A partition that is being sought is left alone: its work is about to be dropped.
    fn is_cuttable(&self, partition: &Partition<O>) -> bool {
        partition.is_read()
            && partition.tracker.can_cut()
            && self.seeks.iter().all(|seek| seek.partition != partition.id)
    }

    /// A claim answers for a commit in doubt: nothing else may be stored before it is heard.
    fn claim_out_for_doubt(&self) -> bool {
        self.claim_out.is_some() && self.committing.doubt.is_some()
    }

    fn cut(&mut self, actions: &mut Vec<Action<O>>) {
        let mut room = self.cut_records_max();
        let mut parts: Vec<(Span, Vec<Finished<O>>)> = Vec::new();
        // Another partition is first each time, so that a full batch starves none for ever.
        let count = self.slots.len();
        let first = usize::try_from(self.totals.commits).unwrap_or(0) % count.max(1);
        for at in (first..count).chain(0..first) {
            if !self.slots[at].as_ref().is_some_and(|partition| self.is_cuttable(partition)) {
                continue;
            }
            let partition = self.slots[at].as_mut().expect("checked above");
            let Some(prefix) = partition.tracker.take(room) else {
                continue;
            };
            room -= prefix.finished.len();
            partition.cut_records += prefix.finished.len();
            partition.cut_bytes += prefix.bytes;
            let span = Span {
                partition: partition.id.clone(),
                epoch: partition.epoch,
                first: prefix.first,
                next: prefix.next,
            };
            parts.push((span, prefix.finished));
        }
        if parts.is_empty() {
            return;
        }
        parts.sort_by(|a, b| a.0.partition.cmp(&b.0.partition));
        let (spans, finished): (Vec<Span>, Vec<Vec<Finished<O>>>) = parts.into_iter().unzip();
        let batch = Batch::new(spans, finished.into_iter().flatten().collect());
        self.committing.ready_since = None;
        let (spans, records) = (batch.spans().to_vec(), batch.len());
        actions.push(Action::Tell(EngineEvent::Cut { spans, records }));
        self.send_commit(batch, actions);
    }

    fn send_commit(&mut self, batch: Batch<O>, actions: &mut Vec<Action<O>>) {
        self.committing.last_sent = self.now;
        self.committing.out = Some(Out { spans: batch.spans().to_vec(), sent: self.now });
        actions.push(Action::Commit(batch));
    }

    /// Tries the first kept batch again, without whatever is not of a current epoch any more.
    fn retry_commit(&mut self, actions: &mut Vec<Action<O>>) {
        while let Some(batch) = self.committing.retained.pop_front() {
            let batch = self.only_current(batch);
            if !batch.is_empty() {
                return self.send_commit(batch, actions);
            }
        }
    }

    fn only_current(&self, batch: Batch<O>) -> Batch<O> {
        let stale = |span: &Span| self.get(&span.partition).is_none_or(|p| p.epoch != span.epoch);
        if !batch.spans().iter().any(stale) {
            return batch;
        }
        let (mut spans, mut finished) = batch.into_parts();
        spans.retain(|span| !stale(span));
        finished.retain(|f| spans.iter().any(|span| span.partition == f.record.partition));
        Batch::new(spans, finished)
    }

    pub(super) fn on_committed(
        &mut self,
        batch: Batch<O>,
        fate: Fate,
        actions: &mut Vec<Action<O>>,
    ) {
        let sent = self.committing.out.take().map_or(self.now, |out| out.sent);
        let (name, detail) = fate_words(&fate);
        actions.push(Action::Tell(EngineEvent::CommitEnded {
            spans: batch.spans().to_vec(),
            fate: name,
            detail,
            records: batch.len(),
            took: self.now.saturating_sub(sent),
        }));
        match fate {
            Fate::Committed => self.stored(batch, actions),
            Fate::Aborted(cause) if cause.is_for_operator() => {
                self.close_commits(Error::sink_failed(cause), actions);
            }
            Fate::Aborted(_) => self.keep_refused(batch),
            Fate::Fenced(cause) => self.on_fenced(&batch, &cause, actions),
            Fate::InDoubt(_) => {
                self.totals.doubts += 1;
                self.committing.doubt = Some(batch);
                self.committing.claim_at = self.now;
            }
            Fate::Rejected { record, cause } => self.on_rejected(batch, &record, &cause, actions),
            Fate::Stop(error) => self.close_commits(error, actions),
        }
    }

    fn close_commits(&mut self, error: Error, actions: &mut Vec<Action<O>>) {
        self.committing.closed = true;
        self.committing.retained.clear();
        self.begin_stop_with(error, actions);
    }

    fn on_fenced(&mut self, batch: &Batch<O>, cause: &Cause, actions: &mut Vec<Action<O>>) {
        self.totals.fenced += 1;
        // What is kept behind the fenced batch continues it: it goes with it.
        let retained = std::mem::take(&mut self.committing.retained);
        let mut ids: Vec<PartitionId> = std::iter::once(batch)
            .chain(&retained)
            .flat_map(Batch::spans)
            .filter(|span| self.get(&span.partition).is_some_and(|p| p.epoch == span.epoch))
            .map(|span| span.partition.clone())
            .collect();
        ids.sort();
        ids.dedup();
        self.fence(&ids, cause, actions);
    }

    fn keep_refused(&mut self, batch: Batch<O>) {
        self.totals.aborted += 1;
        self.committing.refusals += 1;
        let refusals = self.committing.refusals;
        let wait = RETRY_FIRST.saturating_mul(1 << refusals.min(10)).min(RETRY_LONGEST);
        self.committing.retry_at = self.now + self.jittered(wait / 2);
        if refusals >= REFUSALS_BEFORE_HALVES && batch.len() > 1 {
            let half = batch.len() / 2;
            let (first, rest) = batch.split(half);
            self.committing.retained.push_front(rest);
            self.committing.retained.push_front(first);
        } else {
            self.committing.retained.push_front(batch);
        }
    }

    /// The batch is durable.
    fn stored(&mut self, batch: Batch<O>, actions: &mut Vec<Action<O>>) {
        self.committing.refusals = 0;
        self.totals.commits += 1;
        self.totals.committed_records += batch.len() as u64;
        let mut positions = Vec::new();
        let mut rest = batch.finished();
        for span in batch.spans() {
            let of_span = rest.iter().take_while(|f| f.record.partition == span.partition).count();
            let (stored, behind) = rest.split_at(of_span);
            rest = behind;
            let Some((_, partition)) = self.current(&span.partition, span.epoch) else {
                continue;
            };
            partition.committed = span.next;
            partition.has_stored = true;
            partition.cut_records -= stored.len();
            partition.cut_bytes -= stored.iter().map(|f| f.record.size_bytes()).sum::<usize>();
            positions.push(Position { partition: span.partition.clone(), next: span.next });
        }
        if self.config.progress == Progress::Sink && !positions.is_empty() {
            actions.push(Action::Mirror(positions));
        }
    }

    /// Positions that a claim found while a commit was in doubt decide what became of it.
    pub(super) fn resolve_doubt(&mut self, found: &[Position], actions: &mut Vec<Action<O>>) {
        let Some(batch) = self.committing.doubt.take() else {
            return;
        };
        let (mut yes, mut no) = (0, 0);
        let mut taken_over: Vec<PartitionId> = Vec::new();
        for position in found {
            let Some(partition) = self.get(&position.partition) else {
                continue;
            };
            let span = batch
                .spans()
                .iter()
                .find(|span| span.partition == position.partition && span.epoch == partition.epoch);
            match span {
                Some(span) if position.next == span.next => yes += 1,
                Some(span) if position.next == span.first => no += 1,
                None if position.next == partition.committed => {}
                _ => taken_over.push(position.partition.clone()),
            }
        }
        if yes > 0 && no > 0 {
            let error = Error::sink_failed(
                "a commit in doubt was found stored for one partition and not for another",
            )
            .remedy("the store is not atomic: look for a restore or a fail-over that lost writes");
            return self.close_commits(error, actions);
        }
        for id in &taken_over {
            let at = self.now;
            self.recover(id, super::Phase::Claim { at }, "taken over", actions);
        }
        let batch = self.only_current(batch);
        let (spans, stored) = (batch.spans().to_vec(), yes > 0);
        actions.push(Action::Tell(EngineEvent::DoubtResolved { spans, stored }));
        if yes > 0 {
            self.stored(batch, actions);
        } else if no > 0 && !batch.is_empty() {
            self.committing.retry_at = self.now;
            self.committing.retained.push_front(batch);
        }
    }

    /// One record's results, or its dead letter, were refused for their data: the rest commits as
    /// one batch.
    fn on_rejected(
        &mut self,
        batch: Batch<O>,
        at: &Coordinates,
        cause: &Cause,
        actions: &mut Vec<Action<O>>,
    ) {
        self.totals.rejected += 1;
        self.committing.retry_at = self.now;
        let (spans, mut finished) = batch.into_parts();
        let Some(culprit) = finished.iter_mut().find(|f| f.record.coordinates() == *at) else {
            let error =
                Error::sink_failed(format_args!("rejected {at}, which is not in the batch"));
            return self.close_commits(error, actions);
        };
        let error = cause.to_string();
        let record = at.clone();
        match (&mut culprit.outcome, self.config.policy.then()) {
            (Outcome::Dead(letter), _) if letter.without_value => {
                let error = Error::sink_failed(format_args!("{at}: its dead letter: {cause}"))
                    .remedy(
                        "the sink refuses even the record's coordinates: mend its table or topic",
                    );
                return self.close_commits(error, actions);
            }
            (Outcome::Dead(letter), _) => letter.without_value = true,
            (outcome, Then::DeadLetter) => {
                self.totals.dead_letters += 1;
                let reason = DeadReason::Rejected;
                *outcome = Outcome::Dead(DeadLetter {
                    reason,
                    error: error.clone(),
                    without_value: false,
                });
                let reason = reason.as_str();
                actions.push(Action::Tell(EngineEvent::DeadLettered { record, reason, error }));
            }
            (outcome, Then::Skip) => {
                self.totals.skipped += 1;
                *outcome = Outcome::Filtered;
                actions.push(Action::Tell(EngineEvent::Skipped { record, by: "policy", error }));
            }
            (_, Then::Stop) => {
                // Later cuts would jump over the record: of everything else nothing is stored.
                self.committing.retained.clear();
                let before = before(spans, finished, at);
                if !before.is_empty() {
                    self.committing.retained.push_front(before);
                }
                let error =
                    Error::record_failed(format_args!("{at}: the sink refused it: {cause}"))
                        .remedy("mend the function or the record, or choose a policy that goes on");
                self.committing.closing = true;
                return self.begin_stop_with(error, actions);
            }
        }
        self.committing.retained.push_front(Batch::new(spans, finished));
    }
}

/// The batch without this record and what follows it in its partition.
fn before<O>(mut spans: Vec<Span>, mut finished: Vec<Finished<O>>, at: &Coordinates) -> Batch<O> {
    finished.retain(|f| f.record.partition != at.partition || f.record.offset < at.offset);
    let last = finished.iter().rev().find(|f| f.record.partition == at.partition);
    let next = last.map(|f| f.record.offset.next());
    spans.retain_mut(|span| match next {
        _ if span.partition != at.partition => true,
        Some(next) => {
            span.next = next;
            true
        }
        None => false,
    });
    Batch::new(spans, finished)
}

fn fate_words(fate: &Fate) -> (&'static str, String) {
    match fate {
        Fate::Committed => ("committed", String::new()),
        Fate::Aborted(cause) => ("aborted", cause.to_string()),
        Fate::Fenced(cause) => ("fenced", cause.to_string()),
        Fate::InDoubt(cause) => ("in_doubt", cause.to_string()),
        Fate::Rejected { record, cause } => ("rejected", format!("{record}: {cause}")),
        Fate::Stop(error) => ("stop", error.to_string()),
    }
}
