//! L4 and L5: a thread consumes, another stores rows and offsets; between them one batch waits.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::{Next, consumer};
use crate::case::{Case, Outcome};
use crate::load::due;
use crate::measure::{Distribution, Span, now_nanos};

/// Rows of one transaction at most.
const ROWS_MAX: usize = 20_000;

/// A batch of rows: one buffer, and where each row's key and value lie in it.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) partitions: Vec<i32>,
    pub(super) offsets: Vec<i64>,
    bytes: Vec<u8>,
    ends: Vec<(usize, usize)>,
    /// When each record was due, if records come at a rate.
    dues: Vec<u64>,
    /// The next offset of every partition, before and after this batch.
    pub(super) first: Vec<i64>,
    pub(super) next: Vec<i64>,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Key and value of every row.
    pub(super) fn cells(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        let ends = self.ends.iter();
        starts
            .zip(ends)
            .map(|(start, (key, end))| (&self.bytes[start..*key], &self.bytes[*key..*end]))
    }

    fn push(&mut self, partition: i32, offset: i64, key: &[u8], value: &[u8]) {
        self.partitions.push(partition);
        self.offsets.push(offset);
        self.bytes.extend_from_slice(key);
        let key = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((key, self.bytes.len()));
    }
}

/// Where rows go.
pub(super) trait Storage {
    /// Stores a batch with its offsets in one transaction.
    fn store(&mut self, rows: &Rows, span: &Span) -> Result<()>;
}

/// Consumes into batches and has them stored.
pub(super) fn run<S: Storage>(
    case: &Case,
    open: impl FnOnce(&Case) -> Result<S> + Send + 'static,
) -> Result<Outcome> {
    let span = Arc::new(Span::default());
    let (batches, queue) = sync_channel(0);
    let storing = std::thread::spawn({
        let (case, span) = (case.clone(), Arc::clone(&span));
        move || store(&mut open(&case)?, &queue, &span)
    });
    let consumed = gather(case, &batches, &span);
    drop(batches);
    let latency = storing.join().map_err(|_| anyhow!("the storing thread panicked"))??;
    consumed?;
    let mut outcome = span.outcome(case.records)?;
    outcome.latency = case.rate.map(|_| latency.times());
    Ok(outcome)
}

fn store(storage: &mut impl Storage, queue: &Receiver<Rows>, span: &Span) -> Result<Distribution> {
    let mut latency = Distribution::default();
    while let Ok(rows) = queue.recv() {
        let begun = Instant::now();
        storage.store(&rows, span)?;
        span.phases.record("total", begun.elapsed());
        let now = now_nanos();
        for due in rows.dues {
            latency.record(Duration::from_nanos(now.saturating_sub(due)));
        }
    }
    span.end();
    Ok(latency)
}

fn gather(case: &Case, batches: &SyncSender<Rows>, span: &Span) -> Result<()> {
    let mut consumer = consumer(case)?;
    let (mut next, mut left) = (Next::new(), case.records);
    let (mut rows, mut since) = (Rows::default(), None::<Instant>);
    while left > 0 || rows.len() > 0 {
        let wait = match since {
            None => Duration::from_millis(100),
            Some(since) => case.interval().saturating_sub(since.elapsed()),
        };
        if left > 0 && rows.len() < ROWS_MAX {
            for message in consumer.take(wait) {
                ensure!(message.error().is_none(), "{:?}", message.error());
                if since.is_none() {
                    span.begin();
                    since = Some(Instant::now());
                    rows.first = next.0.clone();
                }
                if case.rate.is_some() {
                    rows.dues.push(due(message.value()));
                }
                rows.push(message.partition(), message.offset(), message.key(), message.value());
                next.passed(message.partition(), message.offset());
                left -= 1;
            }
        }
        let due = since.is_some_and(|since| since.elapsed() >= case.interval());
        if rows.len() >= ROWS_MAX || left == 0 || due {
            rows.next = next.0.clone();
            let full = rows.len() >= ROWS_MAX || left == 0;
            match hand_over(batches, std::mem::take(&mut rows), full)? {
                // Not taken yet: it grows on.
                Some(back) => rows = back,
                None => since = None,
            }
        }
    }
    Ok(())
}

/// Hands a batch over; one that may grow on comes back if nobody waits for it.
fn hand_over(batches: &SyncSender<Rows>, rows: Rows, full: bool) -> Result<Option<Rows>> {
    let gone = || anyhow!("the storing thread ended");
    if full {
        return batches.send(rows).map(|()| None).map_err(|_| gone());
    }
    match batches.try_send(rows) {
        Ok(()) => Ok(None),
        Err(TrySendError::Full(rows)) => {
            std::thread::sleep(Duration::from_micros(200));
            Ok(Some(rows))
        }
        Err(TrySendError::Disconnected(_)) => Err(gone()),
    }
}
