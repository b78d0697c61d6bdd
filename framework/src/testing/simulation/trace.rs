//! What happened in a run: a hash of everything, and the words of the last of it if asked.

use std::collections::VecDeque;
use std::time::Duration;

/// How many of the last lines a failing run shows, unless `TIDEGATE_LINES` says otherwise.
const LINES: usize = 400;

/// A line that was among so many last ones is not shown again: a run that goes round and round
/// would show nothing else.
const REPEATS: usize = 4;

pub(super) struct Trace {
    hash: u64,
    lines: Option<VecDeque<String>>,
    lines_max: usize,
}

impl Trace {
    /// Words cost more than the run itself: they are written only when a failure is shown.
    pub(super) fn new(with_words: bool) -> Self {
        let lines = with_words.then(VecDeque::new);
        let asked = std::env::var("TIDEGATE_LINES").ok().and_then(|lines| lines.parse().ok());
        Self { hash: 0xcbf2_9ce4_8422_2325, lines, lines_max: asked.unwrap_or(LINES) }
    }

    /// Something happened.
    pub(super) fn note(&mut self, now: Duration, member: usize, what: &str, numbers: &[i64]) {
        self.hash_of(now, member, what, numbers);
        self.say(now, || format!("m{member} {what} {numbers:?}"));
    }

    /// As [`Trace::note`], without a line.
    pub(super) fn hash_of(&mut self, now: Duration, member: usize, what: &str, numbers: &[i64]) {
        self.mix(now.as_nanos() as u64);
        self.mix(member as u64);
        for byte in what.bytes() {
            self.mix(u64::from(byte));
        }
        for number in numbers {
            self.mix(*number as u64);
        }
    }

    /// Adds a line without changing the hash.
    pub(super) fn say(&mut self, now: Duration, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let line = line();
            if lines.iter().rev().take(REPEATS).any(|known| known.ends_with(&line)) {
                return;
            }
            if lines.len() == self.lines_max {
                lines.pop_front();
            }
            lines.push_back(format!("{:>9.3} {line}", now.as_secs_f64()));
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
