//! A complete pipeline: everything but its running.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::StepLine;
use super::explain::Explanation;
use super::names::{check_group, check_instance};
use crate::delivery::{Delivery, GroupCommits};
use crate::engine::observe::Observer;
use crate::error::Error;
use crate::policy::FailurePolicy;
use crate::process::Process;
use crate::settings::{Limits, Order, Settings};
use crate::source_erased::ErasedSource;

/// The longest time between two group commits; longer ones are typing errors.
const COMMIT_PACE_MAX: Duration = Duration::from_secs(60 * 60);

/// A pipeline that ends in a sink: it can be explained, checked and run. Its type says only what
/// it emits, so a function can return it.
#[must_use = "a job does nothing until it is run"]
pub struct Job<O> {
    pub(crate) name: String,
    pub(crate) instance: Option<String>,
    pub(crate) source: Box<dyn ErasedSource>,
    pub(crate) delivery: Box<dyn Delivery<O>>,
    pub(crate) process: Process<O>,
    pub(crate) order: Order,
    pub(crate) policy: FailurePolicy,
    pub(crate) settings: Settings,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(super) steps: Vec<StepLine>,
    /// When the group's offsets are committed; only at least once.
    pub(super) group_commits: Option<GroupCommits>,
}

impl<O> Job<O> {
    /// What the pipeline will do, for people: source, steps, sink, order, bounds, the guarantee
    /// and what it does not cover. Nothing is connected or checked for it.
    pub fn explain(&self) -> Explanation {
        Explanation::of(self)
    }

    /// The settings, if everything that can be checked without a connection is in order: bounds,
    /// names, a bound sink. The error names the setting at fault.
    pub(crate) fn check(&self) -> Result<Limits, Error> {
        check_group(&self.name)?;
        if let Some(instance) = &self.instance {
            check_instance(instance)?;
        }
        self.check_binding()?;
        self.check_group_commits()?;
        self.settings.check()
    }

    /// A sink that commits through its source's membership is worthless with another source: the
    /// broker would fence the wrong member.
    fn check_binding(&self) -> Result<(), Error> {
        let (source, sink) = (self.source.describe(), self.delivery.describe());
        match sink.bound_to {
            Some(bound) if bound != source.id => Err(Error::configuration(
                "exactly_once",
                format_args!(
                    "the {} sink ({}) belongs to another source than this pipeline's ({})",
                    sink.kind, sink.target, source.target
                ),
            )
            .remedy("make the sink from the very source the pipeline reads: `source.sink()`")),
            _ => Ok(()),
        }
    }

    fn check_group_commits(&self) -> Result<(), Error> {
        match self.group_commits {
            Some(GroupCommits::Every(pace)) if pace.is_zero() || pace > COMMIT_PACE_MAX => {
                Err(Error::configuration(
                    "at_least_once_with",
                    format_args!("{pace:?} is out of range: 1 ns to 1 h is allowed"),
                ))
            }
            _ => Ok(()),
        }
    }
}

impl<O> fmt::Debug for Job<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("name", &self.name)
            .field("source", &self.source.describe().kind)
            .field("sink", &self.delivery.describe().kind)
            .field("guarantee", &self.delivery.guarantee())
            .finish_non_exhaustive()
    }
}
