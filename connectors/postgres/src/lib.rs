//! PostgreSQL as a sink: results and offsets in one transaction.
//!
//! A whole program, here with the memory broker of `tidegate`'s feature `testing`; with
//! `kafka.source("quakes")` of `tidegate-kafka` in its place it reads a topic.
//!
//! ```no_run
//! use tidegate::prelude::*;
//! use tidegate::record::PartitionId;
//! use tidegate::testing::MemoryBroker;
//! use tidegate_postgres::{Postgres, Table};
//!
//! #[derive(Clone, serde::Deserialize)]
//! struct Quake { id: String, mag: f64, place: Option<String> }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), tidegate::Error> {
//!     let broker = MemoryBroker::new();
//!     broker.create_topic("quakes", 1);
//!     let report = br#"{"id":"nc73649170","mag":4.5,"place":"Eureka"}"#;
//!     broker.produce(&PartitionId::new("quakes", 0), Some(b"nc73649170"), Some(report));
//!
//!     let quakes = Table::new("quakes")
//!         .text("id", |q: &Quake| &q.id)                      // borrowed: nothing is cloned
//!         .float8("mag", |q| q.mag)
//!         .text_opt("place", |q| q.place.as_deref())
//!         .upsert_on(["id"]);
//!
//!     let sink = Postgres::connect("postgres://localhost/geo")
//!         .setup("CREATE TABLE IF NOT EXISTS quakes (id text PRIMARY KEY, mag float8, place text)")
//!         .into(quakes);                                      // checked against the real table
//!
//!     Pipeline::new("quakes-to-postgres")                     // also the consumer group
//!         .from(broker.source(&["quakes"]))
//!         .decode(Json::<Quake>::new())
//!         .filter(|q| q.value.mag >= 4.5)
//!         .map(|q| q.value.clone())
//!         .on_failure(Retry::times(3).then_dead_letter())
//!         .exactly_once(sink)
//!         .run()                                              // until SIGTERM or Ctrl-C
//!         .await?;
//!     Ok(())
//! }
//! ```
//!
//! Your own SQL can run in the same transaction, alone or beside tables:
//!
//! ```no_run
//! use tidegate::batch::Batch;
//! use tidegate_postgres::{Postgres, sqlx};
//!
//! let sink = Postgres::connect("postgres://localhost/geo").write_with(
//!     |conn, batch: &Batch<String>| {
//!         Box::pin(async move {
//!             for output in batch.outputs() {
//!                 let delete = sqlx::query("DELETE FROM quakes WHERE id = $1");
//!                 delete.bind(output.value).execute(&mut *conn).await?;
//!             }
//!             Ok(())
//!         })
//!     },
//! );
//! ```
//!
//! PostgreSQL 13 or newer. A connection to another machine needs `sslmode=verify-full` and the
//! feature `tls`, unless plaintext is allowed by name. The user of the connection needs `INSERT`
//! on the tables for results, `UPDATE` and `SELECT` too for upserts, and `SELECT`, `INSERT`,
//! `UPDATE` on the bookkeeping tables, which are created at start if that is allowed.
//!
//! Progress lives in `tidegate.progress`, one row per group, topic and partition, in the same
//! database as the results; records that were set aside are in `tidegate.dead_letter`.
#![forbid(unsafe_code)]

mod check;
mod claim;
mod connection;
mod copy;
mod encode;
mod error;
mod progress;
mod readback;
mod settings;
mod sink;
mod store;
mod transaction;
mod write;

pub use progress::{Progress, ProgressOptions};
pub use readback::Readback;
pub use sink::Postgres;
pub use tidegate_sql::{Contents, Liveness, ProgressRow, ReadRow, ReadTable, Table};

// The crates whose types stand in the surface, so that versions match.
pub use futures::future::BoxFuture;
pub use {chrono, rust_decimal, serde_json, sqlx, uuid};
