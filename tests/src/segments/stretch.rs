//! What one producer wrote into one partition between two of its markers: its part of one transaction.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};

use super::batch::{Batch, Record, batches};

/// How a transaction ended in a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    Committed,
    Aborted,
    /// No marker stands behind it.
    Open,
}

/// A part of one transaction.
#[derive(Clone, Debug)]
pub(super) struct Stretch<T> {
    pub(super) producer: i64,
    pub(super) epoch: i16,
    pub(super) ended: Ended,
    /// The marker has a later epoch: the coordinator ended it, because of its time-out or for an heir.
    pub(super) by_coordinator: bool,
    /// Offset of the marker.
    pub(super) marker: i64,
    pub(super) records: Vec<T>,
}

/// All stretches of a partition's log in the order of their markers, those without one last; and what was written in no
/// transaction. Of each record is kept what `keep` makes of it.
pub(super) fn stretches<T>(
    log: &[u8],
    mut keep: impl FnMut(&Record<'_>) -> Result<Option<T>>,
) -> Result<(Vec<Stretch<T>>, Vec<T>)> {
    let (mut ended, mut plain) = (Vec::new(), Vec::new());
    let mut open: HashMap<i64, Stretch<T>> = HashMap::new();
    for batch in batches(log) {
        let batch = batch?;
        if batch.control {
            let (how, marker) = end(&batch)?;
            // One that has written nothing here leaves a marker all the same.
            if let Some(mut stretch) = open.remove(&batch.producer) {
                stretch.by_coordinator = batch.epoch != stretch.epoch;
                (stretch.ended, stretch.marker) = (how, marker);
                ended.push(stretch);
            }
            continue;
        }
        let into = if batch.transactional {
            let Batch { producer, epoch, .. } = batch;
            let stretch = open.entry(producer).or_insert_with(|| Stretch {
                producer,
                epoch,
                ended: Ended::Open,
                by_coordinator: false,
                marker: i64::MAX,
                records: Vec::new(),
            });
            if stretch.epoch != epoch {
                bail!("producer {producer}: epochs {} and {epoch} in one stretch", stretch.epoch);
            }
            &mut stretch.records
        } else {
            &mut plain
        };
        for record in &batch.records {
            into.extend(keep(record)?);
        }
    }
    ended.extend(open.into_values());
    Ok((ended, plain))
}

fn end(marker: &Batch<'_>) -> Result<(Ended, i64)> {
    let record = marker.records.first().context("a marker without a record")?;
    let ended = match record.key {
        Some([_, _, 0, 0, ..]) => Ended::Aborted,
        Some([_, _, 0, 1, ..]) => Ended::Committed,
        other => bail!("a marker of an unknown kind: {other:?}"),
    };
    Ok((ended, record.offset))
}

#[cfg(test)]
mod tests {
    use super::super::planted::{data, marker, plain};
    use super::*;

    #[test]
    fn what_lies_between_two_markers_of_a_producer_is_a_stretch() {
        let one = |offset, producer| data(producer, 0, offset, &[(b"", b"", None)]);
        let log = [
            one(0, 1),
            one(1, 2),
            one(2, 1),
            marker(1, 0, 3, true),
            marker(3, 0, 4, false),
            one(5, 1),
            marker(2, 1, 6, false),
            plain(7, &[(b"", b"", None)]),
        ];
        let keep = |record: &Record<'_>| Ok(Some(record.offset));
        let (stretches, plain) = stretches(&log.concat(), keep).expect("whole");
        let seen: Vec<_> = stretches
            .iter()
            .map(|s| (s.producer, s.ended, s.by_coordinator, &s.records[..]))
            .collect();
        assert_eq!(
            seen,
            [
                (1, Ended::Committed, false, &[0, 2][..]),
                (2, Ended::Aborted, true, &[1]),
                (1, Ended::Open, false, &[5]),
            ]
        );
        assert_eq!(plain, [7]);
    }

    #[test]
    fn two_epochs_without_a_marker_between_them_are_an_error() {
        let log = [data(1, 0, 0, &[(b"", b"", None)]), data(1, 1, 1, &[(b"", b"", None)])].concat();
        assert!(stretches(&log, |_| Ok(Some(()))).is_err());
    }
}
