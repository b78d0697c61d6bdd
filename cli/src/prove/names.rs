//! Names that differ between runs and processes: what `{run}` and `{process}` stand for. Pure.

use std::ffi::{OsStr, OsString};

/// The place of the run's name, and of the process's number.
const RUN: &str = "{run}";
const NUMBER: &str = "{process}";

/// Which run it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Run {
    /// The only one.
    Only,
    /// The first of two, left alone.
    Calm,
    /// The second of two, under faults.
    Faults,
}

impl Run {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Only | Self::Faults => "faults",
        }
    }

    /// What it is called while it goes on; the only one needs no name.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Only => "",
            Self::Calm => "calm:",
            Self::Faults => "faults:",
        }
    }

    /// Whether its processes are killed and stopped.
    pub(crate) fn has_faults(self) -> bool {
        self != Self::Calm
    }

    /// A name in this run.
    pub(crate) fn fill(self, text: &str) -> String {
        match self {
            Self::Only => text.to_owned(),
            Self::Calm | Self::Faults => text.replace(RUN, self.name()),
        }
    }

    /// The command of the process of this number, counted from 1. What is no text stays as it is.
    pub(crate) fn command(self, words: &[OsString], number: usize) -> Vec<OsString> {
        let fill = |word: &OsString| match word.to_str() {
            Some(text) => self.fill(text).replace(NUMBER, &number.to_string()).into(),
            None => word.clone(),
        };
        words.iter().map(fill).collect()
    }
}

/// Whether a name differs between runs.
pub(crate) fn differs(text: impl AsRef<OsStr>) -> bool {
    text.as_ref().to_str().is_some_and(|text| text.contains(RUN))
}

/// Whether each process is told its number.
pub(crate) fn has_number(words: &[OsString]) -> bool {
    words.iter().any(|word| word.to_str().is_some_and(|text| text.contains(NUMBER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_and_each_process_has_names_of_its_own() {
        let words: Vec<OsString> =
            ["./job", "--group=g-{run}", "--instance", "{run}-{process}", "{}"]
                .map(Into::into)
                .into();
        assert_eq!(
            Run::Faults.command(&words, 2),
            ["./job", "--group=g-faults", "--instance", "faults-2", "{}"]
        );
        assert_eq!(Run::Calm.fill("out-{run}"), "out-calm");
        assert_eq!(Run::Only.fill("out-{run}"), "out-{run}");
        assert!(differs("a{run}") && !differs("a{process}"));
        assert!(has_number(&words) && !has_number(&words[..2]));
    }
}
