//! Stored progress for people and tools.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use tidegate::Error;
use tidegate::record::{Offset, PartitionId};
use tidegate_sql::{Bookkeeping, Cell, Kind, Liveness, ProgressRow};

use crate::connection::{Session, connect_within, query};
use crate::encode::Arrays;
use crate::error::cause;
use crate::readback::Readback;
use crate::settings::{Plaintext, Settings};
use crate::store::partition;

/// How long a tool waits for the database.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Stored progress for people and tools: look at it, set it.
///
/// ```no_run
/// # async fn example() -> Result<(), tidegate::Error> {
/// let mut progress = tidegate_postgres::Progress::connect("postgres://localhost/db").await?;
/// for row in progress.rows("my-pipeline").await? {
///     println!("{} next {}", row.partition, row.next);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Progress {
    session: Session,
    books: Bookkeeping,
}

/// How a tool reaches the tables, where it is not the usual way.
#[derive(Clone, Debug)]
pub struct ProgressOptions {
    settings: Settings,
}

impl ProgressOptions {
    /// The database at this URL.
    pub fn new(url: &str) -> Self {
        let settings = Settings::new(url);
        Self { settings }
    }

    /// The schema of the bookkeeping tables: `tidegate` unless set.
    #[must_use]
    pub fn bookkeeping_schema(mut self, schema: &str) -> Self {
        schema.clone_into(&mut self.settings.schema);
        self
    }

    /// Speaks to a server on another machine without a verified certificate.
    #[must_use]
    pub fn allow_plaintext(mut self) -> Self {
        self.settings.plaintext = Plaintext::Allowed;
        self
    }

    /// Connects for reading results back.
    ///
    /// # Errors
    /// If the database cannot be reached within 10 s or may not be spoken to.
    pub async fn readback(self) -> Result<Readback, Error> {
        Readback::connect(self.settings, CONNECT_WITHIN).await
    }

    /// Connects.
    ///
    /// # Errors
    /// If the database cannot be reached within 10 s or holds no progress.
    pub async fn connect(self) -> Result<Progress, Error> {
        let server = self.settings.parse()?;
        let books = self.settings.bookkeeping()?;
        let connected = connect_within(&self.settings, &server, "tools", CONNECT_WITHIN);
        let mut session = connected.await?;
        crate::check::version(&mut session.conn, &books).await?;
        Ok(Progress { session, books })
    }
}

impl Progress {
    /// Connects to the database of a [`Postgres`](crate::Postgres) sink in the usual way.
    ///
    /// # Errors
    /// As [`ProgressOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        ProgressOptions::new(url).connect().await
    }

    /// The groups that have progress here, sorted.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub async fn groups(&mut self) -> Result<Vec<String>, Error> {
        let text = format!("SELECT DISTINCT group_id FROM {} ORDER BY 1", self.books.progress);
        let rows = query(&text.into()).fetch_all(&mut self.session.conn).await;
        let rows = rows.map_err(failed)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The rows of a group, sorted by partition.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub async fn rows(&mut self, group: &str) -> Result<Vec<ProgressRow>, Error> {
        rows(&mut self.session.conn, &self.books, group).await
    }

    /// Whether the group is being worked on: whether the backend that a row names as its owner's
    /// is still connected. Backends of other users can only be told apart by a user with the role
    /// `pg_read_all_stats`; without it a backend of the same number counts as live.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub async fn liveness(&mut self, group: &str) -> Result<Liveness, Error> {
        let text = format!(
            "SELECT p.topic, p.partition FROM {} AS p JOIN pg_stat_activity AS a \
             ON a.pid = p.owner_pid \
             AND coalesce(a.backend_start = p.owner_backend_start, true) \
             WHERE p.group_id = $1 AND p.owner IS NOT NULL ORDER BY 1, 2",
            self.books.progress
        );
        let rows = query(&text.into()).bind(group.to_owned());
        let rows = rows.fetch_all(&mut self.session.conn).await.map_err(failed)?;
        let live: Result<Vec<_>, _> = rows.iter().map(partition).collect();
        let live = live.map_err(failed)?;
        Ok(if live.is_empty() { Liveness::None } else { Liveness::Live(live) })
    }

    /// Sets positions and fences whoever owns them; all or none.
    ///
    /// # Errors
    /// If the table cannot be written.
    pub async fn set(
        &mut self,
        group: &str,
        positions: &[(PartitionId, Offset)],
    ) -> Result<(), Error> {
        let text: Arc<str> = format!(
            "INSERT INTO {} AS p (group_id, topic, partition, next_offset, claim, \
             reset_generation) SELECT $1, s.*, 1, 1 \
             FROM UNNEST($2::text[], $3::integer[], $4::bigint[]) AS s ORDER BY 2, 3 \
             ON CONFLICT (group_id, topic, partition) DO UPDATE \
             SET next_offset = excluded.next_offset, claim = p.claim + 1, owner = NULL, \
             owner_pid = NULL, owner_backend_start = NULL, \
             reset_generation = p.reset_generation + 1, updated_at = now()",
            self.books.progress
        )
        .into();
        let mut rows = Arrays::new(&[Kind::Text, Kind::Int4, Kind::Int8]);
        for (partition, next) in positions {
            let row = [
                Cell::Text(partition.topic().as_str()),
                Cell::Int4(partition.index()),
                Cell::Int8(next.get()),
            ];
            rows.push(row).expect("these types always fit");
        }
        let insert = rows.bind(query(&text).bind(group.to_owned()));
        let inserted = insert.execute(&mut self.session.conn).await;
        inserted.map_err(failed)?;
        Ok(())
    }
}

/// The rows of a group, sorted by partition.
pub(crate) async fn rows(
    conn: &mut PgConnection,
    books: &Bookkeeping,
    group: &str,
) -> Result<Vec<ProgressRow>, Error> {
    let text = format!(
        "SELECT topic, partition, next_offset, claim, reset_generation, updated_at FROM {} \
         WHERE group_id = $1 ORDER BY topic, partition",
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

fn progress_row(row: &PgRow) -> Result<ProgressRow, sqlx::Error> {
    let updated_at: DateTime<Utc> = row.try_get(5)?;
    let (next, claim) = (row.try_get(2)?, row.try_get(3)?);
    let resets = row.try_get(4)?;
    Ok(ProgressRow::new(partition(row)?, next, claim, resets, updated_at.into()))
}
