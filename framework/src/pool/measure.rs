//! Measurements, run by hand: `cargo test --release -p tidegate pool::measure -- --ignored
//! --nocapture`. They print and assert nothing about time.

use std::time::Instant;

use tokio::sync::Notify;

use super::*;
use crate::batch::Outputs;
use crate::engine::work::Ticket;
use crate::record::{Epoch, Headers, Offset, PartitionId, RawRecord};

const RECORDS: usize = 6_000_000;
const THREADS: usize = 2;
/// What the engine has out at once.
const OUT: usize = 16_384;

async fn measure(records_per_job: usize) {
    let wake = Arc::new(Notify::new());
    let process: Process<u64> =
        Process::Sync(Arc::new(|_, _| Attempt::Done(Some(Outputs::One(1)))));
    let mut pool = Pool::start(THREADS, process, std::time::Duration::MAX, Arc::clone(&wake))
        .expect("threads start");
    let record = Arc::new(RawRecord {
        partition: PartitionId::new("t", 0),
        offset: Offset::ZERO,
        timestamp: None,
        key: None,
        value: None,
        headers: Headers::default(),
    });
    let gate = Arc::default();
    let (mut submitted, mut finished) = (0, 0);
    let (mut drained, mut drains) = (Vec::new(), 0_u32);
    let start = Instant::now();
    while finished < RECORDS {
        let mut jobs = Vec::new();
        while submitted < RECORDS && submitted - finished < OUT {
            let tickets = (0..records_per_job).map(|at| Ticket {
                seq: (submitted + at) as u64,
                attempt: 1,
                record: Arc::clone(&record),
            });
            jobs.push(Job {
                key: LaneKey {
                    slot: 0,
                    epoch: Epoch::new(1),
                    lane: (submitted / records_per_job) as u32,
                },
                gate: Arc::clone(&gate),
                tickets: tickets.collect(),
            });
            submitted += records_per_job;
        }
        pool.submit(jobs);
        wake.notified().await;
        pool.drain(&mut drained);
        drains += 1;
        finished += drained.len();
        drained.clear();
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{THREADS} threads, jobs of {records_per_job}: {:.2} M records/s, {:.0} records a drain",
        finished as f64 / seconds / 1e6,
        finished as f64 / f64::from(drains),
    );
}

#[tokio::test]
#[ignore = "a measurement"]
async fn records_per_second() {
    for records_per_job in [64, 8, 1] {
        measure(records_per_job).await;
    }
}
