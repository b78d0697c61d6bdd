//! What breaks around the copiers: servers, wires, the group, the input, the machine; and what an operator does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::{FutureExt, LocalBoxFuture, join_all, try_join_all};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;

use super::held::catch;
use super::operator::Kept;
use super::run::Torture;
use super::slot::{END_MAX, TRIES};
use super::{Fault, Tally, Victim};
use crate::fleet::{Mix, Orders, Store, Trail, generate, produce};
use crate::readers::read_ends;
use crate::wire::{Act, Mode};

/// How long a fault that missed waits for its next try.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Records of a new partition.
const GROWTH: usize = 500;

/// Everything that breaks but copiers.
pub(super) struct Victims<'a> {
    pub(super) run: &'a Torture<'a>,
    pub(super) start: Instant,
    /// How another copier is started.
    pub(super) stranger: Option<Orders>,
    /// What an operator has deleted.
    pub(super) kept: Kept,
}

impl Victims<'_> {
    /// All of them suffer, side by side.
    pub(super) async fn suffer(&self, copiers: usize) -> Result<Tally> {
        let others = [
            Victim::Broker,
            Victim::Database,
            Victim::Group,
            Victim::Input,
            Victim::Machine,
            Victim::Operator,
        ];
        let all = (0..copiers).map(Victim::Wires).chain(others);
        let tallies = try_join_all(all.map(|victim| self.one(victim))).await?;
        Ok(tallies.into_iter().fold(Tally::default(), Tally::and))
    }

    async fn one(&self, victim: Victim) -> Result<Tally> {
        let mut tally = Tally::default();
        for (at, fault) in self.run.schedule.for_victim(victim) {
            sleep((self.start + at).saturating_duration_since(Instant::now())).await;
            for _ in 0..TRIES {
                if self.hit(fault).await.with_context(|| fault.to_string())? {
                    tally.hit(&fault);
                    break;
                }
                // Its victim was down just then.
                tally.missed += 1;
                sleep(TRY_AGAIN).await;
            }
        }
        Ok(tally)
    }

    fn hit(&self, fault: Fault) -> LocalBoxFuture<'_, Result<bool>> {
        match fault {
            Fault::KillBroker { down } => self.kill_broker(down).boxed_local(),
            Fault::PauseBroker { length } => self.pause_broker(length).boxed_local(),
            Fault::KillDatabase { down } => self.kill_database(down).boxed_local(),
            Fault::EndBackends => self.end_backends().boxed_local(),
            Fault::Wire { slot, to_store, mode, length } => {
                self.spoil(slot, to_store, mode, length).boxed_local()
            }
            Fault::Commit { slot, act, length } => {
                self.catch_commit(slot, act, length).boxed_local()
            }
            Fault::Storm { joins } => self.storm(joins).boxed_local(),
            Fault::Burn { length } => burn(length).boxed_local(),
            Fault::Hang { length } => self.hang(length).boxed_local(),
            Fault::Grow => self.grow().boxed_local(),
            Fault::DeleteRecords { partition } => self.delete_records(partition).boxed_local(),
            Fault::Operate { deed, length } => self.operate(deed, length).boxed_local(),
            other => async move { bail!("{other} is a copier's") }.boxed_local(),
        }
    }

    async fn kill_broker(&self, down: Duration) -> Result<bool> {
        let kafka = self.run.servers.kafka;
        kafka.kill().await?;
        sleep(down).await;
        kafka.start_again().await?;
        Ok(true)
    }

    async fn pause_broker(&self, length: Duration) -> Result<bool> {
        let kafka = self.run.servers.kafka;
        kafka.pause().await?;
        sleep(length).await;
        kafka.resume().await?;
        kafka.ready().await?;
        Ok(true)
    }

    async fn kill_database(&self, down: Duration) -> Result<bool> {
        let Some(postgres) = self.run.servers.postgres else { return Ok(false) };
        postgres.kill().await?;
        sleep(down).await;
        postgres.start_again().await?;
        Ok(true)
    }

    async fn end_backends(&self) -> Result<bool> {
        let Store::Postgres(url) = &self.run.scene.store else { return Ok(false) };
        let mut connection = PgConnection::connect(url).await?;
        let end = "select pg_terminate_backend(pid) from pg_stat_activity \
                   where datname = current_database() and pid <> pg_backend_pid()";
        let ended = sqlx::query(end).fetch_all(&mut connection).await?;
        Ok(!ended.is_empty())
    }

    async fn spoil(&self, slot: usize, store: bool, mode: Mode, length: Duration) -> Result<bool> {
        let Some(wire) = self.run.servers.wire(slot, store) else { return Ok(false) };
        wire.set(mode);
        sleep(length).await;
        wire.set(Mode::Whole);
        Ok(true)
    }

    async fn catch_commit(&self, slot: usize, act: Act, length: Duration) -> Result<bool> {
        let Some(wire) = self.run.servers.wire(slot, true) else { return Ok(false) };
        let Some(trap) = catch(wire, act).await else { return Ok(false) };
        sleep(length).await;
        trap.open();
        Ok(true)
    }

    async fn storm(&self, joins: u32) -> Result<bool> {
        let Some(orders) = &self.stranger else { return Ok(false) };
        let mut orders = orders.stranger();
        for join in 0..joins {
            let mut stranger = orders.start()?;
            sleep(Duration::from_secs(1)).await;
            if join % 2 == 0 && stranger.is_running()? {
                stranger.signal("TERM")?;
                stranger.end(END_MAX).await?;
            }
        }
        Ok(true)
    }

    /// What the strangers of storms left.
    pub(super) fn trail(&self) -> Result<Trail> {
        self.stranger.as_ref().map_or_else(|| Ok(Trail::default()), |o| o.stranger().trail_so_far())
    }

    /// Records of an aborted transaction are invisible, and readers do not pass it while it is open.
    async fn hang(&self, length: Duration) -> Result<bool> {
        let mut client = self.run.scene.client().clone();
        client
            .set("transactional.id", format!("{}-stranger", self.run.scene.input))
            .set("transaction.timeout.ms", "60000");
        let topic = self.run.scene.input.clone();
        let run = move || -> Result<bool> {
            let wait = Duration::from_secs(30);
            let producer: BaseProducer = client.create()?;
            // A broker that dies meanwhile ends it too, sooner.
            if producer.init_transactions(wait).is_err() {
                return Ok(false);
            }
            producer.begin_transaction()?;
            let record = BaseRecord::<(), _>::to(&topic).partition(0).payload("never committed");
            producer.send(record).map_err(|(error, _)| error)?;
            if producer.flush(wait).is_err() {
                return Ok(false);
            }
            std::thread::sleep(length);
            Ok(producer.abort_transaction(wait).is_ok())
        };
        tokio::task::spawn_blocking(run).await?
    }

    async fn grow(&self) -> Result<bool> {
        let scene = self.run.scene;
        let admin: AdminClient<DefaultClientContext> = scene.client().create()?;
        let Ok(ends) = read_ends(scene.client(), &[&scene.input]).await else { return Ok(false) };
        let count = ends.len();
        let more = NewPartitions::new(&scene.input, count + 1);
        match admin.create_partitions([&more], &AdminOptions::new()).await {
            Ok(results) if results.iter().all(Result::is_ok) => {}
            _ => return Ok(false),
        }
        let there = async || {
            let ends = read_ends(scene.client(), &[&scene.input]).await;
            Ok(ends.is_ok_and(|ends| ends.len() == count + 1))
        };
        crate::fleet::until("the new partition", Duration::from_secs(60), there).await?;
        let number = i32::try_from(count)?;
        let mut records = generate(self.run.seed ^ 0x6772_6f77, GROWTH, 1, Mix::ALL);
        for record in &mut records {
            record.partition = number;
            // Keys of one partition stay there.
            record.key =
                record.key.take().map(|key| [key, format!("-{number}").into_bytes()].concat());
        }
        produce(scene.client(), &scene.input, records, 0).await?;
        Ok(true)
    }
}

async fn burn(length: Duration) -> Result<bool> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let end = Instant::now() + length;
    let hot = move || {
        let mut sum = 0_u64;
        while Instant::now() < end {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
    };
    let burning = join_all((0..cores * 2).map(|_| tokio::task::spawn_blocking(hot))).await;
    ensure!(burning.into_iter().all(|core| core.is_ok()), "a busy loop failed");
    Ok(true)
}
