//! Schedules for runs of any length: a few kinds of faults at a time, and a quarter of the time nothing.

use std::time::Duration;

use super::dice::Slots;
use super::{BURIED, Deed, EXPIRED, Fault, Nemesis, STOPPED, Schedule};
use crate::wire::{Act, Mode};

/// How long one choice of faults holds.
const PERIOD: std::ops::Range<u64> = 8_000..20_000;
/// The longest pause of a broker, in ms. After 9 s its controller takes it for gone, and it has to be taken back: until then
/// it says that the cluster has no brokers.
const PAUSE_MAX: u64 = 14_000;
/// The most partitions a run adds.
const GROWTH_MAX: usize = 3;

/// What a run consists of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// From which everything is drawn.
    pub seed: u64,
    /// How long things break.
    pub over: Duration,
    /// Copiers.
    pub copiers: usize,
    /// What may break.
    pub nemeses: Vec<Nemesis>,
}

impl Schedule {
    /// Draws a schedule: periods of 8 to 20 s, one in four quiet, the others with some of the kinds, each of them once
    /// to three times. Every kind comes at least once.
    #[must_use]
    pub fn mixed(plan: &Plan) -> Self {
        let mut dice = fastrand::Rng::with_seed(plan.seed);
        let mut draw = Draw {
            slots: Slots::new(&mut dice, plan.copiers),
            grown: 0,
            due: Vec::new(),
            dice: dice.fork(),
        };
        let mut due = plan.nemeses.clone();
        dice.shuffle(&mut due);
        let mut begin = Duration::ZERO;
        while begin < plan.over && !plan.nemeses.is_empty() {
            let length = Duration::from_millis(dice.u64(PERIOD)).min(plan.over - begin);
            if dice.u32(..4) > 0 {
                for _ in 0..dice.usize(1..=4) {
                    // Those that have not come yet first.
                    let chosen = due.pop().or_else(|| dice.choice(&plan.nemeses).copied());
                    for _ in 0..dice.usize(1..=2) {
                        let at = begin + length.mul_f64(dice.f64());
                        chosen.into_iter().for_each(|nemesis| draw.add(at, nemesis));
                    }
                }
            }
            begin += length;
        }
        due.into_iter().for_each(|nemesis| draw.add(plan.over, nemesis));
        Self::from(draw.due)
    }
}

struct Draw {
    dice: fastrand::Rng,
    slots: Slots,
    grown: usize,
    due: Vec<(Duration, Fault)>,
}

impl Draw {
    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.dice.u64(range))
    }

    fn add(&mut self, at: Duration, nemesis: Nemesis) {
        let slot = self.slots.next();
        let fault = match nemesis {
            Nemesis::Kill => Fault::KillCopier { slot, down: self.millis(0..6_000) },
            Nemesis::Stop => Fault::StopCopier { slot, length: STOPPED },
            Nemesis::Expiry => Fault::StopCopier { slot, length: EXPIRED },
            Nemesis::Zombie => Fault::StopCommit { slot, length: BURIED },
            Nemesis::Stutter => Fault::Stutter { slot, times: self.dice.u32(3..8) },
            Nemesis::Term => Fault::EndCopier { slot, twice: self.dice.bool() },
            Nemesis::Broker => Fault::KillBroker { down: self.millis(0..3_000) },
            Nemesis::Pause => Fault::PauseBroker { length: self.millis(500..PAUSE_MAX) },
            Nemesis::Database => Fault::KillDatabase { down: self.millis(0..4_000) },
            Nemesis::Backends => Fault::EndBackends,
            Nemesis::Link => {
                let slow = Mode::Slow(self.millis(20..300));
                let mode = *self.dice.choice(&[Mode::Cut, Mode::Silent, slow]).expect("three");
                let (to_store, length) = (self.dice.bool(), self.millis(200..9_000));
                Fault::Wire { slot, to_store, mode, length }
            }
            Nemesis::Commit => {
                let acts = [
                    Act::LoseRequest,
                    Act::LoseAnswer,
                    Act::CutAndHold,
                    Act::Hold,
                    Act::HoldAnswer,
                ];
                let act = *self.dice.choice(&acts).expect("five");
                Fault::Commit { slot, act, length: self.millis(100..9_000) }
            }
            Nemesis::Storm => Fault::Storm { joins: self.dice.u32(3..6) },
            Nemesis::Burn => Fault::Burn { length: self.millis(1_000..5_000) },
            Nemesis::Topic if self.grown < GROWTH_MAX => {
                self.grown += 1;
                Fault::Grow
            }
            Nemesis::Delete => Fault::DeleteRecords { partition: self.dice.usize(..64) },
            Nemesis::Operator => {
                let deeds = [Deed::Offsets { forward: self.dice.bool() }, Deed::Group, Deed::Quota];
                let deed = *self.dice.choice(&deeds).expect("three");
                Fault::Operate { deed, length: self.millis(1_000..8_000) }
            }
            Nemesis::Hanging | Nemesis::Topic => Fault::Hang { length: self.millis(1_000..8_000) },
        };
        self.due.push((at, fault));
    }
}

#[cfg(test)]
mod tests {
    use super::super::nemesis::ALL;
    use super::*;

    #[test]
    fn every_kind_comes_and_a_quarter_of_the_time_is_quiet() {
        for seed in 0..50 {
            let over = Duration::from_secs(1200);
            let plan = Plan { seed, over, copiers: 3, nemeses: ALL.to_vec() };
            let schedule = Schedule::mixed(&plan);
            assert_eq!(schedule, Schedule::mixed(&plan));
            let all = schedule.of(|_| true);
            assert!(all.len() > 60, "{} faults", all.len());
            let kinds: std::collections::HashSet<_> =
                all.iter().map(|(_, fault)| std::mem::discriminant(fault)).collect();
            // Stops and expiries are one kind of fault.
            assert_eq!(kinds.len(), ALL.len() - 1, "{schedule}");
            assert!(
                all.iter().any(
                    |(_, f)| matches!(f, Fault::StopCopier { length, .. } if *length == EXPIRED)
                )
            );
        }
    }
}
