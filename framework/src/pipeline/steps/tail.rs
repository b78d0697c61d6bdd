//! Steps behind the head: from results to results, one by one.

use std::ops::ControlFlow;

use super::{Emit, Step};

/// What happens to each result of the head.
pub trait Tail<I>: Send + Sync + 'static {
    /// What comes out for the sink.
    type Output: Send + 'static;

    /// Passes one result on; breaks when no more are wanted.
    fn pass(&self, item: I, out: &mut impl Emit<Self::Output>) -> ControlFlow<()>;
}

/// Results as they are.
#[derive(Clone, Copy, Debug)]
pub struct Whole;

impl<I: Send + 'static> Tail<I> for Whole {
    type Output = I;

    fn pass(&self, item: I, out: &mut impl Emit<I>) -> ControlFlow<()> {
        out.emit(item)
    }
}

/// Kind of step: another result for each.
#[derive(Debug)]
pub struct MapResults;

impl<I, T, F, P> Tail<I> for Step<MapResults, T, F>
where
    T: Tail<I>,
    F: Fn(T::Output) -> P + Send + Sync + 'static,
    P: Send + 'static,
{
    type Output = P;

    fn pass(&self, item: I, out: &mut impl Emit<P>) -> ControlFlow<()> {
        let function = &self.function;
        self.before.pass(item, &mut Mapping { function, out })
    }
}

/// Kind of step: only some results.
#[derive(Debug)]
pub struct FilterResults;

impl<I, T, F> Tail<I> for Step<FilterResults, T, F>
where
    T: Tail<I>,
    F: Fn(&T::Output) -> bool + Send + Sync + 'static,
{
    type Output = T::Output;

    fn pass(&self, item: I, out: &mut impl Emit<T::Output>) -> ControlFlow<()> {
        let function = &self.function;
        self.before.pass(item, &mut Filtering { function, out })
    }
}

/// Kind of step: any number of results for each, taken lazily up to the limits.
#[derive(Debug)]
pub struct FlatMapResults;

impl<I, T, F, P> Tail<I> for Step<FlatMapResults, T, F>
where
    T: Tail<I>,
    F: Fn(T::Output) -> P + Send + Sync + 'static,
    P: IntoIterator,
    P::Item: Send + 'static,
{
    type Output = P::Item;

    fn pass(&self, item: I, out: &mut impl Emit<P::Item>) -> ControlFlow<()> {
        let function = &self.function;
        self.before.pass(item, &mut Flattening { function, out })
    }
}

/// Emits into a tail.
pub(super) struct Piped<'a, T, E> {
    tail: &'a T,
    out: &'a mut E,
}

impl<'a, T, E> Piped<'a, T, E> {
    pub(super) fn new(tail: &'a T, out: &'a mut E) -> Self {
        Self { tail, out }
    }
}

impl<I, T: Tail<I>, E: Emit<T::Output>> Emit<I> for Piped<'_, T, E> {
    fn emit(&mut self, item: I) -> ControlFlow<()> {
        self.tail.pass(item, self.out)
    }

    fn withhold(&mut self) {
        self.out.withhold();
    }
}

struct Mapping<'a, F, E> {
    function: &'a F,
    out: &'a mut E,
}

impl<I, O, F: Fn(I) -> O, E: Emit<O>> Emit<I> for Mapping<'_, F, E> {
    fn emit(&mut self, item: I) -> ControlFlow<()> {
        self.out.emit((self.function)(item))
    }

    fn withhold(&mut self) {
        self.out.withhold();
    }
}

struct Filtering<'a, F, E> {
    function: &'a F,
    out: &'a mut E,
}

impl<I, F: Fn(&I) -> bool, E: Emit<I>> Emit<I> for Filtering<'_, F, E> {
    fn emit(&mut self, item: I) -> ControlFlow<()> {
        if (self.function)(&item) {
            return self.out.emit(item);
        }
        self.out.withhold();
        ControlFlow::Continue(())
    }

    fn withhold(&mut self) {
        self.out.withhold();
    }
}

struct Flattening<'a, F, E> {
    function: &'a F,
    out: &'a mut E,
}

impl<I, O, F, E> Emit<I> for Flattening<'_, F, E>
where
    F: Fn(I) -> O,
    O: IntoIterator,
    E: Emit<O::Item>,
{
    fn emit(&mut self, item: I) -> ControlFlow<()> {
        let mut items = (self.function)(item).into_iter();
        items.try_for_each(|item| self.out.emit(item))
    }

    fn withhold(&mut self) {
        self.out.withhold();
    }
}
