//! The ways in which a sink can be wrong, and which promise permits which.

use std::collections::BTreeMap;
use std::fmt;

use super::args::Guarantee;

/// How often one kind of finding is quoted; all are counted.
const QUOTED: usize = 5;

/// A way to be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// A result more than once.
    Duplicate,
    /// A record that progress has passed, without a result or dead letter.
    Lost,
    /// A result whose number says that there were more of its record, which are not there.
    Hole,
    /// A result of no record, of one that was done before, or one too many.
    Phantom,
    /// A result or dead letter of a record that progress has not passed.
    Ahead,
    /// A record with results and a dead letter.
    Both,
    /// A dead letter more than once.
    DeadTwice,
    /// A dead letter of no record.
    DeadPhantom,
    /// A result behind one of a later record of its partition.
    Disorder,
    /// Stored progress that went back.
    Regress,
    /// In the run that was left alone, and not in the one under faults.
    Missing,
    /// In the run under faults, and not in the one that was left alone.
    Extra,
    /// In both, and not the same.
    Different,
}

impl Kind {
    /// What it is called in tables, in the plural.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicates",
            Self::Lost => "lost",
            Self::Hole => "holes",
            Self::Phantom => "phantoms",
            Self::Ahead => "ahead of progress",
            Self::Both => "both result and dead letter",
            Self::DeadTwice => "dead letters twice",
            Self::DeadPhantom => "dead letters of no record",
            Self::Disorder => "out of order",
            Self::Regress => "progress went back",
            Self::Missing => "missing under faults",
            Self::Extra => "only under faults",
            Self::Different => "different",
        }
    }

    /// The same for programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Lost => "lost",
            Self::Hole => "hole",
            Self::Phantom => "phantom",
            Self::Ahead => "ahead",
            Self::Both => "both",
            Self::DeadTwice => "dead_twice",
            Self::DeadPhantom => "dead_phantom",
            Self::Disorder => "disorder",
            Self::Regress => "regress",
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Different => "different",
        }
    }

    /// What else than a broken promise it can be, and what to say then.
    pub(crate) fn hint(self) -> Option<&'static str> {
        match self {
            Self::Lost => Some(
                "a record that is filtered or skipped, whose row a later one replaced, or whose \
                 dead letter is in a topic that was not named, looks lost: compare two runs by \
                 {run}, or name --dead-letters",
            ),
            Self::Hole => Some(
                "a result whose output was not named, or that no table takes, leaves a hole: name \
                 all outputs, or compare two runs by {run}",
            ),
            Self::Phantom => Some(
                "an input that is compacted while it is read, and a record with more results than \
                 --results says, look like this",
            ),
            Self::Different => Some(
                "a function that looks at the clock or draws numbers looks like this: leave such \
                 columns out by --ignore",
            ),
            _ => None,
        }
    }

    /// Whether this promise lets it happen.
    pub(crate) fn is_permitted(self, guarantee: Guarantee) -> bool {
        match guarantee {
            Guarantee::ExactlyOnce => false,
            Guarantee::AtLeastOnce => {
                matches!(self, Self::Duplicate | Self::Ahead | Self::Both | Self::DeadTwice)
            }
            // A process that was stopped writes what it had admitted when it goes on, behind what
            // its heir has written.
            Guarantee::AtMostOnce => {
                matches!(self, Self::Lost | Self::Hole | Self::Missing | Self::Disorder)
            }
        }
    }
}

/// What was found, counted, with the first places of each kind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Findings(BTreeMap<Kind, (u64, Vec<String>)>);

impl Findings {
    pub(crate) fn add(&mut self, kind: Kind, place: impl fmt::Display) {
        self.add_many(kind, 1, place);
    }

    /// Several at one place.
    pub(crate) fn add_many(&mut self, kind: Kind, count: u64, place: impl fmt::Display) {
        if count == 0 {
            return;
        }
        let (sum, places) = self.0.entry(kind).or_default();
        *sum += count;
        if places.len() < QUOTED {
            places.push(place.to_string());
        }
    }

    pub(crate) fn count(&self, kind: Kind) -> u64 {
        self.0.get(&kind).map_or(0, |(count, _)| *count)
    }

    /// Every kind with its count and its first places.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Kind, u64, &[String])> {
        self.0.iter().map(|(kind, (count, places))| (*kind, *count, places.as_slice()))
    }

    /// Those that this promise does not permit.
    pub(crate) fn against(&self, guarantee: Guarantee) -> impl Iterator<Item = (Kind, u64)> {
        let broken = move |(kind, _, _): &(Kind, u64, &[String])| !kind.is_permitted(guarantee);
        self.all().filter(broken).map(|(kind, count, _)| (kind, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_promise_permits_what_it_says_and_nothing_else() {
        let permitted = |guarantee| -> Vec<Kind> {
            let mut all = Findings::default();
            for kind in [
                Kind::Duplicate,
                Kind::Lost,
                Kind::Hole,
                Kind::Phantom,
                Kind::Ahead,
                Kind::Both,
                Kind::DeadTwice,
                Kind::DeadPhantom,
                Kind::Disorder,
                Kind::Regress,
                Kind::Missing,
                Kind::Extra,
                Kind::Different,
            ] {
                all.add(kind, "here");
            }
            let against: Vec<Kind> = all.against(guarantee).map(|(kind, _)| kind).collect();
            all.all().map(|(kind, ..)| kind).filter(|kind| !against.contains(kind)).collect()
        };
        assert_eq!(permitted(Guarantee::ExactlyOnce), []);
        let twice = [Kind::Duplicate, Kind::Ahead, Kind::Both, Kind::DeadTwice];
        assert_eq!(permitted(Guarantee::AtLeastOnce), twice);
        let missing = [Kind::Lost, Kind::Hole, Kind::Disorder, Kind::Missing];
        assert_eq!(permitted(Guarantee::AtMostOnce), missing);
    }

    #[test]
    fn all_are_counted_and_the_first_are_quoted() {
        let mut findings = Findings::default();
        for number in 0..9 {
            findings.add(Kind::Lost, format_args!("in/0/{number}"));
        }
        findings.add_many(Kind::Duplicate, 0, "nowhere");
        findings.add_many(Kind::Duplicate, 3, "in/0/1/0");
        assert_eq!((findings.count(Kind::Lost), findings.count(Kind::Duplicate)), (9, 3));
        let (_, _, places) = findings.all().find(|(kind, ..)| *kind == Kind::Lost).expect("found");
        assert_eq!(places, ["in/0/0", "in/0/1", "in/0/2", "in/0/3", "in/0/4"]);
    }
}
