//! Rows into tables: the text of the statements, and a batch in the form they take.
//!
//! Three forms, chosen per batch:
//! - **one statement**: the compare, every table and the dead letters as parts of one statement,
//!   which commits by itself: one round trip, all or nothing. What is written depends on the
//!   compared rows; if they are not all there, the statement fails.
//! - **steps**: a transaction with a statement per table, where the user's own SQL runs too.
//! - **`COPY`** as a step, for many appended rows.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgConnection, Postgres};
use sqlx::query::Query;
use tidegate::Cause;
use tidegate::batch::Batch;
use tidegate::mutant;
use tidegate::sink::Rejection;
use tidegate_sql::{
    BadCell, Bookkeeping, Cell, DeadLetterRow, Expectation, Failure, Kind, Limit, Offsets, Table,
    column_list, compare_condition, dead_letter_rows, encode, on_conflict, quote,
};

use crate::check::Known;
use crate::connection::query;
use crate::copy::copy;
use crate::encode::{Chunks, array_type};
use crate::error::{COMPARE_DIFFERS, before};
use crate::store::{MATCH, SPANS, bind_compare};

/// The most bytes of one statement with several tables: the server takes 1 GiB.
const ONE_BYTES: usize = 512 << 20;

/// How one table is written.
#[derive(Debug)]
struct TablePlan {
    kinds: Vec<Kind>,
    limits: Vec<Limit>,
    insert: String,
    conflict: String,
    /// The columns of `UNNEST`'s result as the target takes them.
    exprs: String,
    alone: Arc<str>,
    copy: Option<String>,
}

impl TablePlan {
    fn new<O>(table: &Table<O>, known: Known) -> Self {
        let kinds: Vec<Kind> = table.columns().iter().map(|column| column.kind()).collect();
        let (insert, conflict) =
            on_conflict(table, &known.target, |old, new| format!("{old} + {new}"));
        let exprs =
            kinds.iter().zip(&known.casts).enumerate().map(|(index, (kind, cast))| {
                match (cast, kind.is_array()) {
                    (Some(cast), _) => format!("u.c{index}::{cast}"),
                    (None, true) => format!("u.c{index}::{}", kind.sql()),
                    (None, false) => format!("u.c{index}"),
                }
            });
        let exprs = exprs.collect::<Vec<_>>().join(", ");
        let copies = known.takes_copy && !table.is_upsert();
        let mut plan = Self {
            copy: copies.then(|| {
                let columns = column_list(table);
                format!("COPY {} ({columns}) FROM STDIN (FORMAT binary)", known.target)
            }),
            kinds,
            limits: known.limits,
            insert,
            conflict,
            exprs,
            alone: "".into(),
        };
        plan.alone = plan.statement(1, "").into();
        plan
    }

    /// The insert with parameters from `first` on.
    fn statement(&self, first: usize, condition: &str) -> String {
        let arrays = self.kinds.iter().zip(first..);
        let arrays: Vec<String> =
            arrays.map(|(kind, number)| format!("${number}::{}", array_type(*kind))).collect();
        let names: Vec<String> = (0..self.kinds.len()).map(|index| format!("c{index}")).collect();
        format!(
            "{} SELECT {} FROM UNNEST({}) AS u({}) {condition} {}",
            self.insert,
            self.exprs,
            arrays.join(", "),
            names.join(", "),
            self.conflict
        )
    }
}

/// The columns of a dead letter after its group.
const DEAD_LETTER: [(&str, Kind); 12] = [
    ("topic", Kind::Text),
    ("partition", Kind::Int4),
    ("offset", Kind::Int8),
    ("timestamp", Kind::Int8),
    ("key", Kind::Bytea),
    ("value", Kind::Bytea),
    ("headers", Kind::Jsonb),
    ("reason", Kind::Text),
    ("error", Kind::Text),
    ("attempts", Kind::Int4),
    ("value_size", Kind::Int8),
    ("value_hash", Kind::Text),
];

/// Dead letters, with their group as the first parameter.
fn dead_letter_statement(books: &Bookkeeping, first: usize, condition: &str) -> String {
    let names = DEAD_LETTER.map(|(name, _)| quote(name).expect("a constant name"));
    let arrays = DEAD_LETTER.iter().zip(first + 1..);
    let arrays: Vec<String> =
        arrays.map(|((_, kind), number)| format!("${number}::{}", array_type(*kind))).collect();
    let names = names.join(", ");
    format!(
        "INSERT INTO {} (group_id, {names}) SELECT ${first}::text, u.* FROM UNNEST({}) \
         AS u({names}) {condition}",
        books.dead_letter,
        arrays.join(", ")
    )
}

/// How batches of one sink are written.
#[derive(Debug)]
pub(crate) struct Plan {
    group: String,
    tables: Vec<TablePlan>,
    dead_letters: Option<Arc<str>>,
    /// The one-statement form, without and with dead letters; `None` if it cannot be used.
    one: Option<[Arc<str>; 2]>,
    copy_rows_min: usize,
}

impl Plan {
    /// Plans the writing. `in_steps` says that something else is written in the same transaction.
    pub(crate) fn new<O>(
        tables: &[Table<O>],
        known: Vec<Known>,
        books: Option<&Bookkeeping>,
        (group, offsets, in_steps): (&str, Offsets, bool),
        copy_rows_min: usize,
        progress_table: &str,
    ) -> Self {
        let plans = tables.iter().zip(known);
        let plans: Vec<TablePlan> =
            plans.map(|(table, known)| TablePlan::new(table, known)).collect();
        // One statement cannot upsert a row twice, so a table that is named twice takes steps.
        let mut targets: Vec<&String> = plans.iter().map(|plan| &plan.insert).collect();
        targets.sort();
        let twice = targets.windows(2).any(|pair| {
            let target = |insert: &str| insert.split(" AS ").next().map(str::to_owned);
            target(pair[0]) == target(pair[1])
        });
        let one = (!in_steps && !twice).then(|| {
            [None, books].map(|books| one_statement(&plans, books, offsets, progress_table).into())
        });
        Self {
            group: group.to_owned(),
            tables: plans,
            dead_letters: books.map(|books| dead_letter_statement(books, 1, "").into()),
            one,
            copy_rows_min,
        }
    }

    /// The rows of a batch in the form in which they are sent.
    pub(crate) fn encode<O>(
        &self,
        tables: &[Table<O>],
        batch: &Batch<O>,
    ) -> Result<Encoded, Rejection> {
        let outputs: usize = batch.outputs().count();
        let mut encoded = Encoded {
            tables: Vec::with_capacity(tables.len()),
            dead_letters: Chunks::new(&DEAD_LETTER.map(|(_, kind)| kind)),
        };
        for (table, plan) in tables.iter().zip(&self.tables) {
            // Few rows after the filter go faster by `UNNEST`, whatever the size of the batch.
            let takes = || batch.outputs().filter(|output| table.takes(output.value)).count();
            let min = self.copy_rows_min;
            let rows = if plan.copy.is_some() && outputs >= min && takes() >= min {
                Rows::Copy
            } else {
                let mut rows = Chunks::new(&plan.kinds);
                encode(table, &plan.limits, batch, &mut rows)?;
                Rows::Arrays(rows)
            };
            encoded.tables.push(rows);
        }
        for ((finished, _), row) in batch.dead_letters().zip(dead_letter_rows(batch)) {
            let pushed = push_dead_letter(&mut encoded.dead_letters, &row);
            pushed.map_err(|bad| {
                Rejection::of_record(Cause::new(bad), finished.record.coordinates())
            })?;
        }
        Ok(encoded)
    }

    /// The whole batch as one statement, if it can be.
    pub(crate) fn one(
        &self,
        encoded: Encoded,
        expected: Option<&[Expectation]>,
    ) -> Result<Query<'static, Postgres, PgArguments>, Encoded> {
        let one = self.one.as_ref().filter(|_| encoded.is_one());
        let Some(one) = one else {
            return Err(encoded);
        };
        let mut statement = query(&one[usize::from(encoded.has_dead_letters())]);
        if let Some(expected) = expected {
            let count = i64::try_from(expected.len()).expect("spans are few");
            statement = bind_compare(statement, &self.group, expected).bind(count);
        }
        let with_letters = encoded.has_dead_letters();
        let tables = encoded.tables.into_iter().filter_map(|rows| match rows {
            Rows::Arrays(chunks) => Some(chunks),
            Rows::Copy => None,
        });
        for arrays in tables.flat_map(Chunks::into_statements) {
            statement = arrays.bind(statement);
        }
        if with_letters {
            statement = statement.bind(self.group.clone());
            for arrays in encoded.dead_letters.into_statements() {
                statement = arrays.bind(statement);
            }
        }
        Ok(statement)
    }

    /// Writes the batch's rows step by step; the transaction is the caller's.
    pub(crate) async fn steps<O>(
        &self,
        conn: &mut PgConnection,
        tables: &[Table<O>],
        batch: &Batch<O>,
        encoded: Encoded,
    ) -> Result<(), Failure> {
        for ((rows, plan), table) in encoded.tables.into_iter().zip(&self.tables).zip(tables) {
            match rows {
                Rows::Arrays(chunks) => {
                    for arrays in chunks.into_statements() {
                        if arrays.rows() > 0 {
                            let insert = arrays.bind(query(&plan.alone));
                            insert.execute(&mut *conn).await.map_err(before)?;
                        }
                    }
                }
                Rows::Copy => {
                    let text = plan.copy.as_ref().expect("what is copied has a statement");
                    copy(conn, text, table, &plan.limits, batch).await?;
                }
            }
        }
        if let Some(text) = &self.dead_letters {
            for arrays in encoded.dead_letters.into_statements() {
                if arrays.rows() > 0 {
                    let insert = arrays.bind(query(text).bind(self.group.clone()));
                    insert.execute(&mut *conn).await.map_err(before)?;
                }
            }
        }
        Ok(())
    }

    /// Whether there is a place for dead letters.
    pub(crate) fn takes_dead_letters(&self) -> bool {
        self.dead_letters.is_some()
    }
}

/// Compare, tables and dead letters as parts of one statement.
fn one_statement(
    tables: &[TablePlan],
    books: Option<&Bookkeeping>,
    offsets: Offsets,
    progress_table: &str,
) -> String {
    let mut parts = Vec::new();
    let (mut next, condition, last) = match offsets {
        Offsets::Stored => {
            parts.push(format!(
                "held AS (UPDATE {progress_table} AS p SET next_offset = s.next, \
                 updated_at = now() FROM {SPANS} WHERE {} RETURNING 1)",
                compare_condition(MATCH)
            ));
            let last = format!(
                "SELECT CASE WHEN count(*) = $8 THEN count(*) \
                 ELSE ('{COMPARE_DIFFERS}' || count(*))::bigint END FROM held"
            );
            match mutant::is("M10") {
                true => (9, "WHERE $8::bigint > 0", "SELECT $8::bigint".to_owned()),
                false => (9, "WHERE (SELECT count(*) FROM held) = $8", last),
            }
        }
        Offsets::Elsewhere => (1, "", "SELECT 1::bigint".to_owned()),
    };
    for (index, table) in tables.iter().enumerate() {
        let insert = table.statement(next, condition);
        parts.push(format!("t{index} AS ({insert})"));
        next += table.kinds.len();
    }
    if let Some(books) = books {
        let insert = dead_letter_statement(books, next, condition);
        parts.push(format!("letters AS ({insert})"));
    }
    let with = if parts.is_empty() { "" } else { "WITH " };
    format!("{with}{} {last}", parts.join(", "))
}

/// A batch as bytes, before anything is sent; but for what is copied.
#[derive(Debug)]
pub(crate) struct Encoded {
    tables: Vec<Rows>,
    dead_letters: Chunks,
}

#[derive(Debug)]
enum Rows {
    Arrays(Chunks),
    /// Many: they are encoded while they are sent.
    Copy,
}

impl Encoded {
    /// Whether everything fits into one statement.
    fn is_one(&self) -> bool {
        let arrays = |rows: &Rows| matches!(rows, Rows::Arrays(chunks) if chunks.is_one());
        self.tables.iter().all(arrays) && self.dead_letters.is_one() && self.bytes() <= ONE_BYTES
    }

    fn bytes(&self) -> usize {
        let tables = self.tables.iter().map(|rows| match rows {
            Rows::Arrays(chunks) => chunks.bytes(),
            Rows::Copy => 0,
        });
        self.dead_letters.bytes() + tables.sum::<usize>()
    }

    pub(crate) fn has_dead_letters(&self) -> bool {
        !self.dead_letters.is_empty()
    }
}

fn push_dead_letter(arrays: &mut Chunks, row: &DeadLetterRow<'_>) -> Result<(), BadCell> {
    let int8 = |value: Option<i64>| value.map_or(Cell::Null, Cell::Int8);
    arrays.push([
        Cell::Text(row.topic),
        Cell::Int4(row.partition),
        Cell::Int8(row.offset),
        int8(row.timestamp_ms),
        row.key.map_or(Cell::Null, Cell::Bytea),
        row.value.map_or(Cell::Null, Cell::Bytea),
        Cell::Jsonb(&row.headers),
        Cell::Text(row.reason),
        Cell::Text(&row.error),
        Cell::Int4(row.attempts),
        int8(row.value_size),
        row.value_hash.as_deref().map_or(Cell::Null, Cell::Text),
    ])
}
