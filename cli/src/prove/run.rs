//! One run from its first process to what it left: start, faults, calm, end, reading back.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::args::Prove;
use super::begin::{self, Start};
use super::database::Positions;
use super::evidence::Evidence;
use super::faults::{self, Spread};
use super::interrupt::Interrupt;
use super::names::Run;
use super::process::Launch;
use super::read;
use super::schedule::{Fault, What};
use super::screen::Screen;
use super::slot::{Slot, Tally};
use super::target::Target;
use super::tether::Tether;
use super::watch::{Seen, Watch};
use crate::failure::Failure;

/// How often it is looked whether something is done.
const LOOK: Duration = Duration::from_millis(100);
/// So many ends before anything was stored are no accident.
const ENDS_MAX: u64 = 3;
/// How long processes may take to end after Ctrl-C.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// What a run left, and what was done to it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) run: Run,
    pub(crate) group: String,
    /// `None`: it could not be read back.
    pub(crate) evidence: Option<Evidence>,
    pub(crate) tally: Tally,
    pub(crate) hand_overs: u64,
    /// Progress that went back.
    pub(crate) regress: Vec<String>,
    pub(crate) took: Duration,
    /// Why the run does not show what it should.
    pub(crate) doubts: Vec<String>,
}

/// What a run is made with.
pub(crate) struct Plan<'a> {
    pub(crate) args: &'a Prove,
    pub(crate) run: Run,
    pub(crate) faults: &'a [Fault],
    pub(crate) logs: PathBuf,
    pub(crate) tether: Rc<Tether>,
    pub(crate) screen: &'a Screen,
    pub(crate) interrupt: &'a Interrupt,
}

impl Plan<'_> {
    /// Runs it.
    pub(crate) async fn run(&self, target: Arc<Target>) -> Result<Outcome, Failure> {
        let within = self.args.settle_within();
        let begin = begin::begin(&target, within, self.screen);
        let start = self.interrupt.or(begin).await?;
        let began = Instant::now();
        self.screen.begin(self.asked(true), self.asked(false));
        let seen = Seen::new(Arc::clone(&start.first), start.ends.clone());
        let watch = Watch::start(Arc::clone(&target), seen);
        let mut slots = self.start(&watch)?;
        let mut doubts = Vec::new();
        let result = tokio::select! {
            result = self.live(&mut slots, &watch, &target, &start, &mut doubts) => result,
            never = self.show(&watch) => match never {},
            () = self.interrupt.heard(1) => Err(Failure::Interrupted),
        };
        if let Err(failure) = result {
            self.leave(&mut slots).await;
            return Err(failure);
        }
        let Seen { hand_overs, regress, .. } = watch.now();
        drop(watch);
        let tally = slots.iter().fold(Tally::default(), |all, slot| all.and(&slot.tally));
        drop(slots);
        let took = began.elapsed();
        self.screen.event("reading back what was stored");
        let read = read::read(&target, &start, within, self.screen);
        let evidence = match self.interrupt.or(read).await {
            Ok(evidence) => Some(evidence),
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => {
                doubts.push(format!("it cannot be read back: {failure}"));
                None
            }
        };
        self.fewer(&tally, &mut doubts);
        let (run, group) = (self.run, target.group.clone());
        Ok(Outcome { run, group, evidence, tally, hand_overs, regress, took, doubts })
    }

    /// From the first process to the end of the last.
    async fn live(
        &self,
        slots: &mut [Slot<'_>],
        watch: &Watch,
        target: &Target,
        start: &Start,
        doubts: &mut Vec<String>,
    ) -> Result<(), Failure> {
        self.first_progress(slots, watch).await?;
        begin::probe(target, start).await?;
        self.suffer(slots, watch, start).await?;
        self.settle(slots, watch, target, doubts).await?;
        self.end(slots, doubts).await
    }

    async fn show(&self, watch: &Watch) -> std::convert::Infallible {
        loop {
            let seen = watch.now();
            let trouble = seen.trouble.as_deref();
            self.screen.progress(seen.done(), seen.total(), self.run.label(), trouble);
            sleep(LOOK).await;
        }
    }

    /// Nothing is proved any more. The processes are asked to end, so that they leave neither members
    /// nor open transactions behind, and are killed if they do not soon, or if that is asked for.
    async fn leave(&self, slots: &mut [Slot<'_>]) {
        self.screen.event("the processes are asked to end");
        slots.iter_mut().for_each(Slot::ask_to_end);
        let ended = async {
            for slot in slots {
                // Whatever becomes of it, it does not outlive its slot.
                let _ = slot.end_within(LEAVE_MAX).await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = self.interrupt.heard(2) => {}
        }
    }

    fn start(&self, watch: &Watch) -> Result<Vec<Slot<'_>>, Failure> {
        let count = usize::from(self.args.processes);
        let slot = |number| {
            let name = match self.run {
                Run::Only => format!("process-{number}.log"),
                run => format!("{}-process-{number}.log", run.name()),
            };
            let launch = Launch {
                command: self.run.command(&self.args.command, number),
                log: self.logs.join(name),
                tether: Rc::clone(&self.tether),
            };
            Slot::start(number, launch, self.screen, watch.seen.clone())
        };
        let slots = (1..=count).map(slot).collect::<Result<_, _>>()?;
        let processes = if count == 1 { "process" } else { "processes" };
        let label = self.run.label();
        self.screen.event(format!("{label} {count} {processes} started").trim_start());
        Ok(slots)
    }

    /// Until something is stored. A command that ends again and again before that is wrong itself.
    async fn first_progress(&self, slots: &mut [Slot<'_>], watch: &Watch) -> Result<(), Failure> {
        let began = Instant::now();
        while watch.now().done() == 0 {
            for slot in &mut *slots {
                let Some(ended) = slot.keep_running().await? else { continue };
                if ended.could_not_start() || slot.tally.ended >= ENDS_MAX {
                    return Err(Failure::usage(format_args!(
                        "the command ended by itself {} before anything was stored, with {ended}{}",
                        times(slot.tally.ended),
                        indented(&ended.lines)
                    )));
                }
            }
            if began.elapsed() > self.args.settle_within() {
                return Err(self.nothing_stored(slots, &watch.now()));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn nothing_stored(&self, slots: &[Slot<'_>], seen: &Seen) -> Failure {
        let why = match &seen.trouble {
            Some(trouble) => format!("progress cannot be seen: {trouble}"),
            None => seen.lagging(&seen.ends).join("\n  "),
        };
        let words = slots.first().map(Slot::last_lines).unwrap_or_default();
        Failure::failed(format_args!(
            "nothing was stored within {:.0} s (--settle-within). Is the command's group {}?\n  \
             {why}\nprocess 1 said last{}",
            self.args.settle_within().as_secs_f64(),
            self.run.fill(&self.args.group),
            indented(&words)
        ))
    }

    async fn suffer(
        &self,
        slots: &mut [Slot<'_>],
        watch: &Watch,
        start: &Start,
    ) -> Result<(), Failure> {
        if !self.run.has_faults() {
            return Ok(());
        }
        let spread = Spread {
            over: self.args.over.map(crate::time::Length::get),
            total: u64::try_from(start.work()).unwrap_or_default(),
            stalled: self.args.settle_within() + self.args.stop_for.get(),
        };
        faults::suffer(slots, self.faults, spread, &watch.seen).await
    }

    /// Nothing breaks any more: until progress reaches where the input ends now.
    async fn settle(
        &self,
        slots: &mut [Slot<'_>],
        watch: &Watch,
        target: &Target,
        doubts: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let ends = match self.ends(target).await {
            Ok(ends) => ends,
            Err(error) => {
                doubts.push(format!("it is not known where the input ends: {error}"));
                return Ok(());
            }
        };
        let waits = self.run.has_faults().then_some("no more faults; waiting until all is stored");
        waits.into_iter().for_each(|text| self.screen.event(text));
        let (mut lagging, mut since) = (watch.now().lagging(&ends), Instant::now());
        loop {
            let now = watch.now();
            let lags = now.lagging(&ends);
            if lags.is_empty() {
                return Ok(());
            }
            if lags != lagging {
                (lagging, since) = (lags, Instant::now());
            }
            if since.elapsed() > self.args.settle_within() {
                let trouble = now.trouble.map(|why| format!(" ({why})")).unwrap_or_default();
                doubts.push(format!(
                    "not everything was stored within {:.0} s without faults: {}{trouble}",
                    self.args.settle_within().as_secs_f64(),
                    lagging.join(", ")
                ));
                return Ok(());
            }
            for slot in &mut *slots {
                slot.keep_running().await?;
            }
            sleep(LOOK).await;
        }
    }

    /// The ends of the input, asked until there is an answer.
    async fn ends(&self, target: &Target) -> Result<Positions, tidegate::Error> {
        let began = Instant::now();
        loop {
            let ends = target.ends().await;
            if ends.is_ok() || began.elapsed() > self.args.settle_within() {
                return ends;
            }
            sleep(LOOK).await;
        }
    }

    /// Asks all processes to end, and waits until they have.
    async fn end(&self, slots: &mut [Slot<'_>], doubts: &mut Vec<String>) -> Result<(), Failure> {
        self.screen.event("the processes are asked to end");
        slots.iter_mut().for_each(Slot::ask_to_end);
        for slot in slots {
            match slot.end_within(self.args.settle_within()).await? {
                Some(ended) if ended.code == Some(0) => {}
                Some(ended) => self.screen.say(&format!(
                    "process {} was asked to end, and did with {ended}",
                    slot.number
                )),
                None => doubts.push(format!(
                    "process {} did not end within {:.0} s of SIGTERM and was killed",
                    slot.number,
                    self.args.settle_within().as_secs_f64()
                )),
            }
        }
        Ok(())
    }

    /// Fewer faults than were asked for show less than was asked.
    fn fewer(&self, tally: &Tally, doubts: &mut Vec<String>) {
        let (kills, stops) = (self.asked(true), self.asked(false));
        if !self.run.has_faults() {
            return;
        }
        if self.faults.is_empty() {
            doubts.push("no faults were asked for".to_owned());
        } else if (tally.kills, tally.stops) != (kills, stops) {
            doubts.push(format!(
                "{} of {kills} kills and {} of {stops} stops hit a process that had work: give the \
                 input more records, make the function slower, or ask for fewer; or spread them \
                 over a time in which more is produced, by --over",
                tally.kills, tally.stops
            ));
        }
    }

    /// How many kills were asked for, or stops.
    fn asked(&self, kills: bool) -> u64 {
        let is_asked = |fault: &&Fault| matches!(fault.what, What::Kill { .. }) == kills;
        u64::try_from(self.faults.iter().filter(is_asked).count()).unwrap_or(u64::MAX)
    }
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}
