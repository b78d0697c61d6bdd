//! `tidegate prove` on real servers: what is right passes, what is planted is found, and what cannot be told is no pass.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use sqlx::{Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;
use tidegate_tests::copier;
use tidegate_tests::fleet::{Feed, Mix, generate, produce};
use tidegate_tests::readers::{read_ends, read_outputs};
use tidegate_tests::servers::{self, Shared, unique};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");
/// A run that takes longer hangs.
const ENDS_WITHIN: Duration = Duration::from_secs(180);
const PARTITIONS: i32 = 4;
/// So many records take a copier some seconds, which kills and stops can fall into.
const RECORDS: usize = 2_500;
/// With two or three kills and one stop the stop is the last fault of this seed: while one process stands still, the
/// other does not do away with all the work that faults are still to find.
const SEED: &str = "17";
/// What makes this program a copier: its arguments.
const COPIER: &str = "TIDEGATE_TEST_COPIER";

/// No test but the pipeline that the tests prove: this program runs it for them, as any other command.
#[test]
fn the_pipeline_that_is_proved() {
    let Ok(words) = std::env::var(COPIER) else { return };
    let args = copier::args::Args::parse_from(["copier"].into_iter().chain(words.split(' ')));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let ended = runtime.block_on(copier::run(args));
    runtime.shutdown_background();
    if let Err(error) = &ended {
        eprintln!("{error}");
    }
    std::process::exit(i32::from(ended.is_err()));
}

/// Input, names and command line of one proof.
struct Case {
    shared: Shared,
    name: String,
    options: Vec<(String, String)>,
    copier: Vec<(String, String)>,
    /// For files and logs.
    folder: TempDir,
}

impl Case {
    async fn new(mix: Mix, records: usize) -> Result<Self> {
        let shared = servers::shared().await?;
        let name = unique("prove");
        shared.kafka.create_topic(&name, PARTITIONS, &[]).await?;
        produce(&shared.kafka.client(), &name, generate(7, records, PARTITIONS, mix), 0).await?;
        let kafka = shared.kafka.bootstrap();
        let options =
            [("--kafka", kafka), ("--input", &name), ("--stop-for", "3s"), ("--seed", SEED)];
        let copier = [
            // Short sessions: whoever is killed or stopped is replaced soon. No instance names: a
            // kill in the middle of a rebalance, and a return under the same name, can leave
            // partitions without a member.
            ("--bootstrap", kafka),
            ("--input", &name),
            ("--session-timeout-ms", "1500"),
            ("--transaction-timeout-ms", "2000"),
            ("--max-poll-interval-ms", "6000"),
            ("--threads", "1"),
            ("--work-us", "1000..2000"),
            ("--in-flight", "400"),
            ("--commit-records", "100"),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Ok(Self {
            shared,
            options: options.map(owned).to_vec(),
            copier: copier.map(owned).to_vec(),
            folder: TempDir::new()?,
            name,
        })
    }

    /// An option of the proof; the last one of a name holds.
    fn option(mut self, name: &str, value: &str) -> Self {
        self.options.retain(|(option, _)| option != name);
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A flag of the copier; the last one of a name holds.
    fn copier(mut self, name: &str, value: &str) -> Self {
        self.copier.retain(|(flag, _)| flag != name);
        self.copier.push((name.to_owned(), value.to_owned()));
        self
    }

    fn copier_words(&self) -> String {
        let words = self.copier.iter().flat_map(|(flag, value)| [flag.as_str(), value]);
        words.collect::<Vec<_>>().join(" ")
    }

    /// Both are told the group.
    fn group(self, suffix: &str) -> Self {
        let group = format!("{}{suffix}", self.name);
        self.option("--group", &group).copier("--group", &group)
    }

    /// The copier as a command; its words are those of this program's environment.
    fn pipeline(&self) -> Vec<OsString> {
        let itself = std::env::current_exe().expect("this program has a path");
        let words = format!("{COPIER}={}", self.copier_words());
        let test = ["the_pipeline_that_is_proved", "--exact", "--nocapture"];
        let command = ["env".into(), words.into(), itself.into_os_string()];
        command.into_iter().chain(test.map(OsString::from)).collect()
    }

    fn command(&self, pipeline: Vec<OsString>) -> Command {
        let mut command = Command::new(TIDEGATE);
        command
            .args(["prove", "--json"])
            .args(self.options.iter().flat_map(|(name, value)| [name, value]))
            .arg("--logs")
            .arg(self.folder.path().join("logs"))
            .arg("--")
            .args(pipeline)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, pipeline: Vec<OsString>) -> Result<Ended> {
        Ended::of(timeout(ENDS_WITHIN, self.command(pipeline).output()).await, self.folder.path())
    }

    async fn prove(&self) -> Result<Ended> {
        self.run(self.pipeline()).await
    }
}

/// How a proof ended.
struct Ended {
    code: Option<i32>,
    /// What it printed for programs, if it came to that.
    json: Value,
    /// What it said to people, and what the pipelines said.
    words: String,
}

impl Ended {
    fn of(
        output: Result<std::io::Result<Output>, tokio::time::error::Elapsed>,
        folder: &Path,
    ) -> Result<Self> {
        let mut logs = String::new();
        for log in std::fs::read_dir(folder.join("logs")).into_iter().flatten() {
            logs += &std::fs::read_to_string(log?.path())?;
        }
        let output = output.with_context(|| format!("no end within {ENDS_WITHIN:?}\n{logs}"))??;
        Ok(Self {
            code: output.status.code(),
            json: serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
            words: format!("{}\n{logs}", String::from_utf8_lossy(&output.stderr)),
        })
    }

    fn with_code(self, code: i32) -> Result<Self> {
        let Self { json, words, .. } = &self;
        ensure!(self.code == Some(code), "{:?} instead of {code}\n{json:#}\n{words}", self.code);
        Ok(self)
    }

    /// A number of the last run, which is the one under faults.
    fn number(&self, name: &str) -> Result<u64> {
        let runs = self.json["runs"].as_array().context("there are no runs")?;
        let run = runs.last().context("there is no run")?;
        run[name].as_u64().with_context(|| format!("no {name} in {run:#}"))
    }

    /// How often something was found in the last run.
    fn found(&self, kind: &str) -> Result<u64> {
        let runs = self.json["runs"].as_array().context("there are no runs")?;
        let found = runs.last().and_then(|run| run["findings"].as_array());
        let mut found = found.context("there are no findings")?.iter();
        let found = found.find(|found| found["kind"] == kind);
        Ok(found.and_then(|found| found["count"].as_u64()).unwrap_or(0))
    }

    fn says(&self, text: &str) -> Result<()> {
        ensure!(self.words.contains(text), "{text:?} is not in\n{}\n{}", self.words, self.json);
        Ok(())
    }
}

/// Every fault hit, nothing else was said, and so many records were compared.
fn is_exact(ended: Ended, kills: u64, stops: u64) -> Result<Ended> {
    let ended = ended.with_code(0)?;
    ensure!(ended.json["verdict"] == "EXACT" && ended.json["doubts"] == serde_json::json!([]));
    assert_eq!((ended.number("kills")?, ended.number("stops")?), (kills, stops));
    assert_eq!(ended.number("records")?, RECORDS as u64);
    assert_eq!(ended.number("restarts")?, kills + ended.number("ended_by_themselves")?);
    ensure!(ended.number("hand_overs")? > 0, "{:#}", ended.json);
    ensure!(ended.words.contains("is killed at"), "{}", ended.words);
    Ok(ended)
}

#[tokio::test]
async fn two_runs_into_kafka_agree_whatever_was_filtered_fanned_out_or_set_aside() -> Result<()> {
    let case = Case::new(Mix::ALL, RECORDS).await?;
    let output = format!("{}-{{run}}", case.name);
    for run in ["calm", "faults"] {
        let topic = output.replace("{run}", run);
        let dead = format!("{topic}.dead-letters");
        case.shared.kafka.create_topic(&topic, PARTITIONS, &[]).await?;
        case.shared.kafka.create_topic(&dead, 1, &[]).await?;
    }
    let case = case
        .group("-{run}")
        .option("--output", &output)
        .option("--dead-letters", &format!("{output}.dead-letters"))
        .option("--kills", "3")
        .option("--stops", "1")
        .copier("--sink", &format!("kafka:{output}"));
    let ended = is_exact(case.prove().await?, 3, 1)?;
    let compared = &ended.json["compared"];
    assert_eq!(compared["results"].as_u64(), Some(ended.number("distinct_results")?));
    assert_eq!(compared["dead_letters"].as_u64(), Some(ended.number("dead_letters")?));
    ensure!(ended.number("dead_letters")? > 0 && compared["findings"] == serde_json::json!([]));
    ensure!(ended.number("compared_in_order")? > 0, "{:#}", ended.json);
    Ok(())
}

/// A table that counts its rows.
async fn counted(case: &Case) -> Result<String> {
    let url = case.shared.postgres.new_database().await?;
    let mut database = PgConnection::connect(&url).await?;
    let create = "CREATE TABLE copied (topic text, partition int, \"offset\" bigint, i int, \
                  key bytea, value bytea, pid int, seq bigserial)";
    sqlx::raw_sql(create).execute(&mut database).await?;
    Ok(url)
}

fn into_table(case: Case) -> Case {
    case.option("--output", "copied").option("--lineage", "topic,partition,offset,i")
}

#[tokio::test]
async fn one_run_into_postgres_is_compared_with_its_input_in_order() -> Result<()> {
    let case = into_table(Case::new(Mix::PLAIN, RECORDS).await?);
    let url = counted(&case).await?;
    let case = case
        .group("")
        .option("--postgres", &url)
        .option("--results", "one")
        .option("--order-by", "seq")
        .option("--kills", "2")
        .option("--stops", "1")
        .copier("--sink", &format!("postgres:{url}"));
    let ended = is_exact(case.prove().await?, 2, 1)?;
    assert_eq!(ended.number("results")?, RECORDS as u64);
    ensure!(ended.number("compared_in_order")? > 0, "{:#}", ended.json);

    // Everything is done: there is nothing left to prove, and another group would begin over.
    let ended = case.prove().await?.with_code(2)?;
    ended.says("has nothing left to read")?;
    let other = format!("{}-other", case.name);
    let again = case.option("--group", &other);
    let ended = again.prove().await?.with_code(2)?;
    ended.says("table copied holds results of")
}

#[tokio::test]
async fn one_run_into_sqlite_with_dead_letters_is_compared_with_its_input() -> Result<()> {
    let mix = Mix { poison: 200, flaky: 200, ..Mix::PLAIN };
    let case = into_table(Case::new(mix, RECORDS).await?);
    let file = case.folder.path().join("copied.db").display().to_string();
    let case = case
        .group("")
        .option("--sqlite", &file)
        .option("--results", "one")
        .option("--kills", "2")
        .option("--stops", "1")
        .copier("--sink", &format!("sqlite:{file}"));
    let ended = is_exact(case.prove().await?, 2, 1)?;
    let dead = ended.number("dead_letters")?;
    ensure!(dead > 0 && ended.number("results")? + dead == RECORDS as u64, "{:#}", ended.json);
    let mut open = SqliteConnection::connect(&format!("sqlite://{file}")).await?;
    let count = sqlx::query_scalar("SELECT count(*) FROM tidegate_dead_letter");
    let count: i64 = count.fetch_one(&mut open).await?;
    assert_eq!(u64::try_from(count)?, dead);
    Ok(())
}

#[tokio::test]
async fn rows_that_differ_between_two_runs_are_found_with_their_columns() -> Result<()> {
    let case = into_table(Case::new(Mix::PLAIN, 500).await?);
    let file = case.folder.path().join("{run}.db").display().to_string();
    let case = case
        .group("-{run}")
        .option("--sqlite", &file)
        .option("--kills", "1")
        .option("--stops", "0")
        .copier("--sink", &format!("sqlite:{file}"));
    // Each row holds the number of the process that wrote it.
    let ended = case.prove().await?.with_code(1)?;
    let compared = &ended.json["compared"];
    assert_eq!(compared["columns"], serde_json::json!(["pid"]), "{:#}", ended.json);
    assert_eq!(
        (&compared["findings"][0]["kind"], compared["results"].as_u64()),
        (&"different".into(), Some(500))
    );
    assert_eq!(compared["findings"][0]["count"].as_u64(), Some(500));
    Ok(())
}

/// Waits until so many rows are there, then spoils them behind the pipeline's back.
async fn spoil(url: &str) -> Result<()> {
    let mut database = PgConnection::connect(url).await?;
    let began = Instant::now();
    loop {
        let count = sqlx::query_scalar("SELECT count(*) FROM copied");
        let count: i64 = count.fetch_one(&mut database).await?;
        if count > 100 {
            break;
        }
        ensure!(began.elapsed() < ENDS_WITHIN, "only {count} rows are there");
        sleep(Duration::from_millis(50)).await;
    }
    let spoil = "DELETE FROM copied WHERE seq IN (SELECT seq FROM copied ORDER BY seq LIMIT 3); \
                 INSERT INTO copied (topic, partition, \"offset\", i) \
                 (SELECT topic, partition, \"offset\", i FROM copied ORDER BY seq LIMIT 2) UNION ALL \
                 (SELECT topic, partition, \"offset\", 1 FROM copied ORDER BY seq LIMIT 1) UNION ALL \
                 (SELECT topic, partition, 1000000, 0 FROM copied ORDER BY seq LIMIT 1)";
    sqlx::raw_sql(spoil).execute(&mut database).await?;
    Ok(())
}

#[tokio::test]
async fn rows_that_are_spoilt_behind_the_pipelines_back_are_found() -> Result<()> {
    let case = into_table(Case::new(Mix::PLAIN, RECORDS).await?);
    let url = counted(&case).await?;
    let case = case
        .group("")
        .option("--postgres", &url)
        .option("--results", "one")
        .option("--kills", "1")
        .option("--stops", "0")
        .copier("--sink", &format!("postgres:{url}"));
    let (spoilt, ended) = tokio::join!(spoil(&url), case.prove());
    spoilt?;
    let ended = ended?.with_code(1)?;
    assert_eq!(ended.json["verdict"], "NOT EXACT");
    let counts = ["lost", "duplicate", "phantom", "ahead"].map(|kind| ended.found(kind));
    let counts: Vec<u64> = counts.into_iter().collect::<Result<_>>()?;
    assert_eq!(counts, [3, 2, 1, 1], "{:#}", ended.json);
    Ok(())
}

#[tokio::test]
async fn a_weaker_pipeline_is_judged_by_what_is_asked() -> Result<()> {
    let case = Case::new(Mix::PLAIN, RECORDS).await?;
    for (guarantee, kills) in [("exactly-once", "3"), ("at-least-once", "1")] {
        let output = format!("{}-{guarantee}", case.name);
        let dead = format!("{output}.dead-letters");
        case.shared.kafka.create_topic(&output, PARTITIONS, &[]).await?;
        case.shared.kafka.create_topic(&dead, 1, &[]).await?;
        let case = Case { folder: TempDir::new()?, ..case.again() }
            .group(&format!("-{guarantee}"))
            .option("--output", &output)
            .option("--results", "one")
            .option("--guarantee", guarantee)
            .option("--kills", kills)
            .option("--stops", "0")
            .copier("--guarantee", "at-least-once")
            .copier("--sink", &format!("kafka:{output}"));
        let ended = case.prove().await?;
        // Whether a kill falls between a write and its commit is chance: another reader counts.
        let outputs = read_outputs(&case.shared.kafka.client(), &output).await?;
        let twice = outputs.len() - RECORDS;
        assert_eq!(ended.found("duplicate")?, twice as u64, "{:#}", ended.json);
        let expected = if guarantee == "exactly-once" && twice > 0 { 1 } else { 0 };
        ended.with_code(expected)?;
    }
    Ok(())
}

impl Case {
    /// The same input for another proof.
    fn again(&self) -> Self {
        Self {
            shared: self.shared,
            name: self.name.clone(),
            options: self.options.clone(),
            copier: self.copier.clone(),
            folder: TempDir::new().expect("a folder"),
        }
    }
}

#[tokio::test]
async fn faults_that_find_no_work_leave_the_result_unknown() -> Result<()> {
    let case = into_table(Case::new(Mix::PLAIN, 60).await?);
    let file = case.folder.path().join("copied.db").display().to_string();
    let case = case
        .group("")
        .option("--sqlite", &file)
        .option("--results", "one")
        .option("--kills", "40")
        .option("--stops", "0")
        .copier("--sink", &format!("sqlite:{file}"));
    let ended = case.prove().await?.with_code(3)?;
    assert_eq!((ended.json["verdict"].as_str(), ended.found("lost")?), (Some("UNKNOWN"), 0));
    let kills = ended.number("kills")?;
    assert_eq!(kills + ended.number("missed_faults")?, 40);
    let doubt = format!("{kills} of 40 kills");
    ensure!(ended.json["doubts"].to_string().contains(&doubt), "{:#}", ended.json);
    Ok(())
}

#[tokio::test]
async fn a_command_that_does_not_start_is_no_fault_and_is_told_in_its_own_words() -> Result<()> {
    let case = into_table(Case::new(Mix::PLAIN, 10).await?);
    let file = case.folder.path().join("copied.db").display().to_string();
    let case = case.group("").option("--sqlite", &file).option("--results", "one");
    // It has no sink.
    let ended = case.prove().await?.with_code(2)?;
    ended.says("ended by itself 3 times before anything was stored, with exit code 2")?;
    ended.says("--sink")?;
    let ended = case.run(vec!["/no/such/command".into()]).await?.with_code(2)?;
    ended.says("ended by itself once before anything was stored, with exit code 127")
}

#[tokio::test]
async fn a_topic_whose_records_do_not_say_what_they_were_made_from_is_refused() -> Result<()> {
    let case = Case::new(Mix::PLAIN, RECORDS).await?;
    let (output, other) = (format!("{}-out", case.name), format!("{}-other", case.name));
    for topic in [&output, &other, &format!("{output}.dead-letters")] {
        case.shared.kafka.create_topic(topic, 1, &[]).await?;
    }
    // Somebody else writes into the topic that is looked at.
    let client = case.shared.kafka.client();
    let records = generate(1, 100_000, 1, Mix::PLAIN);
    let feed = Feed::start(&client, &other, records, 100);
    let began = Instant::now();
    while read_ends(&client, &[&other]).await?.values().sum::<i64>() == 0 {
        ensure!(began.elapsed() < ENDS_WITHIN, "nobody writes");
    }
    let case = case
        .group("")
        // It goes on writing before anything is stored.
        .copier("--commit-interval-ms", "2000")
        .option("--output", &other)
        .option("--results", "one")
        .copier("--sink", &format!("kafka:{output}"));
    let ended = case.prove().await?.with_code(2)?;
    feed.end().await?;
    ended.says("do not say what they were made from: add `.lineage()` to the sink")
}

/// A command that stores nothing, and leaves its number and that of a child of its own.
fn sleeper(folder: &Path) -> Vec<OsString> {
    let file = folder.join("started").display().to_string();
    let script = format!("sleep 600 & echo $$ $! >>{file}; wait");
    ["sh", "-c", &script].map(OsString::from).to_vec()
}

/// The processes that the sleepers have started, once there are so many.
async fn sleepers(folder: &Path, count: usize) -> Result<Vec<Pid>> {
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(folder.join("started")).unwrap_or_default();
        let numbers: Vec<i32> = text.split_whitespace().filter_map(|id| id.parse().ok()).collect();
        if text.ends_with('\n') && numbers.len() == count {
            return Ok(numbers.into_iter().filter_map(Pid::from_raw).collect());
        }
        ensure!(began.elapsed() < ENDS_WITHIN, "only {numbers:?} have started");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn all_go(processes: &[Pid]) -> Result<()> {
    let began = Instant::now();
    while let Some(left) = processes.iter().find(|id| runs(**id)) {
        ensure!(began.elapsed() < Duration::from_secs(60), "{left:?} is left");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Whether a process is there and not only waited for by its parent.
fn runs(process: Pid) -> bool {
    let stat = format!("/proc/{}/stat", process.as_raw_nonzero());
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    test_kill_process(process).is_ok() && !matches!(state, None | Some('Z' | 'X'))
}

/// A proof of sleepers, and all that they have started.
async fn asleep() -> Result<(Case, Child, Vec<Pid>)> {
    let case = into_table(Case::new(Mix::PLAIN, 10).await?);
    let file = case.folder.path().join("copied.db").display().to_string();
    let case = case.group("").option("--sqlite", &file).option("--results", "one");
    let child = case.command(sleeper(case.folder.path())).spawn()?;
    let processes = sleepers(case.folder.path(), 4).await?;
    ensure!(processes.iter().all(|id| runs(*id)));
    Ok((case, child, processes))
}

#[tokio::test]
async fn an_interrupt_ends_everything_that_was_started() -> Result<()> {
    let (case, child, processes) = asleep().await?;
    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    kill_process(id.context("it runs")?, Signal::INT)?;
    let output = timeout(ENDS_WITHIN, child.wait_with_output()).await;
    let ended = Ended::of(output, case.folder.path())?.with_code(130)?;
    ended.says("interrupted")?;
    all_go(&processes).await
}

#[tokio::test]
async fn nothing_that_was_started_outlives_a_proof_that_is_killed() -> Result<()> {
    let (_case, mut child, processes) = asleep().await?;
    child.kill().await?;
    all_go(&processes).await
}

#[tokio::test]
async fn a_group_that_somebody_works_for_is_refused() -> Result<()> {
    let case = into_table(Case::new(Mix::PLAIN, 10).await?);
    let file = case.folder.path().join("copied.db").display().to_string();
    let case = case
        .group("")
        .option("--sqlite", &file)
        .option("--results", "one")
        .copier("--sink", &format!("sqlite:{file}"));
    let mut copier = Command::new(std::env::current_exe()?);
    copier.args(["the_pipeline_that_is_proved", "--exact"]).kill_on_drop(true);
    copier.env(COPIER, case.copier_words());
    let _copier = copier.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let admin = tidegate_kafka::Kafka::connect(case.shared.kafka.bootstrap()).admin()?;
    let began = Instant::now();
    while admin.group_members(&case.name).await? == 0 {
        ensure!(began.elapsed() < ENDS_WITHIN, "it does not join");
    }
    let ended =
        case.option("--settle-within", "2s").run(vec!["true".into()]).await?.with_code(2)?;
    ended.says("has 1 live member: end them first")
}
