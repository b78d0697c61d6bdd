//! The copier's command line, checked: every error is one line that names the setting.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, ValueEnum};

/// Writes every input record once to the sink, unchanged, with its coordinates.
#[derive(Parser, Clone, Debug)]
#[command(name = "copier", version, allow_negative_numbers = true)]
pub struct Args {
    /// Kafka's address.
    #[arg(long, value_name = "HOST:PORT")]
    pub bootstrap: String,
    /// The consumer group.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub group: String,
    /// Input topics.
    #[arg(long, value_name = "T[,T]", value_delimiter = ',', required = true, value_parser = NonEmptyStringValueParser::new())]
    pub input: Vec<String>,
    /// kafka:TOPIC, postgres:URL or sqlite:PATH.
    #[arg(long, value_parser = parse_sink)]
    pub sink: Target,
    /// What the sink shows of every record.
    #[arg(long, default_value = "exactly-once")]
    pub guarantee: Promise,
    /// Which records run one after another.
    #[arg(long, default_value = "partition")]
    pub order: Ordering,
    /// Threads of the pool.
    #[arg(long, default_value_t = 4)]
    pub threads: usize,
    /// Records in flight.
    #[arg(long, default_value_t = 20_000)]
    pub in_flight: usize,
    /// The longest time between commits.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    pub commit_interval_ms: u64,
    /// The most records of one commit.
    #[arg(long, default_value_t = 10_000)]
    pub commit_records: usize,
    /// The name of this instance: static membership and a stable transactional id.
    #[arg(long)]
    pub instance: Option<String>,
    /// The group protocol.
    #[arg(long, default_value = "classic")]
    pub protocol: Protocol,
    /// How long the broker waits for a silent member; classic protocol only.
    #[arg(long, value_name = "MS")]
    pub session_timeout_ms: Option<u64>,
    /// How long the client may go without polling.
    #[arg(long, value_name = "MS")]
    pub max_poll_interval_ms: Option<u64>,
    /// How long a Kafka transaction may stay open.
    #[arg(long, value_name = "MS")]
    pub transaction_timeout_ms: Option<u64>,
    /// How long a stop, or a hand-over, may wait for running records.
    #[arg(long, value_name = "MS")]
    pub drain_ms: Option<u64>,
    /// Microseconds of work for each record, drawn evenly from this range.
    #[arg(long, value_name = "MIN..MAX", default_value = "0..0", value_parser = parse_range)]
    pub work_us: RangeInclusive<u64>,
    /// How the work is done.
    #[arg(long, default_value = "sleep")]
    pub work: Work,
    /// Where partitions without stored progress start.
    #[arg(long, default_value = "earliest")]
    pub start: Start,
    /// Calls after the first one failed.
    #[arg(long, default_value_t = 3)]
    pub retries: u32,
    /// What happens to a record whose retries did not help.
    #[arg(long, default_value = "dead-letter")]
    pub on_failure: OnFailure,
    /// A file to which events are appended, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub evidence: Option<PathBuf>,
    /// Ends cleanly after so long without work.
    #[arg(long, value_name = "MS")]
    pub exit_when_idle_ms: Option<u64>,
    /// Serves Prometheus metrics here.
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<std::net::SocketAddr>,
}

/// Where the copies go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A topic.
    Kafka(String),
    /// The table `copied` of a database.
    Postgres(String),
    /// The table `copied` of a file.
    Sqlite(PathBuf),
}

/// The guarantee.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Promise {
    /// Every record once.
    ExactlyOnce,
    /// Every record at least once.
    AtLeastOnce,
    /// Every record at most once.
    AtMostOnce,
}

/// The order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Ordering {
    /// By partition.
    Partition,
    /// By key.
    Key,
    /// None.
    None,
}

/// The group protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Protocol {
    /// Classic, cooperative-sticky.
    Classic,
    /// KIP-848.
    Consumer,
}

/// How work is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Work {
    /// The thread sleeps.
    Sleep,
    /// The thread computes.
    Spin,
    /// A task sleeps.
    Async,
}

/// The start policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Start {
    /// At the beginning.
    Earliest,
    /// At the end.
    Latest,
    /// Not at all.
    Error,
}

/// The last resort.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OnFailure {
    /// Set aside.
    DeadLetter,
    /// Left out.
    Skip,
    /// The pipeline ends.
    Stop,
}

impl Args {
    /// Reads the command line.
    ///
    /// # Errors
    /// One line that names the setting; `Ok(None)` if help or the version was asked for and shown.
    pub fn read() -> Result<Option<Self>, String> {
        match Self::try_parse() {
            Ok(args) => Ok(Some(args)),
            Err(shown) if !shown.use_stderr() => {
                let _ = shown.print();
                Ok(None)
            }
            Err(error) => Err(one_line(&error.to_string())),
        }
    }

    /// How long a stop or a hand-over may take.
    pub fn drain(&self) -> Option<Duration> {
        self.drain_ms.map(Duration::from_millis)
    }
}

/// clap explains over several lines; what names the setting stands in the first two paragraphs.
fn one_line(text: &str) -> String {
    let kept = text.lines().take_while(|line| !line.starts_with("Usage:"));
    let words: Vec<&str> = kept.flat_map(str::split_whitespace).collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}

fn parse_sink(text: &str) -> Result<Target, String> {
    match text.split_once(':') {
        Some(("kafka", topic)) if !topic.is_empty() => Ok(Target::Kafka(topic.to_owned())),
        Some(("postgres", url)) if !url.is_empty() => {
            // Both `postgres:postgres://…` and a URL given as it is are understood.
            let url = if url.starts_with("//") { text } else { url };
            Ok(Target::Postgres(url.to_owned()))
        }
        Some(("sqlite", path)) if !path.is_empty() => Ok(Target::Sqlite(path.into())),
        _ => Err("kafka:TOPIC, postgres:URL or sqlite:PATH is expected".to_owned()),
    }
}

fn parse_range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let expected = "MIN..MAX in microseconds is expected";
    let (least, most) = text.split_once("..").ok_or(expected)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| expected.to_owned());
    let (least, most) = (number(least)?, number(most)?);
    if least > most {
        return Err(format!("{least} is more than {most}"));
    }
    Ok(least..=most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &[&str]) -> Result<Args, String> {
        let base = ["copier", "--bootstrap", "h:1", "--group", "g", "--input", "a,b"];
        Args::try_parse_from(base.iter().chain(extra)).map_err(|e| one_line(&e.to_string()))
    }

    #[test]
    fn every_kind_of_sink_is_understood() {
        for (text, target) in [
            ("kafka:out", Target::Kafka("out".into())),
            ("postgres:postgres://u@h/d", Target::Postgres("postgres://u@h/d".into())),
            ("postgres://u@h/d", Target::Postgres("postgres://u@h/d".into())),
            ("sqlite:/tmp/x.db", Target::Sqlite("/tmp/x.db".into())),
        ] {
            let args = parse(&["--sink", text]).expect("a sink");
            assert_eq!(args.sink, target);
            assert_eq!(args.input, ["a", "b"]);
        }
    }

    #[test]
    fn an_error_is_one_line_that_names_the_setting() {
        for (extra, setting) in [
            (vec!["--sink", "nowhere"], "--sink"),
            (vec!["--sink", "kafka:o", "--threads", "many"], "--threads"),
            (vec!["--sink", "kafka:o", "--work-us", "9..1"], "--work-us"),
            (vec!["--sink", "kafka:o", "--order", "chaos"], "--order"),
            (vec!["--sink", "kafka:o", "--tread", "1"], "--tread"),
            (vec![], "--sink"),
        ] {
            let error = parse(&extra).expect_err("it cannot be used");
            assert!(error.contains(setting) && !error.contains('\n'), "{error}");
        }
    }
}
