//! What every example takes on its command line.

use clap::Parser;
use tidegate::Job;
use tidegate_kafka::Kafka;

/// The flags. Servers: `scripts/servers up` starts both and prints the two variables.
#[derive(Parser, Clone, Debug)]
pub struct Args {
    /// Kafka's address; else TIDEGATE_KAFKA, else 127.0.0.1:9092.
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// PostgreSQL's address; else TIDEGATE_POSTGRES, else the one of `scripts/servers up`.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// What the names of topics and of the consumer group begin with, instead of the example's
    /// own name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The name of this process among those that share the work, kept over restarts: one that was
    /// killed goes on at once. A second process at the same time takes another one.
    #[arg(long, value_name = "NAME", default_value = "a")]
    pub instance: String,
    /// Ends when everything that is in the topic now is stored, and checks the totals; without it
    /// the example runs until Ctrl-C.
    #[arg(long)]
    pub drain: bool,
    /// Says what the pipeline does and promises, and ends. Nothing is connected.
    #[arg(long)]
    pub explain: bool,
    /// Work for each record, in microseconds: time to kill it in.
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub work_us: u64,
}

impl Args {
    /// The flags of this run.
    pub fn read() -> Self {
        crate::run::log();
        Self::parse()
    }

    /// What tests are given: no server is where it points to.
    pub fn nowhere() -> Self {
        Self::parse_from([
            "example",
            "--kafka",
            "127.0.0.1:1",
            "--postgres",
            "postgres://127.0.0.1:1/x",
        ])
    }

    /// Kafka's address.
    pub fn bootstrap(&self) -> String {
        let set = self.kafka.clone().or_else(|| std::env::var("TIDEGATE_KAFKA").ok());
        set.unwrap_or_else(|| "127.0.0.1:9092".to_owned())
    }

    /// Kafka.
    pub fn kafka(&self) -> Kafka {
        Kafka::connect(self.bootstrap())
    }

    /// PostgreSQL's address.
    pub fn postgres(&self) -> String {
        let set = self.postgres.clone().or_else(|| std::env::var("TIDEGATE_POSTGRES").ok());
        set.unwrap_or_else(|| "postgres://tidegate:tidegate@127.0.0.1:5432/postgres".to_owned())
    }

    /// A name of this run: the example's own, or the one that was given instead; with `-part`
    /// behind it unless that is empty.
    pub fn named(&self, example: &str, part: &str) -> String {
        let name = self.name.as_deref().unwrap_or(example);
        if part.is_empty() { name.to_owned() } else { format!("{name}-{part}") }
    }

    /// Prints what the job does if that was asked for; answers whether it was.
    pub fn explained<O>(&self, job: &Job<O>) -> bool {
        if self.explain {
            print!("{}", job.explain());
        }
        self.explain
    }

    /// The work for one record.
    pub fn work(&self) -> impl Fn() + Send + Sync + Clone + 'static {
        let time = std::time::Duration::from_micros(self.work_us);
        move || {
            if !time.is_zero() {
                std::thread::sleep(time);
            }
        }
    }
}
