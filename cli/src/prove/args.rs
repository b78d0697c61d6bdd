//! The command line of `prove`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::NonEmptyStringValueParser;

use crate::args::Place;
use crate::time::Length;

/// What stands below the options in the long help.
const EXPLAINED: &str = "\
What it needs:
  A command that runs the pipeline until SIGTERM, test servers, and records in the input. Every
  result must say what it was made from: `.lineage()` of the Kafka sink or of the table.

  {process} in the command becomes the number of the process, counted from 1, so that each can
  have a name of its own (`--instance pod-{process}`, or `env NAME=pod-{process} ./pipeline`). Stops
  should be longer than the session of the command (45 s unless its `session_timeout` is set), so
  that what was stopped comes back when others have its partitions.

How much a run shows:
  With {run} in --group, in the outputs and in the command, everything runs twice: as `calm`, left
  alone, and as `faults`. The results of both are compared by coordinates and by what they hold, so
  that filters and any number of results need no explaining. The outputs of both runs must exist.

  Without {run}, one run is compared with its input, and --results says what a record becomes.

Exit codes:
  0    the promise was kept, and every fault that was asked for hit a process that had work
  1    it was not kept: the first places of each kind of finding are printed
  2    it was asked wrongly, or the command does not start
  3    unknown: evidence is missing or cannot be read, or fewer faults hit than were asked for
  130  interrupted, nothing was judged

Examples:
  tidegate prove --kafka localhost:9092 --group routes-{run} --input flights \\
      --output routes-{run} --dead-letters routes-dead-{run} \\
      -- ./routes --run {run} --instance pod-{process}

  tidegate prove --kafka localhost:9092 --postgres postgres://localhost/geo --group quakes \\
      --input quakes --output quakes --results one --stop-for 50s -- ./quakes";

/// Kills and stops the processes of a pipeline again and again, then compares what it stored with
/// its input, by coordinates.
///
/// The command after `--` is started several times. Its processes are killed (SIGKILL) and stopped
/// (SIGSTOP, and SIGCONT later) at moments drawn from a seed, spread over the work, and started
/// again. Then they are left alone until everything is stored, and asked to end. What stands in the
/// outputs is read back as any reader sees it, and stored progress from where the guarantee keeps it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXPLAINED)]
pub(crate) struct Prove {
    /// The group, which is the pipeline's name.
    #[arg(long, value_name = "GROUP", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) group: String,
    /// The topics that the pipeline reads.
    #[arg(long, value_name = "TOPIC[,TOPIC]", value_delimiter = ',', required = true,
        value_parser = NonEmptyStringValueParser::new(), help_heading = "What is compared")]
    pub(crate) input: Vec<String>,
    /// Where its results are: topics, or with --postgres or --sqlite, tables. All of them, so that
    /// no result looks lost.
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',', required = true,
        value_parser = NonEmptyStringValueParser::new(), help_heading = "What is compared")]
    pub(crate) output: Vec<String>,
    /// The topic of its dead letters. In a database they are found by themselves.
    #[arg(long, value_name = "TOPIC", value_parser = NonEmptyStringValueParser::new(),
        conflicts_with_all = ["postgres", "sqlite"], help_heading = "What is compared")]
    pub(crate) dead_letters: Option<String>,
    /// What was promised, and so what is a failure.
    #[arg(long, value_enum, default_value_t = Guarantee::ExactlyOnce,
        help_heading = "What is compared")]
    pub(crate) guarantee: Guarantee,
    /// How many results a record has that is no dead letter: `one`, a number, `some` (one or more)
    /// or `any`. With `any` what is missing cannot be told from what is filtered.
    #[arg(long, value_name = "one|N|some|any", help_heading = "What is compared")]
    pub(crate) results: Option<Results>,
    /// The columns that hold the lineage, if they were named by `lineage_as`.
    #[arg(
        long,
        value_name = "TOPIC,PARTITION,OFFSET,INDEX",
        default_value = "source_topic,source_partition,source_offset,source_index",
        help_heading = "What is compared"
    )]
    pub(crate) lineage: Columns,
    /// A column of the tables that counts as rows come, such as a `serial`: then their order is
    /// compared too.
    #[arg(long, value_name = "COLUMN", help_heading = "What is compared")]
    pub(crate) order_by: Option<String>,
    /// Columns that may differ between two runs, such as the time of writing.
    #[arg(
        long,
        value_name = "COLUMN[,COLUMN]",
        value_delimiter = ',',
        help_heading = "What is compared"
    )]
    pub(crate) ignore: Vec<String>,
    /// How many processes of the command share the work.
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "What breaks",
        value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) processes: u16,
    /// How often a process is killed.
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "What breaks",
        value_parser = clap::value_parser!(u16).range(..=10_000))]
    pub(crate) kills: u16,
    /// How often a process is stopped.
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "What breaks",
        value_parser = clap::value_parser!(u16).range(..=10_000))]
    pub(crate) stops: u16,
    /// How long a stopped process stands still.
    #[arg(long, value_name = "TIME", default_value = "10s", help_heading = "What breaks")]
    pub(crate) stop_for: Length,
    /// Spreads the faults over this time, for input that is still being produced. Without it they
    /// are spread over the records that are there at the start.
    #[arg(long, value_name = "TIME", help_heading = "What breaks")]
    pub(crate) over: Option<Length>,
    /// What moments and victims are drawn from; by chance unless set.
    #[arg(long, value_name = "NUMBER", help_heading = "What breaks")]
    pub(crate) seed: Option<u64>,
    /// How long nothing may be stored before the run is given up, and how long the command may take
    /// to end.
    #[arg(long, value_name = "TIME", default_value = "120s")]
    pub(crate) settle_within: Length,
    /// Where the output of the processes goes. Without it: a directory that is printed, and removed
    /// if the promise was kept.
    #[arg(long, value_name = "DIR")]
    pub(crate) logs: Option<PathBuf>,
    /// Prints the result as JSON; what happens meanwhile goes to standard error.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// A promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[allow(clippy::enum_variant_names, reason = "as the methods of a pipeline are called")]
pub(crate) enum Guarantee {
    /// Everything is there once.
    ExactlyOnce,
    /// Everything is there; it may be there several times.
    AtLeastOnce,
    /// Nothing is there twice; some may be missing.
    AtMostOnce,
}

/// How many results a record has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Results {
    /// So many, at least 1.
    Exactly(u32),
    /// One or more.
    Some,
    /// None, or as many as there are.
    Any,
}

impl FromStr for Results {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "one" => Ok(Self::Exactly(1)),
            "some" => Ok(Self::Some),
            "any" => Ok(Self::Any),
            number => match number.parse() {
                Ok(number @ 1..) => Ok(Self::Exactly(number)),
                _ => Err("is none of: one, a number above 0, some, any".into()),
            },
        }
    }
}

/// The four columns of lineage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Columns(pub(crate) [String; 4]);

impl FromStr for Columns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        match <[String; 4]>::try_from(names) {
            Ok(names) if names.iter().all(|name| !name.is_empty()) => Ok(Self(names)),
            _ => Err("is not four names of columns: topic,partition,offset,index".into()),
        }
    }
}

impl Prove {
    pub(crate) fn settle_within(&self) -> Duration {
        self.settle_within.get()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn parse(extra: &[&str]) -> Result<Prove, String> {
        let base = ["tidegate", "prove", "--kafka", "h:1", "--group", "g", "--input", "a,b"];
        let args = Args::try_parse_from(base.iter().chain(extra)).map_err(|e| e.to_string())?;
        match args.command {
            Command::Prove(prove) => Ok(prove),
            Command::Offsets { .. } => Err("another command".to_owned()),
        }
    }

    #[test]
    fn what_comes_behind_two_dashes_is_the_command() {
        let prove = parse(&["--output", "x,y", "--", "./job", "--kills", "{process}"])
            .expect("it can be read");
        assert_eq!(prove.command, ["./job", "--kills", "{process}"]);
        assert_eq!((prove.input.len(), prove.output.len()), (2, 2));
        assert_eq!((prove.processes, prove.kills, prove.stops), (2, 10, 5));
        assert_eq!(prove.guarantee, Guarantee::ExactlyOnce);
        assert_eq!(prove.lineage.0[3], "source_index");
        assert_eq!((prove.results, prove.over), (None, None));
    }

    #[test]
    fn what_cannot_be_is_refused_by_the_name_of_its_option() {
        for (extra, says) in [
            (&["--output", "x"][..], "CMD"),
            (&["--output", "x", "--"], "CMD"),
            (&["--", "job"], "--output"),
            (&["--output", "", "--", "job"], "--output"),
            (&["--output", "x", "--processes", "0", "--", "job"], "--processes"),
            (&["--output", "x", "--results", "0", "--", "job"], "--results"),
            (&["--output", "x", "--results", "few", "--", "job"], "--results"),
            (&["--output", "x", "--lineage", "a,b,c", "--", "job"], "--lineage"),
            (&["--output", "x", "--stop-for", "10", "--", "job"], "--stop-for"),
            (&["--output", "x", "--guarantee", "twice", "--", "job"], "--guarantee"),
            (&["--output", "x", "--sqlite", "f", "--dead-letters", "d", "--", "job"], "--sqlite"),
        ] {
            let problem = parse(extra).expect_err("it is wrong");
            assert!(problem.contains(says), "{extra:?}: {problem}");
        }
    }

    #[test]
    fn a_number_of_results_is_a_number_or_a_word() {
        for (text, results) in [
            ("one", Results::Exactly(1)),
            ("1", Results::Exactly(1)),
            ("3", Results::Exactly(3)),
            ("some", Results::Some),
            ("any", Results::Any),
        ] {
            assert_eq!(text.parse(), Ok(results));
        }
    }
}
