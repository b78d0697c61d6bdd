//! Watches a pipeline from outside: its function and its observer.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate::record::RawRecord;
use tidegate::{EngineEvent, Observer};
use tokio::sync::Notify;

use crate::case::{Case, READY, Times, Work};
use crate::load::{PARTITIONS, due};
use crate::measure::{Distribution, Span, now_nanos};

/// What is seen of a pipeline.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) span: Span,
    expected: u64,
    stored: AtomicU64,
    started: AtomicUsize,
    done: Notify,
    /// When each record was due, by partition and offset; only where a commit is when a record
    /// becomes visible, and records come at a rate.
    dues: Option<Vec<Vec<AtomicU64>>>,
    latency: Mutex<Distribution>,
}

impl Watch {
    pub(crate) fn new(case: &Case) -> Self {
        let watched = case.rate.is_some() && matches!(case.work, Work::Postgres | Work::Sqlite);
        let partition = || {
            let offsets = 0..=case.records / u64::from(PARTITIONS.unsigned_abs());
            offsets.map(|_| AtomicU64::new(0)).collect()
        };
        Self {
            span: Span::default(),
            expected: case.records,
            stored: AtomicU64::new(0),
            started: AtomicUsize::new(0),
            done: Notify::new(),
            dues: watched.then(|| (0..PARTITIONS).map(|_| partition()).collect()),
            latency: Mutex::default(),
        }
    }

    /// Called by the function for every record.
    pub(crate) fn saw(&self, record: &RawRecord) {
        self.span.begin();
        if let Some(dues) = &self.dues {
            let (partition, offset) = (record.partition.index(), record.offset.get());
            let place = usize::try_from(partition).ok().and_then(|p| dues.get(p));
            let place = place.zip(usize::try_from(offset).ok()).and_then(|(p, o)| p.get(o));
            if let (Some(place), Some(value)) = (place, &record.value) {
                place.store(due(value), Ordering::Relaxed);
            }
        }
    }

    /// How many records are stored.
    pub(crate) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Returns when every record is stored.
    pub(crate) async fn done(&self) {
        self.done.notified().await;
    }

    pub(crate) fn latency(&self) -> Option<Times> {
        self.dues.as_ref()?;
        Some(self.latency.lock().unwrap_or_else(PoisonError::into_inner).times())
    }

    fn committed(&self, records: usize, spans: &[tidegate::batch::Span]) {
        let stored = self.stored.fetch_add(records as u64, Ordering::Relaxed) + records as u64;
        if stored >= self.expected {
            self.span.end();
            self.done.notify_one();
        }
        let Some(dues) = &self.dues else { return };
        let now = now_nanos();
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        for span in spans {
            let partition = usize::try_from(span.partition.index()).unwrap_or_default();
            for offset in span.first.get()..span.next.get() {
                let place = usize::try_from(offset).ok().and_then(|o| dues[partition].get(o));
                if let Some(due) = place {
                    let waited = now.saturating_sub(due.load(Ordering::Relaxed));
                    latency.record(Duration::from_nanos(waited));
                }
            }
        }
    }
}

/// The engine's observer.
pub(crate) struct Eye(pub(crate) Arc<Watch>);

impl Observer for Eye {
    fn observe(&self, event: &EngineEvent) {
        match event {
            EngineEvent::Started { .. } => {
                let started = self.0.started.fetch_add(1, Ordering::Relaxed) + 1;
                if Ok(started) == usize::try_from(PARTITIONS) {
                    println!("{READY}");
                }
            }
            EngineEvent::CommitEnded { fate: "committed", records, spans, .. } => {
                self.0.committed(*records, spans);
            }
            EngineEvent::CommitEnded { fate, detail, .. } => {
                eprintln!("a commit was {fate}: {detail}");
            }
            _ => {}
        }
    }
}
