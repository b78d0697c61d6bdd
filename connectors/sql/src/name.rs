//! The one function that quotes identifiers, and names of tables.

use std::fmt;

/// PostgreSQL cuts longer identifiers silently (`NAMEDATALEN` - 1), so they are refused; the same
/// holds for SQLite, so that a program can change its sink.
const NAME_BYTES_MAX: usize = 63;

/// A name that cannot be an identifier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadName {
    name: String,
    problem: &'static str,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name {:?} {}", self.name, self.problem)
    }
}

impl std::error::Error for BadName {}

/// Quotes an identifier: whatever it holds, the result is one identifier and nothing else.
///
/// # Errors
/// If it is empty, holds a NUL or is longer than 63 bytes.
pub fn quote(name: &str) -> Result<String, BadName> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.contains('\0') {
        "holds a NUL character"
    } else if name.len() > NAME_BYTES_MAX {
        "is longer than 63 bytes"
    } else {
        return Ok(format!("\"{}\"", name.replace('"', "\"\"")));
    };
    Err(BadName { name: name.chars().take(80).collect(), problem })
}

/// The name of a table with an optional schema. Displayed quoted, ready for SQL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableName {
    schema: Option<String>,
    table: String,
}

impl TableName {
    /// Parses `table` or `schema.table`. A part that holds a dot itself is written in double
    /// quotes, as in SQL; letters keep their case either way.
    ///
    /// # Errors
    /// If a part is not a usable identifier or there are more than two parts.
    pub fn parse(name: &str) -> Result<Self, BadName> {
        let bad = |problem| BadName { name: name.chars().take(80).collect(), problem };
        let mut parts = split(name).ok_or_else(|| bad("has an unfinished quotation"))?;
        let table = parts.pop().unwrap_or_default();
        let schema = parts.pop();
        if !parts.is_empty() {
            return Err(bad("has more than a schema and a table"));
        }
        quote(&table)?;
        if let Some(schema) = &schema {
            quote(schema)?;
        }
        Ok(Self { schema, table })
    }

    /// The schema, if one was named.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The table without its schema.
    pub fn table(&self) -> &str {
        &self.table
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |part: &str| quote(part).expect("parts were checked when the name was parsed");
        if let Some(schema) = &self.schema {
            write!(f, "{}.", quoted(schema))?;
        }
        f.write_str(&quoted(&self.table))
    }
}

/// Splits at dots outside double quotes.
fn split(name: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut characters = name.chars().peekable();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        let part = parts.last_mut().expect("there is always a last part");
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                part.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if part.is_empty() => quoted = true,
            '.' if !quoted => parts.push(String::new()),
            other => part.push(other),
        }
    }
    (!quoted).then_some(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads one quoted identifier as a database does and returns it with what follows.
    fn read(sql: &str) -> Option<(String, &str)> {
        let mut name = String::new();
        let mut rest = sql.strip_prefix('"')?;
        loop {
            let at = rest.find('"')?;
            name.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            match rest.strip_prefix('"') {
                Some(more) => {
                    name.push('"');
                    rest = more;
                }
                None => return Some((name, rest)),
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_a_name_holds_it_stays_one_identifier(name in "\\PC{0,20}|[\"'; \\\\\\-a\0]{0,70}") {
            match quote(&name) {
                Ok(quoted) => prop_assert_eq!(read(&quoted), Some((name, ""))),
                Err(_) => prop_assert!(name.is_empty() || name.contains('\0') || name.len() > 63),
            }
        }

        #[test]
        fn a_quoted_table_name_reads_back(schema in "[a-zA-Z.\" ;]{1,9}", table in "[a-zA-Z.\" ;]{1,9}") {
            let written = format!("{}.{}", quote(&schema).unwrap(), quote(&table).unwrap());
            let name = TableName::parse(&written).unwrap();
            prop_assert_eq!(name.schema(), Some(&*schema));
            prop_assert_eq!(name.table(), &*table);
            prop_assert_eq!(name.to_string(), written);
        }
    }

    #[test]
    fn names_no_database_would_take_are_refused() {
        for bad in ["", "a..b", "a.b.c", ".t", "t.", "a\0b", "\"open", &"x".repeat(64)] {
            assert!(TableName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn case_and_reserved_words_are_kept() {
        let name = TableName::parse("Sales.Order").unwrap();
        assert_eq!(name.to_string(), r#""Sales"."Order""#);
    }
}
