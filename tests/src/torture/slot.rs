//! One copier under torture: started, killed, stopped, and started again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::held::hold;
use super::{Fault, Nemesis};
use crate::fleet::{Copier, Orders, Store};
use crate::wire::Wire;

/// How often a copier is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long a copier may take to end when it is asked to: its drain, and what gives up after it.
pub(super) const END_MAX: Duration = Duration::from_secs(40);
/// How long a fault that missed waits for its next try.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How often a fault is tried that needs more than a victim that runs.
pub(super) const TRIES: usize = 4;

/// What was really done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Faults that hit, by kind.
    pub hits: BTreeMap<Nemesis, usize>,
    /// Faults that hit nobody and were tried again.
    pub missed: usize,
    /// What copiers said that ended by themselves.
    pub ended: Vec<String>,
}

impl Tally {
    /// How often this kind hit.
    #[must_use]
    pub fn of(&self, nemesis: Nemesis) -> usize {
        self.hits.get(&nemesis).copied().unwrap_or_default()
    }

    /// Notes a fault that hit.
    pub(super) fn hit(&mut self, fault: &Fault) {
        *self.hits.entry(fault.nemesis()).or_default() += 1;
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (nemesis, count) in other.hits {
            *self.hits.entry(nemesis).or_default() += count;
        }
        self.missed += other.missed;
        self.ended.extend(other.ended);
        self
    }
}

/// A place for a copier, which is never empty for long.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    orders: Orders,
    copier: Copier,
    /// Its way to the store, if that is a wire.
    wire: Option<&'a Wire>,
    store: &'a Store,
    pub(super) tally: Tally,
}

impl<'a> Slot<'a> {
    pub(super) fn start(
        mut orders: Orders,
        wire: Option<&'a Wire>,
        store: &'a Store,
    ) -> Result<Self> {
        let copier = orders.start()?;
        Ok(Self { orders, copier, wire, store, tally: Tally::default() })
    }

    pub(super) fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Lives through these faults, each not before its time and one after the other.
    pub(super) async fn suffer(
        mut self,
        start: Instant,
        faults: Vec<(Duration, Fault)>,
    ) -> Result<Self> {
        for (at, fault) in faults {
            self.live_until(start + at).await?;
            // No commit may come any more; a copier that runs comes always.
            let tries = if fault.nemesis() == Nemesis::Zombie { TRIES } else { usize::MAX };
            for _ in 0..tries {
                if self.hit(fault).await? {
                    break;
                }
                self.tally.missed += 1;
                self.live_until(Instant::now() + TRY_AGAIN).await?;
            }
        }
        Ok(self)
    }

    /// Keeps a copier running until then.
    pub(super) async fn live_until(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            self.keep_running().await?;
            sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await;
        }
        Ok(())
    }

    /// Starts another copier where one has ended by itself, and notes it.
    pub(super) async fn keep_running(&mut self) -> Result<()> {
        if !self.copier.is_running()? {
            let ended = self.copier.end(Duration::ZERO).await?;
            let how =
                format!("pid {}, code {:?}: {}", self.copier.pid(), ended.code, ended.last_line());
            self.tally.ended.push(how);
            self.copier = self.orders.start()?;
        }
        Ok(())
    }

    /// Whether the fault hit.
    async fn hit(&mut self, fault: Fault) -> Result<bool> {
        if !self.copier.is_running()? {
            return Ok(false);
        }
        match fault {
            Fault::KillCopier { down, .. } => {
                self.copier.kill().await?;
                sleep(down).await;
                self.copier = self.orders.start()?;
            }
            Fault::StopCopier { length, .. } => self.stop(length).await?,
            Fault::StopCommit { length, .. } => {
                if !self.stop_in_commit(length).await? {
                    return Ok(false);
                }
            }
            Fault::Stutter { times, .. } => {
                for _ in 0..times {
                    self.stop(Duration::from_millis(50 + fastrand::u64(..850))).await?;
                    sleep(Duration::from_millis(fastrand::u64(..500))).await;
                }
            }
            Fault::EndCopier { twice, .. } => self.ask_to_end(twice).await?,
            other => unreachable!("{other:?} is no fault of a copier"),
        }
        self.tally.hit(&fault);
        Ok(true)
    }

    async fn stop(&mut self, length: Duration) -> Result<()> {
        self.copier.signal("STOP")?;
        sleep(length).await;
        self.copier.signal("CONT")
    }

    /// Its commit arrives, or goes on, when others have its partitions. Whether one came.
    async fn stop_in_commit(&mut self, length: Duration) -> Result<bool> {
        let Some(held) = hold(self.wire, self.store, &self.orders).await? else {
            return Ok(false);
        };
        if !self.copier.is_running()? {
            held.release().await;
            return Ok(false);
        }
        self.copier.signal("STOP")?;
        held.outlast(length).await;
        self.copier.signal("CONT")?;
        Ok(true)
    }

    /// It may be busy, starting, or waiting for a server that is down: it ends soon, and says whether all was stored.
    async fn ask_to_end(&mut self, twice: bool) -> Result<()> {
        self.copier.signal("TERM")?;
        if twice {
            sleep(Duration::from_millis(fastrand::u64(..1000))).await;
            let _ = self.copier.signal("TERM");
        }
        let ended = self.copier.end(END_MAX).await?;
        let (code, signal) = (ended.code, ended.signal);
        // A process that has only just been started, and has said nothing yet, does not listen to signals so far.
        let unborn = signal.is_some() && ended.words.is_empty();
        ensure!(
            matches!(code, Some(0 | 1)) || unborn,
            "asked to end, it ended with {code:?}, signal {signal:?}"
        );
        self.copier = self.orders.start()?;
        Ok(())
    }

    /// Ends the copier cleanly.
    pub(super) async fn end(&mut self, within: Duration) -> Result<()> {
        self.copier.signal("TERM")?;
        let ended = self.copier.end(within).await?.with_code(0)?;
        ensure!(ended.signal.is_none(), "it ended by a signal");
        Ok(())
    }
}
