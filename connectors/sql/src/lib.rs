//! What Tidegate's SQL sinks share: tables and their columns, which rows a batch becomes, the
//! compare that guards stored progress, dead letters, checks against the real table.
//!
//! It knows no client and runs no statement: values go in, values and SQL text come out. The
//! connectors (`tidegate-postgres`, `tidegate-sqlite`) re-export what their users need.
//!
//! ```
//! use tidegate_sql::Table;
//!
//! struct Quake { id: String, mag: f64, place: Option<String> }
//!
//! fn main() -> Result<(), tidegate::Error> {
//!     let quakes = Table::new("geo.quakes")
//!         .text("id", |q: &Quake| &q.id)
//!         .float8("mag", |q| q.mag)
//!         .text_opt("place", |q| q.place.as_deref())
//!         .upsert_on(["id"]);
//!     quakes.validate()?;
//!     assert_eq!(quakes.name().to_string(), r#""geo"."quakes""#);
//!     assert!(quakes.is_upsert());
//!
//!     // What could never work is refused with the reason, before there is a database.
//!     let error = Table::new("quakes").text("id", |q: &Quake| &q.id).upsert_on(["place"]);
//!     assert!(error.validate().is_err(), "the key is no column");
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

mod actual;
mod bookkeeping;
mod cell;
mod claim;
mod columns;
mod dead_letter;
mod fate;
mod key;
mod name;
mod phases;
mod readback;
mod rows;
mod sink;
mod statement;
mod table;
mod target;

pub use actual::{Actual, ActualColumn, Fit, check};
pub use bookkeeping::{
    Bookkeeping, Liveness, PROGRESS_VERSION, ProgressRow, creation_refused, version_refused,
};
pub use cell::{BadCell, Cell, Kind, Limit};
pub use claim::{
    Answers, Compare, Expectation, NotHeld, Ownership, StoredRow, answer_claims, compare_condition,
    explain_fence,
};
pub use dead_letter::{DeadLetterRow, dead_letter_rows, headers_json, sanitise};
pub use fate::{Failure, Fate, Phase};
pub use name::{BadName, TableName, quote};
pub use phases::Phases;
pub use readback::{Contents, Dialect, ReadRow, ReadTable, RealColumn, row_lineage};
pub use rows::{RowWriter, append, encode};
pub use sink::{End, Offsets, WriteWith, Writing};
pub use statement::{column_list, on_conflict};
pub use table::{Column, Role, Table};
pub use target::{DeadLetterTable, Target};
