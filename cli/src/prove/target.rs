//! What one run works on, by its own names: the input, the outputs, and where progress is kept.

use std::collections::BTreeMap;

use tidegate::record::PartitionId;
use tidegate_kafka::{Admin, Kafka, LogRange};
use tidegate_sql::{Contents, ReadTable};

use super::args::{Guarantee, Prove};
use super::database::{Address, Database, Positions};
use super::names::{self, Run};
use crate::failure::Failure;
use crate::store;

/// What one run works on.
pub(crate) struct Target {
    pub(crate) kafka: Kafka,
    pub(crate) cluster: Admin,
    pub(crate) group: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Outputs,
    pub(crate) kept: Kept,
    /// Whether what results hold is compared.
    pub(crate) contents: Contents,
}

/// Where results are.
pub(crate) enum Outputs {
    Topics { results: Vec<String>, dead: Option<String> },
    Tables { address: Address, tables: Vec<ReadTable> },
}

/// Where progress is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    /// In the consumer group.
    Group,
    /// With the results.
    Database,
}

/// Which offsets of a group count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offsets {
    /// Those that are stored now.
    Now,
    /// Those after open transactions, which are waited for.
    Stable,
}

impl Target {
    /// What this run works on. Nothing is connected.
    pub(crate) fn new(args: &Prove, run: Run) -> Result<Self, Failure> {
        let kafka = store::kafka(&args.place)?
            .ok_or_else(|| Failure::usage("--kafka is missing: the input is there"))?;
        let fill = |text: &str| run.fill(text);
        let contents = match run {
            Run::Only => Contents::LeftOut,
            Run::Calm | Run::Faults => Contents::Read,
        };
        let names: Vec<String> = args.output.iter().map(|name| run.fill(name)).collect();
        let outputs = match Address::of(&args.place, fill) {
            None => {
                let dead = args.dead_letters.as_deref().map(fill);
                Outputs::Topics { results: names, dead }
            }
            Some(address) => {
                let tables = names.iter().map(|name| table(args, name, contents));
                Outputs::Tables { address, tables: tables.collect::<Result<_, _>>()? }
            }
        };
        let kept = match (&outputs, args.guarantee) {
            (Outputs::Tables { .. }, Guarantee::ExactlyOnce) => Kept::Database,
            _ => Kept::Group,
        };
        Ok(Self {
            cluster: kafka.admin()?,
            kafka,
            group: run.fill(&args.group),
            inputs: args.input.clone(),
            outputs,
            kept,
            contents,
        })
    }

    /// The outputs, as people call them.
    pub(crate) fn output_names(&self) -> Vec<String> {
        match &self.outputs {
            Outputs::Topics { results, .. } => {
                results.iter().map(|topic| format!("topic {topic}")).collect()
            }
            Outputs::Tables { tables, .. } => {
                tables.iter().map(|table| format!("table {}", table.label())).collect()
            }
        }
    }

    /// The topics that results and dead letters are written to.
    pub(crate) fn output_topics(&self) -> Vec<String> {
        match &self.outputs {
            Outputs::Topics { results, dead } => results.iter().chain(dead).cloned().collect(),
            Outputs::Tables { .. } => Vec::new(),
        }
    }

    /// The database of the results; `None` where there is none, or not yet.
    pub(crate) async fn database(&self) -> Result<Option<Database>, tidegate::Error> {
        match &self.outputs {
            Outputs::Topics { .. } => Ok(None),
            Outputs::Tables { address, .. } => address.open().await,
        }
    }

    /// Stored progress of the input, from where the guarantee keeps it.
    pub(crate) async fn progress(
        &self,
        database: Option<&mut Database>,
        offsets: Offsets,
    ) -> Result<Positions, tidegate::Error> {
        let mut stored: Positions = match (self.kept, offsets) {
            (Kept::Database, _) => match database {
                Some(database) => database.progress(&self.group).await?,
                None => BTreeMap::new(),
            },
            (Kept::Group, Offsets::Now) => {
                positions(self.cluster.group_offsets(&self.group).await?)
            }
            (Kept::Group, Offsets::Stable) => {
                positions(self.cluster.stable_group_offsets(&self.group).await?)
            }
        };
        stored.retain(|partition, _| {
            self.inputs.iter().any(|topic| topic == partition.topic().as_str())
        });
        Ok(stored)
    }

    /// The logs of these topics.
    pub(crate) async fn logs(&self, topics: &[String]) -> Result<Vec<LogRange>, tidegate::Error> {
        let partitions = self.cluster.partitions(topics.iter().cloned()).await?;
        self.cluster.log_ranges(&partitions).await
    }

    /// Where the logs of the input end for a reader of committed data.
    pub(crate) async fn ends(&self) -> Result<Positions, tidegate::Error> {
        let logs = self.logs(&self.inputs).await?;
        Ok(logs.into_iter().map(|log| (log.partition, log.stable_end.get())).collect())
    }
}

fn positions(stored: Vec<tidegate::source::Position>) -> BTreeMap<PartitionId, i64> {
    stored.into_iter().map(|position| (position.partition, position.next.get())).collect()
}

fn table(args: &Prove, name: &str, contents: Contents) -> Result<ReadTable, Failure> {
    let bad = |error| Failure::usage(format_args!("--output: {error}"));
    let mut table = ReadTable::new(name).map_err(bad)?;
    table.set_lineage(args.lineage.0.clone());
    table.ignore(&args.ignore);
    table.set_contents(contents);
    if let Some(column) = &args.order_by {
        table.order_by(column);
    }
    Ok(table)
}

/// The runs that are asked for: one, or two if names differ between runs. Names that would be those
/// of both runs are refused.
pub(crate) fn runs(args: &Prove) -> Result<Vec<Run>, Failure> {
    let place = &args.place;
    let command = args.command.iter().any(names::differs);
    let database = place.postgres.as_ref().is_some_and(names::differs)
        || place.sqlite.as_ref().is_some_and(names::differs);
    let outputs = args.output.iter().chain(&args.dead_letters);
    if !names::differs(&args.group) {
        let elsewhere = command || database || outputs.into_iter().any(names::differs);
        return match elsewhere {
            false => Ok(vec![Run::Only]),
            true => Err(Failure::usage(
                "--group has no {run}, and something else has: with {run} two runs are compared, \
                 each in a group of its own",
            )),
        };
    }
    if !command {
        return Err(Failure::usage(
            "the command has no {run}: it must be told which group and which outputs are those of \
             the run, as `--group orders-{run}` in this command and in its own",
        ));
    }
    if let Some(same) = { outputs }.find(|name| !names::differs(name) && !database) {
        return Err(Failure::usage(format_args!(
            "{same} has no {{run}}: each run needs outputs of its own, or their results look like \
             duplicates"
        )));
    }
    Ok(vec![Run::Calm, Run::Faults])
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn parse(words: &str) -> Prove {
        let base = "tidegate prove --kafka localhost:1 --input in";
        let words = base.split(' ').chain(words.split(' '));
        match Args::try_parse_from(words).expect("it can be read").command {
            Command::Prove(prove) => prove,
            Command::Offsets { .. } => unreachable!("it is the other command"),
        }
    }

    #[test]
    fn two_runs_are_compared_if_all_names_differ_and_one_is_looked_at_if_none_does() {
        for (words, expected) in [
            ("--group g --output o -- job", &[Run::Only][..]),
            ("--group g-{run} --output o-{run} -- job {run}", &[Run::Calm, Run::Faults]),
            ("--group g-{run} --output t --sqlite f-{run} -- job {run}", &[Run::Calm, Run::Faults]),
            (
                "--group g-{run} --output t --postgres postgres://h/{run} -- job {run}",
                &[Run::Calm, Run::Faults],
            ),
        ] {
            assert_eq!(runs(&parse(words)).expect(words), expected, "{words}");
        }
    }

    #[test]
    fn names_that_two_runs_would_share_are_refused() {
        for (words, says) in [
            ("--group g --output o-{run} -- job", "--group has no {run}"),
            ("--group g --output o -- job {run}", "--group has no {run}"),
            ("--group g-{run} --output o-{run} -- job", "the command has no {run}"),
            ("--group g-{run} --output o -- job {run}", "o has no {run}"),
            ("--group g-{run} --output o-{run},p -- job {run}", "p has no {run}"),
            ("--group g-{run} --output o-{run} --dead-letters d -- job {run}", "d has no {run}"),
        ] {
            let problem = runs(&parse(words)).expect_err(words).to_string();
            assert!(problem.contains(says), "{words}: {problem}");
        }
    }

    #[test]
    fn each_run_has_names_of_its_own() {
        let args = parse("--group g-{run} --output o-{run},p-{run} --dead-letters d{run} -- {run}");
        let target = Target::new(&args, Run::Faults).expect("it can be made");
        assert_eq!(target.group, "g-faults");
        assert_eq!(target.output_names(), ["topic o-faults", "topic p-faults"]);
        assert_eq!(target.output_topics(), ["o-faults", "p-faults", "dfaults"]);
        assert_eq!(target.contents, Contents::Read);
    }

    #[test]
    fn progress_is_looked_for_where_the_guarantee_keeps_it() {
        for (words, kept) in [
            ("--group g --output o -- job", Kept::Group),
            ("--group g --output t --sqlite f -- job", Kept::Database),
            ("--group g --output t --sqlite f --guarantee at-least-once -- job", Kept::Group),
        ] {
            let target = Target::new(&parse(words), Run::Only).expect("it can be made");
            assert_eq!(target.kept, kept, "{words}");
        }
    }

    #[test]
    fn what_the_input_is_in_must_be_named() {
        let words = "tidegate prove --sqlite f --group g --input in --output t -- job";
        let parsed = Args::try_parse_from(words.split(' ')).expect("it can be read");
        let Command::Prove(args) = parsed.command else { unreachable!("it is the other command") };
        let Err(problem) = Target::new(&args, Run::Only) else { panic!("there is no input") };
        assert!(problem.to_string().contains("--kafka"), "{problem}");
    }
}
