//! What must hold of a core after each of its steps.

use super::super::checker::Effect;
use super::super::coverage::Seen;
use super::super::log::number;
use super::super::store::Store;
use super::super::world::Shared;
use super::Member;
use crate::batch::{Batch, Outcome};
use crate::engine::work::Job;
use crate::source::Start;

/// More than the bytes of any record.
const LARGEST: usize = 2100;

impl Member {
    /// Each partition has its share, and all together no more than the bound; a partition that holds
    /// nothing may always read one record.
    pub(super) fn check_bounds(&mut self, shared: &mut Shared) {
        let status = self.core.status();
        let held: usize = status.partitions.iter().map(|p| p.in_flight_records).sum();
        let limit = shared.plan.limits.in_flight_records + shared.logs.len();
        if held > limit {
            shared.fail(format!("m{}: {held} records are in flight, {limit} may be", self.number));
        }
        let bytes: usize = status.partitions.iter().map(|p| p.in_flight_bytes).sum();
        // Each partition may hold one record that was larger than what was left to it.
        let bytes_max = shared.plan.limits.in_flight_bytes + shared.logs.len() * LARGEST;
        if bytes > bytes_max {
            shared.fail(format!("m{}: {bytes} bytes are in flight", self.number));
        }
        // Whatever is remembered belongs to a record that may be in flight, or to a request.
        let remembered = self.core.remembered();
        let calls = 2 * shared.logs.len() + self.waiting.len();
        if remembered.ready > limit || remembered.retries > limit || remembered.kept > limit {
            shared.fail(format!("m{}: {limit} records may be held, {remembered:?}", self.number));
        }
        if remembered.calls > calls {
            shared.fail(format!("m{}: {calls} calls may be open, {remembered:?}", self.number));
        }
        let said = self.source.has_said();
        let most = 20 * shared.logs.len() + 4 * shared.plan.limits.in_flight_records;
        if said > most {
            shared.fail(format!("m{}: {said} events wait, {most} may", self.number));
        }
    }

    /// Nothing is started of a partition that is not ours, paused or being drained.
    pub(super) fn check_jobs(&mut self, jobs: &[Job], shared: &mut Shared) {
        for record in jobs.iter().flat_map(|job| &job.tickets).map(|ticket| &ticket.record) {
            let partition = number(&record.partition);
            // What is admitted will not be read again: it is run to the end.
            let stopping = self.stopping && !shared.plan.is_at_most_once();
            if !self.mine.contains(&partition) || self.paused.contains(&partition) || stopping {
                shared.fail(format!(
                    "m{}: {record:?} is started, assigned {:?}, paused {:?}, stopping {}",
                    self.number, self.mine, self.paused, self.stopping
                ));
            }
        }
    }

    /// One commit at a time, nothing of a stale epoch, nothing empty.
    pub(super) fn check_commit(&mut self, batch: &Batch<Effect>, shared: &mut Shared) {
        self.commits_out += 1;
        if self.commits_out > 1 {
            shared.fail(format!("m{}: two commits are out", self.number));
        }
        let begins = batch.spans()[0].clone();
        let before = self.last_commit.replace((begins.clone(), batch.len()));
        if before.is_some_and(|(span, records)| {
            span.first == begins.first && records > 1 && records / 2 == batch.len()
        }) {
            shared.cover.saw(Seen::InHalves);
        }
        if batch.finished().iter().any(|f| matches!(f.outcome, Outcome::Filtered)) {
            shared.cover.saw(Seen::Filtered);
        }
        let status = self.core.status();
        for span in batch.spans() {
            let partition = status.partitions.iter().find(|p| p.partition == span.partition);
            if partition.is_none_or(|partition| partition.epoch != span.epoch) {
                shared.fail(format!("m{}: {span:?} is committed, but stale", self.number));
            }
            if span.next <= span.first {
                shared.fail(format!("m{}: {span:?} stores nothing", self.number));
            }
            let records = batch.finished().iter();
            let of_span: Vec<i64> = records
                .filter(|f| f.record.partition == span.partition)
                .map(|f| f.record.offset.get())
                .collect();
            match of_span.last() {
                None => shared.cover.saw(Seen::OnlyHoles),
                Some(last) if last + 1 < span.next.get() => shared.cover.saw(Seen::HoleBehind),
                Some(_) => {}
            }
        }
    }

    /// What is started is stored, and stands where the store has it: nothing is left out, and nothing
    /// read again. Unless somebody has claimed it meanwhile: then nothing of it will be stored.
    pub(super) fn check_starts(&mut self, starts: &[Start], shared: &mut Shared) {
        for start in starts {
            let partition = number(&start.partition);
            let at = start.offset.get();
            let progress = shared.history.progress(partition);
            if progress.is_none() && !shared.history.was_rewound() {
                shared.fail(format!("{partition} starts at {at} before that is stored"));
            }
            let fence = self.delivery.fences.get(&partition);
            let is_ours =
                fence.is_some_and(|fence| shared.history.attempts.is_newest(partition, *fence));
            let is_visible = match &shared.store {
                Store::Sql(_) => true,
                // What was answered becomes visible a little later.
                Store::Kafka(kafka) => kafka.stable(&[partition]).is_some(),
                Store::Group(_) => false,
            };
            let is_comparable = is_visible && is_ours && !shared.history.was_rewound();
            if is_comparable && progress != Some(at) {
                shared.fail(format!("{partition} starts at {at}, stored is {progress:?}"));
            }
        }
    }

    /// A revocation that is answered before its deadline, and before the time to stop has passed, has
    /// nothing running and nothing out.
    pub(super) fn check_settled(&mut self, id: u64, shared: &mut Shared) {
        let Some((partitions, deadline)) = self.revocations.remove(&id) else {
            return shared.fail(format!("revocation {id} is answered twice"));
        };
        let is_late = shared.now - self.origin >= deadline;
        if is_late || self.stops_by.is_some_and(|at| at <= shared.now) {
            return;
        }
        for partition in partitions {
            let Some(epoch) = self.epochs.get(&partition).copied() else { continue };
            if self.pool.runs(partition, epoch) || self.delivery.holds(partition, epoch) {
                shared.fail(format!("m{}: {partition} is handed back unsettled", self.number));
            }
        }
    }
}
