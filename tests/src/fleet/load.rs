//! Input for copiers: records from a seed, with every directive in them, produced at a steady rate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Message};
use tidegate_kafka::testing::WayBack;
use tokio::task::JoinHandle;

/// How long a producer waits for a broker that is down, again and again.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a flush looks whether a broker is left.
const FLUSH_STEP: Duration = Duration::from_secs(1);

/// A record to be produced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// Its partition.
    pub partition: i32,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
}

/// How many records of each kind there are among ten thousand; the rest is plain.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Always fail.
    pub poison: u32,
    /// Fail once or twice.
    pub flaky: u32,
    /// Panic.
    pub panic: u32,
    /// Are filtered.
    pub drop: u32,
    /// Have 0 to 4 outputs.
    pub fan: u32,
    /// Have a null value, or an empty one.
    pub hollow: u32,
}

impl Mix {
    /// Some of everything.
    pub const ALL: Self =
        Self { poison: 20, flaky: 60, panic: 10, drop: 200, fan: 300, hollow: 100 };
    /// Nothing but one output for one record.
    pub const PLAIN: Self = Self { poison: 0, flaky: 0, panic: 0, drop: 0, fan: 0, hollow: 0 };
}

/// So many records for so many partitions. A key lives in one partition; null keys and the empty key are everywhere.
#[must_use]
pub fn generate(seed: u64, count: usize, partitions: i32, mix: Mix) -> Vec<Planned> {
    stream(seed, count, partitions, mix).collect()
}

/// As [`generate`], one record at a time: a long run does not hold all of them.
pub fn stream(
    seed: u64,
    count: usize,
    partitions: i32,
    mix: Mix,
) -> impl Iterator<Item = Planned> + Send + 'static {
    let mut dice = fastrand::Rng::with_seed(seed);
    (0..count).map(move |number| record(&mut dice, number, partitions, mix))
}

fn record(dice: &mut fastrand::Rng, number: usize, partitions: i32, mix: Mix) -> Planned {
    // One record in ten has a hot key: order matters most where many share one.
    let id =
        if dice.u32(..10) == 0 { dice.i32(0..partitions) } else { dice.i32(0..partitions * 50) };
    let mut partition = id % partitions;
    let mut key = Some(format!("key-{id}").into_bytes());
    if let few @ 0..2 = dice.u32(..50) {
        key = (few == 0).then(Vec::new);
        partition = dice.i32(0..partitions);
    }
    let Mix { poison, flaky, panic, drop, fan, hollow } = mix;
    let (drawn, mut sum) = (dice.u32(..10_000), 0);
    let kind = [poison, flaky, panic, drop, fan, hollow].iter().position(|share| {
        sum += share;
        drawn < sum
    });
    let value = match kind {
        Some(0) => format!("poison:{number}"),
        Some(1) => format!("flaky:{}:{number}", dice.u32(1..=2)),
        Some(2) => format!("panic:{number}"),
        Some(3) => format!("drop:{number}"),
        Some(4) => format!("fan:{}:{number}", dice.u32(..5)),
        Some(_) => return Planned { partition, key, value: dice.bool().then(Vec::new) },
        None => format!("plain {number} {}", "x".repeat(dice.usize(..80))),
    };
    Planned { partition, key, value: Some(value.into_bytes()) }
}

/// Produces the records in order, so many a second (0: as fast as it goes), and waits until all are stored. A broker
/// that is down for a while is waited for; nothing is produced twice and nothing is left out.
///
/// # Errors
/// When a record could not be stored.
pub async fn produce(
    client: &ClientConfig,
    topic: &str,
    records: impl IntoIterator<Item = Planned, IntoIter: Send + 'static>,
    rate: u32,
) -> Result<()> {
    Feed::start(client, topic, records, rate).all().await
}

/// Input that comes in while other things happen. Dropping it ends it.
#[derive(Debug)]
pub struct Feed {
    goes_on: Arc<AtomicBool>,
    task: JoinHandle<Result<()>>,
}

impl Feed {
    /// Begins to produce, so many records a second, or as fast as it goes with a rate of 0.
    #[must_use]
    pub fn start(
        client: &ClientConfig,
        topic: &str,
        records: impl IntoIterator<Item = Planned, IntoIter: Send + 'static>,
        rate: u32,
    ) -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        let records = records.into_iter();
        let task = feed(client.clone(), topic.to_owned(), records, rate, Arc::clone(&goes_on));
        Self { goes_on, task }
    }

    /// Waits until all of it has been produced.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn all(mut self) -> Result<()> {
        (&mut self.task).await?
    }

    /// Ends it early: what was produced until now is the input.
    ///
    /// # Errors
    /// When that cannot be stored.
    pub async fn end(self) -> Result<()> {
        self.goes_on.store(false, Ordering::Relaxed);
        self.all().await
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
    }
}

fn feed(
    mut client: ClientConfig,
    topic: String,
    records: impl Iterator<Item = Planned> + Send + 'static,
    rate: u32,
    goes_on: Arc<AtomicBool>,
) -> JoinHandle<Result<()>> {
    client
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", PATIENCE.as_millis().to_string())
        .set("linger.ms", "5");
    let run = move || -> Result<()> {
        let notes = Notes::new(client.get("bootstrap.servers").unwrap_or_default());
        let producer: Sender = client.create_with_context(notes)?;
        let notes = producer.client().context();
        let start = Instant::now();
        let goes_on = || goes_on.load(Ordering::Relaxed);
        for (number, record) in records.enumerate().take_while(|_| goes_on()) {
            if rate > 0 {
                let due = Duration::from_secs_f64(number as f64 / f64::from(rate));
                if let Some(early) =
                    due.checked_sub(start.elapsed()).filter(|early| early.as_millis() > 2)
                {
                    std::thread::sleep(early);
                }
            }
            notes.lead_back(&producer);
            send(&producer, &topic, &record)?;
        }
        let flushing = Instant::now();
        while let Err(error) = producer.flush(FLUSH_STEP) {
            ensure!(flushing.elapsed() < PATIENCE, "not everything could be produced: {error}");
            notes.lead_back(&producer);
        }
        let refused = notes.refused();
        ensure!(
            refused.is_empty(),
            "{topic}: {} records not stored, first {}",
            refused.len(),
            refused[0]
        );
        Ok(())
    };
    tokio::task::spawn_blocking(run)
}

type Sender = ThreadedProducer<Notes>;

/// What the producer tells by the way.
struct Notes {
    /// Records that the broker did not take, with the reason. A flush does not tell of them.
    refused: Mutex<Vec<String>>,
    way_back: WayBack,
    delivered_at: Mutex<Instant>,
}

impl Notes {
    fn new(servers: &str) -> Self {
        Self {
            refused: Mutex::default(),
            way_back: WayBack::new(servers),
            delivered_at: Mutex::new(Instant::now()),
        }
    }

    fn delivered_at(&self) -> MutexGuard<'_, Instant> {
        self.delivered_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lead_back(&self, producer: &Sender) {
        let last = *self.delivered_at();
        self.way_back.wait_on(last, producer.client());
    }

    fn refused(&self) -> MutexGuard<'_, Vec<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Notes {
    fn error(&self, error: KafkaError, _: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.way_back.lost();
        }
    }
}

impl ProducerContext for Notes {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                *self.delivered_at() = Instant::now();
                self.way_back.found();
            }
            Err((error, message)) => {
                let text = format!("for partition {}: {error}", message.partition());
                self.refused().push(text);
            }
        }
    }
}

fn send(producer: &Sender, topic: &str, record: &Planned) -> Result<()> {
    let start = Instant::now();
    loop {
        let mut message = BaseRecord::<[u8], [u8]>::to(topic).partition(record.partition);
        if let Some(key) = &record.key {
            message = message.key(key.as_slice());
        }
        if let Some(value) = &record.value {
            message = message.payload(value.as_slice());
        }
        match producer.send(message) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _))
                if start.elapsed() < PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err((error, _)) => return Err(anyhow!("produce to {topic}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Expected, Rules, expected};

    #[test]
    fn the_same_seed_gives_the_same_records_and_all_kinds_of_them() {
        let records = generate(7, 20_000, 8, Mix::ALL);
        assert_eq!(records, generate(7, 20_000, 8, Mix::ALL));
        assert_ne!(records, generate(8, 20_000, 8, Mix::ALL));
        assert!(records.iter().all(|record| (0..8).contains(&record.partition)));
        for front in ["poison:", "flaky:1:", "flaky:2:", "panic:", "drop:", "fan:0:", "fan:4:"] {
            let found = records
                .iter()
                .flat_map(|record| &record.value)
                .any(|v| v.starts_with(front.as_bytes()));
            assert!(found, "{front}");
        }
        for (key, value) in [(None, Some(Vec::new())), (Some(Vec::new()), None)] {
            assert!(records.iter().any(|record| record.key == key), "{key:?}");
            assert!(records.iter().any(|record| record.value == value), "{value:?}");
        }
    }

    #[test]
    fn plain_records_have_one_output_each() {
        for record in generate(1, 1000, 3, Mix::PLAIN) {
            assert_eq!(expected(record.value.as_deref(), &Rules::default()), Expected::Copies(1));
        }
    }
}
