//! Numbers and tables for people.

use std::fmt;

/// A number with its thousands set apart: `14,476,934`.
pub fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A table with aligned columns: text to the left, numbers to the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(str::to_owned).to_vec()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|at| self.rows.iter().map(|row| cell(row, at).chars().count()).max().unwrap_or(0))
            .collect();
        let numeric: Vec<bool> = (0..columns)
            .map(|at| self.rows.iter().skip(1).all(|row| is_number(&cell(row, at))))
            .collect();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (at, (width, right)) in widths.iter().zip(&numeric).enumerate() {
                let text = cell(row, at);
                let text =
                    if *right { format!("{text:>width$}") } else { format!("{text:<width$}") };
                line = line + "  " + &text;
            }
            writeln!(f, "{}", line.trim_end())?;
            if index == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
                writeln!(f, "  {}", rules.join("  "))?;
            }
        }
        Ok(())
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || ",.".contains(c))
}

/// Numbers that were found, some of which must be what was expected.
#[derive(Clone, Debug, Default)]
pub struct Checks(Vec<Check>);

#[derive(Clone, Debug)]
struct Check {
    label: &'static str,
    found: String,
    agrees: Option<bool>,
    note: String,
}

impl Checks {
    /// A number to be told.
    #[must_use]
    pub fn fact(mut self, label: &'static str, number: i64) -> Self {
        let (found, note) = (thousands(number), String::new());
        self.0.push(Check { label, found, agrees: None, note });
        self
    }

    /// A number that must be this one.
    #[must_use]
    pub fn equal(self, label: &'static str, number: i64, expected: i64) -> Self {
        self.equal_text(label, thousands(number), thousands(expected))
    }

    /// A text that must be this one.
    #[must_use]
    pub fn equal_text(mut self, label: &'static str, found: String, expected: String) -> Self {
        let agrees = found == expected;
        let note = if agrees { String::new() } else { format!("{expected} expected") };
        self.0.push(Check { label, found, agrees: Some(agrees), note });
        self
    }

    /// Says something about the newest number.
    #[must_use]
    pub fn note(mut self, note: impl fmt::Display) -> Self {
        if let Some(check) = self.0.last_mut() {
            check.note = format!("{} {note}", check.note).trim().to_owned();
        }
        self
    }

    /// Whether everything is as expected.
    pub fn agree(&self) -> bool {
        self.0.iter().all(|check| check.agrees != Some(false))
    }

    /// Prints all, below this headline.
    ///
    /// # Errors
    /// If something is not as expected.
    pub fn verify(&self, headline: &str) -> anyhow::Result<()> {
        println!("{headline}\n\n{self}");
        let wrong = self.0.iter().filter(|check| check.agrees == Some(false));
        let wrong: Vec<&str> = wrong.map(|check| check.label).collect();
        anyhow::ensure!(wrong.is_empty(), "not as expected: {}", wrong.join(", "));
        Ok(())
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|check| check.found.chars().count()).max().unwrap_or(0);
        for Check { label, found, agrees, note } in &self.0 {
            let mark = match agrees {
                None => ' ',
                Some(true) => '✓',
                Some(false) => '✗',
            };
            let line = format!("  {label:<20}  {found:>width$}  {mark} {note}");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (-1234567, "-1,234,567"), (100, "100")]
        {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn a_number_that_is_not_as_expected_fails_the_whole() {
        let good = Checks::default().fact("sent", 1_000).equal("rows", 999, 999).note("of 1,000");
        assert!(good.agree() && good.verify("all").is_ok());
        assert_eq!(
            good.to_string(),
            "  sent                  1,000\n  rows                    999  ✓ of 1,000\n"
        );
        let bad = good.equal("lost", 1, 0);
        assert!(!bad.agree());
        let error = bad.verify("all").expect_err("one is wrong").to_string();
        assert_eq!(error, "not as expected: lost");
        assert!(bad.to_string().ends_with("1  ✗ 0 expected\n"), "{bad}");
    }

    #[test]
    fn numbers_stand_to_the_right_and_text_to_the_left() {
        let mut table = Table::new(["route", "flights"]);
        table.row(["LAX-PHX".to_owned(), "9".to_owned()]);
        table.row(["2001-01-01".to_owned(), "-1,000".to_owned()]);
        assert_eq!(
            table.to_string(),
            "  route       flights\n  ──────────  ───────\n  LAX-PHX           9\n  2001-01-01   -1,000\n"
        );
    }
}
