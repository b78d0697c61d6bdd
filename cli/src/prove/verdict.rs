//! What all of it means. Pure: reports in, a verdict out. A comparison of nothing is no pass.

use super::args::{Guarantee, Results};
use super::audit::Report;
use super::evidence::Odd;
use super::finding::{Findings, Kind};
use super::twin::Differences;

/// Whether every result could be told from others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Readable {
    All,
    /// What looks missing may be among those that do not say what they were made from.
    Partly,
}

/// Whether the promise was kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Kept,
    Broken,
    /// The evidence does not say.
    Unknown,
}

impl Verdict {
    /// What is broken is broken whatever else is not known; without doubt what is not broken is
    /// kept.
    pub(crate) fn of<'a>(
        findings: impl IntoIterator<Item = &'a Findings>,
        guarantee: Guarantee,
        readable: Readable,
        doubts: &[String],
    ) -> Self {
        let is_missing = |kind| matches!(kind, Kind::Lost | Kind::Hole | Kind::Missing);
        let is_sure = |kind| readable == Readable::All || !is_missing(kind);
        let against = findings.into_iter().flat_map(|all| all.against(guarantee));
        let broken = { against }.any(|(kind, _)| is_sure(kind));
        match (broken, doubts.is_empty()) {
            (true, _) => Self::Broken,
            (false, true) => Self::Kept,
            (false, false) => Self::Unknown,
        }
    }

    /// For whoever runs this in a script: see the help.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Kept => 0,
            Self::Broken => 1,
            Self::Unknown => 3,
        }
    }

    pub(crate) fn words(self, guarantee: Guarantee) -> &'static str {
        match (self, guarantee) {
            (Self::Unknown, _) => "UNKNOWN",
            (Self::Kept, Guarantee::ExactlyOnce) => "EXACT",
            (Self::Broken, Guarantee::ExactlyOnce) => "NOT EXACT",
            (Self::Kept, Guarantee::AtLeastOnce) => "AT LEAST ONCE",
            (Self::Broken, Guarantee::AtLeastOnce) => "NOT AT LEAST ONCE",
            (Self::Kept, Guarantee::AtMostOnce) => "AT MOST ONCE",
            (Self::Broken, Guarantee::AtMostOnce) => "NOT AT MOST ONCE",
        }
    }
}

/// Why an audit does not show what it should.
pub(crate) fn doubts(report: &Report, odd: Odd) -> Vec<String> {
    let mut doubts = Vec::new();
    if report.records == 0 {
        doubts.push("progress has passed no record, so nothing was compared".to_owned());
    } else if report.distinct == 0 && report.dead == 0 {
        doubts.push("there is neither a result nor a dead letter".to_owned());
    }
    if odd.silent > 0 {
        doubts.push(format!("{} results do not say what they were made from", odd.silent));
    }
    if odd.foreign > 0 {
        doubts.push(format!(
            "{} results were made from topics that are no --input: name all of them, or give the \
             run outputs of its own",
            odd.foreign
        ));
    }
    doubts
}

/// Why a single run cannot show what is missing.
pub(crate) fn blind(results: Results, guarantee: Guarantee) -> Option<String> {
    let promises_all = guarantee != Guarantee::AtMostOnce;
    (results == Results::Any && promises_all).then(|| {
        "with --results any what is missing looks like what is filtered: compare two runs by {run}"
            .to_owned()
    })
}

/// Why the comparison of two runs does not show what it should.
pub(crate) fn twin_doubts(found: &Differences) -> Vec<String> {
    let mut doubts = Vec::new();
    if found.results + found.dead == 0 {
        doubts.push("the two runs have no result and no dead letter in common".to_owned());
    }
    if !found.apart.is_empty() {
        doubts
            .push(format!("the two runs have no records in common in {}", found.apart.join(", ")));
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_is_broken_whatever_else_is_in_doubt() {
        let doubt = ["a fault was missed".to_owned()];
        let mut duplicate = Findings::default();
        duplicate.add(Kind::Duplicate, "in/0/0/0");
        let none = Findings::default();
        for (findings, guarantee, doubts, verdict) in [
            (&none, Guarantee::ExactlyOnce, &[][..], Verdict::Kept),
            (&none, Guarantee::ExactlyOnce, &doubt, Verdict::Unknown),
            (&duplicate, Guarantee::ExactlyOnce, &[], Verdict::Broken),
            (&duplicate, Guarantee::ExactlyOnce, &doubt, Verdict::Broken),
            (&duplicate, Guarantee::AtLeastOnce, &[], Verdict::Kept),
            (&duplicate, Guarantee::AtLeastOnce, &doubt, Verdict::Unknown),
            (&duplicate, Guarantee::AtMostOnce, &[], Verdict::Broken),
        ] {
            let found = Verdict::of([&none, findings], guarantee, Readable::All, doubts);
            assert_eq!(found, verdict);
        }
        let codes = [Verdict::Kept, Verdict::Broken, Verdict::Unknown].map(Verdict::exit_code);
        assert_eq!(codes, [0, 1, 3]);
    }

    #[test]
    fn what_may_be_among_results_that_say_nothing_is_not_known_to_be_missing() {
        let of = |kinds: &[Kind], readable| {
            let mut findings = Findings::default();
            kinds.iter().for_each(|kind| findings.add(*kind, "in/0/0/0"));
            let doubt = ["some say nothing".to_owned()];
            Verdict::of([&findings], Guarantee::ExactlyOnce, readable, &doubt)
        };
        for kind in [Kind::Lost, Kind::Hole, Kind::Missing] {
            assert_eq!(of(&[kind], Readable::All), Verdict::Broken);
            assert_eq!(of(&[kind], Readable::Partly), Verdict::Unknown);
            assert_eq!(of(&[kind, Kind::Duplicate], Readable::Partly), Verdict::Broken);
        }
    }

    #[test]
    fn a_comparison_of_nothing_is_in_doubt() {
        let good = Report { records: 1, results: 1, distinct: 1, ..Report::default() };
        assert!(doubts(&good, Odd::default()).is_empty());
        let dead = Report { records: 1, dead: 1, ..Report::default() };
        assert!(doubts(&dead, Odd::default()).is_empty());
        for nothing in [Report::default(), Report { records: 9, ..Report::default() }] {
            assert_eq!(doubts(&nothing, Odd::default()).len(), 1, "{nothing:?}");
        }
        for odd in [Odd { silent: 1, ..Odd::default() }, Odd { foreign: 1, ..Odd::default() }] {
            assert_eq!(doubts(&good, odd).len(), 1, "{odd:?}");
        }
        assert_eq!(twin_doubts(&Differences::default()).len(), 1);
        assert!(twin_doubts(&Differences { dead: 1, ..Differences::default() }).is_empty());
        let apart =
            Differences { results: 1, apart: vec!["in/0".into()], ..Differences::default() };
        assert_eq!(twin_doubts(&apart).len(), 1);
    }

    #[test]
    fn what_may_be_filtered_cannot_be_missed_unless_nothing_promises_it() {
        assert!(blind(Results::Any, Guarantee::ExactlyOnce).is_some());
        assert!(blind(Results::Any, Guarantee::AtLeastOnce).is_some());
        assert!(blind(Results::Any, Guarantee::AtMostOnce).is_none());
        assert!(blind(Results::Some, Guarantee::ExactlyOnce).is_none());
    }
}
