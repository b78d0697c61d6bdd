//! Cells as SQLite stores them.

use std::sync::Arc;

use chrono::SecondsFormat;
use serde_json::Value as Json;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments};
use tidegate_sql::{BadCell, Cell, Kind, RowWriter};

/// How SQLite's rules read the declared type of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    /// <https://www.sqlite.org/datatype3.html#determination_of_column_affinity>
    pub(crate) fn of(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || declared.is_empty() {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }
}

/// What a column of this affinity does with values of this kind: `None` if it takes them as they
/// are, else what to declare instead. SQLite converts silently, and what it converts is lost.
pub(crate) fn refuses(kind: Kind, affinity: Affinity) -> Option<&'static str> {
    use Affinity::{Blob, Integer, Numeric, Real, Text};
    let (takes, instead): (&[Affinity], _) = match kind {
        Kind::Bool | Kind::Int4 | Kind::Int8 => (&[Integer, Numeric, Blob], "declare it INTEGER"),
        Kind::Float8 => (&[Real, Numeric, Blob], "declare it REAL"),
        Kind::Text => (&[Text, Blob], "declare it TEXT"),
        Kind::Bytea => (&[Blob, Text, Integer, Real, Numeric], ""),
        Kind::Timestamptz => (&[Text, Integer, Numeric, Blob], "declare it TEXT or INTEGER"),
        Kind::Uuid => (&[Text, Blob], "declare it TEXT or BLOB"),
        // Numeric text would become a float, JSON numbers too.
        _ => (&[Text, Blob], "declare it TEXT"),
    };
    (!takes.contains(&affinity)).then_some(instead)
}

/// A value ready to be bound.
#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Value {
    /// Any text that may be missing.
    pub(crate) fn text(text: Option<&str>) -> Self {
        text.map_or(Self::Null, |text| Self::Text(text.to_owned()))
    }

    /// Any bytes that may be missing.
    pub(crate) fn blob(bytes: Option<&[u8]>) -> Self {
        bytes.map_or(Self::Null, |bytes| Self::Blob(bytes.to_vec()))
    }

    /// Any number that may be missing.
    pub(crate) fn int(number: Option<i64>) -> Self {
        number.map_or(Self::Null, Self::Int)
    }

    /// Hands the value over to a query.
    pub(crate) fn bind(
        self,
        query: Query<'static, Sqlite, SqliteArguments>,
    ) -> Query<'static, Sqlite, SqliteArguments> {
        match self {
            Self::Null => query.bind(None::<i64>),
            Self::Int(value) => query.bind(value),
            Self::Real(value) => query.bind(value),
            Self::Text(value) => query.bind(value),
            Self::Blob(value) => query.bind(value),
        }
    }
}

/// Collects the rows of one table, row after row.
#[derive(Debug)]
pub(crate) struct Rows {
    affinities: Arc<[Affinity]>,
    pub(crate) values: Vec<Value>,
}

impl Rows {
    pub(crate) fn new(affinities: Arc<[Affinity]>) -> Self {
        let values = Vec::new();
        Self { affinities, values }
    }
}

impl RowWriter for Rows {
    fn cell(&mut self, column: usize, cell: Cell<'_>) -> Result<(), BadCell> {
        self.values.push(value(cell, self.affinities[column])?);
        Ok(())
    }

    fn end_row(&mut self) {}
}

fn value(cell: Cell<'_>, affinity: Affinity) -> Result<Value, BadCell> {
    Ok(match cell {
        Cell::Null => Value::Null,
        Cell::Bool(value) => Value::Int(value.into()),
        Cell::Int4(value) => Value::Int(value.into()),
        Cell::Int8(value) => Value::Int(value),
        // SQLite would store NULL in its place.
        Cell::Float8(value) if value.is_nan() => {
            return Err(BadCell::new("NaN, which SQLite cannot store"));
        }
        Cell::Float8(value) => Value::Real(value),
        Cell::Numeric(value) => Value::Text(value.to_string()),
        Cell::Text(value) => Value::Text(value.to_owned()),
        Cell::Bytea(value) => Value::Blob(value.to_vec()),
        Cell::Timestamptz(value) if affinity == Affinity::Integer => {
            Value::Int(value.timestamp_micros())
        }
        Cell::Timestamptz(value) => Value::Text(value.to_rfc3339_opts(SecondsFormat::Micros, true)),
        Cell::Uuid(value) if affinity == Affinity::Blob => Value::Blob(value.as_bytes().to_vec()),
        Cell::Uuid(value) => Value::Text(value.hyphenated().to_string()),
        Cell::Jsonb(value) => Value::Text(value.to_string()),
        Cell::BoolArray(values) => json(values),
        Cell::Int4Array(values) => json(values),
        Cell::Int8Array(values) => json(values),
        Cell::Float8Array(values) if values.iter().any(|value| !value.is_finite()) => {
            return Err(BadCell::new("an infinite number or NaN, which JSON cannot hold"));
        }
        Cell::Float8Array(values) => json(values),
        Cell::TextArray(values) => json(values),
        _ => return Err(BadCell::new("a type that SQLite cannot store")),
    })
}

fn json<T>(values: &[T]) -> Value
where
    T: Clone + Into<Json>,
{
    let array: Json = values.iter().cloned().map(Into::into).collect();
    Value::Text(array.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_have_the_affinity_that_the_manual_gives_them() {
        for (declared, affinity) in [
            ("INTEGER", Affinity::Integer),
            ("bigint", Affinity::Integer),
            ("VARCHAR(20)", Affinity::Text),
            ("", Affinity::Blob),
            ("double precision", Affinity::Real),
            ("DECIMAL(10,5)", Affinity::Numeric),
            ("DATETIME", Affinity::Numeric),
        ] {
            assert_eq!(Affinity::of(declared), affinity, "{declared}");
        }
    }

    #[test]
    fn a_column_that_would_convert_silently_is_refused() {
        assert_eq!(refuses(Kind::Numeric, Affinity::Numeric), Some("declare it TEXT"));
        assert_eq!(refuses(Kind::Int8, Affinity::Text), Some("declare it INTEGER"));
        assert_eq!(refuses(Kind::Int8, Affinity::Real), Some("declare it INTEGER"));
        assert_eq!(refuses(Kind::Text, Affinity::Numeric), Some("declare it TEXT"));
        assert_eq!(refuses(Kind::Timestamptz, Affinity::Numeric), None);
    }
}
