//! Finds the record that a plain sink refuses. A plain sink cannot try and undo, so it writes.

use super::{Fate, contains, fate_of_write, last_record};
use crate::batch::Batch;
use crate::error::Cause;
use crate::record::Coordinates;
use crate::sink::{Sink, SinkError};

/// The fate of a batch that was not written. If it was refused for its data, the record at fault is
/// found by writing halves: what passes is durable already, and writing it again later is what
/// at-least-once allows. No fate means that all of it was written in the end.
pub(super) async fn isolate<S: Sink>(
    sink: &mut S,
    batch: Batch<S::Output>,
    error: SinkError,
) -> (Batch<S::Output>, Option<Fate>) {
    let mut first_answer = Some(Err(error));
    let mut written: Option<Batch<S::Output>> = None;
    let mut unwritten = vec![batch];
    let mut fate = None;
    while let Some(part) = unwritten.pop() {
        let answer = match first_answer.take() {
            Some(answer) => answer,
            None => sink.write(&part).await,
        };
        let error = match answer {
            Ok(()) => {
                written = Some(joined(written, part));
                continue;
            }
            Err(error) => error,
        };
        if let SinkError::Rejected(rejection) = &error
            && !rejection.record.as_ref().is_some_and(|record| contains(&part, record))
            && part.len() > 1
        {
            let half = part.len() / 2;
            let (left, right) = part.split(half);
            unwritten.extend([right, left]);
            continue;
        }
        fate = Some(fate_of_part(&part, error));
        unwritten.push(part);
        break;
    }
    for part in unwritten.into_iter().rev() {
        written = Some(joined(written, part));
    }
    let batch = written.expect("the parts make up the batch");
    (batch, fate)
}

fn joined<O>(first: Option<Batch<O>>, rest: Batch<O>) -> Batch<O> {
    match first {
        Some(first) => first.join(rest),
        None => rest,
    }
}

/// The fate of a part that cannot be divided further.
fn fate_of_part<O>(part: &Batch<O>, error: SinkError) -> Fate {
    let rejection = match error {
        SinkError::Rejected(rejection) => rejection,
        other => return fate_of_write(other),
    };
    let blamed = rejection.record.filter(|record| contains(part, record));
    let only: Option<Coordinates> = last_record(part).filter(|_| part.len() == 1);
    match blamed.or(only) {
        Some(record) => Fate::Rejected { record, cause: rejection.cause },
        None => Fate::Aborted(Cause::new(format_args!(
            "the sink refuses the batch's data, but no single record of it: {}",
            rejection.cause
        ))),
    }
}
