//! The promises that both SQL sinks make, kept by PostgreSQL.

#[path = "../../sql/tests/common/mod.rs"]
mod common;
#[allow(dead_code, reason = "this file uses a part of it")]
mod lab;

use lab::Database;

every_promise!(Database);
