//! The offsets of one group, as they were written to the log that holds them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::batch::{Cursor, Record};
use super::stretch::{Ended, stretches};
use crate::audit::Partition;

/// A move of the group's offsets that holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Move {
    /// Where it took effect.
    pub(super) at: i64,
    /// Producer and epoch, if it came with a transaction.
    pub(super) by: Option<(i64, i16)>,
    /// Where each partition stands from then on; nowhere if its offset was deleted.
    pub(super) next: BTreeMap<Partition, Option<i64>>,
}

/// One offset, as it was written: where in the log, of what, and its value unless it was deleted.
type Written = (i64, Partition, Option<i64>);

/// All moves of this group in a partition of the log, in the order in which they took effect.
pub(super) fn moves(log: &[u8], group: &str) -> Result<Vec<Move>> {
    let (stretches, plain) = stretches(log, |record| written(record, group))?;
    let mut moves = Vec::new();
    for stretch in stretches.into_iter().filter(|stretch| !stretch.records.is_empty()) {
        ensure!(stretch.ended != Ended::Open, "producer {}: open", stretch.producer);
        if stretch.ended == Ended::Committed {
            let next = stretch.records.into_iter().map(|(_, partition, next)| (partition, next));
            let by = Some((stretch.producer, stretch.epoch));
            moves.push(Move { at: stretch.marker, by, next: next.collect() });
        }
    }
    for (at, partition, next) in plain {
        moves.push(Move { at, by: None, next: [(partition, next)].into() });
    }
    moves.sort_by_key(|one| one.at);
    Ok(moves)
}

/// What a record says of this group's offsets. Keys begin with a version; 0 and 1 are offsets.
fn written(record: &Record<'_>, group: &str) -> Result<Option<Written>> {
    let mut key = Cursor(record.key.context("a record without a key")?);
    if !matches!(key.i16()?, 0 | 1) || text(&mut key)? != group {
        return Ok(None);
    }
    let (topic, partition) = (text(&mut key)?.into(), key.i32()?);
    let next = match record.value {
        None => None,
        Some(value) => {
            let mut value = Cursor(value);
            value.skip(2)?; // version
            Some(value.i64()?)
        }
    };
    Ok(Some((record.offset, (topic, partition), next)))
}

fn text<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str> {
    let length = usize::try_from(cursor.i16()?)?;
    Ok(std::str::from_utf8(cursor.take(length)?)?)
}

#[cfg(test)]
mod tests {
    use super::super::planted::{data, marker, offset, plain};
    use super::*;

    #[test]
    fn moves_take_effect_at_their_markers_and_only_those_of_the_group_that_were_committed() {
        let of = |group: &str, next| offset(group, "in", 3, next);
        let one = |(key, value): &(Vec<u8>, Vec<u8>), producer, at| {
            data(producer, 0, at, &[(key, value, None)])
        };
        let start = of("group", 0);
        let log = [
            plain(0, &[(&start.0, &start.1, None)]),
            one(&of("group", 5), 1, 1),
            one(&of("group", 9), 2, 2),
            one(&of("other", 7), 3, 3),
            marker(3, 0, 4, true),
            marker(2, 0, 5, false),
            marker(1, 0, 6, true),
        ];
        let found = moves(&log.concat(), "group").expect("whole");
        let found: Vec<_> = found
            .iter()
            .map(|m| (m.at, m.by, m.next.values().copied().collect::<Vec<_>>()))
            .collect();
        assert_eq!(found, [(0, None, vec![Some(0)]), (6, Some((1, 0)), vec![Some(5)])]);
    }
}
