//! At least once: an archive of plain files, in which a crash may repeat lines but loses none.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use tidegate::Cause;
use tidegate::batch::Batch;
use tidegate::prelude::*;
use tidegate::sink::{Sink, SinkContext, SinkDescription, SinkError};
use tidegate_examples::args::Args;
use tidegate_examples::show::{Checks, Table, thousands};
use tidegate_examples::{kafka, run};

/// 10,000 lines of May 2015.
const LOG: &str = include_str!("../data/access.log");

#[derive(Parser, Debug)]
struct Flags {
    #[command(flatten)]
    common: Args,
    /// The directory of the archive, one file a day.
    #[arg(long, value_name = "PATH", default_value = "target/archive")]
    directory: PathBuf,
}

/// A line and the day it belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Line {
    day: String,
    text: String,
}

/// Appends lines to the file of their day. Files know no transaction, and progress is not in them:
/// so this is a [`Sink`], and `.exactly_once(…)` does not compile with it.
struct Archive {
    directory: PathBuf,
}

impl Sink for Archive {
    type Output = Line;

    async fn open(&mut self, _: &SinkContext) -> Result<(), SinkError> {
        std::fs::create_dir_all(&self.directory).map_err(temporary)
    }

    fn describe(&self) -> SinkDescription {
        let target = self.directory.display().to_string();
        SinkDescription { kind: "archive".into(), target, ..Default::default() }
    }

    /// `Ok` means that everything is on the disk: the offsets are committed after it.
    async fn write(&mut self, batch: &Batch<Line>) -> Result<(), SinkError> {
        let mut days: BTreeMap<&str, String> = BTreeMap::new();
        for output in batch.outputs() {
            let Line { day, text } = output.value;
            // With its coordinates, whoever reads the archive can tell a repetition.
            let line = format!("{} {text}\n", output.record.coordinates());
            days.entry(day).or_default().push_str(&line);
        }
        for (day, lines) in days {
            append(&self.directory.join(day), &lines).map_err(temporary)?;
        }
        Ok(())
    }

    async fn close(&mut self) {}
}

fn append(path: &Path, lines: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    // A crash may have cut the last line off; it was not committed and comes again.
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    file.write_all(lines.as_bytes())?;
    file.sync_data()
}

/// The batch is written again, whole: another way for a line to come twice.
fn temporary(error: std::io::Error) -> SinkError {
    SinkError::Retry(Cause::from_error("the archive is not written", error))
}

fn pipeline(args: &Args, directory: &Path) -> Job<Line> {
    let work = args.work();
    Pipeline::new(args.named("archive", ""))
        .instance(&args.instance)
        .from(args.kafka().source(args.named("archive", "")))
        .decode(Utf8)
        .try_map(move |record| {
            work();
            day(&record.value).map(|day| Line { day, text: record.value.clone() })
        })
        // Every 300 ms: the longer, the fewer commits and the more lines a crash repeats.
        .at_least_once_with(
            Archive { directory: directory.to_owned() },
            GroupCommits::Every(Duration::from_millis(300)),
        )
}

/// `[17/May/2015:10:05:03 +0000]` is of the day `2015-05-17`.
fn day(line: &str) -> Result<String, &'static str> {
    let (_, time) = line.split_once('[').ok_or("the line has no time")?;
    let date = time.get(..11).ok_or("the time is cut off")?;
    let date = chrono::NaiveDate::parse_from_str(date, "%d/%b/%Y").map_err(|_| "no such day")?;
    Ok(date.to_string())
}

#[tokio::main]
async fn main() -> ExitCode {
    run::log();
    let Flags { common, directory } = Flags::parse();
    run::exit(example(&common, &directory).await)
}

async fn example(args: &Args, directory: &Path) -> Result<()> {
    let job = pipeline(args, directory);
    if args.explained(&job) {
        return Ok(());
    }
    let topic = args.named("archive", "");
    let lines = LOG.lines().map(|line| (line.to_owned(), line));
    kafka::load(&args.bootstrap(), &topic, 4, lines).await?;
    let summary = run::run(job, args, &topic).await?;
    println!("{summary}\n");
    if args.drain { report(directory) } else { Ok(()) }
}

/// Counts lines, and how many of them are there for the first time.
fn report(directory: &Path) -> Result<()> {
    let log: HashSet<&str> = LOG.lines().collect();
    let (mut whole, mut seen) = (0, HashSet::new());
    let mut table = Table::new(["day", "lines", "different"]);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    for path in files {
        let mut text = String::new();
        File::open(&path)?.read_to_string(&mut text)?;
        let before = (whole, seen.len());
        for line in text.lines() {
            let (place, line) = line.split_once(' ').context("a line without coordinates")?;
            // What was cut off is no line of the log.
            if log.contains(line) {
                whole += 1;
                seen.insert(place.to_owned());
            }
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        table.row([
            name.into_owned(),
            thousands(whole - before.0),
            thousands(i64::try_from(seen.len() - before.1)?),
        ]);
    }
    let different = i64::try_from(seen.len())?;
    Checks::default()
        .fact("lines", whole)
        .fact("repeated", whole - different)
        .equal("different", different, 10_000)
        .note("none is lost")
        .verify(&format!("The archive of 10,000 lines ({})", directory.display()))?;
    print!("{table}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate::testing::TestDriver;

    #[test]
    fn a_line_goes_to_its_day_and_one_without_a_day_stops_the_pipeline() {
        let job = pipeline(&Args::nowhere(), Path::new("never-written"));
        let mut driver = TestDriver::new(job).expect("the settings are allowed");
        driver.feed("archive", None, LOG.lines().next());
        driver.run().expect("nothing stops it");
        assert_eq!(driver.outputs()[0].day, "2015-05-17");
        driver.feed("archive", None, Some("no time"));
        let error = driver.run().expect_err("the policy says stop").to_string();
        assert!(error.contains("archive/0/1") && error.contains("no time"), "{error}");
    }

    #[test]
    fn a_line_that_was_cut_off_is_closed_before_the_next() -> Result<()> {
        let path = std::env::temp_dir().join(format!("tidegate-archive-{}", std::process::id()));
        std::fs::write(&path, "archive/0/1 cut o")?;
        append(&path, "archive/0/1 cut off\n")?;
        append(&path, "archive/0/2 next\n")?;
        let text = std::fs::read_to_string(&path)?;
        std::fs::remove_file(&path)?;
        assert_eq!(text, "archive/0/1 cut o\narchive/0/1 cut off\narchive/0/2 next\n");
        Ok(())
    }
}
