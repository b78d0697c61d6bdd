//! Whether a store is right in every single moment: what it showed each time while it was written, compared with the
//! input afterwards.

use std::collections::BTreeMap;
use std::fmt;

use super::Partition;
use super::report::name;
use super::wanted::{Count, Wanted};

/// What a store showed in one moment, of what was new since the moment before.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// Progress of each partition: where it stood the moment before, if it was stored, and where it stands.
    pub progress: BTreeMap<Partition, Stride>,
    /// Rows of each partition that were not seen before.
    pub new: BTreeMap<Partition, Rows>,
    /// How many rows of each partition there are in all, if they were counted.
    pub totals: Option<BTreeMap<Partition, Count>>,
}

/// How far progress has moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stride {
    /// Where it stood before; 0 if there was none.
    pub from: i64,
    /// Where it stands.
    pub next: i64,
}

/// Rows of one partition.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Copies: offset of the record, number of the copy.
    pub copies: Vec<(i64, i32)>,
    /// Dead letters: offset of the record.
    pub dead: Vec<i64>,
}

/// What was compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watched {
    /// Moments in which anything was stored.
    pub moments: usize,
    /// … of which all rows were counted too.
    pub counted: usize,
    /// Records that became done from one moment to the next.
    pub records: usize,
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { moments, counted, records } = self;
        write!(f, "{moments} moments compared, {counted} of them whole, {records} records")
    }
}

/// In each moment everything that progress has passed since the one before is there once, and nothing else is new.
///
/// # Errors
/// The first moment that is wrong, and how.
pub fn watched(moments: &[Moment], wanted: &Wanted) -> Result<Watched, String> {
    let mut watched = Watched::default();
    for (number, moment) in moments.iter().enumerate() {
        let wrong = |text: String| format!("moment {number} of {}: {text}", moments.len());
        watched.records += compare_new(moment, wanted).map_err(wrong)?;
        if let Some(totals) = &moment.totals {
            compare_totals(moment, totals, wanted).map_err(wrong)?;
            watched.counted += usize::from(!moment.progress.is_empty());
        }
        watched.moments += usize::from(!moment.progress.is_empty());
    }
    Ok(watched)
}

fn compare_new(moment: &Moment, wanted: &Wanted) -> Result<usize, String> {
    let mut records = 0;
    if let Some(stray) = moment.new.keys().find(|one| !moment.progress.contains_key(*one)) {
        return Err(format!("rows of {}, which has no progress", name(stray)));
    }
    for (partition, Stride { from, next }) in &moment.progress {
        if next < from {
            return Err(format!("progress of {} went from {from} to {next}", name(partition)));
        }
        let none = Rows::default();
        let rows = moment.new.get(partition).unwrap_or(&none);
        let (mut copies, mut dead) = (rows.copies.clone(), rows.dead.clone());
        copies.sort_unstable();
        dead.sort_unstable();
        let stretch = *from..*next;
        let differ = |what, first| {
            format!("{}, progress from {from} to {next}: {what} {first}", name(partition))
        };
        if let Some(first) = difference(copies, wanted.copies(partition, stretch.clone())) {
            return Err(differ("copy", first));
        }
        if let Some(first) = difference(dead, wanted.dead(partition, stretch.clone())) {
            return Err(differ("dead letter", first));
        }
        records += wanted.len(partition, stretch);
    }
    Ok(records)
}

/// Where two rising sequences differ first.
fn difference<T: Ord + fmt::Debug>(
    shown: Vec<T>,
    wanted: impl Iterator<Item = T>,
) -> Option<String> {
    let mut shown = shown.into_iter();
    for wanted in wanted {
        match shown.next() {
            Some(there) if there == wanted => {}
            Some(there) if there < wanted => return Some(format!("{there:?} too many")),
            _ => return Some(format!("{wanted:?} missing")),
        }
    }
    shown.next().map(|there| format!("{there:?} too many"))
}

fn compare_totals(
    moment: &Moment,
    totals: &BTreeMap<Partition, Count>,
    wanted: &Wanted,
) -> Result<(), String> {
    for partition in totals.keys().chain(moment.progress.keys()) {
        let there = totals.get(partition).copied().unwrap_or_default();
        let next = moment.progress.get(partition).map_or(i64::MIN, |stride| stride.next);
        let should = wanted.before(partition, next);
        if there != should {
            return Err(format!("{}: {there:?} in all, {should:?} before {next}", name(partition)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Input, Rules};
    use super::*;

    fn partition() -> Partition {
        ("in".into(), 0)
    }

    fn wanted() -> Wanted {
        let input = |(offset, value): (i64, &str)| Input {
            partition: partition(),
            offset,
            key: None,
            value: Some(value.into()),
        };
        let inputs = [(0, "a"), (1, "fan:2:"), (2, "poison:"), (4, "b"), (5, "c")].map(input);
        Wanted::of(&inputs, &Rules::default())
    }

    fn moment(from: i64, next: i64, copies: &[(i64, i32)], dead: &[i64]) -> Moment {
        let rows = Rows { copies: copies.to_vec(), dead: dead.to_vec() };
        Moment {
            progress: [(partition(), Stride { from, next })].into(),
            new: [(partition(), rows)].into(),
            totals: None,
        }
    }

    fn good() -> Vec<Moment> {
        let mut last = moment(3, 5, &[(4, 0)], &[]);
        last.totals = Some([(partition(), Count { copies: 4, dead: 1 })].into());
        vec![Moment::default(), moment(0, 3, &[(1, 1), (0, 0), (1, 0)], &[2]), last]
    }

    #[test]
    fn moments_in_which_rows_and_progress_agree_pass_and_are_counted() {
        let watched = watched(&good(), &wanted()).expect("they agree");
        assert_eq!(watched, Watched { moments: 2, counted: 1, records: 4 });
    }

    #[test]
    fn a_moment_that_disagrees_is_found() {
        let refused = |moment: Moment| watched(&[moment], &wanted()).expect_err("it is wrong");
        for (what, moment) in [
            ("missing", moment(0, 2, &[(0, 0), (1, 1)], &[])),
            ("missing", moment(0, 3, &[(0, 0), (1, 0), (1, 1)], &[])),
            ("too many", moment(0, 1, &[(0, 0), (0, 0)], &[])),
            ("too many", moment(0, 1, &[(0, 0), (1, 0)], &[])),
            ("too many", moment(0, 1, &[(0, 0)], &[2])),
            ("too many", moment(4, 5, &[(1, 0), (4, 0)], &[])),
            ("went from", moment(4, 3, &[], &[])),
        ] {
            let error = refused(moment);
            assert!(error.contains(what), "{error}");
        }
        let mut counted = moment(0, 1, &[(0, 0)], &[]);
        counted.totals = Some([(partition(), Count { copies: 2, dead: 0 })].into());
        assert!(refused(counted).contains("in all"));
        let mut stray = moment(0, 1, &[(0, 0)], &[]);
        stray.progress.clear();
        assert!(refused(stray).contains("no progress"));
    }
}
