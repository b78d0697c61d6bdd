//! Clocks, memory and distributions.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::case::{Outcome, Times};

/// User and system time of all threads of this process so far.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Duration::from_secs(seconds) + Duration::from_nanos(nanos)
}

/// The time of day in nanoseconds: what values carry from one process to another.
pub(crate) fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    u64::try_from(since.as_nanos()).expect("before the year 2500")
}

/// A line of this process's status in MiB: `VmRSS` or `VmHWM`.
pub(crate) fn memory_mib(line: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let value = status.lines().find_map(|known| known.strip_prefix(line)?.strip_prefix(':'));
    let kib: f64 = value
        .and_then(|value| value.trim().trim_end_matches("kB").trim().parse().ok())
        .with_context(|| format!("{line} in /proc/self/status"))?;
    Ok(kib / 1024.0)
}

/// A distribution of times from a microsecond to ten minutes.
#[derive(Clone, Debug)]
pub(crate) struct Distribution(Histogram<u64>);

impl Default for Distribution {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are sound"))
    }
}

impl Distribution {
    pub(crate) fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub(crate) fn times(&self) -> Times {
        #[allow(clippy::cast_precision_loss, reason = "microseconds of ten minutes fit")]
        let ms = |micros: u64| micros as f64 / 1000.0;
        Times {
            count: self.0.len(),
            mean: self.0.mean() / 1000.0,
            p50: ms(self.0.value_at_quantile(0.5)),
            p99: ms(self.0.value_at_quantile(0.99)),
            max: ms(self.0.max()),
        }
    }
}

/// Distributions by name; shared by everybody who measures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phases(Arc<Mutex<BTreeMap<String, Distribution>>>);

impl Phases {
    pub(crate) fn record(&self, phase: &str, took: Duration) {
        let mut phases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match phases.get_mut(phase) {
            Some(known) => known.record(took),
            None => phases.entry(phase.to_owned()).or_default().record(took),
        }
    }

    pub(crate) fn times(&self) -> BTreeMap<String, Times> {
        let phases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        phases.iter().map(|(name, times)| (name.clone(), times.times())).collect()
    }
}

/// Measures one case from its first record to its last commit.
#[derive(Debug, Default)]
pub(crate) struct Span {
    begun: OnceLock<(Instant, Duration)>,
    ended: OnceLock<(Instant, Duration)>,
    pub(crate) phases: Phases,
}

impl Span {
    /// Called for every record, or at least for the first.
    pub(crate) fn begin(&self) {
        self.begun.get_or_init(|| (Instant::now(), cpu_time()));
    }

    pub(crate) fn end(&self) {
        self.ended.get_or_init(|| (Instant::now(), cpu_time()));
    }

    pub(crate) fn outcome(&self, records: u64) -> Result<Outcome> {
        let (begun, cpu_begun) = self.begun.get().context("no record came")?;
        let (ended, cpu_ended) = self.ended.get().context("nothing was stored")?;
        Ok(Outcome {
            records,
            seconds: ended.duration_since(*begun).as_secs_f64(),
            cpu_seconds: (*cpu_ended - *cpu_begun).as_secs_f64(),
            peak_mib: memory_mib("VmHWM")?,
            phases: self.phases.times(),
            latency: None,
        })
    }
}
