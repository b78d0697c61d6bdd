//! Totals and progress in one small JSON file that is replaced as a whole.

use std::collections::BTreeMap;
use std::fs::{File, rename};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidegate::batch::Batch;
use tidegate::record::{Offset, PartitionId};
use tidegate::sink::{
    Claim, ClaimRequest, CommitError, Move, SinkContext, SinkDescription, SinkError, Stored,
    TransactionalSink,
};
use tidegate::{Cause, Error};

/// What is in the file.
#[derive(Clone, Default, Deserialize, Serialize)]
pub(crate) struct Contents {
    pub(crate) totals: BTreeMap<String, i64>,
    /// Records set aside, by coordinates, with the reason.
    pub(crate) dead: BTreeMap<String, String>,
    /// The next offset of each `topic/partition`.
    pub(crate) progress: BTreeMap<String, i64>,
}

/// The step that is all or nothing: a new file takes the place of the old one. The fence is a lock:
/// who holds it is the only owner of everything, and it ends with the process.
pub(crate) struct TotalsFile {
    path: PathBuf,
    now: Contents,
    lock: Option<File>,
}

impl TotalsFile {
    /// Totals in this file, in a directory that exists.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), now: Contents::default(), lock: None }
    }

    fn next(&self, partition: &PartitionId) -> Option<Offset> {
        self.now.progress.get(&partition.to_string()).copied().and_then(Offset::try_new)
    }

    fn replace(&mut self, contents: Contents) -> Result<(), CommitError> {
        let write = || {
            let new = self.path.with_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(&contents)?)?;
            file.sync_all()?;
            rename(&new, &self.path)?;
            File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
        };
        // Whatever failed, the next claim looks into the file.
        let doubt =
            |error: io::Error| CommitError::InDoubt(Cause::from_error("not written", error));
        write().map_err(doubt)?;
        self.now = contents;
        Ok(())
    }
}

impl TransactionalSink for TotalsFile {
    type Output = (String, i64);

    async fn open(&mut self, _: &SinkContext) -> Result<(), SinkError> {
        let lock = File::create(self.path.with_extension("lock")).map_err(|error| {
            SinkError::Stop(Error::configuration("path", self.path.display()).with_source(error))
        })?;
        let busy = |error| SinkError::Retry(Cause::from_error("another process has it", error));
        lock.try_lock().map_err(busy)?;
        self.lock = Some(lock);
        Ok(())
    }

    fn describe(&self) -> SinkDescription {
        let target = self.path.display().to_string();
        SinkDescription { kind: "totals file".into(), target, ..Default::default() }
    }

    async fn claim(&mut self, asked: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        let unread = |error: io::Error| SinkError::Retry(Cause::from_error("not read", error));
        self.now = match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents::default(),
            read => serde_json::from_slice(&read.map_err(unread)?).map_err(|e| unread(e.into()))?,
        };
        let claims = asked.iter().map(|ClaimRequest { partition, .. }| Claim {
            partition: partition.clone(),
            stored: self.next(partition).map_or(Stored::Nothing, Stored::At),
        });
        Ok(claims.collect())
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        let mut then = self.now.clone();
        for Move { partition, expected, next, .. } in moves {
            match (self.next(partition), *expected) {
                (stored, expected) if stored == expected => {
                    then.progress.insert(partition.to_string(), next.get());
                }
                (_, None) => {}
                _ => return Err(moved(partition)),
            }
        }
        self.replace(then)
    }

    async fn commit(&mut self, batch: &Batch<(String, i64)>) -> Result<(), CommitError> {
        let mut then = self.now.clone();
        for span in batch.spans() {
            if self.next(&span.partition) != Some(span.first) {
                return Err(moved(&span.partition));
            }
            then.progress.insert(span.partition.to_string(), span.next.get());
        }
        for (name, number) in batch.outputs().map(|output| output.value) {
            *then.totals.entry(name.clone()).or_default() += number;
        }
        for (finished, letter) in batch.dead_letters() {
            then.dead.insert(finished.record.coordinates().to_string(), letter.error.clone());
        }
        self.replace(then)
    }

    async fn probe(&mut self, _: &Batch<(String, i64)>) -> Result<(), CommitError> {
        Ok(()) // It refuses no data.
    }

    async fn release(&mut self, _: &[PartitionId]) {}

    async fn close(&mut self) {}
}

fn moved(partition: &PartitionId) -> CommitError {
    CommitError::Fenced(Cause::new(format_args!("{partition} is stored elsewhere")))
}
