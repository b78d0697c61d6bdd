//! A process of a pipeline as a sink: the member of the group, and the sink of its source. It does
//! what the engine does around a claim and a commit, so that the conformance kit needs to know
//! nothing of groups.

use std::time::Duration;

use tidegate::batch::{Batch, Span};
use tidegate::record::{Epoch, PartitionId};
use tidegate::sink::{
    Claim, ClaimRequest, CommitError, Move, SinkContext, SinkDescription, SinkError, Stored,
    TransactionalSink,
};
use tidegate::source::{Assignment, Source, SourceContext, SourceEvent};
use tidegate_kafka::{KafkaSink, Message};

use crate::support::{Member, kafka, source_context};

/// The group is asked at least twice in this time whether we are still a member of it.
const HEARTBEATS: Duration = Duration::from_millis(1_500);

/// A process that joins its group when it claims for the first time.
pub(crate) struct Process {
    group: String,
    dead: String,
    context: Option<SinkContext>,
    joined: Option<Joined>,
}

struct Joined {
    member: Member,
    sink: KafkaSink,
    /// Assignments that wait for the starts of their partitions.
    waiting: Vec<Assignment>,
    is_member: IsMember,
}

/// What the last commit said of our place in the group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IsMember {
    AsFarAsWeKnow,
    /// It was in doubt: if we were fenced, the group says so soon.
    Perhaps,
    No,
}

impl Process {
    pub(crate) fn new(group: &str, dead: &str) -> Self {
        Self { group: group.into(), dead: dead.into(), context: None, joined: None }
    }

    /// Joins the group under the name of what it asks for: whoever asks for the same takes its
    /// place, as a restarted instance takes that of the one that died.
    async fn join(&self, partitions: &[ClaimRequest]) -> Result<Joined, SinkError> {
        let instance = Some(instance(partitions));
        let context = self.context.clone().expect("opened");
        let context = SinkContext { group: self.group.clone(), instance, ..context };
        let topics: Vec<String> =
            partitions.iter().map(|request| request.partition.topic().to_string()).collect();
        let source = kafka().source(topics);
        let mut sink = source.sink().lineage().dead_letters(self.dead.as_str());
        sink.open(&context).await?;
        let member = SourceContext { instance: context.instance, ..source_context(&self.group) };
        let mut member = Member::join_with(source, &member).await;
        let (mut waiting, mut assigned) = (Vec::new(), Vec::new());
        while !partitions.iter().all(|request| assigned.contains(&request.partition)) {
            let assignment = member.assigned().await;
            assigned.extend(assignment.partitions.iter().map(|one| one.partition.clone()));
            waiting.push(assignment);
        }
        Ok(Joined { member, sink, waiting, is_member: IsMember::AsFarAsWeKnow })
    }

    fn joined(&mut self) -> &mut Joined {
        self.joined.as_mut().expect("claimed before anything else")
    }
}

/// The transactional id of a process that asked for this partition.
pub(crate) fn transactional_id(group: &str, partition: &PartitionId) -> String {
    let request = ClaimRequest { partition: partition.clone(), topic_id: None };
    format!("{group}-{}-0", instance(&[request]))
}

fn instance(partitions: &[ClaimRequest]) -> String {
    let mut names: Vec<String> =
        partitions.iter().map(|request| request.partition.topic().to_string()).collect();
    names.sort();
    names.join("+")
}

impl Joined {
    /// Whether another took our place; what else was said of the group is left out.
    async fn is_replaced(&mut self) -> bool {
        let patience = match std::mem::replace(&mut self.is_member, IsMember::AsFarAsWeKnow) {
            IsMember::No => return true,
            IsMember::Perhaps => HEARTBEATS,
            IsMember::AsFarAsWeKnow => Duration::ZERO,
        };
        // A deadline, not a pause: the ends of the logs are told again and again.
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match tokio::time::timeout_at(deadline, self.member.events.recv()).await {
                Ok(Some(SourceEvent::Failed(_) | SourceEvent::Lost(_)) | None) => return true,
                Ok(Some(_)) => {}
                Err(_) => return false,
            }
        }
    }

    /// The source starts where the store says, under a new epoch.
    fn start(&mut self, claims: &[Claim]) {
        let starts: Vec<(PartitionId, i64)> = claims
            .iter()
            .filter_map(|claim| match &claim.stored {
                Stored::At(next) => Some((claim.partition.clone(), next.get())),
                _ => None,
            })
            .collect();
        if starts.len() < claims.len() {
            return;
        }
        let at =
            |id: &PartitionId| starts.iter().find(|(known, _)| known == id).map(|found| found.1);
        if self.waiting.is_empty() {
            let starts = starts.iter().map(|(id, next)| self.member.start(id, *next)).collect();
            self.member.source.reposition(starts);
        }
        for assignment in std::mem::take(&mut self.waiting) {
            self.member.answer(assignment, |id| at(id).expect("all of them were claimed"));
        }
    }

    /// The batch under the epochs of this process; what is not assigned has none.
    fn stamped(&self, batch: &Batch<Message>) -> Batch<Message> {
        let epoch = |id| self.member.epochs.get(id).copied().unwrap_or(Epoch::new(0));
        let spans = batch.spans().iter();
        let spans = spans.map(|span| Span { epoch: epoch(&span.partition), ..span.clone() });
        Batch::new(spans.collect(), batch.finished().to_vec())
    }
}

impl TransactionalSink for Process {
    type Output = Message;

    async fn open(&mut self, context: &SinkContext) -> Result<(), SinkError> {
        self.context = Some(context.clone());
        Ok(())
    }

    fn describe(&self) -> SinkDescription {
        SinkDescription { kind: "kafka".into(), ..SinkDescription::default() }
    }

    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        let is_member = match &mut self.joined {
            Some(joined) => !joined.is_replaced().await,
            None => false,
        };
        if !is_member {
            self.joined = None;
            self.joined = Some(self.join(partitions).await?);
        }
        let joined = self.joined();
        let claims = joined.sink.claim(partitions).await?;
        joined.start(&claims);
        Ok(claims)
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        self.joined().sink.reposition(moves).await
    }

    async fn commit(&mut self, batch: &Batch<Message>) -> Result<(), CommitError> {
        let joined = self.joined();
        let batch = joined.stamped(batch);
        let result = joined.sink.commit(&batch).await;
        joined.is_member = match &result {
            Err(CommitError::Fenced(_)) => IsMember::No,
            Err(CommitError::InDoubt(_)) => IsMember::Perhaps,
            _ => joined.is_member,
        };
        result
    }

    async fn probe(&mut self, batch: &Batch<Message>) -> Result<(), CommitError> {
        let joined = self.joined();
        let batch = joined.stamped(batch);
        joined.sink.probe(&batch).await
    }

    async fn release(&mut self, partitions: &[PartitionId]) {
        self.joined().sink.release(partitions).await;
    }

    async fn close(&mut self) {
        if let Some(Joined { member, mut sink, .. }) = self.joined.take() {
            sink.close().await;
            member.close().await;
        }
    }
}
