//! Whether a transaction may be made now, and for which place in the group.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use rdkafka::consumer::Consumer as _;
use tidegate::batch::Span;
use tidegate::mutant;
use tidegate::record::PartitionId;

use crate::context::Consumer;
use crate::ffi::GroupMetadata;
use crate::partition::Partition;

/// What a transaction covers.
#[derive(Debug)]
pub(crate) enum Scope {
    /// Results: every span must belong to a partition of ours under the span's epoch. The broker
    /// fences members, not partitions: nobody else would notice a result from before a revoke.
    Spans(Vec<Span>),
    /// Positions only, also of partitions that are just being assigned.
    Partitions(Vec<PartitionId>),
}

/// Our place in the group, and which of the partitions asked for are ours.
pub(crate) struct Membership {
    /// What the broker checks.
    pub(crate) metadata: Arc<GroupMetadata>,
    /// The partitions of a [`Scope::Partitions`] that are ours.
    pub(crate) owned: Vec<PartitionId>,
}

/// Our place in the group for this scope, or why a transaction must not be made.
pub(crate) fn check(
    consumer: &Consumer,
    partitions: &HashMap<PartitionId, Partition>,
    incoming: &[PartitionId],
    scope: &Scope,
) -> Result<Membership, String> {
    if consumer.assignment_lost() {
        return Err("the assignment was lost".into());
    }
    let mut metadata = Arc::new(GroupMetadata::of(consumer).ok_or("the consumer has no group")?);
    if mutant::is("M17") {
        static FIRST: OnceLock<Arc<GroupMetadata>> = OnceLock::new();
        metadata = Arc::clone(FIRST.get_or_init(|| metadata));
    }
    let member = metadata.member();
    let mut owned = Vec::new();
    match scope {
        Scope::Spans(_) if mutant::is("M15") => {}
        Scope::Spans(spans) => {
            for span in spans {
                let Some(partition) = partitions.get(&span.partition) else {
                    return Err(format!("{} is not assigned any more", span.partition));
                };
                if partition.epoch() != Some(span.epoch) {
                    return Err(format!("{} was repositioned meanwhile", span.partition));
                }
                // The group forgot the member that it was given to, and knows this one.
                if !partition.is_of(&member) {
                    return Err(format!("{} was given to a former member", span.partition));
                }
            }
        }
        Scope::Partitions(wanted) => owned.extend(
            wanted
                .iter()
                .filter(|id| {
                    partitions.get(id).is_some_and(|it| it.is_of(&member)) || incoming.contains(id)
                })
                .cloned(),
        ),
    }
    // With an empty member or a negative generation the broker would skip all fencing.
    if member.is_empty() || metadata.generation() < 0 {
        return Err("the consumer is not a member of its group now".into());
    }
    Ok(Membership { metadata, owned })
}
