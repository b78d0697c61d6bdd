//! The parent process: sends the flights, starts the pipeline, kills it, starts it again.

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use tidegate_examples::kafka;
use tidegate_examples::show::thousands;
use tidegate_kafka::testing::MockKafka;

use crate::Args;
use crate::audit::{self, Agreement};
use crate::bar::Bar;
use crate::child;
use crate::input::{self, PARTITIONS};
use crate::pipeline::{Broker, Task};
use crate::store::{Database, Replace};

/// How often the parent looks.
const LOOK: Duration = Duration::from_millis(20);
/// A kill comes up to this much after its turn: longer than from one commit to the next, so that it
/// falls anywhere, into a commit as well.
const JITTER: Duration = Duration::from_millis(60);
/// No progress for so long is a failure.
const STALLED: Duration = Duration::from_secs(60);

/// Runs it all; answers whether everything agrees.
pub(crate) async fn run(args: &Args) -> Result<bool> {
    let mock = match args.broker() {
        Broker::Embedded => Some(MockKafka::start()?),
        Broker::Real => None,
    };
    let bootstrap = match (&mock, &args.kafka) {
        (Some(mock), _) => mock.bootstrap(),
        (None, address) => address.clone().unwrap_or_default(),
    };
    let task = task(args, bootstrap)?;
    if args.explain {
        print!("{}", child::job(&task).explain());
        return Ok(true);
    }
    introduce(args, &task);
    let replace = if args.sqlite.is_some() { Replace::No } else { Replace::Yes };
    let mut database = task.store.create(replace).await?;
    let sent = input::send(&task.kafka, mock.as_ref(), &task.topic).await?;
    let mut trial = Trial {
        task: &task,
        mock: mock.as_ref(),
        database: &mut database,
        bar: Bar::new(sent.records, args.kills),
        agreements: Vec::new(),
        gaps: Vec::new(),
    };
    trial.kill_and_start_again(sent.records, args.kills).await?;
    let took = trial.bar.finish();
    let agreements = std::mem::take(&mut trial.agreements);
    let gaps = std::mem::take(&mut trial.gaps);
    let agrees = audit::print(&mut database, &task.store, &sent, &agreements).await?;
    close(&gaps, took, agrees);
    if task.broker == Broker::Real {
        kafka::delete_topics(&task.kafka, &[&task.topic]).await?;
    }
    Ok(agrees)
}

fn task(args: &Args, kafka: String) -> Result<Task> {
    // A real Kafka keeps topics and groups: every run takes new ones.
    let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let named = |name: &str| match args.broker() {
        Broker::Embedded => name.to_owned(),
        Broker::Real => format!("{name}-{run}"),
    };
    Ok(Task {
        kafka,
        broker: args.broker(),
        topic: named("flights"),
        group: named("quickstart"),
        store: args.store(),
        work_us: args.work_us,
    })
}

fn introduce(args: &Args, task: &Task) {
    let kafka = match task.broker {
        Broker::Embedded => "inside this process".to_owned(),
        Broker::Real => format!("at {}", task.kafka),
    };
    let times = match args.kills {
        0 => "not killed".to_owned(),
        1 => "killed once".to_owned(),
        kills => format!("killed {kills} times"),
    };
    println!("Flights through a pipeline that is {times}\n");
    println!("  from  Kafka {kafka}: topic {}, {PARTITIONS} partitions", task.topic);
    println!("  job   a process of its own: decode JSON, look up both airports");
    println!("  to    {}: a row a flight, a total a route\n", task.store.describe());
}

fn close(gaps: &[Duration], took: Duration, agrees: bool) {
    let longest = gaps.iter().max().copied().unwrap_or_default();
    let mean = gaps.iter().sum::<Duration>() / u32::try_from(gaps.len().max(1)).unwrap_or(1);
    print!("It took {:.1} s.", took.as_secs_f64());
    if !gaps.is_empty() {
        let (mean, longest) = (mean.as_secs_f64(), longest.as_secs_f64());
        print!(" From a kill to the next stored record: {mean:.1} s, {longest:.1} s at most.");
    }
    match agrees {
        true => println!("\nEverything agrees: each record counts exactly once."),
        false => println!("\nTHIS DOES NOT AGREE. Please report it with the output above."),
    }
}

struct Trial<'a> {
    task: &'a Task,
    /// The Kafka of this process, if it is that.
    mock: Option<&'a MockKafka>,
    database: &'a mut Database,
    bar: Bar,
    /// What was found after each kill.
    agreements: Vec<Agreement>,
    /// From each kill to the next progress.
    gaps: Vec<Duration>,
}

impl Trial<'_> {
    async fn kill_and_start_again(&mut self, records: i64, kills: u16) -> Result<()> {
        for kill in 1..=kills {
            let turn = records * i64::from(kill) / (i64::from(kills) + 1);
            let mut pipeline = Running::start(self.task)?;
            self.wait_for(turn, &mut pipeline).await?;
            tokio::time::sleep(jitter()).await;
            pipeline.kill()?;
            if let Some(mock) = self.mock {
                mock.forget_member(&self.task.group)?;
            }
            let agreement = audit::agreement(self.database).await?;
            self.bar.killed(agreement.progress);
            self.agreements.push(agreement);
        }
        let mut pipeline = Running::start(self.task)?;
        self.wait_for(records, &mut pipeline).await?;
        let status = pipeline.stop()?;
        ensure!(status.success(), "the pipeline did not stop cleanly: {status}");
        Ok(())
    }

    /// Until so many records are stored.
    async fn wait_for(&mut self, turn: i64, pipeline: &mut Running) -> Result<()> {
        let before = self.agreements.last().map_or(0, |agreement| agreement.progress);
        let began = Instant::now();
        let (mut last, mut since) = (before, began);
        loop {
            let done = self.database.done().await;
            if done > last {
                if last == before && !self.agreements.is_empty() {
                    self.gaps.push(began.elapsed());
                }
                (last, since) = (done, Instant::now());
                self.bar.show(done);
            }
            if done >= turn {
                return Ok(());
            }
            if let Some(status) = pipeline.child.try_wait()? {
                bail!("the pipeline ended by itself: {status}");
            }
            ensure!(
                since.elapsed() < STALLED,
                "the pipeline stands still at {} records for {STALLED:?}",
                thousands(done)
            );
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The child process. It ends when its standard input closes, so it cannot outlive this process,
/// however this process ends.
struct Running {
    child: Child,
    input: Option<ChildStdin>,
}

impl Running {
    fn start(task: &Task) -> Result<Self> {
        let program = std::env::current_exe().context("the path of this program")?;
        let mut child = Command::new(program)
            .arg("pipeline")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("the pipeline did not start")?;
        let mut input = child.stdin.take().context("the pipeline has no standard input")?;
        writeln!(input, "{}", serde_json::to_string(task)?)?;
        Ok(Self { child, input: Some(input) })
    }

    /// SIGKILL: it cannot be caught, nothing is cleaned up.
    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop, and waits.
    fn stop(&mut self) -> Result<ExitStatus> {
        drop(self.input.take());
        Ok(self.child.wait()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After an error; a child that has ended is not there any more.
        let _ = self.kill();
    }
}

/// A random time below [`JITTER`].
fn jitter() -> Duration {
    let random = RandomState::new().hash_one(0u8);
    JITTER.mul_f64((random % 1_000) as f64 / 1_000.0)
}
