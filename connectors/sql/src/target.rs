//! What both sinks are told by their user: tables, dead letters, bookkeeping.

use std::fmt;

use tidegate::Error;
use tidegate::sink::{DeadLetters, SinkContext};

use crate::bookkeeping::Tables;
use crate::table::Table;

/// Whether there is a dead letter table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DeadLetterTable {
    /// There is.
    #[default]
    On,
    /// There is none: a failure policy that sets records aside is refused.
    Off,
}

/// Where results go.
pub struct Target<O> {
    /// The tables, in the order they are written.
    pub tables: Vec<Table<O>>,
    /// Whether there is a dead letter table.
    pub dead_letters: DeadLetterTable,
    /// The user's statements that every start begins with.
    pub setup: Vec<String>,
    tables_manual: Tables,
}

impl<O> Default for Target<O> {
    fn default() -> Self {
        Self {
            tables: Vec::new(),
            dead_letters: DeadLetterTable::On,
            setup: Vec::new(),
            tables_manual: Tables::Created,
        }
    }
}

impl<O> Target<O> {
    /// Forbids creating bookkeeping tables.
    pub fn forbid_creation(&mut self) {
        self.tables_manual = Tables::Manual;
    }

    /// Whether bookkeeping tables may be created.
    pub fn may_create(&self) -> bool {
        self.tables_manual == Tables::Created
    }

    /// Whether batches bring dead letters that need their table.
    pub fn needs_dead_letters(&self, context: &SinkContext) -> bool {
        self.dead_letters == DeadLetterTable::On && context.dead_letters == DeadLetters::Expected
    }

    /// Checks what can be known without the database. `writes` says whether the user writes by
    /// own SQL as well.
    ///
    /// # Errors
    /// A configuration error that names the setting.
    pub fn validate(&self, context: &SinkContext, writes: bool) -> Result<(), Error> {
        if context.group.is_empty() || context.group.contains('\0') {
            let problem = "must not be empty and holds no NUL character: it is the key of progress";
            return Err(Error::configuration("group", problem));
        }
        if self.tables.is_empty() && !writes {
            return Err(Error::configuration(
                "sink",
                "writes to no table; add `.into(table)` or `.write_with(…)`",
            ));
        }
        if context.dead_letters == DeadLetters::Expected
            && self.dead_letters == DeadLetterTable::Off
        {
            return Err(Error::configuration(
                "without_dead_letters",
                "the failure policy sets records aside and the sink has no place for them",
            )
            .remedy("remove `.without_dead_letters()` or choose a policy that skips or stops"));
        }
        self.tables.iter().try_for_each(Table::validate)
    }

    /// The tables by name, for `describe`.
    pub fn labels(&self) -> Vec<String> {
        self.tables.iter().map(|table| table.label().to_owned()).collect()
    }
}

impl<O> fmt::Debug for Target<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("tables", &self.tables)
            .field("dead_letters", &self.dead_letters)
            .finish()
    }
}
