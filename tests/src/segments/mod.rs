//! What the broker itself wrote down: the batches of its log segments, transaction by transaction.
//!
//! A reader of committed records sees what a transaction left, not the transaction. The segments tell which producer
//! wrote what between which of its markers, and which offsets it stored for the group in the same transaction: whether
//! results and progress really went together, and whether what was aborted stayed invisible.

mod agree;
mod batch;
mod offsets;
#[cfg(test)]
mod planted;
mod stretch;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::audit::{Evidence, Output, Partition, Source, Wanted};
use crate::fleet::{Scene, Store};
use crate::readers::{Names, parse_source, read_ends};
use crate::servers::Kafka;

pub use agree::Agreed;
use agree::{Outputs, agree};
use offsets::{Move, moves};
use stretch::{Ended, stretches};

const OFFSETS: &str = "__consumer_offsets";
const SOURCE: &[u8] = b"tidegate-source";

/// Compares every transaction in the segments of the output topics with the offsets that it stored, and both with what
/// the input asks for. `None` if the outputs go elsewhere.
///
/// # Errors
/// The first transaction that is wrong, and how; or that the segments cannot be read.
pub async fn transactions_agree(
    kafka: &Kafka,
    scene: &Scene,
    evidence: &Evidence,
    wanted: &Wanted,
) -> Result<Option<Agreed>> {
    let Store::Kafka(output) = &scene.store else { return Ok(None) };
    let mut moves = Vec::new();
    for partition in partitions(scene, OFFSETS).await? {
        let log = kafka.segments(OFFSETS, partition).await?;
        moves.extend(self::moves(&log, &scene.group).context("stored offsets")?);
    }
    let copies = outputs(kafka, scene, output).await?;
    let dead = outputs(kafka, scene, &format!("{output}.dead-letters")).await?;
    for (shown, seen, what) in
        [(&copies, &evidence.outputs, "copies"), (&dead, &evidence.dead, "dead letters")]
    {
        visible(shown, seen).context(what)?;
    }
    ends_where_progress_is(&moves, evidence)?;
    Ok(Some(agree(&moves, &copies, &dead, wanted).map_err(anyhow::Error::msg)?))
}

/// What the segments hold that a reader does not see: holes in the offsets, by their reason.
///
/// # Errors
/// When the segments cannot be read.
pub async fn holes(kafka: &Kafka, scene: &Scene) -> Result<Holes> {
    let mut holes = Holes::default();
    for partition in partitions(scene, &scene.input).await? {
        let log = kafka.segments(&scene.input, partition).await?;
        for batch in batch::batches(&log) {
            holes.markers += usize::from(batch?.control);
        }
        let aborted = stretches(&log, |_| Ok(Some(())))?.0;
        let aborted = aborted.iter().filter(|stretch| stretch.ended == Ended::Aborted);
        holes.aborted += aborted.map(|stretch| stretch.records.len()).sum::<usize>();
    }
    Ok(holes)
}

/// Offsets of the input that no reader gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Holes {
    /// Markers of transactions.
    pub markers: usize,
    /// Records of transactions that were aborted.
    pub aborted: usize,
}

async fn partitions(scene: &Scene, topic: &str) -> Result<Vec<i32>> {
    let ends = read_ends(scene.client(), &[topic]).await?;
    Ok(ends.into_keys().map(|(_, partition)| partition).collect())
}

async fn outputs(kafka: &Kafka, scene: &Scene, topic: &str) -> Result<Outputs> {
    let (mut outputs, mut names) = (BTreeMap::new(), Names::default());
    for partition in partitions(scene, topic).await? {
        let log = kafka.segments(topic, partition).await?;
        let (stretches, plain) = stretches(&log, |record| {
            let source = record.headers.iter().rfind(|(name, _)| *name == SOURCE);
            let source = source.and_then(|(_, value)| std::str::from_utf8((*value)?).ok());
            let source = source.and_then(|text| parse_source(text, &mut names));
            let source = source.context("a record that does not say where it comes from");
            Ok(Some((source?, record.offset)))
        })
        .with_context(|| format!("{topic}/{partition}"))?;
        ensure!(plain.is_empty(), "{topic}/{partition}: {} records of no transaction", plain.len());
        outputs.insert(partition, stretches);
    }
    Ok(outputs)
}

/// What a reader of committed records got is what committed transactions wrote, and nothing else.
fn visible(written: &Outputs, seen: &[Output]) -> Result<()> {
    let mut committed = Vec::new();
    for (partition, stretches) in written {
        for stretch in stretches.iter().filter(|stretch| stretch.ended == Ended::Committed) {
            let place = |(source, offset): &(Source, i64)| (*partition, *offset, source.clone());
            committed.extend(stretch.records.iter().map(place));
        }
    }
    let mut seen: Vec<_> = seen.iter().map(|o| (o.stream, o.place, o.source.clone())).collect();
    committed.sort_unstable();
    seen.sort_unstable();
    let first = committed.iter().zip(&seen).find(|(written, seen)| written != seen);
    ensure!(first.is_none(), "a reader sees other records than were committed: {first:?}");
    let (written, seen) = (committed.len(), seen.len());
    ensure!(written == seen, "{written} records were committed, a reader sees {seen}");
    Ok(())
}

/// The last offsets in the segments are the group's.
fn ends_where_progress_is(moves: &[Move], evidence: &Evidence) -> Result<()> {
    let mut last: BTreeMap<&Partition, Option<i64>> = BTreeMap::new();
    for one in moves {
        last.extend(one.next.iter().map(|(partition, next)| (partition, *next)));
    }
    for (partition, next) in &evidence.progress {
        let (topic, number) = partition;
        let stored = last.get(partition).copied().flatten();
        ensure!(stored == Some(*next), "{topic}/{number}: {next} is stored, {stored:?} written");
    }
    Ok(())
}
