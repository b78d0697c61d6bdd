//! What a server runs on: the one place where the providers differ once it is up.

use super::process::Process;
use anyhow::{Result, bail};

/// A process here, a container, or something that somebody else runs.
#[derive(Debug)]
pub(super) enum Machine {
    Process(Process),
    Elsewhere,
}

impl Machine {
    pub(super) async fn kill(&self) -> Result<()> {
        match self {
            Self::Process(process) => process.kill(),
            Self::Elsewhere => not_ours(),
        }
    }

    pub(super) async fn pause(&self) -> Result<()> {
        match self {
            Self::Process(process) => process.pause(),
            Self::Elsewhere => not_ours(),
        }
    }

    pub(super) async fn resume(&self) -> Result<()> {
        match self {
            Self::Process(process) => process.resume(),
            Self::Elsewhere => not_ours(),
        }
    }

    pub(super) async fn start_again(&self) -> Result<()> {
        match self {
            Self::Process(process) => process.start_again(),
            Self::Elsewhere => not_ours(),
        }
    }

    /// An error when waiting for it has become pointless.
    pub(super) async fn check_alive(&self) -> Result<()> {
        match self {
            Self::Process(process) => process.check_alive(),
            Self::Elsewhere => Ok(()),
        }
    }

    pub(super) async fn log(&self) -> Result<String> {
        match self {
            Self::Process(process) => process.log(),
            Self::Elsewhere => not_ours(),
        }
    }
}

fn not_ours<T>() -> Result<T> {
    bail!("a shared server is not ours to touch: start one for this test")
}
