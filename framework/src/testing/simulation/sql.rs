//! A database: rows with results and progress, one transaction at a time per row.
//!
//! Progress is compared (owner, claim, stored position) and moved in the transaction that holds the
//! results. A transaction whose client is gone goes on to an end that nobody is told: at once, late,
//! or after somebody else's claim. A fail-over takes everything back to an earlier state, claims
//! included, and ends every session.

use std::collections::{BTreeMap, VecDeque};

use super::chance::Chance;
use super::checker::{Effects, History, Mark};
use super::log::{Logs, number};
use crate::error::Cause;
use crate::record::Coordinates;
use crate::sink::{Move, Stored};

/// How many earlier states a fail-over may go back to.
const PAST_MAX: usize = 6;

/// The claims a client holds, by partition: who it was when it claimed, and the claim's number. A
/// fail-over brings numbers back, never a name: each claim is made under a new one.
pub(super) type Claims = BTreeMap<usize, (u64, u64)>;

pub(super) struct Sql {
    rows: Vec<Option<Row>>,
    open: Vec<Open>,
    unread: Vec<Unread>,
    transactions: u64,
    /// Earlier states, the newest last, and what was stored then.
    past: VecDeque<(Vec<Option<Row>>, Mark)>,
}

#[derive(Clone, Copy)]
struct Row {
    next: i64,
    claim: u64,
    owner: u64,
    locked: Option<u64>,
}

impl Row {
    fn held_by(&self) -> (u64, u64) {
        (self.owner, self.claim)
    }
}

/// A transaction that has compared and holds its rows.
struct Open {
    id: u64,
    attempt: u64,
    effects: Effects,
    has_client: bool,
}

/// Statements that were sent and that the server has not read.
struct Unread {
    claims: Claims,
    what: What,
}

/// What statements store.
pub(super) enum What {
    Batch(u64, Effects),
    Moves(Vec<Move>),
}

/// What the last statement before a commit looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Compare {
    /// Owner, claim and position.
    All,
    /// A fault: the position alone.
    Position,
    /// A fault.
    Nothing,
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
        Self {
            rows: vec![None; partitions],
            open: Vec::new(),
            unread: Vec::new(),
            transactions: 0,
            past: VecDeque::new(),
        }
    }

    /// Progress that an earlier life of the pipeline has left.
    pub(super) fn preset(&mut self, partition: usize, next: i64) {
        self.rows[partition] = Some(Row { next, claim: 1, owner: 0, locked: None });
    }

    /// Something is about to change that a fail-over may lose.
    fn remember(&mut self, history: &History) {
        if self.past.len() == PAST_MAX {
            self.past.pop_front();
        }
        let mut rows = self.rows.clone();
        rows.iter_mut().flatten().for_each(|row| row.locked = None);
        self.past.push_back((rows, history.mark()));
    }

    /// Another server goes on from an earlier state; `None` if there is none. How many commits are
    /// lost.
    pub(super) fn fail_over(
        &mut self,
        chance: &mut Chance,
        history: &mut History,
    ) -> Option<usize> {
        if self.past.is_empty() {
            return None;
        }
        let at = chance.below(self.past.len());
        self.past.truncate(at + 1);
        let (rows, mark) = self.past.pop_back().expect("chosen from what is there");
        self.rows = rows;
        self.open.clear();
        self.unread.clear();
        Some(history.rewind(&mark))
    }

    /// Runs everything up to the compare.
    pub(super) fn begin(
        &mut self,
        claims: &Claims,
        (attempt, effects): (u64, &Effects),
        logs: &Logs,
        compare: Compare,
    ) -> Begun {
        if effects.spans.iter().any(|(p, ..)| self.is_locked(*p)) {
            return Begun::Waits;
        }
        let ours = |(p, first, _): &(usize, i64, i64)| {
            let Some(row) = self.rows[*p] else { return false };
            let held = claims.get(p) == Some(&row.held_by());
            (held || compare == Compare::Position) && row.next == *first
        };
        if compare != Compare::Nothing && !effects.spans.iter().all(ours) {
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
        self.open.push(Open { id, attempt, effects: effects.clone(), has_client: true });
        Begun::Open(id)
    }

    /// Commits; `None` if the server has ended the transaction.
    pub(super) fn commit(
        &mut self,
        id: u64,
        history: &mut History,
        logs: &Logs,
    ) -> Option<Result<(), String>> {
        let (attempt, effects) = self.end(id)?;
        self.remember(history);
        for (partition, _, next) in &effects.spans {
            self.rows[*partition].as_mut().expect("it was locked").next = *next;
        }
        Some(history.committed(attempt, &effects, logs))
    }

    pub(super) fn roll_back(&mut self, id: u64) {
        self.end(id);
    }

    fn end(&mut self, id: u64) -> Option<(u64, Effects)> {
        let at = self.open.iter().position(|open| open.id == id)?;
        for row in self.rows.iter_mut().flatten().filter(|row| row.locked == Some(id)) {
            row.locked = None;
        }
        let Open { attempt, effects, .. } = self.open.swap_remove(at);
        Some((attempt, effects))
    }

    /// The client is gone after it sent `COMMIT`, or before.
    pub(super) fn leave(&mut self, id: u64) {
        if let Some(open) = self.open.iter_mut().find(|open| open.id == id) {
            open.has_client = false;
        }
    }

    /// The client is gone before the server has read anything.
    pub(super) fn leave_unread(&mut self, claims: &Claims, what: What) {
        self.unread.push(Unread { claims: claims.clone(), what });
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
        let Unread { claims, what } = self.unread.swap_remove(0);
        let (attempt, effects) = match &what {
            What::Batch(attempt, effects) => (*attempt, effects),
            What::Moves(moves) => {
                return match self.reposition(&claims, moves, history) {
                    None => {
                        self.unread.push(Unread { claims, what });
                        None
                    }
                    Some(Ok(true)) => Some((Late::Stored, Ok(()))),
                    Some(checked) => Some((Late::Refused, checked.map(|_| ()))),
                };
            }
        };
        match self.begin(&claims, (attempt, effects), logs, Compare::All) {
            Begun::Open(id) => Some((Late::Stored, self.commit(id, history, logs)?)),
            Begun::Waits => {
                self.unread.push(Unread { claims, what });
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

    /// Takes ownership under a new name; `None` while somebody's transaction holds a row, unless told not to wait.
    pub(super) fn claim(
        &mut self,
        owner: u64,
        partitions: &[usize],
        waits: bool,
        history: &History,
    ) -> Option<Vec<(usize, Stored, u64)>> {
        if waits && partitions.iter().any(|p| self.is_locked(*p)) {
            return None;
        }
        self.remember(history);
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
                    claims.get(&partition) == Some(&row.held_by()) && row.next == expected.get()
                }
                (Some(_), None) => false,
            }
        };
        if !moves.iter().all(fits) {
            return Some(Ok(false));
        }
        self.remember(history);
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

    pub(super) fn release(&mut self, claims: &Claims, partition: usize) {
        if let Some(row) = &mut self.rows[partition]
            && claims.get(&partition) == Some(&row.held_by())
        {
            row.owner = 0;
        }
    }

    fn is_locked(&self, partition: usize) -> bool {
        self.rows[partition].is_some_and(|row| row.locked.is_some())
    }
}
