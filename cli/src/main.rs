//! The `tidegate` command: looks at stored offsets and moves them, wherever they are kept — in a
//! Kafka consumer group, in PostgreSQL or in an SQLite file — and proves what a pipeline promises by
//! killing it.
//!
//! It ends with 0 when it did what it was asked, with 2 when it was asked wrongly, and with 1
//! when it could not. `prove` says by its exit code what it found: see its help.

#![forbid(unsafe_code)]

mod args;
mod csv;
mod failure;
mod prove;
mod reset;
mod scenario;
mod show;
mod store;
mod table;
mod time;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Args, Command, Offsets};
use crate::failure::Failure;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Offsets { command } => offsets(command).await.map(|()| ExitCode::SUCCESS),
        Command::Prove(args) => prove::run(&args).await.map_err(prove::unknown),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        failure.exit_code()
    })
}

async fn offsets(command: Offsets) -> Result<(), Failure> {
    match command {
        Offsets::Show(show) => show::run(show).await,
        Offsets::Reset(reset) => reset::run(reset).await,
        Offsets::Export(export) => show::export(export).await,
        Offsets::Import(import) => reset::import(import).await,
    }
}
