//! The stage in which the stream consists of results, and the three ends.

use super::names::into_type;
use super::steps::Bounds;
use super::{FilterResults, FlatMapResults, Head, Job, MapResults, Pipeline, Results, Step, Tail};
use crate::delivery::{AtLeastOnce, AtMostOnce, Delivery, ExactlyOnce, GroupCommits};
use crate::sink::{Sink, TransactionalSink};

impl<H: Head, T: Tail<H::Item>> Pipeline<Results<H, T>> {
    /// Another result for each.
    pub fn map<P, F>(self, function: F) -> Pipeline<Results<H, Step<MapResults, T, F>>>
    where
        F: Fn(T::Output) -> P + Send + Sync + 'static,
        P: Send + 'static,
    {
        self.step("map", into_type::<P>(), |stage| stage.passed_by(function))
    }

    /// Keeps the results of which `keep` says so.
    pub fn filter<F>(self, keep: F) -> Pipeline<Results<H, Step<FilterResults, T, F>>>
    where
        F: Fn(&T::Output) -> bool + Send + Sync + 'static,
    {
        self.step("filter", "", |stage| stage.passed_by(keep))
    }

    /// Any number of results for each, taken lazily up to the limits of one record.
    pub fn flat_map<I, F>(self, function: F) -> Pipeline<Results<H, Step<FlatMapResults, T, F>>>
    where
        F: Fn(T::Output) -> I + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Send + 'static,
    {
        self.step("flat map", into_type::<I::Item>(), |stage| stage.passed_by(function))
    }

    /// Every record's results exactly once: the sink stores results and progress in one step.
    /// What is exact is what the sink shows; the functions above may run more than once.
    ///
    /// A sink that cannot keep the promise does not compile:
    ///
    /// ```compile_fail
    /// # use tidegate::{prelude::*, sink::Sink, source::Source};
    /// fn job(source: impl Source, sink: impl Sink<Output = usize>) -> Job<usize> {
    ///     Pipeline::new("lengths").from(source).map(|_| 1).exactly_once(sink)
    /// }
    /// ```
    pub fn exactly_once<S>(self, sink: S) -> Job<T::Output>
    where
        S: TransactionalSink<Output = T::Output>,
    {
        self.ending_in(ExactlyOnce::new(sink), None)
    }

    /// Every record's results at least once: they are written, then the group's offsets are
    /// committed, waiting for each answer. After a crash some results are written again.
    ///
    /// ```
    /// # use tidegate::{prelude::*, sink::Sink, source::Source};
    /// fn job(source: impl Source, sink: impl Sink<Output = usize>) -> Job<usize> {
    ///     Pipeline::new("lengths").from(source).map(|_| 1).at_least_once(sink)
    /// }
    /// ```
    pub fn at_least_once<S>(self, sink: S) -> Job<T::Output>
    where
        S: Sink<Output = T::Output>,
    {
        self.at_least_once_with(sink, GroupCommits::Sync)
    }

    /// As [`at_least_once`](Self::at_least_once), with the group's offsets committed at the times
    /// that `commits` says.
    pub fn at_least_once_with<S>(self, sink: S, commits: GroupCommits) -> Job<T::Output>
    where
        S: Sink<Output = T::Output>,
    {
        let delivery = AtLeastOnce::new(sink, commits.clone());
        self.ending_in(delivery, Some(commits))
    }

    /// Every record's results at most once: the group's offsets are committed before records run.
    /// After a crash some results are missing.
    pub fn at_most_once<S>(self, sink: S) -> Job<T::Output>
    where
        S: Sink<Output = T::Output>,
    {
        self.ending_in(AtMostOnce::new(sink), None)
    }

    fn ending_in(
        self,
        delivery: impl Delivery<T::Output> + 'static,
        group_commits: Option<GroupCommits>,
    ) -> Job<T::Output> {
        let bounds = Bounds {
            outputs_per_record: self.plan.settings.outputs_per_record,
            output_bytes_per_record: self.plan.settings.output_bytes_per_record,
            measure: delivery.measure(),
        };
        let Results { source, head, tail } = self.stage;
        Job {
            name: self.plan.name,
            instance: self.plan.instance,
            source,
            delivery: Box::new(delivery),
            process: head.erase(tail, bounds),
            order: self.plan.order,
            policy: self.plan.policy,
            settings: self.plan.settings,
            observer: self.plan.observer,
            steps: self.plan.steps,
            group_commits,
        }
    }
}

impl<H, T> Results<H, T> {
    fn passed_by<K, F>(self, function: F) -> Results<H, Step<K, T, F>> {
        Results { source: self.source, head: self.head, tail: Step::new(self.tail, function) }
    }
}
