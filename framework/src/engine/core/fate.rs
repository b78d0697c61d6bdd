//! What follows from each fate of a commit.

use std::time::Duration;

use super::claim::Found;
use super::{Action, Core, Phase};
use crate::batch::{Batch, DeadLetter, DeadReason, Finished, Outcome, Span};
use crate::delivery::{Fate, Progress};
use crate::engine::observe::EngineEvent;
use crate::error::{Cause, Error};
use crate::mutant;
use crate::policy::Then;
use crate::record::{Coordinates, PartitionId};
use crate::source::Position;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// After this many refusals in a row, a batch is tried in halves: it may be too large for the
/// time it has.
const REFUSALS_BEFORE_HALVES: u32 = 3;

impl<O> Core<O> {
    pub(super) fn on_committed(
        &mut self,
        batch: Batch<O>,
        fate: Fate,
        actions: &mut Vec<Action<O>>,
    ) {
        self.sink_busy = false;
        self.committing.last_ended = self.now;
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
            Fate::InDoubt(_) if mutant::is("M11") => self.keep_refused(batch),
            Fate::InDoubt(_) if mutant::is("M12") => self.stored(batch, actions),
            Fate::Aborted(_) if mutant::is("M18") => {}
            Fate::Aborted(_) if mutant::is("M19") => self.rewind_and_keep(batch, actions),
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

    pub(super) fn close_commits(&mut self, error: Error, actions: &mut Vec<Action<O>>) {
        self.committing.closed = true;
        self.committing.retained.clear();
        self.committing.doubt = None;
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
        self.fence(&ids, "fenced", cause, actions);
    }

    /// Sends the same batch again and reads its records again as well.
    fn rewind_and_keep(&mut self, batch: Batch<O>, actions: &mut Vec<Action<O>>) {
        let (mut spans, finished) = batch.into_parts();
        for span in &mut spans {
            let cut = self.get(&span.partition).map(|p| (p.cut_records, p.cut_bytes));
            self.recover(&span.partition, Phase::Ready, "aborted", actions);
            if let (Some(partition), Some(cut)) = (self.get_mut(&span.partition), cut) {
                (partition.cut_records, partition.cut_bytes) = cut;
                span.epoch = partition.epoch;
            }
        }
        self.keep_refused(Batch::new(spans, finished));
    }

    fn keep_refused(&mut self, batch: Batch<O>) {
        self.totals.aborted += 1;
        self.committing.refusals += 1;
        let refusals = self.committing.refusals;
        let wait = RETRY_FIRST.saturating_mul(1 << refusals.min(10)).min(RETRY_LONGEST);
        self.committing.retry_at = self.now + self.jittered(wait / 2);
        if refusals >= REFUSALS_BEFORE_HALVES && batch.len() > 1 {
            let half = batch.len() / 2;
            self.committing.records_max = Some(half);
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
        self.committing.records_max =
            self.committing.records_max.map(|most| most.saturating_add(most.div_ceil(8)));
        self.totals.commits += 1;
        self.totals.committed_records += batch.len() as u64;
        let (spans, finished) = batch.into_parts();
        let mut finished = finished.into_iter().peekable();
        let mut positions = Vec::with_capacity(spans.len());
        for span in spans {
            // One pass over what is long out of the processor's caches: counted and dropped at once.
            let (mut records, mut bytes) = (0, 0);
            while let Some(done) = finished.next_if(|f| f.record.partition == span.partition) {
                match &done.outcome {
                    Outcome::Emit(outputs) => self.totals.committed_outputs += outputs.len() as u64,
                    Outcome::Filtered => self.totals.committed_filtered += 1,
                    Outcome::Dead(_) => {}
                }
                records += 1;
                bytes += done.record.size_bytes();
            }
            let Some((_, partition)) = self.current(&span.partition, span.epoch) else {
                continue;
            };
            partition.committed = span.next;
            partition.has_stored = true;
            if !mutant::is("M36") {
                partition.cut_records -= records;
                partition.cut_bytes -= bytes;
            }
            positions.push(Position { partition: span.partition, next: span.next });
        }
        if self.config.progress == Progress::Sink && !positions.is_empty() {
            actions.push(Action::Mirror(positions));
        }
    }

    /// What a claim found while a commit was in doubt decides what became of it: one partition
    /// decides for all. Without any answer about it, it stays in doubt.
    pub(super) fn resolve_doubt(&mut self, found: &[Found], actions: &mut Vec<Action<O>>) {
        let Some(batch) = self.committing.doubt.take() else {
            return;
        };
        let batch = self.only_current(batch);
        let (mut yes, mut no, mut unknown) = (0, 0, 0);
        let mut taken_over: Vec<PartitionId> = Vec::new();
        for span in batch.spans() {
            match found.iter().find(|found| found.partition == span.partition) {
                Some(found) if found.stored == Some(span.next) => yes += 1,
                Some(found) if found.stored == Some(span.first) => no += 1,
                Some(_) => taken_over.push(span.partition.clone()),
                None => unknown += 1,
            }
        }
        if yes > 0 && no > 0 {
            let error = Error::sink_failed(
                "a commit in doubt was found stored for one partition and not for another",
            )
            .remedy("the store is not atomic: look for a restore or a fail-over that lost writes");
            return self.close_commits(error, actions);
        }
        let cause = "its stored position is neither before nor after a commit in doubt";
        self.fence(&taken_over, "taken over", &cause, actions);
        let batch = self.only_current(batch);
        if yes + no == 0 && unknown > 0 {
            self.committing.doubt = Some(batch);
            return;
        }
        if batch.is_empty() {
            // All of it was taken over: what became of it is the new owners' to know.
            return;
        }
        let (spans, stored) = (batch.spans().to_vec(), yes > 0);
        actions.push(Action::Tell(EngineEvent::DoubtResolved { spans, stored }));
        if yes > 0 {
            self.stored(batch, actions);
        } else if no > 0 {
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
