//! A database that is read back, PostgreSQL or SQLite behind one face.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tidegate::Error;
use tidegate::record::{Lineage, PartitionId};
use tidegate_postgres as postgres;
use tidegate_sql::{ReadRow, ReadTable};
use tidegate_sqlite as sqlite;

use crate::args::Place;

/// The next offset to read of each partition.
pub(crate) type Positions = BTreeMap<PartitionId, i64>;

/// Where a database is.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Postgres(postgres::ProgressOptions),
    Sqlite { path: PathBuf, prefix: String },
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Database {
    Postgres(postgres::Readback),
    Sqlite(sqlite::Readback),
}

impl Address {
    /// The database of these arguments, with this done to names; `None` if they name none.
    pub(crate) fn of(place: &Place, fill: impl Fn(&str) -> String) -> Option<Self> {
        if let Some(url) = &place.postgres {
            let options = postgres::ProgressOptions::new(&fill(url));
            let options = options.bookkeeping_schema(&fill(&place.schema));
            let options = if place.allow_plaintext { options.allow_plaintext() } else { options };
            return Some(Self::Postgres(options));
        }
        // A path that is no text holds no place for a name.
        let path = place.sqlite.as_ref()?;
        let path = path.to_str().map_or_else(|| path.clone(), |text| fill(text).into());
        Some(Self::Sqlite { path, prefix: fill(&place.prefix) })
    }

    /// Connects; `None` for a file that does not exist yet.
    pub(crate) async fn open(&self) -> Result<Option<Database>, Error> {
        match self {
            Self::Postgres(options) => {
                Ok(Some(Database::Postgres(options.clone().readback().await?)))
            }
            Self::Sqlite { path, .. } if !path.exists() => Ok(None),
            Self::Sqlite { path, prefix } => {
                let opened = sqlite::Readback::open_with_prefix(path, prefix).await?;
                Ok(Some(Database::Sqlite(opened)))
            }
        }
    }
}

impl Database {
    /// From now on everything is seen as of one moment.
    pub(crate) async fn snapshot(&mut self) -> Result<(), Error> {
        match self {
            Self::Postgres(database) => database.snapshot().await,
            Self::Sqlite(database) => database.snapshot().await,
        }
    }

    /// The progress of a group.
    pub(crate) async fn progress(&mut self, group: &str) -> Result<Positions, Error> {
        let rows = match self {
            Self::Postgres(database) => database.progress(group).await?,
            Self::Sqlite(database) => database.progress(group).await?,
        };
        Ok(rows.into_iter().map(|row| (row.partition, row.next)).collect())
    }

    /// Hands on the dead letters of a group.
    pub(crate) async fn dead_letters(
        &mut self,
        group: &str,
        each: impl FnMut(Lineage<'_>),
    ) -> Result<(), Error> {
        match self {
            Self::Postgres(database) => database.dead_letters(group, each).await,
            Self::Sqlite(database) => database.dead_letters(group, each).await,
        }
    }

    /// Whether the table exists; if it does, it can be read back.
    pub(crate) async fn check(&mut self, table: &ReadTable) -> Result<bool, Error> {
        match self {
            Self::Postgres(database) => database.check(table).await,
            Self::Sqlite(database) => database.check(table).await,
        }
    }

    /// Hands on the rows of a table.
    pub(crate) async fn rows(
        &mut self,
        table: &ReadTable,
        each: impl FnMut(&ReadRow<'_>),
    ) -> Result<(), Error> {
        match self {
            Self::Postgres(database) => database.rows(table, each).await,
            Self::Sqlite(database) => database.rows(table, each).await,
        }
    }

    /// The contents of one row by column.
    pub(crate) async fn columns(
        &mut self,
        table: &ReadTable,
        of: &Lineage<'_>,
    ) -> Result<Vec<(String, Option<String>)>, Error> {
        match self {
            Self::Postgres(database) => database.columns(table, of).await,
            Self::Sqlite(database) => database.columns(table, of).await,
        }
    }
}
