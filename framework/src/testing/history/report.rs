//! What was found, and which promise it leaves standing.

use std::collections::BTreeMap;
use std::fmt;

/// How often one kind of anomaly is quoted; all are counted.
const QUOTED: usize = 5;

/// A way for a history to be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Anomaly {
    /// A result more than once.
    Duplicate,
    /// A result missing although progress has passed its record: offsets ahead of results.
    Lost,
    /// A result or a dead letter of a record that progress has not passed: offsets behind results.
    Ahead,
    /// A result of no record, of another incarnation of its topic, or one too many.
    Phantom,
    /// A dead letter more than once.
    DeadTwice,
    /// A dead letter missing although progress has passed its record.
    DeadMissing,
    /// A dead letter of a record that should have none.
    DeadPhantom,
    /// Results of one key and input partition out of their order.
    Disorder,
    /// Progress that went back from one snapshot to a later one.
    Regress,
    /// A transaction of which a reader saw a part, or that stored other results than its progress
    /// covers.
    Torn,
    /// A result of a transaction that was aborted.
    AbortedVisible,
    /// Commits that leave offsets out between them.
    RangeGap,
    /// Commits that cover an offset twice.
    RangeOverlap,
    /// A commit under an older claim than one before it.
    Zombie,
    /// A commit under an older epoch of its claim than one before it.
    StaleEpoch,
}

/// What a history proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Everything once, in order, at every moment that was looked at.
    ExactlyOnce,
    /// Nothing is missing; something is there twice, early, or out of order.
    AtLeastOnce,
    /// Nothing is there twice; something is missing.
    AtMostOnce,
    /// Neither.
    Nothing,
    /// The evidence does not suffice, for these reasons. This is never a pass.
    Unknown(Vec<String>),
}

/// What was compared; a comparison of nothing proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Compared {
    /// Snapshots that were looked at.
    pub snapshots: usize,
    /// Records that progress has passed, over all snapshots.
    pub records: usize,
    /// Results found with the record that asks for them.
    pub outputs: usize,
    /// Dead letters found with the record that asks for them.
    pub dead: usize,
    /// Results compared with the one before them of their key.
    pub ordered: usize,
    /// Commits compared with the one before them of their partition.
    pub commits: usize,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What it compared.
    pub compared: Compared,
    found: BTreeMap<Anomaly, (usize, Vec<String>)>,
    unknown: Vec<String>,
}

/// What at-least-once permits.
const REPEATED: &[Anomaly] = &[
    Anomaly::Duplicate,
    Anomaly::Ahead,
    Anomaly::DeadTwice,
    Anomaly::Disorder,
    Anomaly::Regress,
    Anomaly::Torn,
    Anomaly::AbortedVisible,
    Anomaly::RangeOverlap,
    Anomaly::Zombie,
    Anomaly::StaleEpoch,
];
/// What at-most-once permits.
const MISSING: &[Anomaly] = &[Anomaly::Lost, Anomaly::DeadMissing, Anomaly::RangeGap];

impl Report {
    pub(super) fn add(&mut self, anomaly: Anomaly, place: impl fmt::Display) {
        let (count, quoted) = self.found.entry(anomaly).or_default();
        *count += 1;
        if quoted.len() < QUOTED {
            quoted.push(place.to_string());
        }
    }

    pub(super) fn doubt(&mut self, reason: impl fmt::Display) {
        self.unknown.push(reason.to_string());
    }

    /// The kinds of anomalies that were found.
    pub fn anomalies(&self) -> Vec<Anomaly> {
        self.found.keys().copied().collect()
    }

    /// How often an anomaly was found.
    pub fn count(&self, anomaly: Anomaly) -> usize {
        self.found.get(&anomaly).map_or(0, |(count, _)| *count)
    }

    /// Where an anomaly was found: the first few places.
    pub fn places(&self, anomaly: Anomaly) -> &[String] {
        self.found.get(&anomaly).map_or(&[], |(_, quoted)| quoted)
    }

    /// Which promise the history keeps.
    pub fn verdict(&self) -> Verdict {
        let only = |permitted: &[Anomaly]| self.found.keys().all(|found| permitted.contains(found));
        if !self.unknown.is_empty() {
            Verdict::Unknown(self.unknown.clone())
        } else if self.found.is_empty() {
            Verdict::ExactlyOnce
        } else if only(REPEATED) {
            Verdict::AtLeastOnce
        } else if only(MISSING) {
            Verdict::AtMostOnce
        } else {
            Verdict::Nothing
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExactlyOnce => f.write_str("exactly once"),
            Self::AtLeastOnce => f.write_str("at least once"),
            Self::AtMostOnce => f.write_str("at most once"),
            Self::Nothing => f.write_str("neither at least once nor at most once"),
            Self::Unknown(reasons) => write!(f, "UNKNOWN: {}", reasons.join("; ")),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compared { snapshots, records, outputs, dead, ordered, commits } = self.compared;
        write!(
            f,
            "{}\ncompared {records} records with {outputs} results and {dead} dead letters in \
             {snapshots} snapshots, order {ordered} times, {commits} commits",
            self.verdict()
        )?;
        for (anomaly, (count, quoted)) in &self.found {
            write!(f, "\n{anomaly:?}: {count}")?;
            for place in quoted {
                write!(f, "\n  {place}")?;
            }
        }
        Ok(())
    }
}
