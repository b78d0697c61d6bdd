//! The one thread that owns the consumer: it serves the main queue always, takes records only
//! against credit, and answers everybody else's questions about membership.
//!
//! It never waits for the network. It sleeps until a queue of librdkafka becomes non-empty, a
//! command or an answer arrives, or a tenth of a second is over.

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use tidegate::Error;
use tidegate::mutant;
use tidegate::record::{Offset, PartitionId, Topic};
use tidegate::sink::TopicId;
use tidegate::source::{Credit, EventSender, Position, SourceError, SourceEvent, Start};
use tokio::sync::oneshot;

use crate::closing::Closing;
use crate::commits::{Commits, Reached};
use crate::context::{Consumer, Heard, Ownership};
use crate::current::Current;
use crate::ends::Ends;
use crate::error;
use crate::ffi::{GroupMetadata, WakingQueue};
use crate::health::{Answer, HealthWatch};
use crate::helper::Helper;
use crate::membership::{self, Membership, Scope};
use crate::meters::Meters;
use crate::orphans::{Look, Orphans};
use crate::partition::Partition;
use crate::rebalance::Rebalances;
use crate::renewal::Again;
use crate::wake::{Sleeper, Waker};

/// The longest sleep.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// Events taken from the main queue in one turn.
const MAIN_EVENTS_MAX: usize = 1000;
/// Records after which a round over the partitions ends, so that questions are answered in time.
const TURN_RECORDS: u64 = 1024;

/// What others ask of the thread.
pub(crate) enum Command {
    /// Allows more records.
    Credit(Vec<Credit>),
    /// Goes on elsewhere.
    Reposition(Vec<Start>),
    /// The group metadata for a transaction over this scope, or why there is none.
    Membership(Scope, oneshot::Sender<Result<Membership, String>>),
    /// The incarnations of topics that an assignment waits for.
    Described(u64, HashMap<Topic, Option<TopicId>>),
    /// Commits offsets and answers.
    Commit(Reached, oneshot::Sender<Result<(), SourceError>>),
    /// Commits offsets some time.
    Mirror(Vec<Position>),
    /// What came of the questions about what is missing.
    Health(Answer),
    /// The ends of logs that were asked for, as far as there was an answer.
    Ends(HashMap<PartitionId, Offset>),
    /// What the group looks like from outside, after so many changes.
    Looked(u64, Option<Look>),
    /// Leaves the group.
    Close(oneshot::Sender<()>),
}

/// The way to the thread.
#[derive(Clone)]
pub(crate) struct Remote {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    /// Held by everybody but the thread itself: when the last one is gone, so is the source.
    _interest: Option<Arc<()>>,
}

impl Remote {
    /// Sends a command; a thread that ended drops it, and with it the place for the answer.
    pub(crate) fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            self.waker.notify();
        }
    }
}

/// How long the engine may take to settle a rebalance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) drain_max: Duration,
    pub(crate) claim_max: Duration,
}

/// What the thread owns.
pub(crate) struct Reader {
    pub(crate) consumer: Arc<Consumer>,
    /// The same, for everybody else.
    pub(crate) current: Current,
    pub(crate) again: Again,
    pub(crate) waker: Arc<Waker>,
    pub(crate) helper: Helper,
    pub(crate) remote: Remote,
    pub(crate) events: EventSender,
    pub(crate) partitions: HashMap<PartitionId, Partition>,
    pub(crate) rebalances: Rebalances,
    /// Whether the headers of records are read.
    pub(crate) headers: bool,
    commands: Receiver<Command>,
    pub(crate) main: WakingQueue,
    pub(crate) commits: Commits,
    pub(crate) health: HealthWatch,
    pub(crate) meters: Meters,
    pub(crate) ends: Ends,
    pub(crate) orphans: Orphans,
    /// Where among the partitions the next round begins.
    turns: usize,
    pub(crate) closing: Option<Closing>,
    interested: Weak<()>,
    failed: bool,
    // Last, so that the queues stop to write before its end of the socket is closed.
    sleeper: Sleeper,
}

/// What is read, and for whom.
pub(crate) struct Reading {
    pub(crate) events: EventSender,
    pub(crate) limits: Limits,
    /// Whether records' headers are.
    pub(crate) headers: bool,
    pub(crate) again: Again,
}

/// Starts the thread.
pub(crate) fn start(
    current: Current,
    helper: Helper,
    reading: Reading,
    orphans: Orphans,
) -> std::io::Result<Remote> {
    let (sleeper, waker) = Sleeper::pair()?;
    let (sender, commands) = mpsc::channel();
    let interest = Arc::new(());
    let interested = Arc::downgrade(&interest);
    let own = Remote { commands: sender, waker: Arc::clone(&waker), _interest: None };
    let remote = Remote { _interest: Some(interest), ..own.clone() };
    let consumer = current.get();
    let main = WakingQueue::main(&consumer, &waker)
        .ok_or_else(|| std::io::Error::other("the consumer has no queue"))?;
    let reader = Reader {
        commits: Commits::new(&consumer, &waker),
        health: HealthWatch::new(reading.events.clone()),
        meters: Meters::default(),
        ends: Ends::default(),
        orphans,
        rebalances: Rebalances::new(reading.limits),
        headers: reading.headers,
        partitions: HashMap::new(),
        turns: 0,
        closing: None,
        remote: own,
        interested,
        failed: false,
        consumer,
        current,
        again: reading.again,
        waker,
        helper,
        events: reading.events,
        commands,
        sleeper,
        main,
    };
    std::thread::Builder::new()
        .name("tidegate-kafka-consumer".into())
        .spawn(move || reader.run())?;
    Ok(remote)
}

impl Reader {
    fn run(mut self) {
        while !self.is_over() {
            self.serve_commands();
            if self.interested.strong_count() == 0 {
                self.close(None);
            }
            if !(mutant::is("M37") && self.partitions.values().any(Partition::waits)) {
                self.serve_main_queue();
            }
            self.commits.serve(&self.consumer, &self.partitions, self.health.has_broker());
            self.step_rebalance();
            self.position_due();
            self.health.watch(&self.consumer, &self.helper, &self.remote);
            self.membership_changed();
            self.tell_ends();
            self.orphans.watch(Instant::now(), &self.consumer, &self.helper, &self.remote);
            if !self.drain() {
                self.sleeper.sleep(self.sleep_for());
            }
        }
        tracing::debug!("consumer thread ends");
        self.consumer.client().context().leave_unattended();
        self.partitions.clear();
        if let Some(done) = self.closing.take().and_then(|closing| closing.done) {
            let _ = done.send(());
        }
    }

    fn serve_commands(&mut self) {
        let commands: Vec<Command> = self.commands.try_iter().collect();
        // The engine answers an assignment first and gives credit after: what it answered before
        // it sent these commands must have its effect before theirs.
        self.step_rebalance();
        for command in commands {
            self.serve(command);
        }
    }

    fn serve(&mut self, command: Command) {
        match command {
            Command::Credit(grants) => {
                for credit in grants {
                    if let Some(partition) = self.partitions.get_mut(&credit.partition) {
                        partition.grant(&credit);
                    }
                }
            }
            Command::Reposition(starts) => self.reposition(&starts),
            Command::Membership(scope, reply) => {
                let answer = membership::check(
                    &self.consumer,
                    &self.partitions,
                    self.rebalances.incoming(),
                    &scope,
                );
                let _ = reply.send(answer);
            }
            Command::Described(assignment, ids) => self.rebalances.described(assignment, ids),
            Command::Commit(reached, reply) => {
                let incoming = self.rebalances.incoming();
                self.commits.commit(&self.consumer, &self.partitions, incoming, &reached, reply);
            }
            Command::Mirror(positions) => self.commits.mirror(positions),
            Command::Health(answer) => self.health.heard(answer),
            Command::Ends(ends) => self.ends.answered(ends),
            Command::Looked(change, look) => self.looked(change, look),
            Command::Close(done) => self.close(Some(done)),
        }
    }

    fn reposition(&mut self, starts: &[Start]) {
        let now = Instant::now();
        for start in starts {
            match self.partitions.get_mut(&start.partition) {
                Some(partition) => partition.reposition(start, now),
                None => tracing::debug!(partition = %start.partition, "not assigned any more"),
            }
        }
    }

    /// Polls the main queue until it is empty: group events, errors, logs.
    pub(crate) fn serve_main_queue(&mut self) {
        // Polled at least once a turn: that is what keeps the membership.
        for turn in 0..MAIN_EVENTS_MAX {
            if turn > 0 && self.main.len() == 0 {
                break;
            }
            match self.consumer.poll(Duration::ZERO) {
                None => {}
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => self.fatal(code),
                // Other errors were noted by the context, with their text.
                Some(Err(_)) => {}
                Some(Ok(stray)) => {
                    // Partition queues are cut off before their partitions are assigned, so this
                    // does not happen; if it did, the record must not be lost.
                    use rdkafka::Message as _;
                    let id = PartitionId::new(stray.topic(), stray.partition());
                    tracing::error!(partition = %id, offset = stray.offset(), "stray record");
                    if let Some(partition) = self.partitions.get_mut(&id) {
                        partition.demand_seek(Instant::now());
                    }
                }
            }
        }
        while let Some(heard) = self.consumer.client().context().next() {
            match heard {
                Heard::Assign(partitions) => {
                    for id in &partitions {
                        self.health.answered(Some(id.topic().to_string()));
                    }
                    let member = GroupMetadata::member_now(&self.consumer);
                    self.rebalances.assign(partitions, member.into());
                }
                Heard::Revoke(partitions, ownership) => {
                    if ownership == Ownership::Lost {
                        self.health.doubt();
                    }
                    self.rebalances.revoke(partitions, ownership);
                }
                Heard::Error(code, text) => self.report(code, false, &text),
            }
        }
    }

    fn fatal(&mut self, code: Code) {
        let text =
            self.consumer.client().fatal_error().map_or_else(|| code.to_string(), |(_, text)| text);
        self.report(code, true, &text);
    }

    fn report(&mut self, code: Code, fatal: bool, text: &str) {
        match error::report(code, fatal, text) {
            error::Report::Stop(_) if self.may_have_fenced_itself() => self.renew(),
            error::Report::Stop(error) => self.fail(error),
            error::Report::NoBroker(text) => self.health.no_broker(&text),
            error::Report::NoTopic(topic) => self.health.no_topic(topic),
            error::Report::Log => tracing::debug!(?code, text, "consumer error"),
        }
    }

    /// Tells the engine when librdkafka learned a newer generation, even without a rebalance.
    fn membership_changed(&mut self) {
        if self.is_closing() {
            return;
        }
        if self.rebalances.generation_changed(&self.consumer) {
            self.orphans.group_changed(Instant::now());
            self.events.send(SourceEvent::GroupChanged);
        }
        self.leave_what_was_anothers();
    }

    /// A round over the partitions, from where the last one stopped; returns whether there is more to
    /// take at once. A round ends early when it took much: a commit may wait for an answer.
    fn drain(&mut self) -> bool {
        let mut turn: Vec<&mut Partition> = self.partitions.values_mut().collect();
        if turn.is_empty() {
            return false;
        }
        let count = turn.len();
        turn.rotate_left(self.turns % count);
        let (mut more, mut records) = (false, 0);
        for (done, partition) in turn.into_iter().enumerate() {
            if records >= TURN_RECORDS {
                self.turns = (self.turns + done) % count;
                return true;
            }
            let drained = partition.drain(&self.events);
            if drained.records > 0 {
                self.meters.count(partition.id.topic(), drained);
            }
            records += drained.records;
            more |= drained.more;
        }
        more
    }

    fn sleep_for(&self) -> Duration {
        let now = Instant::now();
        let seek = self.partitions.values().filter_map(Partition::seek_due);
        // While a rebalance is under way positions wait for its end, which wakes the thread.
        let seek = seek.filter(|_| !self.rebalances.is_under_way());
        seek.chain(self.rebalances.next_deadline())
            .chain(self.closing.as_ref().map(|closing| closing.deadline))
            .map(|at| at.saturating_duration_since(now))
            .fold(SLEEP_MAX, Duration::min)
    }

    /// Ends the source for good; told once.
    pub(crate) fn fail(&mut self, error: Error) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        tracing::error!(%error, "source failed");
        self.events.send(SourceEvent::Failed(SourceError::Stop(error)));
    }
}
