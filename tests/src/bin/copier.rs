//! Copies every input record once to a sink; see `tidegate_tests::copier`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate_tests::copier::main()
}
