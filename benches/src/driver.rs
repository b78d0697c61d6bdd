//! Prepares, starts the cases in turns, checks each, and has the numbers reported.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tidegate_tests::servers::unique;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;

use crate::args::{Args, Sink};
use crate::case::{Case, Outcome, READY, Who, Work};
use crate::check;
use crate::load;
use crate::report::{Conditions, Measured, Report};
use crate::servers::Servers;
use crate::table::{self, Stored};

/// Only a case that hangs takes so long.
const CASE_MAX: Duration = Duration::from_secs(600);

/// Measures everything that was asked for.
pub(crate) fn run(args: &Args) -> Result<()> {
    runtime()?.block_on(async {
        let works = works(args.sink);
        let servers = Servers::start(works.contains(&Work::Postgres)).await?;
        let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
        let driver = Driver { servers, dir };
        let conditions = Conditions::now(args, driver.servers.way_to_postgres());
        let mut report = Report::new(conditions);
        driver.throughput(args, &works, &mut report).await?;
        driver.latency(args, &works, &mut report).await?;
        report.print();
        if let Some(path) = &args.json {
            std::fs::write(path, report.json()?).with_context(|| path.display().to_string())?;
        }
        Ok(())
    })
}

/// The memory run alone.
pub(crate) fn memory(args: &Args, records: u64) -> Result<()> {
    runtime()?.block_on(async {
        let servers = Servers::start(false).await?;
        let driver = Driver { servers, dir: args.dir.clone().unwrap_or_else(std::env::temp_dir) };
        let input = driver.backlog(records).await?;
        let mut case = driver.case(Work::Kafka, Who::Framework, 100, records);
        (case.input, case.slow) = (input, true);
        driver.measure(case).await?;
        Ok(())
    })
}

/// The servers alone.
pub(crate) fn servers() -> Result<()> {
    runtime()?.block_on(async {
        println!("{}", Servers::start(true).await?.exports());
        Ok(tokio::signal::ctrl_c().await?)
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn works(sink: Sink) -> Vec<Work> {
    match sink {
        Sink::None => vec![Work::Consume],
        Sink::KafkaAlo => vec![Work::AtLeastOnce],
        Sink::Kafka => vec![Work::Kafka],
        Sink::Postgres => vec![Work::Postgres],
        Sink::Sqlite => vec![Work::Sqlite],
        Sink::All => {
            vec![Work::Consume, Work::AtLeastOnce, Work::Kafka, Work::Postgres, Work::Sqlite]
        }
    }
}

struct Driver {
    servers: Servers,
    dir: PathBuf,
}

impl Driver {
    async fn throughput(&self, args: &Args, works: &[Work], report: &mut Report) -> Result<()> {
        let records = args.records();
        let input = self.backlog(records).await?;
        self.warm_up(args, works, &input).await?;
        for repetition in 0..args.repetitions() {
            for &work in works {
                for &interval in intervals(work, &args.intervals) {
                    // Whoever comes first finds other caches: they take turns at that too.
                    let mut turns = [Who::Loop, Who::Framework];
                    turns.rotate_left(usize::from(repetition % 2 == 1));
                    for who in turns {
                        let mut case = self.case(work, who, interval, records);
                        case.input.clone_from(&input);
                        report.add(self.measured(case, repetition).await?);
                    }
                }
            }
        }
        self.servers.delete_topic(&input).await
    }

    /// Each work once by both, unreported: a broker that was just started compiles itself while it works, and whoever
    /// came first would pay for it.
    async fn warm_up(&self, args: &Args, works: &[Work], input: &str) -> Result<()> {
        let interval = args.intervals.iter().copied().max().unwrap_or(100);
        for &work in works {
            for who in [Who::Loop, Who::Framework] {
                let mut case = self.case(work, who, interval, args.records());
                input.clone_into(&mut case.input);
                eprintln!("warming up: {work:?} by {who:?}");
                self.measure(case).await?;
            }
        }
        Ok(())
    }

    async fn latency(&self, args: &Args, works: &[Work], report: &mut Report) -> Result<()> {
        let stores = |work: &&Work| !matches!(work, Work::Consume | Work::AtLeastOnce);
        for &work in works.iter().filter(stores) {
            for &rate in args.rates.iter().filter(|rate| **rate > 0) {
                for &interval in &args.intervals {
                    for who in [Who::Loop, Who::Framework] {
                        let mut case = self.case(work, who, interval, rate * args.seconds());
                        case.rate = Some(rate);
                        case.input = self.servers.topic("steady").await?;
                        let input = case.input.clone();
                        report.add(self.measured(case, 0).await?);
                        self.servers.delete_topic(&input).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn backlog(&self, records: u64) -> Result<String> {
        let topic = self.servers.topic("backlog").await?;
        let (bootstrap, name) = (self.servers.bootstrap().to_owned(), topic.clone());
        spawn_blocking(move || load::fill(&bootstrap, &name, records)).await??;
        Ok(topic)
    }

    fn case(&self, work: Work, who: Who, interval_ms: u64, records: u64) -> Case {
        Case {
            work,
            who,
            bootstrap: self.servers.bootstrap().to_owned(),
            group: unique("bench"),
            input: String::new(),
            output: String::new(),
            interval_ms,
            records,
            rate: None,
            slow: false,
        }
    }

    async fn measured(&self, case: Case, repetition: u32) -> Result<Measured> {
        let Case { work, who, interval_ms, rate, .. } = case;
        let outcome = self.measure(case).await;
        let outcome = outcome
            .with_context(|| format!("{work:?} by {who:?}, {interval_ms} ms, rate {rate:?}"))?;
        let measured = Measured { work, who, interval_ms, rate, repetition, outcome };
        eprintln!("{measured}");
        Ok(measured)
    }

    /// Runs one case between its preparation and its check.
    async fn measure(&self, mut case: Case) -> Result<Outcome> {
        match case.work {
            Work::Consume => return self.run(&case).await,
            Work::AtLeastOnce | Work::Kafka => case.output = self.servers.topic("copy").await?,
            Work::Postgres => {
                case.output = self.servers.database().await?;
                table::create_in_postgres(&case.output).await?;
            }
            Work::Sqlite => {
                let path = self.dir.join(format!("{}.sqlite", case.group));
                case.output = path.display().to_string();
                table::create_in_sqlite(&case.output).await?;
            }
        }
        let outcome = self.run(&case).await?;
        let stored = self.stored(&case).await?;
        let expected = i64::try_from(case.records)?;
        ensure!(
            stored == Stored { rows: expected, different: expected },
            "{expected} records became {stored:?}"
        );
        Ok(outcome)
    }

    /// What a case has stored, which is then deleted.
    async fn stored(&self, case: &Case) -> Result<Stored> {
        match case.work {
            Work::Consume => bail!("nothing is stored"),
            Work::AtLeastOnce | Work::Kafka => {
                let Case { bootstrap, output, records, .. } = case.clone();
                let count = move || check::count(&bootstrap, &output, records);
                let stored = spawn_blocking(count).await??;
                self.servers.delete_topic(&case.output).await?;
                Ok(stored)
            }
            Work::Postgres => {
                let stored = table::stored_in_postgres(&case.output).await?;
                self.servers.drop_database(&case.output).await?;
                Ok(stored)
            }
            Work::Sqlite => {
                let stored = table::stored_in_sqlite(&case.output).await?;
                for suffix in ["", "-wal", "-shm"] {
                    // The last two are there only if the process left them behind.
                    let _ = std::fs::remove_file(format!("{}{suffix}", case.output));
                }
                Ok(stored)
            }
        }
    }

    /// The case as a process; records are sent to it at their rate when it is ready.
    async fn run(&self, case: &Case) -> Result<Outcome> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("case")
            .arg(serde_json::to_string(case)?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        match tokio::time::timeout(CASE_MAX, self.attend(case, &mut child)).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("no end after {CASE_MAX:?}"),
        }
    }

    async fn attend(&self, case: &Case, child: &mut Child) -> Result<Outcome> {
        let output = child.stdout.take().context("the case's output is piped")?;
        let mut lines = BufReader::new(output).lines();
        let (mut reading, mut sending) = (None, None);
        let mut last = None;
        while let Some(line) = lines.next_line().await? {
            if line != READY {
                last = Some(line);
            } else if let Some(rate) = case.rate {
                let Case { bootstrap, input, output, records, .. } = case.clone();
                if case.work == Work::Kafka {
                    let bootstrap = bootstrap.clone();
                    let read = move || check::latency(&bootstrap, &output, records);
                    reading = Some(spawn_blocking(read));
                }
                let send = move || load::steady(&bootstrap, &input, rate, records);
                sending = Some(spawn_blocking(send));
            }
        }
        let status = child.wait().await?;
        ensure!(status.success(), "the case ended with {status}");
        let mut outcome: Outcome = serde_json::from_str(&last.context("the case said nothing")?)?;
        if let Some(sending) = sending {
            sending.await??;
        }
        if let Some(reading) = reading {
            outcome.latency = Some(reading.await??.times());
        }
        Ok(outcome)
    }
}

/// Reading alone commits nothing that could wait: one interval says it all.
fn intervals(work: Work, all: &[u64]) -> &[u64] {
    match work {
        Work::Consume => &all[all.len().saturating_sub(1)..],
        _ => all,
    }
}
