//! What breaks when: a schedule drawn from a seed.

use std::fmt;
use std::time::Duration;

use super::dice::Slots;
use super::{Deed, EXPIRED, Nemesis, STOPPED};
use crate::wire::{Act, Mode};

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
    /// `SIGSTOP` for a copier, and `SIGCONT` after this long.
    StopCopier {
        /// Which one.
        slot: usize,
        /// How long: past its session its partitions have gone to others.
        length: Duration,
    },
    /// The next commit of a copier is held, the copier stopped. After this long both go on, and its partitions have gone
    /// to others.
    StopCommit {
        /// Which one.
        slot: usize,
        /// How long.
        length: Duration,
    },
    /// Short stops of a copier, one after the other.
    Stutter {
        /// Which one.
        slot: usize,
        /// How many.
        times: u32,
    },
    /// `SIGTERM` for a copier, which is started again when it has ended.
    EndCopier {
        /// Which one.
        slot: usize,
        /// The signal is sent again before it has ended.
        twice: bool,
    },
    /// `SIGKILL` for the broker, which is started again after this long.
    KillBroker {
        /// How long it stays down at least.
        down: Duration,
    },
    /// `SIGSTOP` for the broker.
    PauseBroker {
        /// How long.
        length: Duration,
    },
    /// `SIGKILL` for the database, which is started again after this long.
    KillDatabase {
        /// How long it stays down.
        down: Duration,
    },
    /// The connections of all copiers to the database are ended.
    EndBackends,
    /// A copier's wire does something to everything.
    Wire {
        /// Whose.
        slot: usize,
        /// The one to the database, if there is one; otherwise to the broker.
        to_store: bool,
        /// What.
        mode: Mode,
        /// How long.
        length: Duration,
    },
    /// The next commit on a copier's wire.
    Commit {
        /// Whose.
        slot: usize,
        /// What becomes of it.
        act: Act,
        /// How long it is held, if it is.
        length: Duration,
    },
    /// Another copier joins, and leaves a second later by a kill or by itself; so many times.
    Storm {
        /// How often.
        joins: u32,
    },
    /// All processors are busy.
    Burn {
        /// How long.
        length: Duration,
    },
    /// A foreign transaction stays open in the input, and is aborted in the end.
    Hang {
        /// How long.
        length: Duration,
    },
    /// The input gets one more partition, with records.
    Grow,
    /// Records of a partition that are done are deleted.
    DeleteRecords {
        /// Which one of those that have progress.
        partition: usize,
    },
    /// An operator does something.
    Operate {
        /// What. Where progress is the group's, it is a quota whatever this says.
        deed: Deed,
        /// How long it holds, if it ends.
        length: Duration,
    },
}

/// Who suffers a fault. One of them suffers one fault at a time; different ones suffer at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victim {
    /// The copier in this place.
    Copier(usize),
    /// The wires of this copier.
    Wires(usize),
    /// The broker.
    Broker,
    /// The database.
    Database,
    /// The group.
    Group,
    /// The input.
    Input,
    /// Nobody: an operator acts.
    Operator,
    /// The machine.
    Machine,
}

impl Fault {
    /// Which kind it is of.
    #[must_use]
    pub fn nemesis(&self) -> Nemesis {
        match self {
            Self::KillCopier { .. } => Nemesis::Kill,
            Self::StopCopier { length, .. } if *length >= EXPIRED => Nemesis::Expiry,
            Self::StopCopier { .. } => Nemesis::Stop,
            Self::StopCommit { .. } => Nemesis::Zombie,
            Self::Stutter { .. } => Nemesis::Stutter,
            Self::EndCopier { .. } => Nemesis::Term,
            Self::Wire { .. } => Nemesis::Link,
            Self::Commit { .. } => Nemesis::Commit,
            Self::KillBroker { .. } => Nemesis::Broker,
            Self::PauseBroker { .. } => Nemesis::Pause,
            Self::KillDatabase { .. } => Nemesis::Database,
            Self::EndBackends => Nemesis::Backends,
            Self::Storm { .. } => Nemesis::Storm,
            Self::Hang { .. } => Nemesis::Hanging,
            Self::Grow => Nemesis::Topic,
            Self::DeleteRecords { .. } => Nemesis::Delete,
            Self::Operate { .. } => Nemesis::Operator,
            Self::Burn { .. } => Nemesis::Burn,
        }
    }

    /// Who suffers it.
    #[must_use]
    pub fn victim(&self) -> Victim {
        match self {
            Self::KillCopier { slot, .. }
            | Self::StopCopier { slot, .. }
            | Self::StopCommit { slot, .. }
            | Self::Stutter { slot, .. }
            | Self::EndCopier { slot, .. } => Victim::Copier(*slot),
            Self::Wire { slot, .. } | Self::Commit { slot, .. } => Victim::Wires(*slot),
            Self::KillBroker { .. } | Self::PauseBroker { .. } => Victim::Broker,
            Self::KillDatabase { .. } | Self::EndBackends => Victim::Database,
            Self::Storm { .. } => Victim::Group,
            Self::Hang { .. } | Self::Grow => Victim::Input,
            Self::DeleteRecords { .. } | Self::Operate { .. } => Victim::Operator,
            Self::Burn { .. } => Victim::Machine,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillCopier { slot, down } => write!(f, "kill copier {slot}, down {down:?}"),
            Self::StopCopier { slot, length } => write!(f, "stop copier {slot} for {length:?}"),
            Self::StopCommit { slot, length } => {
                write!(f, "stop copier {slot} in its commit, for {length:?}")
            }
            Self::Stutter { slot, times } => write!(f, "copier {slot} stutters {times} times"),
            Self::EndCopier { slot, twice } => {
                write!(f, "ask copier {slot} to end{}", if *twice { ", twice" } else { "" })
            }
            Self::KillBroker { down } => write!(f, "kill the broker, down {down:?} and more"),
            Self::PauseBroker { length } => write!(f, "stop the broker for {length:?}"),
            Self::KillDatabase { down } => write!(f, "kill the database, down {down:?}"),
            Self::EndBackends => f.write_str("end all connections to the database"),
            Self::Wire { slot, to_store, mode, length } => {
                let end = if *to_store { "store" } else { "broker" };
                write!(f, "wire of copier {slot} to its {end}: {mode:?} for {length:?}")
            }
            Self::Commit { slot, act, length } => {
                write!(f, "commit of copier {slot}: {act:?}, {length:?}")
            }
            Self::Storm { joins } => write!(f, "{joins} members come and go"),
            Self::Burn { length } => write!(f, "no processor is free for {length:?}"),
            Self::Hang { length } => write!(f, "a foreign transaction is open for {length:?}"),
            Self::Grow => f.write_str("one more partition"),
            Self::DeleteRecords { partition } => write!(f, "delete what is done of {partition}"),
            Self::Operate { deed, length } => write!(f, "an operator: {deed:?}, {length:?}"),
        }
    }
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
        let mut slots = Slots::new(&mut dice, dose.copiers);
        for _ in 0..dose.kills {
            let down = Duration::from_millis(dice.u64(0..2500));
            due.push((
                moment(&mut dice, dose.over),
                Fault::KillCopier { slot: slots.next(), down },
            ));
        }
        for _ in 0..dose.stops {
            due.push((
                moment(&mut dice, dose.over),
                Fault::StopCopier { slot: slots.next(), length: STOPPED },
            ));
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

    /// These faults, each at its time.
    pub(super) fn from(mut due: Vec<(Duration, Fault)>) -> Self {
        due.sort();
        Self(due)
    }

    /// The faults of this victim, in order.
    #[must_use]
    pub fn for_victim(&self, victim: Victim) -> Vec<(Duration, Fault)> {
        self.of(|fault| fault.victim() == victim)
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
            write!(f, "{fault}")?;
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
                    matches!(fault, Fault::KillCopier { slot: s, .. } | Fault::StopCopier { slot: s, .. } if *s == slot)
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
