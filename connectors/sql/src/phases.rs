//! Where the time of a commit goes.

use std::fmt;
use std::time::Instant;

use tidegate::metrics::Meter;

use crate::sink::End;

/// A watch that is read at the end of each phase of a commit.
pub struct Phases {
    meter: Option<Meter>,
    since: Instant,
}

impl Phases {
    /// Starts the watch for a batch of this group. A batch that is undone counts for nothing.
    pub fn start(group: &str, end: End) -> Self {
        let meter = (end == End::Commit).then(|| Meter::new(group));
        Self { meter, since: Instant::now() }
    }

    /// Ends a phase: `encode`, `begin`, `write`, `offsets`, `commit`, or `statement` where one
    /// statement does it all.
    pub fn end(&mut self, phase: &'static str) {
        let now = Instant::now();
        if let Some(meter) = &self.meter {
            meter.commit_phase(phase, now - self.since);
        }
        self.since = now;
    }
}

impl fmt::Debug for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Phases").field("since", &self.since).finish_non_exhaustive()
    }
}
