//! Partitions that were given to a member that this consumer no longer is.
//!
//! When the group forgets a member, because it was silent for too long, librdkafka usually says that
//! the assignment is lost. If it learns of it from the answer to a request to join, it does not: it
//! joins under a new id and keeps what it had, while the group has given that to others. The broker
//! fences members, not partitions, so it would take commits of both.

use tidegate::Error;
use tidegate::record::PartitionId;

use crate::ffi::GroupMetadata;
use crate::orphans::rejoin;
use crate::thread::Reader;

impl Reader {
    /// Whether the partition was given to a member that this consumer no longer is. The group has
    /// forgotten that member, and may have given its partitions to others; librdkafka joined anew
    /// and says nothing of them.
    pub(crate) fn was_anothers(&self, id: &PartitionId) -> bool {
        // While the group is left, the answer may never come.
        if self.is_closing() {
            return false;
        }
        let member = GroupMetadata::of(&self.consumer).map(|metadata| metadata.member());
        let member = member.filter(|member| !member.is_empty());
        let partition = self.partitions.get(id);
        member.zip(partition).is_some_and(|(member, partition)| *partition.member != *member)
    }

    /// Gives up what was given to a member that this consumer no longer is, by joining anew: who
    /// kept it would be one of two owners.
    pub(crate) fn leave_what_was_anothers(&mut self) {
        let busy = self.is_closing() || self.rebalances.is_under_way();
        if busy || !self.rebalances.take_joined() {
            return;
        }
        let stale: Vec<&PartitionId> =
            self.partitions.keys().filter(|id| self.was_anothers(id)).collect();
        if stale.is_empty() {
            return;
        }
        tracing::warn!(partitions = ?stale, "the group has forgotten this member: joins anew");
        if let Err(error) = rejoin(&self.consumer) {
            self.fail(Error::source_failed("cannot join the group anew").with_source(error));
        }
    }
}
