//! Results, dead letters and progress as whoever checks a pipeline from outside reads them back.

use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;
use tidegate::Error;
use tidegate::record::{Lineage, Offset};
use tidegate_sql::{
    Bookkeeping, Dialect, ProgressRow, ReadRow, ReadTable, RealColumn, row_lineage,
};

use crate::connection::query;
use crate::progress::{self, failed};
use crate::settings::Settings;

const DIALECT: Dialect = Dialect {
    text: |column| format!("CAST({column} AS TEXT)"),
    number: |column| format!("CAST({column} AS INTEGER)"),
    together,
};

/// `quote` ends a text at its first NUL; in hexadecimal digits it is whole. The letter in front
/// tells a text from a blob of the same bytes.
fn together(columns: &[String]) -> String {
    let texts: Vec<String> = columns
        .iter()
        .map(|column| {
            format!("CASE typeof({column}) WHEN 'text' THEN 't' || hex({column}) ELSE quote({column}) END")
        })
        .collect();
    if texts.is_empty() { "''".to_owned() } else { texts.join(" || ',' || ") }
}

/// Reads back what stands in a file.
///
/// ```no_run
/// # async fn example() -> Result<(), tidegate::Error> {
/// use tidegate_sqlite::{ReadTable, Readback};
///
/// let mut file = Readback::open_with_prefix("results.db", "tidegate_").await?;
/// file.snapshot().await?;
/// let quakes = ReadTable::new("quakes").expect("a name");
/// file.rows(&quakes, |row| println!("{:?}", row.lineage)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Readback {
    conn: SqliteConnection,
    books: Bookkeeping,
}

impl Readback {
    /// Opens the file; `prefix` is what the names of the bookkeeping tables begin with, usually
    /// `tidegate_`.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub async fn open_with_prefix(path: impl AsRef<Path>, prefix: &str) -> Result<Self, Error> {
        let settings = Settings { prefix: prefix.to_owned(), ..Settings::new(path.as_ref()) };
        let books = settings.validate()?;
        let conn = settings.connect_to_look().await.map_err(failed)?;
        Ok(Self { conn, books })
    }

    /// From now on everything is seen as it stands at the first question after this call, until
    /// this is called again.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn snapshot(&mut self) -> Result<(), Error> {
        // Without a transaction there is nothing to end, which SQLite calls an error.
        let _ = sqlx::raw_sql("ROLLBACK").execute(&mut self.conn).await;
        sqlx::raw_sql("BEGIN").execute(&mut self.conn).await.map_err(failed)?;
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
        progress::rows(&mut self.conn, &self.books, group).await
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
            "SELECT topic, partition, \"offset\" FROM {} WHERE group_id = ?",
            self.books.dead_letter
        )
        .into();
        let mut rows = query(&text).bind(group.to_owned()).fetch(&mut self.conn);
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
    /// If it has no columns of lineage, or the file cannot be read.
    pub async fn check(&mut self, table: &ReadTable) -> Result<bool, Error> {
        let real = columns(&mut self.conn, table).await.map_err(failed)?;
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
        let real = columns(&mut self.conn, table).await.map_err(failed)?;
        if real.is_empty() {
            return Err(Error::configuration(
                &format!("table {}", table.label()),
                "does not exist",
            ));
        }
        let text: Arc<str> = table.select(&real, &DIALECT)?.into();
        let mut rows = query(&text).fetch(&mut self.conn);
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
        let real = columns(&mut self.conn, table).await.map_err(failed)?;
        let (text, names) = table.select_columns(&real, &DIALECT, |number| format!("?{number}"))?;
        let row = query(&text.into())
            .bind(of.topic.to_owned())
            .bind(of.partition)
            .bind(of.offset.get())
            .bind(i64::from(of.index))
            .fetch_optional(&mut self.conn)
            .await
            .map_err(failed)?;
        let Some(row) = row else { return Ok(Vec::new()) };
        let column = |(number, name)| Ok((name, row.try_get(number).map_err(failed)?));
        names.into_iter().enumerate().map(column).collect()
    }

    async fn has_books(&mut self) -> Result<bool, Error> {
        let Bookkeeping { version, progress, dead_letter, .. } = &self.books;
        // As the file calls them: without quotes.
        let name = |quoted: &String| quoted.trim_matches('"').replace("\"\"", "\"");
        let there: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' AND name IN (?, ?, ?)",
        )
        .bind(name(version))
        .bind(name(progress))
        .bind(name(dead_letter))
        .fetch_one(&mut self.conn)
        .await
        .map_err(failed)?;
        if there < 3 {
            return Ok(false);
        }
        crate::check::version(&mut self.conn, &self.books).await?;
        Ok(true)
    }
}

/// The columns of the real table; none if it does not exist.
async fn columns(
    conn: &mut SqliteConnection,
    table: &ReadTable,
) -> Result<Vec<RealColumn>, sqlx::Error> {
    let name = table.name();
    let rows = sqlx::query("SELECT name, hidden FROM pragma_table_xinfo(?, ?)")
        .bind(name.table().to_owned())
        .bind(name.schema().unwrap_or("main").to_owned())
        .fetch_all(conn)
        .await?;
    rows.iter()
        .map(|row| {
            let hidden: i64 = row.try_get(1)?;
            Ok(RealColumn { name: row.try_get(0)?, generated: hidden != 0 })
        })
        .collect()
}
