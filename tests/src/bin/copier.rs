//! Copies every input record once to a sink; see `tidegate_tests::copier`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use tidegate_tests::copier::{self, args::Args};

fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(Some(args)) => args,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    // Unasked, nothing stands beside the one line that a refusal is worth.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the runtime did not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(copier::run(args));
    // Calls and functions that hang must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(summary) => {
            eprintln!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", error.to_string().replace('\n', " "));
            if error.is_configuration() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
