//! PostgreSQL as a sink: results and offsets in one transaction.
//!
//! ```no_run
//! use tidegate_postgres::{Postgres, Table};
//!
//! struct Quake { id: String, mag: f64 }
//!
//! let quakes = Table::new("quakes")
//!     .text("id", |q: &Quake| &q.id)
//!     .float8("mag", |q| q.mag)
//!     .upsert_on(["id"]);
//! let sink = Postgres::connect("postgres://localhost/geo").into(quakes);
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
mod encode;
mod error;
mod progress;
mod settings;
mod sink;
mod store;
mod transaction;
mod write;

pub use progress::{Progress, ProgressOptions};
pub use sink::Postgres;
pub use tidegate_sql::{Liveness, ProgressRow, Table};

// The crates whose types stand in the surface, so that versions match.
pub use futures::future::BoxFuture;
pub use {chrono, rust_decimal, serde_json, sqlx, uuid};
