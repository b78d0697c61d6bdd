//! The methods of [`Table`] that name a column: one per SQL type and way to hand the value over.
//!
//! They differ in nothing but types, so two macros write them.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::Value;
use uuid::Uuid;

use crate::cell::{Cell, Kind};
use crate::table::{Role, Table};

/// Columns whose values are made or copied by the closure.
macro_rules! by_value {
    ($($sql:literal $kind:ident $type:ty: $name:ident $opt:ident, |$value:ident| $cell:expr;)*) => {
        impl<O: 'static> Table<O> {
            $(
                #[doc = concat!("A column of type `", $sql, "`, never NULL.")]
                #[must_use]
                pub fn $name(
                    self,
                    name: &str,
                    value: impl Fn(&O) -> $type + Send + Sync + 'static,
                ) -> Self {
                    self.column(name, Kind::$kind, move |output, cell| {
                        let $value = value(output.value);
                        cell($cell);
                    })
                }

                #[doc = concat!("A column of type `", $sql, "`; `None` is NULL.")]
                #[must_use]
                pub fn $opt(
                    self,
                    name: &str,
                    value: impl Fn(&O) -> Option<$type> + Send + Sync + 'static,
                ) -> Self {
                    self.column(name, Kind::$kind, move |output, cell| match value(output.value) {
                        Some($value) => cell($cell),
                        None => cell(Cell::Null),
                    })
                    .mark(true, Role::Replace)
                }
            )*
        }
    };
}

by_value! {
    "boolean" Bool bool: bool bool_opt, |value| Cell::Bool(value);
    "integer" Int4 i32: int4 int4_opt, |value| Cell::Int4(value);
    "bigint" Int8 i64: int8 int8_opt, |value| Cell::Int8(value);
    "double precision" Float8 f64: float8 float8_opt, |value| Cell::Float8(value);
    "numeric" Numeric Decimal: numeric numeric_opt, |value| Cell::Numeric(value);
    "timestamp with time zone" Timestamptz DateTime<Utc>: timestamptz timestamptz_opt, |value| Cell::Timestamptz(value);
    "uuid" Uuid Uuid: uuid uuid_opt, |value| Cell::Uuid(value);
    "text" Text String: text_owned text_owned_opt, |value| Cell::Text(&value);
    "bytea" Bytea Vec<u8>: bytea_owned bytea_owned_opt, |value| Cell::Bytea(&value);
    "jsonb" Jsonb Value: jsonb_owned jsonb_owned_opt, |value| Cell::Jsonb(&value);
}

/// Columns whose values are borrowed from the result.
macro_rules! by_reference {
    ($($sql:literal $kind:ident $type:ty: $name:ident $opt:ident;)*) => {
        impl<O: 'static> Table<O> {
            $(
                #[doc = concat!("A column of type `", $sql, "`, borrowed from the result, never NULL.")]
                #[must_use]
                pub fn $name(
                    self,
                    name: &str,
                    value: impl for<'a> Fn(&'a O) -> &'a $type + Send + Sync + 'static,
                ) -> Self {
                    self.column(name, Kind::$kind, move |output, cell| {
                        cell(Cell::$kind(value(output.value)));
                    })
                }

                #[doc = concat!("A column of type `", $sql, "`, borrowed from the result; `None` is NULL.")]
                #[must_use]
                pub fn $opt(
                    self,
                    name: &str,
                    value: impl for<'a> Fn(&'a O) -> Option<&'a $type> + Send + Sync + 'static,
                ) -> Self {
                    self.column(name, Kind::$kind, move |output, cell| {
                        cell(value(output.value).map_or(Cell::Null, |value| Cell::$kind(value)));
                    })
                    .mark(true, Role::Replace)
                }
            )*
        }
    };
}

by_reference! {
    "text" Text str: text text_opt;
    "bytea" Bytea [u8]: bytea bytea_opt;
    "jsonb" Jsonb Value: jsonb jsonb_opt;
    "boolean[]" BoolArray [bool]: bool_array bool_array_opt;
    "integer[]" Int4Array [i32]: int4_array int4_array_opt;
    "bigint[]" Int8Array [i64]: int8_array int8_array_opt;
    "double precision[]" Float8Array [f64]: float8_array float8_array_opt;
    "text[]" TextArray [String]: text_array text_array_opt;
}

/// Totals: columns that an upsert adds to.
impl<O: 'static> Table<O> {
    /// A total of type `bigint`: what each result adds to its row. A sum beyond 64 bits rejects
    /// the record.
    #[must_use]
    pub fn int8_add(self, name: &str, value: impl Fn(&O) -> i64 + Send + Sync + 'static) -> Self {
        self.int8(name, value).mark(false, Role::Add)
    }

    /// A total of type `double precision`: what each result adds to its row. The order of
    /// additions decides the last digits, so a total that must balance belongs in
    /// [`int8_add`](Self::int8_add) or [`numeric_add`](Self::numeric_add).
    #[must_use]
    pub fn float8_add(self, name: &str, value: impl Fn(&O) -> f64 + Send + Sync + 'static) -> Self {
        self.float8(name, value).mark(false, Role::Add)
    }

    /// A total of type `numeric`: what each result adds to its row, exactly. SQLite has no exact
    /// decimals and refuses it.
    #[must_use]
    pub fn numeric_add(
        self,
        name: &str,
        value: impl Fn(&O) -> Decimal + Send + Sync + 'static,
    ) -> Self {
        self.numeric(name, value).mark(false, Role::Add)
    }
}
