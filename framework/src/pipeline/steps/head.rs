//! Heads that run on a thread of the pool: from a record to results.

use std::borrow::Borrow;
use std::marker::PhantomData;
use std::sync::Arc;

use super::collect::Collector;
use super::tail::{Piped, Tail};
use super::{Bounds, Context, Emit, Read, Step};
use crate::batch::DeadReason;
use crate::error::BoxError;
use crate::process::{Failure, Process, error_text};
use crate::record::{RawRecord, Record};

/// The step that turns a record into results.
pub trait Head: Send + Sync + 'static {
    /// What it emits.
    type Item: Send + 'static;

    /// Forgets the types of head and tail.
    fn erase<T: Tail<Self::Item>>(self, tail: T, bounds: Bounds<T::Output>) -> Process<T::Output>;
}

/// A head that does not wait.
pub trait Call: Send + Sync + 'static {
    /// What it emits.
    type Item: Send + 'static;

    /// Calls the user's function once.
    fn call(
        &self,
        raw: &Arc<RawRecord>,
        attempt: u32,
        out: &mut impl Emit<Self::Item>,
    ) -> Result<(), Failure>;
}

/// A head made of a function that does not wait.
#[derive(Debug)]
pub struct Now<C>(pub(in crate::pipeline) C);

impl<C: Call> Head for Now<C> {
    type Item = C::Item;

    fn erase<T: Tail<C::Item>>(self, tail: T, bounds: Bounds<T::Output>) -> Process<T::Output> {
        Process::Sync(Arc::new(move |raw, attempt| {
            let mut results = Collector::new(bounds);
            let said = self.0.call(raw, attempt, &mut Piped::new(&tail, &mut results));
            results.finish(said)
        }))
    }
}

/// Kind of step: one result for each record.
#[derive(Debug)]
pub struct Map;

impl<R, F, O> Call for Step<Map, R, F>
where
    R: Read,
    F: Fn(&Record<R::Value>) -> O + Send + Sync + 'static,
    O: Send + 'static,
{
    type Item = O;

    fn call(&self, raw: &Arc<RawRecord>, _: u32, out: &mut impl Emit<O>) -> Result<(), Failure> {
        match self.before.read(raw)? {
            // The limits are looked at when the call is over.
            Some(held) => {
                let _ = out.emit((self.function)(held.borrow()));
            }
            None => out.withhold(),
        }
        Ok(())
    }
}

/// Kind of step: one result for each record, or an error.
#[derive(Debug)]
pub struct TryMap;

impl<R, F, O, E> Call for Step<TryMap, R, F>
where
    R: Read,
    F: Fn(&Record<R::Value>) -> Result<O, E> + Send + Sync + 'static,
    O: Send + 'static,
    E: Into<BoxError>,
{
    type Item = O;

    fn call(&self, raw: &Arc<RawRecord>, _: u32, out: &mut impl Emit<O>) -> Result<(), Failure> {
        match self.before.read(raw)? {
            Some(held) => {
                let _ = out.emit((self.function)(held.borrow()).map_err(failed)?);
            }
            None => out.withhold(),
        }
        Ok(())
    }
}

/// Kind of step: any number of results for each record, taken lazily up to the limits.
#[derive(Debug)]
pub struct FlatMap;

impl<R, F, I> Call for Step<FlatMap, R, F>
where
    R: Read,
    F: Fn(&Record<R::Value>) -> I + Send + Sync + 'static,
    I: IntoIterator,
    I::Item: Send + 'static,
{
    type Item = I::Item;

    fn call(
        &self,
        raw: &Arc<RawRecord>,
        _: u32,
        out: &mut impl Emit<I::Item>,
    ) -> Result<(), Failure> {
        match self.before.read(raw)? {
            Some(held) => {
                let mut items = (self.function)(held.borrow()).into_iter();
                let _ = items.try_for_each(|item| out.emit(item));
            }
            None => out.withhold(),
        }
        Ok(())
    }
}

/// Kind of step: the function emits by itself.
#[derive(Debug)]
pub struct Each<O>(PhantomData<fn() -> O>);

impl<R, F, O, E> Call for Step<Each<O>, R, F>
where
    R: Read,
    F: Fn(&Record<R::Value>, &mut Context<'_, O>) -> Result<(), E> + Send + Sync + 'static,
    O: Send + 'static,
    E: Into<BoxError>,
{
    type Item = O;

    fn call(
        &self,
        raw: &Arc<RawRecord>,
        attempt: u32,
        out: &mut impl Emit<O>,
    ) -> Result<(), Failure> {
        match self.before.read(raw)? {
            Some(held) => {
                let mut context = Context::new(raw, attempt, out);
                (self.function)(held.borrow(), &mut context).map_err(failed)
            }
            None => {
                out.withhold();
                Ok(())
            }
        }
    }
}

/// The user's own error: the next call may end otherwise.
pub(super) fn failed(error: impl Into<BoxError>) -> Failure {
    Failure { reason: DeadReason::Process, error: error_text(&*error.into()), retriable: true }
}
