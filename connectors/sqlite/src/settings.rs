//! Where the database is and how it is opened.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use tidegate::Error;
use tidegate_sql::{BadName, Bookkeeping};

use crate::error::is_busy;

/// Between two tries to open a file that is busy.
const BUSY_STEP: Duration = Duration::from_millis(5);

/// What becomes of a file that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Missing {
    Created,
    Refused,
}

/// Where the database is and how it is opened.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) path: PathBuf,
    pub(crate) prefix: String,
    pub(crate) busy_timeout: Duration,
}

impl Settings {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            prefix: "tidegate_".to_owned(),
            busy_timeout: Duration::from_secs(10),
        }
    }

    /// The names of the bookkeeping tables.
    pub(crate) fn bookkeeping(&self) -> Result<Bookkeeping, BadName> {
        // The prefix is part of each name, never a piece of SQL on its own.
        Bookkeeping::new(String::new(), |table| {
            let name = format!("{}{table}", self.prefix);
            format!("\"{}\"", name.replace('"', "\"\""))
        })
    }

    /// Refuses a path that cannot keep the promise.
    pub(crate) fn validate(&self) -> Result<Bookkeeping, Error> {
        let path = self.path.to_string_lossy();
        if path.is_empty() || path.contains(":memory:") || path.contains("mode=memory") {
            return Err(Error::configuration(
                "path",
                "names no file: progress in memory is lost with the process",
            )
            .remedy("name a file on a local disk"));
        }
        self.bookkeeping().map_err(|error| Error::configuration("bookkeeping_prefix", error))
    }

    /// Opens the file. Once it was looked at it must exist, because the tables for results must.
    pub(crate) async fn connect(&self, missing: Missing) -> Result<SqliteConnection, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(missing == Missing::Created)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(self.busy_timeout)
            .foreign_keys(true);
        let begun = Instant::now();
        loop {
            match options.connect().await {
                // Two that change a new file to WAL at once would wait for each other for ever, so
                // SQLite lets one of them not wait at all.
                Err(error) if is_busy(&error) && begun.elapsed() < self.busy_timeout => {
                    tokio::time::sleep(BUSY_STEP).await;
                }
                connected => return connected,
            }
        }
    }

    /// Opens the file for somebody who only looks: what its writers have set stays.
    pub(crate) async fn connect_to_look(&self) -> Result<SqliteConnection, sqlx::Error> {
        let options = SqliteConnectOptions::new().filename(&self.path).create_if_missing(false);
        options.busy_timeout(self.busy_timeout).connect().await
    }
}
