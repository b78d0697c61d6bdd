//! Tables in columns: words to the left, numbers to the right.

/// A cell of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Cell {
    Word(String),
    Number(i64),
    /// Not known, or not there.
    None,
}

impl Cell {
    pub(crate) fn word(word: impl ToString) -> Self {
        Self::Word(word.to_string())
    }

    pub(crate) fn number(number: Option<i64>) -> Self {
        number.map_or(Self::None, Self::Number)
    }

    fn text(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Number(number) => number.to_string(),
            Self::None => "-".to_owned(),
        }
    }
}

/// The table as text, a line a row. A column is set to the right unless it holds words.
pub(crate) fn render<const N: usize>(head: [&str; N], rows: &[[Cell; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].text().chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    });
    let words: [bool; N] =
        std::array::from_fn(|column| rows.iter().any(|row| matches!(row[column], Cell::Word(_))));
    let line = |cells: [String; N]| {
        let columns = cells.into_iter().zip(widths).zip(words);
        let columns: Vec<String> = columns
            .map(
                |((cell, width), word)| {
                    if word { format!("{cell:width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        format!("{}\n", columns.join("  ").trim_end())
    };
    let mut text = line(head.map(str::to_owned));
    for row in rows {
        text.push_str(&line(std::array::from_fn(|column| row[column].text())));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_to_the_left_and_numbers_to_the_right() {
        let rows = [
            [Cell::word("orders"), Cell::Number(7), Cell::Number(1234)],
            [Cell::word("x"), Cell::Number(10), Cell::None],
        ];
        assert_eq!(
            render(["TOPIC", "P", "LAG"], &rows),
            "TOPIC    P   LAG\norders   7  1234\nx       10     -\n"
        );
    }
}
