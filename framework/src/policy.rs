//! What happens to a record whose function fails: retry, then dead letter, skip or stop.
//!
//! Pure: the policy answers a question; the core acts on the answer. A retry keeps its lane
//! closed, so a failed record is never overtaken by its successors.

use std::time::Duration;

/// How often a failed record is tried again, and what happens when that did not help.
///
/// ```
/// use tidegate::prelude::*;
/// let policy = Retry::times(3).then_dead_letter();
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    times: u32,
    first: Duration,
    longest: Duration,
}

impl Retry {
    /// Up to `times` further calls after the first one failed, after 100 ms, 200 ms, 400 ms … up
    /// to 30 s, each with jitter.
    pub fn times(times: u32) -> Self {
        Self { times, first: Duration::from_millis(100), longest: Duration::from_secs(30) }
    }

    /// No further call.
    pub fn never() -> Self {
        Self::times(0)
    }

    /// The wait before the first retry and the longest wait; it doubles in between.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest.max(first);
        self
    }

    /// Then store the record as a dead letter, in the same transaction as its neighbours' results.
    pub fn then_dead_letter(self) -> FailurePolicy {
        FailurePolicy { retry: self, then: Then::DeadLetter }
    }

    /// Then leave it out: it is counted, and logged with its coordinates.
    pub fn then_skip(self) -> FailurePolicy {
        FailurePolicy { retry: self, then: Then::Skip }
    }

    /// Then stop the pipeline with an error that names the record; its progress stays before it.
    pub fn then_stop(self) -> FailurePolicy {
        FailurePolicy { retry: self, then: Then::Stop }
    }
}

/// A complete policy for failures; see [`Retry`].
#[derive(Clone, Copy, Debug)]
pub struct FailurePolicy {
    retry: Retry,
    then: Then,
}

/// The last resort of a policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    DeadLetter,
    Skip,
    Stop,
}

/// The answer of the policy to one failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    RetryAfter(Duration),
    Give(Then),
}

impl Default for FailurePolicy {
    /// Three retries, then stop: nothing is left out unless the user says so.
    fn default() -> Self {
        Retry::times(3).then_stop()
    }
}

impl FailurePolicy {
    /// What to do after `attempts` calls have failed. `jitter` is drawn from 0..=1 and takes up to
    /// half of the wait away, so that many records that failed together do not return together.
    pub(crate) fn verdict(&self, attempts: u32, retriable: bool, jitter: f64) -> Verdict {
        if !retriable || attempts > self.retry.times {
            return Verdict::Give(self.then);
        }
        let doublings = attempts.saturating_sub(1).min(31);
        let wait = self.retry.first.saturating_mul(1 << doublings).min(self.retry.longest);
        Verdict::RetryAfter(wait.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0))
    }

    pub(crate) fn then(&self) -> Then {
        self.then
    }
}

impl std::fmt::Display for FailurePolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let then = match self.then {
            Then::DeadLetter => "dead letter",
            Then::Skip => "skip",
            Then::Stop => "stop",
        };
        match self.retry.times {
            0 => write!(f, "{then} at once"),
            n => write!(
                f,
                "{n} retries ({:?} to {:?}), then {then}",
                self.retry.first, self.retry.longest
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The wait before jitter, written as plainly as possible: it doubles once per attempt.
    fn naive_wait(first: u64, longest: u64, attempts: u32) -> u64 {
        let mut wait = first;
        for _ in 1..attempts {
            if wait == 0 || wait >= longest {
                break;
            }
            wait = wait.saturating_mul(2);
        }
        wait.min(longest)
    }

    proptest! {
        #[test]
        fn the_policy_agrees_with_a_naive_model(
            times in prop_oneof![0_u32..40, Just(1 << 31), Just(u32::MAX - 1), Just(u32::MAX)],
            attempts in prop_oneof![1_u32..40, Just((1 << 31) + 1), Just(u32::MAX)],
            first in prop_oneof![0_u64..1_000, Just((1 << 31) - 1), Just(1 << 32)],
            more in prop_oneof![0_u64..100_000, Just(1 << 32)],
            retriable in any::<bool>(),
        ) {
            let millis = Duration::from_millis;
            let longest = first + more;
            let policy = Retry::times(times).backoff(millis(first), millis(longest));
            let verdict = policy.then_skip().verdict(attempts, retriable, 0.0);
            // The policy doubles 31 times at most, which is longer than anybody waits.
            let attempts_that_double = attempts.min(32);
            let wanted = match retriable && attempts <= times {
                true => {
                    let wait = naive_wait(first, longest, attempts_that_double);
                    Verdict::RetryAfter(millis(wait))
                }
                false => Verdict::Give(Then::Skip),
            };
            prop_assert_eq!(verdict, wanted);
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_then_the_last_resort_comes() {
        let policy = Retry::times(4)
            .backoff(Duration::from_millis(100), Duration::from_millis(300))
            .then_dead_letter();
        let waits: Vec<_> = (1..=5).map(|attempts| policy.verdict(attempts, true, 0.0)).collect();
        let after = |ms| Verdict::RetryAfter(Duration::from_millis(ms));
        assert_eq!(
            waits,
            [after(100), after(200), after(300), after(300), Verdict::Give(Then::DeadLetter)]
        );
    }

    #[test]
    fn a_failure_that_no_repetition_can_mend_is_not_repeated() {
        let policy = Retry::times(9).then_skip();
        assert_eq!(policy.verdict(1, false, 0.0), Verdict::Give(Then::Skip));
    }

    #[test]
    fn jitter_only_ever_shortens_a_wait_by_at_most_half() {
        let policy = Retry::times(1).then_stop();
        for jitter in [0.0, 0.3, 1.0, 7.0] {
            let Verdict::RetryAfter(wait) = policy.verdict(1, true, jitter) else {
                panic!("one retry is allowed");
            };
            assert!((50..=100).contains(&wait.as_millis()), "{wait:?}");
        }
    }

    #[test]
    fn very_many_attempts_do_not_overflow() {
        let policy = Retry::times(u32::MAX).then_stop();
        assert_eq!(
            policy.verdict(u32::MAX, true, 0.0),
            Verdict::RetryAfter(Duration::from_secs(30))
        );
    }
}
