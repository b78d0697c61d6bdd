//! Where a partition resumes.

use super::super::batches::{Cut, assert_whole, cut};
use super::super::harness::{Ability, Harness};
use super::super::owner::{assert_fenced, at, claimed, commit, opened, owner, resume, start};
use crate::batch::Outcome;
use crate::record::Offset;
use crate::sink::{Move, Stored, TransactionalSink};

/// Nothing is stored, so nobody resumes anywhere: the start policy decides.
pub async fn an_empty_store_claims_nothing<H: Harness>(harness: &H) {
    let mut sink = opened(harness).await;
    let stored = claimed(harness, &mut sink, &[0, 1]).await;
    assert!(
        stored.iter().all(|stored| matches!(stored, Stored::Nothing)),
        "an empty store has nothing: {stored:?}"
    );
    let view = harness.view().await;
    assert!(view.outputs.is_empty() && view.dead.is_empty(), "an empty store: {view:?}");
    sink.close().await;
}

/// After a commit of several partitions, all of it is there, and a claim says so.
pub async fn results_and_progress_appear_together<H: Harness>(harness: &H) {
    let mut sink = owner(harness, &[0, 1]).await;
    for offsets in [0..8, 8..20] {
        let next = offsets.end;
        let batch = Cut::new(harness).filled(0, offsets.clone()).filled(1, offsets).batch();
        commit(&mut sink, batch, harness).await;
        let view = harness.view().await;
        for partition in [0, 1] {
            let stored = view.progress.get(&harness.partition(partition));
            assert_eq!(stored, Some(&Offset::new(next)), "progress of {partition}");
        }
        assert_whole(harness, &view);
    }
    assert_eq!(resume(harness, &mut sink, &[0, 1]).await, [20, 20]);
    sink.close().await;
}

/// Records that were filtered and holes behind the last record are progress too; a span that does
/// not move stores nothing.
pub async fn an_empty_batch_still_moves_progress<H: Harness>(harness: &H) {
    let mut sink = owner(harness, &[0, 1]).await;
    let filtered = Cut::new(harness)
        .span(0, 0..9)
        .record(3, Outcome::Filtered)
        .record(8, Outcome::Filtered)
        .span(1, 0..0)
        .batch();
    commit(&mut sink, filtered, harness).await;
    commit(&mut sink, Cut::new(harness).span(0, 9..12).batch(), harness).await;
    let view = harness.view().await;
    assert!(view.outputs.is_empty(), "nothing was emitted: {:?}", view.outputs);
    assert_eq!(view.progress.get(&harness.partition(0)), Some(&Offset::new(12)));
    assert_eq!(resume(harness, &mut sink, &[0, 1]).await, [12, 0]);
    sink.close().await;
}

/// The first start that is stored holds; whoever comes second changes nothing.
pub async fn a_start_is_stored_once<H: Harness>(harness: &H) {
    let mut sink = opened(harness).await;
    claimed(harness, &mut sink, &[0, 1]).await;
    let starts = [start(harness, 1, 7), start(harness, 0, 5)];
    sink.reposition(&starts).await.expect("starts are stored");
    let again = [start(harness, 0, 9), start(harness, 1, 1)];
    sink.reposition(&again).await.expect("what is there is left as it is");
    let stored = claimed(harness, &mut sink, &[0, 1]).await;
    let stored: Vec<i64> = stored.iter().map(at).collect();
    assert_eq!(stored, [5, 7], "where the first starts said");
    commit(&mut sink, cut(harness, 0, 5..8), harness).await;
    assert_eq!(resume(harness, &mut sink, &[0, 1]).await, [8, 7]);
    sink.close().await;
}

/// A seek stores a position if progress is where the caller thinks, and it is the owner who asks.
pub async fn a_seek_moves_progress_under_the_compare<H: Harness>(harness: &H) {
    let seek = |partition, expected, next| Move {
        expected: Some(Offset::new(expected)),
        ..start(harness, partition, next)
    };
    let mut sink = owner(harness, &[0, 1]).await;
    commit(&mut sink, cut(harness, 0, 0..8), harness).await;
    sink.reposition(&[seek(0, 8, 2), seek(1, 0, 3)]).await.expect("it is moved");
    assert_eq!(resume(harness, &mut sink, &[0, 1]).await, [2, 3]);
    assert_fenced(harness, &sink.reposition(&[seek(0, 8, 4)]).await);
    // One that is out of place keeps the other back.
    assert_fenced(harness, &sink.reposition(&[seek(0, 2, 4), seek(1, 9, 4)]).await);
    assert_eq!(resume(harness, &mut sink, &[0, 1]).await, [2, 3]);
    if harness.lacks(Ability::Owners).is_none() {
        let mut heir = owner(harness, &[0, 1]).await;
        assert_fenced(harness, &sink.reposition(&[seek(0, 2, 6)]).await);
        assert_eq!(resume(harness, &mut heir, &[0]).await, [2], "the old owner moved nothing");
        heir.close().await;
    }
    sink.close().await;
}
