//! Shows how far it is: a bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tidegate_examples::show::thousands;

/// Progress and kills.
pub(crate) struct Bar {
    bar: ProgressBar,
    records: i64,
    kills: u16,
    killed: u16,
    started: Instant,
}

impl Bar {
    pub(crate) fn new(records: i64, kills: u16) -> Self {
        let length = u64::try_from(records).unwrap_or(0);
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stdout());
        let style = ProgressStyle::with_template("  {bar:34} {msg}  {elapsed:>3}");
        bar.set_style(style.expect("the template is well-formed").progress_chars("█▉▊▋▌▍▎▏░"));
        let bar = Self { bar, records, kills, killed: 0, started: Instant::now() };
        bar.show(0);
        bar
    }

    /// So many records are done.
    pub(crate) fn show(&self, done: i64) {
        let (shown, kills) = (thousands(done), self.kills);
        self.bar.set_message(format!("{shown:>6} stored, killed {} of {kills}", self.killed));
        self.bar.set_position(u64::try_from(done).unwrap_or(0));
    }

    /// The pipeline was killed.
    pub(crate) fn killed(&mut self, done: i64) {
        self.killed += 1;
        self.show(done);
        self.line(&format!(
            "kill {} of {} at {} of {} records",
            self.killed,
            self.kills,
            thousands(done),
            thousands(self.records)
        ));
    }

    /// All is done.
    pub(crate) fn finish(&self) -> Duration {
        self.show(self.records);
        self.bar.abandon();
        self.line(&format!("all {} records are stored", thousands(self.records)));
        if !self.bar.is_hidden() {
            // The cursor stands behind the bar.
            println!();
        }
        self.started.elapsed()
    }

    /// A line where there is no bar.
    fn line(&self, text: &str) {
        if self.bar.is_hidden() {
            println!("  {:>5.1} s  {text}", self.started.elapsed().as_secs_f64());
        }
    }
}
