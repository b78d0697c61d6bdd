//! Tells librdkafka where to read: it assigns partitions that are started, seeks those that were
//! moved, and revives those whose fetcher ended. librdkafka's own idea of a position is never
//! trusted: it is one too far behind an end of partition.

use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tidegate::Error;
use tidegate::mutant;
use tidegate::record::PartitionId;

use crate::ffi::PartitionQueue;
use crate::partition::Partition;
use crate::thread::Reader;

/// How long a seek may take; it asks another thread of librdkafka, not the network.
const SEEK_TIMEOUT: Duration = Duration::from_millis(500);
/// How long to wait before a seek that failed is tried again.
const SEEK_RETRY: Duration = Duration::from_millis(20);
/// Failed seeks in a row after which a partition's fetcher is taken for dead.
const SEEK_FAILURES_MAX: u32 = 5;

impl Reader {
    /// Moves partitions whose time has come. Not while a rebalance is under way: librdkafka would
    /// take an assign or unassign for the answer it waits for.
    pub(crate) fn position_due(&mut self) {
        if self.rebalances.is_under_way() {
            return;
        }
        let now = Instant::now();
        let due = |partition: &Partition| partition.seek_due().is_some_and(|at| at <= now);
        if !self.partitions.values().any(due) {
            return;
        }
        if self.partitions.values().any(|p| due(p) && !p.is_fetched())
            && let Err(error) = self.assign_unfetched()
        {
            tracing::warn!(%error, "assign failed");
        }
        self.seek();
        self.revive();
    }

    /// Assigns what has a start and is not fetched yet, in one call.
    pub(crate) fn assign_unfetched(&mut self) -> KafkaResult<()> {
        let eager = !matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let mut list = TopicPartitionList::new();
        let mut failed = None;
        for partition in self.partitions.values_mut() {
            let wanted = partition.seek_due().is_some() && !partition.is_fetched();
            if wanted {
                let (topic, index) = (partition.id.topic().as_str(), partition.id.index());
                match PartitionQueue::detach(&self.consumer, topic, index, &self.waker) {
                    Some(queue) => partition.fetch_from(queue),
                    None => failed = Some(partition.id.clone()),
                }
            }
            // An eager assign replaces the whole assignment: all go on at our positions.
            if partition.is_fetched() && (wanted || eager) {
                add(&mut list, partition);
                if mutant::is("M29") {
                    let (topic, index) = (partition.id.topic().as_str(), partition.id.index());
                    let _ = list.set_partition_offset(topic, index, KafkaOffset::Stored);
                    partition.demand_seek(Instant::now());
                }
            }
        }
        if let Some(id) = failed {
            self.fail(Error::source_failed(format_args!("{id} has no queue")));
        }
        if eager { self.consumer.assign(&list) } else { self.consumer.incremental_assign(&list) }
    }

    /// For a rebalance librdkafka pauses every partition, and resumes those that stay where it
    /// believes we are: behind an end of partition that is one too far, which loses a record or
    /// reads outside the log. While they are still paused it is told where we really are.
    pub(crate) fn hold_positions(&mut self) {
        let now = Instant::now();
        for partition in self.partitions.values_mut() {
            partition.demand_seek(now);
        }
        self.seek();
    }

    /// Tells librdkafka our positions where it must not go on from its own.
    fn seek(&mut self) {
        let now = Instant::now();
        let mut list = TopicPartitionList::new();
        for partition in self.partitions.values() {
            if partition.is_fetched() && partition.seek_due().is_some_and(|at| at <= now) {
                add(&mut list, partition);
            }
        }
        if list.count() == 0 {
            return;
        }
        let list = match self.consumer.seek_partitions(list, SEEK_TIMEOUT) {
            Ok(list) => list,
            Err(error) => {
                tracing::debug!(%error, "seek failed");
                return;
            }
        };
        for element in list.elements() {
            let id = PartitionId::new(element.topic(), element.partition());
            let Some(partition) = self.partitions.get_mut(&id) else {
                continue;
            };
            match element.error() {
                Ok(()) => partition.seek_done(),
                Err(error) => {
                    partition.seek_failures += 1;
                    partition.demand_seek(Instant::now() + SEEK_RETRY);
                    tracing::debug!(partition = %id, %error, "seek failed, will be repeated");
                }
            }
        }
    }

    /// A fetcher that ended for an error (an offset outside the log) cannot be sought: the
    /// partition is taken out of the assignment and assigned anew.
    fn revive(&mut self) {
        let dead: Vec<PartitionId> = self
            .partitions
            .values()
            .filter(|partition| partition.seek_failures >= SEEK_FAILURES_MAX)
            .map(|partition| partition.id.clone())
            .collect();
        for id in dead {
            let mut list = TopicPartitionList::new();
            list.add_partition(id.topic().as_str(), id.index());
            if let Err(error) = self.consumer.incremental_unassign(&list) {
                tracing::warn!(partition = %id, %error, "cannot take it out of the assignment");
                continue;
            }
            if let Some(partition) = self.partitions.get_mut(&id) {
                partition.fetcher_ended(Instant::now());
            }
            // A rebalance may have begun in the same moment and have taken this unassign for the
            // answer to it. It would be heard of now.
            self.serve_main_queue();
            if self.rebalances.is_under_way() {
                self.rebalances.distrust();
                return;
            }
            if let Err(error) = self.assign_unfetched() {
                tracing::warn!(partition = %id, %error, "cannot assign it anew");
            }
        }
    }
}

fn add(list: &mut TopicPartitionList, partition: &Partition) {
    let offset = KafkaOffset::Offset(partition.next().get());
    let (topic, index) = (partition.id.topic().as_str(), partition.id.index());
    list.add_partition_offset(topic, index, offset)
        .expect("an offset that is not negative can be represented");
}
