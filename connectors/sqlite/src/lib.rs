//! SQLite as a sink: results and offsets in one transaction of one file.
//!
//! A whole program, here with the memory broker of `tidegate`'s feature `testing`; with
//! `kafka.source("quakes")` of `tidegate-kafka` in its place it reads a topic.
//!
//! ```
//! use std::time::Duration;
//!
//! use tidegate::prelude::*;
//! use tidegate::record::PartitionId;
//! use tidegate::testing::MemoryBroker;
//! use tidegate_sqlite::sqlx::{self, Connection, SqliteConnection};
//! use tidegate_sqlite::{Sqlite, Table};
//!
//! #[derive(Clone, serde::Deserialize)]
//! struct Quake { id: String, mag: f64 }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #   let folder = tempfile::tempdir()?;
//! #   let path = folder.path().join("quakes.db");
//! #   let path = path.to_str().expect("a path of text");
//! #   /*
//!     let path = "quakes.db";
//! #   */
//!     let broker = MemoryBroker::new();
//!     broker.create_topic("quakes", 1);
//!     let partition = PartitionId::new("quakes", 0);
//!     for report in [r#"{"id":"a","mag":4.1}"#, r#"{"id":"a","mag":4.3}"#, "?"] {
//!         broker.produce(&partition, Some(b"a"), Some(report.as_bytes()));
//!     }
//!
//!     let quakes = Table::new("quakes")
//!         .text("id", |q: &Quake| &q.id)
//!         .float8("mag", |q| q.mag)
//!         .upsert_on(["id"]);
//!     let sink = Sqlite::open(path)
//!         .setup("CREATE TABLE IF NOT EXISTS quakes (id TEXT PRIMARY KEY, mag REAL)")
//!         .into(quakes);
//!     let handle = Pipeline::new("quakes-to-sqlite")          // also the consumer group
//!         .from(broker.source(&["quakes"]))
//!         .decode(Json::<Quake>::new())
//!         .map(|q| q.value.clone())
//!         .on_failure(Retry::times(3).then_dead_letter())
//!         .exactly_once(sink)                                 // rows, dead letters, offsets: one step
//!         .start()                                            // or `.run().await` until a signal
//!         .await?;
//! #   let deadline = std::time::Instant::now() + Duration::from_secs(60);
//!     while handle.status().await?.totals.committed_records < 3 {
//! #       assert!(std::time::Instant::now() < deadline, "it takes too long");
//!         tokio::time::sleep(Duration::from_millis(5)).await;
//!     }
//!     handle.stop(Duration::from_secs(5)).await?;
//!
//!     let mut file = SqliteConnection::connect(&format!("sqlite://{path}")).await?;
//!     let stored = "SELECT (SELECT mag FROM quakes), next_offset, \
//!                   (SELECT count(*) FROM tidegate_dead_letter) FROM tidegate_progress";
//!     let stored: (f64, i64, i64) = sqlx::query_as(stored).fetch_one(&mut file).await?;
//!     assert_eq!(stored, (4.3, 3, 1));
//!     Ok(())
//! }
//! ```
//!
//! Your own SQL can run in the same transaction, alone or beside tables:
//!
//! ```no_run
//! use tidegate::batch::Batch;
//! use tidegate_sqlite::{Sqlite, sqlx};
//!
//! let sink = Sqlite::open("quakes.db").write_with(|conn, batch: &Batch<String>| {
//!     Box::pin(async move {
//!         for output in batch.outputs() {
//!             let delete = sqlx::query("DELETE FROM quakes WHERE id = ?");
//!             delete.bind(output.value).execute(&mut *conn).await?;
//!         }
//!         Ok(())
//!     })
//! });
//! ```
//!
//! The library is bundled; the file is put into WAL mode with `synchronous = FULL`. SQLite has one
//! writer at a time: other writers wait for the busy time-out, and a process that is *stopped* (not
//! killed) inside a commit blocks every writer until it goes on or ends.
//!
//! How values are stored, by the declared type of the column:
//!
//! | method | column declared as | stored as |
//! |---|---|---|
//! | `bool`, `int4`, `int8` | `INTEGER` (or numeric, or none) | integer |
//! | `float8` | `REAL` (or numeric, or none) | real; NaN is refused |
//! | `text` | `TEXT` (or none) | text |
//! | `bytea` | `BLOB` (or none) | blob |
//! | `timestamptz` | `TEXT`, `DATETIME`, `TIMESTAMP` | `2024-05-01T12:00:00.000000Z`, sorts by time |
//! | | `INTEGER` | microseconds since 1970 |
//! | `numeric` | `TEXT` | decimal text, exact |
//! | `uuid` | `TEXT` or `BLOB` | with hyphens, or 16 bytes |
//! | `jsonb`, arrays | `TEXT` | JSON |
#![forbid(unsafe_code)]

mod check;
mod claim;
mod connection;
mod encode;
mod error;
mod progress;
mod readback;
mod settings;
mod sink;
mod store;
mod transaction;
mod write;

pub use progress::Progress;
pub use readback::Readback;
pub use sink::Sqlite;
pub use tidegate_sql::{Contents, Liveness, ProgressRow, ReadRow, ReadTable, Table};

// The crates whose types stand in the surface, so that versions match.
pub use futures::future::BoxFuture;
pub use {chrono, rust_decimal, serde_json, sqlx, uuid};
