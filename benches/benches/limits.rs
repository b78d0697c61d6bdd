//! The benchmark as `cargo bench -p tidegate-benches` runs it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let (bench, arguments): (Vec<_>, Vec<_>) =
        std::env::args_os().partition(|argument| argument == "--bench");
    // `cargo test --all-targets` starts this too, without the flag: measuring is no test.
    if bench.is_empty() && arguments.get(1).is_none_or(|first| first != "case") {
        println!("run by `cargo bench -p tidegate-benches`");
        return ExitCode::SUCCESS;
    }
    tidegate_benches::main(arguments)
}
