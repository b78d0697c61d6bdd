//! What functions that emit by themselves are given.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::Emit;
use crate::record::{Coordinates, RawRecord};

/// Given to the function of [`process`](crate::Pipeline::process): takes results, tells about the
/// call.
pub struct Context<'a, O> {
    record: &'a RawRecord,
    attempt: u32,
    out: &'a mut dyn Emit<O>,
}

impl<'a, O> Context<'a, O> {
    pub(super) fn new(record: &'a RawRecord, attempt: u32, out: &'a mut dyn Emit<O>) -> Self {
        Self { record, attempt, out }
    }

    /// Adds a result behind the others. Results count only if the function returns `Ok`; over the
    /// limits of one record they are dropped and the record fails, whatever the function returns.
    pub fn emit(&mut self, result: O) {
        // Over the limits the collector remembers; the function may go on in vain.
        let _ = self.out.emit(result);
    }

    /// Which call this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Where the record was read.
    pub fn coordinates(&self) -> Coordinates {
        self.record.coordinates()
    }
}

impl<O> fmt::Debug for Context<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("record", self.record)
            .field("attempt", &self.attempt)
            .finish()
    }
}

/// Given to the function of [`process_async`](crate::Pipeline::process_async): takes results, tells
/// about the call. Clones emit for the same record.
pub struct Emitter<O> {
    record: Arc<RawRecord>,
    attempt: u32,
    out: Arc<Mutex<dyn Emit<O> + Send>>,
}

impl<O> Emitter<O> {
    pub(super) fn new(
        record: Arc<RawRecord>,
        attempt: u32,
        out: Arc<Mutex<dyn Emit<O> + Send>>,
    ) -> Self {
        Self { record, attempt, out }
    }

    /// Adds a result behind the others, as [`Context::emit`] does. What is emitted after the
    /// function's future has ended is dropped.
    pub fn emit(&self, result: O) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = out.emit(result);
    }

    /// Which call this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Where the record was read.
    pub fn coordinates(&self) -> Coordinates {
        self.record.coordinates()
    }
}

impl<O> Clone for Emitter<O> {
    fn clone(&self) -> Self {
        Self { record: Arc::clone(&self.record), attempt: self.attempt, out: Arc::clone(&self.out) }
    }
}

impl<O> fmt::Debug for Emitter<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter")
            .field("record", &self.record)
            .field("attempt", &self.attempt)
            .finish()
    }
}
