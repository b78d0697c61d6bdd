//! Nothing that was started outlives this program, however it dies.
//!
//! A small shell is told every process group. It waits until the pipe from this program closes,
//! which no kind of death can prevent, and kills the groups that are left then. A death signal of
//! the kernel would reach the process that was started, and not what that one has started itself.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

const SCRIPT: &str = r#"
groups=
while read -r what group; do
  left=
  for other in $groups; do [ "$other" = "$group" ] || left="$left $other"; done
  groups=$left
  [ "$what" = ended ] || groups="$groups $group"
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
"#;

/// The shell, and the pipe to it.
#[derive(Debug)]
pub(crate) struct Tether {
    shell: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Tether {
    pub(crate) fn new() -> io::Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at the terminal is not for it.
            .process_group(0)
            .spawn()?;
        let pipe = Mutex::new(shell.stdin.take());
        Ok(Self { shell, pipe })
    }

    /// A group has begun.
    pub(crate) fn began(&self, group: u32) -> io::Result<()> {
        self.tell("began", group)
    }

    /// A group has ended: its number may come again.
    pub(crate) fn ended(&self, group: u32) {
        // A shell that is gone kills nobody.
        let _ = self.tell("ended", group);
    }

    fn tell(&self, what: &str, group: u32) -> io::Result<()> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = pipe.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.write_all(format!("{what} {group}\n").as_bytes())
    }
}

impl Tether {
    /// What the death of this program does.
    pub(crate) fn cut(&self) {
        drop(self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Tether {
    fn drop(&mut self) {
        self.cut();
        let _ = self.shell.wait();
    }
}
