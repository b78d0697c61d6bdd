//! A broker in memory: topics, one consumer group per name, cooperative hand-over.
//!
//! It keeps the promises of a real one that the engine relies on — revoke before assign, events
//! and records in one queue, records only against credit — and none of its network.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::source::MemorySource;
use crate::record::{Headers, Offset, PartitionId, RawRecord, Record, Topic};
use crate::source::{AssignedPartition, Assignment, EventSender, Revocation, SourceEvent, Start};

/// How long members of a memory group may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Topics and groups in this process.
#[derive(Clone, Debug, Default)]
pub struct MemoryBroker(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    logs: BTreeMap<PartitionId, Log>,
    groups: HashMap<String, Group>,
    members: u64,
}

#[derive(Debug, Default)]
struct Log {
    records: Vec<Arc<RawRecord>>,
    next: i64,
}

#[derive(Debug, Default)]
struct Group {
    members: BTreeMap<u64, Member>,
    offsets: BTreeMap<PartitionId, Offset>,
    balancing: bool,
    unbalanced: bool,
}

#[derive(Debug)]
struct Member {
    topics: Vec<Topic>,
    events: EventSender,
    started: StartedAt,
    owned: Vec<PartitionId>,
    leaving: bool,
}

/// Where a member is told the start positions of what it was assigned.
#[derive(Clone)]
pub(super) struct StartedAt(Arc<dyn Fn(Vec<Start>) + Send + Sync>);

impl StartedAt {
    pub(super) fn new(told: impl Fn(Vec<Start>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }
}

impl std::fmt::Debug for StartedAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StartedAt")
    }
}

impl MemoryBroker {
    /// A broker without topics.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a topic, or adds partitions to it.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        let mut state = self.lock();
        for index in 0..partitions {
            state.logs.entry(PartitionId::new(topic, index)).or_default();
        }
        let groups: Vec<String> = state.groups.keys().cloned().collect();
        drop(state);
        for group in groups {
            self.rebalance(&group);
        }
    }

    /// Appends a record and answers its offset.
    ///
    /// # Panics
    /// If the partition does not exist.
    pub fn produce(
        &self,
        partition: &PartitionId,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Offset {
        let mut state = self.lock();
        let log = state.logs.get_mut(partition).expect("create the topic first");
        let offset = Offset::new(log.next);
        log.next += 1;
        log.records.push(Arc::new(Record {
            partition: partition.clone(),
            offset,
            timestamp: None,
            key: key.map(Bytes::copy_from_slice),
            value: value.map(Bytes::copy_from_slice),
            headers: Headers::default(),
        }));
        drop(state);
        self.0.changed.notify_waiters();
        offset
    }

    /// Leaves a hole of this many offsets, as transaction markers and compaction do.
    ///
    /// # Panics
    /// If the partition does not exist.
    pub fn leave_hole(&self, partition: &PartitionId, offsets: i64) {
        self.lock().logs.get_mut(partition).expect("create the topic first").next += offsets;
        self.0.changed.notify_waiters();
    }

    /// The end of a partition: the offset the next record will have.
    pub fn end(&self, partition: &PartitionId) -> Option<Offset> {
        self.lock().logs.get(partition).map(|log| Offset::new(log.next))
    }

    /// A source that reads these topics as a member of the pipeline's group.
    pub fn source(&self, topics: &[&str]) -> MemorySource {
        MemorySource::new(self.clone(), topics.iter().map(|name| Topic::new(name)).collect())
    }

    /// Offsets the group keeps at the broker.
    pub fn group_offset(&self, group: &str, partition: &PartitionId) -> Option<Offset> {
        self.lock().groups.get(group)?.offsets.get(partition).copied()
    }

    pub(super) fn commit_group(&self, group: &str, partition: &PartitionId, next: Offset) {
        let mut state = self.lock();
        let group = state.groups.entry(group.to_owned()).or_default();
        group.offsets.insert(partition.clone(), next);
    }

    pub(super) fn partitions_of(&self, topic: &Topic) -> Vec<PartitionId> {
        self.lock().logs.keys().filter(|id| id.topic() == topic).cloned().collect()
    }

    /// The first offset held and the end of a partition.
    pub(super) fn bounds(&self, partition: &PartitionId) -> Option<(Offset, Offset)> {
        let state = self.lock();
        let log = state.logs.get(partition)?;
        let low = log.records.first().map_or(log.next, |record| record.offset.get());
        Some((Offset::new(low.min(log.next)), Offset::new(log.next)))
    }

    /// Up to `max` records from this offset, and the end of the partition.
    pub(super) fn read(
        &self,
        partition: &PartitionId,
        from: Offset,
        max: usize,
    ) -> (Vec<Arc<RawRecord>>, Offset) {
        let state = self.lock();
        let Some(log) = state.logs.get(partition) else { return (Vec::new(), from) };
        let at = log.records.partition_point(|record| record.offset < from);
        let records = log.records[at..].iter().take(max).cloned().collect();
        (records, Offset::new(log.next))
    }

    /// Waits until something was produced.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    pub(super) fn join(
        &self,
        group: &str,
        topics: Vec<Topic>,
        events: EventSender,
        started: StartedAt,
    ) -> u64 {
        let mut state = self.lock();
        state.members += 1;
        let id = state.members;
        let member = Member { topics, events, started, owned: Vec::new(), leaving: false };
        state.groups.entry(group.to_owned()).or_default().members.insert(id, member);
        drop(state);
        self.rebalance(group);
        id
    }

    /// A member leaves cleanly: its partitions are revoked first.
    pub(super) async fn leave(&self, group: &str, id: u64) {
        if let Some(mut member) = self.member(group, id) {
            member.leaving = true;
        }
        self.rebalance(group);
        loop {
            let gone = {
                let state = self.lock();
                state.groups.get(group).is_none_or(|group| !group.members.contains_key(&id))
            };
            if gone {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Takes a member's partitions away without asking it, as a broker does with one that went
    /// silent; it is told that they are lost and joins again.
    pub fn evict(&self, source: u64, group: &str) {
        let lost = {
            let mut state = self.lock();
            let group = state.groups.get_mut(group);
            let Some(member) = group.and_then(|group| group.members.get_mut(&source)) else {
                return;
            };
            let lost = std::mem::take(&mut member.owned);
            member.events.send(SourceEvent::Lost(lost.clone()));
            lost
        };
        if !lost.is_empty() {
            self.rebalance(group);
        }
    }

    fn member<'a>(&'a self, group: &str, id: u64) -> Option<MemberGuard<'a>> {
        let state = self.lock();
        state.groups.get(group)?.members.contains_key(&id).then(|| MemberGuard {
            state,
            group: group.to_owned(),
            id,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder of the lock panics")
    }

    /// Starts a rebalance, or has the one under way go round once more.
    fn rebalance(&self, group: &str) {
        let mut state = self.lock();
        let Some(found) = state.groups.get_mut(group) else { return };
        found.unbalanced = true;
        if found.balancing {
            return;
        }
        found.balancing = true;
        drop(state);
        let (broker, group) = (self.clone(), group.to_owned());
        tokio::spawn(async move { broker.balance(&group).await });
    }

    async fn balance(&self, group: &str) {
        loop {
            let (revocations, mut assignments) = {
                let mut state = self.lock();
                let all: Vec<PartitionId> = state.logs.keys().cloned().collect();
                let Some(found) = state.groups.get_mut(group) else { return };
                if !found.unbalanced {
                    found.balancing = false;
                    return;
                }
                found.unbalanced = false;
                found.plan(&all)
            };
            for (id, partitions, events) in revocations {
                let (revocation, answer) =
                    Revocation::new(partitions.clone(), Instant::now() + ANSWER_MAX);
                if events.send(SourceEvent::Revoked(revocation)) {
                    let _ = tokio::time::timeout(ANSWER_MAX, answer).await;
                }
                if let Some(mut member) = self.member(group, id) {
                    member.owned.retain(|owned| !partitions.contains(owned));
                }
            }
            for (id, partitions) in assignments.drain(..) {
                self.assign(group, id, partitions).await;
            }
            let mut state = self.lock();
            if let Some(found) = state.groups.get_mut(group) {
                found.members.retain(|_, member| !member.leaving);
            }
        }
    }

    async fn assign(&self, group: &str, id: u64, partitions: Vec<PartitionId>) {
        let (events, started) = {
            let Some(mut member) = self.member(group, id) else { return };
            member.owned.extend(partitions.iter().cloned());
            (member.events.clone(), member.started.clone())
        };
        let assigned = partitions
            .into_iter()
            .map(|partition| AssignedPartition { partition, topic_id: None })
            .collect();
        let (assignment, answer) = Assignment::new(assigned, Instant::now() + ANSWER_MAX);
        events.send(SourceEvent::Assigned(assignment));
        if let Ok(Ok(starts)) = tokio::time::timeout(ANSWER_MAX, answer).await {
            (started.0)(starts);
        }
        events.send(SourceEvent::GroupChanged);
    }
}

type Plan = (Vec<(u64, Vec<PartitionId>, EventSender)>, Vec<(u64, Vec<PartitionId>)>);

impl Group {
    /// Who must give what back, and who gets what after that: even, sticky.
    fn plan(&self, all: &[PartitionId]) -> Plan {
        let mut target: BTreeMap<u64, Vec<PartitionId>> =
            self.members.keys().map(|id| (*id, Vec::new())).collect();
        let stays = |id: &u64| self.members.get(id).is_some_and(|member| !member.leaving);
        let staying = self.members.keys().filter(|id| stays(id)).count().max(1);
        let most = all.len().div_ceil(staying);
        let mut free = Vec::new();
        for partition in all {
            let owner = self.members.iter().find(|(id, member)| {
                stays(id) && member.owned.contains(partition) && target[*id].len() < most
            });
            match owner {
                Some((id, _)) => target.entry(*id).or_default().push(partition.clone()),
                None => free.push(partition.clone()),
            }
        }
        for partition in free {
            let wants = |id: &u64| stays(id) && self.members[id].topics.contains(partition.topic());
            let next = target.iter().filter(|(id, _)| wants(id)).min_by_key(|(_, p)| p.len());
            if let Some(id) = next.map(|(id, _)| *id) {
                target.entry(id).or_default().push(partition);
            }
        }
        let mut revocations = Vec::new();
        let mut assignments = Vec::new();
        for (id, member) in &self.members {
            let wanted = &target[id];
            let gone: Vec<_> =
                member.owned.iter().filter(|p| !wanted.contains(p)).cloned().collect();
            let new: Vec<_> =
                wanted.iter().filter(|p| !member.owned.contains(p)).cloned().collect();
            if !gone.is_empty() {
                revocations.push((*id, gone, member.events.clone()));
            }
            if !new.is_empty() {
                assignments.push((*id, new));
            }
        }
        (revocations, assignments)
    }
}

struct MemberGuard<'a> {
    state: MutexGuard<'a, State>,
    group: String,
    id: u64,
}

impl std::ops::Deref for MemberGuard<'_> {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.state.groups[&self.group].members[&self.id]
    }
}

impl std::ops::DerefMut for MemberGuard<'_> {
    fn deref_mut(&mut self) -> &mut Member {
        let group = self.state.groups.get_mut(&self.group).expect("checked when it was made");
        group.members.get_mut(&self.id).expect("checked when it was made")
    }
}
