//! Every bound of the engine, with its unit and reason, parsed once into a checked form.

use std::time::Duration;

use crate::error::Error;

/// Which records must run one after another. Whatever is chosen, stored progress only ever covers
/// a contiguous prefix of each partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// All records of a partition, one after another: as many records run at once as there are
    /// partitions.
    #[default]
    ByPartition,
    /// Records of a partition that have the same key. A slow key holds back only itself. A record
    /// with a null key is ordered with the other null keys of its partition; an empty key is a key.
    ByKey,
    /// Nothing is ordered. Results are stored in offset order within a partition all the same.
    Unordered,
}

/// The bounds of a pipeline, as the user wrote them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) threads: usize,
    pub(crate) concurrency: usize,
    pub(crate) in_flight_records: usize,
    pub(crate) in_flight_bytes: usize,
    pub(crate) commit_interval: Duration,
    pub(crate) commit_records: usize,
    pub(crate) drain_max: Duration,
    pub(crate) stop_max: Duration,
    pub(crate) claim_max: Duration,
    pub(crate) start_max: Duration,
    pub(crate) stuck_after: Duration,
    pub(crate) outputs_per_record: usize,
    pub(crate) output_bytes_per_record: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(4, usize::from),
            concurrency: 256,
            in_flight_records: 65_536,
            in_flight_bytes: 64 << 20,
            commit_interval: Duration::from_millis(100),
            commit_records: 50_000,
            drain_max: Duration::from_secs(10),
            stop_max: Duration::from_secs(20),
            claim_max: Duration::from_secs(30),
            start_max: Duration::from_secs(60),
            stuck_after: Duration::from_secs(10),
            outputs_per_record: 100_000,
            output_bytes_per_record: 64 << 20,
        }
    }
}

/// The longest duration a setting may have: longer ones are typing errors, and sums of checked
/// durations cannot overflow.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Settings {
    /// Checks every bound; the error names the setting, the value and what is allowed.
    pub(crate) fn check(&self) -> Result<Limits, Error> {
        let counts = [
            ("threads", self.threads, 1024),
            ("concurrency", self.concurrency, 1 << 20),
            ("in_flight_records", self.in_flight_records, 1 << 26),
            ("in_flight_bytes", self.in_flight_bytes, 1 << 40),
            ("commit_records", self.commit_records, 1 << 26),
            ("outputs_per_record", self.outputs_per_record, 1 << 30),
            ("output_bytes_per_record", self.output_bytes_per_record, 1 << 40),
        ];
        for (name, value, most) in counts {
            if value == 0 || value > most {
                return Err(Error::configuration(
                    name,
                    format_args!("{value} is out of range: 1 to {most} is allowed"),
                ));
            }
        }
        let durations = [
            ("commit_interval", self.commit_interval),
            ("drain_max", self.drain_max),
            ("stop_max", self.stop_max),
            ("claim_max", self.claim_max),
            ("start_max", self.start_max),
            ("stuck_after", self.stuck_after),
        ];
        for (name, value) in durations {
            if value.is_zero() || value > LONGEST {
                return Err(Error::configuration(
                    name,
                    format_args!("{value:?} is out of range: 1 ns to 24 h is allowed"),
                ));
            }
        }
        Ok(Limits(self.clone()))
    }
}

/// Settings that were checked.
#[derive(Clone, Debug)]
pub(crate) struct Limits(Settings);

impl std::ops::Deref for Limits {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed() {
        Settings::default().check().expect("defaults pass their own check");
    }

    #[test]
    fn a_zero_bound_is_refused_by_name() {
        let settings = Settings { in_flight_records: 0, ..Settings::default() };
        let error = settings.check().expect_err("zero records in flight can never work");
        assert!(error.is_configuration());
        assert!(error.to_string().starts_with("in_flight_records: 0"), "{error}");
    }

    #[test]
    fn an_overflowing_duration_is_refused_by_name() {
        let settings = Settings { drain_max: Duration::MAX, ..Settings::default() };
        let error = settings.check().expect_err("longer than a day");
        assert!(error.to_string().starts_with("drain_max: "), "{error}");
    }
}
