//! What breaks when: a schedule drawn from a seed.

use std::fmt;
use std::time::Duration;

/// Something to break.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// `SIGKILL` for a copier, which is started again after this long.
    KillCopier {
        /// Which one.
        slot: usize,
        /// How long it stays down.
        down: Duration,
    },
    /// `SIGSTOP` for a copier, and `SIGCONT` after its partitions have gone to others.
    StopCopier {
        /// Which one.
        slot: usize,
    },
    /// `SIGKILL` for the broker, which is started again after this long.
    KillBroker {
        /// How long it stays down at least.
        down: Duration,
    },
    /// `SIGKILL` for the database, which is started again after this long.
    KillDatabase {
        /// How long it stays down.
        down: Duration,
    },
}

/// How much is to be broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dose {
    /// Copiers.
    pub copiers: usize,
    /// Kills of copiers.
    pub kills: usize,
    /// Stops of copiers.
    pub stops: usize,
    /// Kills of the broker.
    pub broker: usize,
    /// Kills of the database.
    pub database: usize,
    /// From the first to the last.
    pub over: Duration,
}

impl Dose {
    /// The same dose for every stretch of time as long as this one's.
    #[must_use]
    pub fn over(self, time: Duration) -> Self {
        let factor = time.as_secs_f64() / self.over.as_secs_f64();
        // More than needed rather than less.
        let scale = |count: usize| (count as f64 * factor).ceil() as usize;
        Self {
            kills: scale(self.kills),
            stops: scale(self.stops),
            broker: scale(self.broker),
            database: scale(self.database),
            over: time,
            ..self
        }
    }
}

/// Faults by the time they are due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schedule(Vec<(Duration, Fault)>);

impl Schedule {
    /// Draws a schedule. Copiers take turns in a random order, so that each gets its share; times are random, so that
    /// faults overlap. The two of a server are apart: one that is down cannot be killed.
    #[must_use]
    pub fn draw(seed: u64, dose: Dose) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut due = Vec::new();
        let mut slots = Slots { dice: dice.fork(), copiers: dose.copiers, left: Vec::new() };
        for _ in 0..dose.kills {
            let down = Duration::from_millis(dice.u64(0..2500));
            due.push((
                moment(&mut dice, dose.over),
                Fault::KillCopier { slot: slots.next(), down },
            ));
        }
        for _ in 0..dose.stops {
            due.push((moment(&mut dice, dose.over), Fault::StopCopier { slot: slots.next() }));
        }
        for part in 0..dose.broker {
            let down = Duration::from_millis(dice.u64(0..2000));
            due.push((
                part_of(&mut dice, dose.over, part, dose.broker),
                Fault::KillBroker { down },
            ));
        }
        for part in 0..dose.database {
            let down = Duration::from_millis(dice.u64(0..4000));
            due.push((
                part_of(&mut dice, dose.over, part, dose.database),
                Fault::KillDatabase { down },
            ));
        }
        due.sort();
        Self(due)
    }

    /// The faults that this takes on, in order.
    pub fn of(&self, takes: impl Fn(&Fault) -> bool) -> Vec<(Duration, Fault)> {
        self.0.iter().filter(|(_, fault)| takes(fault)).copied().collect()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in &self.0 {
            write!(f, "\n  {:>6.1} s  ", at.as_secs_f64())?;
            match fault {
                Fault::KillCopier { slot, down } => write!(f, "kill copier {slot}, down {down:?}")?,
                Fault::StopCopier { slot } => write!(f, "stop copier {slot}")?,
                Fault::KillBroker { down } => write!(f, "kill the broker, down {down:?} and more")?,
                Fault::KillDatabase { down } => write!(f, "kill the database, down {down:?}")?,
            }
        }
        Ok(())
    }
}

fn moment(dice: &mut fastrand::Rng, over: Duration) -> Duration {
    over.mul_f64(dice.f64())
}

/// A moment in the first half of one of several equal parts.
fn part_of(dice: &mut fastrand::Rng, over: Duration, part: usize, parts: usize) -> Duration {
    let part_length = over / u32::try_from(parts).expect("few parts");
    part_length * u32::try_from(part).expect("few parts") + moment(dice, part_length / 2)
}

/// Copiers in a random order, each once before any comes again.
struct Slots {
    dice: fastrand::Rng,
    copiers: usize,
    left: Vec<usize>,
}

impl Slots {
    fn next(&mut self) -> usize {
        if self.left.is_empty() {
            self.left = (0..self.copiers).collect();
            self.dice.shuffle(&mut self.left);
        }
        self.left.pop().expect("just filled")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOSE: Dose = Dose {
        copiers: 3,
        kills: 10,
        stops: 5,
        broker: 2,
        database: 2,
        over: Duration::from_secs(80),
    };

    #[test]
    fn a_schedule_holds_the_whole_dose_and_follows_from_its_seed() {
        for seed in 0..50 {
            let schedule = Schedule::draw(seed, DOSE);
            assert_eq!(schedule, Schedule::draw(seed, DOSE));
            assert_ne!(schedule, Schedule::draw(seed + 1, DOSE));
            let count = |takes: fn(&Fault) -> bool| schedule.of(takes).len();
            assert_eq!(count(|fault| matches!(fault, Fault::KillCopier { .. })), 10);
            assert_eq!(count(|fault| matches!(fault, Fault::StopCopier { .. })), 5);
            assert_eq!(count(|fault| matches!(fault, Fault::KillBroker { .. })), 2);
            assert_eq!(count(|fault| matches!(fault, Fault::KillDatabase { .. })), 2);
            for slot in 0..3 {
                let of_one = schedule.of(|fault| {
                    matches!(fault, Fault::KillCopier { slot: s, .. } | Fault::StopCopier { slot: s } if *s == slot)
                });
                assert_eq!(of_one.len(), 5, "{schedule}");
            }
        }
    }

    #[test]
    fn a_longer_run_breaks_as_much_per_minute() {
        let dose = DOSE.over(Duration::from_secs(240));
        assert_eq!((dose.kills, dose.stops, dose.broker, dose.database), (30, 15, 6, 6));
    }
}
