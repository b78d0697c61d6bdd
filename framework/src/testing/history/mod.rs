//! Decides from plain data what a run proves: exactly, at least or at most once, and where not.
//!
//! Pure functions over lines of JSON that any language can write; who reads the log and the store
//! needs to know nothing of Tidegate. Evidence that is missing or cannot be read is UNKNOWN, never a
//! pass.
//!
//! | `kind` | fields (with defaults) |
//! |---|---|
//! | `input` | `topic`, `partition`, `offset`; `key` (none: no order), `outputs` (1), `dead` (false), `topic_id` |
//! | `output` | `topic`, `partition`, `offset` of its record, `place`; `index` (0), `stream` (0), `transaction`, `snapshot` (0), `topic_id` |
//! | `dead` | `topic`, `partition`, `offset` of its record; `snapshot` (0) |
//! | `progress` | `topic`, `partition`, `next`; `snapshot` (0) |
//! | `commit` | `transaction`, `topic`, `partition`, `first`, `next`; `claim`, `epoch`, `outcome` (`committed`, `aborted`, `unknown`) |
//!
//! A snapshot is all that a reader saw at one moment: every snapshot is checked by itself, and the
//! last one is how it ended. Commits are optional; they stand in the order in which they happened.
//!
//! ```
//! use tidegate::testing::history::{Anomaly, History, Verdict};
//!
//! let evidence = r#"
//! {"kind": "input", "topic": "orders", "partition": 0, "offset": 0, "key": "a"}
//! {"kind": "input", "topic": "orders", "partition": 0, "offset": 1, "key": "a"}
//! {"kind": "output", "topic": "orders", "partition": 0, "offset": 0, "place": 0}
//! {"kind": "output", "topic": "orders", "partition": 0, "offset": 1, "place": 1}
//! {"kind": "output", "topic": "orders", "partition": 0, "offset": 1, "place": 2}
//! {"kind": "progress", "topic": "orders", "partition": 0, "next": 2}
//! "#;
//! let report = History::read(evidence.as_bytes())?.check();
//! assert_eq!(report.verdict(), Verdict::AtLeastOnce);
//! assert_eq!(report.places(Anomaly::Duplicate), ["orders/0/1 in snapshot 0"]);
//! # Ok::<_, std::io::Error>(())
//! ```

mod check;
mod evidence;
mod report;
#[cfg(test)]
mod tests;
mod transactions;

pub use evidence::{Commit, Dead, History, Input, Line, Outcome, Output, Progress};
pub use report::{Anomaly, Compared, Report, Verdict};
