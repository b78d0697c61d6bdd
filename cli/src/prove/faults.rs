//! The time in which processes are killed and stopped, each fault at its turn.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tokio::sync::watch;

use super::schedule::Fault;
use super::slot::Slot;
use super::watch::Seen;
use crate::failure::Failure;

/// How often a slot looks whether the turn of its next fault has come.
const LOOK: Duration = Duration::from_millis(50);
/// Nothing left for so long is the end of the work.
const IDLE: Duration = Duration::from_secs(2);
/// A pipeline that keeps up with its input has nothing left most of the time. It has work if it
/// stored something so short a time ago.
const RECENT: Duration = Duration::from_secs(1);

/// What faults are spread over, and when to give up waiting for their turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spread {
    /// Over this time; `None`: over the work that was there at the start.
    pub(crate) over: Option<Duration>,
    /// The work that was there at the start, in offsets.
    pub(crate) total: u64,
    /// How long nothing may be stored.
    pub(crate) stalled: Duration,
}

/// What has become of the turn of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// It has come, and there is work.
    Now,
    /// Not yet.
    Later,
    /// It will not come any more.
    Never,
}

/// When the work was last seen unfinished.
#[derive(Clone, Copy, Debug)]
struct Clock {
    began: Instant,
    busy: Instant,
}

impl Spread {
    /// Whether a process can be torn from work.
    fn has_work(&self, seen: &Seen, now: Instant) -> bool {
        let keeps_up = self.over.is_some() && now.duration_since(seen.moved) < RECENT;
        seen.left() > 0 || (keeps_up && seen.done() > 0)
    }

    /// Whether it is a fault's turn, by what is seen now.
    fn turn(&self, fault: &Fault, seen: &Seen, clock: Clock, now: Instant) -> Turn {
        let passed = now.duration_since(clock.began);
        let is_idle = !self.has_work(seen, now);
        let is_due = match self.over {
            Some(over) => passed >= over.mul_f64(fault.turn),
            None => seen.done() as f64 >= fault.turn * self.total as f64,
        };
        let is_over = match self.over {
            Some(over) => passed > over,
            None => is_idle && now.duration_since(clock.busy) > IDLE,
        };
        let is_stalled = now.duration_since(seen.moved.max(clock.began)) > self.stalled && !is_idle;
        if is_due && !is_idle && !is_over {
            Turn::Now
        } else if is_over || is_stalled {
            Turn::Never
        } else {
            Turn::Later
        }
    }
}

/// All slots suffer their faults, each one after the other. Those that have no more live on until
/// the last has.
pub(crate) async fn suffer(
    slots: &mut [Slot<'_>],
    faults: &[Fault],
    spread: Spread,
    seen: &watch::Receiver<Seen>,
) -> Result<(), Failure> {
    let left = std::cell::Cell::new(slots.len());
    let left = &left;
    let each = slots.iter_mut().enumerate().map(|(process, slot)| {
        let own: Vec<Fault> = faults.iter().filter(|f| f.process == process).copied().collect();
        let seen = seen.clone();
        async move {
            one(slot, &own, spread, seen).await?;
            left.set(left.get() - 1);
            while left.get() > 0 {
                slot.live_for(LOOK).await?;
            }
            Ok::<_, Failure>(())
        }
    });
    try_join_all(each).await?;
    Ok(())
}

async fn one(
    slot: &mut Slot<'_>,
    faults: &[Fault],
    spread: Spread,
    seen: watch::Receiver<Seen>,
) -> Result<(), Failure> {
    let now = Instant::now();
    let mut clock = Clock { began: now, busy: now };
    for fault in faults {
        loop {
            let now = Instant::now();
            let turn = {
                let seen = seen.borrow();
                if seen.left() > 0 {
                    clock.busy = now;
                }
                spread.turn(fault, &seen, clock, now)
            };
            match turn {
                Turn::Now => {
                    slot.live_for(fault.jitter).await?;
                    let has_work = spread.has_work(&seen.borrow(), Instant::now());
                    if has_work && slot.hit(fault).await? {
                        break;
                    }
                }
                Turn::Later => {}
                Turn::Never => {
                    slot.miss();
                    break;
                }
            }
            slot.live_for(LOOK).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidegate::record::PartitionId;

    use super::*;
    use crate::prove::database::Positions;
    use crate::prove::schedule::What;

    const SECOND: Duration = Duration::from_secs(1);

    fn fault(turn: f64) -> Fault {
        let what = What::Stop { length: SECOND };
        Fault { turn, jitter: Duration::ZERO, process: 0, what }
    }

    /// So many of 100 are done.
    fn seen(done: i64) -> Seen {
        let at = |offset| Positions::from([(PartitionId::new("in", 0), offset)]);
        let mut seen = Seen::new(Arc::new(at(0)), at(100));
        seen.next = at(done);
        seen
    }

    fn turn(spread: Spread, turn: f64, seen: &Seen, passed: Duration, idle: Duration) -> Turn {
        let began = seen.moved;
        let now = began + passed;
        spread.turn(&fault(turn), seen, Clock { began, busy: now - idle }, now)
    }

    #[test]
    fn over_the_work_a_fault_comes_when_so_much_is_done_and_not_when_nothing_is_left() {
        let spread = Spread { over: None, total: 100, stalled: SECOND * 60 };
        let at = |share, done, idle| turn(spread, share, &seen(done), SECOND * 5, idle);
        assert_eq!(at(0.5, 49, Duration::ZERO), Turn::Later);
        assert_eq!(at(0.5, 50, Duration::ZERO), Turn::Now);
        assert_eq!(at(0.5, 100, SECOND), Turn::Later, "more may come");
        assert_eq!(at(0.5, 100, SECOND * 3), Turn::Never);
    }

    #[test]
    fn over_a_time_a_fault_comes_at_its_time_and_waits_for_work_until_the_end() {
        let spread = Spread { over: Some(SECOND * 10), total: 100, stalled: SECOND * 60 };
        let at = |seconds, done| turn(spread, 0.5, &seen(done), SECOND * seconds, SECOND * seconds);
        assert_eq!(at(4, 90), Turn::Later);
        assert_eq!(at(5, 0), Turn::Now);
        assert_eq!(at(9, 100), Turn::Later);
        assert_eq!(at(11, 100), Turn::Never);
        let mut keeps_up = seen(100);
        let began = keeps_up.moved;
        let now = began + SECOND * 9;
        keeps_up.moved = now - SECOND / 2;
        let clock = Clock { began, busy: began };
        assert_eq!(spread.turn(&fault(0.5), &keeps_up, clock, now), Turn::Now);
        let static_input = Spread { over: None, ..spread };
        assert_eq!(static_input.turn(&fault(0.5), &keeps_up, clock, now), Turn::Never);
    }

    #[test]
    fn where_nothing_moves_for_too_long_no_fault_is_waited_for() {
        let spread = Spread { over: None, total: 100, stalled: SECOND * 60 };
        let at = |seconds| turn(spread, 0.5, &seen(10), SECOND * seconds, Duration::ZERO);
        assert_eq!((at(59), at(61)), (Turn::Later, Turn::Never));
    }
}
