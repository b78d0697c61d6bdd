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
    /// Those of the partitions that were given to a member that this consumer no longer is; the
    /// group may have given them to others since.
    pub(crate) fn of_former_member(&self, partitions: &[PartitionId]) -> Vec<PartitionId> {
        // While the group is left, the answer may never come.
        if self.is_closing() {
            return Vec::new();
        }
        let member = GroupMetadata::member_now(&self.consumer);
        if member.is_empty() {
            return Vec::new();
        }
        let is_former = |id: &&PartitionId| {
            self.partitions.get(id).is_some_and(|partition| !partition.is_of(&member))
        };
        partitions.iter().filter(is_former).cloned().collect()
    }

    /// Gives up what was given to a former member, by joining anew: who kept it would be one of
    /// two owners.
    pub(crate) fn leave_what_was_anothers(&mut self) {
        let busy = self.is_closing() || self.rebalances.is_under_way();
        if busy || !self.rebalances.take_joined() {
            return;
        }
        let all: Vec<PartitionId> = self.partitions.keys().cloned().collect();
        let partitions = self.of_former_member(&all);
        if partitions.is_empty() {
            return;
        }
        tracing::warn!(?partitions, "the group has forgotten this member: joins anew");
        if let Err(error) = rejoin(&self.consumer) {
            self.fail(Error::source_failed("cannot join the group anew").with_source(error));
        }
    }
}
