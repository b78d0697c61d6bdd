//! One value on its way into a column.

use std::fmt;

use chrono::{DateTime, Utc};
use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::Value;
use uuid::Uuid;

/// The SQL type a column is written as.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// `boolean`
    Bool,
    /// `integer`, 32 bits
    Int4,
    /// `bigint`, 64 bits
    Int8,
    /// `double precision`
    Float8,
    /// `numeric`
    Numeric,
    /// `text`
    Text,
    /// `bytea`
    Bytea,
    /// `timestamp with time zone`, stored to the microsecond
    Timestamptz,
    /// `uuid`
    Uuid,
    /// `jsonb`
    Jsonb,
    /// `boolean[]`
    BoolArray,
    /// `integer[]`
    Int4Array,
    /// `bigint[]`
    Int8Array,
    /// `double precision[]`
    Float8Array,
    /// `text[]`
    TextArray,
}

impl Kind {
    /// The SQL name as PostgreSQL writes it; it goes into generated SQL and into messages.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Int4 => "integer",
            Self::Int8 => "bigint",
            Self::Float8 => "double precision",
            Self::Numeric => "numeric",
            Self::Text => "text",
            Self::Bytea => "bytea",
            Self::Timestamptz => "timestamp with time zone",
            Self::Uuid => "uuid",
            Self::Jsonb => "jsonb",
            Self::BoolArray => "boolean[]",
            Self::Int4Array => "integer[]",
            Self::Int8Array => "bigint[]",
            Self::Float8Array => "double precision[]",
            Self::TextArray => "text[]",
        }
    }

    /// Whether equal values always have equal keys, so that rows can be told apart by the client.
    pub fn can_be_key(self) -> bool {
        matches!(
            self,
            Self::Bool
                | Self::Int4
                | Self::Int8
                | Self::Float8
                | Self::Numeric
                | Self::Text
                | Self::Bytea
                | Self::Timestamptz
                | Self::Uuid
        )
    }

    /// Whether it is one of the array types.
    pub fn is_array(self) -> bool {
        matches!(
            self,
            Self::BoolArray
                | Self::Int4Array
                | Self::Int8Array
                | Self::Float8Array
                | Self::TextArray
        )
    }
}

/// One value, borrowed from the user's result.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum Cell<'a> {
    /// NULL
    Null,
    /// For [`Kind::Bool`].
    Bool(bool),
    /// For [`Kind::Int4`].
    Int4(i32),
    /// For [`Kind::Int8`].
    Int8(i64),
    /// For [`Kind::Float8`].
    Float8(f64),
    /// For [`Kind::Numeric`].
    Numeric(Decimal),
    /// For [`Kind::Text`].
    Text(&'a str),
    /// For [`Kind::Bytea`].
    Bytea(&'a [u8]),
    /// For [`Kind::Timestamptz`].
    Timestamptz(DateTime<Utc>),
    /// For [`Kind::Uuid`].
    Uuid(Uuid),
    /// For [`Kind::Jsonb`].
    Jsonb(&'a Value),
    /// For [`Kind::BoolArray`].
    BoolArray(&'a [bool]),
    /// For [`Kind::Int4Array`].
    Int4Array(&'a [i32]),
    /// For [`Kind::Int8Array`].
    Int8Array(&'a [i64]),
    /// For [`Kind::Float8Array`].
    Float8Array(&'a [f64]),
    /// For [`Kind::TextArray`].
    TextArray(&'a [String]),
}

/// Why a value can be in no row of its table. It says what is wrong, never the value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadCell(String);

impl BadCell {
    /// A value with this problem.
    pub fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
}

impl fmt::Display for BadCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadCell {}

/// What the real column takes, as far as it is known: a value beyond it is refused before it is
/// sent, and the refusal names its record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Limit {
    /// NULL is refused.
    pub not_null: bool,
    /// The most characters of text.
    pub chars_max: Option<usize>,
    /// Precision and scale of a numeric: digits in all, digits behind the point.
    pub numeric: Option<(u32, u32)>,
}

impl Limit {
    /// Checks what no database takes and what this column is known to refuse.
    ///
    /// # Errors
    /// The problem in words.
    pub fn check(&self, cell: &Cell<'_>) -> Result<(), BadCell> {
        match cell {
            Cell::Null if self.not_null => Err(BadCell::new("NULL in a NOT NULL column")),
            Cell::Text(text) => self.check_text(text),
            Cell::TextArray(texts) => texts.iter().try_for_each(|text| self.check_text(text)),
            Cell::Numeric(value) => self.check_numeric(value),
            _ => Ok(()),
        }
    }

    /// What the column keeps of a value that it takes: keys are compared as they are stored.
    pub(crate) fn stored<'a>(&self, cell: Cell<'a>) -> Cell<'a> {
        match (cell, self.numeric, self.chars_max) {
            (Cell::Numeric(value), Some((_, scale)), _) => Cell::Numeric(rounded(value, scale)),
            // What is beyond the limit is spaces: anything else was refused.
            (Cell::Text(text), _, Some(max)) => {
                let end = text.char_indices().nth(max).map_or(text.len(), |(end, _)| end);
                Cell::Text(&text[..end])
            }
            _ => cell,
        }
    }

    fn check_text(&self, text: &str) -> Result<(), BadCell> {
        if text.as_bytes().contains(&0) {
            return Err(BadCell::new("a NUL character in text"));
        }
        match self.chars_max {
            // Bytes bound characters from above: the count is needed for long texts only.
            Some(max) if text.len() > max && text.trim_end_matches(' ').chars().count() > max => {
                Err(BadCell::new(format!("text longer than {max} characters")))
            }
            _ => Ok(()),
        }
    }

    fn check_numeric(&self, value: &Decimal) -> Result<(), BadCell> {
        let Some((precision, scale)) = self.numeric else {
            return Ok(());
        };
        let whole_digits_max = precision.saturating_sub(scale);
        // 10^29 is beyond every Decimal.
        let too_large = whole_digits_max < 29
            && rounded(*value, scale).abs().trunc()
                >= Decimal::from_i128_with_scale(10_i128.pow(whole_digits_max), 0);
        if too_large {
            return Err(BadCell::new(format!(
                "a number out of range for numeric({precision},{scale})"
            )));
        }
        Ok(())
    }
}

/// As the database rounds.
fn rounded(value: Decimal, scale: u32) -> Decimal {
    value.round_dp_with_strategy(scale.min(28), RoundingStrategy::MidpointAwayFromZero)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(precision: u32, scale: u32, value: &str) -> bool {
        let limit = Limit { numeric: Some((precision, scale)), ..Limit::default() };
        limit.check(&Cell::Numeric(value.parse().unwrap())).is_ok()
    }

    #[test]
    fn a_numeric_is_out_of_range_after_rounding_as_the_database_rounds() {
        assert!(numeric(4, 2, "99.99"));
        assert!(numeric(4, 2, "-99.994"));
        assert!(!numeric(4, 2, "99.995"));
        assert!(!numeric(4, 2, "100"));
        assert!(numeric(2, 2, "0.99"));
        assert!(!numeric(2, 2, "1"));
        assert!(numeric(28, 0, "9999999999999999999999999999"));
        assert!(!numeric(28, 0, "10000000000000000000000000000"));
        assert!(numeric(1000, 0, &Decimal::MAX.to_string()));
    }

    #[test]
    fn trailing_spaces_do_not_make_a_text_too_long_because_the_database_cuts_them() {
        let limit = Limit { chars_max: Some(3), ..Limit::default() };
        assert!(limit.check(&Cell::Text("äöü")).is_ok());
        assert!(limit.check(&Cell::Text("abc  ")).is_ok());
        assert!(limit.check(&Cell::Text("abcd")).is_err());
    }

    #[test]
    fn a_nul_in_text_is_refused_before_it_is_sent() {
        let limit = Limit::default();
        assert!(limit.check(&Cell::Text("a\0b")).is_err());
        assert!(limit.check(&Cell::TextArray(&["ok".into(), "\0".into()])).is_err());
    }
}
