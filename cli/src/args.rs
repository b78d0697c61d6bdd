//! The command line, in the words of `kafka-consumer-groups`.

use std::path::PathBuf;

use clap::{ArgGroup, Parser, Subcommand};

use crate::prove::args::Prove;
use crate::time::{Moment, Past};

/// Looks after Tidegate's pipelines.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, for as long as the program runs")]
pub(crate) enum Command {
    /// Stored offsets: show, reset, export, import.
    Offsets {
        #[command(subcommand)]
        command: Offsets,
    },
    // Described where its options are.
    Prove(Prove),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Offsets {
    /// Prints what is stored, where the logs begin and end, and the lag.
    Show(Show),
    /// Moves the stored offsets of a group. Prints what it would do unless told to --execute.
    Reset(Reset),
    /// Prints the stored offsets of a group as CSV, for `reset --from-file` and `import`.
    Export(Export),
    /// Stores offsets from a file of CSV. Prints what it would do unless told to --execute.
    Import(Import),
}

/// Where offsets are kept: in PostgreSQL, in SQLite, or else in Kafka's consumer group.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Where the offsets are")]
#[command(group = ArgGroup::new("store").args(["kafka", "postgres", "sqlite"])
    .required(true).multiple(true))]
pub(crate) struct Place {
    /// Kafka's address. Alone: the offsets are the consumer group's. Beside a database: the
    /// cluster that its offsets are of, for the ends of logs and for times.
    #[arg(long, value_name = "HOST:PORT", visible_alias = "bootstrap-server")]
    pub(crate) kafka: Option<String>,
    /// The offsets are in this database. A password may come from ~/.pgpass or PGPASSWORD.
    #[arg(long, value_name = "URL", conflicts_with = "sqlite")]
    pub(crate) postgres: Option<String>,
    /// The schema of the bookkeeping tables in PostgreSQL.
    #[arg(long, value_name = "NAME", default_value = "tidegate", requires = "postgres")]
    pub(crate) schema: String,
    /// The offsets are in this file.
    #[arg(long, value_name = "PATH")]
    pub(crate) sqlite: Option<PathBuf>,
    /// What the names of the bookkeeping tables in SQLite begin with.
    #[arg(long, value_name = "PREFIX", default_value = "tidegate_", requires = "sqlite")]
    pub(crate) prefix: String,
    /// Allows unprotected connections to other hosts.
    #[arg(long)]
    pub(crate) allow_plaintext: bool,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    pub(crate) security: crate::store::security::Options,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The group, which is the pipeline's name. In a database: all groups unless set.
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The group, which is the pipeline's name.
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: String,
    /// Only this topic, or some partitions of it: `orders`, `orders:0,2`. May be repeated.
    #[arg(long, value_name = "TOPIC[:P,P]")]
    pub(crate) topic: Vec<String>,
    /// Writes here instead of to standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) to_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The group, which is the pipeline's name.
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: String,
    /// Lines of `topic,partition,offset`, or with the group in front.
    #[arg(long, value_name = "FILE")]
    pub(crate) from_file: PathBuf,
    /// Does it.
    #[arg(long)]
    pub(crate) execute: bool,
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("scope").args(["topic", "all_topics", "from_file"]).required(true))]
#[command(group = ArgGroup::new("scenario").required(true).args([
    "to_earliest", "to_latest", "to_current", "to_offset", "shift_by", "to_datetime",
    "by_duration", "from_file",
]))]
pub(crate) struct Reset {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The group, which is the pipeline's name.
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: String,
    /// This topic, or some partitions of it: `orders`, `orders:0,2`. May be repeated.
    #[arg(long, value_name = "TOPIC[:P,P]", help_heading = "What to reset")]
    pub(crate) topic: Vec<String>,
    /// Every partition the group has stored.
    #[arg(long, help_heading = "What to reset")]
    pub(crate) all_topics: bool,
    /// To the first offset that is still there.
    #[arg(long, help_heading = "Where to")]
    pub(crate) to_earliest: bool,
    /// Behind the last record.
    #[arg(long, help_heading = "Where to")]
    pub(crate) to_latest: bool,
    /// To where they are: what is outside its log is brought back into it.
    #[arg(long, help_heading = "Where to")]
    pub(crate) to_current: bool,
    /// To this offset.
    #[arg(long, value_name = "OFFSET", help_heading = "Where to",
        value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) to_offset: Option<i64>,
    /// By so many records, backwards if negative.
    #[arg(long, value_name = "RECORDS", help_heading = "Where to", allow_negative_numbers = true)]
    pub(crate) shift_by: Option<i64>,
    /// To the first record at or after this time: `2026-03-01T12:00:00.000`, in UTC unless it
    /// ends in an offset like `+02:00`.
    #[arg(long, value_name = "TIME", help_heading = "Where to")]
    pub(crate) to_datetime: Option<Moment>,
    /// To the first record of so long ago: `PT1H30M`, `P2D`.
    #[arg(long, value_name = "DURATION", help_heading = "Where to")]
    pub(crate) by_duration: Option<Past>,
    /// To what this file says: lines of `topic,partition,offset`, or with the group in front.
    #[arg(long, value_name = "FILE", help_heading = "Where to")]
    pub(crate) from_file: Option<PathBuf>,
    /// Does it.
    #[arg(long, conflicts_with_all = ["dry_run", "export"])]
    pub(crate) execute: bool,
    /// Only prints what it would do; so it is without --execute.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// As --dry-run, as CSV for --from-file.
    #[arg(long)]
    pub(crate) export: bool,
}
