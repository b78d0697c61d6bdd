//! Partitions that no member has although the group is at rest.
//!
//! A member with an instance name that ends without leaving keeps its place: whoever comes back
//! under its name within the session is given what that place had, without a rebalance. If it
//! ended while it was to hand partitions over, these had been withheld from everybody, and nobody
//! asks for the rebalance that would give them out. So each member with a name looks some time
//! after every change of the group whether partitions were left over, and one of them joins anew.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaResult;
use tidegate::Error;
use tidegate::record::PartitionId;

use crate::context::Consumer;
use crate::ffi::GroupMetadata;
use crate::helper::Helper;
use crate::thread::{Command, Reader, Remote};

/// How long the group may take beyond the settling of a revocation.
const REST: Duration = Duration::from_secs(3);
/// Between two looks: what is seen once may be under way.
const AGAIN: Duration = Duration::from_secs(2);
/// How long each member waits for the one before it, so that only one of them joins anew.
const TURN: Duration = Duration::from_secs(3);
/// Joining anew disturbs the group, so it is not done more often.
const REJOIN_EVERY: Duration = Duration::from_secs(60);
/// How long a question may take.
const ASK_MAX: Duration = Duration::from_secs(5);
/// After so many looks that showed nothing certain the next change of the group is waited for.
const LOOKS_MAX: u32 = 20;

/// What the group looks like from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Look {
    /// How many members come before this one, by their ids.
    rank: u32,
    /// Partitions without a member, in order.
    orphans: Vec<PartitionId>,
}

/// The watch for partitions without a member.
#[derive(Debug)]
pub(crate) struct Orphans {
    /// The group, if it is one where this can happen.
    group: Option<String>,
    patience: Duration,
    due: Option<Instant>,
    /// Counts changes of the group: an answer from before the last one tells nothing.
    change: u64,
    asking: bool,
    looks: u32,
    seen: Vec<PartitionId>,
    rejoined: Option<Instant>,
}

impl Orphans {
    /// Watches this group, if any; `drain_max` is how long a member may settle a revocation.
    pub(crate) fn new(group: Option<String>, drain_max: Duration) -> Self {
        Self {
            group,
            patience: drain_max + REST,
            due: None,
            change: 0,
            asking: false,
            looks: 0,
            seen: Vec::new(),
            rejoined: None,
        }
    }

    /// Something changed in the group: a look follows when it should have come to rest.
    pub(crate) fn group_changed(&mut self, now: Instant) {
        self.change += 1;
        self.looks = 0;
        self.seen.clear();
        let earliest = self.rejoined.map(|at| at + REJOIN_EVERY);
        self.due = Some((now + self.patience).max(earliest.unwrap_or(now)));
    }

    /// Looks, if it is time to.
    pub(crate) fn watch(
        &mut self,
        now: Instant,
        consumer: &Arc<Consumer>,
        helper: &Helper,
        remote: &Remote,
    ) {
        let Some(group) = &self.group else { return };
        if self.asking || self.due.is_none_or(|due| now < due) {
            return;
        }
        self.asking = true;
        let (change, group) = (self.change, group.clone());
        let (consumer, remote) = (Arc::clone(consumer), remote.clone());
        helper.run(move || {
            let look = look(&consumer, &group);
            remote.send(Command::Looked(change, look));
        });
    }

    /// What was seen, if anything certain; answers the partitions for which to join anew.
    pub(crate) fn looked(
        &mut self,
        change: u64,
        look: Option<Look>,
        now: Instant,
    ) -> Option<Vec<PartitionId>> {
        self.asking = false;
        if change != self.change {
            return None;
        }
        self.looks += 1;
        let Some(look) = look else {
            self.due = (self.looks < LOOKS_MAX).then_some(now + AGAIN);
            return None;
        };
        if look.orphans.is_empty() {
            self.due = None;
            return None;
        }
        if look.orphans != self.seen {
            self.seen = look.orphans;
            self.due = Some(now + AGAIN + TURN * look.rank);
            return None;
        }
        self.rejoined = Some(now);
        self.due = Some(now + REJOIN_EVERY);
        Some(std::mem::take(&mut self.seen))
    }
}

impl Reader {
    /// Joins anew where partitions were left over and nothing else is under way.
    pub(crate) fn looked(&mut self, change: u64, look: Option<Look>) {
        let left_over = self.orphans.looked(change, look, Instant::now());
        let Some(partitions) = left_over else { return };
        if self.is_closing() || self.rebalances.is_under_way() {
            return;
        }
        tracing::warn!(?partitions, "no member of the group has these partitions: joins anew");
        if let Err(error) = rejoin(&self.consumer) {
            self.fail(Error::source_failed("cannot join the group anew").with_source(error));
        }
    }
}

/// What the coordinator and the brokers say; nothing while the group is not at rest.
fn look(consumer: &Consumer, group: &str) -> Option<Look> {
    // Not by the newer question of `Admin`: asked while its broker dies, librdkafka 2.12 ends the
    // whole process by an assertion (rd_kafka_enq_once_del_source_return).
    let listed = consumer
        .fetch_group_list(Some(group), ASK_MAX)
        .inspect_err(|error| tracing::debug!(%error, "the group is not known"))
        .ok()?;
    let described = listed.groups().iter().find(|found| found.name() == group)?;
    let me = GroupMetadata::of(consumer)?.member();
    if described.state() != "Stable" || !described.members().iter().any(|m| m.id() == me) {
        return None;
    }
    let rank = described.members().iter().filter(|member| *member.id() < *me).count();
    let mut given = HashSet::new();
    for member in described.members() {
        given.extend(assigned(member.assignment().unwrap_or_default())?);
    }
    let mut orphans = Vec::new();
    for topic in topics(consumer).ok()? {
        let metadata = consumer.fetch_metadata(Some(&topic), ASK_MAX).ok()?;
        let found = metadata.topics().iter().find(|found| found.name() == topic)?;
        let all = found.partitions().iter().map(|p| PartitionId::new(topic.as_str(), p.id()));
        orphans.extend(all.filter(|partition| !given.contains(partition)));
    }
    orphans.sort();
    Some(Look { rank: u32::try_from(rank).unwrap_or(u32::MAX), orphans })
}

/// The partitions in a member's assignment, as the consumers of a group write it: a version, then
/// topics with their partitions; numbers have the network's order. Nothing if it says otherwise.
fn assigned(mut bytes: &[u8]) -> Option<Vec<PartitionId>> {
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(taken)
    }
    fn number(bytes: &mut &[u8]) -> Option<i32> {
        Some(i32::from_be_bytes(take(bytes, 4)?.try_into().ok()?))
    }
    let mut partitions = Vec::new();
    if bytes.is_empty() {
        return Some(partitions);
    }
    take(&mut bytes, 2)?;
    for _ in 0..number(&mut bytes)? {
        let length = u16::from_be_bytes(take(&mut bytes, 2)?.try_into().ok()?);
        let topic = std::str::from_utf8(take(&mut bytes, usize::from(length))?).ok()?;
        for _ in 0..number(&mut bytes)? {
            partitions.push(PartitionId::new(topic, number(&mut bytes)?));
        }
    }
    Some(partitions)
}

/// The topics to look at: those subscribed to by name, and of patterns those that this member has.
fn topics(consumer: &Consumer) -> KafkaResult<Vec<String>> {
    let (subscribed, assigned) = (consumer.subscription()?, consumer.assignment()?);
    let names = subscribed.elements().into_iter().chain(assigned.elements());
    let mut names: Vec<String> = names.map(|element| element.topic().to_string()).collect();
    names.retain(|name| !name.starts_with('^'));
    names.sort();
    names.dedup();
    Ok(names)
}

/// Leaves the group and joins it anew: what this member has is handed back first, like any other
/// revocation, and the rebalance that follows gives everything out.
pub(crate) fn rejoin(consumer: &Consumer) -> KafkaResult<()> {
    let subscribed = consumer.subscription()?;
    let elements = subscribed.elements();
    let names: Vec<&str> = elements.iter().map(|element| element.topic()).collect();
    consumer.unsubscribe();
    consumer.subscribe(&names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_secs(10);

    fn watch() -> (Orphans, Instant) {
        let (mut orphans, now) = (Orphans::new(Some("g".into()), DRAIN), Instant::now());
        orphans.group_changed(now);
        (orphans, now)
    }

    fn seen(rank: u32, partitions: &[i32]) -> Option<Look> {
        let orphans = partitions.iter().map(|index| PartitionId::new("t", *index)).collect();
        Some(Look { rank, orphans })
    }

    #[test]
    fn an_assignment_is_read_whole_or_not_at_all() {
        let bytes = [0, 1, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
        let read = assigned(&bytes);
        assert_eq!(read, Some(vec![PartitionId::new("t", 0), PartitionId::new("t", 3)]));
        assert_eq!(assigned(&[]), Some(Vec::new()), "given nothing");
        assert_eq!(assigned(&bytes[..20]), None, "cut off");
    }

    #[test]
    fn a_group_is_given_the_time_of_a_hand_over() {
        let (orphans, now) = watch();
        assert_eq!(orphans.due, Some(now + DRAIN + REST));
    }

    #[test]
    fn what_is_left_over_twice_is_joined_anew_for() {
        let (mut orphans, now) = watch();
        assert_eq!(orphans.looked(1, seen(2, &[3]), now), None);
        assert_eq!(orphans.due, Some(now + AGAIN + 2 * TURN), "those before this one come first");
        assert_eq!(orphans.looked(1, seen(2, &[3]), now), Some(vec![PartitionId::new("t", 3)]));
    }

    #[test]
    fn what_changes_is_under_way() {
        let (mut orphans, now) = watch();
        assert_eq!(orphans.looked(1, seen(0, &[3]), now), None);
        assert_eq!(orphans.looked(1, seen(0, &[3, 4]), now), None);
        orphans.group_changed(now);
        assert_eq!(orphans.looked(1, seen(0, &[3, 4]), now), None, "from before the change");
        assert_eq!(orphans.looked(2, seen(0, &[3, 4]), now), None, "only once since");
        assert_eq!(orphans.looked(2, seen(0, &[]), now), None);
        assert_eq!(orphans.due, None, "nothing is left over: until the next change");
    }

    #[test]
    fn the_group_is_not_disturbed_again_and_again() {
        let (mut orphans, now) = watch();
        orphans.looked(1, seen(0, &[3]), now);
        orphans.looked(1, seen(0, &[3]), now).expect("joins anew");
        orphans.group_changed(now + AGAIN);
        assert_eq!(orphans.due, Some(now + REJOIN_EVERY));
    }

    #[test]
    fn a_coordinator_that_does_not_tell_is_not_asked_for_ever() {
        let (mut orphans, now) = watch();
        for _ in 1..LOOKS_MAX {
            orphans.looked(1, None, now);
            assert_eq!(orphans.due, Some(now + AGAIN));
        }
        orphans.looked(1, None, now);
        assert_eq!(orphans.due, None);
    }
}
