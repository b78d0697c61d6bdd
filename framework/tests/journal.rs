//! The journal of docs/WRITING_A_SINK.md: what the page shows is what is compiled and tested here.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate::Cause;
use tidegate::batch::Batch;
use tidegate::prelude::*;
use tidegate::record::{Offset, PartitionId};
use tidegate::sink::{
    Claim, ClaimRequest, CommitError, Move, Rejection, SinkContext, SinkDescription, SinkError,
    Stored, TransactionalSink,
};

/// Longer results are refused, as a column of limited length would.
const RESULT_BYTES_MAX: usize = 1 << 20;

/// One line of the journal. A line is there as a whole or not at all, so results and the progress
/// that goes with them can never be seen apart.
#[derive(Serialize, Deserialize, Default)]
struct Line {
    progress: Vec<Row>,
    results: Vec<String>,
    dead_letters: Vec<(String, i32, i64, String)>,
}

/// Stored progress of one partition; the newest row of a partition counts.
#[derive(Serialize, Deserialize, Clone)]
struct Row {
    topic: String,
    partition: i32,
    /// The next offset to read.
    next: i64,
    /// Grows with every claim: fences earlier owners.
    claim: u64,
    owner: u64,
}

impl Row {
    fn id(&self) -> PartitionId {
        PartitionId::new(self.topic.as_str(), self.partition)
    }
}

/// The file as far as this process has read it.
struct Journal {
    file: File,
    read_to: u64,
    progress: BTreeMap<PartitionId, Row>,
}

impl Journal {
    fn open(path: &Path) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, read_to: 0, progress: BTreeMap::new() })
    }

    /// Reads what was written since, by whomever, and cuts off a line that a crash left unfinished.
    fn catch_up(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.read_to))?;
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Line = serde_json::from_slice(line)?;
            self.progress.extend(line.progress.into_iter().map(|row| (row.id(), row)));
        }
        self.read_to += whole as u64;
        self.file.set_len(self.read_to)
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.file.seek(SeekFrom::End(0))?;
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.catch_up()
    }
}

/// Appends results and progress to one file per pipeline, shared by all its processes.
struct JournalSink {
    path: PathBuf,
    /// This sink among all that ever were: never used twice.
    owner: u64,
    /// What this sink owns, with the number of its claim.
    held: BTreeMap<PartitionId, u64>,
    journal: Option<Arc<Mutex<Journal>>>,
}

/// How far a transaction goes.
#[derive(PartialEq)]
enum End {
    Commit,
    Undo,
}

impl JournalSink {
    fn new(path: impl Into<PathBuf>) -> Self {
        let owner = RandomState::new().build_hasher().finish();
        Self { path: path.into(), owner, held: BTreeMap::new(), journal: None }
    }

    /// Runs `work` on the newest state, while the file is locked against all other processes, on a
    /// thread that may block.
    async fn locked<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Journal) -> Result<T, CommitError> + Send + 'static,
    ) -> Result<T, CommitError> {
        let journal = Arc::clone(self.journal.as_ref().expect("a sink is opened first"));
        let call = tokio::task::spawn_blocking(move || {
            let mut journal = journal.lock().expect("no holder of the lock panics");
            journal.file.lock().map_err(nothing_stored)?;
            let result = match journal.catch_up() {
                Ok(()) => work(&mut journal),
                Err(error) => Err(nothing_stored(error)),
            };
            let _ = journal.file.unlock();
            result
        });
        call.await
            .unwrap_or_else(|gone| Err(CommitError::InDoubt(Cause::from_error("no answer", gone))))
    }

    async fn store(&mut self, batch: &Batch<String>, end: End) -> Result<(), CommitError> {
        // Everything is encoded before the lock is taken.
        let mut line = encode(batch)?;
        let owner = self.owner;
        let mut expected = Vec::new();
        for span in batch.spans() {
            let claim = self.held.get(&span.partition).copied();
            expected.push((span.clone(), claim.ok_or_else(|| fenced(&span.partition))?));
        }
        self.locked(move |journal| {
            for (span, claim) in expected {
                let row =
                    journal.progress.get(&span.partition).ok_or_else(|| fenced(&span.partition))?;
                // The compare: still ours, and progress stands where the batch starts.
                if (row.claim, row.owner, row.next) != (claim, owner, span.first.get()) {
                    return Err(fenced(&span.partition));
                }
                line.progress.push(Row { next: span.next.get(), ..row.clone() });
            }
            match end {
                End::Commit => journal.append(&line).map_err(may_be_stored),
                End::Undo => Ok(()),
            }
        })
        .await
    }
}

fn encode(batch: &Batch<String>) -> Result<Line, CommitError> {
    let mut line = Line::default();
    for output in batch.outputs() {
        if output.value.len() > RESULT_BYTES_MAX {
            let cause = Cause::new(format_args!("a result of {} bytes", output.value.len()));
            return Err(CommitError::Rejected(Rejection::of_record(
                cause,
                output.record.coordinates(),
            )));
        }
        line.results.push(output.value.clone());
    }
    for (finished, letter) in batch.dead_letters() {
        let record = &finished.record;
        let (topic, index) = (record.partition.topic().to_string(), record.partition.index());
        line.dead_letters.push((topic, index, record.offset.get(), letter.error.clone()));
    }
    Ok(line)
}

fn nothing_stored(error: io::Error) -> CommitError {
    CommitError::Aborted(Cause::from_error("journal", error))
}

fn may_be_stored(error: io::Error) -> CommitError {
    CommitError::InDoubt(Cause::from_error("journal", error))
}

fn fenced(partition: &PartitionId) -> CommitError {
    CommitError::Fenced(Cause::new(format_args!("{partition} is not ours or stands elsewhere")))
}

/// A claim or a start that is in doubt is simply done again.
fn again(error: CommitError) -> SinkError {
    SinkError::Retry(Cause::new(error))
}

impl TransactionalSink for JournalSink {
    type Output = String;

    async fn open(&mut self, _: &SinkContext) -> Result<(), SinkError> {
        let journal = Journal::open(&self.path).map_err(nothing_stored).map_err(again)?;
        self.journal = Some(Arc::new(Mutex::new(journal)));
        Ok(())
    }

    fn describe(&self) -> SinkDescription {
        SinkDescription {
            kind: "journal".into(),
            target: self.path.display().to_string(),
            ..SinkDescription::default()
        }
    }

    fn measure(&self) -> fn(&String) -> usize {
        String::len
    }

    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        let asked: Vec<PartitionId> =
            partitions.iter().map(|request| request.partition.clone()).collect();
        let owner = self.owner;
        let claimed = self.locked(move |journal| {
            let mut line = Line::default();
            let mut claims = Vec::new();
            for partition in asked {
                let known = |id: &PartitionId| id.topic() == partition.topic();
                let stored = match journal.progress.get(&partition) {
                    Some(row) => {
                        line.progress.push(Row { claim: row.claim + 1, owner, ..row.clone() });
                        Stored::At(Offset::new(row.next))
                    }
                    // Its siblings started earlier: it was added to the topic since.
                    None if journal.progress.keys().any(known) => Stored::Added,
                    None => Stored::Nothing,
                };
                claims.push(Claim { partition, stored });
            }
            journal.append(&line).map_err(may_be_stored)?;
            Ok((claims, line.progress))
        });
        let (claims, rows) = claimed.await.map_err(again)?;
        self.held.extend(rows.into_iter().map(|row| (row.id(), row.claim)));
        Ok(claims)
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        let moves: Vec<(Move, Option<u64>)> =
            moves.iter().map(|to| (to.clone(), self.held.get(&to.partition).copied())).collect();
        let owner = self.owner;
        self.locked(move |journal| {
            let mut line = Line::default();
            for (to, held) in moves {
                let (topic, partition) = (to.partition.topic().to_string(), to.partition.index());
                match (to.expected, journal.progress.get(&to.partition)) {
                    // Somebody stored a start already: it is left as it is.
                    (None, Some(_)) => {}
                    (None, None) => {
                        let next = to.next.get();
                        line.progress.push(Row { topic, partition, next, claim: 0, owner: 0 });
                    }
                    (Some(expected), Some(row))
                        if (Some(row.claim), row.owner, row.next)
                            == (held, owner, expected.get()) =>
                    {
                        line.progress.push(Row { next: to.next.get(), ..row.clone() });
                    }
                    _ => return Err(fenced(&to.partition)),
                }
            }
            journal.append(&line).map_err(may_be_stored)
        })
        .await
    }

    async fn commit(&mut self, batch: &Batch<String>) -> Result<(), CommitError> {
        self.store(batch, End::Commit).await
    }

    async fn probe(&mut self, batch: &Batch<String>) -> Result<(), CommitError> {
        self.store(batch, End::Undo).await
    }

    async fn release(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            self.held.remove(partition);
        }
    }

    async fn close(&mut self) {
        self.journal = None;
    }
}

#[tokio::test]
async fn what_a_second_run_finds_was_stored_once() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::temp_dir().join(format!("journal-{}.jsonl", std::process::id()));
    let broker = tidegate::testing::MemoryBroker::new();
    broker.create_topic("words", 2);
    for number in 0..100 {
        let partition = PartitionId::new("words", number % 2);
        broker.produce(&partition, None, Some(format!("word {number}").as_bytes()));
    }
    // Twice: the second run has nothing left to do, because progress lies with the results.
    for run in 1..=2 {
        let handle = Pipeline::new("shout")
            .from(broker.source(&["words"]))
            .decode(Utf8)
            .map(|record| record.value.to_uppercase())
            .exactly_once(JournalSink::new(&path))
            .start()
            .await?;
        loop {
            let partitions = handle.status().await?.partitions;
            if partitions.len() == 2 && partitions.iter().all(|p| p.committed == Offset::new(50)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("run {run}: {}", handle.stop(Duration::from_secs(5)).await?);
    }
    let text = std::fs::read_to_string(&path)?;
    std::fs::remove_file(&path)?;
    let lines: Vec<Line> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut results: Vec<String> = lines.into_iter().flat_map(|line| line.results).collect();
    results.sort();
    let stored = results.len();
    results.dedup();
    assert_eq!((stored, results.len()), (100, 100));
    Ok(())
}

mod conformance {
    use super::*;
    use tidegate::record::Coordinates;
    use tidegate::testing::conformance::{Ability, Guard, Harness, LeftOpen, View};

    /// A journal of its own for each promise.
    struct Lab(tempfile::TempDir);

    impl Lab {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a directory"))
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("journal.jsonl")
        }
    }

    impl Harness for Lab {
        type Sink = JournalSink;

        async fn sink(&self) -> JournalSink {
            JournalSink::new(self.path())
        }

        fn output(&self, number: u64) -> String {
            number.to_string()
        }

        async fn view(&self) -> View {
            // Not through the sink, which may be wrong. A line that is not whole is not there.
            let bytes = std::fs::read(self.path()).unwrap_or_default();
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let mut view = View::default();
            for line in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
            {
                let line: Line = serde_json::from_slice(line).expect("a line of the journal");
                view.outputs
                    .extend(line.results.iter().map(|text| text.parse::<u64>().expect("a number")));
                view.dead.extend(line.dead_letters.into_iter().map(|(topic, index, offset, _)| {
                    Coordinates {
                        partition: PartitionId::new(topic.as_str(), index),
                        offset: Offset::new(offset),
                    }
                }));
                view.progress
                    .extend(line.progress.iter().map(|row| (row.id(), Offset::new(row.next))));
            }
            view
        }

        fn lacks(&self, ability: Ability) -> Option<&'static str> {
            match ability {
                Ability::Wire => Some("a file has no connection that could break"),
                _ => None,
            }
        }

        fn refused_output(&self) -> String {
            "x".repeat(RESULT_BYTES_MAX + 1)
        }

        /// A process was killed while it wrote: its line is there but for the last byte.
        async fn leave_open(&self, left: LeftOpen<String>) -> Guard {
            let (topic, partition) = (left.partition.topic().to_string(), left.partition.index());
            let row = Row { topic, partition, next: left.next.get(), claim: 1, owner: 1 };
            let line = Line { progress: vec![row], results: vec![left.output], ..Line::default() };
            let line = serde_json::to_vec(&line).expect("it is written");
            let mut file = File::options().append(true).open(self.path()).expect("it exists");
            file.write_all(&line).expect("written");
            Box::new(())
        }
    }

    tidegate::sink_conformance!(Lab::new());
}

/// Every block of code on the page stands in this file, so that none of it goes stale.
#[test]
fn the_page_shows_the_code_that_is_tested_here() {
    let (page, here) = (include_str!("../../docs/WRITING_A_SINK.md"), include_str!("journal.rs"));
    let blocks: Vec<&str> = page.split("```rust\n").skip(1).collect();
    assert_eq!(blocks.len(), 3, "the sink, a program, the promises");
    for block in blocks {
        let code = block.split("```").next().expect("an end");
        let first = code.lines().next().unwrap_or_default();
        assert!(
            here.contains(code),
            "the block that begins with {first:?} differs from journal.rs"
        );
    }
}
