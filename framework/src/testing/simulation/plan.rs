//! What a seed decides before anything runs.

use std::time::Duration;

use super::chance::Chance;
use super::group::Protocol;
use crate::delivery::{Guarantee, Progress};
use crate::engine::core::Config;
use crate::policy::{FailurePolicy, Retry, Then};
use crate::settings::{Limits, Order, Settings};

/// Which store keeps results and progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StoreKind {
    /// Rows with claim, owner and compare.
    Sql,
    /// Transactions with the group's offsets; only members are fenced.
    Kafka,
    /// A plain sink and the group's offsets.
    AtLeastOnce,
    AtMostOnce,
}

/// A fault that is planted in a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Planted {
    /// Kafka: spans are not compared with the current epochs when the sink takes its place in the
    /// group.
    EpochsForgotten,
    /// Kafka: what was given to a member that this one no longer is, is kept.
    FormerMember,
    /// Kafka: the broker takes offsets under any generation.
    AnyGeneration,
    /// Kafka: a claim reads offsets that are not stable.
    UnstableOffsets,
    /// Kafka: a producer goes on after the end of a transaction that may have been sent twice.
    ProducerReused,
    /// SQL: progress is moved without the compare.
    NoCompare,
    /// SQL: the compare looks at neither claim nor owner.
    NoFence,
    /// SQL: a claim reads what is stored without waiting for the commit that is on its way.
    ClaimDoesNotWait,
    /// A position that has fallen out of the log is taken for the beginning of the log.
    SilentReset,
    /// A commit whose answer was lost counts as aborted.
    DoubtIsAborted,
    /// A commit whose answer was lost counts as committed.
    DoubtIsCommitted,
    /// The store loses a record of a batch.
    RecordLost,
    /// The pool runs the records of a run backwards.
    Backwards,
    /// The source reads without credit.
    NoCredit,
    /// At most once: an admission is not compared with the current epochs.
    StaleAdmission,
}

impl Planted {
    /// Where it shows.
    fn store(self) -> StoreKind {
        match self {
            Self::NoCompare | Self::NoFence | Self::ClaimDoesNotWait => StoreKind::Sql,
            Self::StaleAdmission => StoreKind::AtMostOnce,
            _ => StoreKind::Kafka,
        }
    }
}

pub(super) struct Plan {
    pub(super) store: StoreKind,
    pub(super) order: Order,
    pub(super) policy: FailurePolicy,
    pub(super) retries: u32,
    /// Whether the policy goes on after a record that never works.
    pub(super) has_last_resort: bool,
    pub(super) has_hung: bool,
    pub(super) limits: Limits,
    pub(super) partitions: usize,
    pub(super) records_max: usize,
    pub(super) members: usize,
    pub(super) protocol: Protocol,
    /// A process that comes again has the transactional id it had.
    pub(super) is_named: bool,
    /// How seldom the store does what nobody waits for.
    pub(super) store_lag: usize,
    /// The start policy: the end of the log, or its beginning.
    pub(super) starts_at_end: bool,
    /// A part of the topic has stored progress already, the last partition was added.
    pub(super) is_known: bool,
    /// Records of partitions that are being handed back go on to arrive.
    pub(super) reads_while_revoking: bool,
    pub(super) workers: usize,
    run_max: usize,
    /// A fault of the model, to see that it is found.
    pub(super) planted: Option<Planted>,
    /// How many things happen before everything calms down.
    pub(super) actions: usize,
}

impl Plan {
    pub(super) fn new(chance: &mut Chance, planted: Option<Planted>) -> Self {
        let store = match chance.below(20) {
            0..9 => StoreKind::Sql,
            9..17 => StoreKind::Kafka,
            17 | 18 => StoreKind::AtLeastOnce,
            _ => StoreKind::AtMostOnce,
        };
        let store = planted.map_or(store, Planted::store);
        let retries = chance.below(4) as u32;
        let retry = Retry::times(retries).backoff(ms(5), ms(60));
        let policy = match chance.below(8) {
            0 => retry.then_stop(),
            1 => retry.then_skip(),
            _ => retry.then_dead_letter(),
        };
        Self {
            store,
            order: [Order::ByPartition, Order::ByKey, Order::Unordered][chance.below(3)],
            policy,
            retries,
            has_last_resort: policy.then() != Then::Stop || chance.one_in(8),
            has_hung: chance.one_in(3),
            limits: limits(chance),
            partitions: 1 + chance.below(5),
            records_max: 8 + chance.below(60),
            members: [1, 2, 2, 3][chance.below(4)],
            protocol: [Protocol::Eager, Protocol::Cooperative, Protocol::Consumer][chance.below(3)],
            is_named: chance.coin(),
            store_lag: [1, 1, 4, 12][chance.below(4)],
            starts_at_end: chance.one_in(4),
            is_known: chance.one_in(5),
            reads_while_revoking: chance.coin(),
            workers: 1 + chance.below(4),
            run_max: 1 + chance.below(5),
            planted,
            actions: 300 + chance.below(3500),
        }
    }

    pub(super) fn guarantee(&self) -> Guarantee {
        match self.store {
            StoreKind::Sql | StoreKind::Kafka => Guarantee::ExactlyOnce,
            StoreKind::AtLeastOnce => Guarantee::AtLeastOnce,
            StoreKind::AtMostOnce => Guarantee::AtMostOnce,
        }
    }

    pub(super) fn has(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    pub(super) fn is_at_most_once(&self) -> bool {
        self.store == StoreKind::AtMostOnce
    }

    pub(super) fn core(&self, seed: u64) -> Config {
        Config {
            order: self.order,
            policy: self.policy,
            limits: self.limits.clone(),
            guarantee: self.guarantee(),
            progress: match self.store {
                StoreKind::Sql => Progress::Sink,
                _ => Progress::Group,
            },
            prove_membership: self.store != StoreKind::Kafka,
            outstanding_max: self.workers * self.run_max * 2,
            run_max: self.run_max,
            seed,
        }
    }
}

fn limits(chance: &mut Chance) -> Limits {
    let settings = Settings {
        in_flight_records: 1 + chance.below(40),
        in_flight_bytes: 1 + chance.below(800),
        commit_interval: ms(1 + chance.between(0, 60)),
        commit_records: 1 + chance.below(30),
        drain_max: ms(chance.between(200, 1500)),
        stop_max: ms(4000),
        claim_max: ms(chance.between(300, 2500)),
        stuck_after: ms(1000),
        ..Settings::default()
    };
    settings.check().expect("every bound is allowed")
}

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
