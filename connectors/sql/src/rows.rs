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
use tidegate::batch::{Batch, Output};
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
    let outputs = batch.outputs().filter(|output| table.takes(output.value));
    let mut count = 0;
    if table.is_upsert() {
        for row in merge(table, limits, outputs)? {
            let mut sums = row.sums.into_iter();
            for (index, column) in table.columns.iter().enumerate() {
                let sum = match column.role {
                    Role::Add => sums.next(),
                    Role::Replace => None,
                };
                write_cell(table, limits, rows, &row.last, (index, column), sum)?;
            }
            rows.end_row();
            count += 1;
        }
    } else {
        for output in outputs {
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
