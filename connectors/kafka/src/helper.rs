//! A thread for calls that wait for the network, so that the consumer's thread never does.

use std::sync::mpsc;

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs one after another on a thread of its own. The thread ends when the last handle is
/// dropped; it is never joined, because a call that hangs must not hold up the end of the process.
#[derive(Clone, Debug)]
pub(crate) struct Helper(mpsc::Sender<Job>);

impl Helper {
    /// Starts a helper whose thread has this name.
    pub(crate) fn start(name: &str) -> std::io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            for job in jobs {
                job();
            }
        })?;
        Ok(Self(sender))
    }

    /// Queues a job whose answer nobody waits for.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The thread ends only with its handles, unless a job panicked: then nobody answers, and
        // whoever waits learns it from the closed channel.
        let _ = self.0.send(Box::new(job));
    }

    /// Queues a job and waits for its answer; `None` if the thread is gone.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.run(move || {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(job());
        });
        answer.await.ok()
    }
}
