//! Stored progress for people and tools.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};
use tidegate::Error;
use tidegate::record::{Offset, PartitionId};
use tidegate_sql::{Bookkeeping, Liveness, ProgressRow};

use crate::connection::query;
use crate::error::cause;
use crate::settings::{Missing, Settings};
use crate::store::NOW;

/// Stored progress for people and tools: look at it, set it.
///
/// ```no_run
/// # async fn example() -> Result<(), tidegate::Error> {
/// let mut progress = tidegate_sqlite::Progress::open("results.db").await?;
/// for row in progress.rows("my-pipeline").await? {
///     println!("{} next {}", row.partition, row.next);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Progress {
    conn: SqliteConnection,
    books: Bookkeeping,
}

impl Progress {
    /// Opens the file of a [`Sqlite`](crate::Sqlite) sink with the usual names of tables.
    ///
    /// # Errors
    /// If the file cannot be opened or holds no progress.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with_prefix(path, "tidegate_").await
    }

    /// As [`open`](Self::open) with another
    /// [`bookkeeping_prefix`](crate::Sqlite::bookkeeping_prefix).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with_prefix(path: impl AsRef<Path>, prefix: &str) -> Result<Self, Error> {
        let settings = Settings { prefix: prefix.to_owned(), ..Settings::new(path.as_ref()) };
        let books = settings.validate()?;
        let mut conn = settings.connect(Missing::Refused).await.map_err(failed)?;
        crate::check::version(&mut conn, &books).await?;
        Ok(Self { conn, books })
    }

    /// The groups that have progress here, sorted.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn groups(&mut self) -> Result<Vec<String>, Error> {
        let text = format!("SELECT DISTINCT group_id FROM {} ORDER BY 1", self.books.progress);
        let rows = query(&text.into()).fetch_all(&mut self.conn).await;
        let rows = rows.map_err(failed)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The rows of a group, sorted by partition.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn rows(&mut self, group: &str) -> Result<Vec<ProgressRow>, Error> {
        rows(&mut self.conn, &self.books, group).await
    }

    /// Whether the group is being worked on. A file knows no connections, so the answer is when
    /// it last changed.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn liveness(&mut self, group: &str) -> Result<Liveness, Error> {
        let rows = self.rows(group).await?;
        Ok(Liveness::Unknown(rows.iter().map(|row| row.updated_at).max()))
    }

    /// Sets positions and fences whoever owns them; all or none.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub async fn set(
        &mut self,
        group: &str,
        positions: &[(PartitionId, Offset)],
    ) -> Result<(), Error> {
        let text: Arc<str> = format!(
            "INSERT INTO {} AS p (group_id, topic, partition, next_offset, claim, \
             reset_generation) VALUES (?, ?, ?, ?, 1, 1) \
             ON CONFLICT (group_id, topic, partition) DO UPDATE \
             SET next_offset = excluded.next_offset, claim = p.claim + 1, owner = NULL, \
             reset_generation = p.reset_generation + 1, updated_at = {NOW}",
            self.books.progress
        )
        .into();
        let tx = self.conn.begin_with("BEGIN IMMEDIATE");
        let mut tx = tx.await.map_err(failed)?;
        for (partition, next) in positions {
            query(&text)
                .bind(group.to_owned())
                .bind(partition.topic().as_str())
                .bind(partition.index())
                .bind(next.get())
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }
}

/// The rows of a group, sorted by partition.
pub(crate) async fn rows(
    conn: &mut SqliteConnection,
    books: &Bookkeeping,
    group: &str,
) -> Result<Vec<ProgressRow>, Error> {
    let text = format!(
        "SELECT topic, partition, next_offset, claim, reset_generation, updated_at FROM {} \
         WHERE group_id = ? ORDER BY topic, partition",
        books.progress
    );
    let rows = query(&text.into()).bind(group.to_owned());
    let rows = rows.fetch_all(conn).await.map_err(failed)?;
    let rows: Result<_, _> = rows.iter().map(progress_row).collect();
    rows.map_err(failed)
}

pub(crate) fn failed(error: sqlx::Error) -> Error {
    Error::sink_failed(cause(&error))
}

fn progress_row(row: &SqliteRow) -> Result<ProgressRow, sqlx::Error> {
    let updated_at: String = row.try_get(5)?;
    let updated_at = DateTime::parse_from_rfc3339(&updated_at)
        .map_or(SystemTime::UNIX_EPOCH, |at| at.with_timezone(&Utc).into());
    let topic: String = row.try_get(0)?;
    let partition = PartitionId::new(topic.as_str(), row.try_get(1)?);
    let (next, claim) = (row.try_get(2)?, row.try_get(3)?);
    Ok(ProgressRow::new(partition, next, claim, row.try_get(4)?, updated_at))
}
