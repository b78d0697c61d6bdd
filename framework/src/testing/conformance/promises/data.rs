//! What a batch holds: results, dead letters, and data that the store refuses.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::batches::{Cut, assert_whole, coordinates, cut, number, numbers, sorted};
use super::super::harness::{Ability, Harness, OutputOf, View};
use super::super::owner::{assert_fenced, commit, context, owner, resume};
use crate::batch::{Batch, Outcome, Outputs};
use crate::delivery::{Fate, Found, find_culprit};
use crate::record::{Coordinates, Offset};
use crate::sink::{CommitError, DeadLetters, Rejection, SinkError, TransactionalSink};

/// Snapshots of a moving store that a reader must have taken for the promise to be looked at.
const GLIMPSES: usize = 8;
/// Commits after which a reader that never saw the store move is the harness's mistake.
const COMMITS_MAX: i64 = 5_000;

/// How often the same batch is sent, or probed, until the store says which record is at fault.
const ATTEMPTS_MAX: u32 = 10;

/// Records that were set aside are stored if and only if their batch is.
pub async fn dead_letters_commit_with_the_batch<H: Harness>(harness: &H) {
    if let Some(reason) = harness.lacks(Ability::DeadLetters) {
        let mut sink = harness.sink().await;
        let opened = sink.open(&context(DeadLetters::Expected)).await;
        assert!(
            matches!(opened, Err(SinkError::Stop(_))),
            "no place for dead letters ({reason}), but it opens: {opened:?}"
        );
        return;
    }
    let mut sink = owner(harness, &[1]).await;
    let one = number(1, 0, 0);
    let emits = || Outcome::Emit(Outputs::One(harness.output(one)));
    // Partition 0 is not ours.
    let foreign = Cut::new(harness).span(0, 0..4).dead(2);
    let foreign = foreign.span(1, 0..4).record(0, emits()).dead(3).batch();
    assert_fenced(harness, &sink.commit(&foreign).await);
    assert_eq!(harness.view().await.dead, [], "those of a refused batch");
    resume(harness, &mut sink, &[1]).await;
    let batch = Cut::new(harness).span(1, 0..9).record(0, emits()).dead(3).dead(8).batch();
    commit(&mut sink, batch, harness).await;
    let view = harness.view().await;
    let mut dead = view.dead.clone();
    dead.sort();
    assert_eq!(dead, [coordinates(harness, 1, 3), coordinates(harness, 1, 8)]);
    assert_eq!(view.outputs, [one]);
    assert_eq!(resume(harness, &mut sink, &[1]).await, [9]);
    sink.close().await;
}

/// While commits run, a reader sees each of them as a whole or not at all.
pub async fn a_reader_never_sees_half<H: Harness>(harness: &H) {
    let mut sink = owner(harness, &[0, 1]).await;
    let end = AtomicBool::new(false);
    let writer = async {
        let mut first = 0;
        while !end.load(Ordering::Relaxed) && first < 4 * COMMITS_MAX {
            let offsets = first..first + 4;
            let batch = Cut::new(harness).filled(0, offsets.clone()).filled(1, offsets).batch();
            commit(&mut sink, batch, harness).await;
            first += 4;
            // A store in memory has no other point where a reader gets its turn.
            tokio::task::yield_now().await;
        }
        first
    };
    let reader = async {
        let mut glimpses: Vec<usize> = Vec::new();
        while glimpses.len() < GLIMPSES {
            let view = harness.view().await;
            assert_no_half(harness, &view);
            if !view.outputs.is_empty() && glimpses.last() != Some(&view.outputs.len()) {
                glimpses.push(view.outputs.len());
            }
            tokio::task::yield_now().await;
        }
        end.store(true, Ordering::Relaxed);
    };
    let (first, ()) = tokio::join!(writer, reader);
    assert!(first < 4 * COMMITS_MAX, "the reader saw the store move, in {COMMITS_MAX} commits");
    assert_eq!(resume(harness, &mut sink, &[0, 1]).await, [first, first]);
    assert_whole(harness, &harness.view().await);
    sink.close().await;
}

/// What may be seen at any moment.
#[track_caller]
fn assert_no_half<H: Harness>(harness: &H, view: &View) {
    if harness.lacks(Ability::Snapshot).is_none() {
        return assert_whole(harness, view);
    }
    // Each batch has as many results of both partitions: half of it would be uneven.
    let seen = sorted(&view.outputs);
    let whole = |next| sorted(&[numbers(0, next), numbers(1, next)].concat());
    let ends = (0..).step_by(4).take_while(|end| whole(end - 4).len() <= seen.len());
    let fits = ends.into_iter().any(|end| whole(end) == seen);
    assert!(fits, "the results of whole batches: {seen:?}");
}

/// A probe does what a commit does, says what a commit would say, and undoes it.
pub async fn a_probe_leaves_nothing_behind<H: Harness>(harness: &H) {
    let mut sink = owner(harness, &[0]).await;
    commit(&mut sink, cut(harness, 0, 0..4), harness).await;
    let before = harness.view().await;
    let emits = Outcome::Emit(Outputs::One(harness.output(number(0, 4, 0))));
    let probed = Cut::new(harness).span(0, 4..9).record(4, emits);
    let probed = match harness.lacks(Ability::DeadLetters) {
        None => probed.dead(7),
        Some(_) => probed,
    };
    sink.probe(&probed.batch()).await.expect("nothing is wrong with it");
    assert_eq!(harness.view().await, before, "a probe left something");
    commit(&mut sink, cut(harness, 0, 4..9), harness).await;
    assert_whole(harness, &harness.view().await);
    sink.close().await;
}

/// Of a batch that the store refuses for its data, the record at fault is found, and the rest is
/// stored without it.
pub async fn a_rejected_record_can_be_found_and_its_neighbours_commit<H: Harness>(harness: &H) {
    let mut sink = owner(harness, &[0]).await;
    if let Some(reason) = harness.lacks(Ability::Rejection) {
        let batch = cut(harness, 0, 0..4);
        let probed = sink.probe(&batch).await;
        assert!(probed.is_ok(), "it refuses no data ({reason}), but its probe says {probed:?}");
        assert_eq!(harness.view().await.outputs, [0; 0], "a probe leaves nothing");
        commit(&mut sink, batch, harness).await;
        assert_whole(harness, &harness.view().await);
        return sink.close().await;
    }
    for culprit_at in [0, 3, 6] {
        let refused = Outcome::Emit(Outputs::One(harness.refused_output()));
        let batch = Cut::new(harness)
            .span(0, 0..7)
            .one_each(0, 0..culprit_at)
            .record(culprit_at, refused)
            .one_each(0, culprit_at + 1..7)
            .batch();
        if let Some(record) = rejected(harness, &mut sink, &batch).await.record {
            assert_eq!(record, coordinates(harness, 0, culprit_at), "the record it names");
        }
        assert_eq!(harness.view().await.outputs, [0; 0], "of a refused batch");
        let found = searched(harness, &mut sink, batch).await;
        assert_eq!(found, coordinates(harness, 0, culprit_at), "what the probes say");
        assert_eq!(resume(harness, &mut sink, &[0]).await, [0]);
    }
    let rest = Cut::new(harness).span(0, 0..7).one_each(0, 0..3);
    let rest = rest.record(3, Outcome::Filtered).one_each(0, 4..7).batch();
    commit(&mut sink, rest, harness).await;
    let view = harness.view().await;
    let neighbours = [0, 1, 2, 4, 5, 6].map(|offset| number(0, offset, 0));
    assert_eq!(sorted(&view.outputs), neighbours);
    assert_eq!(view.progress.get(&harness.partition(0)), Some(&Offset::new(7)));
    sink.close().await;
}

/// Why the store refuses this batch. It may need several attempts to say so, as long as nothing is
/// stored.
async fn rejected<H: Harness>(
    harness: &H,
    sink: &mut H::Sink,
    batch: &Batch<OutputOf<H>>,
) -> Rejection {
    for _ in 0..ATTEMPTS_MAX {
        match sink.commit(batch).await {
            Err(CommitError::Rejected(rejection)) => return rejection,
            Err(CommitError::InDoubt(_)) => {
                assert_eq!(resume(harness, sink, &[0]).await, [0], "nothing was stored");
            }
            Err(CommitError::Aborted(cause)) if !cause.is_for_operator() => {}
            other => panic!("the data is refused, got {other:?}"),
        }
    }
    panic!("not said in {ATTEMPTS_MAX} attempts that the data is refused");
}

/// The record that the engine's own search finds by probes.
async fn searched<H: Harness>(
    harness: &H,
    sink: &mut H::Sink,
    mut batch: Batch<OutputOf<H>>,
) -> Coordinates {
    for _ in 0..ATTEMPTS_MAX {
        let found;
        (batch, found) = find_culprit(sink, batch).await;
        match found {
            Found::Record(Fate::Rejected { record, .. }) => return record,
            Found::Failed(Fate::Aborted(_)) => {}
            Found::Failed(Fate::InDoubt(_)) => {
                assert_eq!(resume(harness, sink, &[0]).await, [0], "a probe stored something");
            }
            other => panic!("probes find the record, got {other:?}"),
        }
    }
    panic!("probes found no record in {ATTEMPTS_MAX} attempts");
}
