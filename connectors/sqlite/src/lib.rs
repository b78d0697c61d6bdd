//! SQLite as a sink: results and offsets in one transaction of one file.
//!
//! ```no_run
//! use tidegate_sqlite::{Sqlite, Table};
//!
//! struct Quake { id: String, mag: f64 }
//!
//! let quakes = Table::new("quakes")
//!     .text("id", |q: &Quake| &q.id)
//!     .float8("mag", |q| q.mag)
//!     .upsert_on(["id"]);
//! let sink = Sqlite::open("quakes.db").into(quakes);
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
mod settings;
mod sink;
mod store;
mod transaction;
mod write;

pub use progress::Progress;
pub use sink::Sqlite;
pub use tidegate_sql::{Liveness, ProgressRow, Table};

// The crates whose types stand in the surface, so that versions match.
pub use futures::future::BoxFuture;
pub use {chrono, rust_decimal, serde_json, sqlx, uuid};
