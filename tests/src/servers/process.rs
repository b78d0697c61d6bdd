//! A server as a local process, and what can be done to it from outside.

use super::supervisor;
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a killed process may take to go.
const GONE: Duration = Duration::from_secs(10);

/// How to start a server; the same every time, so that it can be started again.
#[derive(Debug)]
pub(super) struct Launch {
    /// Flags for `setpriv`, such as the user to become.
    pub(super) privileges: Vec<OsString>,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// Where standard output and error go; appended to at every start.
    pub(super) log: PathBuf,
    /// Left behind by a killed server, and in the way of its next start.
    pub(super) stale: Option<PathBuf>,
    /// The signal that makes it clean up and end at once, if it has anything to clean up.
    pub(super) farewell: Option<&'static str>,
}

/// A running, stopped or killed process. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Process {
    launch: Launch,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Starts the process; it need not be ready yet.
    pub(super) fn start(launch: Launch) -> Result<Self> {
        let child = Mutex::new(Some(spawn(&launch)?));
        Ok(Self { launch, child })
    }

    /// `SIGKILL` for the process and its children, as a crash of the machine would take them.
    pub(super) fn kill(&self) -> Result<()> {
        let mut child = self.lock();
        let Some(mut running) = child.take() else { bail!("it is down already") };
        kill_family(&mut running)
    }

    /// `SIGSTOP`: it keeps its connections and answers nothing.
    pub(super) fn pause(&self) -> Result<()> {
        let child = self.lock();
        let Some(running) = &*child else { bail!("it is down") };
        // The parent first: a stopped parent has no new children.
        signal("STOP", &[running.id()])?;
        signal("STOP", &children(running.id())?)
    }

    /// `SIGCONT` after [`pause`](Self::pause).
    pub(super) fn resume(&self) -> Result<()> {
        let child = self.lock();
        let Some(running) = &*child else { bail!("it is down") };
        signal("CONT", &children(running.id())?)?;
        signal("CONT", &[running.id()])
    }

    /// Starts it again on its old data after [`kill`](Self::kill).
    pub(super) fn start_again(&self) -> Result<()> {
        let mut child = self.lock();
        ensure!(child.is_none(), "it is not down");
        if let Some(stale) = &self.launch.stale {
            let _ = fs::remove_file(stale);
        }
        *child = Some(spawn(&self.launch)?);
        Ok(())
    }

    /// An error with the end of its log when the process has ended by itself.
    pub(super) fn check_alive(&self) -> Result<()> {
        let mut child = self.lock();
        let Some(running) = &mut *child else { bail!("it is down") };
        match running.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("it ended by itself, {status}; its last words:\n{}", self.last_words())
            }
        }
    }

    /// All that it has written so far.
    pub(super) fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.launch.log)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn last_words(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut running) = self.lock().take() else {
            return;
        };
        if let Some(farewell) = self.launch.farewell {
            let _ = signal("CONT", &[running.id()]);
            let _ = signal(farewell, &[running.id()]);
            let patience = Instant::now() + Duration::from_secs(2);
            while Instant::now() < patience {
                if let Ok(Some(_)) = running.try_wait() {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = kill_family(&mut running);
    }
}

fn spawn(launch: &Launch) -> Result<Child> {
    let log = File::options().create(true).append(true).open(&launch.log)?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .args(&launch.privileges)
        .arg(&launch.program)
        .args(&launch.arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C at the terminal is for the test; the server goes when the test has gone.
        .process_group(0);
    supervisor::spawn(command).with_context(|| format!("start {}", launch.program.display()))
}

fn kill_family(running: &mut Child) -> Result<()> {
    signal("STOP", &[running.id()])?;
    let children = children(running.id())?;
    running.kill()?;
    // A child may have noticed and gone already.
    let _ = signal("KILL", &children);
    running.wait()?;
    // They are not ours to wait for, and until the last one is gone its memory is still in use.
    let start = Instant::now();
    while let Some(child) = children.iter().find(|child| is_alive(**child)) {
        ensure!(start.elapsed() < GONE, "process {child} does not go although it was killed");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Whether the process is there and not only waited for by its parent.
fn is_alive(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = status.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !matches!(state.chars().next(), None | Some('Z' | 'X'))
}

/// Sends a signal. The standard library can only kill, and the system call is unsafe code.
pub(crate) fn signal(name: &str, processes: &[u32]) -> Result<()> {
    if processes.is_empty() {
        return Ok(());
    }
    let ids = processes.iter().map(ToString::to_string);
    let status = Command::new("sh")
        .args(["-c", r#"kill -s "$@" 2>/dev/null"#, "sh", name])
        .args(ids)
        .status()?;
    ensure!(status.success(), "no process {processes:?} to send SIG{name} to");
    Ok(())
}

/// The processes whose parent is `parent`. PostgreSQL's are each in a group of their own, so the group does not help.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(id) = name.to_str().and_then(|name| name.parse().ok())
            && parent_of(id) == Some(parent)
        {
            found.push(id);
        }
    }
    Ok(found)
}

fn parent_of(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything; the parent is the fourth.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}
