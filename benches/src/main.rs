//! The benchmark as a program: `cargo run --release -p tidegate-benches -- --help`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate_benches::main(std::env::args_os())
}
