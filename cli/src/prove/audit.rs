//! One run against its input, both ways: what progress has passed is there, and nothing else is.
//! Pure: evidence in, a report out.

use super::args::Results;
use super::evidence::{Evidence, Partition, Sharing, Shown};
use super::finding::{Findings, Kind};

/// What an audit compared, and what it found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Report {
    /// Records of the input that progress has passed, counted in the input.
    pub(crate) records: u64,
    /// Results, however often they stand there.
    pub(crate) results: u64,
    /// Results, each counted once.
    pub(crate) distinct: u64,
    pub(crate) dead: u64,
    /// How often order was compared, if it was told.
    pub(crate) ordered: Option<u64>,
    pub(crate) findings: Findings,
}

/// What stands at one offset of a partition: in the input, in the outputs, among the dead letters.
struct Place<'a> {
    offset: i64,
    is_record: bool,
    results: &'a [Shown],
    dead: u64,
}

/// Compares results and dead letters with the input. The evidence is sorted.
pub(crate) fn audit(evidence: &Evidence, results: Results) -> Report {
    let mut report = Report { ordered: evidence.ordered, ..Report::default() };
    for partition in &evidence.partitions {
        let mut judge = Judge { evidence, partition, wanted: results, report: &mut report };
        places(partition, |place| judge.place(place));
        judge.order();
    }
    let old = evidence.odd.old;
    report.findings.add_many(
        Kind::Phantom,
        old,
        format_args!("{old} of records that were done before the run began"),
    );
    report
}

/// Walks through everything that stands in, or was made from, a partition, offset by offset.
fn places<'a>(partition: &'a Partition, mut each: impl FnMut(&Place<'a>)) {
    let mut records = partition.records.iter().copied().peekable();
    let mut results =
        partition.results.chunk_by(|one, other| one.offset == other.offset).peekable();
    let mut dead = partition.dead.chunk_by(|one, other| one == other).peekable();
    loop {
        let heads = [
            records.peek().copied(),
            results.peek().map(|results| results[0].offset),
            dead.peek().map(|dead| dead[0]),
        ];
        let Some(offset) = heads.into_iter().flatten().min() else { return };
        let dead = dead.next_if(|dead| dead[0] == offset).map_or(0, <[i64]>::len);
        each(&Place {
            offset,
            is_record: records.next_if_eq(&offset).is_some(),
            results: results.next_if(|results| results[0].offset == offset).unwrap_or_default(),
            dead: u64::try_from(dead).unwrap_or(u64::MAX),
        });
    }
}

struct Judge<'a> {
    evidence: &'a Evidence,
    partition: &'a Partition,
    wanted: Results,
    report: &'a mut Report,
}

impl Judge<'_> {
    fn place(&mut self, place: &Place<'_>) {
        self.report.dead += place.dead;
        self.copies(place);
        if place.offset >= self.partition.next {
            // Progress is stored with the results: neither is there without the other.
            let next = self.partition.next;
            let what = format!("{}/{}, progress is {next}", self.partition.id, place.offset);
            let count = u64::try_from(place.results.len()).unwrap_or(u64::MAX) + place.dead;
            self.report.findings.add_many(Kind::Ahead, count, what);
            return;
        }
        if !place.is_record {
            for shown in place.results {
                let name = format!("{}: there is no such record", self.name(shown));
                self.report.findings.add(Kind::Phantom, name);
            }
            let name = format!("{}/{}", self.partition.id, place.offset);
            self.report.findings.add_many(Kind::DeadPhantom, place.dead, name);
            return;
        }
        self.report.records += 1;
        let name = format_args!("{}/{}", self.partition.id, place.offset);
        self.report.findings.add_many(Kind::DeadTwice, place.dead.saturating_sub(1), name);
        match (place.results, place.dead) {
            (results, 0) => self.complete(place.offset, results),
            ([], _) => {}
            (_, _) => self.report.findings.add(Kind::Both, name),
        }
    }

    /// Counts results, and those that stand there more than once.
    fn copies(&mut self, place: &Place<'_>) {
        let sharing = self.evidence.sharing;
        let same = |one: &Shown, other: &Shown| {
            let together = sharing == Sharing::OneOutput || one.output == other.output;
            one.index == other.index && together
        };
        for copies in place.results.chunk_by(same) {
            self.report.results += u64::try_from(copies.len()).unwrap_or(u64::MAX);
            self.report.distinct += 1;
            if let [first, _, ..] = copies {
                let more = u64::try_from(copies.len() - 1).unwrap_or(u64::MAX);
                let name = format!("{}: {} times", self.name(first), copies.len());
                self.report.findings.add_many(Kind::Duplicate, more, name);
            }
        }
    }

    /// The results of a record that is no dead letter are numbered from 0 without a hole, and are
    /// as many as they should be.
    fn complete(&mut self, offset: i64, results: &[Shown]) {
        let id = &self.partition.id;
        let lost = |findings: &mut Findings, index: u32| {
            findings.add(Kind::Lost, format_args!("{id}/{offset}/{index}"));
        };
        let findings = &mut self.report.findings;
        let mut numbers = results.chunk_by(|one, other| one.index == other.index);
        match self.wanted {
            Results::Any => {}
            Results::Some if results.is_empty() => lost(findings, 0),
            Results::Some => {
                let mut next = 0;
                for shown in numbers {
                    let (index, hole) = (shown[0].index, shown[0].index - next);
                    let name = format_args!("{id}/{offset}/{next}, behind it {index}");
                    findings.add_many(Kind::Hole, hole.into(), name);
                    next = index + 1;
                }
            }
            Results::Exactly(count) => {
                let mut seen = numbers.by_ref().map(|shown| shown[0].index).peekable();
                for index in 0..count {
                    if seen.next_if_eq(&index).is_none() {
                        lost(findings, index);
                    }
                }
                for index in seen {
                    let name = format_args!("{id}/{offset}/{index}: {count} results are expected");
                    findings.add(Kind::Phantom, name);
                }
            }
        }
    }

    /// What came behind a later result is out of order, unless it is there several times: then it
    /// was written again, which is said elsewhere.
    fn order(&mut self) {
        let results = &self.partition.results;
        for (offset, index) in &self.partition.behind {
            let of = |shown: &Shown| (shown.offset, shown.index).cmp(&(*offset, *index));
            let copies = results.partition_point(|shown| of(shown).is_le())
                - results.partition_point(|shown| of(shown).is_lt());
            if copies == 1 {
                let name = format_args!("{}/{offset}/{index}", self.partition.id);
                self.report.findings.add(Kind::Disorder, name);
            }
        }
    }

    fn name(&self, shown: &Shown) -> String {
        let output = usize::try_from(shown.output).ok();
        let output = output.and_then(|output| self.evidence.outputs.get(output));
        let output = output.map(String::as_str).unwrap_or_default();
        format!("{}/{}/{} in {output}", self.partition.id, shown.offset, shown.index)
    }
}

#[cfg(test)]
mod tests;
