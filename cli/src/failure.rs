//! Why a command ended without doing what it was asked.

use std::fmt;
use std::process::ExitCode;

/// A failure, by whose fault it is.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command was given wrongly: exit code 2.
    Usage(String),
    /// It could not be done: exit code 1.
    Failed(String),
    /// So it is not known whether what was to be proved holds: exit code 3.
    Unknown(String),
    /// A signal asked for the end: exit code 130, as shells say it.
    Interrupted,
}

impl Failure {
    pub(crate) fn usage(problem: impl fmt::Display) -> Self {
        Self::Usage(problem.to_string())
    }

    pub(crate) fn failed(problem: impl fmt::Display) -> Self {
        Self::Failed(problem.to_string())
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::FAILURE,
            Self::Unknown(_) => ExitCode::from(3),
            Self::Interrupted => ExitCode::from(130),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(problem) | Self::Failed(problem) | Self::Unknown(problem) => {
                f.write_str(problem)
            }
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl From<tidegate::Error> for Failure {
    fn from(error: tidegate::Error) -> Self {
        if error.is_configuration() { Self::usage(error) } else { Self::failed(error) }
    }
}
