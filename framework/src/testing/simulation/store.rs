//! The stores of a run behind one face, and what happens to them while nobody looks.

use std::time::Duration;

use super::chance::Chance;
use super::checker::History;
use super::coverage::{Coverage, Seen};
use super::kafka::{Kafka, Tick};
use super::log::Logs;
use super::plan::{Plan, StoreKind};
use super::sql::{Late, Sql};

pub(super) enum Store {
    Sql(Sql),
    Kafka(Kafka),
    /// The group's offsets alone: results are written somewhere that keeps no progress.
    Group(Vec<Option<i64>>),
}

impl Store {
    pub(super) fn new(plan: &Plan, logs: &Logs, history: &mut History) -> Self {
        let mut store = match plan.store {
            StoreKind::Sql => Self::Sql(Sql::new(plan.partitions)),
            StoreKind::Kafka => Self::Kafka(Kafka::new(plan.partitions)),
            StoreKind::AtLeastOnce | StoreKind::AtMostOnce => {
                Self::Group(vec![None; plan.partitions])
            }
        };
        // The last partition was added after the others had been started.
        if plan.is_known {
            for partition in 0..plan.partitions - 1 {
                let log = logs.get(partition);
                let next = log.from(0).first().map_or(log.low(), |entry| entry.offset());
                history.started(partition, next).expect("nothing was stored before");
                match &mut store {
                    Self::Sql(sql) => sql.preset(partition, next),
                    Self::Kafka(kafka) => kafka.preset(partition, next),
                    Self::Group(offsets) => offsets[partition] = Some(next),
                }
            }
        }
        store
    }

    /// Whether something is open that has no client.
    pub(super) fn has_strays(&self) -> bool {
        match self {
            Self::Sql(sql) => sql.has_strays(),
            Self::Kafka(kafka) => kafka.has_strays(),
            Self::Group(_) => false,
        }
    }

    /// Something that nobody waits for comes to its end. Answers whether anything did.
    pub(super) fn tick(
        &mut self,
        now: Duration,
        chance: &mut Chance,
        history: &mut History,
        logs: &Logs,
        cover: &mut Coverage,
    ) -> Result<bool, String> {
        match self {
            Self::Sql(sql) => {
                let Some((late, checked)) = sql.tick(chance, history, logs) else {
                    return Ok(false);
                };
                match late {
                    Late::Stored => cover.saw(Seen::LateStored),
                    Late::Refused => cover.saw(Seen::LateRefused),
                    Late::Vanished => {}
                }
                checked.map(|()| true)
            }
            Self::Kafka(kafka) => {
                let Some((what, checked)) = kafka.tick(now, chance, history, logs) else {
                    return Ok(false);
                };
                match what {
                    Tick::Arrived => cover.saw(Seen::LateStored),
                    Tick::Refused => cover.saw(Seen::LateRefused),
                    Tick::Expired => cover.saw(Seen::TransactionExpired),
                    Tick::Marked => {}
                }
                checked.map(|()| true)
            }
            Self::Group(_) => Ok(false),
        }
    }
}
