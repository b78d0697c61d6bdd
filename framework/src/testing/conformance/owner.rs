//! What the engine does around a sink: open, claim, store starts; and what it may be answered.

use std::time::Duration;

use super::harness::{Ability, Harness, OutputOf};
use crate::batch::Batch;
use crate::record::Offset;
use crate::sink::{
    Claim, ClaimRequest, CommitError, DeadLetters, Move, SinkContext, SinkError, Stored,
    TransactionalSink,
};

/// How often a claim is repeated that was put off, and a commit that was aborted.
const REPETITIONS_MAX: u32 = 40;
/// How long to wait in between.
const PAUSE: Duration = Duration::from_millis(100);

/// How the kit opens sinks.
pub(super) fn context(dead_letters: DeadLetters) -> SinkContext {
    SinkContext {
        group: "conformance".to_owned(),
        instance: None,
        deadline: Duration::from_secs(30),
        dead_letters,
    }
}

/// Whether the kit's sinks are told of dead letters.
pub(super) fn letters<H: Harness>(harness: &H) -> DeadLetters {
    match harness.lacks(Ability::DeadLetters) {
        None => DeadLetters::Expected,
        Some(_) => DeadLetters::Never,
    }
}

pub(super) async fn opened<H: Harness>(harness: &H) -> H::Sink {
    let sink = harness.sink().await;
    open(harness, sink).await
}

pub(super) async fn open<H: Harness, S: TransactionalSink>(harness: &H, mut sink: S) -> S {
    sink.open(&context(letters(harness))).await.expect("the sink opens");
    sink
}

/// An open sink that owns these partitions.
pub(super) async fn owner<H: Harness>(harness: &H, partitions: &[i32]) -> H::Sink {
    let mut sink = opened(harness).await;
    resume(harness, &mut sink, partitions).await;
    sink
}

pub(super) fn requests<H: Harness>(harness: &H, partitions: &[i32]) -> Vec<ClaimRequest> {
    let request =
        |number: &i32| ClaimRequest { partition: harness.partition(*number), topic_id: None };
    partitions.iter().map(request).collect()
}

/// Claims as the engine does: again while it is put off.
pub(super) async fn claimed<H, S>(harness: &H, sink: &mut S, partitions: &[i32]) -> Vec<Stored>
where
    H: Harness,
    S: TransactionalSink,
{
    patiently(async || claim(harness, sink, partitions).await).await
}

/// Asks again while it is put off.
async fn patiently<T>(mut ask: impl AsyncFnMut() -> Result<T, SinkError>) -> T {
    let mut last = None;
    for _ in 0..REPETITIONS_MAX {
        match ask().await {
            Ok(answer) => return answer,
            Err(SinkError::Retry(cause)) => last = Some(cause),
            Err(other) => panic!("a claim is answered or put off: {other}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("a claim was put off {REPETITIONS_MAX} times: {last:?}");
}

/// Claims once. The answers are in the order of the requests, whatever order they came in.
pub(super) async fn claim<H, S>(
    harness: &H,
    sink: &mut S,
    partitions: &[i32],
) -> Result<Vec<Stored>, SinkError>
where
    H: Harness,
    S: TransactionalSink,
{
    let requests = requests(harness, partitions);
    let mut claims: Vec<Claim> = sink.claim(&requests).await?;
    assert_eq!(claims.len(), requests.len(), "one answer for each partition: {claims:?}");
    let answers = requests.iter().map(|request| {
        let found = claims.iter().position(|claim| claim.partition == request.partition);
        claims.swap_remove(found.expect("an answer for each partition")).stored
    });
    Ok(answers.collect())
}

/// Claims as the engine does: again while it is put off, with a start at 0 stored for what has
/// none. Where each partition resumes.
pub(super) async fn resume<H, S>(harness: &H, sink: &mut S, partitions: &[i32]) -> Vec<i64>
where
    H: Harness,
    S: TransactionalSink,
{
    patiently(async || try_resume(harness, sink, partitions).await).await
}

/// As [`resume`], without patience.
pub(super) async fn try_resume<H, S>(
    harness: &H,
    sink: &mut S,
    partitions: &[i32],
) -> Result<Vec<i64>, SinkError>
where
    H: Harness,
    S: TransactionalSink,
{
    let first = claim(harness, sink, partitions).await?;
    let missing: Vec<Move> = partitions
        .iter()
        .zip(&first)
        .filter(|(_, stored)| matches!(stored, Stored::Nothing | Stored::Added))
        .map(|(number, _)| start(harness, *number, 0))
        .collect();
    let answers = match missing.is_empty() {
        true => first,
        false => {
            let stored = sink.reposition(&missing).await;
            stored.map_err(|error| SinkError::Retry(crate::error::Cause::new(error)))?;
            claim(harness, sink, partitions).await?
        }
    };
    Ok(answers.iter().map(at).collect())
}

pub(super) fn start<H: Harness>(harness: &H, partition: i32, next: i64) -> Move {
    let partition = harness.partition(partition);
    Move { partition, expected: None, next: Offset::new(next), topic_id: None }
}

/// Where a partition resumes.
#[track_caller]
pub(super) fn at(stored: &Stored) -> i64 {
    match stored {
        Stored::At(offset) => offset.get(),
        other => panic!("it resumes somewhere, got {other:?}"),
    }
}

/// Commits as the engine does: the same batch again while the store says that nothing was stored and
/// that it may work next time.
pub(super) async fn commit<H, S>(sink: &mut S, batch: Batch<OutputOf<H>>, _: &H)
where
    H: Harness,
    S: TransactionalSink<Output = OutputOf<H>>,
{
    let mut last = None;
    for _ in 0..REPETITIONS_MAX {
        match sink.commit(&batch).await {
            Ok(()) => return,
            Err(CommitError::Aborted(cause)) if !cause.is_for_operator() => last = Some(cause),
            Err(error) => panic!("a batch of the owner, in its place, is stored: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("a commit was aborted {REPETITIONS_MAX} times: {last:?}");
}

/// Asserts that a store refused what somebody asked for who is not the owner, or not there.
#[track_caller]
pub(super) fn assert_fenced<H: Harness>(harness: &H, result: &Result<(), CommitError>) {
    let is_fenced = match result {
        Err(CommitError::Fenced(_)) => true,
        Err(CommitError::Aborted(_) | CommitError::InDoubt(_)) => {
            harness.lacks(Ability::Compare).is_some()
        }
        _ => false,
    };
    assert!(is_fenced, "the compare does not hold: it is fenced, got {result:?}");
}
