//! What is looked at before anything is started: whether there is work, whether nobody else does
//! it, and what stands in the outputs already.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::record::{Offset, PartitionId};
use tidegate_kafka::{LogRange, ReadRange, ReadRecord};
use tidegate_sql::{ReadRow, ReadTable};
use tokio::time::sleep;

use super::database::{Database, Positions};
use super::evidence::{Gathering, Odd, Partition, Sharing};
use super::read::digest;
use super::screen::Screen;
use super::target::{Kept, Offsets, Outputs, Target};
use crate::failure::Failure;

/// How often an open transaction is looked for.
const LOOK: Duration = Duration::from_millis(500);
/// How many records of an output partition are looked at while a run goes on.
const PROBED: i64 = 100;

/// Where a run began.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    /// The positions of the input.
    pub(crate) first: Arc<Positions>,
    /// Where the input ended.
    pub(crate) ends: Positions,
    /// Where the output topics ended: what stands before is not of this run.
    pub(crate) marks: Positions,
    /// What stood in tables and is no evidence.
    pub(crate) before: Odd,
}

impl Start {
    pub(crate) fn first(&self, partition: &PartitionId) -> i64 {
        self.first.get(partition).copied().unwrap_or_default()
    }

    /// How many offsets there are to do.
    pub(crate) fn work(&self) -> i64 {
        self.ends.iter().map(|(partition, end)| end - self.first(partition)).sum()
    }
}

/// Looks at everything, or refuses with the reason.
pub(crate) async fn begin(
    target: &Target,
    within: Duration,
    screen: &Screen,
) -> Result<Start, Failure> {
    let logs = target.logs(&target.inputs).await.map_err(asked("--input"))?;
    nobody_is_there(target, within, screen).await?;
    let marks = marks(target, within, screen).await?;
    let mut database = target.database().await.map_err(database_failed)?;
    let stored = stable(target, database.as_mut(), within).await?;
    let first = first(&logs, &stored)?;
    let ends: Positions =
        logs.iter().map(|log| (log.partition.clone(), log.stable_end.get())).collect();
    let mut start = Start { first: Arc::new(first), ends, marks, before: Odd::default() };
    if start.work() <= 0 {
        let inputs = target.inputs.join(", ");
        return Err(Failure::usage(format_args!(
            "--input: group {} has nothing left to read in {inputs}: put records into it, or move \
             the group with `tidegate offsets reset`",
            target.group
        )));
    }
    if let Some(database) = &mut database {
        start.before = tables(target, database, &start).await?;
    }
    Ok(start)
}

/// The failure of a question about what an option names.
fn asked(option: &str) -> impl Fn(tidegate::Error) -> Failure {
    move |error| match error.to_string() {
        problem if problem.contains("does not exist") => {
            Failure::usage(format_args!("{option}: {problem}"))
        }
        problem => Failure::failed(format_args!("--kafka: {problem}")),
    }
}

fn database_failed(error: tidegate::Error) -> Failure {
    match Failure::from(error) {
        Failure::Usage(problem) => Failure::usage(format_args!("the database: {problem}")),
        other => Failure::failed(format_args!("the database: {other}")),
    }
}

/// Whether the table exists; one that cannot be read back is refused.
async fn check(database: &mut Database, table: &ReadTable) -> Result<bool, Failure> {
    database.check(table).await.map_err(|error| match Failure::from(error) {
        Failure::Usage(problem) => Failure::usage(format_args!("--output: {problem}")),
        other => other,
    })
}

/// Nothing but what is started here may write. Who has died, or has ended under an instance name, is
/// a member until its session is over.
async fn nobody_is_there(
    target: &Target,
    within: Duration,
    screen: &Screen,
) -> Result<(), Failure> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let members = target.cluster.group_members(&target.group).await?;
        if members == 0 {
            return Ok(());
        }
        let there = format!(
            "{} has {members} live member{}",
            target.group,
            if members == 1 { "" } else { "s" }
        );
        if began.elapsed() > within {
            return Err(Failure::usage(format_args!(
                "--group: {there}: end them first, so that nothing but what is started here writes"
            )));
        }
        if !told {
            screen.say(&format!("group {there}; waiting until they leave or their sessions end"));
            told = true;
        }
        sleep(LOOK).await;
    }
}

/// Where each partition begins: at the stored position, else at the beginning of its log.
fn first(logs: &[LogRange], stored: &Positions) -> Result<Positions, Failure> {
    logs.iter()
        .map(|LogRange { partition, start, end, .. }| {
            let (start, end) = (start.get(), end.get());
            let first = stored.get(partition).copied().unwrap_or(start);
            if !(start..=end).contains(&first) {
                return Err(Failure::usage(format_args!(
                    "--group: its stored offset {first} of {partition} lies outside the log, which \
                     has {start} to {end}: move the group with `tidegate offsets reset`"
                )));
            }
            Ok((partition.clone(), first))
        })
        .collect()
}

/// The ends of the output topics, once no transaction is open there: what it holds could appear
/// later and would look as if this run had written it.
async fn marks(target: &Target, within: Duration, screen: &Screen) -> Result<Positions, Failure> {
    let topics = target.output_topics();
    let logs = closed(target, &topics, within, screen).await.map_err(asked("--output"))?;
    Ok(logs.into_iter().map(|log| (log.partition, log.end.get())).collect())
}

/// The logs of these topics once no transaction is open in them.
pub(crate) async fn closed(
    target: &Target,
    topics: &[String],
    within: Duration,
    screen: &Screen,
) -> Result<Vec<LogRange>, tidegate::Error> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let logs = target.logs(topics).await?;
        let Some(open) = logs.iter().find(|log| log.stable_end < log.end) else {
            return Ok(logs);
        };
        let partition = &open.partition;
        if began.elapsed() > within {
            return Err(tidegate::Error::source_failed(format_args!(
                "a transaction stays open in {partition} for more than {:.0} s",
                within.as_secs_f64()
            ))
            .remedy("whoever writes there must end, or its transaction_timeout pass"));
        }
        if !told {
            screen.say(&format!("waiting for the open transaction in {partition} to end"));
            told = true;
        }
        sleep(LOOK).await;
    }
}

/// Stored progress once no transaction is open that would store more. One that was left open ends by
/// its time-out, which may be a minute.
pub(crate) async fn stable(
    target: &Target,
    mut database: Option<&mut Database>,
    within: Duration,
) -> Result<Positions, tidegate::Error> {
    let began = Instant::now();
    loop {
        let stored = target.progress(database.as_deref_mut(), Offsets::Stable).await;
        if stored.is_ok() || target.kept == Kept::Database || began.elapsed() > within {
            return stored;
        }
        sleep(LOOK).await;
    }
}

/// What stands in the tables already. Results of records that are still to be done would look like
/// duplicates.
async fn tables(target: &Target, database: &mut Database, start: &Start) -> Result<Odd, Failure> {
    let partition = |(id, first): (&PartitionId, &i64)| Partition::new(id.clone(), *first, *first);
    let partitions = start.first.iter().map(partition).collect();
    let mut all = Gathering::new(partitions, target.output_names(), Sharing::SeveralOutputs);
    read_tables(target, database, &mut all).await?;
    let found = all.finish(Odd::default());
    for partition in &found.partitions {
        let results = partition.results.first();
        let output = results.and_then(|shown| usize::try_from(shown.output).ok());
        let place = match (output, partition.dead.is_empty()) {
            (Some(output), _) => found.outputs[output].clone(),
            (None, false) => "the table of dead letters".to_owned(),
            (None, true) => continue,
        };
        return Err(Failure::usage(format_args!(
            "--output: {place} holds results of {} at or behind offset {}, where group {} would \
             begin: empty it, or go on with the group that wrote them",
            partition.id, partition.first, target.group
        )));
    }
    Ok(found.odd)
}

/// Reads the tables and the dead letters, if they are there.
pub(crate) async fn read_tables(
    target: &Target,
    database: &mut Database,
    all: &mut Gathering,
) -> Result<(), Failure> {
    let Outputs::Tables { tables, .. } = &target.outputs else { return Ok(()) };
    for (output, table) in (0..).zip(tables) {
        if !check(database, table).await? {
            continue;
        }
        let stream = table.is_ordered().then_some(output);
        let each = |row: &ReadRow<'_>| {
            let digest = row.contents.map_or(0, |text| digest(&[Some(text.as_bytes())]));
            all.result(output, stream, row.lineage, digest);
        };
        database.rows(table, each).await?;
    }
    database.dead_letters(&target.group, |lineage| all.dead(Some(lineage))).await?;
    Ok(())
}

/// Looks at the outputs once something is stored, so that what cannot be compared is refused at
/// once and not after all the faults.
pub(crate) async fn probe(target: &Target, start: &Start) -> Result<(), Failure> {
    match &target.outputs {
        Outputs::Topics { results, .. } => probe_topics(target, results, start).await,
        Outputs::Tables { tables, .. } => {
            let Some(mut database) = target.database().await? else {
                return Err(Failure::usage(
                    "--sqlite: the file does not exist although progress moves: the command writes \
                     to another one",
                ));
            };
            for table in tables {
                if !check(&mut database, table).await? {
                    let name = table.label();
                    return Err(Failure::usage(format_args!(
                        "--output: table {name} does not exist"
                    )));
                }
            }
            Ok(())
        }
    }
}

async fn probe_topics(target: &Target, topics: &[String], start: &Start) -> Result<(), Failure> {
    let logs = target.logs(topics).await?;
    let ranges: Vec<ReadRange> = logs
        .into_iter()
        .map(|log| {
            let first = start.marks.get(&log.partition).copied().unwrap_or_default();
            let next = log.stable_end.get().min(first + PROBED);
            let offset = |at: i64| Offset::try_new(at).unwrap_or_default();
            ReadRange { first: offset(first), next: offset(next), partition: log.partition }
        })
        .collect();
    let names: Vec<PartitionId> = ranges.iter().map(|range| range.partition.clone()).collect();
    let silent: Option<PartitionId> = target
        .kafka
        .read_committed(&target.group, ranges, None, move |silent, record: &ReadRecord<'_>| {
            if record.lineage.is_none() && silent.is_none() {
                *silent = Some(names[record.range].clone());
            }
        })
        .await?;
    match silent {
        None => Ok(()),
        Some(partition) => Err(Failure::usage(format_args!(
            "--output: records in {partition} do not say what they were made from: add \
             `.lineage()` to the sink"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(start: i64, end: i64) -> LogRange {
        LogRange {
            partition: PartitionId::new("in", 0),
            start: Offset::new(start),
            stable_end: Offset::new(end),
            end: Offset::new(end),
        }
    }

    #[test]
    fn a_run_begins_at_the_stored_position_or_at_the_beginning_of_the_log() {
        let at = |offset| Positions::from([(PartitionId::new("in", 0), offset)]);
        assert_eq!(first(&[log(5, 9)], &Positions::new()).expect("nothing is stored"), at(5));
        assert_eq!(first(&[log(5, 9)], &at(7)).expect("it is inside"), at(7));
        for outside in [4, 10] {
            let problem = first(&[log(5, 9)], &at(outside)).expect_err("outside").to_string();
            assert!(problem.contains("tidegate offsets reset"), "{problem}");
        }
    }
}
