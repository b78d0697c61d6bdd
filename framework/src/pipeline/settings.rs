//! The settings of a pipeline, at any stage. They are checked when the job is.

use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use crate::engine::observe::Observer;
use crate::policy::FailurePolicy;
use crate::settings::Order;

impl<S> Pipeline<S> {
    /// Which records must run one after another. Default: [`Order::ByPartition`].
    pub fn order(mut self, order: Order) -> Self {
        self.plan.order = order;
        self
    }

    /// What happens to a record whose function fails. Default: three retries, then stop.
    pub fn on_failure(mut self, policy: FailurePolicy) -> Self {
        self.plan.policy = policy;
        self
    }

    /// The name of this instance among the group's, kept over restarts: a restart is recognised
    /// and resumes in about a second. No two running processes may share it. Up to 200 letters,
    /// digits, `.`, `_` and `-`. Default: none.
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.plan.instance = Some(name.into());
        self
    }

    /// Threads that run sync functions. Default: as many as the machine has cores.
    pub fn threads(mut self, threads: usize) -> Self {
        self.plan.settings.threads = threads;
        self
    }

    /// Async functions that wait at the same time. Default: 256.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.plan.settings.concurrency = calls;
        self
    }

    /// Records, and bytes of key, value and headers, that may be delivered and not stored yet.
    /// Beyond, nothing more is read. Default: 65,536 records, 64 MiB.
    pub fn in_flight(mut self, records: usize, bytes: usize) -> Self {
        self.plan.settings.in_flight_records = records;
        self.plan.settings.in_flight_bytes = bytes;
        self
    }

    /// The longest time a finished record waits for its commit. Default: 100 ms.
    pub fn commit_interval(mut self, longest: Duration) -> Self {
        self.plan.settings.commit_interval = longest;
        self
    }

    /// The most records of one commit. Default: 50,000.
    pub fn commit_records(mut self, most: usize) -> Self {
        self.plan.settings.commit_records = most;
        self
    }

    /// How long running records may take to finish when the group wants partitions back. Default:
    /// 10 s.
    pub fn drain_max(mut self, longest: Duration) -> Self {
        self.plan.settings.drain_max = longest;
        self
    }

    /// How long a stop may take, draining and the last commit included. Default: 20 s.
    pub fn stop_max(mut self, longest: Duration) -> Self {
        self.plan.settings.stop_max = longest;
        self
    }

    /// How long claiming newly assigned partitions may take. Default: 30 s.
    pub fn claim_max(mut self, longest: Duration) -> Self {
        self.plan.settings.claim_max = longest;
        self
    }

    /// How long broker and sink may stay unreachable at the start. Default: 60 s.
    pub fn start_max(mut self, longest: Duration) -> Self {
        self.plan.settings.start_max = longest;
        self
    }

    /// After which time a running record is reported as stuck, with its coordinates. Default: 10 s.
    pub fn stuck_after(mut self, time: Duration) -> Self {
        self.plan.settings.stuck_after = time;
        self
    }

    /// The most results of one record; beyond, the record fails. Default: 100,000.
    pub fn outputs_per_record(mut self, most: usize) -> Self {
        self.plan.settings.outputs_per_record = most;
        self
    }

    /// The most bytes that the results of one record may have, as the sink measures them; beyond,
    /// the record fails. Default: 64 MiB.
    pub fn output_bytes_per_record(mut self, most: usize) -> Self {
        self.plan.settings.output_bytes_per_record = most;
        self
    }

    /// Shows every decision of the engine to this observer.
    pub fn observe(mut self, observer: impl Observer + 'static) -> Self {
        self.plan.observer = Some(Arc::new(observer));
        self
    }
}
