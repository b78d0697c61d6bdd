//! Rows into tables: statements of fixed sizes, so that each is prepared once.

use std::sync::Arc;

use sqlx::sqlite::SqliteConnection;
use tidegate::batch::Batch;
use tidegate::mutant;
use tidegate::sink::Rejection;
use tidegate_sql::{
    Bookkeeping, DeadLetterRow, Limit, Table, dead_letter_rows, encode, on_conflict,
};

use crate::check::Known;
use crate::connection::query;
use crate::encode::{Affinity, Rows, Value};

/// Rows per statement, from the largest down: one execute per row is eight times slower than
/// statements of 50 to 200 rows, and a size of its own for each rest would never be prepared twice.
const ROWS: [usize; 5] = [200, 64, 16, 4, 1];

/// What one statement can bind.
const BINDS_MAX: usize = 32_766;

/// Writes rows of a fixed number of columns.
#[derive(Debug)]
pub(crate) struct Inserter {
    columns: usize,
    statements: Vec<(usize, Arc<str>)>,
}

impl Inserter {
    fn new(insert: &str, columns: usize, conflict: &str) -> Self {
        let row = format!("({})", vec!["?"; columns].join(", "));
        let sizes = ROWS.iter().filter(|rows| *rows * columns <= BINDS_MAX);
        let statements = sizes.map(|&rows| {
            let values = vec![row.as_str(); rows].join(", ");
            (rows, format!("{insert} VALUES {values} {conflict}").into())
        });
        Self { columns, statements: statements.collect() }
    }

    async fn write(
        &self,
        conn: &mut SqliteConnection,
        values: Vec<Value>,
    ) -> Result<(), sqlx::Error> {
        let mut rows = values.len() / self.columns;
        let mut values = values.into_iter();
        for (size, text) in &self.statements {
            while rows >= *size {
                let chunk = values.by_ref().take(size * self.columns);
                let statement = chunk.fold(query(text), |query, value| value.bind(query));
                statement.execute(&mut *conn).await?;
                rows -= size;
            }
        }
        Ok(())
    }
}

/// How one table is written.
#[derive(Debug)]
pub(crate) struct TablePlan {
    affinities: Arc<[Affinity]>,
    limits: Vec<Limit>,
    inserter: Inserter,
}

impl TablePlan {
    pub(crate) fn new<O>(table: &Table<O>, known: Known) -> Self {
        let target = table.name().to_string();
        // The sum of two integers silently becomes a float when it overflows; `abs` of the least
        // integer is the error that SQLite has for it.
        let (insert, conflict) = on_conflict(table, &target, |old, new| {
            format!(
                "CASE WHEN typeof({old}) = 'integer' AND typeof({new}) = 'integer' \
                 AND typeof({old} + {new}) <> 'integer' THEN abs(-9223372036854775807 - 1) \
                 ELSE {old} + {new} END"
            )
        });
        Self {
            affinities: known.affinities.into(),
            limits: known.limits,
            inserter: Inserter::new(&insert, table.columns().len(), &conflict),
        }
    }
}

/// How dead letters are written.
pub(crate) fn dead_letter_inserter(books: &Bookkeeping) -> Inserter {
    let insert = format!(
        "INSERT INTO {} (group_id, topic, partition, \"offset\", timestamp, key, value, headers, \
         reason, error, attempts, value_size, value_hash)",
        books.dead_letter
    );
    Inserter::new(&insert, 13, "")
}

/// A batch as values, before the write lock is taken.
#[derive(Debug)]
pub(crate) struct Encoded {
    tables: Vec<Vec<Value>>,
    dead_letters: Vec<Value>,
}

impl Encoded {
    pub(crate) fn new<O>(
        tables: &[Table<O>],
        plans: &[TablePlan],
        group: &str,
        batch: &Batch<O>,
    ) -> Result<Self, Rejection> {
        let tables = tables.iter().zip(plans).map(|(table, plan)| {
            let mut rows = Rows::new(Arc::clone(&plan.affinities));
            encode(table, &plan.limits, batch, &mut rows)?;
            Ok(rows.values)
        });
        Ok(Self {
            tables: tables.collect::<Result<_, _>>()?,
            dead_letters: dead_letter_rows(batch).flat_map(|row| dead_letter(group, row)).collect(),
        })
    }

    pub(crate) fn has_dead_letters(&self) -> bool {
        !self.dead_letters.is_empty()
    }

    /// Writes everything; the transaction is the caller's.
    pub(crate) async fn write(
        self,
        conn: &mut SqliteConnection,
        plans: &[TablePlan],
        dead_letters: Option<&Inserter>,
    ) -> Result<(), sqlx::Error> {
        for (values, plan) in self.tables.into_iter().zip(plans) {
            plan.inserter.write(conn, values).await?;
        }
        match dead_letters {
            Some(_) if mutant::is("M34") => Ok(()),
            Some(inserter) => inserter.write(conn, self.dead_letters).await,
            None => Ok(()),
        }
    }
}

fn dead_letter(group: &str, row: DeadLetterRow<'_>) -> [Value; 13] {
    [
        Value::Text(group.to_owned()),
        Value::Text(row.topic.to_owned()),
        Value::Int(row.partition.into()),
        Value::Int(row.offset),
        Value::int(row.timestamp_ms),
        Value::blob(row.key),
        Value::blob(row.value),
        Value::Text(row.headers.to_string()),
        Value::Text(row.reason.to_owned()),
        Value::Text(row.error),
        Value::Int(row.attempts.into()),
        Value::int(row.value_size),
        Value::text(row.value_hash.as_deref()),
    ]
}
