//! Runs every example as people do, on the shared servers, and kills those that must survive it.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;
use tidegate_tests::readers::group_offsets;
use tidegate_tests::servers::{self, unique};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// An example that takes longer hangs.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

/// Work for each record, so that there is time to kill in, however many cores share it.
const SLOW_US: &str = "50000";

/// An example with the servers and names it works with.
struct Example {
    program: &'static str,
    arguments: Vec<String>,
    /// Of the topic and the group.
    name: String,
    /// A database of its own.
    database: String,
    /// For files.
    directory: TempDir,
}

impl Example {
    async fn new(program: &'static str, name: &str) -> Result<Self> {
        let shared = servers::shared().await?;
        let database = shared.postgres.new_database().await?;
        let kafka = shared.kafka.bootstrap();
        let name = unique(name);
        let arguments = ["--kafka", kafka, "--postgres", &database, "--name", &name, "--drain"];
        Ok(Self {
            program,
            arguments: arguments.map(str::to_owned).to_vec(),
            name,
            database,
            directory: TempDir::new()?,
        })
    }

    /// An argument that is a path in the example's directory.
    fn with_path(mut self, flag: &str, name: &str) -> Self {
        let path = self.directory.path().join(name).display().to_string();
        self.arguments.extend([flag.to_owned(), path]);
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command
            .args(&self.arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs it to its end, which must be a good one; what it printed.
    async fn ends_well(&self) -> Result<String> {
        let printed = run(self.command()).await?;
        let text = String::from_utf8_lossy(&printed.stdout).into_owned();
        ensure!(
            printed.status.success(),
            "{}: {}\n{text}{}",
            self.program,
            printed.status,
            String::from_utf8_lossy(&printed.stderr)
        );
        Ok(text)
    }

    /// Runs it slowly, kills it when it has stored something more, and lets it go on; three times.
    async fn is_killed(&self) -> Result<()> {
        for _ in 0..3 {
            let mut child =
                self.command().args(["--work-us", SLOW_US]).stdout(Stdio::null()).spawn()?;
            let began = Instant::now();
            // Only now: offsets that a killed process left in an open transaction are not told before its
            // successor has ended it, or a minute has gone.
            let before = self.progress().await?;
            loop {
                let stored = self.progress().await?;
                // What it printed stands above the test's own words.
                ensure!(child.try_wait()?.is_none(), "{} ended by itself", self.program);
                if stored > before {
                    break;
                }
                ensure!(began.elapsed() < ENDS_WITHIN, "{} stores nothing", self.program);
                sleep(Duration::from_millis(20)).await;
            }
            child.kill().await?;
        }
        Ok(())
    }

    /// Kills it three times, then lets it end; what it printed.
    async fn survives(&self) -> Result<String> {
        self.is_killed().await?;
        let text = self.ends_well().await?;
        ensure!(!text.starts_with("stored 0 "), "the kills came too late:\n{text}");
        Ok(text)
    }

    /// What is stored, as its consumer group shows it: a sum of offsets.
    async fn progress(&self) -> Result<i64> {
        let shared = servers::shared().await?;
        let topic = Arc::<str>::from(self.name.as_str());
        let partitions = [0, 1].map(|index| (Arc::clone(&topic), index));
        let stored = group_offsets(&shared.kafka.client(), &self.name, &partitions).await?;
        Ok(stored.values().sum())
    }
}

async fn run(mut command: Command) -> Result<Output> {
    let ended = timeout(ENDS_WITHIN, command.output()).await;
    Ok(ended.with_context(|| format!("no end within {ENDS_WITHIN:?}"))??)
}

/// The number behind this label in what was printed.
fn number(text: &str, label: &str) -> Result<i64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(label));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    let digits = word.with_context(|| format!("no {label:?} in:\n{text}"))?.replace(',', "");
    digits.parse().with_context(|| format!("{label:?} is no number in:\n{text}"))
}

#[tokio::test]
async fn quickstart_needs_no_server_and_survives_eight_kills() -> Result<()> {
    let directory = TempDir::new()?;
    let file = directory.path().join("quickstart.sqlite");
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    command.arg("--sqlite").arg(&file).stdin(Stdio::null()).kill_on_drop(true);
    let printed = run(command).await?;
    let text = String::from_utf8_lossy(&printed.stdout);
    ensure!(printed.status.success(), "{text}{}", String::from_utf8_lossy(&printed.stderr));
    assert_eq!(number(&text, "rows = progress")?, 8, "{text}");
    assert_eq!(text.matches("s  kill ").count(), 8, "{text}");

    // What it says of the file is so.
    let mut open = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await?;
    let (rows, different, routes): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT source_partition || '/' || source_offset), \
         (SELECT sum(flights) FROM routes) FROM flights",
    )
    .fetch_one(&mut open)
    .await?;
    assert_eq!((rows, different, routes), (19_999, 19_999, 19_999));
    Ok(())
}

#[tokio::test]
async fn quickstart_does_the_same_on_real_servers() -> Result<()> {
    let shared = servers::shared().await?;
    let database = shared.postgres.new_database().await?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    command.args(["--kafka", shared.kafka.bootstrap(), "--postgres", &database, "--kills", "4"]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let printed = run(command).await?;
    let text = String::from_utf8_lossy(&printed.stdout);
    ensure!(printed.status.success(), "{text}{}", String::from_utf8_lossy(&printed.stderr));
    assert_eq!(number(&text, "rows = progress")?, 4, "{text}");

    let mut open = PgConnection::connect(&database).await?;
    let (rows, different): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT (source_partition, source_offset)) \
         FROM quickstart.flights",
    )
    .fetch_one(&mut open)
    .await?;
    assert_eq!((rows, different), (19_999, 19_999));
    Ok(())
}

#[tokio::test]
async fn quickstart_takes_its_pipeline_along_when_it_is_killed() -> Result<()> {
    let directory = TempDir::new()?;
    let mut parent = Command::new(env!("CARGO_BIN_EXE_quickstart"))
        .arg("--sqlite")
        .arg(directory.path().join("quickstart.sqlite"))
        .args(["--kills", "0", "--work-us", "20000"])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut pipeline = None;
    for _ in 0..100 {
        pipeline = child_of(&parent)?;
        if pipeline.is_some() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let pipeline = pipeline.context("the pipeline did not start")?;
    sleep(Duration::from_millis(500)).await;
    parent.kill().await?;
    for _ in 0..100 {
        if !runs(pipeline) {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the pipeline outlived its parent by 10 s");
}

/// The process whose parent this is.
fn child_of(parent: &Child) -> Result<Option<u32>> {
    let parent = parent.id().context("the parent has ended")?.to_string();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // A process may end while it is looked at.
        let stat = std::fs::read_to_string(format!("/proc/{name}/stat")).unwrap_or_default();
        let behind = stat.rsplit(") ").next().unwrap_or_default();
        if let (Ok(id), Some(of)) = (name.parse(), behind.split(' ').nth(1))
            && of == parent
        {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn runs(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn quakes_to_postgres_stores_each_quake_once_however_often_it_runs() -> Result<()> {
    let example = Example::new(env!("CARGO_BIN_EXE_quakes_to_postgres"), "quakes").await?;
    let first = example.ends_well().await?;
    assert!(first.starts_with("stored 3414 of 3414 records"), "{first}");
    let second = example.ends_well().await?;
    assert!(second.starts_with("stored 0 of 0 records"), "{second}");
    Ok(())
}

#[tokio::test]
async fn flights_enriched_fills_its_topics_exactly_once_through_kills() -> Result<()> {
    let example = Example::new(env!("CARGO_BIN_EXE_flights_enriched"), "flights").await?;
    let text = example.survives().await?;
    assert_eq!(number(&text, "enriched")?, 19_999);
    assert_eq!(number(&text, "dead letters")?, 1);
    Ok(())
}

#[tokio::test]
async fn access_log_sets_odd_lines_aside_and_survives_kills() -> Result<()> {
    let example = Example::new(env!("CARGO_BIN_EXE_access_log"), "access").await?;
    let text = example.survives().await?;
    assert_eq!(number(&text, "odd lines")?, 5);
    let mut open = PgConnection::connect(&example.database).await?;
    let (rows, different): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT (source_partition, source_offset)) FROM access.requests",
    )
    .fetch_one(&mut open)
    .await?;
    assert_eq!((rows, different), (9_995, 9_995));
    Ok(())
}

#[tokio::test]
async fn payments_ledger_balances_to_the_cent_after_kills() -> Result<()> {
    let example = Example::new(env!("CARGO_BIN_EXE_payments_ledger"), "payments").await?;
    example.survives().await?;
    let mut open = PgConnection::connect(&example.database).await?;
    let (entries, different, sum, balances): (i64, i64, String, String) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT (source_partition, source_offset, source_index)), \
         sum(amount)::text, (SELECT sum(amount)::text FROM ledger.balances) FROM ledger.entries",
    )
    .fetch_one(&mut open)
    .await?;
    assert_eq!((entries, different), (59_940, 59_940));
    assert_eq!((&*sum, &*balances), ("0.00", "0.00"));
    Ok(())
}

#[tokio::test]
async fn custom_sink_keeps_its_promise_through_kills() -> Result<()> {
    let example = Example::new(env!("CARGO_BIN_EXE_custom_sink"), "totals").await?;
    let example = example.with_path("--file", "totals.json");
    let text = example.survives().await?;
    assert_eq!(number(&text, "departures")?, 19_999);
    let file = std::fs::read_to_string(example.directory.path().join("totals.json"))?;
    assert!(file.contains("\"miles\":14476631"), "{file}");
    Ok(())
}

#[tokio::test]
async fn at_least_once_loses_nothing_and_says_what_it_repeated() -> Result<()> {
    let example = Example::new(env!("CARGO_BIN_EXE_at_least_once"), "archive").await?;
    let example = example.with_path("--directory", "archive");
    let text = example.survives().await?;
    assert_eq!(number(&text, "different")?, 10_000);
    let lines: usize = std::fs::read_dir(example.directory.path().join("archive"))?
        .map(|file| whole_lines(&file?.path()))
        .sum::<Result<usize>>()?;
    assert_eq!(i64::try_from(lines)?, number(&text, "lines")?, "{text}");
    assert_eq!(number(&text, "lines")? - number(&text, "repeated")?, 10_000, "{text}");
    Ok(())
}

/// Lines that were not cut off by a kill: of the log's ten thousand, one has no quote at its end.
fn whole_lines(path: &Path) -> Result<usize> {
    let text = std::fs::read_to_string(path)?;
    Ok(text.lines().filter(|line| line.ends_with('"') || line.ends_with("bot.html")).count())
}

#[tokio::test]
async fn every_example_explains_itself_without_a_server() -> Result<()> {
    for (program, guarantee) in [
        (env!("CARGO_BIN_EXE_quickstart"), "exactly once"),
        (env!("CARGO_BIN_EXE_quakes_to_postgres"), "exactly once"),
        (env!("CARGO_BIN_EXE_flights_enriched"), "exactly once"),
        (env!("CARGO_BIN_EXE_access_log"), "exactly once"),
        (env!("CARGO_BIN_EXE_payments_ledger"), "exactly once"),
        (env!("CARGO_BIN_EXE_custom_sink"), "exactly once"),
        (env!("CARGO_BIN_EXE_at_least_once"), "at least once"),
    ] {
        let mut command = Command::new(program);
        command.args(["--explain", "--kafka", "127.0.0.1:1"]).kill_on_drop(true);
        let printed = run(command).await?;
        let text = String::from_utf8_lossy(&printed.stdout);
        assert!(printed.status.success(), "{program}: {text}");
        assert!(text.contains(guarantee) && text.contains("not covered"), "{program}: {text}");
    }
    Ok(())
}
