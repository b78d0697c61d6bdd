//! Two runs of one pipeline over one input, compared: one was left alone, the other broken again
//! and again. Whatever the function filters and however much it emits, both must show the same.
//! Pure: the evidence of both in, differences out.

use tidegate::record::{Lineage, Offset};

use super::evidence::{Evidence, Partition, Shown};
use super::finding::{Findings, Kind};

/// How many results that differ are remembered, so that their columns can be looked at.
const REMEMBERED: usize = 5;

/// What was compared, and what differs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Differences {
    /// Results that are in both.
    pub(crate) results: u64,
    /// Dead letters that are in both.
    pub(crate) dead: u64,
    pub(crate) findings: Findings,
    /// The first results that differ: the number of the output, and the place.
    pub(crate) different: Vec<(usize, Place)>,
    /// Partitions of which one run says nothing, and others of which the runs have nothing in
    /// common.
    pub(crate) apart: Vec<String>,
}

/// The place of a result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    topic: String,
    partition: i32,
    offset: i64,
    index: u32,
}

impl Place {
    fn of(partition: &Partition, shown: &Shown) -> Self {
        let id = &partition.id;
        let (topic, offset) = (id.topic().to_string(), shown.offset);
        Self { topic, partition: id.index(), offset, index: shown.index }
    }

    pub(crate) fn lineage(&self) -> Lineage<'_> {
        let offset = Offset::try_new(self.offset).unwrap_or_default();
        let Self { topic, partition, index, .. } = self;
        Lineage { topic, partition: *partition, offset, index: *index }
    }
}

/// Compares two runs. The evidence of both is sorted.
pub(crate) fn compare(calm: &Evidence, faults: &Evidence) -> Differences {
    let mut differences = Differences::default();
    for one in &calm.partitions {
        match faults.partitions.iter().find(|other| other.id == one.id) {
            None => differences.apart.push(one.id.to_string()),
            Some(other) => partition(one, other, faults, &mut differences),
        }
    }
    let known = |other: &&Partition| !calm.partitions.iter().any(|one| one.id == other.id);
    differences.apart.extend(faults.partitions.iter().filter(known).map(|p| p.id.to_string()));
    differences
}

/// What both runs have passed: more may have been produced between them.
fn partition(calm: &Partition, faults: &Partition, all: &Evidence, found: &mut Differences) {
    let (first, next) = (calm.first.max(faults.first), calm.next.min(faults.next));
    if first >= next {
        // A partition without records has nothing to compare.
        if calm.next > calm.first || faults.next > faults.first {
            found.apart.push(calm.id.to_string());
        }
        return;
    }
    let inside = |offset: i64| (first..next).contains(&offset);
    let key = |shown: &Shown| (shown.offset, shown.index, shown.output);
    let (one, other) = (distinct(&calm.results, key), distinct(&faults.results, key));
    let one = one.filter(|copies| inside(copies[0].offset));
    let other = other.filter(|copies| inside(copies[0].offset));
    let name = |shown: &Shown| {
        let output = usize::try_from(shown.output).ok().and_then(|output| all.outputs.get(output));
        let output = output.map(String::as_str).unwrap_or_default();
        format!("{}/{}/{} in {output}", calm.id, shown.offset, shown.index)
    };
    merge(
        one,
        other,
        |copies| key(&copies[0]),
        |pair| match pair {
            Pair::Left(copies) => found.findings.add(Kind::Missing, name(&copies[0])),
            Pair::Right(copies) => found.findings.add(Kind::Extra, name(&copies[0])),
            Pair::Both(one, other) => {
                found.results += 1;
                // Each is compared: a result that was written twice may have been made twice.
                if other.iter().chain(one).any(|shown| shown.digest != one[0].digest) {
                    found.findings.add(Kind::Different, name(&other[0]));
                    if found.different.len() < REMEMBERED {
                        let output = usize::try_from(other[0].output).unwrap_or_default();
                        found.different.push((output, Place::of(faults, &other[0])));
                    }
                }
            }
        },
    );
    let one = distinct(&calm.dead, |offset| *offset).filter(|copies| inside(copies[0]));
    let other = distinct(&faults.dead, |offset| *offset).filter(|copies| inside(copies[0]));
    let name = |offset: i64| format!("the dead letter of {}/{offset}", calm.id);
    merge(
        one,
        other,
        |copies| copies[0],
        |pair| match pair {
            Pair::Left(copies) => found.findings.add(Kind::Missing, name(copies[0])),
            Pair::Right(copies) => found.findings.add(Kind::Extra, name(copies[0])),
            Pair::Both(..) => found.dead += 1,
        },
    );
}

/// The copies of each thing, in order.
fn distinct<'a, T, K: PartialEq>(
    all: &'a [T],
    key: impl Fn(&T) -> K + 'a,
) -> impl Iterator<Item = &'a [T]> {
    all.chunk_by(move |one, other| key(one) == key(other))
}

enum Pair<T> {
    Left(T),
    Right(T),
    Both(T, T),
}

/// Walks through two sorted sequences together.
fn merge<T: Copy, K: Ord>(
    one: impl Iterator<Item = T>,
    other: impl Iterator<Item = T>,
    key: impl Fn(T) -> K,
    mut each: impl FnMut(Pair<T>),
) {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    loop {
        let pair = match (one.peek().copied(), other.peek().copied()) {
            (None, None) => return,
            (Some(left), None) => Pair::Left(left),
            (None, Some(right)) => Pair::Right(right),
            (Some(left), Some(right)) => match key(left).cmp(&key(right)) {
                std::cmp::Ordering::Less => Pair::Left(left),
                std::cmp::Ordering::Greater => Pair::Right(right),
                std::cmp::Ordering::Equal => Pair::Both(left, right),
            },
        };
        if !matches!(pair, Pair::Right(_)) {
            one.next();
        }
        if !matches!(pair, Pair::Left(_)) {
            other.next();
        }
        each(pair);
    }
}

#[cfg(test)]
mod tests {
    use tidegate::record::PartitionId;

    use super::*;

    fn shown(offset: i64, index: u32, digest: u64) -> Shown {
        Shown { offset, index, output: 0, digest }
    }

    /// The record at 1 is filtered, that at 2 has two results, that at 3 a dead letter.
    fn run() -> Evidence {
        let mut only = Partition::new(PartitionId::new("in", 0), 0, 5);
        only.records = vec![0, 1, 2, 3, 4];
        only.results = vec![shown(0, 0, 10), shown(2, 0, 20), shown(2, 1, 21), shown(4, 0, 40)];
        only.dead = vec![3];
        let outputs = vec!["topic out".to_owned(), "topic more".to_owned()];
        Evidence { partitions: vec![only], outputs, ..Evidence::default() }
    }

    fn spoiled(spoil: impl FnOnce(&mut Partition)) -> Differences {
        let mut faults = run();
        spoil(&mut faults.partitions[0]);
        faults.sort();
        compare(&run(), &faults)
    }

    fn kinds(found: &Differences) -> Vec<(Kind, u64)> {
        found.findings.all().map(|(kind, count, _)| (kind, count)).collect()
    }

    #[test]
    fn two_runs_that_show_the_same_agree_whatever_was_filtered() {
        let found = compare(&run(), &run());
        assert_eq!(found, Differences { results: 4, dead: 1, ..Differences::default() });
    }

    #[test]
    fn what_is_in_one_run_alone_is_missing_or_extra() {
        let found = spoiled(|p| p.results.retain(|shown| (shown.offset, shown.index) != (2, 1)));
        assert_eq!(kinds(&found), [(Kind::Missing, 1)]);
        assert_eq!(found.results, 3);
        let found = spoiled(|p| p.results.push(shown(1, 0, 11)));
        assert_eq!(kinds(&found), [(Kind::Extra, 1)]);
        let (.., places) = found.findings.all().next().expect("one was found");
        assert_eq!(places, ["in/0/1/0 in topic out"]);
        let found = spoiled(|p| p.results[0].output = 1);
        assert_eq!(kinds(&found), [(Kind::Missing, 1), (Kind::Extra, 1)], "another topic");
        let found = spoiled(|p| p.dead = vec![1]);
        assert_eq!(kinds(&found), [(Kind::Missing, 1), (Kind::Extra, 1)], "dead letters");
        let nothing = spoiled(|p| p.results.clear());
        assert_eq!((kinds(&nothing), nothing.results), (vec![(Kind::Missing, 4)], 0));
    }

    #[test]
    fn what_differs_is_found_also_in_a_copy() {
        let found = spoiled(|p| p.results[3].digest = 41);
        assert_eq!(kinds(&found), [(Kind::Different, 1)]);
        assert_eq!(found.different[0].1.lineage().to_string(), "in/0/4/0");
        let found = spoiled(|p| p.results.push(shown(4, 0, 41)));
        assert_eq!(kinds(&found), [(Kind::Different, 1)]);
        let found = spoiled(|p| p.results.push(shown(4, 0, 40)));
        assert_eq!(kinds(&found), [], "that it is there twice is said of that run alone");
    }

    #[test]
    fn only_what_both_runs_have_passed_is_compared() {
        let found = spoiled(|p| {
            p.next = 7;
            p.results.extend([shown(5, 0, 50), shown(6, 0, 60)]);
        });
        assert_eq!((kinds(&found), found.results), (vec![], 4));
        let found = spoiled(|p| {
            p.first = 2;
            p.results.retain(|shown| shown.offset >= 2);
        });
        assert_eq!((kinds(&found), found.results), (vec![], 3));
        let found = spoiled(|p| p.first = 5);
        assert_eq!((found.apart.len(), found.results), (1, 0));
        let found = spoiled(|p| p.id = PartitionId::new("in", 1));
        assert_eq!(found.apart, ["in/0", "in/1"]);
    }
}
