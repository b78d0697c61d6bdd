//! A store with everything that a real one has and the memory store lacks: transactions that can be
//! open, a wire that can break.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::record::{Coordinates, Offset, PartitionId};
use crate::testing::conformance::Severed;

/// What all sinks of a harness share.
#[derive(Clone, Default)]
pub(super) struct Store(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    pub(super) outputs: Vec<u64>,
    pub(super) dead: Vec<Coordinates>,
    pub(super) progress: BTreeMap<PartitionId, Progress>,
    /// Transactions that somebody left open: their results, and the progress behind them.
    pub(super) open: Vec<(PartitionId, Offset, u64)>,
    /// The break that the next commit meets.
    pub(super) sever: Option<Severed>,
    pub(super) owners: u64,
}

#[derive(Clone, Copy)]
pub(super) struct Progress {
    pub(super) next: Offset,
    pub(super) claim: u64,
    pub(super) owner: u64,
}

impl Store {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A promise that is broken panics, and others are looked at after it.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
