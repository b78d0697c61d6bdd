//! Wakes the consumer's thread: one byte in a socket pair, written by commands, by answers and by
//! librdkafka whenever one of its queues becomes non-empty.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::time::Duration;

/// Bytes taken out of the socket at once; more than that only costs another turn of the loop.
const READ_BYTES: usize = 1024;

/// The writing end: cheap to clone by `Arc`, callable from any thread, never blocks.
#[derive(Debug)]
pub(crate) struct Waker {
    socket: UnixStream,
    /// Whether a byte of ours is already on its way.
    pending: AtomicBool,
}

impl Waker {
    /// Wakes the sleeper now, or makes its next sleep end at once.
    pub(crate) fn notify(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // A full socket wakes the reader as well; a closed one has nobody left to wake.
            let _ = (&self.socket).write(&[0]);
        }
    }

    /// Where librdkafka writes its own byte. Open as long as this waker lives.
    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Wake for Waker {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

/// The reading end, owned by the thread that sleeps.
#[derive(Debug)]
pub(crate) struct Sleeper {
    socket: UnixStream,
    timeout: Duration,
    waker: Arc<Waker>,
}

impl Sleeper {
    /// A sleeper and its waker.
    pub(crate) fn pair() -> std::io::Result<(Self, Arc<Waker>)> {
        let (reader, writer) = UnixStream::pair()?;
        writer.set_nonblocking(true)?;
        let timeout = Duration::from_millis(100);
        reader.set_read_timeout(Some(timeout))?;
        let waker = Arc::new(Waker { socket: writer, pending: AtomicBool::new(false) });
        let sleeper = Self { socket: reader, timeout, waker: Arc::clone(&waker) };
        Ok((sleeper, waker))
    }

    /// Sleeps until woken, at most `timeout`. What is told by the wake-up must be looked for
    /// after it, never before.
    pub(crate) fn sleep(&mut self, timeout: Duration) {
        // A time-out of zero would mean none at all.
        let timeout = timeout.max(Duration::from_millis(1));
        if timeout != self.timeout && self.socket.set_read_timeout(Some(timeout)).is_ok() {
            self.timeout = timeout;
        }
        let mut bytes = [0; READ_BYTES];
        // Every way to end is a reason to look around: woken, timed out, interrupted.
        let _ = self.socket.read(&mut bytes);
        // Acquires what was written before a wake-up that found its byte already on the way.
        self.waker.pending.swap(false, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wake_up_before_the_sleep_ends_it_at_once() {
        let (mut sleeper, waker) = Sleeper::pair().unwrap();
        waker.notify();
        waker.notify();
        let start = Instant::now();
        sleeper.sleep(Duration::from_secs(30));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_wake_up_counts_again_after_each_sleep() {
        let (mut sleeper, waker) = Sleeper::pair().unwrap();
        for _ in 0..3 {
            waker.notify();
            let start = Instant::now();
            sleeper.sleep(Duration::from_secs(30));
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        let start = Instant::now();
        sleeper.sleep(Duration::from_millis(20));
        assert!(start.elapsed() >= Duration::from_millis(10), "no byte was left over");
    }
}
