//! The end of the steps: the results of one record, within its limits.

use std::fmt;
use std::ops::ControlFlow;

use super::Emit;
use crate::batch::{DeadReason, Outputs};
use crate::process::{Attempt, Failure};

/// How much one record may emit.
pub struct Bounds<O> {
    /// The most results.
    pub outputs_per_record: usize,
    /// The most bytes of all results together.
    pub output_bytes_per_record: usize,
    /// Measures one result in bytes.
    pub measure: fn(&O) -> usize,
}

impl<O> fmt::Debug for Bounds<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (outputs, bytes) = (self.outputs_per_record, self.output_bytes_per_record);
        write!(f, "{outputs} outputs, {bytes} bytes")
    }
}

impl<O> Clone for Bounds<O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O> Copy for Bounds<O> {}

/// Collects the results of one call.
pub(super) struct Collector<O> {
    bounds: Bounds<O>,
    outputs: Outputs<O>,
    count: usize,
    bytes: usize,
    withheld: bool,
    over: bool,
}

impl<O> Collector<O> {
    pub(super) fn new(bounds: Bounds<O>) -> Self {
        Self { bounds, outputs: Outputs::None, count: 0, bytes: 0, withheld: false, over: false }
    }

    /// What the call said. A record over its limits failed whatever the function answered.
    pub(super) fn finish(self, said: Result<(), Failure>) -> Attempt<O> {
        if self.over {
            return Attempt::Failed(self.too_large());
        }
        match said {
            Err(failure) => Attempt::Failed(failure),
            Ok(()) if self.withheld && self.outputs.is_empty() => Attempt::Done(None),
            Ok(()) => Attempt::Done(Some(self.outputs)),
        }
    }

    fn too_large(&self) -> Failure {
        let error = format!(
            "one record emitted at least {} results of {} bytes; outputs_per_record allows {} \
             and output_bytes_per_record {} bytes",
            self.count,
            self.bytes,
            self.bounds.outputs_per_record,
            self.bounds.output_bytes_per_record,
        );
        Failure { reason: DeadReason::TooLarge, error, retriable: false }
    }
}

impl<O> Emit<O> for Collector<O> {
    fn emit(&mut self, item: O) -> ControlFlow<()> {
        if self.over {
            return ControlFlow::Break(());
        }
        self.count += 1;
        self.bytes = self.bytes.saturating_add((self.bounds.measure)(&item));
        if self.count > self.bounds.outputs_per_record
            || self.bytes > self.bounds.output_bytes_per_record
        {
            self.over = true;
            self.outputs = Outputs::None;
            return ControlFlow::Break(());
        }
        self.outputs.push(item);
        ControlFlow::Continue(())
    }

    fn withhold(&mut self) {
        self.withheld = true;
    }
}
