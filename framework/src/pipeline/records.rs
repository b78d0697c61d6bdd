//! The stage in which the stream consists of records.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use super::names::into_type;
use super::{
    Awaited, Called, Context, Decoded, Each, EachAsync, Emitter, FilterRecords, FlatMap, Map,
    MapAsync, Now, Pipeline, Read, Records, Results, Step, TryMap, Whole,
};
use crate::decode::Decode;
use crate::error::BoxError;
use crate::record::Record;

impl<R: Read<Value = Option<Bytes>>> Pipeline<Records<R>> {
    /// Decodes each record's value. Runs on the pool, in the call of the user's function; bytes
    /// that cannot be decoded go the way of the failure policy without a retry.
    pub fn decode<V, D>(self, decoder: D) -> Pipeline<Records<Step<Decoded<V>, R, D>>>
    where
        D: Decode<V>,
        V: 'static,
    {
        let detail = format!("{} {}", decoder.describe(), into_type::<V>());
        self.step("decode", detail, |stage| stage.read_by(decoder))
    }
}

impl<R: Read> Pipeline<Records<R>> {
    /// Keeps the records of which `keep` says so. The others count as done without result.
    pub fn filter<F>(self, keep: F) -> Pipeline<Records<Step<FilterRecords, R, F>>>
    where
        F: Fn(&Record<R::Value>) -> bool + Send + Sync + 'static,
    {
        self.step("filter", "", |stage| stage.read_by(keep))
    }

    /// One result for each record, by a function that neither waits nor fails.
    pub fn map<O, F>(self, function: F) -> Called<Map, R, F>
    where
        F: Fn(&Record<R::Value>) -> O + Send + Sync + 'static,
        O: Send + 'static,
    {
        self.step("map", into_type::<O>(), |stage| stage.called_by(function))
    }

    /// One result for each record, or an error, which goes the way of the failure policy.
    pub fn try_map<O, E, F>(self, function: F) -> Called<TryMap, R, F>
    where
        F: Fn(&Record<R::Value>) -> Result<O, E> + Send + Sync + 'static,
        O: Send + 'static,
        E: Into<BoxError>,
    {
        self.step("try map", into_type::<O>(), |stage| stage.called_by(function))
    }

    /// Any number of results for each record. They are taken lazily: over the limits of one record
    /// the iterator is dropped and the record fails. What it yields must own its data; a function
    /// that borrows from the record can emit through [`process`](Self::process).
    pub fn flat_map<I, F>(self, function: F) -> Called<FlatMap, R, F>
    where
        F: Fn(&Record<R::Value>) -> I + Send + Sync + 'static,
        I: IntoIterator,
        I::Item: Send + 'static,
    {
        self.step("flat map", into_type::<I::Item>(), |stage| stage.called_by(function))
    }

    /// Any number of results for each record, emitted by the function itself through its
    /// [`Context`]. An error goes the way of the failure policy, and nothing of what was emitted
    /// before it is stored.
    pub fn process<O, E, F>(self, function: F) -> Called<Each<O>, R, F>
    where
        F: Fn(&Record<R::Value>, &mut Context<'_, O>) -> Result<(), E> + Send + Sync + 'static,
        O: Send + 'static,
        E: Into<BoxError>,
    {
        self.step("process", into_type::<O>(), |stage| stage.called_by(function))
    }

    /// As [`try_map`](Self::try_map), for a function that waits for something outside: up to
    /// [`concurrency`](Self::concurrency) records wait at the same time.
    ///
    /// The future must not block its thread. It may be dropped before its end: when partitions are
    /// taken away, at a stop.
    pub fn map_async<O, E, W, F>(self, function: F) -> Awaited<MapAsync, R, F>
    where
        R::Value: Send + Sync,
        F: Fn(Arc<Record<R::Value>>) -> W + Send + Sync + 'static,
        W: Future<Output = Result<O, E>> + Send + 'static,
        O: Send + 'static,
        E: Into<BoxError>,
    {
        self.step("map async", into_type::<O>(), |stage| stage.awaited_by(function))
    }

    /// As [`process`](Self::process), for a function that waits; see [`map_async`](Self::map_async).
    pub fn process_async<O, E, W, F>(self, function: F) -> Awaited<EachAsync<O>, R, F>
    where
        R::Value: Send + Sync,
        F: Fn(Arc<Record<R::Value>>, Emitter<O>) -> W + Send + Sync + 'static,
        W: Future<Output = Result<(), E>> + Send + 'static,
        O: Send + 'static,
        E: Into<BoxError>,
    {
        self.step("process async", into_type::<O>(), |stage| stage.awaited_by(function))
    }
}

impl<R> Records<R> {
    fn read_by<K, F>(self, function: F) -> Records<Step<K, R, F>> {
        Records { source: self.source, read: Step::new(self.read, function) }
    }

    fn called_by<K, F>(self, function: F) -> Results<Now<Step<K, R, F>>, Whole> {
        Results { source: self.source, head: Now(Step::new(self.read, function)), tail: Whole }
    }

    fn awaited_by<K, F>(self, function: F) -> Results<Step<K, R, F>, Whole> {
        Results { source: self.source, head: Step::new(self.read, function), tail: Whole }
    }
}
