//! Reads back what a run left, after its last process has ended.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use tidegate::record::{Offset, PartitionId};
use tidegate_kafka::{LogRange, ReadRange, ReadRecord};
use tidegate_sql::Contents;

use super::begin::{self, Start, closed};
use super::evidence::{Evidence, Gathering, Partition, Sharing};
use super::screen::Screen;
use super::target::{Outputs, Target};
use crate::failure::Failure;

/// Everything that the run left.
pub(crate) async fn read(
    target: &Target,
    start: &Start,
    within: Duration,
    screen: &Screen,
) -> Result<Evidence, Failure> {
    match &target.outputs {
        Outputs::Topics { results, dead } => {
            let dead = dead.as_deref();
            topics(target, start, results, dead, within, screen).await
        }
        Outputs::Tables { .. } => tables(target, start, within).await,
    }
}

async fn topics(
    target: &Target,
    start: &Start,
    results: &[String],
    dead: Option<&str>,
    within: Duration,
    screen: &Screen,
) -> Result<Evidence, Failure> {
    // Until then a reader of committed data does not see the end.
    let outputs = closed(target, &target.output_topics(), within, screen).await?;
    let stored = begin::stable(target, None, within).await?;
    let partitions = partitions(target, start, &stored).await?;
    let all = Gathering::new(partitions, target.output_names(), Sharing::OneOutput);
    let all = input(target, all).await?;
    let is_dead = |log: &&LogRange| Some(log.partition.topic().as_str()) == dead;
    let shown: Vec<&LogRange> = outputs.iter().filter(|log| !is_dead(log)).collect();
    let numbers: Vec<u32> =
        shown.iter().map(|log| output_number(results, &log.partition)).collect();
    let ranges = shown.into_iter().map(|log| range(start, log)).collect();
    let contents = target.contents;
    let each = move |all: &mut Gathering, record: &ReadRecord<'_>| {
        let digest = match contents {
            Contents::Read => digest(&[record.key, record.value]),
            Contents::LeftOut => 0,
        };
        // Every partition is a stream of its own.
        let stream = u32::try_from(record.range).ok();
        all.result(numbers[record.range], stream, record.lineage, digest);
    };
    let (kafka, group) = (&target.kafka, &target.group);
    let all = kafka.read_committed(group, ranges, all, each).await?;
    let ranges = outputs.iter().filter(is_dead).map(|log| range(start, log)).collect();
    let each = |all: &mut Gathering, record: &ReadRecord<'_>| all.dead(record.lineage);
    let all = kafka.read_committed(group, ranges, all, each).await?;
    Ok(all.finish(start.before))
}

async fn tables(target: &Target, start: &Start, within: Duration) -> Result<Evidence, Failure> {
    let Some(mut database) = target.database().await? else {
        return Err(Failure::failed("the file of the results does not exist"));
    };
    // Progress and rows of one moment.
    database.snapshot().await?;
    let stored = begin::stable(target, Some(&mut database), within).await?;
    let partitions = partitions(target, start, &stored).await?;
    let all = Gathering::new(partitions, target.output_names(), Sharing::SeveralOutputs);
    let mut all = input(target, all).await?;
    begin::read_tables(target, &mut database, &mut all).await?;
    Ok(all.finish(start.before))
}

/// The partitions of the input, those that came later among them.
async fn partitions(
    target: &Target,
    start: &Start,
    stored: &super::database::Positions,
) -> Result<Vec<Partition>, Failure> {
    let all = target.cluster.partitions(target.inputs.iter().cloned()).await?;
    let partition = |id: PartitionId| {
        let first = start.first(&id);
        let next = stored.get(&id).copied().unwrap_or(first);
        Partition::new(id, first, next)
    };
    Ok(all.into_iter().map(partition).collect())
}

/// Reads the records that progress has passed.
async fn input(target: &Target, all: Gathering) -> Result<Gathering, Failure> {
    let at = |offset: i64| Offset::try_new(offset).unwrap_or_default();
    let ranges = all
        .partitions()
        .iter()
        .map(|p| ReadRange { partition: p.id.clone(), first: at(p.first), next: at(p.next) })
        .collect();
    let each = |all: &mut Gathering, record: &ReadRecord<'_>| {
        all.record(record.range, record.offset.get());
    };
    Ok(target.kafka.read_committed(&target.group, ranges, all, each).await?)
}

/// What was written to an output partition since the run began.
fn range(start: &Start, log: &LogRange) -> ReadRange {
    let first = start.marks.get(&log.partition).copied().unwrap_or_default();
    ReadRange {
        partition: log.partition.clone(),
        first: Offset::try_new(first).unwrap_or_default(),
        next: log.stable_end,
    }
}

fn output_number(topics: &[String], partition: &PartitionId) -> u32 {
    let number = topics.iter().position(|topic| topic == partition.topic().as_str());
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
}

/// A hash of what a result holds. Two runs are compared within one process, so it need not be the
/// same tomorrow.
pub(crate) fn digest(parts: &[Option<&[u8]>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in parts {
        match part {
            // Null is not empty, and where a part ends matters.
            None => hasher.write_u8(0),
            Some(bytes) => {
                hasher.write_u8(1);
                hasher.write_usize(bytes.len());
                hasher.write(bytes);
            }
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_null_from_empty_and_where_a_part_ends() {
        let all = [
            digest(&[None, None]),
            digest(&[None, Some(b"")]),
            digest(&[Some(b""), None]),
            digest(&[Some(b"ab"), Some(b"c")]),
            digest(&[Some(b"a"), Some(b"bc")]),
        ];
        for (number, one) in all.iter().enumerate() {
            assert!(!all[..number].contains(one), "{number}");
        }
        assert_eq!(digest(&[Some(b"a")]), digest(&[Some(b"a")]));
    }
}
