//! The offsets the group keeps at the broker.

use std::time::Duration;

use async_trait::async_trait;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use tidegate::Cause;
use tidegate::batch::Span;
use tidegate::record::{Offset, PartitionId};
use tidegate::source::{GroupOffsets, Position, SourceError};
use tokio::sync::oneshot;

use crate::commits::Reached;
use crate::context::Consumer;
use crate::current::Current;
use crate::error;
use crate::helper::Helper;
use crate::resolve;
use crate::thread::{Command, Remote};

/// How long one read of the stored offsets may take. A pending transaction of a former owner can
/// hold it up much longer: the caller asks again.
const COMMITTED_MAX: Duration = Duration::from_secs(5);
/// How long the answer to a commit is waited for.
const COMMIT_MAX: Duration = Duration::from_secs(30);

/// The group's offsets, through the source's own consumer.
pub(crate) struct ConsumerOffsets {
    consumer: Current,
    helper: Helper,
    remote: Remote,
}

impl ConsumerOffsets {
    pub(crate) fn new(consumer: Current, helper: Helper, remote: Remote) -> Self {
        Self { consumer, helper, remote }
    }
}

#[async_trait]
impl GroupOffsets for ConsumerOffsets {
    async fn committed(
        &self,
        partitions: &[PartitionId],
    ) -> Result<Vec<Option<Offset>>, SourceError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let (consumer, asked) = (self.consumer.get(), partitions.to_vec());
        self.helper
            .ask(move || stable(&consumer, &asked))
            .await
            .unwrap_or_else(|| Err(resolve::not_open()))
    }

    async fn commit(&self, positions: &[Position]) -> Result<(), SourceError> {
        self.store(Reached::Positions(positions.to_vec())).await
    }

    async fn commit_reached(&self, spans: &[Span]) -> Result<(), SourceError> {
        self.store(Reached::Spans(spans.to_vec())).await
    }

    fn mirror(&self, positions: Vec<Position>) {
        self.remote.send(Command::Mirror(positions));
    }
}

impl ConsumerOffsets {
    async fn store(&self, reached: Reached) -> Result<(), SourceError> {
        let (reply, answer) = oneshot::channel();
        self.remote.send(Command::Commit(reached, reply));
        match tokio::time::timeout(COMMIT_MAX, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(resolve::not_open()),
            Err(_) => Err(SourceError::Retry(Cause::new(format_args!(
                "the broker did not answer a group commit within {COMMIT_MAX:?}"
            )))),
        }
    }
}

/// Stable offsets in the order asked: the consumer is read-committed, so the broker does not
/// answer while a transaction holds one of them.
fn stable(
    consumer: &Consumer,
    partitions: &[PartitionId],
) -> Result<Vec<Option<Offset>>, SourceError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for id in partitions {
        list.add_partition(id.topic().as_str(), id.index());
    }
    let list = consumer
        .committed_offsets(list, COMMITTED_MAX)
        .map_err(|error| error::question("stored offsets", error::code_of(&error)))?;
    partitions
        .iter()
        .map(|id| {
            let element = list
                .find_partition(id.topic().as_str(), id.index())
                .ok_or_else(|| SourceError::Retry(Cause::new("an offset is missing")))?;
            element
                .error()
                .map_err(|error| error::question("stored offsets", error::code_of(&error)))?;
            // Only numbers are stored offsets; "invalid" stands for none.
            Ok(match element.offset() {
                rdkafka::Offset::Offset(offset) => Offset::try_new(offset),
                _ => None,
            })
        })
        .collect()
}

/// The group's offsets before the source is open.
pub(crate) struct NotOpen;

#[async_trait]
impl GroupOffsets for NotOpen {
    async fn committed(&self, _: &[PartitionId]) -> Result<Vec<Option<Offset>>, SourceError> {
        Err(resolve::not_open())
    }

    async fn commit(&self, _: &[Position]) -> Result<(), SourceError> {
        Err(resolve::not_open())
    }

    async fn commit_reached(&self, _: &[Span]) -> Result<(), SourceError> {
        Err(resolve::not_open())
    }

    fn mirror(&self, _: Vec<Position>) {}
}
