//! At least once and at most once, end to end over the broker in memory: progress is the group's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::CommitHook;
use tidegate::batch::Batch;
use tidegate::prelude::*;
use tidegate::record::PartitionId;
use tidegate::sink::{Sink, SinkContext, SinkDescription, SinkError};
use tidegate::testing::MemoryBroker;

const TOPIC: &str = "in";
const PARTITIONS: i32 = 3;
const RECORDS: usize = 500;
/// Long enough on a busy machine, short enough to notice a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Counts what it is given.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, u32>>>);

impl Sink for Counts {
    type Output = String;

    fn describe(&self) -> SinkDescription {
        SinkDescription::default()
    }

    async fn open(&mut self, _: &SinkContext) -> Result<(), SinkError> {
        Ok(())
    }

    async fn write(&mut self, batch: &Batch<String>) -> Result<(), SinkError> {
        let mut counts = self.0.lock().expect("no holder of the lock panics");
        for output in batch.outputs() {
            *counts.entry(output.value.clone()).or_default() += 1;
        }
        Ok(())
    }

    async fn close(&mut self) {}
}

fn partition(index: i32) -> PartitionId {
    PartitionId::new(TOPIC, index)
}

fn filled() -> MemoryBroker {
    let broker = MemoryBroker::new();
    broker.create_topic(TOPIC, PARTITIONS);
    for number in 0..RECORDS {
        let index = i32::try_from(number).expect("few records") % PARTITIONS;
        broker.produce(&partition(index), None, Some(number.to_string().as_bytes()));
    }
    broker
}

/// Runs the job until everything is written and the group's offsets are the ends.
async fn copies_all(broker: MemoryBroker, counts: Counts, job: Job<String>) {
    let handle = job.start().await.expect("it starts");
    let done = || {
        let written = counts.0.lock().expect("no holder of the lock panics").len();
        written == RECORDS
            && (0..PARTITIONS).all(|index| {
                broker.group_offset("copy", &partition(index)) == broker.end(&partition(index))
            })
    };
    let late = tokio::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(tokio::time::Instant::now() < late, "something is not written or not stored");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.stop(PATIENCE).await.expect("it stops cleanly");
    let counts = counts.0.lock().expect("no holder of the lock panics");
    assert!(counts.values().all(|times| *times == 1), "nothing broke, so nothing is repeated");
}

/// A copying job whose guarantee is named last.
macro_rules! copy {
    ($broker:expr) => {
        Pipeline::new("copy")
            .from($broker.source(&[TOPIC]))
            .decode(Utf8)
            .map(|record| record.value.clone())
            .commit_interval(Duration::from_millis(5))
    };
}

#[tokio::test]
async fn at_least_once_moves_the_groups_offsets_behind_what_it_wrote() {
    for commits in [
        GroupCommits::Sync,
        GroupCommits::Async(CommitHook::none()),
        GroupCommits::Every(Duration::from_millis(20)),
    ] {
        let (broker, counts) = (filled(), Counts::default());
        let job = copy!(broker).at_least_once_with(counts.clone(), commits);
        copies_all(broker, counts, job).await;
    }
}

#[tokio::test]
async fn at_most_once_moves_the_groups_offsets_ahead_of_what_it_writes() {
    let (broker, counts) = (filled(), Counts::default());
    let job = copy!(broker).at_most_once(counts.clone());
    copies_all(broker, counts, job).await;
}
