//! A real Kafka and a real PostgreSQL for a test, from wherever there are some.
//!
//! A test that only needs *a* server takes the shared one and works under names of its own:
//!
//! ```no_run
//! # async fn test() -> anyhow::Result<()> {
//! use tidegate_tests::servers::{self, unique};
//!
//! let shared = servers::shared().await?;
//! let topic = unique("orders");
//! shared.kafka.create_topic(&topic, 4, &[]).await?;
//! let url = shared.postgres.new_database().await?;
//! # Ok(()) }
//! ```
//!
//! A test that breaks its server starts one for itself:
//!
//! ```no_run
//! # async fn test() -> anyhow::Result<()> {
//! use tidegate_tests::servers::{Kafka, KafkaOptions};
//!
//! let kafka = Kafka::start(KafkaOptions::new().separate_controller()).await?;
//! kafka.kill().await?;
//! kafka.start_again().await?;
//! # Ok(()) }
//! ```
//!
//! Where servers come from is decided once per process by [`Provider::choose`]. A server belongs to the value
//! that started it: it ends when the value is dropped, and when the test process dies, however it dies.
//! This module knows nothing of Tidegate: it must not, or it could not be its witness.

mod admin;
mod certificates;
#[cfg(feature = "containers")]
mod containers;
mod kafka;
mod local;
mod machine;
mod port;
mod postgres;
pub(crate) mod process;
mod programs;
mod properties;
mod provider;
mod reaper;
mod secure;
pub(crate) mod supervisor;

pub use certificates::Certificates;
pub use kafka::{Kafka, KafkaOptions};
pub use postgres::{Postgres, PostgresOptions};
pub use provider::Provider;
pub use secure::Secure;

use anyhow::Result;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The servers that tests have in common. They are never killed, paused or emptied.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    /// The shared Kafka.
    pub kafka: &'static Kafka,
    /// The shared PostgreSQL.
    pub postgres: &'static Postgres,
}

/// Both shared servers: those that `TIDEGATE_KAFKA` and `TIDEGATE_POSTGRES` name, or else one of each for this
/// process, started by the first test that asks. See [`Kafka::shared`] and [`Postgres::shared`] for one alone.
///
/// # Errors
/// When there is no server and none can be started; the error says what to install.
pub async fn shared() -> Result<Shared> {
    let (kafka, postgres) = tokio::try_join!(Kafka::shared(), Postgres::shared())?;
    Ok(Shared { kafka, postgres })
}

/// `name` with something behind it that no other test, process or earlier run has: for topics, groups and
/// transactional ids on a shared server.
#[must_use]
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{:x}-{:x}-{next}", now.as_millis(), std::process::id())
}
