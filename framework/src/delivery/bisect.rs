//! Finds the record that a transactional sink refuses, by probing prefixes.

use super::{Fate, fate_of_commit, last_record};
use crate::batch::{Batch, Outcome};
use crate::error::Cause;
use crate::sink::{CommitError, Rejection, TransactionalSink};

/// How the search for the record at fault ended.
#[derive(Debug)]
pub(crate) enum Found {
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
pub(crate) async fn find_culprit<S: TransactionalSink>(
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
            Err(other) => Self::Failed(fate_of_commit(other)),
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
