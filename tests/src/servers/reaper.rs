//! Removes what a test process leaves behind, however it ends.
//!
//! The kernel ends the processes of a killed test, but nobody removes their directories, and a container lives
//! on. A small shell waits until the pipe from the test process closes, which no kind of death can prevent. It
//! also serves the shared servers, which stand in statics and are therefore never dropped.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// `read` ends with the pipe. Servers may still be dying then and write into their directories: hence the tries.
const SCRIPT: &str = r#"
dirs=$(mktemp) || exit 1
containers= networks=
while read -r kind name; do
  case $kind in
    directory) echo "$name" >>"$dirs" ;;
    container) containers="$containers $name" ;;
    network) networks="$networks $name" ;;
  esac
done
[ -z "$containers" ] || docker rm -fv $containers
[ -z "$networks" ] || docker network rm $networks
for try in 1 2 3 4 5 6 7 8 9 10; do
  left=
  while read -r dir; do rm -rf "$dir" || left=yes; done <"$dirs"
  [ -n "$left" ] || break
  sleep 0.5
done
rm -f "$dirs"
"#;

/// The directory, which belongs to this process alone, is to be removed if the process does not do it.
pub(super) fn directory(path: &Path) {
    bequeath(&format!("directory {}", path.display()));
}

/// The container is to be removed if the process does not do it.
#[cfg(feature = "containers")]
pub(super) fn container(id: &str) {
    bequeath(&format!("container {id}"));
}

/// The network is to be removed if the process does not do it.
#[cfg(feature = "containers")]
pub(super) fn network(name: &str) {
    bequeath(&format!("network {name}"));
}

fn bequeath(line: &str) {
    static REAPER: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();
    // Without a shell to run it things are only less tidy.
    if let Some(reaper) = REAPER.get_or_init(|| start().map(Mutex::new)) {
        let mut reaper = reaper.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(reaper, "{line}");
    }
}

fn start() -> Option<ChildStdin> {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    shell.spawn().ok()?.stdin
}
