//! A core on a bench: what it says is sorted, and answered by hand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::{Action, Call, Config, Control, ControlReply, Core, Event, PartitionState};
use crate::batch::{Batch, DeadReason, Outputs, Span};
use crate::delivery::{Fate, Guarantee, Progress};
use crate::engine::observe::EngineEvent;
use crate::engine::work::{Completion, Job, Said, Ticket};
use crate::error::{Cause, Error};
use crate::policy::Retry;
use crate::process::{Attempt, Failure};
use crate::record::{Epoch, Headers, Offset, PartitionId, RawRecord};
use crate::settings::{Order, Settings};
use crate::sink::{Claim, ClaimRequest, Move, Stored};
use crate::source::{AssignedPartition, Chunk, Credit, Resolved, Start, Wanted};

pub(super) struct Rig {
    pub(super) core: Core<u32>,
    pub(super) now: Duration,
    numbers: u64,
    /// What was said and is not answered.
    pub(super) jobs: VecDeque<Job>,
    pub(super) commits: VecDeque<Batch<u32>>,
    pub(super) claims: VecDeque<Vec<ClaimRequest>>,
    pub(super) asked: VecDeque<(Call, Vec<Wanted>)>,
    pub(super) moves: VecDeque<(Call, Vec<Move>)>,
    pub(super) admissions: VecDeque<Vec<Span>>,
    pub(super) proofs: VecDeque<Vec<Span>>,
    pub(super) releases: VecDeque<(u64, Vec<PartitionId>)>,
    pub(super) started: Vec<Start>,
    pub(super) credits: Vec<Credit>,
    pub(super) assigned: Vec<u64>,
    pub(super) revoked: Vec<u64>,
    pub(super) written_off: Vec<u64>,
    pub(super) replies: Vec<Result<(), Error>>,
    pub(super) told: Vec<EngineEvent>,
    pub(super) finished: Option<Result<(), Error>>,
}

pub(super) fn p(index: i32) -> PartitionId {
    PartitionId::new("in", index)
}

pub(super) fn at(offset: i64) -> Offset {
    Offset::new(offset)
}

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn cause() -> Cause {
    Cause::new("planted")
}

pub(super) fn settings() -> Settings {
    Settings { commit_interval: ms(10), ..Settings::default() }
}

/// The partitions, firsts and nexts of a batch.
pub(super) fn spans(batch: &Batch<u32>) -> Vec<(i32, i64, i64)> {
    let spans = batch.spans().iter();
    spans.map(|s| (s.partition.index(), s.first.get(), s.next.get())).collect()
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with_settings(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        Self::with(|config| config.limits = settings.check().expect("allowed"))
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            order: Order::ByPartition,
            policy: Retry::never().then_dead_letter(),
            limits: settings().check().expect("allowed"),
            guarantee: Guarantee::ExactlyOnce,
            progress: Progress::Sink,
            prove_membership: false,
            outstanding_max: 1000,
            run_max: 100,
            seed: 1,
        };
        change(&mut config);
        Self {
            core: Core::new(config),
            now: Duration::ZERO,
            numbers: 0,
            jobs: VecDeque::new(),
            commits: VecDeque::new(),
            claims: VecDeque::new(),
            asked: VecDeque::new(),
            moves: VecDeque::new(),
            admissions: VecDeque::new(),
            proofs: VecDeque::new(),
            releases: VecDeque::new(),
            started: Vec::new(),
            credits: Vec::new(),
            assigned: Vec::new(),
            revoked: Vec::new(),
            written_off: Vec::new(),
            replies: Vec::new(),
            told: Vec::new(),
            finished: None,
        }
    }

    pub(super) fn step(&mut self, events: impl IntoIterator<Item = Event<u32>>) {
        let mut actions = Vec::new();
        self.core.step(self.now, events, &mut actions);
        for action in actions {
            match action {
                Action::AnswerAssigned { id, starts } => {
                    self.assigned.push(id);
                    self.started.extend(starts);
                }
                Action::AnswerRevoked { id } => self.revoked.push(id),
                Action::Credit(grants) => self.credits.extend(grants),
                Action::Resolve { call, wanted } => self.asked.push_back((call, wanted)),
                Action::StartReading(starts) => self.started.extend(starts),
                Action::Claim(requests) => self.claims.push_back(requests),
                Action::Reposition { call, moves } => self.moves.push_back((call, moves)),
                Action::Prove(spans) => self.proofs.push_back(spans),
                Action::Admit(spans) => self.admissions.push_back(spans),
                Action::Commit(batch) => self.commits.push_back(batch),
                Action::Release { revocation, partitions } => {
                    self.releases.push_back((revocation, partitions));
                }
                Action::Mirror(_) => {}
                Action::Run(jobs) => self.jobs.extend(jobs),
                Action::WriteOff { seq, .. } => self.written_off.push(seq),
                Action::Reply { reply: ControlReply::Done(result), .. } => {
                    self.replies.push(result)
                }
                Action::Reply { .. } => {}
                Action::Tell(event) => self.told.push(event),
                Action::Finish(result) => self.finished = Some(result),
            }
        }
    }

    /// Lets time pass.
    pub(super) fn wait(&mut self, millis: u64) {
        self.now += ms(millis);
        self.step([]);
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// The group gives these partitions.
    pub(super) fn assign(&mut self, indices: &[i32], within: u64) -> u64 {
        let id = self.number();
        let partitions = indices
            .iter()
            .map(|index| AssignedPartition { partition: p(*index), topic_id: None })
            .collect();
        let deadline = self.now + ms(within);
        self.step([Event::Assigned { id, partitions, deadline }]);
        id
    }

    pub(super) fn revoke(&mut self, indices: &[i32], within: u64) -> u64 {
        let id = self.number();
        let partitions = indices.iter().map(|index| p(*index)).collect();
        let deadline = self.now + ms(within);
        self.step([Event::Revoked { id, partitions, deadline }]);
        id
    }

    /// Assigns and starts these partitions at 0.
    pub(super) fn start(indices: &[i32]) -> Self {
        let mut rig = Self::new();
        rig.begin(indices);
        rig
    }

    pub(super) fn begin(&mut self, indices: &[i32]) {
        self.assign(indices, 10_000);
        self.claimed(|_| Stored::At(at(0)));
        self.resolved(0);
        assert!(indices.iter().all(|i| self.started.iter().any(|s| s.partition == p(*i))));
    }

    /// Answers the claim that is out.
    pub(super) fn claimed(&mut self, stored: impl Fn(i32) -> Stored) {
        let requests = self.claims.pop_front().expect("a claim is out");
        let claims = requests.into_iter().map(|request| Claim {
            stored: stored(request.partition.index()),
            partition: request.partition,
        });
        self.step([Event::Claimed(Ok(claims.collect()))]);
    }

    /// Answers the question that is out: what is stored lies in the log, all else is at `other`.
    pub(super) fn resolved(&mut self, other: i64) {
        let (call, wanted) = self.asked.pop_front().expect("a position is asked for");
        let found = wanted.into_iter().map(|want| match want {
            Wanted::Stored(partition, offset) => Resolved { partition, position: Ok(offset) },
            Wanted::Start(partition)
            | Wanted::Beginning(partition)
            | Wanted::End(partition)
            | Wanted::At(partition, _) => Resolved { partition, position: Ok(at(other)) },
            Wanted::StartOfTopic(_) => Resolved { partition: p(0), position: Ok(at(other)) },
        });
        let result = Ok(found.collect());
        self.step([Event::Resolved { call, result }]);
    }

    /// Says that the positions that are out are stored.
    pub(super) fn moved(&mut self) {
        let (call, moves) = self.moves.pop_front().expect("positions are being stored");
        self.step([Event::Repositioned { call, moves, result: Ok(()) }]);
    }

    pub(super) fn epoch(&self, index: i32) -> Epoch {
        let status = self.core.status();
        status.partitions.iter().find(|s| s.partition == p(index)).expect("assigned").epoch
    }

    pub(super) fn state(&self, index: i32) -> PartitionState {
        let status = self.core.status();
        let found = status.partitions.into_iter().find(|s| s.partition == p(index));
        found.expect("assigned").state
    }

    pub(super) fn record(index: i32, offset: i64, key: Option<&'static str>) -> Arc<RawRecord> {
        Arc::new(RawRecord {
            partition: p(index),
            offset: at(offset),
            timestamp: None,
            key: key.map(|key| Bytes::from_static(key.as_bytes())),
            value: Some(Bytes::from_static(b"1234567890")),
            headers: Headers::default(),
        })
    }

    pub(super) fn chunk(&self, index: i32, offsets: impl IntoIterator<Item = i64>) -> Event<u32> {
        let records = offsets.into_iter().map(|offset| Self::record(index, offset, None)).collect();
        Event::Records(Chunk { partition: p(index), epoch: self.epoch(index), records })
    }

    /// Delivers records of a partition under its epoch.
    pub(super) fn deliver(&mut self, index: i32, offsets: impl IntoIterator<Item = i64>) {
        let chunk = self.chunk(index, offsets);
        self.step([chunk]);
    }

    pub(super) fn keyed(&mut self, index: i32, offset: i64, key: Option<&'static str>) {
        let epoch = self.epoch(index);
        let records = vec![Self::record(index, offset, key)];
        self.step([Event::Records(Chunk { partition: p(index), epoch, records })]);
    }

    pub(super) fn end(&mut self, index: i32, next: i64) {
        let (partition, epoch) = (p(index), self.epoch(index));
        self.step([Event::End { partition, epoch, next: at(next) }]);
    }

    /// The results of a job, each record emitting one.
    pub(super) fn done(job: &Job) -> Event<u32> {
        Event::Completed(job.tickets.iter().map(|ticket| one(job, ticket.seq)).collect())
    }

    /// A failure of the first record of a job.
    pub(super) fn failed(job: &Job) -> Event<u32> {
        let failure =
            Failure { reason: DeadReason::Process, error: "does not work".into(), retriable: true };
        let said = Said::Attempt(Attempt::Failed(failure));
        let mut completions = vec![Completion { key: job.key, seq: job.tickets[0].seq, said }];
        let rest = job.tickets.get(1);
        completions.extend(rest.map(|ticket| not_started(job, ticket.seq)));
        Event::Completed(completions)
    }

    /// Runs everything that was started, and what is started behind it.
    pub(super) fn run(&mut self) {
        while let Some(job) = self.jobs.pop_front() {
            let done = if job.gate.is_closed() {
                Event::Completed(vec![not_started(&job, job.tickets[0].seq)])
            } else {
                Self::done(&job)
            };
            self.step([done]);
        }
    }

    /// Delivers, runs and waits for the cut.
    pub(super) fn process(&mut self, index: i32, offsets: impl IntoIterator<Item = i64>) {
        self.deliver(index, offsets);
        self.run();
        self.wait(20);
    }

    /// The commit that is out.
    pub(super) fn commit(&mut self) -> Batch<u32> {
        self.commits.pop_front().expect("a commit is out")
    }

    pub(super) fn ends(&mut self, batch: Batch<u32>, fate: Fate) {
        self.step([Event::Committed { batch, fate }]);
    }

    /// The commit that is out ends like this.
    pub(super) fn commit_ends(&mut self, fate: Fate) {
        let batch = self.commit();
        self.ends(batch, fate);
    }

    pub(super) fn control(&mut self, control: Control) {
        let id = self.number();
        self.step([Event::Control { id, control }]);
    }

    pub(super) fn stop(&mut self) {
        self.step([Event::Stop { why: "asked".into(), within: None }]);
    }

    /// The one reply there is.
    pub(super) fn reply(&mut self) -> Result<(), Error> {
        assert_eq!(self.replies.len(), 1, "{:?}", self.replies);
        self.replies.remove(0)
    }

    /// Offsets that are being run, in the order they were started.
    pub(super) fn running(&self) -> Vec<i64> {
        let tickets = self.jobs.iter().flat_map(|job| &job.tickets);
        tickets.map(|ticket| ticket.record.offset.get()).collect()
    }

    pub(super) fn credit_of(&self, index: i32) -> u32 {
        let of = self.credits.iter().filter(|credit| credit.partition == p(index));
        of.map(|credit| credit.records).sum()
    }

    /// Steps without events, as the loop does when a wake-up is due, and fails if there is no end
    /// of it.
    pub(super) fn assert_rests(&mut self) {
        for _ in 0..5 {
            if self.core.wake_at().is_none_or(|at| at > self.now) {
                return;
            }
            self.step([]);
        }
        panic!("woken at {:?} for nothing: {:?}", self.now, self.core.wake_at());
    }
}

pub(super) fn one(job: &Job, seq: u64) -> Completion<u32> {
    let said = Said::Attempt(Attempt::Done(Some(Outputs::One(1))));
    Completion { key: job.key, seq, said }
}

pub(super) fn not_started(job: &Job, seq: u64) -> Completion<u32> {
    Completion { key: job.key, seq, said: Said::NotStarted }
}

pub(super) fn copy(ticket: &Ticket) -> Ticket {
    Ticket { seq: ticket.seq, attempt: ticket.attempt, record: Arc::clone(&ticket.record) }
}
