//! What a program holds of a running pipeline: status, pause, seek, skip, stop.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::core::{Control, ControlReply, CoreStatus, PartitionStatus, SeekTo, Totals};
use crate::error::Error;
use crate::record::{Offset, PartitionId};
use crate::source::Health;

/// A running pipeline, as given by [`Job::start`](crate::Job::start). Clones hold the same
/// pipeline; dropping all of them stops nothing.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::UnboundedSender<Request>,
    end: watch::Receiver<Option<Ended>>,
}

/// What a request asks.
#[derive(Debug)]
pub(super) enum Ask {
    Control(Control),
    Stop { why: String, within: Option<Duration> },
    GiveUp,
}

/// A request with the place for its answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) ask: Ask,
    pub(super) reply: Option<oneshot::Sender<ControlReply>>,
}

/// The end of a pipeline: told once to whoever takes it first, and as text to all others.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) result: std::sync::Arc<std::sync::Mutex<Option<Result<Summary, Error>>>>,
    pub(super) text: String,
}

/// What a pipeline is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum State {
    /// It runs.
    Running,
    /// It drains.
    Stopping,
}

/// What a pipeline knows of itself at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Whether the source works, or what it waits for.
    pub source: Health,
    /// Every partition that is assigned to this instance.
    pub partitions: Vec<PartitionStatus>,
    /// What was counted since the start.
    pub totals: Totals,
}

/// What a pipeline did until it ended.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Summary {
    /// What was counted since the start.
    pub totals: Totals,
    /// Stored progress of the partitions that were assigned at the end.
    pub partitions: Vec<PartitionStatus>,
}

impl Summary {
    pub(super) fn new(status: CoreStatus) -> Self {
        Self { totals: status.totals, partitions: status.partitions }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let totals = &self.totals;
        write!(
            f,
            "stored {} of {} records read in {} commits, {} dead letters, {} skipped",
            totals.committed_records,
            totals.records_in,
            totals.commits,
            totals.dead_letters,
            totals.skipped
        )
    }
}

impl Handle {
    pub(super) fn new(
        requests: mpsc::UnboundedSender<Request>,
        end: watch::Receiver<Option<Ended>>,
    ) -> Self {
        Self { requests, end }
    }

    /// What the pipeline knows of itself now.
    ///
    /// # Errors
    /// If the pipeline has ended.
    pub async fn status(&self) -> Result<Status, Error> {
        match self.ask(Control::Status).await? {
            ControlReply::Status(status) => Ok(Status {
                state: if status.stopping { State::Stopping } else { State::Running },
                source: status.health.unwrap_or(Health::Ready),
                partitions: status.partitions,
                totals: status.totals,
            }),
            ControlReply::Done(_) => Err(self.gone()),
        }
    }

    /// Starts no further record; what runs is finished and stored. The instance stays in its
    /// group.
    ///
    /// # Errors
    /// If the pipeline has ended.
    pub async fn pause(&self) -> Result<(), Error> {
        self.done(Control::Pause(None)).await
    }

    /// As [`Handle::pause`], for one partition.
    ///
    /// # Errors
    /// If the partition is not assigned to this instance, or the pipeline has ended.
    pub async fn pause_partition(&self, partition: &PartitionId) -> Result<(), Error> {
        self.done(Control::Pause(Some(partition.clone()))).await
    }

    /// Undoes every pause.
    ///
    /// # Errors
    /// If the pipeline has ended.
    pub async fn resume(&self) -> Result<(), Error> {
        self.done(Control::Resume(None)).await
    }

    /// Undoes the pause of one partition.
    ///
    /// # Errors
    /// If the partition is not assigned to this instance, or the pipeline has ended.
    pub async fn resume_partition(&self, partition: &PartitionId) -> Result<(), Error> {
        self.done(Control::Resume(Some(partition.clone()))).await
    }

    /// Goes on reading a partition somewhere else, forwards or backwards. Work that is not stored
    /// yet is dropped; the new position is stored, under the same fence as results, before
    /// anything is read from it. Going backwards processes records again, which an append-only
    /// sink shows.
    ///
    /// # Errors
    /// If the partition is not assigned, the position is outside the log, or it could not be
    /// stored; the partition goes on where it was then.
    pub async fn seek(&self, partition: &PartitionId, to: SeekTo) -> Result<(), Error> {
        self.done(Control::Seek { partition: partition.clone(), to }).await
    }

    /// Leaves out one record that is in flight — one that holds its partition back, one that
    /// hangs. It counts as an outcome: it is logged, counted, and progress moves past it. A thread
    /// that hangs in it is left behind and replaced.
    ///
    /// # Errors
    /// If the record is not in flight here.
    pub async fn skip(&self, partition: &PartitionId, offset: Offset) -> Result<(), Error> {
        self.done(Control::Skip { partition: partition.clone(), offset }).await
    }

    /// Drains within this time and ends: running records are finished, what is finished is
    /// stored, the group is left.
    ///
    /// # Errors
    /// The error the pipeline ended with, a missed deadline included. Nothing is lost by a missed
    /// deadline: what was not stored will be read again.
    pub async fn stop(&self, within: Duration) -> Result<Summary, Error> {
        self.ask_to_stop("handle", Some(within));
        self.join().await
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The error the pipeline ended with.
    pub async fn join(&self) -> Result<Summary, Error> {
        let mut end = self.end.clone();
        let ended = match end.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().expect("waited for it"),
            Err(_) => return Err(self.gone()),
        };
        let taken = ended.result.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        taken.unwrap_or_else(|| Err(Error::deadline(format_args!("ended already: {}", ended.text))))
    }

    /// Begins to drain within `stop_max` and does not wait for it. `why` is logged.
    pub fn begin_stop(&self, why: &str) {
        self.ask_to_stop(why, None);
    }

    fn ask_to_stop(&self, why: &str, within: Option<Duration>) {
        let ask = Ask::Stop { why: why.to_owned(), within };
        // An engine that is gone needs no stop.
        let _ = self.requests.send(Request { ask, reply: None });
    }

    pub(crate) fn give_up(&self) {
        let _ = self.requests.send(Request { ask: Ask::GiveUp, reply: None });
    }

    async fn done(&self, control: Control) -> Result<(), Error> {
        match self.ask(control).await? {
            ControlReply::Done(result) => result,
            ControlReply::Status(_) => Err(self.gone()),
        }
    }

    async fn ask(&self, control: Control) -> Result<ControlReply, Error> {
        let (reply, answer) = oneshot::channel();
        let request = Request { ask: Ask::Control(control), reply: Some(reply) };
        self.requests.send(request).map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())
    }

    fn gone(&self) -> Error {
        Error::deadline("the pipeline has ended")
    }
}
