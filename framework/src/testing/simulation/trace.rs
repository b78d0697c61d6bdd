//! What happened in a run: a hash of everything, and the words of the last of it if asked.

use std::collections::VecDeque;
use std::time::Duration;

/// How many of the last lines a failing run shows.
const LINES: usize = 400;

pub(super) struct Trace {
    hash: u64,
    lines: Option<VecDeque<String>>,
}

impl Trace {
    /// Words cost more than the run itself: they are written only when a failure is shown.
    pub(super) fn new(with_words: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: with_words.then(VecDeque::new) }
    }

    /// Something happened.
    pub(super) fn note(&mut self, now: Duration, member: usize, what: &str, numbers: &[i64]) {
        self.mix(now.as_nanos() as u64);
        self.mix(member as u64);
        self.mix(what.len() as u64 ^ u64::from(what.as_bytes()[0]) << 8);
        for number in numbers {
            self.mix(*number as u64);
        }
        self.say(now, || format!("m{member} {what} {numbers:?}"));
    }

    /// Adds a line without changing the hash.
    pub(super) fn say(&mut self, now: Duration, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            if lines.len() == LINES {
                lines.pop_front();
            }
            lines.push_back(format!("{:>9.3} {}", now.as_secs_f64(), line()));
        }
    }

    fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn lines(self) -> Vec<String> {
        self.lines.unwrap_or_default().into()
    }
}
