//! Tables of results as whoever checks a pipeline from outside reads them back: by the coordinates
//! that [`lineage`](crate::Table::lineage) writes. Text comes out; each connector runs it.

use tidegate::Error;
use tidegate::record::{Lineage, Offset};

use crate::name::{BadName, TableName, quote};
use crate::table::LINEAGE;

/// Which table is read back, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadTable {
    name: TableName,
    label: String,
    lineage: [String; 4],
    ignored: Vec<String>,
    order: Option<String>,
    contents: Contents,
}

/// Whether more than its coordinates is read of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Contents {
    /// No.
    #[default]
    LeftOut,
    /// All columns that neither hold coordinates nor are filled by the database itself nor are
    /// [`ignore`d](ReadTable::ignore), as one text that is the same for equal values.
    Read,
}

/// A row that was read back.
pub struct ReadRow<'a> {
    /// What it says it was made from; `None` if it does not say.
    pub lineage: Option<Lineage<'a>>,
    /// Its other columns, if they were asked for.
    pub contents: Option<&'a str>,
}

impl std::fmt::Debug for ReadRow<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Where it came from, not what it holds.
        write!(f, "ReadRow({:?})", self.lineage)
    }
}

/// A column of the real table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RealColumn {
    /// Its name.
    pub name: String,
    /// Whether the database makes its value and takes none.
    pub generated: bool,
}

/// How a database writes what is read: the text of a column as it is selected.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// A quoted column as text.
    pub text: fn(&str) -> String,
    /// A quoted column as a whole number of 64 bits.
    pub number: fn(&str) -> String,
    /// Quoted columns as one text that is the same for equal values.
    pub together: fn(&[String]) -> String,
}

impl ReadTable {
    /// The table of this name, with the columns of [`lineage`](crate::Table::lineage).
    ///
    /// # Errors
    /// If it is no name of a table.
    pub fn new(name: &str) -> Result<Self, BadName> {
        Ok(Self {
            name: TableName::parse(name)?,
            label: name.to_owned(),
            lineage: LINEAGE.map(str::to_owned),
            ignored: Vec::new(),
            order: None,
            contents: Contents::LeftOut,
        })
    }

    /// The columns of [`lineage_as`](crate::Table::lineage_as), in the same order.
    pub fn set_lineage(&mut self, names: [String; 4]) {
        self.lineage = names;
    }

    /// Columns that are left out of [`Contents::Read`].
    pub fn ignore(&mut self, names: &[String]) {
        self.ignored = names.to_vec();
    }

    /// The column that counts as rows come: they are read in its order. Without it they come in
    /// any order.
    pub fn order_by(&mut self, column: &str) {
        self.order = Some(column.to_owned());
    }

    /// Whether rows are read in the order in which they came.
    pub fn is_ordered(&self) -> bool {
        self.order.is_some()
    }

    /// How much of a row is read.
    pub fn set_contents(&mut self, contents: Contents) {
        self.contents = contents;
    }

    /// The name, quoted.
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// The name as it was written.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The columns of [`Contents::Read`], sorted by name.
    fn others(&self, real: &[RealColumn]) -> Vec<String> {
        let compared = |column: &&RealColumn| {
            let name = &column.name;
            !column.generated && !self.lineage.contains(name) && !self.ignored.contains(name)
        };
        let mut names: Vec<String> =
            real.iter().filter(compared).map(|real| real.name.clone()).collect();
        names.sort();
        names
    }

    /// Columns as one text.
    fn together(&self, columns: &[String], dialect: &Dialect) -> Result<String, Error> {
        let quoted: Result<Vec<String>, Error> =
            columns.iter().map(|column| self.quoted(column)).collect();
        Ok((dialect.together)(&quoted?))
    }

    fn quoted(&self, column: &str) -> Result<String, Error> {
        quote(column).map_err(|error| self.refuse(error.to_string()))
    }

    fn refuse(&self, problem: String) -> Error {
        Error::configuration(&format!("table {}", self.label), problem)
    }

    /// The statement that reads the rows: the four columns of lineage, then the contents or NULL.
    ///
    /// # Errors
    /// If the table has no columns of lineage, or none of a name that was given.
    pub fn select(&self, real: &[RealColumn], dialect: &Dialect) -> Result<String, Error> {
        let is_there = |name: &String| real.iter().any(|column| column.name == *name);
        if let Some(missing) = self.lineage.iter().find(|name| !is_there(name)) {
            return Err(self
                .refuse(format!(
                    "has no column {missing:?}: its rows do not say what they were made from"
                ))
                .remedy(
                    "add the columns of `Table::lineage()` to it, and `.lineage()` to its \
                     description in the program; or give their names, if they have others",
                ));
        }
        let given = self.ignored.iter().chain(&self.order);
        // Each database has a name of its own for the row's number.
        let special = |name: &&String| ["rowid", "ctid"].contains(&name.as_str());
        if let Some(missing) = given.filter(|name| !special(name)).find(|name| !is_there(name)) {
            return Err(self.refuse(format!("has no column {missing:?}")));
        }
        let [topic, partition, offset, index] = &self.lineage;
        let contents = match self.contents {
            Contents::LeftOut => "NULL".to_owned(),
            Contents::Read => self.together(&self.others(real), dialect)?,
        };
        let order = match &self.order {
            None => String::new(),
            Some(column) => format!(" ORDER BY {}", self.quoted(column)?),
        };
        Ok(format!(
            "SELECT {}, {}, {}, {}, {contents} FROM {}{order}",
            (dialect.text)(&self.quoted(topic)?),
            (dialect.number)(&self.quoted(partition)?),
            (dialect.number)(&self.quoted(offset)?),
            (dialect.number)(&self.quoted(index)?),
            self.name,
        ))
    }

    /// The statement that reads single columns of the rows with one lineage, whose parts are four
    /// parameters named by `parameter`; and the names of the columns.
    ///
    /// # Errors
    /// If a name of a column cannot be quoted.
    pub fn select_columns(
        &self,
        real: &[RealColumn],
        dialect: &Dialect,
        parameter: impl Fn(usize) -> String,
    ) -> Result<(String, Vec<String>), Error> {
        let columns = self.others(real);
        let mut conditions = Vec::new();
        for (number, name) in self.lineage.iter().enumerate() {
            conditions.push(format!("{} = {}", self.quoted(name)?, parameter(number + 1)));
        }
        let alone = |column| self.together(std::slice::from_ref(column), dialect);
        let texts: Vec<String> = columns.iter().map(alone).collect::<Result<_, _>>()?;
        let text = format!(
            "SELECT {} FROM {} WHERE {} LIMIT 1",
            if texts.is_empty() { "NULL".to_owned() } else { texts.join(", ") },
            self.name,
            conditions.join(" AND ")
        );
        Ok((text, columns))
    }
}

/// The lineage of a row, if it has one.
pub fn row_lineage(
    topic: Option<&str>,
    partition: Option<i64>,
    offset: Option<i64>,
    index: Option<i64>,
) -> Option<Lineage<'_>> {
    let partition = i32::try_from(partition?).ok().filter(|partition| *partition >= 0)?;
    let offset = Offset::try_new(offset?)?;
    Some(Lineage { topic: topic?, partition, offset, index: u32::try_from(index?).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Dialect = Dialect {
        text: |column| column.to_owned(),
        number: |column| column.to_owned(),
        together: |columns| format!("({})", columns.join("+")),
    };

    fn real(names: &[&str]) -> Vec<RealColumn> {
        let column = |name: &&str| RealColumn {
            name: name.trim_start_matches('!').to_owned(),
            generated: name.starts_with('!'),
        };
        names.iter().map(column).collect()
    }

    #[test]
    fn rows_are_read_by_their_lineage_and_what_else_they_hold_only_if_asked() {
        let columns = real(&[
            "b",
            "source_topic",
            "source_partition",
            "a",
            "source_offset",
            "source_index",
            "!g",
        ]);
        let mut table = ReadTable::new("geo.quakes").expect("a name");
        let plain = r#"SELECT "source_topic", "source_partition", "source_offset", "source_index""#;
        assert_eq!(
            table.select(&columns, &PLAIN).expect("it fits"),
            format!(r#"{plain}, NULL FROM "geo"."quakes""#)
        );
        table.set_contents(Contents::Read);
        table.order_by("a");
        assert_eq!(
            table.select(&columns, &PLAIN).expect("it fits"),
            format!(r#"{plain}, ("a"+"b") FROM "geo"."quakes" ORDER BY "a""#),
            "by name, so that two tables with the same columns in another order compare"
        );
        table.ignore(&["b".to_owned()]);
        let (text, names) =
            table.select_columns(&columns, &PLAIN, |n| format!("${n}")).expect("it fits");
        assert!(
            text.starts_with(r#"SELECT ("a") FROM"#) && text.contains(r#""source_index" = $4"#)
        );
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn a_table_without_lineage_is_refused_with_the_remedy() {
        let table = ReadTable::new("quakes").expect("a name");
        let problem = table.select(&real(&["source_topic", "x"]), &PLAIN).unwrap_err();
        assert!(problem.is_configuration());
        let problem = problem.to_string();
        assert!(
            problem.starts_with("table quakes: has no column \"source_partition\""),
            "{problem}"
        );
        assert!(problem.contains(".lineage()"), "{problem}");
        let mut table = ReadTable::new("t").expect("a name");
        table.set_lineage(["a", "b", "c", "d"].map(str::to_owned));
        assert!(table.select(&real(&["a", "b", "c", "d"]), &PLAIN).is_ok());
        table.ignore(&["nobody".to_owned()]);
        let problem = table.select(&real(&["a", "b", "c", "d"]), &PLAIN).unwrap_err().to_string();
        assert!(problem.contains("nobody"), "{problem}");
    }

    #[test]
    fn a_row_with_a_null_or_a_negative_number_says_nothing() {
        let whole = row_lineage(Some("t"), Some(1), Some(2), Some(3)).expect("lineage");
        assert_eq!(whole.to_string(), "t/1/2/3");
        for [partition, offset, index] in [[-1, 2, 3], [1, -2, 3], [1, 2, -3], [1 << 40, 2, 3]] {
            assert_eq!(row_lineage(Some("t"), Some(partition), Some(offset), Some(index)), None);
        }
        assert_eq!(row_lineage(None, Some(1), Some(2), Some(3)), None);
        assert_eq!(row_lineage(Some("t"), Some(1), None, Some(3)), None);
    }
}
