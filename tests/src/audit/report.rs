//! What an audit found, and what it means for a promise.

use std::collections::BTreeMap;
use std::fmt;

use super::{Partition, Source};

/// How often one kind of finding is quoted; all are counted.
const QUOTED: usize = 5;

/// A way for a sink to be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Finding {
    /// An output more than once.
    Duplicate,
    /// An output missing although progress has passed its record.
    Lost,
    /// An output of no record, or one that its record should not have.
    Phantom,
    /// An output whose key or value is not its record's.
    WrongBytes,
    /// An output that appears before one of an earlier record.
    Disorder,
    /// Outputs of one key and input partition in several output partitions.
    Scattered,
    /// A dead letter more than once.
    DeadTwice,
    /// A dead letter missing although progress has passed its record.
    DeadMissing,
    /// A dead letter of a record that should not have one.
    DeadPhantom,
    /// A dead letter whose key or value is not its record's.
    DeadWrongBytes,
    /// An output or a dead letter of a record that progress has not passed.
    Ahead,
    /// Stored progress is not the end of the partition.
    Unfinished,
    /// The same offset twice in the input: the reader of the log is wrong.
    InputTwice,
    /// Nothing was compared, so nothing was shown.
    NothingCompared,
}

/// One thing that is wrong, with the place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Anomaly {
    /// What is wrong.
    pub finding: Finding,
    /// Where, and what was expected.
    pub text: String,
}

/// What an audit compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Compared {
    /// Records of the input.
    pub inputs: usize,
    /// Records of the input that progress has passed.
    pub done: usize,
    /// Outputs expected and compared with their record, byte by byte.
    pub outputs: usize,
    /// Dead letters expected and compared with their record.
    pub dead: usize,
    /// Outputs compared with the one before them.
    pub ordered: usize,
    /// Partitions whose progress was compared with their end.
    pub partitions: usize,
}

/// What an audit found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What it compared.
    pub compared: Compared,
    found: BTreeMap<Finding, (usize, Vec<String>)>,
}

impl Report {
    pub(super) fn add(&mut self, finding: Finding, text: impl fmt::Display) {
        let (count, quoted) = self.found.entry(finding).or_default();
        *count += 1;
        if quoted.len() < QUOTED {
            quoted.push(text.to_string());
        }
    }

    /// How often something was found.
    #[must_use]
    pub fn count(&self, finding: Finding) -> usize {
        self.found.get(&finding).map_or(0, |(count, _)| *count)
    }

    /// Everything that was found, the first of each kind with their places.
    #[must_use]
    pub fn anomalies(&self) -> Vec<Anomaly> {
        let one = |(finding, (_, quoted)): (&Finding, &(usize, Vec<String>))| {
            let finding = *finding;
            quoted
                .iter()
                .map(move |text| Anomaly { finding, text: text.clone() })
                .collect::<Vec<_>>()
        };
        self.found.iter().flat_map(one).collect()
    }

    /// Everything once, in order, and all of the input done.
    ///
    /// # Errors
    /// The report, if anything was found.
    pub fn exactly_once(&self) -> Result<Compared, String> {
        self.without(&[])
    }

    /// As exactly once, as far as progress goes: the input may not be done yet.
    ///
    /// # Errors
    /// The report, if anything else was found.
    pub fn exactly_once_so_far(&self) -> Result<Compared, String> {
        self.without(&[Finding::Unfinished])
    }

    /// Everything there; outputs may be there several times, and ahead of progress.
    ///
    /// # Errors
    /// The report, if anything else was found.
    pub fn at_least_once(&self) -> Result<Compared, String> {
        self.without(&[Finding::Duplicate, Finding::Disorder, Finding::DeadTwice, Finding::Ahead])
    }

    /// Nothing twice; outputs may be missing.
    ///
    /// # Errors
    /// The report, if anything else was found.
    pub fn at_most_once(&self) -> Result<Compared, String> {
        self.without(&[Finding::Lost, Finding::DeadMissing])
    }

    fn without(&self, permitted: &[Finding]) -> Result<Compared, String> {
        if self.found.keys().all(|finding| permitted.contains(finding)) {
            Ok(self.compared)
        } else {
            Err(self.to_string())
        }
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inputs, done, outputs, dead, ordered, partitions } = self;
        write!(
            f,
            "compared {done} of {inputs} records with {outputs} outputs and {dead} dead letters, \
             order {ordered} times, progress of {partitions} partitions"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.compared)?;
        for (finding, (count, quoted)) in &self.found {
            write!(f, "\n{finding:?}: {count}")?;
            for text in quoted {
                write!(f, "\n  {text}")?;
            }
        }
        Ok(())
    }
}

/// `topic/partition/offset/i`.
pub(super) fn place(((topic, partition), offset, i): &Source) -> String {
    format!("{topic}/{partition}/{offset}/{i}")
}

/// `topic/partition`.
pub(super) fn name((topic, partition): &Partition) -> String {
    format!("{topic}/{partition}")
}
