//! Results, dead letters and progress as whoever checks a pipeline from outside reads them back.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use sqlx::Row;
use sqlx::postgres::PgConnection;
use tidegate::Error;
use tidegate::record::{Lineage, Offset};
use tidegate_sql::{
    Bookkeeping, Dialect, ProgressRow, ReadRow, ReadTable, RealColumn, row_lineage,
};

use crate::connection::{Session, connect_within, query};
use crate::progress::{self, failed};
use crate::settings::Settings;

/// Reading millions of rows takes its time, and so may whoever looks at them.
const STATEMENT_MAX: Duration = Duration::from_secs(12 * 3600);

const DIALECT: Dialect = Dialect {
    text: |column| format!("{column}::text"),
    number: |column| format!("{column}::bigint"),
    // The text of a row tells NULL from an empty text, and where one column ends.
    together: |columns| format!("ROW({})::text", columns.join(", ")),
};

/// Reads back what stands in a database; made by
/// [`ProgressOptions::readback`](crate::ProgressOptions::readback).
///
/// ```no_run
/// # async fn example() -> Result<(), tidegate::Error> {
/// use tidegate_postgres::{ProgressOptions, ReadTable};
///
/// let mut database = ProgressOptions::new("postgres://localhost/geo").readback().await?;
/// database.snapshot().await?;
/// let quakes = ReadTable::new("quakes").expect("a name");
/// database.rows(&quakes, |row| println!("{:?}", row.lineage)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Readback {
    session: Session,
    books: Bookkeeping,
}

impl Readback {
    pub(crate) async fn connect(mut settings: Settings, within: Duration) -> Result<Self, Error> {
        settings.statement_timeout = STATEMENT_MAX;
        settings.idle_timeout = STATEMENT_MAX;
        let server = settings.parse()?;
        let books = settings.bookkeeping()?;
        let session = connect_within(&settings, &server, "tools", within).await?;
        Ok(Self { session, books })
    }

    /// From now on everything is seen as it stands at the first question after this call, until
    /// this is called again.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn snapshot(&mut self) -> Result<(), Error> {
        for text in ["ROLLBACK", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"] {
            sqlx::raw_sql(text).execute(&mut self.session.conn).await.map_err(failed)?;
        }
        Ok(())
    }

    /// The progress of a group, sorted by partition; empty where there are no bookkeeping tables
    /// yet.
    ///
    /// # Errors
    /// If the tables cannot be read, or are of another version.
    pub async fn progress(&mut self, group: &str) -> Result<Vec<ProgressRow>, Error> {
        if !self.has_books().await? {
            return Ok(Vec::new());
        }
        progress::rows(&mut self.session.conn, &self.books, group).await
    }

    /// Hands on the coordinates of the dead letters of a group, as the lineage of a first result,
    /// in any order. There are none where there are no bookkeeping tables yet.
    ///
    /// # Errors
    /// As [`progress`](Self::progress).
    pub async fn dead_letters(
        &mut self,
        group: &str,
        mut each: impl FnMut(Lineage<'_>),
    ) -> Result<(), Error> {
        if !self.has_books().await? {
            return Ok(());
        }
        let text: Arc<str> = format!(
            "SELECT topic, partition, \"offset\" FROM {} WHERE group_id = $1",
            self.books.dead_letter
        )
        .into();
        let mut rows = query(&text).bind(group.to_owned()).fetch(&mut self.session.conn);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let topic: &str = row.try_get(0).map_err(failed)?;
            let partition = row.try_get(1).map_err(failed)?;
            let offset = Offset::try_new(row.try_get(2).map_err(failed)?);
            each(Lineage { topic, partition, offset: offset.unwrap_or_default(), index: 0 });
        }
        Ok(())
    }

    /// Whether the table exists. If it does, it can be read by [`rows`](Self::rows).
    ///
    /// # Errors
    /// If it has no columns of lineage, or the database does not answer.
    pub async fn check(&mut self, table: &ReadTable) -> Result<bool, Error> {
        let real = columns(&mut self.session.conn, table).await.map_err(failed)?;
        if real.is_empty() {
            return Ok(false);
        }
        table.select(&real, &DIALECT).map(|_| true)
    }

    /// Hands on the rows of a table, in the order that it was told, or in any.
    ///
    /// # Errors
    /// If the table does not exist, has no columns of lineage, or cannot be read.
    pub async fn rows(
        &mut self,
        table: &ReadTable,
        mut each: impl FnMut(&ReadRow<'_>),
    ) -> Result<(), Error> {
        let real = columns(&mut self.session.conn, table).await.map_err(failed)?;
        if real.is_empty() {
            return Err(Error::configuration(
                &format!("table {}", table.label()),
                "does not exist",
            ));
        }
        let text: Arc<str> = table.select(&real, &DIALECT)?.into();
        let mut rows = query(&text).fetch(&mut self.session.conn);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let topic: Option<&str> = row.try_get(0).map_err(failed)?;
            let number = |column: usize| row.try_get::<Option<i64>, _>(column).map_err(failed);
            each(&ReadRow {
                lineage: row_lineage(topic, number(1)?, number(2)?, number(3)?),
                contents: row.try_get(4).map_err(failed)?,
            });
        }
        Ok(())
    }

    /// The contents of one row by the names of the columns; empty if there is no such row.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub async fn columns(
        &mut self,
        table: &ReadTable,
        of: &Lineage<'_>,
    ) -> Result<Vec<(String, Option<String>)>, Error> {
        let real = columns(&mut self.session.conn, table).await.map_err(failed)?;
        let (text, names) = table.select_columns(&real, &DIALECT, |number| format!("${number}"))?;
        let row = query(&text.into())
            .bind(of.topic.to_owned())
            .bind(of.partition)
            .bind(of.offset.get())
            .bind(i64::from(of.index))
            .fetch_optional(&mut self.session.conn)
            .await
            .map_err(failed)?;
        let Some(row) = row else { return Ok(Vec::new()) };
        let column = |(number, name)| Ok((name, row.try_get(number).map_err(failed)?));
        names.into_iter().enumerate().map(column).collect()
    }

    async fn has_books(&mut self) -> Result<bool, Error> {
        let conn = &mut self.session.conn;
        let missing = crate::check::missing(conn, &self.books).await.map_err(failed)?;
        if !missing.is_empty() {
            return Ok(false);
        }
        crate::check::version(conn, &self.books).await?;
        Ok(true)
    }
}

/// The columns of the real table; none if it does not exist.
async fn columns(
    conn: &mut PgConnection,
    table: &ReadTable,
) -> Result<Vec<RealColumn>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT attname::text, attidentity = 'a' OR attgenerated <> '' FROM pg_attribute \
         WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
    )
    .bind(table.name().to_string())
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| Ok(RealColumn { name: row.try_get(0)?, generated: row.try_get(1)? }))
        .collect()
}
