//! Commits of the group's offsets: with an answer, or as a mirror of what is stored elsewhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tidegate::Cause;
use tidegate::batch::Span;
use tidegate::record::{Offset, PartitionId};
use tidegate::source::{Position, SourceError};
use tokio::sync::oneshot;

use crate::context::Consumer;
use crate::error;
use crate::ffi::{CommitQueue, GroupMetadata};
use crate::mirror::Mirror;
use crate::partition::Partition;
use crate::wake::Waker;

/// What is to be committed.
#[derive(Debug)]
pub(crate) enum Reached {
    /// Positions that were chosen: of partitions that are ours, or being assigned.
    Positions(Vec<Position>),
    /// The ends of what was processed: of partitions that are ours under the span's epoch. One that
    /// was lost and came again may stand further on meanwhile.
    Spans(Vec<Span>),
}

impl Reached {
    fn check(
        &self,
        member: &str,
        partitions: &HashMap<PartitionId, Partition>,
        incoming: &[PartitionId],
    ) -> Result<(), SourceError> {
        let fenced = |id: &PartitionId| {
            Err(SourceError::Fenced(Cause::new(format_args!("{id} is not assigned"))))
        };
        let ours = |id: &PartitionId| partitions.contains_key(id) || incoming.contains(id);
        // The group knows this member, and not the one that the partition was given to.
        let is_former = |id: &&PartitionId| partitions.get(id).is_some_and(|it| !it.is_of(member));
        if let Some(id) = self.partitions().find(is_former) {
            return Err(SourceError::Retry(Cause::new(format_args!(
                "{id} was given to a former member"
            ))));
        }
        match self {
            Self::Positions(positions) => {
                let gone = positions.iter().find(|position| !ours(&position.partition));
                gone.map_or(Ok(()), |position| fenced(&position.partition))
            }
            Self::Spans(spans) => {
                if let Some(span) = spans.iter().find(|span| !ours(&span.partition)) {
                    return fenced(&span.partition);
                }
                let is_current = |span: &&Span| {
                    let partition = partitions.get(&span.partition);
                    partition.and_then(Partition::epoch) == Some(span.epoch)
                };
                let stale = spans.iter().find(|span| !is_current(span));
                stale.map_or(Ok(()), |span| {
                    let id = &span.partition;
                    Err(SourceError::Retry(Cause::new(format_args!(
                        "{id} was repositioned meanwhile"
                    ))))
                })
            }
        }
    }

    fn partitions(&self) -> impl Iterator<Item = &PartitionId> {
        let (positions, spans): (&[Position], &[Span]) = match self {
            Self::Positions(positions) => (positions, &[]),
            Self::Spans(spans) => (&[], spans),
        };
        let spans = spans.iter().map(|span| &span.partition);
        positions.iter().map(|position| &position.partition).chain(spans)
    }

    fn list(&self) -> TopicPartitionList {
        match self {
            Self::Positions(positions) => list(positions.iter().map(|p| (&p.partition, p.next))),
            Self::Spans(spans) => list(spans.iter().map(|span| (&span.partition, span.next))),
        }
    }
}

/// All commits under way.
pub(crate) struct Commits {
    queue: CommitQueue,
    waiting: HashMap<usize, oneshot::Sender<Result<(), SourceError>>>,
    last_id: usize,
    mirror: Mirror,
}

impl Commits {
    pub(crate) fn new(consumer: &Arc<Consumer>, waker: &Arc<Waker>) -> Self {
        Self {
            queue: CommitQueue::new(consumer, waker),
            waiting: HashMap::new(),
            last_id: 0,
            mirror: Mirror::default(),
        }
    }

    /// Sends a commit off, if all its partitions are ours: the broker would accept it of any
    /// member and overwrite what the partition's owner stored. Partitions that are just being
    /// assigned are ours too: their first start is stored before the assignment is answered.
    pub(crate) fn commit(
        &mut self,
        consumer: &Consumer,
        partitions: &HashMap<PartitionId, Partition>,
        incoming: &[PartitionId],
        reached: &Reached,
        reply: oneshot::Sender<Result<(), SourceError>>,
    ) {
        if let Err(refused) =
            reached.check(&GroupMetadata::member_now(consumer), partitions, incoming)
        {
            let _ = reply.send(Err(refused));
            return;
        }
        let list = reached.list();
        if list.count() == 0 {
            let _ = reply.send(Ok(()));
            return;
        }
        self.last_id += 1;
        match self.queue.commit(self.last_id, &list) {
            Ok(()) => {
                self.waiting.insert(self.last_id, reply);
            }
            Err(code) => {
                let _ = reply.send(Err(error::group_commit(code)));
            }
        }
    }

    /// Remembers positions to be sent some time.
    pub(crate) fn mirror(&mut self, positions: Vec<Position>) {
        self.mirror.note(positions);
    }

    /// Hands out answers that arrived, and sends what is to be mirrored if it is time.
    pub(crate) fn serve(
        &mut self,
        consumer: &Consumer,
        partitions: &HashMap<PartitionId, Partition>,
        has_broker: bool,
    ) {
        if !self.waiting.is_empty() {
            while let Some(answer) = self.queue.poll() {
                if let Some(reply) = self.waiting.remove(&answer.id) {
                    let _ = reply.send(answer.result.map_err(error::group_commit));
                }
            }
        }
        let mirror = self.mirror.take_due(has_broker, Instant::now());
        if mirror.is_empty() {
            return;
        }
        let member = GroupMetadata::member_now(consumer);
        let is_ours = |id| partitions.get(id).is_some_and(|partition| partition.is_of(&member));
        let ours = mirror.iter().filter(|(id, _)| is_ours(id));
        let list = list(ours.map(|(id, next)| (id, *next)));
        if list.count() > 0
            && let Err(error) = consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(%error, "offsets could not be mirrored");
        }
    }
}

/// Positions in librdkafka's form.
pub(crate) fn list<'a>(
    positions: impl Iterator<Item = (&'a PartitionId, Offset)>,
) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (id, next) in positions {
        list.add_partition_offset(id.topic().as_str(), id.index(), KafkaOffset::Offset(next.get()))
            .expect("an offset that is not negative can be represented");
    }
    list
}
