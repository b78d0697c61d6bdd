//! Heads that run as tasks: from a record to results, waiting for something outside.

use std::future::Future;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;

use super::collect::Collector;
use super::head::{Head, failed};
use super::tail::{Piped, Tail};
use super::{Bounds, Emit, Emitter, Read, Step};
use crate::error::BoxError;
use crate::process::{Attempt, Failure, Process};
use crate::record::Record;

/// Kind of step: a future of one result for each record.
#[derive(Debug)]
pub struct MapAsync;

impl<R, F, W, O, E> Head for Step<MapAsync, R, F>
where
    R: Read,
    R::Value: Send + Sync,
    F: Fn(Arc<Record<R::Value>>) -> W + Send + Sync + 'static,
    W: Future<Output = Result<O, E>> + Send + 'static,
    O: Send + 'static,
    E: Into<BoxError>,
{
    type Item = O;

    fn erase<T: Tail<O>>(self, tail: T, bounds: Bounds<T::Output>) -> Process<T::Output> {
        let steps = Arc::new((self, tail));
        Process::Async(Arc::new(move |raw, _| {
            let steps = Arc::clone(&steps);
            async move {
                let (head, tail) = &*steps;
                let mut results = Collector::new(bounds);
                let record = match head.before.read(&raw) {
                    Ok(Some(held)) => held.into(),
                    other => return unread(results, other.map(drop)),
                };
                let said = match (head.function)(record).await {
                    Ok(item) => {
                        let _ = tail.pass(item, &mut results);
                        Ok(())
                    }
                    Err(error) => Err(failed(error)),
                };
                results.finish(said)
            }
            .boxed()
        }))
    }
}

/// Kind of step: a future that emits by itself.
#[derive(Debug)]
pub struct EachAsync<O>(PhantomData<fn() -> O>);

impl<R, F, W, O, E> Head for Step<EachAsync<O>, R, F>
where
    R: Read,
    R::Value: Send + Sync,
    F: Fn(Arc<Record<R::Value>>, Emitter<O>) -> W + Send + Sync + 'static,
    W: Future<Output = Result<(), E>> + Send + 'static,
    O: Send + 'static,
    E: Into<BoxError>,
{
    type Item = O;

    fn erase<T: Tail<O>>(self, tail: T, bounds: Bounds<T::Output>) -> Process<T::Output> {
        let (head, tail) = (Arc::new(self), Arc::new(tail));
        Process::Async(Arc::new(move |raw, attempt| {
            let (head, tail) = (Arc::clone(&head), Arc::clone(&tail));
            async move {
                let results = Collector::new(bounds);
                let record = match head.before.read(&raw) {
                    Ok(Some(held)) => held.into(),
                    other => return unread(results, other.map(drop)),
                };
                let shared = Arc::new(Mutex::new(Shared { tail, results: Some(results) }));
                let emitter = Emitter::new(raw, attempt, Arc::clone(&shared) as _);
                let said = (head.function)(record, emitter).await.map_err(failed);
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let results = shared.results.take();
                results.expect("taken here and nowhere else").finish(said)
            }
            .boxed()
        }))
    }
}

/// The end of a call whose record was filtered or could not be read.
fn unread<O>(mut results: Collector<O>, read: Result<(), Failure>) -> Attempt<O> {
    results.withhold();
    results.finish(read)
}

/// Where an [`Emitter`] emits to; without results once the call is over.
struct Shared<T, O> {
    tail: Arc<T>,
    results: Option<Collector<O>>,
}

impl<I, T: Tail<I>> Emit<I> for Shared<T, T::Output> {
    fn emit(&mut self, item: I) -> ControlFlow<()> {
        match &mut self.results {
            Some(results) => Piped::new(&*self.tail, results).emit(item),
            None => ControlFlow::Break(()),
        }
    }

    fn withhold(&mut self) {
        if let Some(results) = &mut self.results {
            results.withhold();
        }
    }
}
