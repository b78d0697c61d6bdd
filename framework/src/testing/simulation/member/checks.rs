//! What must hold of a core after each of its steps.

use super::super::checker::Effect;
use super::super::coverage::Seen;
use super::super::log::number;
use super::super::plan::StoreKind;
use super::super::store::Store;
use super::super::world::Shared;
use super::Member;
use crate::batch::{Batch, Outcome};
use crate::source::Start;

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

    /// What is started is stored, and stands where the store has it.
    pub(super) fn check_starts(&mut self, starts: &[Start], shared: &mut Shared) {
        for start in starts {
            let partition = number(&start.partition);
            let at = start.offset.get();
            if shared.history.progress(partition).is_none() {
                shared.fail(format!("{partition} starts at {at} before that is stored"));
            }
            if let (StoreKind::Sql, Store::Sql(sql)) = (shared.plan.store, &shared.store) {
                let owned = sql.owned_at(self.delivery.name, &self.delivery.claims, partition);
                if owned.is_some_and(|owned| owned != at) {
                    shared.fail(format!("{partition} starts at {at}, stored is {owned:?}"));
                }
            }
        }
    }

    /// A revocation that is answered before its deadline has nothing running and nothing out.
    pub(super) fn check_settled(&mut self, id: u64, shared: &mut Shared) {
        let Some((partitions, deadline)) = self.revocations.remove(&id) else {
            return shared.fail(format!("revocation {id} is answered twice"));
        };
        if shared.now - self.origin >= deadline {
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
