//! The `tidegate` command: looks at stored offsets and moves them, wherever they are kept — in a
//! Kafka consumer group, in PostgreSQL or in an SQLite file.
//!
//! It ends with 0 when it did what it was asked, with 2 when it was asked wrongly, and with 1
//! when it could not.

#![forbid(unsafe_code)]

mod args;
mod csv;
mod failure;
mod reset;
mod scenario;
mod show;
mod store;
mod table;
mod time;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Args, Command, Offsets};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Command::Offsets { command } = Args::parse().command;
    let result = match command {
        Offsets::Show(show) => show::run(show).await,
        Offsets::Reset(reset) => reset::run(reset).await,
        Offsets::Export(export) => show::export(export).await,
        Offsets::Import(import) => reset::import(import).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}
