//! Shows how far it is: a bar on a terminal, a line for each event elsewhere.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a line tells how far it is where there is no bar.
const TELL: Duration = Duration::from_secs(10);

/// Where it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stream {
    Output,
    /// Standard output is for the result alone.
    Error,
}

/// The one place that is written to while a run goes on.
#[derive(Debug)]
pub(crate) struct Screen {
    stream: Stream,
    began: Instant,
    bar: ProgressBar,
    told: Cell<Option<Instant>>,
    kills: Counter,
    stops: Counter,
}

/// How many faults hit, of how many.
#[derive(Clone, Debug, Default)]
struct Counter {
    hits: Cell<u64>,
    of: Cell<u64>,
}

impl Screen {
    pub(crate) fn new(stream: Stream) -> Self {
        let target = match stream {
            Stream::Output if std::io::stdout().is_terminal() => ProgressDrawTarget::stdout(),
            _ => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("  {bar:16} {elapsed:>3}  {wide_msg}");
        let style = style.expect("the template is well-formed").progress_chars("█▉▊▋▌▍▎▏░");
        bar.set_style(style);
        let (kills, stops) = (Counter::default(), Counter::default());
        Self { stream, began: Instant::now(), bar, told: Cell::new(None), kills, stops }
    }

    /// Words in front of everything.
    pub(crate) fn headline(&self, text: &str) {
        self.print(text);
    }

    /// Something that is worth a line everywhere.
    pub(crate) fn say(&self, text: &str) {
        let hidden = self.bar.is_hidden();
        self.bar.suspend(|| self.print(&if hidden { self.stamped(text) } else { text.to_owned() }));
    }

    /// Something that the bar shows by itself.
    pub(crate) fn event(&self, text: &str) {
        if self.bar.is_hidden() {
            self.print(&self.stamped(text));
        }
    }

    /// A process was killed.
    pub(crate) fn killed(&self) {
        self.kills.hits.set(self.kills.hits.get() + 1);
    }

    /// A process was stopped and went on.
    pub(crate) fn stopped(&self) {
        self.stops.hits.set(self.stops.hits.get() + 1);
    }

    /// How far it is.
    pub(crate) fn progress(&self, done: u64, total: u64, run: &str, trouble: Option<&str>) {
        // The ends of the input are looked at less often than progress.
        let total = total.max(done);
        let done_of = format!("{run} {} of {}", thousands(done), thousands(total));
        let mut text = done_of.trim_start().to_owned();
        for (name, counter) in [("kills", &self.kills), ("stops", &self.stops)] {
            if counter.of.get() > 0 {
                text = format!("{text}, {name} {}/{}", counter.hits.get(), counter.of.get());
            }
        }
        if let Some(trouble) = trouble {
            text = format!("{text}, as last seen: {trouble}");
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(text.clone());
        if self.bar.is_hidden() && self.told.get().is_none_or(|told| told.elapsed() >= TELL) {
            self.told.set(Some(Instant::now()));
            self.print(&self.stamped(&text));
        }
    }

    /// A run with so many faults begins: its bar starts anew.
    pub(crate) fn begin(&self, kills: u64, stops: u64) {
        self.bar.reset();
        self.told.set(None);
        for (counter, of) in [(&self.kills, kills), (&self.stops, stops)] {
            counter.hits.set(0);
            counter.of.set(of);
        }
    }

    /// There is nothing more to show: the bar goes.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn stamped(&self, text: &str) -> String {
        format!("{:>7.1} s  {text}", self.began.elapsed().as_secs_f64())
    }

    fn print(&self, text: &str) {
        match self.stream {
            Stream::Output => println!("{text}"),
            Stream::Error => eprintln!("{text}"),
        }
    }
}

/// A number with its thousands set apart: `14,476,934`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
