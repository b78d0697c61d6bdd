//! Decides whether what a sink shows is what it promised.
//!
//! Pure functions over plain data: the input log, the outputs with the coordinates they carry, the dead letters, and
//! stored progress. Nothing here knows Tidegate, a broker or a database, and what each record should have become is
//! worked out a second time, by [`expected`], from its value alone: a checker that shared code with what it checks
//! would share its mistakes.
//!
//! ```
//! use tidegate_tests::audit::{Evidence, Input, Output, Rules, audit};
//!
//! let record = |offset| Input { partition: ("t".into(), 0), offset, key: None, value: Some(b"v".to_vec()) };
//! let copy = |offset, place| Output {
//!     source: (("t".into(), 0), offset, 0), stream: 0, place, key: None, value: Some(b"v".to_vec()),
//! };
//! let good = Evidence {
//!     inputs: vec![record(0), record(1)],
//!     outputs: vec![copy(0, 0), copy(1, 1)],
//!     progress: [(("t".into(), 0), 2)].into(),
//!     ends: [(("t".into(), 0), 2)].into(),
//!     ..Evidence::default()
//! };
//! audit(&good, &Rules::default()).exactly_once().unwrap();
//!
//! let twice = Evidence { outputs: vec![copy(0, 0), copy(1, 1), copy(1, 2)], ..good };
//! assert!(audit(&twice, &Rules::default()).exactly_once().is_err());
//! ```

#[cfg(test)]
mod agreement;
mod check;
mod expected;
mod moment;
mod report;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use check::audit;
pub use expected::{Expected, expected};
pub use moment::{Moment, Rows, Stride, Watched, watched};
pub use report::{Anomaly, Compared, Finding, Report};
pub use wanted::{Count, Wanted};

/// A topic and the number of one of its partitions.
pub type Partition = (Arc<str>, i32);

/// Partition and offset of an input record, and which of its outputs this is.
pub type Source = (Partition, i64, i32);

/// A record of the input log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    /// Where it lies.
    pub partition: Partition,
    /// Its offset.
    pub offset: i64,
    /// Its key; `None` is null, which is not empty.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is null, which is not empty.
    pub value: Option<Vec<u8>>,
}

/// Something a sink shows: a copy, or a dead letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// What it says it was made from.
    pub source: Source,
    /// The partition of the output topic; 0 for a table. Order is compared within a stream only.
    pub stream: i32,
    /// Where in its stream it appears. Places rise; they need not be without holes.
    pub place: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
}

/// Everything there is to compare. All of it was read after the last writer had ended, or in one snapshot.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Every record of the input.
    pub inputs: Vec<Input>,
    /// Every output, in any order.
    pub outputs: Vec<Output>,
    /// Every dead letter, in any order.
    pub dead: Vec<Output>,
    /// Stored progress: the next offset to read of each partition.
    pub progress: BTreeMap<Partition, i64>,
    /// The end of each partition of the input. A partition without records belongs here too.
    pub ends: BTreeMap<Partition, i64>,
}

/// How the copier was told to work.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Calls after the first one failed.
    pub retries: u32,
    /// What becomes of a record that always fails.
    pub failed: Failed,
    /// Outputs that one record may have; above that it fails.
    pub outputs_per_record: u32,
    /// Bytes of value that the sink takes; longer ones make their record fail.
    pub value_bytes: usize,
    /// What order is compared.
    pub order: Order,
    /// Whether a dead letter carries the record's value. One that was refused once does not.
    pub dead_values: DeadValues,
}

/// What becomes of a record that always fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    /// It is a dead letter.
    DeadLetter,
    /// It is left out.
    Skipped,
}

/// Which outputs must appear in the order of their records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Those of equal key in one input partition; in a topic they also share their output partition.
    PerKey,
    /// All of one input partition that share an output partition.
    PerPartition,
    /// None, because the store does not tell in what order things came.
    Unknown,
}

/// Whether the values of dead letters are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeadValues {
    /// They are those of their records.
    Kept,
    /// They are those of their records, or left out.
    MayBeLeftOut,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            retries: 3,
            failed: Failed::DeadLetter,
            outputs_per_record: 100_000,
            value_bytes: usize::MAX,
            order: Order::PerKey,
            dead_values: DeadValues::Kept,
        }
    }
}
