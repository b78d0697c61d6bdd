//! Any [`Source`] behind one face, so that a job can be named without naming its source.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::source::{
    Credit, EventSender, GroupOffsets, Resolved, Source, SourceContext, SourceDescription,
    SourceError, Start, Wanted,
};

/// [`Source`] without its anonymous futures; every source is one.
#[async_trait]
pub(crate) trait ErasedSource: Send {
    fn describe(&self) -> SourceDescription;
    async fn open(
        &mut self,
        context: &SourceContext,
        events: EventSender,
    ) -> Result<(), SourceError>;
    fn credit(&mut self, grants: Vec<Credit>);
    fn resolve(
        &mut self,
        wanted: Vec<Wanted>,
    ) -> BoxFuture<'static, Result<Vec<Resolved>, SourceError>>;
    fn reposition(&mut self, starts: Vec<Start>);
    fn group_offsets(&self) -> Arc<dyn GroupOffsets>;
    fn close(&mut self) -> BoxFuture<'static, ()>;
}

#[async_trait]
impl<S: Source> ErasedSource for S {
    fn describe(&self) -> SourceDescription {
        Source::describe(self)
    }

    async fn open(
        &mut self,
        context: &SourceContext,
        events: EventSender,
    ) -> Result<(), SourceError> {
        Source::open(self, context, events).await
    }

    fn credit(&mut self, grants: Vec<Credit>) {
        Source::credit(self, grants);
    }

    fn resolve(
        &mut self,
        wanted: Vec<Wanted>,
    ) -> BoxFuture<'static, Result<Vec<Resolved>, SourceError>> {
        Source::resolve(self, wanted)
    }

    fn reposition(&mut self, starts: Vec<Start>) {
        Source::reposition(self, starts);
    }

    fn group_offsets(&self) -> Arc<dyn GroupOffsets> {
        Source::group_offsets(self)
    }

    fn close(&mut self) -> BoxFuture<'static, ()> {
        Source::close(self)
    }
}
