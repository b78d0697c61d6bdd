//! Where the output of the processes goes, and whether it stays.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::failure::Failure;

/// A directory of logs.
#[derive(Debug)]
pub(crate) struct Logs {
    path: PathBuf,
    /// Removed at the end, unless it is kept.
    passing: Option<TempDir>,
}

impl Logs {
    /// The directory that was named, or one that is removed at the end.
    pub(crate) fn new(named: Option<&Path>) -> Result<Self, Failure> {
        let failed = |path: &Path, error| {
            Failure::usage(format_args!("--logs: {} cannot be made: {error}", path.display()))
        };
        if let Some(path) = named {
            std::fs::create_dir_all(path).map_err(|error| failed(path, error))?;
            return Ok(Self { path: path.to_owned(), passing: None });
        }
        let passing = tempfile::Builder::new()
            .prefix("tidegate-prove-")
            .tempdir()
            .map_err(|error| failed(&std::env::temp_dir(), error))?;
        Ok(Self { path: passing.path().to_owned(), passing: Some(passing) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// They are worth looking at, if there are any.
    pub(crate) fn keep(&mut self) {
        if std::fs::read_dir(&self.path).is_ok_and(|mut files| files.next().is_none()) {
            return;
        }
        if let Some(passing) = self.passing.take() {
            self.path = passing.keep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_go_unless_they_are_named_or_kept() {
        let mut kept = Logs::new(None).expect("a directory");
        let path = kept.path().to_owned();
        std::fs::write(path.join("log"), "words").expect("it is written");
        kept.keep();
        drop(kept);
        assert!(path.exists());
        std::fs::remove_dir_all(&path).expect("it is ours");

        for keep in [true, false] {
            let mut gone = Logs::new(None).expect("a directory");
            let path = gone.path().to_owned();
            assert!(path.exists());
            if keep {
                gone.keep();
            } else {
                std::fs::write(path.join("log"), "words").expect("it is written");
            }
            drop(gone);
            assert!(!path.exists(), "it was empty: {keep}");
        }

        let folder = tempfile::tempdir().expect("a folder");
        let named = folder.path().join("a/b");
        drop(Logs::new(Some(&named)).expect("it is made"));
        assert!(named.exists());
    }
}
