//! All chance of a run: one seeded generator, and how often each kind of trouble comes.
//!
//! Each seed switches whole kinds of trouble off and makes others frequent: trouble that comes
//! alone reaches states that a bit of everything never does.

/// A kind of trouble that can be switched off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Crash,
    Freeze,
    Evict,
    /// A member that was put out learns of it while it joins, and says nothing.
    NewMemberId,
    Rebalance,
    Stall,
    Abort,
    Doubt,
    LateCommit,
    /// The end of a transaction is answered while a copy of it is still on its way.
    SentTwice,
    /// The database goes on from an earlier state.
    FailOver,
    /// The log loses its oldest records.
    Retention,
    Operator,
    ProducerFenced,
    ClaimFails,
    ResolveFails,
    MoveFails,
    ProofFails,
    PartitionFails,
    Pause,
    Seek,
    Skip,
    Stop,
}

const FAULTS: usize = Fault::Stop as usize + 1;

pub(super) struct Chance {
    random: fastrand::Rng,
    /// Per thousand.
    rates: [u16; FAULTS],
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut rates = [0; FAULTS];
        for rate in &mut rates {
            *rate = match random.u8(0..8) {
                0..3 => 0,
                3..5 => 30,
                5..7 => 120,
                _ => 400,
            };
        }
        // A sink that needs an operator ends everything: seldom, or nothing else is ever seen.
        rates[Fault::Operator as usize] /= 40;
        Self { random, rates }
    }

    /// No trouble from now on.
    pub(super) fn calm(&mut self) {
        self.rates = [0; FAULTS];
    }

    pub(super) fn is_calm(&self) -> bool {
        self.rates.iter().all(|rate| *rate == 0)
    }

    /// Whether this trouble comes now.
    pub(super) fn hits(&mut self, fault: Fault) -> bool {
        let rate = self.rates[fault as usize];
        rate > 0 && self.random.u16(0..1000) < rate
    }

    /// Whether this kind of trouble comes at all in this run.
    pub(super) fn is_on(&self, fault: Fault) -> bool {
        self.rates[fault as usize] > 0
    }

    /// A number below `bound`, which is not zero.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.random.usize(0..bound)
    }

    /// A number from `low` to `high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.random.u64(low..=high)
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.random.usize(0..n) == 0
    }

    pub(super) fn coin(&mut self) -> bool {
        self.random.bool()
    }

    pub(super) fn seed(&mut self) -> u64 {
        self.random.u64(..)
    }
}
