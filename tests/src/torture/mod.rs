//! Breaks everything around copiers for a while, by a schedule from a seed, and lets them finish.
//!
//! Whether what they leave is right is for [`audit`](crate::audit) to say. This module makes sure that things really
//! break: a fault counts when it has hit, and one that missed, because its process was down just then, is tried
//! again.

mod coverage;
mod dice;
mod gates;
mod held;
mod ledger;
mod mixed;
mod nemesis;
mod operator;
mod run;
mod schedule;
mod session;
mod slot;
mod victims;
mod zombies;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

pub use coverage::Coverage;
pub use gates::gaps;
pub use mixed::Plan;
pub use nemesis::{ALL, Nemesis};
pub use operator::Deed;
pub use run::{Outcome, Servers, Torture, Wires, torture};
pub use schedule::{Dose, Fault, Schedule, Victim};
pub use session::{Kind, Length, Session, Verdict};
pub use slot::Tally;
pub use zombies::Silence;

/// How long a stopped copier stays stopped: longer than its session.
pub const STOPPED: Duration = Duration::from_secs(8);
/// As long, and longer than its transactions may stay open and the broker takes to notice.
pub const EXPIRED: Duration = Duration::from_secs(14);
/// As long, and until others have the partitions of one that was stopped inside a transaction.
pub const BURIED: Duration = Duration::from_secs(18);
/// How long the group waits for a silent member.
pub const SESSION: Duration = Duration::from_secs(6);

/// The seed of this run: `TIDEGATE_SEED`, or a new one.
///
/// # Errors
/// When the variable is no number.
pub fn seed() -> Result<u64> {
    match std::env::var("TIDEGATE_SEED") {
        Ok(text) if !text.is_empty() => text.parse().context("TIDEGATE_SEED is a number"),
        _ => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
            Ok(u64::from(now.subsec_nanos()) ^ now.as_secs())
        }
    }
}

/// How long things break: `TIDEGATE_TORTURE_MINUTES`, or the usual time.
///
/// # Errors
/// When the variable is no number.
pub fn length(usual: Duration) -> Result<Duration> {
    match std::env::var("TIDEGATE_TORTURE_MINUTES") {
        Ok(text) if !text.is_empty() => {
            let minutes: f64 = text.parse().context("TIDEGATE_TORTURE_MINUTES is a number")?;
            Ok(Duration::from_secs_f64(minutes * 60.0).max(usual))
        }
        _ => Ok(usual),
    }
}
