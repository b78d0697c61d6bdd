//! Where progress and dead letters are kept, and rows of progress for people and tools.

use std::time::SystemTime;

use tidegate::Error;
use tidegate::record::PartitionId;

use crate::name::{BadName, TableName};

/// The version of the bookkeeping tables that this release reads and writes.
pub const PROGRESS_VERSION: i32 = 1;

/// Whether bookkeeping tables may be created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Tables {
    /// Created at start when missing.
    #[default]
    Created,
    /// Never created: the error prints the statements.
    Manual,
}

/// The names of the three bookkeeping tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bookkeeping {
    prefix: String,
    /// One row per group, topic and partition: the next offset, its claim, its owner.
    pub progress: String,
    /// Records that were set aside.
    pub dead_letter: String,
    /// One row: the version of these tables.
    pub version: String,
}

impl Bookkeeping {
    /// Tables whose quoted names are made by `quoted` from `progress`, `dead_letter` and
    /// `version`; `prefix` is what `{prefix}` becomes in the statements that create them.
    ///
    /// # Errors
    /// If a name is not usable.
    pub fn new(prefix: String, name: impl Fn(&str) -> String) -> Result<Self, BadName> {
        let quoted = |table| TableName::parse(&name(table)).map(|name| name.to_string());
        Ok(Self {
            prefix,
            progress: quoted("progress")?,
            dead_letter: quoted("dead_letter")?,
            version: quoted("version")?,
        })
    }

    /// The statements that create the tables, from a text with places to fill.
    pub fn ddl(&self, template: &str) -> String {
        template
            .replace("{prefix}", &self.prefix)
            .replace("{progress}", &self.progress)
            .replace("{dead_letter}", &self.dead_letter)
            .replace("{version}", &self.version)
            .replace("{number}", &PROGRESS_VERSION.to_string())
    }
}

/// The refusal to start without bookkeeping tables that may not be created.
pub fn creation_refused(missing: &str, ddl: &str) -> Error {
    let problem = format_args!("bookkeeping tables are missing: {missing}");
    Error::configuration("tables_manual", problem).remedy(format_args!("create them:\n{ddl}"))
}

/// The refusal of bookkeeping tables of another version.
pub fn version_refused(table: &str, found: Option<i32>) -> Error {
    let found = found.map_or_else(|| "none".to_owned(), |found| found.to_string());
    Error::sink_failed(format_args!(
        "the bookkeeping tables have version {found} in {table}, this release needs version \
         {PROGRESS_VERSION}"
    ))
    .remedy("use the release that wrote them, or migrate them as CHANGELOG.md says")
}

/// One row of stored progress.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ProgressRow {
    /// The partition.
    pub partition: PartitionId,
    /// The next offset to read.
    pub next: i64,
    /// How often it was claimed.
    pub claim: i64,
    /// How often its position was set from outside: seeks and resets.
    pub reset_generation: i64,
    /// When the row last changed.
    pub updated_at: SystemTime,
}

impl ProgressRow {
    /// A row with these values.
    pub fn new(
        partition: PartitionId,
        next: i64,
        claim: i64,
        reset_generation: i64,
        updated_at: SystemTime,
    ) -> Self {
        Self { partition, next, claim, reset_generation, updated_at }
    }
}

/// Whether somebody works on a group's partitions right now.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Liveness {
    /// Nobody does.
    None,
    /// These partitions have an owner that is connected.
    Live(Vec<PartitionId>),
    /// It cannot be known; the newest change of the group's rows, if it has any, is all there is.
    Unknown(Option<SystemTime>),
}
