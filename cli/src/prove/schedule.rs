//! What breaks, when and where, drawn from a seed. Pure.

use std::time::Duration;

use fastrand::Rng;

/// A killed process is started again after up to this long, so that others can take over what it
/// had.
const DOWN_MAX: Duration = Duration::from_secs(3);
/// A fault comes up to this long after its turn: longer than from one commit to the next, so that
/// it falls anywhere, into a commit as well.
const JITTER_MAX: Duration = Duration::from_millis(250);
/// No fault has its turn in the last part of the work: it would find nothing left to do.
const LAST_TURN: f64 = 0.8;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    pub(crate) seed: u64,
    pub(crate) processes: u16,
    pub(crate) kills: u16,
    pub(crate) stops: u16,
    pub(crate) stop_for: Duration,
}

/// One fault.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Fault {
    /// Its turn: how much of the work, or of the time, has passed, from 0 to 1.
    pub(crate) turn: f64,
    /// How long after its turn it comes.
    pub(crate) jitter: Duration,
    /// The number of the process that it hits, from 0.
    pub(crate) process: usize,
    pub(crate) what: What,
}

/// What happens to the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// SIGKILL; it is started again after this long.
    Kill { down: Duration },
    /// SIGSTOP, and SIGCONT after this long.
    Stop { length: Duration },
}

/// All faults, by their turns.
pub(crate) fn schedule(wanted: &Wanted) -> Vec<Fault> {
    let mut dice = Rng::with_seed(wanted.seed);
    let mut kinds: Vec<bool> = std::iter::repeat_n(true, wanted.kills.into())
        .chain(std::iter::repeat_n(false, wanted.stops.into()))
        .collect();
    dice.shuffle(&mut kinds);
    let count = kinds.len() as f64;
    let mut processes = Processes::new(wanted.processes);
    let fault = |(number, is_kill): (usize, bool)| Fault {
        // One in each part of the work, anywhere in it.
        turn: (number as f64 + dice.f64()) / count * LAST_TURN,
        jitter: up_to(&mut dice, JITTER_MAX),
        process: processes.next(&mut dice),
        what: match is_kill {
            true => What::Kill { down: up_to(&mut dice, DOWN_MAX) },
            false => What::Stop { length: wanted.stop_for },
        },
    };
    kinds.into_iter().enumerate().map(fault).collect()
}

fn up_to(dice: &mut Rng, longest: Duration) -> Duration {
    let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(dice.u64(..=millis))
}

/// Processes in a random order, each once before any comes again.
struct Processes {
    count: u16,
    left: Vec<usize>,
}

impl Processes {
    fn new(count: u16) -> Self {
        Self { count: count.max(1), left: Vec::new() }
    }

    fn next(&mut self, dice: &mut Rng) -> usize {
        if self.left.is_empty() {
            self.left = (0..usize::from(self.count)).collect();
            dice.shuffle(&mut self.left);
        }
        self.left.pop().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(seed: u64) -> Wanted {
        Wanted { seed, processes: 3, kills: 10, stops: 5, stop_for: Duration::from_secs(7) }
    }

    #[test]
    fn a_seed_gives_the_same_faults_again_and_another_one_gives_others() {
        assert_eq!(schedule(&wanted(7)), schedule(&wanted(7)));
        assert_ne!(schedule(&wanted(7)), schedule(&wanted(8)));
    }

    #[test]
    fn there_are_as_many_faults_as_were_asked_for_spread_over_work_and_processes() {
        for seed in 0..100 {
            let faults = schedule(&wanted(seed));
            let kills = faults.iter().filter(|fault| matches!(fault.what, What::Kill { .. }));
            assert_eq!((faults.len(), kills.count()), (15, 10));
            assert!(faults.is_sorted_by(|one, other| one.turn <= other.turn), "seed {seed}");
            for (number, fault) in faults.iter().enumerate() {
                let part = number as f64 / 15.0 * LAST_TURN..(number + 1) as f64 / 15.0 * LAST_TURN;
                assert!(part.contains(&fault.turn), "seed {seed}: {fault:?}");
                if let What::Stop { length } = fault.what {
                    assert_eq!(length, Duration::from_secs(7));
                }
            }
            for process in 0..3 {
                let hits = faults.iter().filter(|fault| fault.process == process);
                assert_eq!(hits.count(), 5, "seed {seed}");
            }
        }
    }

    #[test]
    fn no_faults_are_none() {
        let calm = Wanted { kills: 0, stops: 0, ..wanted(1) };
        assert_eq!(schedule(&calm), []);
    }
}
