//! Limit loops written by hand on librdkafka and sqlx, and the framework doing the same work with
//! an identity function, side by side in one run on real servers.
//!
//! Every measurement is a process of its own, started by this one: CPU time and peak memory are
//! then exactly the measured code's. [`driver`] prepares topics and tables, starts the cases in
//! turns, checks that each stored every record once, and hands the numbers to [`report`].

#![forbid(unsafe_code)]

mod args;
mod case;
mod check;
mod driver;
mod framework;
mod load;
mod loops;
mod measure;
mod memory;
mod report;
mod servers;
mod table;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Args, Command};

/// Runs the benchmark with these arguments.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = Args::parse_from(arguments);
    let result = match &args.command {
        Some(Command::Case { case }) => case::run(case),
        Some(Command::Memory { records }) => driver::memory(&args, *records),
        Some(Command::Servers) => driver::servers(),
        None => driver::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
