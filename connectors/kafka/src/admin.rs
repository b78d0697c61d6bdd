//! What an operator asks of a cluster: which partitions there are, what a group has stored, where
//! logs begin and end, and to set a group's offsets.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::types::RDKafkaErrorCode;
use tidegate::Error;
use tidegate::record::{Offset, PartitionId, Timestamp};
use tidegate::source::{Position, Unresolved, Wanted};

use crate::consumer_options::StartPolicy;
use crate::context::{Consumer, Context};
use crate::current::Current;
use crate::error;
use crate::ffi::{self, Failure, Pending};
use crate::helper::Helper;
use crate::resolve::Resolver;
use crate::settings::Kafka;
use crate::source::KnownTopics;
use crate::start;

/// How long one question may take.
const ASK_MAX: Duration = Duration::from_secs(10);

/// Asks a cluster questions and sets offsets; made by [`Kafka::admin`]. Every error names the
/// cluster's answer; every call gives up after some seconds.
pub struct Admin {
    consumer: Arc<Consumer>,
    resolver: Arc<Resolver>,
    calls: Helper,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admin")
    }
}

/// Where the log of a partition begins and ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogRange {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset that is still there.
    pub start: Offset,
    /// Behind the last record a reader of committed data can reach now.
    pub stable_end: Offset,
    /// Behind the last record, open transactions included.
    pub end: Offset,
}

/// A member of a consumer group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupMember {
    /// What the broker calls it.
    pub id: String,
    /// What it was given.
    pub partitions: Vec<PartitionId>,
}

/// Makes an admin of this cluster.
pub(crate) fn new(kafka: &Kafka) -> Result<Admin, Error> {
    let mut config = kafka.common()?;
    config.set("isolation.level", "read_committed");
    let consumer: Consumer =
        config.create_with_context(Context::new(kafka)).map_err(|error| start::refused(&error))?;
    let consumer = Arc::new(consumer);
    let calls = Helper::start("tidegate-kafka-admin")
        .map_err(|error| Error::source_failed("a thread cannot be started").with_source(error))?;
    Ok(Admin {
        resolver: Arc::new(Resolver::new(
            Current::new(Arc::clone(&consumer)),
            StartPolicy::Earliest,
            KnownTopics::new(),
        )),
        consumer,
        calls,
    })
}

impl Admin {
    /// The partitions of these topics, in order.
    ///
    /// # Errors
    /// If a topic does not exist, or the cluster does not answer.
    pub async fn partitions<T: Into<String>>(
        &self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Vec<PartitionId>, Error> {
        let topics: Vec<String> = topics.into_iter().map(Into::into).collect();
        self.call(move |consumer| {
            let mut partitions = Vec::new();
            for topic in &topics {
                let metadata = consumer
                    .fetch_metadata(Some(topic), ASK_MAX)
                    .map_err(|error| failed("partitions", &error))?;
                if metadata.brokers().is_empty() {
                    return Err(failed("partitions", &error::NO_BROKERS));
                }
                let found = metadata.topics().iter().find(|found| found.name() == topic);
                let count = match found {
                    Some(found) if found.error().is_none() => found.partitions().len(),
                    _ => {
                        return Err(Error::source_failed(format_args!(
                            "topic {topic} does not exist"
                        )));
                    }
                };
                let count = i32::try_from(count).unwrap_or(i32::MAX);
                partitions.extend((0..count).map(|index| PartitionId::new(topic.as_str(), index)));
            }
            Ok(partitions)
        })
        .await
    }

    /// Every offset the group has stored, in order; empty for a group that does not exist. What an
    /// open transaction is about to store does not count yet.
    ///
    /// # Errors
    /// If the cluster does not answer, or refuses.
    pub async fn group_offsets(&self, group: &str) -> Result<Vec<Position>, Error> {
        self.offsets(group, Pending::Before).await
    }

    /// As [`group_offsets`](Self::group_offsets), but an open transaction that is about to store
    /// some is waited for.
    ///
    /// # Errors
    /// If the cluster does not answer, or refuses, or the transaction is still open after 10 s.
    pub async fn stable_group_offsets(&self, group: &str) -> Result<Vec<Position>, Error> {
        self.offsets(group, Pending::Refused).await
    }

    async fn offsets(&self, group: &str, pending: Pending) -> Result<Vec<Position>, Error> {
        let group = group.to_string();
        self.call(move |consumer| {
            let ask = || ffi::group_offsets(consumer.client(), &group, pending, ASK_MAX);
            let offsets = patiently(ask).map_err(|failure| refused("stored offsets", &failure))?;
            Ok(offsets.into_iter().map(|(partition, next)| Position { partition, next }).collect())
        })
        .await
    }

    /// How many live members the group has; a group that does not exist has none.
    ///
    /// # Errors
    /// If the cluster does not answer, or refuses.
    pub async fn group_members(&self, group: &str) -> Result<usize, Error> {
        Ok(self.group_assignments(group).await?.len())
    }

    /// The live members of the group with the partitions each was given; a group that does not
    /// exist has none. A member that starts again comes under another id.
    ///
    /// # Errors
    /// If the cluster does not answer, or refuses.
    pub async fn group_assignments(&self, group: &str) -> Result<Vec<GroupMember>, Error> {
        let group = group.to_string();
        self.call(move |consumer| {
            let members = patiently(|| ffi::group_members(consumer.client(), &group, ASK_MAX))
                .map_err(|failure| refused("members", &failure))?;
            Ok(members.into_iter().map(|(id, partitions)| GroupMember { id, partitions }).collect())
        })
        .await
    }

    /// Where the logs of these partitions begin and end, in the order asked.
    ///
    /// # Errors
    /// If a partition does not exist, or the cluster does not answer.
    pub async fn log_ranges(&self, partitions: &[PartitionId]) -> Result<Vec<LogRange>, Error> {
        let asked = partitions.to_vec();
        let ends = self
            .call(move |consumer| {
                ffi::read_uncommitted_ends(consumer.client(), &asked, ASK_MAX)
                    .map_err(|failure| refused("ends of logs", &failure))
            })
            .await?;
        let starts = self.positions(partitions, Wanted::Beginning).await?;
        let stable_ends = self.positions(partitions, Wanted::End).await?;
        partitions
            .iter()
            .zip(starts.into_iter().zip(stable_ends))
            .map(|(partition, (start, stable_end))| {
                Ok(LogRange {
                    partition: partition.clone(),
                    start,
                    stable_end,
                    end: ends.get(partition).copied().unwrap_or(stable_end).max(stable_end),
                })
            })
            .collect()
    }

    /// The first record of each partition at or after this time, or its end if there is none; in
    /// the order asked.
    ///
    /// # Errors
    /// If a partition does not exist, or the cluster does not answer.
    pub async fn offsets_at(
        &self,
        partitions: &[PartitionId],
        time: Timestamp,
    ) -> Result<Vec<Offset>, Error> {
        self.positions(partitions, |partition| Wanted::At(partition, time)).await
    }

    /// Sets offsets of a group without live members: where it goes on with its next start.
    ///
    /// # Errors
    /// If the group has live members, or the cluster refuses or does not answer. Nothing is set
    /// for a group with members: the broker itself checks that.
    pub async fn set_group_offsets(
        &self,
        group: &str,
        positions: Vec<Position>,
    ) -> Result<(), Error> {
        let members = self.group_members(group).await?;
        if members > 0 {
            return Err(Error::source_failed(format_args!(
                "group {group} has {members} live members"
            ))
            .remedy("stop them first; a running pipeline is moved by its own `seek`"));
        }
        let group = group.to_string();
        self.call(move |consumer| {
            let list = crate::commits::list(positions.iter().map(|p| (&p.partition, p.next)));
            ffi::set_group_offsets(consumer.client(), &group, &list, ASK_MAX)
                .map_err(|failure| refused("offsets could not be set", &failure))
        })
        .await
    }

    async fn positions(
        &self,
        partitions: &[PartitionId],
        wanted: impl Fn(PartitionId) -> Wanted,
    ) -> Result<Vec<Offset>, Error> {
        let wanted: Vec<Wanted> = partitions.iter().cloned().map(wanted).collect();
        let resolver = Arc::clone(&self.resolver);
        let resolved = self
            .call(move |_| resolver.resolve(&wanted).map_err(|error| failed("positions", &error)))
            .await?;
        resolved
            .into_iter()
            .map(|resolved| {
                resolved.position.map_err(|why| match why {
                    Unresolved::Unknown => Error::source_failed(format_args!(
                        "partition {} does not exist",
                        resolved.partition
                    )),
                    why => failed(&resolved.partition.to_string(), &why),
                })
            })
            .collect()
    }

    /// Makes a call on the thread for calls.
    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Consumer) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let consumer = Arc::clone(&self.consumer);
        self.calls
            .ask(move || {
                // Serves what waits, the request for a first token among it.
                consumer.poll(Duration::ZERO);
                let bootstrap = &consumer.client().context().bootstrap;
                bootstrap.lead_back(consumer.client());
                // A refusal came from a broker; to lead back who knows its brokers changes nothing.
                job(&consumer).inspect(|_| bootstrap.found()).inspect_err(|_| bootstrap.lost())
            })
            .await
            .unwrap_or_else(|| Err(Error::source_failed("the helper thread ended")))
    }
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::source_failed(format_args!("{what}: {error}"))
}

fn refused(what: &str, failure: &Failure) -> Error {
    failed(what, failure)
}

/// Asks again while the group's coordinator is being found, because a broker that has just begun to
/// keep groups, or a coordinator that moved, answers so for a moment; and while a transaction that
/// stores offsets is open, if that was to be waited for.
fn patiently<T>(ask: impl Fn() -> Result<T, ffi::Failure>) -> Result<T, ffi::Failure> {
    let began = std::time::Instant::now();
    loop {
        match ask() {
            Err(failure)
                if began.elapsed() < ASK_MAX
                    && matches!(
                        failure.code,
                        RDKafkaErrorCode::NotCoordinator
                            | RDKafkaErrorCode::CoordinatorNotAvailable
                            | RDKafkaErrorCode::CoordinatorLoadInProgress
                            | RDKafkaErrorCode::UnstableOffsetCommit
                    ) =>
            {
                std::thread::sleep(Duration::from_millis(100));
            }
            answer => return answer,
        }
    }
}
