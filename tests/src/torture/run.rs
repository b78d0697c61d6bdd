//! One run: faults on all sides while records come in, then healing, draining, and reading back.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use tokio::time::sleep;

use super::operator::Kept;
use super::slot::{END_MAX, Slot};
use super::victims::Victims;
use super::{Schedule, Tally, Victim};
use crate::audit::{Input, Moment, Watched};
use crate::fleet::{Mix, Orders, Scene, Trail, produce, stream};
use crate::readers::{Look, Watch};
use crate::segments::{Agreed, Holes};
use crate::servers::{Kafka, Postgres};
use crate::wire::Wire;

/// How long copiers may take to finish once nothing breaks any more.
const HEAL_MAX: Duration = Duration::from_secs(120);
/// How often a look at the store counts everything.
const WHOLE_EVERY: u64 = 20;

/// The servers that break.
#[derive(Clone, Copy, Debug)]
pub struct Servers<'a> {
    /// With a controller of its own.
    pub kafka: &'a Kafka,
    /// The store's server, if it has one.
    pub postgres: Option<&'a Postgres>,
    /// The wires of each copier, if it has any.
    pub wires: &'a [Wires<'a>],
}

impl<'a> Servers<'a> {
    /// A copier's wire to the store, or, if that has none or is not meant, to the broker.
    pub(super) fn wire(&self, slot: usize, to_store: bool) -> Option<&'a Wire> {
        let wires = self.wires.get(slot)?;
        Some(wires.store.filter(|_| to_store).unwrap_or(wires.broker))
    }
}

/// The wires of a copier.
#[derive(Clone, Copy, Debug)]
pub struct Wires<'a> {
    /// To the broker.
    pub broker: &'a Wire,
    /// To the database, if that is the store.
    pub store: Option<&'a Wire>,
}

/// What to do to whom.
#[derive(Debug)]
pub struct Torture<'a> {
    /// From which everything is drawn.
    pub seed: u64,
    /// What breaks when.
    pub schedule: Schedule,
    /// How long that takes.
    pub over: Duration,
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
#[derive(Debug, Default)]
pub struct Outcome {
    /// What hit.
    pub tally: Tally,
    /// What the store showed every second while things broke, if it can show one moment of itself.
    pub moments: Vec<Moment>,
    /// Records of the input that were deleted meanwhile.
    pub deleted: Vec<Input>,
    /// What of the moments was compared, if there is a store to look at.
    pub watched: Option<Watched>,
    /// Records of the input that Kafka's own consumer read as our client did, if it could be asked.
    pub read_twice: Option<usize>,
    /// Transactions in the segments of the output that were compared with the offsets they stored, if it is topics.
    pub agreed: Option<Agreed>,
    /// What the segments of the input hold that no reader gets.
    pub holes: Holes,
    /// Transactions that the coordinator ended because of their time-out.
    pub expired: usize,
    /// Records of the input that ask for nothing.
    pub filtered: usize,
    /// Records of the input that ask for a dead letter.
    pub dead: usize,
    /// What all copiers wrote about themselves.
    pub trail: Trail,
    /// How long healing took.
    pub healed: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hits = self.tally.hits.iter().map(|(nemesis, count)| format!("{count} {nemesis}"));
        let hits = hits.collect::<Vec<_>>().join(", ");
        let missed = self.tally.missed;
        write!(f, "hit: {hits} ({missed} tried again); healed in {:.1?}", self.healed)?;
        let fates = ["committed", "aborted", "fenced", "in_doubt", "rejected", "stop"];
        let fates = fates.map(|fate| format!("{} {fate}", self.trail.fates(fate)));
        write!(f, "\ncommits: {}", fates.join(", "))?;
        let events = ["assign", "revoke", "lost", "claim", "dropped", "fate", "partition_failed"];
        let events = events.map(|event| format!("{} {event}", self.trail.count(event)));
        write!(f, "\nevents: {}", events.join(", "))?;
        for words in &self.tally.ended {
            write!(f, "\nended by itself: {words}")?;
        }
        Ok(())
    }
}

/// Feeds the input, breaks things by the schedule, and lets the copiers finish. The result has to be read yet.
///
/// # Errors
/// When a server does not come back, or the copiers do not finish.
pub async fn torture(run: &Torture<'_>, orders: Vec<Orders>) -> Result<Outcome> {
    println!("seed {}, {} records; what breaks when:{}", run.seed, run.records, run.schedule);
    let watch = run.scene.watch().await?;
    let slots: Vec<_> = orders
        .iter()
        .enumerate()
        .map(|(number, orders)| {
            Slot::start(orders.clone(), run.servers.wire(number, true), &run.scene.store)
        })
        .collect::<Result<_>>()?;
    let start = Instant::now();
    let suffering = slots
        .into_iter()
        .enumerate()
        .map(|(number, slot)| slot.suffer(start, run.schedule.for_victim(Victim::Copier(number))));
    let (stranger, kept) = (orders.first().cloned(), Kept::default());
    let victims = Victims { run, start, stranger, kept };
    let (slots, others, moments, ()) = tokio::try_join!(
        try_join_all(suffering),
        victims.suffer(orders.len()),
        look_every_second(run, start, watch),
        feed(run),
    )?;
    println!("{:?}: everything has broken, now it heals", start.elapsed());
    let healing = Instant::now();
    let slots = heal(run, slots).await?;
    let healed = healing.elapsed();
    let mut trail = Trail::default();
    let mut tally = others;
    for slot in slots {
        trail.events.extend(slot.orders().trail()?.slim().events);
        tally = tally.and(slot.tally);
    }
    trail.events.extend(victims.trail()?.events);
    let deleted = victims.kept.into_records();
    Ok(Outcome { tally, moments, deleted, trail, healed, ..Outcome::default() })
}

/// Input comes in over the whole time.
async fn feed(run: &Torture<'_>) -> Result<()> {
    let records = stream(run.seed, run.records, run.partitions, Mix::ALL);
    let rate = (run.records as f64 / run.over.as_secs_f64()).ceil() as u32;
    produce(run.scene.client(), &run.scene.input, records, rate).await
}

/// A store that can show one moment of itself is looked at every second while things break.
async fn look_every_second(
    run: &Torture<'_>,
    start: Instant,
    watch: Option<Watch>,
) -> Result<Vec<Moment>> {
    let mut moments = Vec::new();
    let Some(mut watch) = watch else { return Ok(moments) };
    for number in 1..=run.over.as_secs() {
        let due = start + Duration::from_secs(number);
        sleep(due.saturating_duration_since(Instant::now())).await;
        let look = if number % WHOLE_EVERY == 0 { Look::Whole } else { Look::New };
        // A database that is down just now shows nothing. Nor is a second that is over made up for.
        if Instant::now() < due + Duration::from_secs(1) {
            moments.extend(watch.look(look).await.ok());
        }
    }
    Ok(moments)
}

/// Waits until everything is stored, and ends the copiers.
async fn heal<'a>(run: &Torture<'_>, mut slots: Vec<Slot<'a>>) -> Result<Vec<Slot<'a>>> {
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
