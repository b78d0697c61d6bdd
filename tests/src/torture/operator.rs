//! What an operator may do to a running system, and it must survive: offsets of the group moved or the group deleted
//! where progress is kept elsewhere, clients throttled, records deleted that were done long ago.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::sleep;

use super::victims::Victims;
use crate::audit::Input;
use crate::fleet::Store;
use crate::readers::{read_by_java, read_input};
use crate::servers::supervisor;

/// Bytes a second that a throttled client may produce, and fetch.
const THROTTLE: &str = "producer_byte_rate=100000,consumer_byte_rate=200000";
/// Fewer records than these are not worth deleting.
const WORTH: i64 = 100;

/// What an operator does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Deed {
    /// Moves the group's offsets of all partitions to the beginning of the log or to its end.
    Offsets {
        /// To its end.
        forward: bool,
    },
    /// Deletes the group.
    Group,
    /// Throttles all clients for a while.
    Quota,
}

/// Records of the input that were read before they were deleted, by partition and offset.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<BTreeMap<(i32, i64), Input>>);

impl Kept {
    fn keep(&self, records: Vec<Input>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(records.into_iter().map(|input| ((input.partition.1, input.offset), input)));
    }

    /// All of them.
    pub(super) fn into_records(self) -> Vec<Input> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
    }
}

impl Victims<'_> {
    /// Where progress is the group's own offsets, a moved one is what the operator wants: that is no fault.
    pub(super) async fn operate(&self, deed: Deed, length: Duration) -> Result<bool> {
        match (&self.run.scene.store, deed) {
            (Store::Kafka(_), _) | (_, Deed::Quota) => self.throttle(length).await,
            (_, Deed::Offsets { forward }) => self.move_offsets(forward).await,
            (_, Deed::Group) => self.delete_group().await,
        }
    }

    /// Whether the broker lets it or not, because the group has members: nothing may come of it.
    async fn move_offsets(&self, forward: bool) -> Result<bool> {
        let scene = self.run.scene;
        let Ok(ends) = scene.ends().await else { return Ok(false) };
        let mut client = scene.client().clone();
        client.set("group.id", &scene.group).set("enable.auto.commit", "false");
        let commit = move || -> Result<bool> {
            let consumer: BaseConsumer = client.create()?;
            let mut offsets = TopicPartitionList::new();
            for ((topic, partition), end) in &ends {
                let offset = Offset::Offset(if forward { *end } else { 0 });
                offsets.add_partition_offset(topic, *partition, offset)?;
            }
            let answer = consumer.commit(&offsets, CommitMode::Sync);
            Ok(answer.is_ok() || answer.is_err_and(|error| is_answer(&error)))
        };
        tokio::task::spawn_blocking(commit).await?
    }

    async fn delete_group(&self) -> Result<bool> {
        let scene = self.run.scene;
        let admin: AdminClient<DefaultClientContext> = scene.client().create()?;
        Ok(admin.delete_groups(&[&scene.group], &AdminOptions::new()).await.is_ok())
    }

    async fn throttle(&self, length: Duration) -> Result<bool> {
        if !self.configure("--add-config", THROTTLE).await? {
            return Ok(false);
        }
        sleep(length).await;
        let names: Vec<_> = THROTTLE.split([',', '=']).step_by(2).collect();
        let names = names.join(",");
        while !self.configure("--delete-config", &names).await? {
            sleep(Duration::from_secs(1)).await;
        }
        Ok(true)
    }

    /// Kafka's own tool, which our client has no words for. A broker that is down just now is no error.
    async fn configure(&self, what: &str, value: &str) -> Result<bool> {
        let kafka = self.run.servers.kafka;
        let Some(mut command) = kafka.java()? else { return Ok(false) };
        command.args(["kafka.admin.ConfigCommand", "--bootstrap-server", kafka.bootstrap()]);
        command.args(["--alter", "--entity-type", "clients", "--entity-default", what, value]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = supervisor::spawn(command)?;
        Ok(tokio::task::spawn_blocking(move || child.wait()).await??.success())
    }

    /// Deletes what progress has passed of one partition, after it has been read: it is input all the same.
    pub(super) async fn delete_records(&self, partition: usize) -> Result<bool> {
        let scene = self.run.scene;
        let Ok(progress) = scene.progress_now().await else { return Ok(false) };
        let partitions = progress.len();
        let Some((place, next)) = progress.into_iter().nth(partition % partitions.max(1)) else {
            return Ok(false);
        };
        let (topic, number) = place;
        if next < WORTH {
            return Ok(false);
        }
        let Ok(records) = self.records_before(number, next).await else { return Ok(false) };
        // All of it was deleted before, and nothing has come since.
        if records.is_empty() {
            return Ok(false);
        }
        self.kept.keep(records);
        let admin: AdminClient<DefaultClientContext> = scene.client().create()?;
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(&topic, number, Offset::Offset(next))?;
        let deleted = admin.delete_records(&before, &AdminOptions::new()).await;
        Ok(deleted.is_ok_and(|list| list.elements().iter().all(|one| one.error().is_ok())))
    }

    async fn records_before(&self, partition: i32, next: i64) -> Result<Vec<Input>> {
        let (kafka, scene) = (self.run.servers.kafka, self.run.scene);
        if let Some(records) = read_by_java(kafka, &scene.input, partition, next).await? {
            return Ok(records);
        }
        let mut records = read_input(scene.client(), &[&scene.input]).await?.inputs;
        records.retain(|input| input.partition.1 == partition && input.offset < next);
        Ok(records)
    }
}

/// Whether the broker has said no, rather than nothing.
fn is_answer(error: &rdkafka::error::KafkaError) -> bool {
    use rdkafka::types::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::UnknownMemberId
                | Code::IllegalGeneration
                | Code::StaleMemberEpoch
                | Code::RebalanceInProgress
                | Code::GroupIdNotFound
        )
    )
}
