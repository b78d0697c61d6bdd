//! What should have become of each stretch of the input: for comparisons that look at a part of it.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Expected, Input, Partition, Rules, expected};

/// What should have become of the records of an input, in the order of their offsets.
#[derive(Clone, Debug, Default)]
pub struct Wanted(BTreeMap<Partition, Vec<Record>>);

#[derive(Clone, Copy, Debug)]
struct Record {
    offset: i64,
    wanted: Expected,
    /// Copies and dead letters of all records before this one.
    before: Count,
}

/// How many copies and dead letters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Copies.
    pub copies: u64,
    /// Dead letters.
    pub dead: u64,
}

impl Count {
    fn and(self, wanted: Expected) -> Self {
        match wanted {
            Expected::Copies(copies) => Self { copies: self.copies + u64::from(copies), ..self },
            Expected::Dead => Self { dead: self.dead + 1, ..self },
        }
    }
}

impl Wanted {
    /// Works it out, for records in any order.
    #[must_use]
    pub fn of(inputs: &[Input], rules: &Rules) -> Self {
        let mut all: BTreeMap<Partition, Vec<Record>> = BTreeMap::new();
        for input in inputs {
            let (offset, before) = (input.offset, Count::default());
            let record = Record { offset, wanted: expected(input.value.as_deref(), rules), before };
            match all.get_mut(&input.partition) {
                Some(records) => records.push(record),
                None => drop(all.insert(input.partition.clone(), vec![record])),
            }
        }
        for records in all.values_mut() {
            records.sort_by_key(|record| record.offset);
            let mut sum = Count::default();
            for record in records {
                record.before = sum;
                sum = sum.and(record.wanted);
            }
        }
        Self(all)
    }

    /// The copies of this stretch, each by its record's offset and its number.
    pub fn copies(
        &self,
        partition: &Partition,
        stretch: Range<i64>,
    ) -> impl Iterator<Item = (i64, i32)> {
        self.records(partition, stretch).iter().flat_map(|record| {
            let copies = match record.wanted {
                Expected::Copies(copies) => i32::try_from(copies).unwrap_or(i32::MAX),
                Expected::Dead => 0,
            };
            (0..copies).map(|i| (record.offset, i))
        })
    }

    /// The dead letters of this stretch, by the offsets of their records.
    pub fn dead(&self, partition: &Partition, stretch: Range<i64>) -> impl Iterator<Item = i64> {
        let records = self.records(partition, stretch).iter();
        records.filter(|record| record.wanted == Expected::Dead).map(|record| record.offset)
    }

    /// How many records this stretch has.
    #[must_use]
    pub fn len(&self, partition: &Partition, stretch: Range<i64>) -> usize {
        self.records(partition, stretch).len()
    }

    /// How many records ask for nothing.
    #[must_use]
    pub fn filtered(&self) -> usize {
        let records = self.0.values().flatten();
        records.filter(|record| record.wanted == Expected::Copies(0)).count()
    }

    /// How much there should be of all records before this offset.
    #[must_use]
    pub fn before(&self, partition: &Partition, offset: i64) -> Count {
        let last = self.records(partition, i64::MIN..offset).last();
        last.map_or_else(Count::default, |record| record.before.and(record.wanted))
    }

    fn records(&self, partition: &Partition, stretch: Range<i64>) -> &[Record] {
        let records = self.0.get(partition).map_or(&[][..], Vec::as_slice);
        let begin = records.partition_point(|record| record.offset < stretch.start);
        let end = records.partition_point(|record| record.offset < stretch.end);
        &records[begin..end.max(begin)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_has_what_its_records_ask_for() {
        let partition: Partition = ("in".into(), 0);
        let input = |offset, value: &str| Input {
            partition: partition.clone(),
            offset,
            key: None,
            value: Some(value.into()),
        };
        let inputs = [input(5, "poison:"), input(0, "one"), input(2, "fan:2:"), input(3, "drop:")];
        let wanted = Wanted::of(&inputs, &Rules::default());
        let copies = |stretch| wanted.copies(&partition, stretch).collect::<Vec<_>>();
        assert_eq!(copies(0..9), [(0, 0), (2, 0), (2, 1)]);
        assert_eq!(copies(1..2), []);
        assert_eq!(copies(3..3), []);
        assert_eq!(wanted.dead(&partition, 0..6).collect::<Vec<_>>(), [5]);
        assert_eq!(wanted.len(&partition, 0..5), 3);
        assert_eq!(wanted.filtered(), 1);
        assert_eq!(wanted.before(&partition, 2), Count { copies: 1, dead: 0 });
        assert_eq!(wanted.before(&partition, 6), Count { copies: 3, dead: 1 });
        assert_eq!(wanted.before(&("other".into(), 0), 6), Count::default());
    }
}
