//! One run: faults on all sides while records come in, then healing, draining, and reading back.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use tokio::time::sleep;

use super::slot::Slot;
use super::{Dose, Fault, Schedule, Tally};
use crate::audit::Evidence;
use crate::fleet::{Mix, Orders, Scene, Trail, generate, produce};
use crate::servers::{Kafka, Postgres};

/// How long copiers may take to finish once nothing breaks any more.
const HEAL_MAX: Duration = Duration::from_secs(120);
/// How long a copier may take to end when it is asked to.
const END_MAX: Duration = Duration::from_secs(40);

/// The servers that break.
#[derive(Clone, Copy, Debug)]
pub struct Servers<'a> {
    /// With a controller of its own.
    pub kafka: &'a Kafka,
    /// The store's server, if it has one.
    pub postgres: Option<&'a Postgres>,
}

/// What to do to whom.
#[derive(Debug)]
pub struct Torture<'a> {
    /// From which everything is drawn.
    pub seed: u64,
    /// How much breaks.
    pub dose: Dose,
    /// Records of the input.
    pub records: usize,
    /// Partitions of the input.
    pub partitions: i32,
    /// What breaks beside the copiers.
    pub servers: Servers<'a>,
    /// Where they work.
    pub scene: &'a Scene,
}

/// What happened.
#[derive(Debug)]
pub struct Outcome {
    /// What hit copiers.
    pub tally: Tally,
    /// How often the broker was killed and came back.
    pub broker: usize,
    /// How often the database was.
    pub database: usize,
    /// What the store showed in single moments while things broke.
    pub snapshots: Vec<Evidence>,
    /// What all copiers wrote about themselves.
    pub trail: Trail,
    /// How long healing took.
    pub healed: Duration,
}

impl Outcome {
    /// Whether everything broke that should.
    ///
    /// # Errors
    /// When it did not.
    pub fn was_hard(&self, dose: Dose) -> Result<()> {
        let hit = (self.tally.kills, self.tally.stops, self.broker, self.database);
        let asked = (dose.kills, dose.stops, dose.broker, dose.database);
        ensure!(
            hit.0 >= asked.0 && hit.1 >= asked.1 && hit.2 >= asked.2 && hit.3 >= asked.3,
            "kills, stops, kills of the broker and of the database: {asked:?} were asked for, {hit:?} hit"
        );
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { kills, stops, missed, ended } = &self.tally;
        write!(
            f,
            "{kills} kills and {stops} stops of copiers ({missed} tried again), broker killed {} times, database {} \
             times; healed in {:.1?}",
            self.broker, self.database, self.healed
        )?;
        let fates = ["committed", "aborted", "fenced", "in_doubt", "rejected", "stop"];
        let fates = fates.map(|fate| format!("{} {fate}", self.trail.fates(fate)));
        write!(f, "\ncommits: {}", fates.join(", "))?;
        let events = ["assign", "revoke", "lost", "claim", "dropped", "fate", "partition_failed"];
        let events = events.map(|event| format!("{} {event}", self.trail.count(event)));
        write!(
            f,
            "\nevents: {}; cuts that a kill left open: {}",
            events.join(", "),
            self.open_cuts()
        )?;
        for words in ended {
            write!(f, "\nended by itself: {words}")?;
        }
        Ok(())
    }
}

impl Outcome {
    /// Cuts whose process could not say how they ended.
    fn open_cuts(&self) -> usize {
        self.trail.count("cut").saturating_sub(self.trail.count("commit"))
    }
}

/// Feeds the input, breaks things by the schedule, and lets the copiers finish. The result has to be read yet.
///
/// # Errors
/// When a server does not come back, or the copiers do not finish.
pub async fn torture(run: &Torture<'_>, orders: Vec<Orders>) -> Result<Outcome> {
    let schedule = Schedule::draw(run.seed, run.dose);
    println!("seed {}, {} records; what breaks when:{schedule}", run.seed, run.records);
    let slots: Vec<_> = orders.into_iter().map(Slot::start).collect::<Result<_>>()?;
    let start = Instant::now();
    let suffering = slots.into_iter().enumerate().map(|(number, slot)| {
        let mine = |fault: &Fault| {
            matches!(fault, Fault::KillCopier { slot, .. } | Fault::StopCopier { slot } if *slot == number)
        };
        slot.suffer(start, schedule.of(mine))
    });
    let (slots, broker, database, snapshots, ()) = tokio::try_join!(
        try_join_all(suffering),
        break_broker(run.servers.kafka, start, &schedule),
        break_database(run.servers.postgres, start, &schedule),
        look_now_and_then(run, start),
        feed(run),
    )?;
    println!("{:?}: everything has broken, now it heals", start.elapsed());
    let healing = Instant::now();
    let slots = heal(run, slots).await?;
    let healed = healing.elapsed();
    let mut trail = Trail::default();
    let mut tally = Tally::default();
    for slot in slots {
        trail.events.extend(slot.orders().trail()?.events);
        tally = tally.and(slot.tally);
    }
    Ok(Outcome { tally, broker, database, snapshots, trail, healed })
}

/// Input comes in over the whole time.
async fn feed(run: &Torture<'_>) -> Result<()> {
    let records = generate(run.seed, run.records, run.partitions, Mix::ALL);
    let rate = (run.records as f64 / run.dose.over.as_secs_f64()).ceil() as u32;
    produce(run.scene.client(), &run.scene.input, records, rate).await
}

async fn break_broker(kafka: &Kafka, start: Instant, schedule: &Schedule) -> Result<usize> {
    let mut hit = 0;
    for (at, fault) in schedule.of(|fault| matches!(fault, Fault::KillBroker { .. })) {
        sleep((start + at).saturating_duration_since(Instant::now())).await;
        let Fault::KillBroker { down } = fault else { unreachable!("just filtered") };
        kafka.kill().await.context("kill the broker")?;
        sleep(down).await;
        kafka.start_again().await.context("start the broker again")?;
        hit += 1;
    }
    Ok(hit)
}

async fn break_database(
    postgres: Option<&Postgres>,
    start: Instant,
    schedule: &Schedule,
) -> Result<usize> {
    let mut hit = 0;
    let Some(postgres) = postgres else { return Ok(hit) };
    for (at, fault) in schedule.of(|fault| matches!(fault, Fault::KillDatabase { .. })) {
        sleep((start + at).saturating_duration_since(Instant::now())).await;
        let Fault::KillDatabase { down } = fault else { unreachable!("just filtered") };
        postgres.kill().await.context("kill the database")?;
        sleep(down).await;
        postgres.start_again().await.context("start the database again")?;
        hit += 1;
    }
    Ok(hit)
}

/// A store that can show one moment of itself is looked at while things break.
async fn look_now_and_then(run: &Torture<'_>, start: Instant) -> Result<Vec<Evidence>> {
    let mut snapshots = Vec::new();
    for part in 1..=3 {
        let due = start + run.dose.over / 4 * part;
        sleep(due.saturating_duration_since(Instant::now())).await;
        // A database that is down just now shows nothing.
        if let Ok(Some(snapshot)) = run.scene.snapshot().await {
            snapshots.push(snapshot);
        }
    }
    Ok(snapshots)
}

/// Waits until everything is stored, and ends the copiers.
async fn heal(run: &Torture<'_>, mut slots: Vec<Slot>) -> Result<Vec<Slot>> {
    let start = Instant::now();
    loop {
        for slot in &mut slots {
            slot.keep_running().await?;
        }
        if run.scene.is_done().await.unwrap_or(false) {
            break;
        }
        ensure!(
            start.elapsed() < HEAL_MAX,
            "not everything is stored {HEAL_MAX:?} after the last fault"
        );
        sleep(Duration::from_millis(250)).await;
    }
    for slot in &mut slots {
        slot.end(END_MAX).await?;
    }
    Ok(slots)
}
