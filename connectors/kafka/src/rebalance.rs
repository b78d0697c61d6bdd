//! Rebalances, one at a time: asks the engine, waits for its answer or the deadline, and gives
//! librdkafka the assign or unassign it waits for. Everything else goes on meanwhile.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker as TaskWaker};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use tidegate::record::{PartitionId, Topic};
use tidegate::sink::TopicId;
use tidegate::source::{AssignedPartition, Assignment, Revocation, SourceEvent, Start};
use tokio::sync::oneshot;

use crate::context::{Consumer, Ownership};
use crate::ffi::{self, GroupMetadata};
use crate::metrics;
use crate::partition::Partition;
use crate::thread::{Command, Limits, Reader};
use crate::wake::Waker;

/// How long an assignment waits for the ids of its topics; without them it goes on.
const DESCRIBE_MAX: Duration = Duration::from_secs(2);
/// How often the generation is looked at.
const GENERATION_EVERY: Duration = Duration::from_millis(100);

/// What the group wants, in the order it was heard.
enum Wish {
    /// Partitions, and the member id they are given to.
    Assign(Vec<PartitionId>, Arc<str>),
    Revoke(Vec<PartitionId>, Ownership),
}

/// The rebalance under way.
enum Step {
    /// The topics' ids are being asked for.
    Describing { partitions: Vec<PartitionId>, until: Instant },
    /// The engine is asked where to start.
    Assigning {
        partitions: Vec<PartitionId>,
        deadline: Instant,
        answer: oneshot::Receiver<Vec<Start>>,
    },
    /// The engine settles what is running.
    Revoking { partitions: Vec<PartitionId>, deadline: Instant, answer: oneshot::Receiver<()> },
}

/// An answer that missed its deadline and still counts for partitions nobody took meanwhile.
struct Late {
    assignment: u64,
    answer: oneshot::Receiver<Vec<Start>>,
}

/// The state of all rebalances.
pub(crate) struct Rebalances {
    limits: Limits,
    wishes: VecDeque<Wish>,
    step: Option<Step>,
    late: Vec<Late>,
    /// Counts assignments, so that answers and descriptions find theirs.
    assignment: u64,
    /// The member id of the newest assignment.
    member: Arc<str>,
    described: Option<HashMap<Topic, Option<TopicId>>>,
    generation: Option<i32>,
    /// The generation changed, and it was not looked yet whether the member is another.
    joined: bool,
    generation_at: Option<Instant>,
}

impl Rebalances {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            wishes: VecDeque::new(),
            step: None,
            late: Vec::new(),
            assignment: 0,
            member: Arc::from(""),
            described: None,
            generation: None,
            joined: false,
            generation_at: None,
        }
    }

    /// Whether the generation has changed since this was asked last.
    pub(crate) fn take_joined(&mut self) -> bool {
        std::mem::take(&mut self.joined)
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn assign(&mut self, partitions: Vec<PartitionId>, member: Arc<str>) {
        self.wishes.push_back(Wish::Assign(partitions, member));
    }

    pub(crate) fn revoke(&mut self, partitions: Vec<PartitionId>, ownership: Ownership) {
        self.wishes.push_back(Wish::Revoke(partitions, ownership));
    }

    /// Whether librdkafka waits for an assign or unassign, as far as we know.
    pub(crate) fn is_under_way(&self) -> bool {
        self.step.is_some() || !self.wishes.is_empty()
    }

    /// What was just heard may have been answered by an unassign that meant something else: the
    /// group may have gone on already.
    pub(crate) fn distrust(&mut self) {
        for wish in &mut self.wishes {
            if let Wish::Revoke(_, ownership) = wish {
                *ownership = Ownership::Lost;
            }
        }
    }

    /// Forgets everything that is under way: the consumer it was said to is gone. Returns the
    /// partitions that the engine was asked about.
    pub(crate) fn abandon(&mut self) -> Vec<PartitionId> {
        let former = std::mem::replace(self, Self::new(self.limits));
        // Descriptions that are still being asked for belong to none of the next.
        self.assignment = former.assignment;
        match former.step {
            Some(Step::Assigning { partitions, .. } | Step::Revoking { partitions, .. }) => {
                partitions
            }
            Some(Step::Describing { .. }) | None => Vec::new(),
        }
    }

    pub(crate) fn described(&mut self, assignment: u64, ids: HashMap<Topic, Option<TopicId>>) {
        if assignment == self.assignment {
            self.described = Some(ids);
        }
    }

    /// The partitions that the group gave and the engine is asked about: they are ours already.
    pub(crate) fn incoming(&self) -> &[PartitionId] {
        match &self.step {
            Some(Step::Describing { partitions, .. } | Step::Assigning { partitions, .. }) => {
                partitions
            }
            Some(Step::Revoking { .. }) | None => &[],
        }
    }

    /// When the step under way must end.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.step.as_ref().map(|step| match step {
            Step::Describing { until, .. } => *until,
            Step::Assigning { deadline, .. } | Step::Revoking { deadline, .. } => *deadline,
        })
    }

    /// Whether the member's generation is another than when this was asked last.
    pub(crate) fn generation_changed(&mut self, consumer: &Consumer) -> bool {
        if self.generation_at.is_some_and(|at| at.elapsed() < GENERATION_EVERY) {
            return false;
        }
        self.generation_at = Some(Instant::now());
        let generation = GroupMetadata::of(consumer).map(|metadata| metadata.generation());
        let changed = generation.is_some_and(|now| now >= 0) && generation != self.generation;
        if changed {
            self.generation = generation;
            self.joined = true;
        }
        changed
    }
}

/// Looks at an answer without waiting; `waker` is told when it comes.
fn look<T>(answer: &mut oneshot::Receiver<T>, waker: &Arc<Waker>) -> Option<Option<T>> {
    let waker = TaskWaker::from(Arc::clone(waker));
    match Pin::new(answer).poll(&mut Context::from_waker(&waker)) {
        Poll::Pending => None,
        // An answer that was dropped is the answer "nothing".
        Poll::Ready(answer) => Some(answer.ok()),
    }
}

impl Reader {
    /// Moves the rebalance under way on as far as it goes without waiting.
    pub(crate) fn step_rebalance(&mut self) {
        self.take_late_answers();
        loop {
            let Some(step) = self.rebalances.step.take() else {
                match self.rebalances.wishes.pop_front() {
                    Some(Wish::Assign(partitions, member)) => {
                        self.rebalances.member = member;
                        self.begin_assign(partitions);
                    }
                    Some(Wish::Revoke(partitions, ownership)) => {
                        self.begin_revoke(partitions, ownership);
                    }
                    None => return,
                }
                continue;
            };
            let now = Instant::now();
            match step {
                Step::Describing { partitions, until } => {
                    if self.rebalances.described.is_none() && now < until {
                        self.rebalances.step = Some(Step::Describing { partitions, until });
                        return;
                    }
                    self.ask_for_starts(partitions);
                }
                Step::Assigning { partitions, deadline, mut answer } => {
                    match look(&mut answer, &self.waker) {
                        Some(starts) => {
                            self.finish_assign(&partitions, &starts.unwrap_or_default())
                        }
                        None if now < deadline && !self.consumer.assignment_lost() => {
                            self.rebalances.step =
                                Some(Step::Assigning { partitions, deadline, answer });
                            return;
                        }
                        None => {
                            tracing::warn!(?partitions, "assignment not answered in time");
                            let assignment = self.rebalances.assignment;
                            self.rebalances.late.push(Late { assignment, answer });
                            self.finish_assign(&partitions, &[]);
                        }
                    }
                }
                Step::Revoking { partitions, deadline, mut answer } => {
                    let lost = self.consumer.assignment_lost();
                    if look(&mut answer, &self.waker).is_none() && now < deadline && !lost {
                        self.rebalances.step =
                            Some(Step::Revoking { partitions, deadline, answer });
                        return;
                    }
                    if lost {
                        self.events.send(SourceEvent::Lost(partitions.clone()));
                    } else if now >= deadline {
                        tracing::warn!(?partitions, "revocation not settled in time");
                    }
                    self.finish_revoke(&partitions, if lost { "lost" } else { "revoke" });
                }
            }
        }
    }

    fn begin_assign(&mut self, partitions: Vec<PartitionId>) {
        tracing::info!(?partitions, "partitions assigned");
        self.rebalances.assignment += 1;
        self.rebalances.described = None;
        if partitions.is_empty() {
            self.finish_assign(&[], &[]);
            return;
        }
        let topics: HashSet<Topic> = partitions.iter().map(|id| id.topic().clone()).collect();
        let topics: Vec<Topic> = topics.into_iter().collect();
        let (consumer, remote) = (Arc::clone(&self.consumer), self.remote.clone());
        let assignment = self.rebalances.assignment;
        self.helper.run(move || {
            remote.send(Command::Described(assignment, topic_ids(&consumer, &topics)));
        });
        self.rebalances.step = Some(Step::Describing {
            partitions,
            until: Instant::now() + DESCRIBE_MAX.min(self.rebalances.limits.claim_max / 4),
        });
    }

    fn ask_for_starts(&mut self, partitions: Vec<PartitionId>) {
        let ids = self.rebalances.described.take().unwrap_or_default();
        let deadline = Instant::now() + self.rebalances.limits.claim_max;
        let assigned = partitions
            .iter()
            .map(|partition| AssignedPartition {
                partition: partition.clone(),
                topic_id: ids.get(partition.topic()).copied().flatten(),
            })
            .collect();
        let (assignment, answer) = Assignment::new(assigned, deadline);
        self.rebalances.step = Some(Step::Assigning { partitions, deadline, answer });
        self.events.send(SourceEvent::Assigned(assignment));
    }

    /// Gives librdkafka the assignment with explicit positions. A partition without a start stays
    /// ours, but librdkafka is not told of it until its start becomes known: assigned at a logical
    /// position such as the end, it could be sought back there by a late answer of the broker.
    fn finish_assign(&mut self, partitions: &[PartitionId], starts: &[Start]) {
        self.hold_positions();
        let now = Instant::now();
        for id in partitions {
            let member = Arc::clone(&self.rebalances.member);
            let assignment = self.rebalances.assignment;
            let partition = Partition::new(id.clone(), assignment, member, self.headers);
            self.partitions.insert(id.clone(), partition);
        }
        for start in starts.iter().filter(|start| partitions.contains(&start.partition)) {
            if let Some(partition) = self.partitions.get_mut(&start.partition) {
                partition.reposition(start, now);
            }
        }
        if let Err(error) = self.assign_unfetched() {
            tracing::warn!(%error, "assign failed");
        }
        self.end_rebalance("assign");
    }

    fn begin_revoke(&mut self, partitions: Vec<PartitionId>, ownership: Ownership) {
        for id in &partitions {
            if let Some(partition) = self.partitions.get_mut(id) {
                partition.stop();
            }
        }
        let is_lost = ownership == Ownership::Lost || self.consumer.assignment_lost();
        if is_lost || !self.of_former_member(&partitions).is_empty() {
            tracing::warn!(?partitions, "partitions lost");
            self.events.send(SourceEvent::Lost(partitions.clone()));
            self.finish_revoke(&partitions, "lost");
            return;
        }
        tracing::info!(?partitions, "partitions revoked");
        if partitions.is_empty() {
            self.finish_revoke(&[], "revoke");
            return;
        }
        let deadline = Instant::now() + self.rebalances.limits.drain_max;
        let (revocation, answer) = Revocation::new(partitions.clone(), deadline);
        self.rebalances.step = Some(Step::Revoking { partitions, deadline, answer });
        self.events.send(SourceEvent::Revoked(revocation));
    }

    fn finish_revoke(&mut self, partitions: &[PartitionId], kind: &'static str) {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for id in partitions {
            let partition = self.partitions.remove(id);
            // librdkafka refuses the whole list if it holds what it was never assigned.
            if partition.is_some_and(|partition| partition.is_fetched()) {
                list.add_partition(id.topic().as_str(), id.index());
            }
        }
        self.hold_positions();
        let result = match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_unassign(&list),
            RebalanceProtocol::Eager | RebalanceProtocol::None => {
                self.partitions.clear();
                self.consumer.unassign()
            }
        };
        if let Err(error) = result {
            tracing::warn!(%error, "unassign failed");
        }
        self.end_rebalance(kind);
    }

    fn end_rebalance(&mut self, kind: &'static str) {
        // Positions that could not be told before.
        self.position_due();
        self.orphans.group_changed(Instant::now());
        metrics::rebalanced(kind, self.partitions.len());
        self.events.send(SourceEvent::GroupChanged);
    }

    /// Starts partitions whose answer came after the deadline, if they are still waiting for it.
    fn take_late_answers(&mut self) {
        let now = Instant::now();
        let mut waiting = Vec::new();
        for mut late in std::mem::take(&mut self.rebalances.late) {
            let Some(starts) = look(&mut late.answer, &self.waker) else {
                waiting.push(late);
                continue;
            };
            for start in starts.unwrap_or_default() {
                if let Some(partition) = self.partitions.get_mut(&start.partition)
                    && partition.is_parked()
                    && partition.assignment == late.assignment
                {
                    partition.reposition(&start, now);
                }
            }
        }
        self.rebalances.late = waiting;
    }
}

/// The ids of these topics, which exist, as far as the cluster tells.
fn topic_ids(consumer: &Consumer, topics: &[Topic]) -> HashMap<Topic, Option<TopicId>> {
    let waits_in_vain =
        |known: &Topic| ffi::has_false_controller(consumer.client(), known, DESCRIBE_MAX);
    if topics.first().is_some_and(waits_in_vain) {
        tracing::debug!("topic ids are not available: the controller is none of the brokers");
        return HashMap::new();
    }
    let ids = ffi::describe_topics(consumer.client(), topics, DESCRIBE_MAX);
    ids.unwrap_or_else(|failure| {
        tracing::debug!(%failure, "topic ids are not available");
        HashMap::new()
    })
}
