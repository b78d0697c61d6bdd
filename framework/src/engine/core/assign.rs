//! Where partitions come from and go to: assignment, claim, start, fence, revocation.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{Action, Call, Core, Partition, Phase};
use crate::delivery::Progress;
use crate::engine::observe::EngineEvent;
use crate::engine::work::Gate;
use crate::error::{Cause, Error};
use crate::lanes::Lanes;
use crate::record::{Epoch, Offset, PartitionId};
use crate::sink::{Claim, ClaimRequest, CommitError, Move, SinkError, Stored};
use crate::source::{
    AssignedPartition, Position, Resolved, SourceError, Start, Unresolved, Wanted,
};
use crate::tracker::Tracker;

/// An assignment or revocation that waits for its answer.
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) partitions: Vec<PartitionId>,
    pub(super) deadline: Duration,
    /// Revocations: their partitions are being released.
    releasing: bool,
}

/// More fences than this within a minute mean a twin: the engine stops and says so.
const FENCES_PER_MINUTE: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);
/// First wait after a failed claim; it doubles up to five seconds.
const CLAIM_BACKOFF: Duration = Duration::from_millis(100);

impl<O> Core<O> {
    pub(super) fn on_assigned(
        &mut self,
        id: u64,
        partitions: Vec<AssignedPartition>,
        deadline: Duration,
        actions: &mut Vec<Action<O>>,
    ) {
        let names: Vec<PartitionId> = partitions.iter().map(|p| p.partition.clone()).collect();
        if self.finished {
            actions.push(Action::AnswerAssigned { id, starts: Vec::new() });
            return;
        }
        actions.push(Action::Tell(EngineEvent::Assigned { partitions: names.clone() }));
        for assigned in partitions {
            self.forget(&assigned.partition, "assigned again", actions);
            let epoch = self.next_epoch();
            let partition = Partition {
                topic_id: assigned.topic_id,
                epoch,
                phase: Phase::Claim { at: self.now },
                tracker: Tracker::new(Offset::ZERO),
                lanes: Lanes::new(self.config.order),
                gate: Arc::new(Gate::default()),
                committed: Offset::ZERO,
                has_stored: false,
                known_start: None,
                cut_records: 0,
                cut_bytes: 0,
                credit_records: 0,
                credit_bytes: 0,
                broken: None,
                paused: self.paused_all,
                frozen: false,
                unadmitted: VecDeque::new(),
                assignment: Some(id),
                reported_stuck: None,
                id: assigned.partition,
            };
            self.insert(partition);
        }
        self.assignments.push(Pending { id, partitions: names, deadline, releasing: false });
    }

    fn insert(&mut self, partition: Partition<O>) {
        let id = partition.id.clone();
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(free) => {
                self.slots[free] = Some(partition);
                free
            }
            None => {
                self.slots.push(Some(partition));
                self.slots.len() - 1
            }
        };
        self.index.insert(id, u32::try_from(slot).expect("fewer partitions than u32::MAX"));
    }

    /// Takes a partition out with all its work.
    fn forget(&mut self, id: &PartitionId, why: &'static str, actions: &mut Vec<Action<O>>) {
        let Some(slot) = self.index.remove(id) else {
            return;
        };
        let partition = self.slots[slot as usize].take().expect("indexed slots are filled");
        partition.gate.close();
        let records = partition.tracker.len() + partition.cut_records;
        if records > 0 {
            let epoch = partition.epoch;
            let partition = partition.id;
            actions.push(Action::Tell(EngineEvent::Dropped { partition, epoch, records, why }));
        }
    }

    /// Sends the claims that are due, one call at a time, and the questions behind them.
    pub(super) fn pump_claims(&mut self, actions: &mut Vec<Action<O>>) {
        self.pump_proof(actions);
        if self.claim_out.is_none() && self.stopping.is_none() {
            self.send_claim(actions);
        }
        if self.resolve_out.is_none() {
            self.send_resolve(actions);
        }
    }

    fn send_claim(&mut self, actions: &mut Vec<Action<O>>) {
        let now = self.now;
        let doubt = self.committing.wants_claim(now);
        let mut asked = Vec::new();
        let mut requests = Vec::new();
        for partition in self.partitions_mut() {
            let due = matches!(partition.phase, Phase::Claim { at } if at <= now);
            let doubtful = doubt && partition.is_read();
            if !(due || doubtful) || (partition.frozen && due) {
                continue;
            }
            if due {
                partition.phase = Phase::Claiming;
            }
            asked.push((partition.id.clone(), partition.epoch));
            requests.push(ClaimRequest {
                partition: partition.id.clone(),
                topic_id: partition.topic_id,
            });
        }
        if !requests.is_empty() {
            requests.sort_by(|a, b| a.partition.cmp(&b.partition));
            self.claim_out = Some(asked);
            actions.push(Action::Claim(requests));
        } else if doubt {
            // Nobody owns anything of the doubtful batch any more: whoever does will look.
            self.committing.drop_doubt();
        }
    }

    pub(super) fn on_claimed(
        &mut self,
        result: Result<Vec<Claim>, SinkError>,
        actions: &mut Vec<Action<O>>,
    ) {
        let asked = self.claim_out.take().unwrap_or_default();
        match result {
            Ok(claims) => {
                self.claim_failures = 0;
                let mut stored = Vec::new();
                for claim in claims {
                    let was_asked = asked.iter().find(|(id, _)| *id == claim.partition);
                    let Some((_, epoch)) = was_asked else {
                        continue;
                    };
                    if let Some(found) = self.on_claim(claim, *epoch, actions) {
                        stored.push(found);
                    }
                }
                self.resolve_doubt(&stored, actions);
            }
            Err(SinkError::Stop(error)) => self.begin_stop_with(error, actions),
            Err(SinkError::Rejected(rejection)) => {
                let error = Error::sink_failed(format_args!("claim: {}", rejection.cause));
                self.begin_stop_with(error, actions);
            }
            Err(SinkError::Retry(cause) | SinkError::Fenced(cause)) => {
                if cause.is_for_operator() {
                    self.begin_stop_with(
                        Error::sink_failed(format_args!("claim: {cause}")),
                        actions,
                    );
                    return;
                }
                self.claim_failures += 1;
                let doublings = self.claim_failures.min(6) - 1;
                let wait = self.jittered(CLAIM_BACKOFF * (1 << doublings));
                let at = self.now + wait;
                self.committing.delay_claim(at);
                for (id, epoch) in asked {
                    self.claim_later(&id, epoch, at);
                }
            }
        }
    }

    fn claim_later(&mut self, id: &PartitionId, epoch: Epoch, at: Duration) {
        if let Some((_, partition)) = self.current(id, epoch)
            && !partition.is_read()
        {
            partition.phase = Phase::Claim { at };
        }
    }

    /// One answer of a claim. A partition that is being read gives its stored position back: it
    /// was claimed because of a commit in doubt.
    fn on_claim(
        &mut self,
        claim: Claim,
        epoch: Epoch,
        actions: &mut Vec<Action<O>>,
    ) -> Option<Position> {
        let progress = self.config.progress;
        let (_, partition) = self.current(&claim.partition, epoch)?;
        let id = partition.id.clone();
        let stored = match &claim.stored {
            Stored::At(offset) => Some(*offset),
            _ => None,
        };
        actions.push(Action::Tell(EngineEvent::Claimed { partition: id.clone(), epoch, stored }));
        if partition.is_read() {
            let next = stored.unwrap_or(partition.committed);
            return Some(Position { partition: id, next });
        }
        let known = partition.known_start;
        let want = match (claim.stored, known) {
            (Stored::At(offset), _) => Wanted::Stored(id, offset),
            (Stored::Nothing | Stored::Added, Some(start)) => Wanted::Stored(id, start),
            (Stored::Nothing, None) if progress == Progress::Sink => {
                Wanted::StartOfTopic(id.topic().clone())
            }
            (Stored::Nothing, None) => Wanted::Start(id),
            (Stored::Added, None) => Wanted::Beginning(id),
            (Stored::Refused(cause), _) => {
                self.fail(&claim.partition, cause.to_string(), actions);
                return None;
            }
        };
        if let Wanted::Stored(_, offset) = &want {
            partition.committed = *offset;
            partition.has_stored = true;
        }
        partition.phase = Phase::Resolving { want };
        None
    }

    fn send_resolve(&mut self, actions: &mut Vec<Action<O>>) {
        let mut asked = Vec::new();
        let mut wanted = Vec::new();
        for partition in self.partitions() {
            if let Phase::Resolving { want } = &partition.phase {
                asked.push((partition.id.clone(), partition.epoch));
                if !wanted.contains(want) {
                    wanted.push(want.clone());
                }
            }
        }
        if !wanted.is_empty() {
            self.resolve_out = Some(asked);
            actions.push(Action::Resolve { call: Call::Starts, wanted });
        }
    }

    pub(super) fn on_resolved(
        &mut self,
        result: Result<Vec<Resolved>, SourceError>,
        actions: &mut Vec<Action<O>>,
    ) {
        let asked = self.resolve_out.take().unwrap_or_default();
        let found = match result {
            Ok(found) => found,
            Err(SourceError::Stop(error)) => return self.begin_stop_with(error, actions),
            Err(SourceError::Retry(_) | SourceError::Fenced(_)) => Vec::new(),
        };
        let mut moves: Vec<Move> = Vec::new();
        let mut topics = BTreeSet::new();
        for (id, epoch) in asked {
            let answer = found.iter().find(|resolved| resolved.partition == id);
            let wait = self.jittered(CLAIM_BACKOFF * 2);
            let again = self.now + wait;
            let Some((_, partition)) = self.current(&id, epoch) else {
                continue;
            };
            let Phase::Resolving { want } = &partition.phase else {
                continue;
            };
            match answer.map(|resolved| &resolved.position) {
                Some(Ok(offset)) if matches!(want, Wanted::Stored(..)) => {
                    partition.committed = *offset;
                    partition.tracker = Tracker::new(*offset);
                    partition.phase = Phase::Ready;
                }
                Some(Ok(offset)) => {
                    if let Wanted::StartOfTopic(topic) = want {
                        topics.insert((topic.clone(), partition.topic_id.map(|id| id.0)));
                    }
                    moves.push(Move {
                        partition: id,
                        expected: None,
                        next: *offset,
                        topic_id: partition.topic_id,
                    });
                    partition.phase = Phase::Storing;
                }
                Some(Err(Unresolved::Temporary(_))) | None => {
                    partition.phase = Phase::Claim { at: again };
                }
                Some(Err(error)) => {
                    let error = error.to_string();
                    self.fail(&id, error, actions);
                }
            }
        }
        add_rest_of_topics(&mut moves, &topics, &found);
        if !moves.is_empty() {
            moves.sort_by(|a, b| a.partition.cmp(&b.partition));
            actions.push(Action::Reposition { call: Call::Starts, moves });
        }
    }

    /// First starts were stored. What is claimed next answers what really stands there: somebody
    /// else may have stored another start first.
    pub(super) fn on_repositioned(
        &mut self,
        moves: Vec<Move>,
        result: Result<(), CommitError>,
        actions: &mut Vec<Action<O>>,
    ) {
        let wait = self.jittered(CLAIM_BACKOFF);
        let (at, stored) = match &result {
            Ok(()) => (self.now, true),
            Err(CommitError::Aborted(cause)) if cause.is_for_operator() => {
                return self.begin_stop_with(
                    Error::sink_failed(format_args!("first start: {cause}")),
                    actions,
                );
            }
            Err(_) => (self.now + wait, false),
        };
        for to in moves {
            let Some(partition) = self.get_mut(&to.partition) else {
                continue;
            };
            if partition.phase != Phase::Storing {
                continue;
            }
            partition.phase = Phase::Claim { at };
            if stored {
                partition.known_start = Some(to.next);
                let (partition, next) = (to.partition, to.next);
                actions.push(Action::Tell(EngineEvent::Repositioned { partition, next }));
            }
        }
    }

    /// The partition stops by name; the others go on.
    pub(super) fn fail(&mut self, id: &PartitionId, error: String, actions: &mut Vec<Action<O>>) {
        let Some(partition) = self.get_mut(id) else {
            return;
        };
        if partition.is_read() {
            partition.broken = Some(error.clone());
        } else {
            partition.phase = Phase::Failed(error.clone());
        }
        let partition = id.clone();
        actions.push(Action::Tell(EngineEvent::PartitionFailed { partition, error }));
    }

    pub(super) fn on_partition_failed(
        &mut self,
        id: &PartitionId,
        epoch: Epoch,
        error: String,
        actions: &mut Vec<Action<O>>,
    ) {
        if self.current(id, epoch).is_some() {
            self.fail(id, error, actions);
        }
    }

    pub(super) fn on_source_failed(&mut self, error: SourceError, actions: &mut Vec<Action<O>>) {
        let error = match error {
            SourceError::Stop(error) => error,
            SourceError::Fenced(cause) => Error::fenced(cause),
            SourceError::Retry(cause) => Error::source_failed(cause),
        };
        self.begin_stop_with(error, actions);
    }

    /// Another owner took over, or stored progress is not where it was expected: the work goes,
    /// and the partition is claimed again if it is still ours after a while.
    pub(super) fn fence(
        &mut self,
        ids: &[PartitionId],
        cause: &Cause,
        actions: &mut Vec<Action<O>>,
    ) {
        let now = self.now;
        self.fences.retain(|at| *at + MINUTE > now);
        self.fences.push_back(now);
        if self.fences.len() > FENCES_PER_MINUTE {
            let error = Error::fenced(format_args!(
                "fenced {} times within a minute: {cause}",
                self.fences.len()
            ))
            .remedy("look for another process with the same group and instance name");
            return self.begin_stop_with(error, actions);
        }
        for id in ids {
            let wait = self.jittered(CLAIM_BACKOFF * 3);
            let at = now + wait;
            let proof = self.config.prove_membership;
            let phase = if proof { Phase::Proving { at: Some(at) } } else { Phase::Claim { at } };
            self.recover(id, phase, "fenced", actions);
        }
    }

    /// Drops a partition's work under a new epoch and starts over in this phase.
    pub(super) fn recover(
        &mut self,
        id: &PartitionId,
        phase: Phase,
        why: &'static str,
        actions: &mut Vec<Action<O>>,
    ) {
        let epoch = self.next_epoch();
        let order = self.config.order;
        let Some(partition) = self.get_mut(id) else {
            return;
        };
        let old = partition.epoch;
        let cut = partition.cut_records;
        let records = partition.restart(epoch, order) + cut;
        partition.phase = phase;
        if records > 0 {
            let partition = id.clone();
            actions.push(Action::Tell(EngineEvent::Dropped {
                partition,
                epoch: old,
                records,
                why,
            }));
        }
    }

    fn pump_proof(&mut self, actions: &mut Vec<Action<O>>) {
        if self.proof_out || self.stopping.is_some() {
            return;
        }
        let now = self.now;
        let due: Vec<Position> = self
            .partitions()
            .filter(|p| {
                matches!(p.phase, Phase::Proving { at: Some(at) } if at <= now) && !p.frozen
            })
            .map(|p| Position { partition: p.id.clone(), next: p.committed })
            .collect();
        if !due.is_empty() {
            self.proof_out = true;
            for position in &due {
                if let Some(partition) = self.get_mut(&position.partition) {
                    partition.phase = Phase::Proving { at: None };
                }
            }
            actions.push(Action::Prove(due));
        }
    }

    pub(super) fn on_proved(
        &mut self,
        result: Result<(), SourceError>,
        actions: &mut Vec<Action<O>>,
    ) {
        self.proof_out = false;
        let next = match result {
            Ok(()) => Phase::Claim { at: self.now },
            Err(SourceError::Stop(error)) => return self.begin_stop_with(error, actions),
            Err(SourceError::Retry(_) | SourceError::Fenced(_)) => {
                let wait = self.jittered(Duration::from_secs(1));
                Phase::Proving { at: Some(self.now + wait) }
            }
        };
        for partition in self.partitions_mut() {
            if partition.phase == (Phase::Proving { at: None }) {
                partition.phase = next.clone();
            }
        }
    }

    /// Answers assignments whose partitions are all known, or whose time is up; starts partitions
    /// that became known after their assignment was answered.
    pub(super) fn pump_assignments(&mut self, actions: &mut Vec<Action<O>>) {
        let now = self.now;
        let mut at = 0;
        while at < self.assignments.len() {
            let pending = &self.assignments[at];
            let open = pending.partitions.iter().any(|id| {
                self.get(id).is_some_and(|p| {
                    p.assignment == Some(pending.id)
                        && !matches!(p.phase, Phase::Ready | Phase::Failed(_))
                })
            });
            if open && now < pending.deadline && self.stopping.is_none() {
                at += 1;
                continue;
            }
            let pending = self.assignments.swap_remove(at);
            let mut starts = Vec::new();
            for id in &pending.partitions {
                let Some(partition) = self.get_mut(id) else {
                    continue;
                };
                if partition.assignment == Some(pending.id) {
                    partition.assignment = None;
                    starts.extend(partition.begin());
                }
            }
            tell_started(&starts, actions);
            actions.push(Action::AnswerAssigned { id: pending.id, starts });
        }
        let mut late = Vec::new();
        for partition in self.partitions_mut() {
            if partition.assignment.is_none() && !partition.frozen {
                late.extend(partition.begin());
            }
        }
        if !late.is_empty() {
            tell_started(&late, actions);
            actions.push(Action::StartReading(late));
        }
    }

    pub(super) fn on_revoked(
        &mut self,
        id: u64,
        partitions: Vec<PartitionId>,
        deadline: Duration,
        actions: &mut Vec<Action<O>>,
    ) {
        if self.finished {
            actions.push(Action::AnswerRevoked { id });
            return;
        }
        actions.push(Action::Tell(EngineEvent::Revoked { partitions: partitions.clone() }));
        for name in &partitions {
            if let Some(partition) = self.get_mut(name) {
                partition.frozen = true;
                partition.gate.close();
            }
        }
        let deadline = deadline.min(self.now + self.config.limits.drain_max);
        self.revocations.push(Pending { id, partitions, deadline, releasing: false });
    }

    /// Hands partitions back when nothing of them runs, waits or is being stored any more, or when
    /// the time is up.
    pub(super) fn pump_revocations(&mut self, actions: &mut Vec<Action<O>>) {
        for at in (0..self.revocations.len()).rev() {
            let pending = &self.revocations[at];
            let late = self.now >= pending.deadline;
            let settled = pending.partitions.iter().all(|id| self.is_settled(id));
            if late {
                let pending = self.revocations.swap_remove(at);
                self.hand_back(&pending, actions);
            } else if settled && !pending.releasing {
                let partitions: Vec<PartitionId> = pending
                    .partitions
                    .iter()
                    .filter(|id| self.get(id).is_some_and(Partition::is_read))
                    .cloned()
                    .collect();
                let revocation = pending.id;
                self.revocations[at].releasing = true;
                actions.push(Action::Release { revocation, partitions });
            }
        }
    }

    /// Whether nothing of this partition is running, can be cut or is being stored.
    pub(super) fn is_settled(&self, id: &PartitionId) -> bool {
        self.get(id).is_none_or(|partition| {
            !partition.is_read()
                || (partition.lanes.running() == 0
                    && !partition.tracker.can_cut()
                    && !self.committing.holds(id, partition.epoch))
        })
    }

    pub(super) fn on_released(&mut self, revocation: u64, actions: &mut Vec<Action<O>>) {
        if let Some(at) = self.revocations.iter().position(|pending| pending.id == revocation) {
            let pending = self.revocations.swap_remove(at);
            self.hand_back(&pending, actions);
        }
    }

    fn hand_back(&mut self, pending: &Pending, actions: &mut Vec<Action<O>>) {
        for id in &pending.partitions {
            self.forget(id, "revoked", actions);
        }
        let partitions = pending.partitions.clone();
        actions.push(Action::Tell(EngineEvent::HandedBack { partitions }));
        actions.push(Action::AnswerRevoked { id: pending.id });
    }

    pub(super) fn on_lost(&mut self, partitions: Vec<PartitionId>, actions: &mut Vec<Action<O>>) {
        for id in &partitions {
            self.forget(id, "lost", actions);
        }
        actions.push(Action::Tell(EngineEvent::Lost { partitions }));
    }
}

impl<O> Partition<O> {
    /// A partition whose position is known begins to be read.
    fn begin(&mut self) -> Option<Start> {
        if self.phase != Phase::Ready {
            return None;
        }
        self.phase = Phase::Active;
        Some(Start { partition: self.id.clone(), epoch: self.epoch, offset: self.committed })
    }
}

fn tell_started<O>(starts: &[Start], actions: &mut Vec<Action<O>>) {
    for start in starts {
        let Start { partition, epoch, offset } = start.clone();
        actions.push(Action::Tell(EngineEvent::Started { partition, epoch, offset }));
    }
}

/// The partitions of these topics that are not asked for themselves get their start at the same
/// time, so that every partition of a topic starts by the same decision.
fn add_rest_of_topics(
    moves: &mut Vec<Move>,
    topics: &BTreeSet<(crate::record::Topic, Option<[u8; 16]>)>,
    found: &[Resolved],
) {
    for (topic, id) in topics {
        for resolved in found.iter().filter(|resolved| resolved.partition.topic() == topic) {
            let Ok(next) = &resolved.position else {
                continue;
            };
            if moves.iter().all(|to| to.partition != resolved.partition) {
                moves.push(Move {
                    partition: resolved.partition.clone(),
                    expected: None,
                    next: *next,
                    topic_id: id.map(crate::sink::TopicId),
                });
            }
        }
    }
}
