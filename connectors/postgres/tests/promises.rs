//! The promises that both SQL sinks make, kept by PostgreSQL.

#[path = "../../sql/tests/common/mod.rs"]
mod common;
mod lab;

use lab::Database;

every_promise!(Database);
