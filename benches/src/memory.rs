//! Whether memory stays flat: millions of records through a function that is slow now and then,
//! with a backlog that could fill any memory waiting behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tidegate::prelude::*;
use tidegate::record::RawRecord;
use tidegate_kafka::Kafka;

use crate::case::{Case, Outcome};
use crate::framework::{Watch, drive, jobs, watch::Eye};
use crate::measure::memory_mib;

/// How far above its start plateau the process may grow, in MiB.
const GROWTH_MAX: f64 = 64.0;
/// Within each million, records from this number on are slow.
const SLOW_FROM: u64 = 400_000;
const SLOW_RECORDS: u64 = 10_000;
const SLOW: Duration = Duration::from_millis(1);
/// Within each million, this record alone takes this long.
const VERY_SLOW_AT: u64 = 700_000;
const VERY_SLOW: Duration = Duration::from_secs(3);

/// Copies to a topic and prints a line a second.
pub(crate) fn run(case: &Case) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let watch = Arc::new(Watch::new(case));
        let watching = tokio::spawn(series(case.records, Arc::clone(&watch)));
        let source = Kafka::connect(&case.bootstrap).source(case.input.as_str());
        let sink = source.sink().outputs([case.output.as_str()]);
        let copy = jobs::copy_to(case, &watch);
        let job = Pipeline::new(&case.group)
            .from(source)
            .commit_interval(case.interval())
            .observe(Eye(Arc::clone(&watch)))
            .map(move |record: &RawRecord| {
                dawdle(record);
                copy(record)
            })
            .exactly_once(sink);
        drive(job, &watch).await?;
        let growth = watching.await??;
        if growth > GROWTH_MAX {
            bail!("memory is not flat: {growth:.1} MiB above the start plateau");
        }
        watch.span.outcome(case.records)
    })
}

fn dawdle(record: &RawRecord) {
    let key = record.key.as_deref().and_then(|key| key.first_chunk());
    let place = key.map_or(0, |key| u64::from_be_bytes(*key) % 1_000_000);
    if place == VERY_SLOW_AT {
        std::thread::sleep(VERY_SLOW);
    } else if (SLOW_FROM..SLOW_FROM + SLOW_RECORDS).contains(&place) {
        std::thread::sleep(SLOW);
    }
}

/// Prints time, records and memory every second; answers the growth over the start plateau, which
/// is the most that the first tenth of the records took.
async fn series(records: u64, watch: Arc<Watch>) -> Result<f64> {
    let (mut plateau, mut most) = (0.0_f64, 0.0_f64);
    let (begun, mut last) = (Instant::now(), 0);
    eprintln!("      s     records stored   in this second   RSS MiB");
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (stored, resident) = (watch.stored(), memory_mib("VmRSS")?);
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!("{seconds:7.1}   {stored:14}   {:14}   {resident:7.1}", stored - last);
        last = stored;
        if stored < records / 10 {
            plateau = plateau.max(resident);
        }
        most = most.max(resident);
        if stored >= records {
            let growth = most - plateau;
            eprintln!(
                "start plateau {plateau:.1} MiB, most {most:.1} MiB: {growth:.1} MiB above \
                 ({GROWTH_MAX} allowed)"
            );
            return Ok(growth);
        }
    }
}
