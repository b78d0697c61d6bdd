//! At most once: move the group's offsets, then run, then write once.

use std::sync::Arc;

use async_trait::async_trait;

use super::group::{Group, sink_error};
use super::{Delivery, Fate, Guarantee, Progress, has_content};
use crate::batch::{Batch, DeadLetter, DeadReason, Outcome, Span};
use crate::error::Error;
use crate::metrics::Meter;
use crate::record::PartitionId;
use crate::sink::{
    Claim, ClaimRequest, CommitError, DeadLetters, Move, Sink, SinkContext, SinkDescription,
    SinkError,
};
use crate::source::GroupOffsets;

pub(crate) struct AtMostOnce<S> {
    sink: S,
    group: Group,
    /// Counts what was given up.
    meter: Meter,
    dead_letters: DeadLetters,
}

impl<S: Sink> AtMostOnce<S> {
    pub(crate) fn new(sink: S) -> Self {
        Self {
            sink,
            group: Group::default(),
            meter: Meter::new(""),
            dead_letters: DeadLetters::Never,
        }
    }

    /// Counts the records whose results were not written, and offers them once as dead letters: a
    /// result must not be written twice, but a dead letter is not a result.
    async fn give_up(&mut self, batch: Batch<S::Output>, error: &SinkError) -> Batch<S::Output> {
        let (spans, mut finished) = batch.into_parts();
        let mut given_up = 0;
        for record in &mut finished {
            let Outcome::Emit(outputs) = &record.outcome else {
                continue;
            };
            if outputs.is_empty() {
                record.outcome = Outcome::Filtered;
                continue;
            }
            given_up += 1;
            record.outcome = Outcome::Dead(DeadLetter {
                reason: DeadReason::NotWritten,
                error: error.to_string(),
                without_value: false,
            });
        }
        self.meter.given_up(given_up);
        tracing::error!(%error, ?spans, records = given_up, "results were not written, given up");
        let batch = Batch::new(spans, finished);
        if self.dead_letters == DeadLetters::Expected
            && batch.dead_letters().next().is_some()
            && let Err(error) = self.sink.write(&batch).await
        {
            let letters = batch.dead_letters().count();
            tracing::error!(%error, letters, "dead letters were not written, given up");
        }
        batch
    }
}

#[async_trait]
impl<S: Sink> Delivery<S::Output> for AtMostOnce<S> {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtMostOnce
    }

    fn progress(&self) -> Progress {
        Progress::Group
    }

    fn describe(&self) -> SinkDescription {
        self.sink.describe()
    }

    fn measure(&self) -> fn(&S::Output) -> usize {
        self.sink.measure()
    }

    fn attach(&mut self, group: Arc<dyn GroupOffsets>) {
        self.group.attach(group);
    }

    async fn open(&mut self, context: &SinkContext) -> Result<(), SinkError> {
        self.meter = Meter::new(&context.group);
        self.dead_letters = context.dead_letters;
        self.sink.open(context).await
    }

    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        self.group.claim(partitions).await
    }

    async fn admit(&mut self, spans: &[Span]) -> Result<(), SinkError> {
        self.group.offsets().commit_reached(spans).await.map_err(sink_error)
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        self.group.reposition(moves).await
    }

    /// Progress was stored before the records ran, so whatever happens here they count as done.
    async fn commit(&mut self, batch: Batch<S::Output>) -> (Batch<S::Output>, Fate) {
        if !has_content(&batch) {
            return (batch, Fate::Committed);
        }
        match self.sink.write(&batch).await {
            Ok(()) => (batch, Fate::Committed),
            Err(SinkError::Stop(error)) => (batch, Fate::Stop(error)),
            Err(error) => {
                let batch = self.give_up(batch, &error).await;
                (batch, fate_of_given_up(error))
            }
        }
    }

    async fn settle(&mut self) {}

    async fn release(&mut self, _: &[PartitionId]) {}

    async fn close(&mut self) {
        self.sink.close().await;
    }
}

/// Given up is given up, but a sink that no repetition can mend would give up everything.
fn fate_of_given_up(error: SinkError) -> Fate {
    match error {
        SinkError::Retry(cause) if cause.is_for_operator() => Fate::Stop(Error::sink_failed(cause)),
        _ => Fate::Committed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::test_doubles::{
        self as doubles, PlainSink, batch_of, cause, context, emits, finished, span,
    };
    use super::*;
    use crate::batch::Outputs;
    use crate::sink::Rejection;
    use crate::source::SourceError;

    type Letters = Arc<Mutex<Vec<Vec<(i64, DeadReason)>>>>;

    /// A sink that refuses results with this error, and notes the dead letters of each write.
    fn failing(error: fn() -> SinkError) -> (PlainSink, Letters) {
        let letters = Letters::default();
        let notes = Arc::clone(&letters);
        let sink = PlainSink::new(move |batch| {
            let dead = batch.dead_letters();
            let dead = dead.map(|(finished, letter)| (finished.record.offset.get(), letter.reason));
            notes.lock().expect("no panic").push(dead.collect());
            Err(error())
        });
        (sink, letters)
    }

    async fn opened(sink: PlainSink, dead_letters: DeadLetters) -> AtMostOnce<PlainSink> {
        let mut delivery = AtMostOnce::new(sink);
        delivery.attach(doubles::Group::new());
        let context = context(dead_letters);
        delivery.open(&context).await.expect("the sink opens");
        delivery
    }

    /// A result, nothing, a filtered record and a dead letter.
    fn mixed() -> Batch<i64> {
        let dead = Outcome::Dead(DeadLetter {
            reason: DeadReason::Decode,
            error: "no json".into(),
            without_value: false,
        });
        Batch::new(
            vec![span(0, 1, 1, 5)],
            vec![
                emits(0, 1, 1),
                finished(0, 2, Outcome::Emit(Outputs::None)),
                finished(0, 3, Outcome::Filtered),
                finished(0, 4, dead),
            ],
        )
    }

    #[tokio::test]
    async fn offsets_are_committed_before_records_run() {
        let group = doubles::Group::new();
        group.answer(SourceError::Retry(cause("down")));
        group.answer(SourceError::Fenced(cause("generation")));
        let mut delivery = AtMostOnce::new(PlainSink::new(|_| Ok(())));
        delivery.attach(Arc::clone(&group) as _);
        let delivered = [span(0, 1, 1, 8)];
        let refused = delivery.admit(&delivered).await;
        assert!(matches!(refused, Err(SinkError::Retry(_))));
        let refused = delivery.admit(&delivered).await;
        assert!(matches!(refused, Err(SinkError::Fenced(_))));
        delivery.admit(&delivered).await.expect("the group answers");
        assert_eq!(group.commits().len(), 3);
        let (_, fate) = delivery.commit(batch_of(3)).await;
        assert!(matches!(fate, Fate::Committed));
        assert_eq!(group.commits().len(), 3, "no offset moves at the commit");
    }

    #[tokio::test]
    async fn results_that_were_not_written_are_offered_once_as_dead_letters() {
        let errors: [fn() -> SinkError; 3] = [
            || SinkError::Retry(cause("down")),
            || SinkError::Rejected(Rejection::of_some_record(cause("bad"))),
            || SinkError::Fenced(cause("other")),
        ];
        for error in errors {
            let (sink, letters) = failing(error);
            let calls = sink.calls.clone();
            let mut delivery = opened(sink, DeadLetters::Expected).await;
            let (_, fate) = delivery.commit(mixed()).await;
            assert!(matches!(fate, Fate::Committed), "{fate:?}");
            let decode = (4, DeadReason::Decode);
            let offered = vec![(1, DeadReason::NotWritten), decode];
            assert_eq!(*letters.lock().expect("no panic"), [vec![decode], offered]);
            assert_eq!(calls.of("write"), [vec![1], vec![]], "no result is written twice");
        }
    }

    #[tokio::test]
    async fn a_sink_without_a_place_for_dead_letters_is_not_offered_any() {
        let (sink, letters) = failing(|| SinkError::Retry(cause("down")));
        let mut delivery = opened(sink, DeadLetters::Never).await;
        let (_, fate) = delivery.commit(batch_of(2)).await;
        assert!(matches!(fate, Fate::Committed));
        assert_eq!(letters.lock().expect("no panic").len(), 1);
    }

    #[tokio::test]
    async fn a_sink_that_only_an_operator_can_mend_does_not_eat_the_whole_stream() {
        let (sink, _) = failing(|| SinkError::Retry(cause("no table").needs_operator()));
        let mut delivery = opened(sink, DeadLetters::Expected).await;
        let (_, fate) = delivery.commit(batch_of(2)).await;
        assert!(matches!(fate, Fate::Stop(error) if error.is_sink()));
    }
}
