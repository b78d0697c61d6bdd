//! One process of the user's command: started, signalled, waited for, and what it said last.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::time::sleep;

use super::tether::Tether;

/// How often a process is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(20);
/// How much of what a process wrote is looked at, from its end.
const WORDS_BYTES_MAX: u64 = 64 * 1024;
/// How many of its last lines are kept.
const LINES: usize = 8;
/// A longer line is cut.
const LINE_MAX: usize = 300;

/// The process does not begin before it is told: if this program dies before the process is
/// tethered, the pipe closes and it never begins.
const GATE: &str = r#"read -r go && exec "$@" </dev/null"#;

/// What a shell answers for a command that it does not find, or may not run.
const NOT_STARTED: [i32; 2] = [126, 127];

/// How to start a process, the same every time.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) command: Vec<OsString>,
    /// Where standard output and error go, behind what is there.
    pub(crate) log: PathBuf,
    pub(crate) tether: Rc<Tether>,
}

/// A process with all that it starts. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    tether: Rc<Tether>,
    log: PathBuf,
    /// Where in the log it began to write.
    from: u64,
    ended: Option<ExitStatus>,
    group: Group,
}

/// What becomes of what a process has started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Group {
    /// It ends with the process.
    Bound,
    /// It was asked to end, and may take longer than the process: a wrapper goes at once.
    Leaving,
    /// It is gone, and its number may come again.
    Gone,
}

/// How a process ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ended {
    /// Its exit code, unless a signal ended it.
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// The last lines it wrote.
    pub(crate) lines: Vec<String>,
}

impl Launch {
    pub(crate) fn start(&self) -> io::Result<Process> {
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let from = log.seek(SeekFrom::End(0))?;
        let mut child = Command::new("sh")
            .args(["-c", GATE, "sh"])
            .args(&self.command)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Signals are for all that the command starts; Ctrl-C at the terminal is for none of it.
            .process_group(0)
            .spawn()?;
        let gate = child.stdin.take();
        let process = Process {
            child,
            tether: Rc::clone(&self.tether),
            log: self.log.clone(),
            from,
            ended: None,
            group: Group::Bound,
        };
        self.tether.began(process.id())?;
        if let Some(mut gate) = gate {
            gate.write_all(b"go\n")?;
        }
        Ok(process)
    }
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process that was started has not ended. With it ends what it had started; once
    /// they were asked to end, all of them are waited for.
    pub(crate) fn is_running(&mut self) -> io::Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        if self.ended.is_none() || (self.group == Group::Leaving && lives(self.id())) {
            return Ok(true);
        }
        self.forget();
        Ok(false)
    }

    /// Sends a signal to the process and what it has started, if they are not gone.
    pub(crate) fn signal(&self, signal: Signal) {
        if let (Group::Bound | Group::Leaving, Some(group)) = (self.group, pid(self.id())) {
            // An answer would say that all have ended just now, which is noticed elsewhere.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Asks the process and what it has started to end.
    pub(crate) fn ask_to_end(&mut self) {
        if self.group == Group::Bound {
            self.group = Group::Leaving;
        }
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended; `None` if it has not by then.
    pub(crate) async fn end_within(&mut self, longest: Duration) -> io::Result<Option<Ended>> {
        let began = Instant::now();
        while self.is_running()? {
            if began.elapsed() > longest {
                return Ok(None);
            }
            sleep(LOOK).await;
        }
        Ok(Some(self.how_it_ended()))
    }

    /// How it ended, which it has.
    pub(crate) fn how_it_ended(&self) -> Ended {
        let status = self.ended.unwrap_or_default();
        Ended { code: status.code(), signal: status.signal(), lines: self.last_lines() }
    }

    /// The last lines that it wrote.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let words = read_from(&self.log, self.from).unwrap_or_default();
        let lines: Vec<String> =
            words.lines().map(printable).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(LINES)..].to_vec()
    }

    /// Ends what the process has started, and lets go of the group's number.
    fn forget(&mut self) {
        if self.group != Group::Gone {
            self.signal(Signal::KILL);
            self.group = Group::Gone;
            self.tether.ended(self.id());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
        self.forget();
    }
}

/// Whether somebody of this process group lives.
fn lives(group: u32) -> bool {
    if pid(group).is_none_or(|group| test_kill_process_group(group).is_err()) {
        return false;
    }
    // Who has ended and is not waited for by anybody counts for the kernel, and could for ever.
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    processes.flatten().any(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // Behind the name, which may hold anything: state, parent, group.
        let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        let (state, of) = (fields.next(), fields.nth(1));
        of.and_then(|of| of.parse().ok()) == Some(group) && !matches!(state, Some("Z" | "X"))
    })
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

impl Ended {
    /// Whether the command itself could not be run.
    pub(crate) fn could_not_start(&self) -> bool {
        self.code.is_some_and(|code| NOT_STARTED.contains(&code))
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}")?,
            (None, Some(signal)) => write!(f, "signal {signal}")?,
            (None, None) => f.write_str("an unknown end")?,
        }
        self.lines.last().map_or(Ok(()), |last| write!(f, ": {last}"))
    }
}

fn read_from(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let end = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(from.max(end.saturating_sub(WORDS_BYTES_MAX))))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line without colours and other commands to a terminal.
fn printable(line: &str) -> String {
    let mut text = String::new();
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' && characters.next_if_eq(&'[').is_some() {
            // `ESC [`, parameters, and a letter that ends it.
            while characters.next_if(|c| !c.is_ascii_alphabetic()).is_some() {}
            characters.next();
        } else if !character.is_control() {
            text.push(character);
        }
    }
    text.trim().chars().take(LINE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(folder: &Path, script: &str) -> Launch {
        let command = ["sh", "-c", script].map(OsString::from).to_vec();
        let tether = Rc::new(Tether::new().expect("a shell"));
        Launch { command, log: folder.join("log"), tether }
    }

    fn is_alive(id: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        !matches!(state, None | Some('Z' | 'X'))
    }

    async fn until(what: &str, ready: impl Fn() -> bool) {
        let began = Instant::now();
        while !ready() {
            assert!(began.elapsed() < Duration::from_secs(60), "{what}");
            sleep(LOOK).await;
        }
    }

    #[tokio::test]
    async fn an_end_is_told_with_its_code_and_the_last_line_of_that_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let launch =
            launch(folder.path(), "printf 'first\\n\\033[31mlast one\\033[0m\\n\\n'; exit 3");
        for _ in 0..2 {
            let mut process = launch.start().expect("it starts");
            let ended = process.end_within(Duration::from_secs(60)).await.expect("it is seen");
            assert_eq!(ended.expect("it ended").to_string(), "exit code 3: last one");
            assert_eq!(process.last_lines(), ["first", "last one"], "of this start alone");
        }
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_is_no_end_like_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut launch = launch(folder.path(), "");
        launch.command = vec![folder.path().join("nobody").into_os_string()];
        let mut process = launch.start().expect("the shell starts");
        let ended = process.end_within(Duration::from_secs(60)).await.expect("it is seen");
        let ended = ended.expect("it ended");
        assert!(ended.could_not_start() && ended.to_string().contains("nobody"), "{ended}");
    }

    #[tokio::test]
    async fn a_signal_reaches_what_the_command_has_started_and_nothing_of_it_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let launch = launch(folder.path(), "sleep 600 & echo $!; wait");
        let process = launch.start().expect("it starts");
        until("it has started another", || !process.last_lines().is_empty()).await;
        let (parent, child) = (process.id().to_string(), process.last_lines().remove(0));
        assert!(is_alive(&parent) && is_alive(&child));
        drop(process);
        until("both are gone", || !is_alive(&parent) && !is_alive(&child)).await;
    }

    #[tokio::test]
    async fn what_was_asked_to_end_is_waited_for_also_behind_a_wrapper_that_goes_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let drain = "trap 'sleep 1; echo drained; exit 0' TERM; echo $$; sleep 600 & wait";
        let script = format!("sh -c \"{}\" & wait", drain.replace('$', "\\$"));
        let launch = launch(folder.path(), &script);
        let mut process = launch.start().expect("it starts");
        until("the inner one runs", || !process.last_lines().is_empty()).await;
        let inner = process.last_lines().remove(0);
        process.ask_to_end();
        let ended = process.end_within(Duration::from_secs(60)).await.expect("it is seen");
        let ended = ended.expect("it ended");
        assert_eq!(ended.signal, Some(Signal::TERM.as_raw()), "the wrapper");
        assert_eq!(ended.lines.last().map(String::as_str), Some("drained"));
        assert!(!is_alive(&inner));
    }

    #[tokio::test]
    async fn when_the_pipe_to_the_shell_closes_it_kills_who_is_left_and_nobody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let launch = launch(folder.path(), "sleep 600");
        let first = launch.start().expect("it starts");
        let mut second = launch.start().expect("it starts");
        second.signal(Signal::TERM);
        second.end_within(Duration::from_secs(60)).await.expect("it is seen").expect("it ended");
        let id = first.id().to_string();
        assert!(is_alive(&id));
        // As if this program had died: nothing of its own runs any more.
        first.tether.cut();
        until("it is killed", || !is_alive(&id)).await;
    }
}
