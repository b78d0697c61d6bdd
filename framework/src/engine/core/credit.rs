//! How much more may be read: each partition has its share, all together stay below the bound.

use super::{Action, Core, Partition};
use crate::mutant;
use crate::source::Credit;

/// Unused credit of a partition is at most this part of its share: credit cannot be taken back, and
/// what an idle partition holds is missing elsewhere.
const UNUSED: usize = 4;

/// Records or bytes: what one partition may have, has, and may still read.
struct Side {
    share: usize,
    held: usize,
    credit: usize,
    /// What is left of the bound for all partitions.
    left: usize,
}

impl<O> Core<O> {
    /// At its share a partition alone gets no more credit. A partition that holds nothing may always
    /// read one record, however large, and however much the others hold: it could wait for ever.
    pub(super) fn pump_credit(&mut self, actions: &mut Vec<Action<O>>) {
        if self.stopping.is_some() {
            return;
        }
        let limits = &self.config.limits;
        let (records_max, bytes_max) = (limits.in_flight_records, limits.in_flight_bytes);
        let reading = self.partitions().filter(|p| p.is_read()).count().max(1);
        let (mut records_out, mut bytes_out) = (0, 0);
        for partition in self.partitions() {
            records_out += partition.held_records() + partition.credit_records;
            bytes_out += partition.held_bytes() + partition.unused_bytes();
        }
        let mut grants = Vec::new();
        for partition in self.slots.iter_mut().flatten() {
            if !partition.may_read() || partition.broken.is_some() {
                continue;
            }
            let records = Side {
                share: (records_max / reading).max(1),
                held: partition.held_records(),
                credit: partition.credit_records,
                left: records_max.saturating_sub(records_out),
            };
            let bytes = Side {
                share: (bytes_max / reading).max(1),
                held: partition.held_bytes(),
                credit: partition.unused_bytes(),
                left: bytes_max.saturating_sub(bytes_out),
            };
            let Some((records, bytes)) = grant(&records, &bytes) else {
                continue;
            };
            let overdrawn = partition.overdrawn_bytes();
            let granted = bytes as u64 + overdrawn;
            partition.credit_records += records;
            partition.credit_bytes = partition.credit_bytes.saturating_add_unsigned(granted);
            records_out += records;
            bytes_out += bytes;
            grants.push(Credit {
                partition: partition.id.clone(),
                epoch: partition.epoch,
                records: u32::try_from(records).unwrap_or(u32::MAX),
                bytes: granted,
            });
        }
        if !grants.is_empty() {
            actions.push(Action::Credit(grants));
        }
    }
}

/// What a partition gets, if it is worth telling.
fn grant(records: &Side, bytes: &Side) -> Option<(usize, usize)> {
    let starved = records.credit == 0 || bytes.credit == 0;
    let (mut more_records, mut more_bytes) = (records.more(), bytes.more());
    if records.held == 0 && starved {
        more_records = more_records.max(usize::from(records.credit == 0));
        more_bytes = more_bytes.max(usize::from(bytes.credit == 0));
    }
    // Credit of one kind is of no use without the other.
    if records.credit + more_records == 0 || bytes.credit + more_bytes == 0 {
        return None;
    }
    let worth_it = records.is_worth(more_records) || bytes.is_worth(more_bytes);
    ((starved || worth_it) && more_records + more_bytes > 0).then_some((more_records, more_bytes))
}

impl Side {
    /// How much more may be read without passing the share, the bound, or what may be unused.
    fn more(&self) -> usize {
        let unused = self.share.div_ceil(UNUSED).saturating_sub(self.credit);
        let share = self.share.saturating_sub(self.held + self.credit);
        unused.min(share).min(self.left)
    }

    /// Small grants cost more than they bring.
    fn is_worth(&self, more: usize) -> bool {
        more > 0 && more >= self.share / (2 * UNUSED)
    }
}

impl<O> Partition<O> {
    /// Bytes the source may still send.
    fn unused_bytes(&self) -> usize {
        usize::try_from(self.credit_bytes.max(0)).unwrap_or(usize::MAX)
    }

    /// By how much the last record was larger than what was left.
    fn overdrawn_bytes(&self) -> u64 {
        self.credit_bytes.min(0).unsigned_abs()
    }

    /// Records that are delivered and not stored.
    fn held_records(&self) -> usize {
        self.tracker.len() + if mutant::is("M43") { 0 } else { self.cut_records }
    }

    fn held_bytes(&self) -> usize {
        self.tracker.bytes() + if mutant::is("M43") { 0 } else { self.cut_bytes }
    }
}
