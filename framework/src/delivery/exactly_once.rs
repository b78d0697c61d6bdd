//! Exactly once: the sink stores results, dead letters and progress in one step.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Delivery, Fate, Guarantee, Progress, aborted, contains, last_record};
use crate::batch::{Batch, Outcome};
use crate::error::{Cause, Error};
use crate::record::PartitionId;
use crate::sink::{
    Claim, ClaimRequest, CommitError, Move, Rejection, SinkContext, SinkDescription, SinkError,
    TransactionalSink,
};
use crate::source::{GroupOffsets, Position};

/// After so many rejections in a row that no record could be blamed for, the pipeline stops:
/// repeating them for ever would look like progress.
const UNEXPLAINED_MAX: u32 = 5;

pub(crate) struct ExactlyOnce<S> {
    sink: S,
    /// Rejections in a row that no record could be blamed for.
    unexplained: u32,
}

impl<S: TransactionalSink> ExactlyOnce<S> {
    pub(crate) fn new(sink: S) -> Self {
        Self { sink, unexplained: 0 }
    }

    async fn fate_of(
        &mut self,
        batch: Batch<S::Output>,
        error: CommitError,
    ) -> (Batch<S::Output>, Fate) {
        let rejection = match error {
            CommitError::Rejected(rejection) => rejection,
            other => return (batch, plain_fate(other)),
        };
        if let Some(record) = rejection.record
            && contains(&batch, &record)
        {
            let cause = rejection.cause;
            return (batch, Fate::Rejected { record, cause });
        }
        let (batch, found) = find_culprit(&mut self.sink, batch).await;
        let fate = match found {
            Found::Record(fate) | Found::Failed(fate) => fate,
            Found::Nothing => return (batch, self.unexplained(&rejection.cause)),
        };
        (batch, fate)
    }

    fn unexplained(&mut self, cause: &Cause) -> Fate {
        self.unexplained += 1;
        let problem =
            format!("the sink refuses the batch's data, but no single record of it: {cause}");
        if self.unexplained < UNEXPLAINED_MAX {
            Fate::Aborted(Cause::new(problem))
        } else {
            Fate::Stop(Error::sink_failed(problem))
        }
    }
}

#[async_trait]
impl<S: TransactionalSink> Delivery<S::Output> for ExactlyOnce<S> {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn progress(&self) -> Progress {
        // A sink that is bound to its source commits the group's own offsets in its transaction:
        // a mirror beside them could only set them back.
        match self.sink.describe().bound_to {
            Some(_) => Progress::Group,
            None => Progress::Sink,
        }
    }

    fn describe(&self) -> SinkDescription {
        self.sink.describe()
    }

    fn measure(&self) -> fn(&S::Output) -> usize {
        self.sink.measure()
    }

    fn attach(&mut self, _: Arc<dyn GroupOffsets>) {}

    async fn open(&mut self, context: &SinkContext) -> Result<(), SinkError> {
        self.sink.open(context).await
    }

    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        self.sink.claim(partitions).await
    }

    async fn admit(&mut self, _: &[Position]) -> Result<(), SinkError> {
        Ok(())
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        self.sink.reposition(moves).await
    }

    async fn commit(&mut self, batch: Batch<S::Output>) -> (Batch<S::Output>, Fate) {
        let (batch, fate) = match self.sink.commit(&batch).await {
            Ok(()) => (batch, Fate::Committed),
            Err(error) => self.fate_of(batch, error).await,
        };
        if matches!(fate, Fate::Committed | Fate::Rejected { .. }) {
            self.unexplained = 0;
        }
        (batch, fate)
    }

    async fn settle(&mut self) {}

    async fn release(&mut self, partitions: &[PartitionId]) {
        self.sink.release(partitions).await;
    }

    async fn close(&mut self) {
        self.sink.close().await;
    }
}

/// The fate of everything but a rejection.
fn plain_fate(error: CommitError) -> Fate {
    match error {
        CommitError::Aborted(cause) => aborted(cause),
        CommitError::Fenced(cause) => Fate::Fenced(cause),
        CommitError::InDoubt(cause) => Fate::InDoubt(cause),
        CommitError::Rejected(rejection) => Fate::Aborted(rejection.cause),
    }
}

/// How the search for the record at fault ended.
enum Found {
    Record(Fate),
    /// The probes contradict the rejection or each other.
    Nothing,
    /// A probe failed otherwise: fenced, aborted, in doubt.
    Failed(Fate),
}

/// Finds the smallest prefix in delivery order that the sink refuses; its last record is the
/// culprit.
///
/// It is believed only if the same prefix passes without that record's results: a fenced writer may
/// meet a unique key before it meets the fence, and would blame a healthy record.
async fn find_culprit<S: TransactionalSink>(
    sink: &mut S,
    mut batch: Batch<S::Output>,
) -> (Batch<S::Output>, Found) {
    let mut refused = batch.len();
    let mut passed = 0;
    let mut cause;
    let said;
    (batch, said) = probe_prefix(sink, batch, refused).await;
    match said {
        Probe::Refused(why) if refused > 0 => cause = why,
        Probe::Refused(_) | Probe::Passed => return (batch, Found::Nothing),
        Probe::Failed(fate) => return (batch, Found::Failed(fate)),
    }
    while refused - passed > 1 {
        let middle = passed + (refused - passed) / 2;
        let said;
        (batch, said) = probe_prefix(sink, batch, middle).await;
        match said {
            Probe::Refused(why) => (refused, cause) = (middle, why),
            Probe::Passed => passed = middle,
            Probe::Failed(fate) => return (batch, Found::Failed(fate)),
        }
    }
    let (prefix, rest) = batch.split(refused);
    let record = last_record(&prefix).expect("a refused prefix has at least one record");
    let (prefix, said) = probe_without_last(sink, prefix).await;
    let found = match said {
        Probe::Passed => Found::Record(Fate::Rejected { record, cause }),
        Probe::Refused(_) => Found::Nothing,
        Probe::Failed(fate) => Found::Failed(fate),
    };
    (prefix.join(rest), found)
}

enum Probe {
    Passed,
    Refused(Cause),
    Failed(Fate),
}

impl From<Result<(), CommitError>> for Probe {
    fn from(result: Result<(), CommitError>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(CommitError::Rejected(Rejection { cause, .. })) => Self::Refused(cause),
            Err(other) => Self::Failed(plain_fate(other)),
        }
    }
}

async fn probe_prefix<S: TransactionalSink>(
    sink: &mut S,
    batch: Batch<S::Output>,
    records: usize,
) -> (Batch<S::Output>, Probe) {
    let (prefix, rest) = batch.split(records);
    let said = sink.probe(&prefix).await.into();
    (prefix.join(rest), said)
}

/// Probes the batch as if its last record had been filtered: the spans stay as they are.
async fn probe_without_last<S: TransactionalSink>(
    sink: &mut S,
    batch: Batch<S::Output>,
) -> (Batch<S::Output>, Probe) {
    let (spans, mut finished) = batch.into_parts();
    let kept =
        finished.last_mut().map(|last| std::mem::replace(&mut last.outcome, Outcome::Filtered));
    let without = Batch::new(spans, finished);
    let said = sink.probe(&without).await.into();
    let (spans, mut finished) = without.into_parts();
    if let (Some(last), Some(kept)) = (finished.last_mut(), kept) {
        last.outcome = kept;
    }
    (Batch::new(spans, finished), said)
}
