//! At most once: move the group's offsets, then run, then write once.

use std::sync::Arc;

use async_trait::async_trait;

use super::group::{Group, sink_error};
use super::{Delivery, Fate, Guarantee, Progress};
use crate::batch::{Batch, DeadLetter, DeadReason, Outcome};
use crate::error::Error;
use crate::metrics::Meter;
use crate::record::PartitionId;
use crate::sink::{
    Claim, ClaimRequest, CommitError, DeadLetters, Move, Sink, SinkContext, SinkDescription,
    SinkError,
};
use crate::source::{GroupOffsets, Position};

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

    async fn admit(&mut self, positions: &[Position]) -> Result<(), SinkError> {
        self.group.offsets().commit(positions).await.map_err(sink_error)
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        self.group.reposition(moves).await
    }

    /// Progress was stored before the records ran, so whatever happens here they count as done.
    async fn commit(&mut self, batch: Batch<S::Output>) -> (Batch<S::Output>, Fate) {
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
