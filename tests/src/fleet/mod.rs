//! Drives copiers from outside: starts them as processes, signals them, waits for them, reads what they left.

mod evidence;
mod load;
mod scene;
pub mod staged;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::sleep;

use crate::servers::process::signal;
use crate::servers::supervisor;

pub use evidence::{Event, Trail, parse_trail};
pub use load::{Feed, Mix, Planned, generate, produce, stream};
pub use scene::{Progress, Scene, Store};

/// A copier's command line, to be started once or many times.
#[derive(Clone, Debug)]
pub struct Orders {
    program: PathBuf,
    dir: PathBuf,
    name: String,
    flags: Vec<(String, OsString)>,
    log: Log,
    starts: u32,
}

/// What a copier writes to standard error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Log {
    /// What happens.
    Info,
    /// What it writes by itself.
    Usual,
}

impl Orders {
    /// A copier that leaves its evidence and its words in files of this directory, which begin with `name`.
    #[must_use]
    pub fn new(program: &str, dir: &Path, name: &str) -> Self {
        let orders = Self {
            program: program.into(),
            dir: dir.into(),
            name: name.into(),
            flags: Vec::new(),
            log: Log::Info,
            starts: 0,
        };
        let evidence = orders.evidence();
        orders.flag("--evidence", evidence)
    }

    /// Sets a flag; the last one of a name holds.
    #[must_use]
    pub fn flag(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.flags.retain(|(flag, _)| flag != name);
        self.flags.push((name.into(), value.into()));
        self
    }

    /// Nothing in its log but what it writes when nobody asks for more.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.log = Log::Usual;
        self
    }

    /// Leaves out a flag.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.flags.retain(|(flag, _)| flag != name);
        self
    }

    /// The same for somebody without a name, with evidence of its own.
    #[must_use]
    pub fn stranger(&self) -> Self {
        let mut orders = self.clone().without("--instance");
        orders.name = format!("{}-stranger", self.name);
        orders.starts = 0;
        let evidence = orders.evidence();
        orders.flag("--evidence", evidence)
    }

    /// The file of events.
    #[must_use]
    pub fn evidence(&self) -> PathBuf {
        self.dir.join(format!("{}.evidence", self.name))
    }

    /// Everything the evidence says so far, of all starts.
    ///
    /// # Errors
    /// When there is none, or a line of it cannot be read.
    pub fn trail(&self) -> Result<Trail> {
        Trail::read(&self.evidence())
    }

    /// Starts a copier. It ends with the test process.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(&mut self) -> Result<Copier> {
        self.starts += 1;
        let log = self.dir.join(format!("{}-{}.log", self.name, self.starts));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&self.program);
        for (flag, value) in &self.flags {
            command.arg(flag).arg(value);
        }
        let level = std::env::var("TIDEGATE_COPIER_LOG").unwrap_or_else(|_| "info".into());
        match self.log {
            Log::Info => command.env("RUST_LOG", level),
            Log::Usual => command.env_remove("RUST_LOG"),
        };
        command
            .env("NO_COLOR", "1")
            // Panics are part of the work here.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            // Ctrl-C at the terminal is for the test.
            .process_group(0);
        let child = supervisor::spawn(command)
            .context("start the copier by setpriv (package util-linux)")?;
        Ok(Copier { child, log, ended: None })
    }
}

/// One copier process. Dropping it kills it.
#[derive(Debug)]
pub struct Copier {
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

/// How a copier ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Everything it wrote to standard error.
    pub words: String,
}

impl Copier {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal: `TERM`, `KILL`, `STOP`, `CONT`.
    ///
    /// # Errors
    /// When the process has ended: the signal hit nobody.
    pub fn signal(&mut self, name: &str) -> Result<()> {
        ensure!(self.is_running()?, "the copier has ended before SIG{name}: {}", self.words());
        signal(name, &[self.pid()])
    }

    /// Whether it has not ended.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended.is_none())
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn words(&self) -> String {
        std::fs::read(&self.log).map_or_else(
            |error| format!("no log: {error}"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When it has not ended after this long; it goes on.
    pub async fn end(&mut self, within: Duration) -> Result<Ended> {
        let start = Instant::now();
        while self.is_running()? {
            if start.elapsed() > within {
                bail!(
                    "the copier has not ended after {within:?}; its words:\n{}",
                    tail(&self.words())
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
        let status = self.ended.expect("it has ended");
        Ok(Ended { code: status.code(), signal: status.signal(), words: self.words() })
    }

    /// Kills it and waits for its end.
    ///
    /// # Errors
    /// When it has ended before.
    pub async fn kill(&mut self) -> Result<()> {
        self.signal("KILL")?;
        let ended = self.end(Duration::from_secs(10)).await?;
        ensure!(
            ended.signal == Some(9),
            "it ended by itself before the kill: {}",
            tail(&ended.words)
        );
        Ok(())
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// It must have ended with this code.
    ///
    /// # Errors
    /// When it did not; with its last words.
    pub fn with_code(self, code: i32) -> Result<Self> {
        ensure!(
            self.code == Some(code),
            "exit code {code} was expected, not {:?} (signal {:?}); its words:\n{}",
            self.code,
            self.signal,
            tail(&self.words)
        );
        Ok(self)
    }

    /// The last line it wrote.
    #[must_use]
    pub fn last_line(&self) -> &str {
        self.words.lines().last().unwrap_or_default()
    }
}

/// The last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Waits until `ready` says yes.
///
/// # Errors
/// When it does not within this long.
pub async fn until(
    what: &str,
    within: Duration,
    mut ready: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !ready().await? {
        ensure!(start.elapsed() < within, "{what}: not within {within:?}");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
