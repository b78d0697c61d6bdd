//! A database: rows with results and progress, one transaction at a time per row.
//!
//! Progress is compared (owner, claim, stored position) and moved in the transaction that holds the
//! results. A transaction whose client is gone goes on to an end that nobody is told: at once, late,
//! or after somebody else's claim.

use std::collections::BTreeMap;

use super::chance::Chance;
use super::checker::{Effects, History};
use super::log::{Logs, number};
use crate::error::Cause;
use crate::record::Coordinates;
use crate::sink::{Move, Stored};

/// The claims a client holds: partition and number.
pub(super) type Claims = BTreeMap<usize, u64>;

pub(super) struct Sql {
    rows: Vec<Option<Row>>,
    open: Vec<Open>,
    unread: Vec<Unread>,
    transactions: u64,
}

#[derive(Clone, Copy)]
struct Row {
    next: i64,
    claim: u64,
    owner: u64,
    locked: Option<u64>,
}

/// A transaction that has compared and holds its rows.
struct Open {
    id: u64,
    effects: Effects,
    has_client: bool,
}

/// Statements that were sent and that the server has not read.
struct Unread {
    owner: u64,
    claims: Claims,
    effects: Effects,
}

/// How a transaction begins.
pub(super) enum Begun {
    /// It has compared: it may commit.
    Open(u64),
    /// Somebody else's transaction holds a row.
    Waits,
    Fenced,
    /// This record, which is a dead letter already if so said.
    Rejected(Coordinates, bool),
}

/// How a transaction without client ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    Stored,
    Refused,
    Vanished,
}

impl Sql {
    pub(super) fn new(partitions: usize) -> Self {
        Self { rows: vec![None; partitions], open: Vec::new(), unread: Vec::new(), transactions: 0 }
    }

    /// Progress that an earlier life of the pipeline has left.
    pub(super) fn preset(&mut self, partition: usize, next: i64) {
        self.rows[partition] = Some(Row { next, claim: 1, owner: 0, locked: None });
    }

    /// Runs everything up to the compare.
    pub(super) fn begin(
        &mut self,
        owner: u64,
        claims: &Claims,
        effects: &Effects,
        logs: &Logs,
        compare: bool,
    ) -> Begun {
        if effects.spans.iter().any(|(p, ..)| self.is_locked(*p)) {
            return Begun::Waits;
        }
        let ours = |(p, first, _): &(usize, i64, i64)| {
            let row = self.rows[*p];
            row.is_some_and(|row| {
                row.owner == owner && claims.get(p) == Some(&row.claim) && row.next == *first
            })
        };
        if compare && !effects.spans.iter().all(ours) {
            return Begun::Fenced;
        }
        if let Some((record, is_dead)) = effects.refused(logs) {
            return Begun::Rejected(record, is_dead);
        }
        self.transactions += 1;
        let id = self.transactions;
        for (partition, ..) in &effects.spans {
            self.rows[*partition].as_mut().expect("compared above").locked = Some(id);
        }
        self.open.push(Open { id, effects: effects.clone(), has_client: true });
        Begun::Open(id)
    }

    /// Commits; `None` if the server has ended the transaction.
    pub(super) fn commit(
        &mut self,
        id: u64,
        history: &mut History,
        logs: &Logs,
    ) -> Option<Result<(), String>> {
        let effects = self.end(id)?;
        for (partition, _, next) in &effects.spans {
            self.rows[*partition].as_mut().expect("it was locked").next = *next;
        }
        Some(history.committed(&effects, logs))
    }

    pub(super) fn roll_back(&mut self, id: u64) {
        self.end(id);
    }

    fn end(&mut self, id: u64) -> Option<Effects> {
        let at = self.open.iter().position(|open| open.id == id)?;
        for row in self.rows.iter_mut().flatten().filter(|row| row.locked == Some(id)) {
            row.locked = None;
        }
        Some(self.open.swap_remove(at).effects)
    }

    /// The client is gone after it sent `COMMIT`, or before.
    pub(super) fn leave(&mut self, id: u64) {
        if let Some(open) = self.open.iter_mut().find(|open| open.id == id) {
            open.has_client = false;
        }
    }

    /// The client is gone before the server has read anything.
    pub(super) fn leave_unread(&mut self, owner: u64, claims: &Claims, effects: Effects) {
        self.unread.push(Unread { owner, claims: claims.clone(), effects });
    }

    pub(super) fn has_strays(&self) -> bool {
        !self.unread.is_empty() || self.open.iter().any(|open| !open.has_client)
    }

    /// Something that has no client any more comes to its end.
    pub(super) fn tick(
        &mut self,
        chance: &mut Chance,
        history: &mut History,
        logs: &Logs,
    ) -> Option<(Late, Result<(), String>)> {
        let stray = self.open.iter().find(|open| !open.has_client).map(|open| open.id);
        if let Some(id) = stray {
            if chance.coin() {
                return Some((Late::Stored, self.commit(id, history, logs)?));
            }
            self.roll_back(id);
            return Some((Late::Vanished, Ok(())));
        }
        if self.unread.is_empty() {
            return None;
        }
        let Unread { owner, claims, effects } = self.unread.swap_remove(0);
        match self.begin(owner, &claims, &effects, logs, true) {
            Begun::Open(id) => Some((Late::Stored, self.commit(id, history, logs)?)),
            Begun::Waits => {
                self.unread.push(Unread { owner, claims, effects });
                None
            }
            Begun::Fenced | Begun::Rejected(..) => Some((Late::Refused, Ok(()))),
        }
    }

    /// Ends whatever holds these rows, as a claimant does that has waited too long.
    pub(super) fn terminate(&mut self, partitions: &[usize]) {
        let holders: Vec<u64> =
            partitions.iter().filter_map(|p| self.rows[*p].and_then(|row| row.locked)).collect();
        for id in holders {
            self.roll_back(id);
        }
    }

    /// Takes ownership; `None` while somebody's transaction holds a row.
    pub(super) fn claim(
        &mut self,
        owner: u64,
        partitions: &[usize],
    ) -> Option<Vec<(usize, Stored, u64)>> {
        if partitions.iter().any(|p| self.is_locked(*p)) {
            return None;
        }
        let highest = (0..self.rows.len()).rev().find(|p| self.rows[*p].is_some());
        let claimed = partitions.iter().map(|&partition| match &mut self.rows[partition] {
            Some(row) => {
                row.claim += 1;
                row.owner = owner;
                let at = crate::record::Offset::new(row.next);
                (partition, Stored::At(at), row.claim)
            }
            None if highest.is_some_and(|highest| highest < partition) => {
                (partition, Stored::Added, 0)
            }
            None if highest.is_some() => {
                (partition, Stored::Refused(Cause::new("its row is missing")), 0)
            }
            None => (partition, Stored::Nothing, 0),
        });
        Some(claimed.collect())
    }

    /// Stores positions; `None` while somebody's transaction holds a row, `Some(false)` if a row is
    /// not ours or not where it is expected.
    pub(super) fn reposition(
        &mut self,
        owner: u64,
        claims: &Claims,
        moves: &[Move],
        history: &mut History,
    ) -> Option<Result<bool, String>> {
        if moves.iter().any(|to| self.is_locked(number(&to.partition))) {
            return None;
        }
        let fits = |to: &Move| {
            let partition = number(&to.partition);
            match (to.expected, self.rows[partition]) {
                (None, _) => true,
                (Some(expected), Some(row)) => {
                    row.owner == owner
                        && claims.get(&partition) == Some(&row.claim)
                        && row.next == expected.get()
                }
                (Some(_), None) => false,
            }
        };
        if !moves.iter().all(fits) {
            return Some(Ok(false));
        }
        let mut result = Ok(true);
        for to in moves {
            let partition = number(&to.partition);
            let next = to.next.get();
            let checked = match (&mut self.rows[partition], to.expected) {
                (Some(_), None) => Ok(()),
                (row @ None, _) => {
                    *row = Some(Row { next, claim: 0, owner: 0, locked: None });
                    history.started(partition, next)
                }
                (Some(row), Some(expected)) => {
                    row.next = next;
                    history.sought(partition, expected.get(), next)
                }
            };
            if let Err(wrong) = checked {
                result = Err(wrong);
            }
        }
        Some(result)
    }

    pub(super) fn release(&mut self, owner: u64, claims: &Claims, partition: usize) {
        if let Some(row) = &mut self.rows[partition]
            && row.owner == owner
            && claims.get(&partition) == Some(&row.claim)
        {
            row.owner = 0;
        }
    }

    /// Where a partition stands if this client owns it.
    pub(super) fn owned_at(&self, owner: u64, claims: &Claims, partition: usize) -> Option<i64> {
        let row = self.rows[partition]?;
        (row.owner == owner && claims.get(&partition) == Some(&row.claim)).then_some(row.next)
    }

    fn is_locked(&self, partition: usize) -> bool {
        self.rows[partition].is_some_and(|row| row.locked.is_some())
    }
}
