//! A table that results are written to, and what it is made of.

use std::fmt;
use std::sync::Arc;

use tidegate::Error;
use tidegate::batch::Output;

use crate::cell::{Cell, Kind};
use crate::name::{TableName, quote};

/// Takes one value out of a result and hands it on, borrowed.
pub(crate) type Extract<O> = Arc<dyn Fn(&Output<'_, O>, &mut dyn FnMut(Cell<'_>)) + Send + Sync>;

/// The columns of [`Table::lineage`].
pub(crate) const LINEAGE: [&str; 4] =
    ["source_topic", "source_partition", "source_offset", "source_index"];

type Filter<O> = Arc<dyn Fn(&O) -> bool + Send + Sync>;

/// What an upsert does with a column when the row exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The last value wins.
    Replace,
    /// The value is added to what is stored: a total.
    Add,
}

/// One column of a [`Table`].
pub struct Column<O> {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) nullable: bool,
    pub(crate) role: Role,
    pub(crate) extract: Extract<O>,
}

impl<O> Column<O> {
    /// The column's name, unquoted.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type it is written as.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What an upsert does with it.
    pub fn role(&self) -> Role {
        self.role
    }
}

impl<O> Clone for Column<O> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            kind: self.kind,
            nullable: self.nullable,
            role: self.role,
            extract: Arc::clone(&self.extract),
        }
    }
}

impl<O> fmt::Debug for Column<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.kind.sql())
    }
}

/// A table and how a result of type `O` becomes a row of it.
///
/// Columns are named with their SQL type and a closure; what is not named keeps the default of the
/// database. Without [`upsert_on`](Self::upsert_on) rows are appended. The real table is compared
/// with this description when the pipeline starts, before anything is consumed; it is never
/// created or altered.
///
/// Closures that borrow clone nothing on the way to the wire. `_opt` columns take `Option` and
/// write NULL for `None`; `_owned` columns take values that are made in the closure.
pub struct Table<O> {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column<O>>,
    pub(crate) key: Vec<String>,
    pub(crate) filter: Option<Filter<O>>,
}

impl<O> Table<O> {
    /// A table named `table` or `schema.table`; a part that holds a dot is written in double
    /// quotes. Names keep their case. A name that cannot be one is reported when the pipeline
    /// starts.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), columns: Vec::new(), key: Vec::new(), filter: None }
    }

    /// Makes each write an upsert on these columns, which need a unique index: an existing row is
    /// replaced, the last result wins; columns made by an `_add` method are added up instead,
    /// inside the batch and in the table. With only key columns an existing row is left alone.
    #[must_use]
    pub fn upsert_on<'n>(mut self, columns: impl IntoIterator<Item = &'n str>) -> Self {
        self.key = columns.into_iter().map(str::to_owned).collect();
        self
    }

    /// Takes only results for which this holds. Several tables may take the same result.
    #[must_use]
    pub fn when(mut self, filter: impl Fn(&O) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(filter));
        self
    }

    /// Adds four columns that say where each row came from, so that results can be audited by
    /// coordinates: `source_topic text`, `source_partition integer`, `source_offset bigint` and
    /// `source_index integer` (the number of the result among its record's results, from 0).
    #[must_use]
    pub fn lineage(self) -> Self {
        self.lineage_as(LINEAGE)
    }

    /// As [`lineage`](Self::lineage) with other names, in the same order.
    #[must_use]
    pub fn lineage_as(self, [topic, partition, offset, index]: [&str; 4]) -> Self {
        self.column(topic, Kind::Text, |output, cell| {
            cell(Cell::Text(output.record.partition.topic().as_str()));
        })
        .column(partition, Kind::Int4, |output, cell| {
            cell(Cell::Int4(output.record.partition.index()));
        })
        .column(offset, Kind::Int8, |output, cell| {
            cell(Cell::Int8(output.record.offset.get()));
        })
        .column(index, Kind::Int4, |output, cell| {
            // A record emits far fewer results than 2^31: the engine bounds them.
            cell(Cell::Int4(i32::try_from(output.index).unwrap_or(i32::MAX)));
        })
    }

    /// A NOT NULL column that takes its values through `extract`.
    pub(crate) fn column(
        mut self,
        name: &str,
        kind: Kind,
        extract: impl Fn(&Output<'_, O>, &mut dyn FnMut(Cell<'_>)) + Send + Sync + 'static,
    ) -> Self {
        self.columns.push(Column {
            name: name.to_owned(),
            kind,
            nullable: false,
            role: Role::Replace,
            extract: Arc::new(extract),
        });
        self
    }

    /// Marks the newest column.
    pub(crate) fn mark(mut self, nullable: bool, role: Role) -> Self {
        let column = self.columns.last_mut().expect("a column was just added");
        column.nullable = nullable;
        column.role = role;
        self
    }

    /// The name as given to [`Table::new`], for messages.
    pub fn label(&self) -> &str {
        &self.name
    }

    /// The checked name.
    ///
    /// # Panics
    /// If the name is not usable; [`validate`](Self::validate) tells.
    pub fn name(&self) -> TableName {
        TableName::parse(&self.name).expect("the name was checked by `validate`")
    }

    /// The columns in the order they were named.
    pub fn columns(&self) -> &[Column<O>] {
        &self.columns
    }

    /// The columns of [`upsert_on`](Self::upsert_on); empty if rows are appended.
    pub fn key(&self) -> &[String] {
        &self.key
    }

    /// Whether it takes this result.
    pub fn takes(&self, output: &O) -> bool {
        self.filter.as_ref().is_none_or(|holds| holds(output))
    }

    /// Whether existing rows are replaced or added to.
    pub fn is_upsert(&self) -> bool {
        !self.key.is_empty()
    }

    /// Checks everything that can be known without the database.
    ///
    /// # Errors
    /// A configuration error that names the table and the column.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse =
            |problem: String| Err(Error::configuration(&format!("table {}", self.name), problem));
        if let Err(error) = TableName::parse(&self.name) {
            return refuse(error.to_string());
        }
        if self.columns.is_empty() {
            return refuse(
                "has no columns; name at least one, for example `.text(\"id\", …)`".into(),
            );
        }
        for (index, column) in self.columns.iter().enumerate() {
            if let Err(error) = quote(&column.name) {
                return refuse(error.to_string());
            }
            if self.columns[..index].iter().any(|c| c.name == column.name) {
                return refuse(format!("names the column {:?} twice", column.name));
            }
            if column.role == Role::Add && self.key.is_empty() {
                return refuse(format!(
                    "adds to the column {:?} without `.upsert_on([…])`",
                    column.name
                ));
            }
        }
        self.validate_key().or_else(refuse)
    }

    fn validate_key(&self) -> Result<(), String> {
        for (index, key) in self.key.iter().enumerate() {
            let Some(column) = self.columns.iter().find(|column| column.name == *key) else {
                return Err(format!("upserts on {key:?}, which is none of its columns"));
            };
            let problem = if self.key[..index].contains(key) {
                "is named twice in `upsert_on`"
            } else if column.nullable {
                "is nullable and cannot be in `upsert_on`: NULL equals nothing"
            } else if column.role == Role::Add {
                "is added to and cannot be in `upsert_on`"
            } else if !column.kind.can_be_key() {
                "has a type that cannot be in `upsert_on`"
            } else {
                continue;
            };
            return Err(format!("the column {key:?} {problem}"));
        }
        Ok(())
    }
}

impl<O> Clone for Table<O> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            columns: self.columns.clone(),
            key: self.key.clone(),
            filter: self.filter.clone(),
        }
    }
}

impl<O> fmt::Debug for Table<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("name", &self.name)
            .field("columns", &self.columns)
            .field("upsert_on", &self.key)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(table: &Table<(i64, Option<i64>)>) -> String {
        table.validate().unwrap_err().to_string()
    }

    #[test]
    fn a_table_that_cannot_work_is_refused_by_name() {
        let table = || Table::<(i64, Option<i64>)>::new("t");
        assert!(problem(&table()).contains("table t: has no columns"));
        assert!(problem(&Table::new("a.b.c").int8("x", |o: &(i64, _)| o.0)).contains("a.b.c"));
        let one = || table().int8("a", |o| o.0);
        assert!(one().validate().is_ok());
        assert!(problem(&one().int8("a", |o| o.0)).contains("twice"));
        assert!(problem(&one().upsert_on(["b"])).contains("none of its columns"));
        assert!(problem(&one().upsert_on(["a", "a"])).contains("twice"));
        assert!(problem(&one().int8_add("n", |_| 1)).contains("without `.upsert_on"));
        let nullable = one().int8_opt("b", |o| o.1).upsert_on(["b"]);
        assert!(problem(&nullable).contains("NULL equals nothing"));
        let added = one().int8_add("n", |_| 1).upsert_on(["n"]);
        assert!(problem(&added).contains("added to"));
        assert!(problem(&table().int8("", |o| o.0)).contains("is empty"));
    }
}
