//! What a server runs on: the one place where the providers differ once it is up.

#[cfg(feature = "containers")]
use super::containers::Container;
use super::process::Process;
use anyhow::{Result, bail};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A process here, a container, or something that somebody else runs.
#[derive(Debug)]
pub(super) enum Machine {
    Process(Process),
    #[cfg(feature = "containers")]
    Container(Box<Container>),
    Elsewhere,
}

impl Machine {
    pub(super) async fn kill(&self) -> Result<()> {
        match self {
            Self::Process(process) => process.kill(),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.kill().await,
            Self::Elsewhere => not_ours(),
        }
    }

    pub(super) async fn pause(&self) -> Result<()> {
        match self {
            Self::Process(process) => process.pause(),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.pause().await,
            Self::Elsewhere => not_ours(),
        }
    }

    pub(super) async fn resume(&self) -> Result<()> {
        match self {
            Self::Process(process) => process.resume(),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.resume().await,
            Self::Elsewhere => not_ours(),
        }
    }

    pub(super) async fn start_again(&self) -> Result<()> {
        match self {
            Self::Process(process) => process.start_again(),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.start_again().await,
            Self::Elsewhere => not_ours(),
        }
    }

    /// An error when waiting for it has become pointless.
    pub(super) async fn check_alive(&self) -> Result<()> {
        match self {
            Self::Process(process) => process.check_alive(),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.check_alive().await,
            Self::Elsewhere => Ok(()),
        }
    }

    pub(super) async fn log(&self) -> Result<String> {
        match self {
            Self::Process(process) => process.log(),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.log().await,
            Self::Elsewhere => not_ours(),
        }
    }

    /// A file of the server, whole.
    pub(super) async fn read(&self, path: &Path) -> Result<Vec<u8>> {
        match self {
            Self::Process(_) => Ok(fs::read(path)?),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.read(path).await,
            Self::Elsewhere => not_ours(),
        }
    }

    /// The files of a directory of the server whose names end like this, in the order of their names, one behind the
    /// other.
    pub(super) async fn read_all(&self, dir: &Path, end: &str) -> Result<Vec<u8>> {
        match self {
            Self::Process(_) => {
                let entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
                let mut paths: Vec<_> = entries.iter().map(fs::DirEntry::path).collect();
                paths.retain(|path| path.to_string_lossy().ends_with(end));
                paths.sort();
                let files = paths.into_iter().map(fs::read).collect::<Result<Vec<_>, _>>()?;
                Ok(files.concat())
            }
            #[cfg(feature = "containers")]
            Self::Container(container) => container.read_all(dir, end).await,
            Self::Elsewhere => not_ours(),
        }
    }

    /// Changes bytes of a file of the server in place, as a bad disk does.
    pub(super) async fn write_at(&self, path: &Path, place: usize, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Process(_) => {
                let file = File::options().write(true).open(path)?;
                Ok(file.write_all_at(bytes, u64::try_from(place)?)?)
            }
            #[cfg(feature = "containers")]
            Self::Container(container) => container.write_at(path, place, bytes).await,
            Self::Elsewhere => not_ours(),
        }
    }

    /// Lets the user of a secure listener in, where the storage does not know it from the start.
    pub(super) async fn add_user(&self, bootstrap: &str) -> Result<()> {
        match self {
            #[cfg(feature = "containers")]
            Self::Container(container) => container.add_user(bootstrap).await,
            Self::Process(_) | Self::Elsewhere => {
                let _ = bootstrap;
                Ok(())
            }
        }
    }
}

fn not_ours<T>() -> Result<T> {
    bail!("a shared server is not ours to touch: start one for this test")
}
