//! The typed builder: from a source, through steps, to a sink with a guarantee.
//!
//! A pipeline goes through three stages: [`Start`], [`Records`] once it has a source, and
//! [`Results`] once a function turns records into something else. Naming the guarantee ends it as
//! a [`Job`], whose type says only what it emits. Settings may be given at any stage.
//!
//! ```no_run
//! # use tidegate::prelude::*;
//! # fn job(source: impl tidegate::source::Source,
//! #        sink: impl tidegate::sink::TransactionalSink<Output = usize>) -> Job<usize> {
//! Pipeline::new("lengths")
//!     .from(source)
//!     .decode(Utf8)
//!     .filter(|record| !record.value.is_empty())
//!     .map(|record| record.value.len())
//!     .order(Order::ByKey)
//!     .on_failure(Retry::times(3).then_dead_letter())
//!     .exactly_once(sink)
//! # }
//! ```

mod explain;
mod job;
mod names;
mod records;
mod results;
mod run;
mod settings;
mod steps;

use std::fmt;
use std::sync::Arc;

use crate::engine::observe::Observer;
use crate::policy::FailurePolicy;
use crate::settings::{Order, Settings};
use crate::source::Source;
use crate::source_erased::ErasedSource;

pub use explain::Explanation;
pub use job::Job;
pub use steps::{
    Call, Context, Decoded, Each, EachAsync, Emit, Emitter, FilterRecords, FilterResults, FlatMap,
    FlatMapResults, Head, Map, MapAsync, MapResults, Now, Read, Step, Tail, TryMap, Undecoded,
    Whole,
};

/// A pipeline under construction.
#[must_use = "a pipeline does nothing until it ends in a job that is run"]
pub struct Pipeline<Stage = Start> {
    stage: Stage,
    plan: Plan,
}

/// What does not depend on types.
struct Plan {
    name: String,
    instance: Option<String>,
    order: Order,
    policy: FailurePolicy,
    settings: Settings,
    observer: Option<Arc<dyn Observer>>,
    steps: Vec<StepLine>,
}

/// A step as `explain()` shows it.
#[derive(Clone, Debug)]
struct StepLine {
    verb: &'static str,
    detail: String,
}

/// The stage before there is a source.
#[derive(Debug)]
pub struct Start;

/// The stage in which the stream consists of records, read by the steps `R`.
pub struct Records<R> {
    source: Box<dyn ErasedSource>,
    read: R,
}

/// The stage in which the stream consists of results: of the head `H`, passed on by the tail `T`.
pub struct Results<H, T> {
    source: Box<dyn ErasedSource>,
    head: H,
    tail: T,
}

/// A pipeline behind a head of kind `K` that runs on a thread.
pub type Called<K, R, F> = Pipeline<Results<Now<Step<K, R, F>>, Whole>>;

/// A pipeline behind a head of kind `K` that runs as a task.
pub type Awaited<K, R, F> = Pipeline<Results<Step<K, R, F>, Whole>>;

impl Pipeline {
    /// A pipeline of this name, which is also the consumer group and the key of stored progress:
    /// another name starts from the beginning. Up to 200 visible ASCII characters.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            stage: Start,
            plan: Plan {
                name: name.into(),
                instance: None,
                order: Order::default(),
                policy: FailurePolicy::default(),
                settings: Settings::default(),
                observer: None,
                steps: Vec::new(),
            },
        }
    }

    /// Reads from this source.
    pub fn from<S: Source>(self, source: S) -> Pipeline<Records<Undecoded>> {
        Pipeline { stage: Records { source: Box::new(source), read: Undecoded }, plan: self.plan }
    }
}

impl<S> Pipeline<S> {
    /// Goes to the next stage, noting a step for `explain()`.
    fn step<N>(
        mut self,
        verb: &'static str,
        detail: impl Into<String>,
        next: impl FnOnce(S) -> N,
    ) -> Pipeline<N> {
        self.plan.steps.push(StepLine { verb, detail: detail.into() });
        Pipeline { stage: next(self.stage), plan: self.plan }
    }
}

impl<S: fmt::Debug> fmt::Debug for Pipeline<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pipeline({:?}: {:?})", self.plan.name, self.stage)
    }
}

impl<R: fmt::Debug> fmt::Debug for Records<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {:?}", self.source.describe().kind, self.read)
    }
}

impl<H: fmt::Debug, T: fmt::Debug> fmt::Debug for Results<H, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.source.describe().kind;
        write!(f, "{kind} → {:?} → {:?}", self.head, self.tail)
    }
}

#[cfg(test)]
mod tests;
