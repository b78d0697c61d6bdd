//! Exactly once: the sink stores results, dead letters and progress in one step.

use std::sync::Arc;

use async_trait::async_trait;

use super::bisect::{Found, find_culprit};
use super::{Delivery, Fate, Guarantee, Progress, contains, fate_of_commit};
use crate::batch::{Batch, Span};
use crate::error::{Cause, Error};
use crate::record::PartitionId;
use crate::sink::{
    Claim, ClaimRequest, CommitError, Move, SinkContext, SinkDescription, SinkError,
    TransactionalSink,
};
use crate::source::GroupOffsets;

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
            other => return (batch, fate_of_commit(other)),
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

    async fn admit(&mut self, _: &[Span]) -> Result<(), SinkError> {
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

#[cfg(test)]
mod tests {
    use super::super::test_doubles::{RuledSink, batch_of, cause, contents, values};
    use super::*;
    use crate::sink::Rejection;

    fn refuse<T>(text: &str) -> Result<T, CommitError> {
        Err(CommitError::Rejected(Rejection::of_some_record(cause(text))))
    }

    /// Refuses every batch that holds this value.
    fn refuses(
        culprit: i64,
    ) -> impl Fn(&Batch<i64>) -> Result<(), CommitError> + Clone + Send + 'static {
        move |batch| match values(batch).contains(&culprit) {
            true => refuse("bad value"),
            false => Ok(()),
        }
    }

    async fn commit(sink: RuledSink, records: usize) -> (Batch<i64>, Fate) {
        ExactlyOnce::new(sink).commit(batch_of(records)).await
    }

    #[tokio::test]
    async fn the_record_at_fault_is_found_wherever_it_stands_and_the_batch_stays_whole() {
        for records in 1..=9 {
            for culprit in 0..records {
                let sink = RuledSink::new(refuses(i64::try_from(culprit).expect("small")));
                let calls = sink.calls.clone();
                let (batch, fate) = commit(sink, records).await;
                let expected = batch_of(records);
                assert_eq!(contents(&batch), contents(&expected));
                let Fate::Rejected { record, cause } = fate else {
                    panic!("record {culprit} of {records}: {fate:?}");
                };
                assert_eq!(record, expected.finished()[culprit].record.coordinates());
                assert_eq!(cause.to_string(), "bad value");
                let all: Vec<i64> = values(&expected);
                for probe in calls.of("probe") {
                    assert!(all.starts_with(&probe), "probes are prefixes: {probe:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn the_first_of_two_culprits_is_found_first() {
        for (first, second) in [(0, 1), (2, 6), (3, 8)] {
            let rule = move |batch: &Batch<i64>| {
                refuses(first)(batch)?;
                refuses(second)(batch)
            };
            let (_, fate) = commit(RuledSink::new(rule), 9).await;
            let expected = batch_of(9);
            let at = usize::try_from(first).expect("small");
            let Fate::Rejected { record, .. } = fate else {
                panic!("{fate:?}");
            };
            assert_eq!(record, expected.finished()[at].record.coordinates());
        }
    }

    #[tokio::test]
    async fn a_fenced_writer_that_meets_its_own_rows_blames_no_record() {
        // Another owner has written the same rows: they are refused before the fence is looked at.
        let rule = |batch: &Batch<i64>| match values(batch).is_empty() {
            true => Err(CommitError::Fenced(cause("owner changed"))),
            false => refuse("duplicate key"),
        };
        for records in 1..=5 {
            let (_, fate) = commit(RuledSink::new(rule), records).await;
            assert!(matches!(fate, Fate::Fenced(_)), "{records}: {fate:?}");
        }
    }

    #[tokio::test]
    async fn a_record_that_the_sink_names_is_believed_without_a_probe() {
        let named = batch_of(5).finished()[3].record.coordinates();
        let record = named.clone();
        let rule = move |_: &Batch<i64>| {
            let rejection = Rejection::of_record(cause("too large"), record.clone());
            Err(CommitError::Rejected(rejection))
        };
        let sink = RuledSink::new(rule);
        let calls = sink.calls.clone();
        let (_, fate) = commit(sink, 5).await;
        assert!(matches!(fate, Fate::Rejected { record, .. } if record == named));
        assert!(calls.of("probe").is_empty());
    }

    #[tokio::test]
    async fn a_named_record_that_is_not_in_the_batch_is_searched_for() {
        let elsewhere = batch_of(9).finished()[8].record.coordinates();
        let mut sink = RuledSink::new(refuses(1));
        sink.commit = Box::new(move |_| {
            let rejection = Rejection::of_record(cause("bad"), elsewhere.clone());
            Err(CommitError::Rejected(rejection))
        });
        let (batch, fate) = commit(sink, 3).await;
        let found = batch.finished()[1].record.coordinates();
        assert!(matches!(fate, Fate::Rejected { record, .. } if record == found));
    }

    #[tokio::test]
    async fn a_probe_that_fails_otherwise_decides_the_fate() {
        type Case = (fn() -> CommitError, fn(&Fate) -> bool);
        let fates: [Case; 3] = [
            (|| CommitError::Aborted(cause("deadlock")), |fate| matches!(fate, Fate::Aborted(_))),
            (|| CommitError::Fenced(cause("taken over")), |fate| matches!(fate, Fate::Fenced(_))),
            (
                || CommitError::InDoubt(cause("connection lost")),
                |fate| matches!(fate, Fate::InDoubt(_)),
            ),
        ];
        for (error, expected) in fates {
            for failing in 0..4 {
                let mut sink = RuledSink::new(refuses(2));
                let mut probes = 0;
                sink.probe = Box::new(move |batch| {
                    probes += 1;
                    match probes - 1 == failing {
                        true => Err(error()),
                        false => refuses(2)(batch),
                    }
                });
                let (batch, fate) = commit(sink, 6).await;
                assert!(expected(&fate), "probe {failing}: {fate:?}");
                assert_eq!(contents(&batch), contents(&batch_of(6)));
            }
        }
    }

    #[tokio::test]
    async fn rejections_without_a_culprit_are_retried_a_few_times_and_then_stop_the_pipeline() {
        let mut sink = RuledSink::new(|_: &Batch<i64>| Ok(()));
        sink.commit = Box::new(|_| refuse("odd"));
        let mut delivery = ExactlyOnce::new(sink);
        for attempt in 1..UNEXPLAINED_MAX {
            let (_, fate) = delivery.commit(batch_of(3)).await;
            assert!(matches!(fate, Fate::Aborted(_)), "{attempt}: {fate:?}");
        }
        let (_, fate) = delivery.commit(batch_of(3)).await;
        let Fate::Stop(error) = fate else {
            panic!("{fate:?}");
        };
        assert!(error.is_sink());
        assert!(error.to_string().ends_with("no single record of it: odd"), "{error}");
    }

    #[tokio::test]
    async fn a_commit_between_them_makes_rejections_without_a_culprit_start_anew() {
        let mut sink = RuledSink::new(|_: &Batch<i64>| Ok(()));
        let mut commits = 0;
        sink.commit = Box::new(move |_| {
            commits += 1;
            match commits % 2 {
                0 => Ok(()),
                _ => refuse("odd"),
            }
        });
        let mut delivery = ExactlyOnce::new(sink);
        for _ in 0..4 * UNEXPLAINED_MAX {
            let (_, fate) = delivery.commit(batch_of(3)).await;
            assert!(!matches!(fate, Fate::Stop(_)));
        }
    }

    #[tokio::test]
    async fn a_refused_batch_without_records_blames_nobody() {
        let (batch, fate) = commit(RuledSink::new(|_: &Batch<i64>| refuse("odd")), 0).await;
        assert!(matches!(fate, Fate::Aborted(_)), "{fate:?}");
        assert_eq!(contents(&batch), contents(&batch_of(0)));
    }

    #[tokio::test]
    async fn what_only_an_operator_can_mend_stops_the_pipeline() {
        let rule = |_: &Batch<i64>| {
            let cause = cause("no such table").needs_operator();
            Err(CommitError::Aborted(cause))
        };
        let (_, fate) = commit(RuledSink::new(rule), 2).await;
        assert!(matches!(fate, Fate::Stop(error) if error.is_sink()));
    }

    #[test]
    fn a_sink_bound_to_its_source_keeps_progress_in_the_group() {
        let mut sink = RuledSink::new(|_: &Batch<i64>| Ok(()));
        sink.bound_to = Some(7);
        assert_eq!(ExactlyOnce::new(sink).progress(), Progress::Group);
        let sink = RuledSink::new(|_: &Batch<i64>| Ok(()));
        assert_eq!(ExactlyOnce::new(sink).progress(), Progress::Sink);
    }
}
