//! L5: statements of 200 rows and the offsets in one transaction, WAL, `synchronous=FULL`.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::runtime::Runtime;

use super::rows::{Rows, Storage};
use crate::case::Case;
use crate::measure::Span;
use crate::table::PROGRESS;

/// Rows of one statement.
const ROWS: usize = 200;

pub(super) struct Sqlite {
    runtime: Runtime,
    connection: SqliteConnection,
    many: Arc<str>,
    one: Arc<str>,
    advance: Arc<str>,
}

pub(super) fn open(case: &Case) -> Result<Sqlite> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let options = SqliteConnectOptions::new()
        .filename(&case.output)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let connection = runtime.block_on(options.connect())?;
    Ok(Sqlite {
        runtime,
        connection,
        many: insert(ROWS).into(),
        one: insert(1).into(),
        advance: format!(
            "UPDATE {PROGRESS} SET next_offset = ? WHERE partition = ? AND next_offset = ?"
        )
        .into(),
    })
}

fn insert(rows: usize) -> String {
    let values = vec!["(?, ?, ?, ?)"; rows].join(", ");
    format!("INSERT INTO bench (partition, \"offset\", key, value) VALUES {values}")
}

impl Storage for Sqlite {
    fn store(&mut self, rows: &Rows, span: &Span) -> Result<()> {
        self.runtime.block_on(async {
            let mut tx = self.connection.begin_with("BEGIN IMMEDIATE").await?;
            let begun = Instant::now();
            let places = rows.partitions.iter().zip(&rows.offsets);
            let mut cells = places.zip(rows.cells());
            let mut left = rows.len();
            while left > 0 {
                let (text, count) = if left >= ROWS { (&self.many, ROWS) } else { (&self.one, 1) };
                let mut statement = sqlx::query(AssertSqlSafe(Arc::clone(text)));
                for ((partition, offset), (key, value)) in cells.by_ref().take(count) {
                    statement = statement.bind(*partition).bind(*offset);
                    statement = statement.bind(key.to_vec()).bind(value.to_vec());
                }
                statement.execute(&mut *tx).await?;
                left -= count;
            }
            span.phases.record("rows", begun.elapsed());
            let begun = Instant::now();
            for (partition, (first, next)) in (0..).zip(rows.first.iter().zip(&rows.next)) {
                if first == next {
                    continue;
                }
                let advance = sqlx::query(AssertSqlSafe(Arc::clone(&self.advance)));
                let moved =
                    advance.bind(next).bind(partition).bind(first).execute(&mut *tx).await?;
                ensure!(moved.rows_affected() == 1, "the offset of {partition} was not {first}");
            }
            span.phases.record("compare", begun.elapsed());
            let begun = Instant::now();
            tx.commit().await?;
            span.phases.record("commit", begun.elapsed());
            Ok(())
        })
    }
}
