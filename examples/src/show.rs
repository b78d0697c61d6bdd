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
    text.starts_with(|c: char| c.is_ascii_digit() || c == '-')
        && text.chars().all(|c| c.is_ascii_digit() || "-,.".contains(c))
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
    fn numbers_stand_to_the_right_and_text_to_the_left() {
        let mut table = Table::new(["route", "flights"]);
        table.row(["LAX-PHX".to_owned(), "9".to_owned()]);
        table.row(["X".to_owned(), "1,000".to_owned()]);
        assert_eq!(
            table.to_string(),
            "  route    flights\n  ───────  ───────\n  LAX-PHX        9\n  X          1,000\n"
        );
    }
}
