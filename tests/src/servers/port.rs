//! Ports that stay ours while a server is down.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

// Below 32768, where the kernel's own choices for outgoing connections begin: none of those can take the port
// of a server that a test has just killed.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// A port on 127.0.0.1, held for this process by a lock file that `scripts/lib.sh` honours too.
#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes a port that nobody listens on and no other test process holds.
    pub(super) fn take() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let locks = std::env::temp_dir().join("tidegate-ports");
        // Several users may test on one machine. If the directory is somebody else's, it is open already.
        fs::create_dir_all(&locks).with_context(|| format!("create {}", locks.display()))?;
        let _ = fs::set_permissions(&locks, Permissions::from_mode(0o1777));
        for _ in 0..COUNT {
            let turn = std::process::id()
                .wrapping_mul(37)
                .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let number = u16::try_from(FIRST + turn % COUNT).expect("below 32768");
            if let Some(lock) = lock(&locks.join(number.to_string()))
                && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
            {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port between {FIRST} and {}", FIRST + COUNT)
    }

    /// The port's number.
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

fn lock(path: &Path) -> Option<File> {
    let file = File::options().create(true).append(true).open(path).ok()?;
    file.try_lock().ok()?;
    Some(file)
}
