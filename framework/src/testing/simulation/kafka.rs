//! The broker's side of transactions with the group's offsets.
//!
//! It knows a producer by its id and epoch, and applies the end of a transaction to whatever
//! transaction that producer has open when the request arrives: the next one, if it was held up on
//! the way and nobody has raised the epoch since. What it knows of the group is told by who sends
//! offsets; of partitions, claims or compares it knows nothing. Between its answer to the end of a
//! transaction and the markers in the log some time passes; until then, as while a transaction is
//! open, whoever asks for stable offsets waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::chance::Chance;
use super::checker::{Effects, History, Kind};
use super::log::Logs;
use super::plan::ms;

/// After so long the broker aborts a transaction by itself, and raises the epoch.
const TRANSACTION_MAX: Duration = ms(2000);

pub(super) struct Kafka {
    offsets: Vec<Option<i64>>,
    producers: BTreeMap<u64, Producer>,
    /// Ends of transactions that are still on their way.
    strays: Vec<Stray>,
}

/// What the coordinator knows of one transactional id.
#[derive(Default)]
struct Producer {
    epoch: u64,
    open: Option<Open>,
    /// How its last transaction ended: asked for the same end again, the coordinator says yes.
    ended: Option<End>,
}

/// A transaction that was begun and whose markers are not written.
struct Open {
    /// Whose results and offsets are in it.
    attempts: BTreeSet<u64>,
    records: Vec<(usize, i64, Kind)>,
    offsets: Offsets,
    since: Duration,
    /// It was asked to end, and will.
    ends: Option<End>,
}

/// The offsets of a transaction.
#[derive(Clone, Default)]
pub(super) struct Offsets {
    /// Of results: partition, first, next.
    pub(super) spans: Vec<(usize, i64, i64)>,
    /// Positions alone: partition, what was stored, what is stored after.
    pub(super) moves: Vec<(usize, Option<i64>, i64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Commit,
    Abort,
}

struct Stray {
    producer: u64,
    epoch: u64,
    end: End,
}

/// What the broker says to a request of a producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Done,
    /// The transaction before has not ended: come again.
    Busy,
    /// Another epoch is newer, or there is no such transaction.
    Fenced,
}

impl Kafka {
    pub(super) fn new(partitions: usize) -> Self {
        Self { offsets: vec![None; partitions], producers: BTreeMap::new(), strays: Vec::new() }
    }

    /// Progress that an earlier life of the pipeline has left.
    pub(super) fn preset(&mut self, partition: usize, next: i64) {
        self.offsets[partition] = Some(next);
    }

    /// A new producer of this id: earlier ones are fenced and what they left open comes to its end.
    /// Ends that are on their way may arrive first.
    pub(super) fn init(
        &mut self,
        id: u64,
        chance: &mut Chance,
        history: &mut History,
        logs: &Logs,
    ) -> Result<u64, String> {
        for stray in std::mem::take(&mut self.strays) {
            if stray.producer == id && chance.coin() {
                self.end(id, stray.epoch, stray.end);
            } else {
                self.strays.push(stray);
            }
        }
        let mut result = Ok(());
        self.abort_open(id);
        if self.producers.entry(id).or_default().open.is_some() {
            result = self.write_markers(id, history, logs);
        }
        let producer = self.producers.entry(id).or_default();
        producer.epoch += 1;
        producer.ended = None;
        let epoch = producer.epoch;
        result.map(|()| epoch)
    }

    /// Somebody else starts a producer of this id and leaves again.
    pub(super) fn hijack(&mut self, id: u64) {
        self.abort_open(id);
        self.producers.entry(id).or_default().epoch += 1;
    }

    fn abort_open(&mut self, id: u64) {
        let open = self.producers.get_mut(&id).and_then(|producer| producer.open.as_mut());
        if let Some(open) = open {
            open.ends.get_or_insert(End::Abort);
        }
    }

    /// The open transaction of a producer, begun now if there is none.
    fn open(&mut self, id: u64, epoch: u64, now: Duration) -> Result<&mut Open, Answer> {
        let producer = self.producers.get_mut(&id).filter(|producer| producer.epoch == epoch);
        let producer = producer.ok_or(Answer::Fenced)?;
        if producer.open.as_ref().is_some_and(|open| open.ends.is_some()) {
            return Err(Answer::Busy);
        }
        Ok(producer.open.get_or_insert_with(|| Open {
            attempts: BTreeSet::new(),
            records: Vec::new(),
            offsets: Offsets::default(),
            since: now,
            ends: None,
        }))
    }

    /// Results arrive.
    pub(super) fn produce(
        &mut self,
        (id, epoch): (u64, u64),
        attempt: u64,
        records: &[(usize, i64, Kind)],
        now: Duration,
    ) -> Answer {
        match self.open(id, epoch, now) {
            Ok(open) => {
                open.attempts.insert(attempt);
                open.records.extend_from_slice(records);
                Answer::Done
            }
            Err(answer) => answer,
        }
    }

    /// Offsets arrive, of a member that the group knows.
    pub(super) fn send_offsets(
        &mut self,
        (id, epoch): (u64, u64),
        attempt: u64,
        offsets: Offsets,
        now: Duration,
    ) -> Answer {
        match self.open(id, epoch, now) {
            Ok(open) => {
                open.attempts.insert(attempt);
                open.offsets = offsets;
                Answer::Done
            }
            Err(answer) => answer,
        }
    }

    /// The end of whatever transaction is open now.
    pub(super) fn end(&mut self, id: u64, epoch: u64, end: End) -> Answer {
        let producer = self.producers.get_mut(&id).filter(|producer| producer.epoch == epoch);
        let Some(producer) = producer else { return Answer::Fenced };
        match &mut producer.open {
            Some(open) if open.ends.is_none() => {
                open.ends = Some(end);
                producer.ended = Some(end);
                Answer::Done
            }
            // A repeated request is answered like the first one.
            _ if producer.ended == Some(end) => Answer::Done,
            _ => Answer::Fenced,
        }
    }

    /// The end of a transaction was sent and is held up.
    pub(super) fn send_end(&mut self, producer: u64, epoch: u64, end: End) {
        self.strays.push(Stray { producer, epoch, end });
    }

    /// The transaction of a producer that was asked to end becomes visible, or vanishes.
    pub(super) fn write_markers(
        &mut self,
        id: u64,
        history: &mut History,
        logs: &Logs,
    ) -> Result<(), String> {
        let open = self.producers.get_mut(&id).and_then(|producer| producer.open.take());
        let open = open.expect("the caller has looked");
        if open.ends != Some(End::Commit) {
            return Ok(());
        }
        let Open { attempts, records, offsets: Offsets { spans, moves }, .. } = open;
        for (partition, stored, next) in moves {
            self.offsets[partition] = Some(next);
            match stored {
                Some(stored) => history.sought(partition, stored, next)?,
                None => history.started(partition, next)?,
            }
        }
        for (partition, _, next) in &spans {
            self.offsets[*partition] = Some(*next);
        }
        if spans.is_empty() && records.is_empty() {
            return Ok(());
        }
        let mut attempts = attempts.into_iter();
        let (Some(attempt), None) = (attempts.next(), attempts.next()) else {
            return Err(format!("one transaction of producer {id} holds several attempts"));
        };
        history.committed(attempt, &Effects { spans, records }, logs)
    }

    /// Stable offsets; `None` while a transaction holds one of them back.
    pub(super) fn stable(&self, partitions: &[usize]) -> Option<Vec<Option<i64>>> {
        let open = self.producers.values().filter_map(|producer| producer.open.as_ref());
        let held: Vec<usize> = open
            .flat_map(|open| {
                let spans = open.offsets.spans.iter().map(|span| span.0);
                spans.chain(open.offsets.moves.iter().map(|to| to.0))
            })
            .collect();
        if partitions.iter().any(|partition| held.contains(partition)) {
            return None;
        }
        Some(self.unstable(partitions))
    }

    /// What is stored, whatever is pending.
    pub(super) fn unstable(&self, partitions: &[usize]) -> Vec<Option<i64>> {
        partitions.iter().map(|partition| self.offsets[*partition]).collect()
    }

    /// Whether something is open or on its way.
    pub(super) fn has_strays(&self) -> bool {
        !self.strays.is_empty() || self.producers.values().any(|producer| producer.open.is_some())
    }

    /// Something happens that nobody waits for: an end arrives, markers are written, or what is open
    /// for too long is aborted. Answers what, and whether what became visible is right.
    pub(super) fn tick(
        &mut self,
        now: Duration,
        chance: &mut Chance,
        history: &mut History,
        logs: &Logs,
    ) -> Option<(Tick, Result<(), String>)> {
        if !self.strays.is_empty() && chance.one_in(3) {
            let at = chance.below(self.strays.len());
            let Stray { producer, epoch, end } = self.strays.swap_remove(at);
            let arrived = self.end(producer, epoch, end) == Answer::Done;
            return Some((if arrived { Tick::Arrived } else { Tick::Refused }, Ok(())));
        }
        let (mut ended, mut old) = (Vec::new(), None);
        for (id, producer) in &self.producers {
            let Some(open) = &producer.open else { continue };
            match open.ends {
                Some(_) => ended.push(*id),
                None if open.since + TRANSACTION_MAX <= now => old = Some(*id),
                None => {}
            }
        }
        if let Some(id) = old {
            self.abort_open(id);
            self.producers.get_mut(&id).expect("it was found above").epoch += 1;
            return Some((Tick::Expired, Ok(())));
        }
        if ended.is_empty() {
            return None;
        }
        let id = ended[chance.below(ended.len())];
        Some((Tick::Marked, self.write_markers(id, history, logs)))
    }
}

/// What happened at the broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tick {
    /// The end of a transaction came late, and ended one.
    Arrived,
    /// It came too late.
    Refused,
    /// A transaction was open for too long.
    Expired,
    /// What was committed became visible.
    Marked,
}
