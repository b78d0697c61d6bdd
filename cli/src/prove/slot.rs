//! A place for one process of the command, which is never empty for long.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::sleep;

use super::process::{Ended, LOOK, Launch, Process};
use super::schedule::{Fault, What};
use super::screen::{Screen, thousands};
use super::watch::Seen;
use crate::failure::Failure;

/// A process that ended by itself is started again after this long, and after longer each time it
/// does so at once.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a killed process may take to be gone.
const GONE_MAX: Duration = Duration::from_secs(30);
/// How often ends by themselves are quoted; all are counted.
const QUOTED: usize = 3;

/// What was really done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    /// Processes that were killed while there was work.
    pub(crate) kills: u64,
    /// Processes that were stopped while there was work, and went on later.
    pub(crate) stops: u64,
    /// Stops during which no partition was seen to change hands.
    pub(crate) short: u64,
    /// Faults whose turn came when there was no work left, or never.
    pub(crate) missed: u64,
    /// Starts after the first one.
    pub(crate) restarts: u64,
    /// Processes that ended by themselves.
    pub(crate) ended: u64,
    /// How the first of them ended.
    pub(crate) ends: Vec<String>,
}

impl Tally {
    /// Both together.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.kills += other.kills;
        self.stops += other.stops;
        self.short += other.short;
        self.missed += other.missed;
        self.restarts += other.restarts;
        self.ended += other.ended;
        self.ends.extend(other.ends.iter().cloned());
        self.ends.truncate(QUOTED);
        self
    }
}

/// A place for a process.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    /// Counted from 1.
    pub(crate) number: usize,
    launch: Launch,
    process: Process,
    pub(crate) tally: Tally,
    pause: Duration,
    started: Instant,
    screen: &'a Screen,
    seen: watch::Receiver<Seen>,
}

impl<'a> Slot<'a> {
    pub(crate) fn start(
        number: usize,
        launch: Launch,
        screen: &'a Screen,
        seen: watch::Receiver<Seen>,
    ) -> Result<Self, Failure> {
        let process = started(launch.start())?;
        let (tally, pause) = (Tally::default(), PAUSE_MIN);
        let started = Instant::now();
        Ok(Self { number, launch, process, tally, pause, started, screen, seen })
    }

    /// Starts the process again where it has ended by itself, and notes it. Answers how it ended.
    pub(crate) async fn keep_running(&mut self) -> Result<Option<Ended>, Failure> {
        if self.process.is_running().map_err(unknown)? {
            return Ok(None);
        }
        let ended = self.process.how_it_ended();
        self.tally.ended += 1;
        let text = format!("process {} ended by itself, {ended}", self.number);
        self.screen.say(&text);
        if self.tally.ends.len() < QUOTED {
            self.tally.ends.push(text);
        }
        if self.started.elapsed() > PAUSE_MAX {
            self.pause = PAUSE_MIN;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.start_again()?;
        Ok(Some(ended))
    }

    fn start_again(&mut self) -> Result<(), Failure> {
        self.process = started(self.launch.start())?;
        self.started = Instant::now();
        self.tally.restarts += 1;
        Ok(())
    }

    /// Keeps the process running for so long.
    pub(crate) async fn live_for(&mut self, length: Duration) -> Result<(), Failure> {
        let until = Instant::now() + length;
        while Instant::now() < until {
            self.keep_running().await?;
            sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await;
        }
        Ok(())
    }

    /// The fault, if there is a process. Answers whether it hit.
    pub(crate) async fn hit(&mut self, fault: &Fault) -> Result<bool, Failure> {
        let (done, hand_overs) = {
            let seen = self.seen.borrow();
            (thousands(seen.done()), seen.hand_overs)
        };
        if !self.process.is_running().map_err(unknown)? {
            return Ok(false);
        }
        let number = self.number;
        match fault.what {
            What::Kill { down } => {
                self.screen.event(&format!("process {number} is killed at {done}"));
                self.process.signal(Signal::KILL);
                let ended = self.process.end_within(GONE_MAX).await.map_err(unknown)?;
                let ended = ended.ok_or_else(|| {
                    Failure::failed(format_args!("process {number} does not go although killed"))
                })?;
                // It may have ended by itself just before.
                if ended.signal != Some(Signal::KILL.as_raw()) {
                    return Ok(false);
                }
                self.tally.kills += 1;
                self.screen.killed();
                sleep(down).await;
                self.start_again()?;
            }
            What::Stop { length } => {
                self.screen.event(&format!(
                    "process {number} is stopped for {:.0} s at {done}",
                    length.as_secs_f64()
                ));
                self.process.signal(Signal::STOP);
                sleep(length).await;
                let was_there = self.process.is_running().map_err(unknown)?;
                self.process.signal(Signal::CONT);
                self.screen.event(&format!("process {number} goes on"));
                if was_there {
                    self.tally.stops += 1;
                    let is_same = self.seen.borrow().hand_overs == hand_overs;
                    self.tally.short += u64::from(is_same);
                    self.screen.stopped();
                }
                return Ok(was_there);
            }
        }
        Ok(true)
    }

    /// A fault that found no work.
    pub(crate) fn miss(&mut self) {
        self.tally.missed += 1;
    }

    /// Asks the process to end. One that has ended already has done what was asked.
    pub(crate) fn ask_to_end(&mut self) {
        self.process.ask_to_end();
    }

    /// Waits for its end; `None` if it has not ended by then, and was killed.
    pub(crate) async fn end_within(&mut self, longest: Duration) -> Result<Option<Ended>, Failure> {
        let ended = self.process.end_within(longest).await.map_err(unknown)?;
        if ended.is_none() {
            self.process.signal(Signal::KILL);
            self.process.end_within(GONE_MAX).await.map_err(unknown)?;
        }
        Ok(ended)
    }

    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.process.last_lines()
    }
}

fn started(process: io::Result<Process>) -> Result<Process, Failure> {
    process.map_err(|error| Failure::failed(format_args!("no process can be started: {error}")))
}

fn unknown(error: io::Error) -> Failure {
    Failure::failed(format_args!("the system does not say what became of a process: {error}"))
}
