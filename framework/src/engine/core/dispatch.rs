//! What runs: delivery into lanes, dispatch to the pool, outcomes, retries, credit.

use std::cmp::Reverse;
use std::time::Duration;

use super::{Action, Core, Partition, Retry};
use crate::batch::{DeadLetter, Outcome, Outputs};
use crate::delivery::Guarantee;
use crate::engine::observe::EngineEvent;
use crate::engine::work::{Completion, Job, LaneKey, Said, Ticket};
use crate::error::Error;
use crate::mutant;
use crate::policy::{Then, Verdict};
use crate::process::{Attempt, Failure};
use crate::record::{Epoch, Offset, PartitionId};
use crate::settings::Order;
use crate::source::{Chunk, Position};

impl<O> Core<O> {
    pub(super) fn on_records(&mut self, chunk: Chunk) {
        let now = self.now;
        let admit_first = self.config.guarantee == Guarantee::AtMostOnce;
        let needs_key = self.config.order == Order::ByKey;
        let Some(&slot) = self.index.get(&chunk.partition) else {
            return;
        };
        let Some(partition) = self.slots[slot as usize].as_mut() else {
            return;
        };
        // Behind what stopped a partition nothing may be delivered: it would close the hole.
        if partition.epoch != chunk.epoch || partition.broken.is_some() {
            return;
        }
        for record in chunk.records {
            let bytes = record.size_bytes();
            partition.credit_records = partition.credit_records.saturating_sub(1);
            partition.credit_bytes = partition.credit_bytes.saturating_sub_unsigned(bytes as u64);
            self.totals.records_in += 1;
            self.totals.bytes_in += bytes as u64;
            let key = if needs_key { record.key.clone() } else { None };
            let Some(seq) = partition.tracker.deliver(record, now) else {
                self.totals.out_of_order += 1;
                continue;
            };
            if admit_first {
                partition.unadmitted.push_back((seq, key));
            } else if let Some(lane) = partition.lanes.add(seq, key.as_deref()) {
                self.ready.push_back(LaneKey { slot, epoch: chunk.epoch, lane });
            }
        }
    }

    pub(super) fn on_end(&mut self, id: &PartitionId, epoch: Epoch, next: Offset) {
        if let Some((_, partition)) = self.current(id, epoch)
            && partition.broken.is_none()
        {
            partition.tracker.end(next);
        }
    }

    pub(super) fn on_ends(&mut self, ends: Vec<Position>) {
        for end in ends {
            if let Some(partition) = self.get_mut(&end.partition) {
                partition.end = partition.end.max(Some(end.next));
                if mutant::is("M05") {
                    partition.tracker.end(end.next);
                }
            }
        }
    }

    pub(super) fn pump_dispatch(&mut self, actions: &mut Vec<Action<O>>) {
        if self.stopping.is_some() && self.config.guarantee != Guarantee::AtMostOnce {
            return;
        }
        let mut out: usize = self.partitions().map(|p| p.lanes.running()).sum();
        let mut jobs = Vec::new();
        while out < self.config.outstanding_max {
            let Some(key) = self.ready.pop_front() else {
                break;
            };
            let room = (self.config.outstanding_max - out).min(self.config.run_max);
            if let Some(job) = self.start_run(key, room) {
                out += job.tickets.len();
                jobs.push(job);
            }
        }
        if !jobs.is_empty() {
            actions.push(Action::Run(jobs));
        }
    }

    /// The next run of a lane, if the lane is still there and may run. A lane that may not run now
    /// is found again by [`Core::wake_lanes`].
    fn start_run(&mut self, key: LaneKey, room: usize) -> Option<Job> {
        let now = self.now;
        let partition = self.slots.get_mut(key.slot as usize)?.as_mut()?;
        if partition.epoch != key.epoch || !partition.may_start() {
            return None;
        }
        let seqs = partition.lanes.start(key.lane, room);
        if seqs.is_empty() {
            return None;
        }
        let tickets = seqs
            .into_iter()
            .map(|seq| {
                let (record, attempt) =
                    partition.tracker.start(seq, now).expect("a queued ticket is open");
                Ticket { seq, attempt, record }
            })
            .collect();
        Some(Job { key, gate: partition.gate.clone(), tickets })
    }

    /// Forgets what of a dropped epoch waits to run or to be tried again: with retries an hour away and
    /// a group that cannot settle it would pile up.
    pub(super) fn forget_waiting(&mut self, epoch: Epoch) {
        self.ready.retain(|key| key.epoch != epoch);
        self.retries.retain(|Reverse(retry)| retry.epoch != epoch);
    }

    /// Puts every lane of a partition that could run back into the queue.
    pub(super) fn wake_lanes(&mut self, id: &PartitionId) {
        let Some(&slot) = self.index.get(id) else {
            return;
        };
        let Some(partition) = &self.slots[slot as usize] else {
            return;
        };
        let epoch = partition.epoch;
        // Some of them may stand there already.
        self.ready.retain(|key| key.epoch != epoch);
        self.ready.extend(partition.lanes.ready().map(|lane| LaneKey { slot, epoch, lane }));
    }

    pub(super) fn on_completed(
        &mut self,
        completions: Vec<Completion<O>>,
        actions: &mut Vec<Action<O>>,
    ) {
        for completion in completions {
            let Completion { key, seq, said } = completion;
            let slot = self.slots.get_mut(key.slot as usize).and_then(Option::as_mut);
            let waits =
                |p: &&mut Partition<O>| p.epoch == key.epoch && p.lanes.is_front(key.lane, seq);
            let Some(partition) = slot.filter(waits) else {
                // What was behind a failed record is reported as not started after its run ended.
                self.totals.stale_results += u64::from(matches!(said, Said::Attempt(_)));
                continue;
            };
            match said {
                Said::NotStarted => {
                    partition.lanes.end_run(key.lane);
                    self.ready.push_back(key);
                }
                Said::Attempt(Attempt::Done(outputs)) => {
                    self.totals.outputs += outputs.as_ref().map_or(0, Outputs::len) as u64;
                    let outcome = outputs.map_or(Outcome::Filtered, Outcome::Emit);
                    if !(mutant::is("M46") && matches!(outcome, Outcome::Filtered)) {
                        partition.tracker.succeed(seq, outcome);
                    }
                    if partition.lanes.finish_front(key.lane) {
                        self.ready.push_back(key);
                    }
                }
                Said::Attempt(Attempt::Failed(failure)) => {
                    self.on_failure(key, seq, failure, actions);
                }
            }
        }
    }

    /// A call failed and the run ended with it: retry with the lane closed, or the last resort.
    fn on_failure(
        &mut self,
        key: LaneKey,
        seq: u64,
        failure: Failure,
        actions: &mut Vec<Action<O>>,
    ) {
        let jitter = self.chance();
        let partition = self.slots[key.slot as usize].as_mut().expect("looked up by the caller");
        partition.lanes.end_run(key.lane);
        let Some((record, attempts)) = partition.tracker.failed(seq) else {
            return;
        };
        let record = record.coordinates();
        let Failure { reason, error, retriable } = failure;
        let then = match self.config.policy.verdict(attempts, retriable, jitter) {
            Verdict::RetryAfter(wait) => {
                partition.lanes.shut(key.lane);
                let at = self.now + wait;
                let LaneKey { slot, epoch, lane } = key;
                self.retries.push(Reverse(Retry { at, seq, slot, epoch, lane }));
                self.totals.retries += 1;
                let tell = EngineEvent::Retrying { record, attempts, wait, error };
                actions.push(Action::Tell(tell));
                return;
            }
            Verdict::Give(then) => then,
        };
        let outcome = match then {
            Then::Stop => {
                partition.lanes.shut(key.lane);
                let error = Error::record_failed(format_args!("{record}: {error}"))
                    .remedy("mend the function or the record, or choose a policy that goes on");
                return self.begin_stop_with(error, actions);
            }
            Then::DeadLetter if mutant::is("M34") => Outcome::Filtered,
            Then::DeadLetter => {
                self.totals.dead_letters += 1;
                let letter = DeadLetter { reason, error: error.clone(), without_value: false };
                actions.push(Action::Tell(EngineEvent::DeadLettered { record, reason, error }));
                Outcome::Dead(letter)
            }
            Then::Skip => {
                self.totals.skipped += 1;
                actions.push(Action::Tell(EngineEvent::Skipped { record, by: "policy", error }));
                Outcome::Filtered
            }
        };
        self.finish_unstarted(key, seq, outcome);
    }

    /// Finishes the front ticket of a lane whose run has ended.
    fn finish_unstarted(&mut self, key: LaneKey, seq: u64, outcome: Outcome<O>) {
        let partition = self.slots[key.slot as usize].as_mut().expect("looked up by the caller");
        partition.tracker.finish(seq, outcome);
        if let Some(lane) = partition.lanes.remove_front(key.lane) {
            self.ready.push_back(LaneKey { lane, ..key });
        }
    }

    pub(super) fn pump_retries(&mut self) {
        while self.retries.peek().is_some_and(|Reverse(retry)| retry.at <= self.now) {
            let Reverse(Retry { seq, slot, epoch, lane, .. }) = self.retries.pop().expect("peeked");
            if let Some(Some(partition)) = self.slots.get_mut(slot as usize)
                && partition.epoch == epoch
                && partition.lanes.reopen(lane, seq)
            {
                self.ready.push_back(LaneKey { slot, epoch, lane });
            }
        }
    }

    /// Reports, once each, the records that have held their partition back for too long.
    pub(crate) fn report_stuck(&mut self, now: Duration, actions: &mut Vec<Action<O>>) {
        let limit = self.config.limits.stuck_after;
        for partition in self.slots.iter_mut().flatten() {
            let Some(holder) = partition.tracker.holder() else {
                continue;
            };
            let age = now.saturating_sub(holder.since);
            let offset = holder.record.offset;
            if age < limit || partition.reported_stuck == Some(offset) || !partition.may_start() {
                continue;
            }
            partition.reported_stuck = Some(offset);
            let record = holder.record.coordinates();
            actions.push(Action::Tell(EngineEvent::Stuck { record, age }));
        }
    }
}
