//! Every decision of the engine: `step(now, events, actions)`.
//!
//! Pure: no I/O, no clock, no async, no logging. Time comes in as a duration since the start,
//! chance from a seeded generator; what the outside world must do comes out as [`Action`]s. The
//! files beside this one each hold one concern: [`assign`](self::assign) where partitions come
//! from and go to, [`dispatch`](self::dispatch) what runs, [`commit`](self::commit) what is
//! stored, [`control`](self::control) what the user asks.

mod admission;
mod assign;
mod claim;
mod commit;
mod control;
mod credit;
mod dispatch;
mod event;
mod fate;
mod fence;
mod revoke;
mod seek;
mod start;
mod status;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::{Guarantee, Progress};
use crate::engine::work::{Gate, LaneKey};
use crate::error::Error;
use crate::lanes::Lanes;
use crate::policy::FailurePolicy;
use crate::record::{Epoch, Offset, PartitionId};
use crate::settings::{Limits, Order};
use crate::sink::{Move, TopicId};
use crate::source::Wanted;
use crate::tracker::Tracker;

pub(crate) use control::{Control, ControlReply};
pub(crate) use event::{Action, Call, Event};
pub use seek::SeekTo;
pub(crate) use status::CoreStatus;
pub use status::{Holder, PartitionState, PartitionStatus, Totals};

/// What a core is made with.
pub(crate) struct Config {
    pub(crate) order: Order,
    pub(crate) policy: FailurePolicy,
    pub(crate) limits: Limits,
    pub(crate) guarantee: Guarantee,
    pub(crate) progress: Progress,
    /// Whether a membership must be proved by a group commit before a fenced partition is claimed
    /// again. A sink whose transactions carry the group's metadata proves it by itself.
    pub(crate) prove_membership: bool,
    /// How many records may be out at the pool at once, and how many of them in one run.
    pub(crate) outstanding_max: usize,
    pub(crate) run_max: usize,
    pub(crate) seed: u64,
}

/// One assigned partition.
struct Partition<O> {
    id: PartitionId,
    topic_id: Option<TopicId>,
    epoch: Epoch,
    /// The epoch under which the source was last told to read it.
    read_under: Epoch,
    phase: Phase,
    tracker: Tracker<O>,
    lanes: Lanes,
    gate: Arc<Gate>,
    /// Stored progress as far as this engine knows.
    committed: Offset,
    /// Whether `committed` is stored, or only the zero it begins with.
    has_stored: bool,
    /// Where a first start was resolved to; a later claim that finds nothing keeps it.
    known_start: Option<Offset>,
    /// Records and bytes that are cut and whose fate is not known.
    cut_records: usize,
    cut_bytes: usize,
    /// Records and bytes the source may still send.
    credit_records: usize,
    /// Less than none behind a record that was larger than what was left: the next grant pays for it.
    credit_bytes: i64,
    /// It stopped by name at what was delivered last; what was delivered is still finished.
    broken: Option<String>,
    paused: bool,
    /// It is to be handed back: nothing more is started.
    revoking: bool,
    /// It was settled and is being released: nothing more is stored.
    released: bool,
    /// It is being sought: nothing more is started, what is not stored is about to be dropped.
    seeking: bool,
    /// The end of its log as the source last saw it.
    end: Option<Offset>,
    /// At most once: delivered, waiting to be admitted.
    unadmitted: VecDeque<(u64, Option<bytes::Bytes>)>,
    /// At most once: stored progress, as far as it was admitted.
    admitted: Offset,
    /// At most once: what is admitted is run even while the partition is handed back.
    finishes_admitted: bool,
    /// The assignment whose answer waits for this partition.
    assignment: Option<u64>,
    /// The record that was last reported as stuck.
    reported_stuck: Option<Offset>,
}

/// How far a partition is from being read.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// To be claimed at this time.
    Claim { at: Duration },
    /// The claim is out.
    Claiming,
    /// The membership is being proved before the claim.
    Proving { at: Option<Duration> },
    /// The position is being looked for or checked.
    Resolving { want: Wanted },
    /// The first start is being stored.
    Storing,
    /// The position is known; the assignment is not answered yet.
    Ready,
    /// It is read.
    Active,
    /// It stopped by name before it was read.
    Failed(String),
}

/// The pure engine.
pub(crate) struct Core<O> {
    config: Config,
    slots: Vec<Option<Partition<O>>>,
    index: HashMap<PartitionId, u32>,
    epochs: u64,
    /// Fast path of `commit_interval` and the like.
    now: Duration,
    ready: VecDeque<LaneKey>,
    retries: BinaryHeap<Reverse<Retry>>,
    committing: commit::Committing<O>,
    assignments: Vec<assign::Pending>,
    revocations: Vec<assign::Pending>,
    /// A call that takes ownership or stores something is out at the sink. There is never more
    /// than one: what waits behind another call would be done when nobody knows any more whether
    /// the partitions are still ours.
    sink_busy: bool,
    /// What was asked and is not answered, with the epoch it was asked under.
    claim_out: Option<claim::Asked>,
    resolve_out: Option<Vec<(PartitionId, Epoch)>>,
    /// Claims that failed one after another; the wait grows with it.
    claim_failures: u32,
    /// First starts that wait to be stored.
    first_starts: Vec<Move>,
    fences: VecDeque<Duration>,
    proof_out: bool,
    admission: admission::Admission,
    seeks: Vec<seek::Seek>,
    pauses: control::Pauses,
    stopping: Option<Stopping>,
    finished: bool,
    random: fastrand::Rng,
    totals: status::Totals,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Retry {
    at: Duration,
    seq: u64,
    slot: u32,
    epoch: Epoch,
    lane: u32,
}

struct Stopping {
    deadline: Duration,
    error: Option<Error>,
}

impl<O> Core<O> {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            random: fastrand::Rng::with_seed(config.seed),
            config,
            slots: Vec::new(),
            index: HashMap::new(),
            epochs: 0,
            now: Duration::ZERO,
            ready: VecDeque::new(),
            retries: BinaryHeap::new(),
            committing: commit::Committing::default(),
            assignments: Vec::new(),
            revocations: Vec::new(),
            sink_busy: false,
            claim_out: None,
            resolve_out: None,
            claim_failures: 0,
            first_starts: Vec::new(),
            fences: VecDeque::new(),
            proof_out: false,
            admission: admission::Admission::default(),
            seeks: Vec::new(),
            pauses: control::Pauses::default(),
            stopping: None,
            finished: false,
            totals: status::Totals::default(),
        }
    }

    /// Takes in everything that happened and says what to do now.
    pub(crate) fn step(
        &mut self,
        now: Duration,
        events: impl IntoIterator<Item = Event<O>>,
        actions: &mut Vec<Action<O>>,
    ) {
        debug_assert!(now >= self.now, "time does not run backwards");
        self.now = now;
        for event in events {
            self.take_in(event, actions);
        }
        if self.finished {
            return;
        }
        self.expire_revocations(actions);
        self.pump_retries();
        self.pump_claims(actions);
        self.pump_seeks(actions);
        self.pump_commit(actions);
        self.pump_revocations(actions);
        self.pump_assignments(actions);
        self.pump_admission(actions);
        self.pump_dispatch(actions);
        self.pump_credit(actions);
        self.pump_stop(actions);
    }

    fn take_in(&mut self, event: Event<O>, actions: &mut Vec<Action<O>>) {
        match event {
            Event::Assigned { id, partitions, deadline } => {
                self.on_assigned(id, partitions, deadline, actions);
            }
            Event::Revoked { id, partitions, deadline } => {
                self.on_revoked(id, partitions, deadline, actions);
            }
            Event::Lost(partitions) => self.on_lost(partitions, actions),
            Event::Records(chunk) => self.on_records(chunk),
            Event::End { partition, epoch, next } => self.on_end(&partition, epoch, next),
            Event::PartitionFailed { partition, epoch, error } => {
                self.on_partition_failed(&partition, epoch, error, actions);
            }
            Event::Ends(ends) => self.on_ends(ends),
            Event::GroupChanged => self.committing.hurry(self.now),
            Event::SourceFailed(error) => self.on_source_failed(error, actions),
            Event::Completed(completions) => self.on_completed(completions, actions),
            Event::Claimed(result) => self.on_claimed(result, actions),
            Event::Resolved { call, result } => match call {
                Call::Starts => self.on_resolved(result, actions),
                Call::Seek(id) => self.on_seek_resolved(id, result, actions),
            },
            Event::Repositioned { call, moves, result } => {
                self.sink_busy = false;
                match call {
                    Call::Starts => self.on_repositioned(moves, result, actions),
                    Call::Seek(id) => self.on_seek_stored(id, &moves, result, actions),
                }
            }
            Event::Released { revocation } => self.on_released(revocation, actions),
            Event::Proved(result) => self.on_proved(result, actions),
            Event::Admitted(result) => self.on_admitted(result, actions),
            Event::Committed { batch, fate } => self.on_committed(batch, fate, actions),
            Event::Control { id, control } => self.on_control(id, control, actions),
            Event::Stop { why, within } => {
                self.begin_stop(why, None, actions);
                self.stop_within(within);
            }
        }
    }

    /// When the core wants to be called again even if nothing happens.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        let claims = self.partitions().filter_map(|partition| match &partition.phase {
            _ if partition.is_frozen() || self.stopping.is_some() => None,
            Phase::Claim { at } if !self.sink_busy => Some(*at),
            Phase::Proving { at: Some(at) } if !self.proof_out => Some(*at),
            _ => None,
        });
        let deadlines = self.assignments.iter().chain(&self.revocations).map(|p| p.deadline);
        let retry = self.retries.peek().map(|Reverse(retry)| retry.at);
        let stop = self.stopping.as_ref().map(|stopping| stopping.deadline);
        let admission = self.admission_wake();
        let others = claims.chain(deadlines).chain(retry).chain(stop);
        others.chain(admission).chain(self.commit_wake()).min()
    }

    fn partitions(&self) -> impl Iterator<Item = &Partition<O>> {
        self.slots.iter().flatten()
    }

    fn partitions_mut(&mut self) -> impl Iterator<Item = &mut Partition<O>> {
        self.slots.iter_mut().flatten()
    }

    fn get(&self, id: &PartitionId) -> Option<&Partition<O>> {
        self.slots[*self.index.get(id)? as usize].as_ref()
    }

    fn get_mut(&mut self, id: &PartitionId) -> Option<&mut Partition<O>> {
        self.slots[*self.index.get(id)? as usize].as_mut()
    }

    /// The partition if it is still at this epoch.
    fn current(&mut self, id: &PartitionId, epoch: Epoch) -> Option<(u32, &mut Partition<O>)> {
        let slot = *self.index.get(id)?;
        let partition = self.slots[slot as usize].as_mut()?;
        (partition.epoch == epoch).then_some((slot, partition))
    }

    fn next_epoch(&mut self) -> Epoch {
        self.epochs += 1;
        Epoch::new(self.epochs)
    }

    fn chance(&mut self) -> f64 {
        self.random.f64()
    }

    /// A wait of about `base`, half to one and a half of it.
    fn jittered(&mut self, base: Duration) -> Duration {
        base.mul_f64(0.5 + self.chance())
    }
}

impl<O> Partition<O> {
    fn is_read(&self) -> bool {
        self.phase == Phase::Active
    }

    /// Whether it is about to be handed back or sought.
    fn is_frozen(&self) -> bool {
        self.revoking || self.seeking
    }

    /// Whether it was claimed and its position is known.
    fn is_owned(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Active)
    }

    /// Whether more records may be read.
    fn may_read(&self) -> bool {
        self.is_read() && !self.paused && !self.is_frozen()
    }

    /// Whether records may be started.
    fn may_start(&self) -> bool {
        self.is_read() && !self.is_shut()
    }

    /// Whether something keeps records from being started that lasts until it is undone.
    fn is_shut(&self) -> bool {
        let going = self.revoking && !self.finishes_admitted;
        self.paused || self.seeking || going
    }

    /// Records that a drain waits for.
    fn unfinished(&self) -> usize {
        let admitted = if self.may_start() { self.admitted_open() } else { 0 };
        self.lanes.running().max(admitted)
    }

    /// Forgets all work under a new epoch; answers how many records were dropped.
    fn restart(&mut self, epoch: Epoch, order: Order) -> usize {
        let dropped = self.tracker.len();
        self.gate.close();
        self.gate = Arc::new(Gate::default());
        self.epoch = epoch;
        self.tracker = Tracker::new(self.committed);
        self.lanes = Lanes::new(order);
        self.cut_records = 0;
        self.cut_bytes = 0;
        self.credit_records = 0;
        self.credit_bytes = 0;
        self.unadmitted.clear();
        self.admitted = self.committed;
        // It is read again: if what stopped it is still there, the source says so again.
        self.broken = None;
        self.reported_stuck = None;
        dropped
    }
}
