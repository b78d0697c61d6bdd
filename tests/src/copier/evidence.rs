//! Evidence for an audit: one JSON object a line, appended, so that it survives `kill -9`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use serde_json::{Value, json};
use tidegate::batch::Span;
use tidegate::record::PartitionId;
use tidegate::{EngineEvent, Observer};

/// Appends the engine's events to a file.
#[derive(Debug)]
pub struct Evidence {
    file: Mutex<File>,
}

impl Evidence {
    /// Evidence in this file, behind what is there.
    ///
    /// # Errors
    /// If the file cannot be opened for appending.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file: Mutex::new(file) })
    }

    fn write(&self, mut line: Value) {
        line["pid"] = json!(std::process::id());
        line["ns"] = json!(monotonic_ns());
        let text = format!("{line}\n");
        let mut file = self.file.lock().expect("no holder of the lock panics");
        // One write call: lines of several processes never mix.
        if let Err(error) = file.write_all(text.as_bytes()) {
            tracing::error!(%error, "evidence could not be written");
        }
    }
}

/// Nanoseconds of the clock that all processes of a machine share and that never jumps.
fn monotonic_ns() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    // /proc/uptime has hundredths; the rest comes from this process's own monotonic clock.
    static ORIGIN: std::sync::OnceLock<(u64, std::time::Instant)> = std::sync::OnceLock::new();
    let (boot, began) = ORIGIN.get_or_init(|| {
        let seconds = uptime.split('.').next().and_then(|s| s.parse::<u64>().ok()).unwrap_or(0);
        let hundredths =
            uptime.split(['.', ' ']).nth(1).and_then(|s| s.parse::<u64>().ok()).unwrap_or(0);
        (seconds * 1_000_000_000 + hundredths * 10_000_000, std::time::Instant::now())
    });
    boot + u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Observer for Evidence {
    fn observe(&self, event: &EngineEvent) {
        if let Some(line) = line_of(event) {
            self.write(line);
        }
    }
}

fn line_of(event: &EngineEvent) -> Option<Value> {
    Some(match event {
        EngineEvent::Assigned { partitions } => named("assign", partitions),
        EngineEvent::Revoked { partitions } => named("revoke", partitions),
        EngineEvent::HandedBack { partitions } => named("handed_back", partitions),
        EngineEvent::Lost { partitions } => named("lost", partitions),
        EngineEvent::Claimed { partition, epoch, stored } => json!({
            "event": "claim", "partition": partition.to_string(), "epoch": epoch.get(),
            "stored": stored.map(|offset| offset.get()),
        }),
        EngineEvent::Started { partition, epoch, offset } => json!({
            "event": "start", "partition": partition.to_string(), "epoch": epoch.get(),
            "offset": offset.get(),
        }),
        EngineEvent::PartitionFailed { partition, error } => json!({
            "event": "partition_failed", "partition": partition.to_string(), "error": error,
        }),
        EngineEvent::Cut { spans: cut, records } => json!({
            "event": "cut", "spans": spans(cut), "records": records,
        }),
        EngineEvent::CommitEnded { spans: cut, fate, detail, records, took } => json!({
            "event": "commit", "fate": fate, "detail": detail, "spans": spans(cut),
            "records": records, "took_us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        }),
        EngineEvent::DoubtResolved { spans: cut, stored } => json!({
            "event": "fate", "fate": if *stored { "committed" } else { "not_committed" },
            "spans": spans(cut),
        }),
        EngineEvent::Repositioned { partition, next } => json!({
            "event": "reposition", "partition": partition.to_string(), "next": next.get(),
        }),
        EngineEvent::DeadLettered { record, reason, .. } => json!({
            "event": "dead_letter", "record": record.to_string(), "reason": reason.as_str(),
        }),
        EngineEvent::Skipped { record, by, .. } => json!({
            "event": "skip", "record": record.to_string(), "by": by,
        }),
        EngineEvent::Stuck { record, age } => json!({
            "event": "stuck", "record": record.to_string(),
            "age_ms": u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        }),
        EngineEvent::Dropped { partition, epoch, records, why } => json!({
            "event": "dropped", "partition": partition.to_string(), "epoch": epoch.get(),
            "records": records, "why": why,
        }),
        EngineEvent::Stopping { why } => json!({ "event": "stopping", "why": why }),
        _ => return None,
    })
}

fn named(event: &str, partitions: &[PartitionId]) -> Value {
    let names: Vec<String> = partitions.iter().map(ToString::to_string).collect();
    json!({ "event": event, "partitions": names })
}

fn spans(spans: &[Span]) -> Value {
    spans
        .iter()
        .map(|span| {
            json!({
                "partition": span.partition.to_string(), "epoch": span.epoch.get(),
                "first": span.first.get(), "next": span.next.get(),
            })
        })
        .collect()
}
