//! The promises that both SQL sinks make, kept by SQLite.

#[path = "../../sql/tests/common/mod.rs"]
mod common;
#[allow(dead_code, reason = "this file uses a part of it")]
mod lab;

use lab::File;

every_promise!(File);
