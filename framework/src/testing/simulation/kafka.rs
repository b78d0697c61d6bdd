//! The broker's side of transactions with the group's offsets.
//!
//! It fences members by their generation, and only when offsets are sent: it knows nothing of
//! partitions, claims or compares. What is pending holds back everybody who asks for stable offsets.

use std::time::Duration;

use super::chance::Chance;
use super::checker::{Effects, History};
use super::log::Logs;
use super::plan::ms;

/// After so long the broker aborts a transaction by itself.
const TRANSACTION_MAX: Duration = ms(2000);

pub(super) struct Kafka {
    offsets: Vec<Option<i64>>,
    pending: Vec<Pending>,
    transactions: u64,
}

/// A transaction whose offsets the broker has.
struct Pending {
    id: u64,
    producer: u64,
    stores: Stores,
    since: Duration,
    /// Nobody waits for it any more; its end may be on the way.
    is_stray: bool,
}

/// What a transaction makes visible.
#[derive(Clone)]
pub(super) enum Stores {
    Batch(Effects),
    /// Partition, what was stored, what is stored after.
    Positions(Vec<(usize, Option<i64>, i64)>),
}

impl Stores {
    fn partitions(&self) -> Vec<usize> {
        match self {
            Self::Batch(effects) => effects.spans.iter().map(|span| span.0).collect(),
            Self::Positions(moves) => moves.iter().map(|to| to.0).collect(),
        }
    }
}

impl Kafka {
    pub(super) fn new(partitions: usize) -> Self {
        Self { offsets: vec![None; partitions], pending: Vec::new(), transactions: 0 }
    }

    /// Progress that an earlier life of the pipeline has left.
    pub(super) fn preset(&mut self, partition: usize, next: i64) {
        self.offsets[partition] = Some(next);
    }

    /// Offsets were sent and taken: they are pending.
    pub(super) fn open(&mut self, producer: u64, stores: Stores, now: Duration) -> u64 {
        self.transactions += 1;
        let id = self.transactions;
        self.pending.push(Pending { id, producer, stores, since: now, is_stray: false });
        id
    }

    /// Commits; `None` if the broker has aborted the transaction.
    pub(super) fn commit(
        &mut self,
        id: u64,
        history: &mut History,
        logs: &Logs,
    ) -> Option<Result<(), String>> {
        let at = self.pending.iter().position(|pending| pending.id == id)?;
        match self.pending.swap_remove(at).stores {
            Stores::Batch(effects) => {
                for (partition, _, next) in &effects.spans {
                    self.offsets[*partition] = Some(*next);
                }
                Some(history.committed(&effects, logs))
            }
            Stores::Positions(moves) => {
                let mut result = Ok(());
                for (partition, stored, next) in moves {
                    self.offsets[partition] = Some(next);
                    let checked = match stored {
                        Some(stored) => history.sought(partition, stored, next),
                        None => history.started(partition, next),
                    };
                    result = result.and(checked);
                }
                Some(result)
            }
        }
    }

    pub(super) fn abort(&mut self, id: u64) {
        self.pending.retain(|pending| pending.id != id);
    }

    /// The client is gone or knows nothing more of it.
    pub(super) fn leave(&mut self, id: u64) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.id == id) {
            pending.is_stray = true;
        }
    }

    /// A new producer of this name: whatever the old one left open comes to its end.
    pub(super) fn init(
        &mut self,
        producer: u64,
        chance: &mut Chance,
        history: &mut History,
        logs: &Logs,
    ) -> Result<(), String> {
        let mine = self.pending.iter().filter(|pending| pending.producer == producer);
        let mine: Vec<(u64, bool)> = mine.map(|pending| (pending.id, pending.is_stray)).collect();
        for (id, is_stray) in mine {
            if is_stray && chance.coin() {
                self.commit(id, history, logs).unwrap_or(Ok(()))?;
            } else {
                self.abort(id);
            }
        }
        Ok(())
    }

    /// Stable offsets; `None` while a transaction holds one of them back.
    pub(super) fn stable(&self, partitions: &[usize]) -> Option<Vec<Option<i64>>> {
        let pending = self.pending.iter().flat_map(|pending| pending.stores.partitions());
        let held: Vec<usize> = pending.collect();
        if partitions.iter().any(|partition| held.contains(partition)) {
            return None;
        }
        Some(self.unstable(partitions))
    }

    /// What is stored, whatever is pending.
    pub(super) fn unstable(&self, partitions: &[usize]) -> Vec<Option<i64>> {
        partitions.iter().map(|partition| self.offsets[*partition]).collect()
    }

    pub(super) fn has_strays(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Strays come to their end, and what is open for too long is aborted. Answers whether
    /// something was stored.
    pub(super) fn tick(
        &mut self,
        now: Duration,
        chance: &mut Chance,
        history: &mut History,
        logs: &Logs,
    ) -> Option<(bool, Result<(), String>)> {
        let old = self.pending.iter().find(|pending| pending.since + TRANSACTION_MAX <= now);
        if let Some(id) = old.map(|pending| pending.id) {
            self.abort(id);
            return Some((false, Ok(())));
        }
        let stray = self.pending.iter().find(|pending| pending.is_stray)?.id;
        // The end of the transaction was sent, or never left: then only time helps.
        chance.one_in(3).then(|| Some((true, self.commit(stray, history, logs)?))).flatten()
    }
}
