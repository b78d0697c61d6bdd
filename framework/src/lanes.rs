//! What may run now in one partition: records that must run one after another share a lane.
//!
//! Pure bookkeeping over ticket numbers. A lane is a queue whose first `running` tickets are out
//! at the pool; a lane that waits for a retry is closed, so nothing overtakes the failed record.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::mutant;
use crate::settings::Order;

pub(crate) struct Lanes {
    order: Order,
    lanes: Vec<Lane>,
    free: Vec<u32>,
    /// Lane of a key, by the key's hash. Two keys with one hash share a lane: slower, never wrong.
    by_key: HashMap<u64, u32, IdentityState>,
    running: usize,
}

/// Where a removed ticket was.
pub(crate) struct Removed {
    pub(crate) lane: u32,
    /// It was at the front of a run, so a worker may hang in it.
    pub(crate) was_running: bool,
    /// Its lane could start another run now.
    pub(crate) is_ready: bool,
}

#[derive(Default)]
struct Lane {
    tickets: VecDeque<u64>,
    /// How many of the first tickets are out.
    running: usize,
    closed: bool,
    hash: Option<u64>,
}

impl Lanes {
    pub(crate) fn new(order: Order) -> Self {
        Self { order, lanes: Vec::new(), free: Vec::new(), by_key: HashMap::default(), running: 0 }
    }

    /// Queues a ticket. Answers its lane if that lane has just become ready to run.
    pub(crate) fn add(&mut self, seq: u64, key: Option<&[u8]>) -> Option<u32> {
        let at = match self.order {
            Order::ByPartition if self.lanes.is_empty() => self.open_lane(None),
            Order::ByPartition => 0,
            Order::ByKey => {
                let hash = hash_of(key);
                match self.by_key.get(&hash) {
                    Some(&lane) if !mutant::is("M30") => lane,
                    _ => self.open_lane(Some(hash)),
                }
            }
            Order::Unordered => self.open_lane(None),
        };
        let lane = &mut self.lanes[at as usize];
        lane.tickets.push_back(seq);
        (lane.tickets.len() == 1 && !lane.closed).then_some(at)
    }

    /// Starts a run: up to `max` tickets from the front of a ready lane.
    pub(crate) fn start(&mut self, at: u32, max: usize) -> Vec<u64> {
        let Some(lane) = self.lanes.get_mut(at as usize) else {
            return Vec::new();
        };
        if lane.running > 0 || lane.closed {
            return Vec::new();
        }
        let run: Vec<u64> = lane.tickets.iter().take(max).copied().collect();
        lane.running = run.len();
        self.running += run.len();
        run
    }

    /// Whether this ticket is the one that the lane waits for. Anything else is an answer from a
    /// run that was abandoned.
    pub(crate) fn is_front(&self, at: u32, seq: u64) -> bool {
        self.lanes
            .get(at as usize)
            .is_some_and(|lane| lane.running > 0 && lane.tickets.front() == Some(&seq))
    }

    /// The front ticket has its outcome. Answers whether the lane is ready for another run.
    pub(crate) fn finish_front(&mut self, at: u32) -> bool {
        let lane = &mut self.lanes[at as usize];
        lane.tickets.pop_front();
        lane.running -= 1;
        self.running -= 1;
        if lane.tickets.is_empty() {
            self.close_lane(at);
            return false;
        }
        lane.running == 0
    }

    /// The run ended before its front ticket was done; the whole rest is queued again.
    pub(crate) fn end_run(&mut self, at: u32) {
        let lane = &mut self.lanes[at as usize];
        self.running -= lane.running;
        lane.running = 0;
    }

    /// Keeps the lane shut until [`Lanes::reopen`]: its front ticket waits for a retry.
    pub(crate) fn shut(&mut self, at: u32) {
        self.lanes[at as usize].closed = !mutant::is("M31");
        if mutant::is("M31") {
            self.lanes[at as usize].tickets.rotate_left(1);
        }
    }

    /// Opens the lane again if its front is still this ticket. Answers whether it is ready.
    pub(crate) fn reopen(&mut self, at: u32, seq: u64) -> bool {
        match self.lanes.get_mut(at as usize) {
            Some(_) if mutant::is("M31") => true,
            Some(lane) if lane.closed && lane.tickets.front() == Some(&seq) => {
                lane.closed = false;
                true
            }
            _ => false,
        }
    }

    /// The front ticket of a lane that is not running got its outcome without another call.
    /// Answers the lane if it is ready for another run.
    pub(crate) fn remove_front(&mut self, at: u32) -> Option<u32> {
        let lane = &mut self.lanes[at as usize];
        debug_assert_eq!(lane.running, 0, "its run has ended");
        lane.tickets.pop_front();
        lane.closed = false;
        if lane.tickets.is_empty() {
            self.close_lane(at);
            return None;
        }
        Some(at)
    }

    /// Takes a ticket out wherever it is, running or not.
    pub(crate) fn remove(&mut self, seq: u64) -> Option<Removed> {
        let at = self.lanes.iter().position(|lane| lane.tickets.contains(&seq))?;
        let lane = &mut self.lanes[at];
        let place = lane.tickets.iter().position(|ticket| *ticket == seq)?;
        let was_running = place == 0 && lane.running > 0;
        if was_running {
            // The run is abandoned; what it had not reached is queued again.
            self.running -= lane.running;
            lane.running = 0;
        } else if place < lane.running {
            // Another record of the run is executing: the run goes on, and whatever it says of
            // this one comes when it is not the front, so it is not believed.
            self.running -= 1;
            lane.running -= 1;
        }
        lane.tickets.remove(place);
        if place == 0 {
            lane.closed = false;
        }
        let is_ready = !lane.tickets.is_empty() && lane.running == 0 && !lane.closed;
        let is_empty = lane.tickets.is_empty();
        let at = u32::try_from(at).expect("fewer lanes than u32::MAX");
        if is_empty {
            self.close_lane(at);
        }
        Some(Removed { lane: at, was_running, is_ready })
    }

    /// All lanes that could start a run now.
    pub(crate) fn ready(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..)
            .zip(&self.lanes)
            .filter(|(_, lane)| !lane.tickets.is_empty() && lane.running == 0 && !lane.closed)
            .map(|(at, _)| at)
    }

    /// How many tickets are out at the pool.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    fn open_lane(&mut self, hash: Option<u64>) -> u32 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.lanes.push(Lane::default());
            u32::try_from(self.lanes.len() - 1).expect("fewer lanes than u32::MAX")
        });
        self.lanes[at as usize].hash = hash;
        if let Some(hash) = hash {
            self.by_key.insert(hash, at);
        }
        at
    }

    fn close_lane(&mut self, at: u32) {
        if self.order == Order::ByPartition {
            self.lanes[at as usize].closed = false;
            return;
        }
        let lane = &mut self.lanes[at as usize];
        lane.closed = false;
        if let Some(hash) = lane.hash.take() {
            self.by_key.remove(&hash);
        }
        self.free.push(at);
    }
}

/// Deterministic, so that a simulation of one seed always runs the same way.
fn hash_of(key: Option<&[u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match key {
        Some(key) if mutant::is("M32") => key.as_ptr().hash(&mut hasher),
        key => key.hash(&mut hasher),
    }
    hasher.finish()
}

type IdentityState = std::hash::BuildHasherDefault<Identity>;

/// The keys of the map are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 is hashed")
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_slow_key_holds_back_only_itself() {
        let mut lanes = Lanes::new(Order::ByKey);
        let slow = lanes.add(0, Some(b"slow")).expect("ready");
        assert_eq!(lanes.add(1, Some(b"slow")), None, "waits behind the first");
        let other = lanes.add(2, Some(b"other")).expect("another lane");
        assert_eq!(lanes.start(slow, 1), [0]);
        assert_eq!(lanes.start(other, 1), [2]);
        assert!(!lanes.finish_front(other));
        assert!(lanes.finish_front(slow), "the second record of the slow key may run now");
    }

    #[test]
    fn a_null_key_is_not_an_empty_key() {
        let mut lanes = Lanes::new(Order::ByKey);
        assert!(lanes.add(0, None).is_some());
        assert!(lanes.add(1, Some(b"")).is_some());
        assert!(lanes.add(2, None).is_none(), "null keys of a partition share a lane");
    }

    #[test]
    fn equal_keys_share_a_lane_wherever_their_bytes_lie() {
        let mut lanes = Lanes::new(Order::ByKey);
        let (first, again) = (b"key".to_vec(), b"key".to_vec());
        assert!(lanes.add(0, Some(&first)).is_some());
        assert_eq!(lanes.add(1, Some(&again)), None, "the bytes count, not where they are");
    }

    #[test]
    fn a_failed_record_is_not_overtaken_while_it_waits_for_its_retry() {
        let mut lanes = Lanes::new(Order::ByPartition);
        let lane = lanes.add(0, None).expect("ready");
        lanes.add(1, None);
        lanes.start(lane, 2);
        lanes.end_run(lane);
        lanes.shut(lane);
        assert_eq!(lanes.add(2, None), None);
        assert!(lanes.start(lane, 9).is_empty());
        assert!(!lanes.reopen(lane, 1), "only the record it waits for opens it");
        assert!(lanes.reopen(lane, 0));
        assert_eq!(lanes.start(lane, 9), [0, 1, 2]);
    }

    #[test]
    fn an_abandoned_run_is_queued_again_without_its_skipped_record() {
        let mut lanes = Lanes::new(Order::ByPartition);
        let lane = lanes.add(0, None).expect("ready");
        lanes.add(1, None);
        lanes.start(lane, 2);
        let removed = lanes.remove(0).expect("it is there");
        assert!(removed.was_running && removed.is_ready);
        assert_eq!(removed.lane, lane);
        assert!(!lanes.is_front(lane, 0), "the hung worker's late answer is not believed");
        assert_eq!(lanes.start(lane, 2), [1]);
    }

    #[test]
    fn a_record_skipped_in_the_middle_of_a_run_leaves_the_run_alone() {
        let mut lanes = Lanes::new(Order::ByPartition);
        let lane = lanes.add(0, None).expect("ready");
        lanes.add(1, None);
        lanes.add(2, None);
        assert_eq!(lanes.start(lane, 3), [0, 1, 2]);
        let removed = lanes.remove(1).expect("it is there");
        assert!(!removed.was_running && !removed.is_ready);
        assert!(lanes.is_front(lane, 0));
        assert!(!lanes.finish_front(lane));
        assert!(!lanes.is_front(lane, 1), "what the worker says of it is not believed");
        assert!(lanes.is_front(lane, 2));
        lanes.finish_front(lane);
        assert_eq!(lanes.running(), 0);
    }

    proptest! {
        /// Random runs over few keys: every ticket runs once, tickets of a key in order, one at a
        /// time, and no ticket is forgotten.
        #[test]
        fn tickets_of_a_key_run_in_order_and_none_is_lost(
            order in prop_oneof![
                Just(Order::ByPartition), Just(Order::ByKey), Just(Order::Unordered)
            ],
            base in prop_oneof![Just(0_u64), Just((1 << 31) - 3), Just((1 << 32) - 3), Just((1 << 63) - 3)],
            keys in proptest::collection::vec(0_u8..4, 1..60),
            picks in proptest::collection::vec((0_usize..64, 1_usize..4), 400),
        ) {
            let mut lanes = Lanes::new(order);
            let mut waiting = (base..).zip(&keys);
            let mut out: Vec<(u32, Vec<u64>)> = Vec::new();
            let mut done: Vec<u64> = Vec::new();
            for (pick, max) in picks {
                match pick % 3 {
                    0 => if let Some((seq, key)) = waiting.next() {
                        lanes.add(seq, Some(&[*key]));
                    },
                    1 => {
                        let ready: Vec<u32> = lanes.ready().collect();
                        if !ready.is_empty() {
                            let lane = ready[pick % ready.len()];
                            let run = lanes.start(lane, max);
                            prop_assert!(!run.is_empty());
                            out.push((lane, run));
                        }
                    }
                    _ => if !out.is_empty() {
                        let at = pick % out.len();
                        let (lane, run) = &mut out[at];
                        let seq = run.remove(0);
                        prop_assert!(lanes.is_front(*lane, seq));
                        lanes.finish_front(*lane);
                        done.push(seq);
                        if run.is_empty() {
                            out.remove(at);
                        }
                    },
                }
            }
            for (seq, key) in waiting {
                lanes.add(seq, Some(&[*key]));
            }
            loop {
                while let Some((lane, run)) = out.pop() {
                    for seq in run {
                        prop_assert!(lanes.is_front(lane, seq));
                        lanes.finish_front(lane);
                        done.push(seq);
                    }
                }
                let Some(lane) = lanes.ready().next() else { break };
                let run = lanes.start(lane, 2);
                out.push((lane, run));
            }
            prop_assert_eq!(lanes.running(), 0);
            let mut sorted = done.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (base..base + keys.len() as u64).collect::<Vec<_>>());
            let mut last: HashMap<u8, u64> = HashMap::new();
            if order != Order::Unordered {
                for seq in done {
                    let key = if order == Order::ByKey { keys[(seq - base) as usize] } else { 0 };
                    prop_assert!(last.insert(key, seq).is_none_or(|before| before < seq));
                }
            }
        }
    }
}
