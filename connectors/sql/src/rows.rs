//! Which rows a batch becomes in one table, in which order, with which values.
//!
//! Appended rows keep the order of the batch. Upserts touch each row once: of several results for
//! one key the last wins in replaced columns and all are added up in added ones. That is needed
//! because `ON CONFLICT` cannot touch a row twice in one statement, and it is what applying the
//! results one after another would have stored.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rust_decimal::Decimal;
use tidegate::Cause;
use tidegate::batch::{Batch, Finished, Output};
use tidegate::sink::Rejection;

use crate::cell::{BadCell, Cell, Limit};
use crate::key;
use crate::table::{Column, Role, Table};

/// Takes rows, cell by cell, each row's columns in the table's order.
pub trait RowWriter {
    /// Takes the next cell of the row.
    ///
    /// # Errors
    /// If the database cannot store this value at all.
    fn cell(&mut self, column: usize, cell: Cell<'_>) -> Result<(), BadCell>;

    /// Ends the row.
    fn end_row(&mut self);
}

/// Writes the rows that this batch becomes in `table`; returns how many. `limits` holds what is
/// known of the real columns, in the table's order.
///
/// # Errors
/// A rejection that names the record whose value can be in no row. What was written of rows
/// before is to be thrown away.
pub fn encode<O>(
    table: &Table<O>,
    limits: &[Limit],
    batch: &Batch<O>,
    rows: &mut impl RowWriter,
) -> Result<usize, Rejection> {
    if !table.is_upsert() {
        return append(table, limits, batch.finished(), rows);
    }
    let outputs = batch.outputs().filter(|output| table.takes(output.value));
    let merged = merge(table, limits, outputs)?;
    let count = merged.len();
    for row in merged {
        let mut sums = row.sums.into_iter();
        for (index, column) in table.columns.iter().enumerate() {
            let sum = match column.role {
                Role::Add => sums.next(),
                Role::Replace => None,
            };
            write_cell(table, limits, rows, &row.last, (index, column), sum)?;
        }
        rows.end_row();
    }
    Ok(count)
}

/// Writes the rows that these records of a batch become in `table`, which appends; returns how
/// many. A batch may be written in several parts, one behind the other.
///
/// # Errors
/// As [`encode`].
pub fn append<O>(
    table: &Table<O>,
    limits: &[Limit],
    finished: &[Finished<O>],
    rows: &mut impl RowWriter,
) -> Result<usize, Rejection> {
    let mut count = 0;
    for output in finished.iter().flat_map(Finished::outputs) {
        if table.takes(output.value) {
            for column in table.columns.iter().enumerate() {
                write_cell(table, limits, rows, &output, column, None)?;
            }
            rows.end_row();
            count += 1;
        }
    }
    Ok(count)
}

/// One row of an upsert.
struct Merged<'a, O> {
    last: Output<'a, O>,
    sums: Vec<Sum>,
}

fn merge<'a, O>(
    table: &Table<O>,
    limits: &[Limit],
    outputs: impl Iterator<Item = Output<'a, O>>,
) -> Result<Vec<Merged<'a, O>>, Rejection> {
    let key_columns: Vec<(&Column<O>, Limit)> = table
        .key
        .iter()
        .map(|key| {
            let place = table.columns.iter().position(|column| column.name == *key);
            let place = place.expect("the key was checked when the table was");
            (&table.columns[place], limits.get(place).cloned().unwrap_or_default())
        })
        .collect();
    let mut merged: HashMap<Vec<u8>, Merged<'a, O>> = HashMap::new();
    for output in outputs {
        let mut bytes = Vec::new();
        for (column, limit) in &key_columns {
            (column.extract)(&output, &mut |cell| key::push(&mut bytes, &limit.stored(cell)));
        }
        match merged.entry(bytes) {
            Entry::Vacant(vacant) => {
                let sums = added(table).map(|(_, c)| Sum::of(c, &output)).collect();
                vacant.insert(Merged { last: output, sums });
            }
            Entry::Occupied(mut occupied) => {
                let row = occupied.get_mut();
                for (sum, (_, column)) in row.sums.iter_mut().zip(added(table)) {
                    *sum = sum
                        .plus(Sum::of(column, &output))
                        .map_err(|bad| reject(table, column, &output, &bad))?;
                }
                row.last = output;
            }
        }
    }
    let mut merged: Vec<(Vec<u8>, Merged<'a, O>)> = merged.into_iter().collect();
    merged.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    Ok(merged.into_iter().map(|(_, row)| row).collect())
}

fn added<O>(table: &Table<O>) -> impl Iterator<Item = (usize, &Column<O>)> {
    let columns = table.columns.iter().enumerate();
    columns.filter(|(_, column)| column.role == Role::Add)
}

fn write_cell<O>(
    table: &Table<O>,
    limits: &[Limit],
    rows: &mut impl RowWriter,
    output: &Output<'_, O>,
    (index, column): (usize, &Column<O>),
    sum: Option<Sum>,
) -> Result<(), Rejection> {
    let mut result = Err(BadCell::new("no value"));
    let mut take = |cell: Cell<'_>| {
        let limit = limits.get(index);
        result =
            limit.map_or(Ok(()), |limit| limit.check(&cell)).and_then(|()| rows.cell(index, cell));
    };
    match sum {
        Some(sum) => take(sum.cell()),
        None => (column.extract)(output, &mut take),
    }
    result.map_err(|bad| reject(table, column, output, &bad))
}

fn reject<O>(
    table: &Table<O>,
    column: &Column<O>,
    output: &Output<'_, O>,
    bad: &BadCell,
) -> Rejection {
    let cause = Cause::new(format_args!("table {}, column {:?}: {bad}", table.name, column.name));
    Rejection::of_record(cause, output.record.coordinates())
}

/// A total inside one batch.
#[derive(Clone, Copy)]
enum Sum {
    Int8(i64),
    Float8(f64),
    Numeric(Decimal),
}

impl Sum {
    fn of<O>(column: &Column<O>, output: &Output<'_, O>) -> Self {
        let mut sum = None;
        (column.extract)(output, &mut |cell| {
            sum = match cell {
                Cell::Int8(value) => Some(Self::Int8(value)),
                Cell::Float8(value) => Some(Self::Float8(value)),
                Cell::Numeric(value) => Some(Self::Numeric(value)),
                _ => None,
            };
        });
        sum.expect("added columns hold numbers only: their methods see to it")
    }

    fn plus(self, other: Self) -> Result<Self, BadCell> {
        let sum = match (self, other) {
            (Self::Int8(left), Self::Int8(right)) => left.checked_add(right).map(Self::Int8),
            (Self::Float8(left), Self::Float8(right)) => Some(Self::Float8(left + right)),
            (Self::Numeric(left), Self::Numeric(right)) => {
                left.checked_add(right).map(Self::Numeric)
            }
            _ => unreachable!("a column has one type"),
        };
        sum.ok_or_else(|| BadCell::new("the total of the batch is out of range"))
    }

    fn cell(&self) -> Cell<'static> {
        match *self {
            Self::Int8(value) => Cell::Int8(value),
            Self::Float8(value) => Cell::Float8(value),
            Self::Numeric(value) => Cell::Numeric(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;
    use tidegate::batch::{Outcome, Span};
    use tidegate::record::{Epoch, Headers, Offset, PartitionId, Record};

    use super::*;

    /// Key, value that is replaced, value that is added.
    type Row = (u8, i64, i64);

    /// Rows as numbers.
    #[derive(Default)]
    struct Numbers {
        row: Vec<i64>,
        rows: Vec<Vec<i64>>,
    }

    impl RowWriter for Numbers {
        fn cell(&mut self, column: usize, cell: Cell<'_>) -> Result<(), BadCell> {
            assert_eq!(column, self.row.len());
            match cell {
                Cell::Int8(value) => self.row.push(value),
                other => panic!("a number, got {other:?}"),
            }
            Ok(())
        }

        fn end_row(&mut self) {
            self.rows.push(std::mem::take(&mut self.row));
        }
    }

    fn batch(outputs: Vec<Vec<Row>>) -> Batch<Row> {
        let partition = PartitionId::new("t", 0);
        let next = Offset::new(outputs.len() as i64);
        let finished = outputs.into_iter().zip(0..).map(|(outputs, offset)| Finished {
            record: Arc::new(Record {
                partition: partition.clone(),
                offset: Offset::new(offset),
                timestamp: None,
                key: None,
                value: None,
                headers: Headers::default(),
            }),
            outcome: Outcome::Emit(outputs.into_iter().collect()),
            attempts: 1,
        });
        let finished = finished.collect();
        let first = Offset::ZERO;
        let span = Span { partition: partition.clone(), epoch: Epoch::new(1), first, next };
        Batch::new(vec![span], finished)
    }

    fn table() -> Table<Row> {
        Table::new("t")
            .int8("key", |row: &Row| row.0.into())
            .int8("last", |row| row.1)
            .int8_add("sum", |row| row.2)
            .when(|row| row.1 % 5 != 0)
    }

    fn outputs() -> impl Strategy<Value = Vec<Vec<Row>>> {
        let row = (0..6_u8, -20..20_i64, -20..20_i64);
        proptest::collection::vec(proptest::collection::vec(row, 0..4), 0..12)
    }

    proptest! {
        #[test]
        fn an_upsert_of_a_batch_stores_what_one_after_another_would(outputs in outputs()) {
            let mut model: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
            for (key, last, sum) in outputs.iter().flatten().filter(|row| row.1 % 5 != 0) {
                let stored = model.entry((*key).into()).or_default();
                *stored = (*last, stored.1 + sum);
            }
            let mut rows = Numbers::default();
            let count = encode(&table().upsert_on(["key"]), &[], &batch(outputs), &mut rows);
            let expected: Vec<Vec<i64>> =
                model.into_iter().map(|(key, (last, sum))| vec![key, last, sum]).collect();
            prop_assert_eq!(count.unwrap(), expected.len());
            // Keys are sorted: two writers lock the rows they share in the same order.
            prop_assert_eq!(rows.rows, expected);
        }

        #[test]
        fn appended_rows_are_all_there_in_order(outputs in outputs()) {
            let mut rows = Numbers::default();
            let expected: Vec<Vec<i64>> = outputs
                .iter()
                .flatten()
                .filter(|row| row.1 % 5 != 0)
                .map(|row| vec![row.0.into(), row.1, row.2])
                .collect();
            let append = Table::new("t")
                .int8("key", |row: &Row| row.0.into())
                .int8("last", |row| row.1)
                .int8("sum", |row| row.2)
                .when(|row| row.1 % 5 != 0);
            encode(&append, &[], &batch(outputs), &mut rows).unwrap();
            prop_assert_eq!(rows.rows, expected);
        }
    }
}
