//! Who may store, and where.

use std::ops::Range;

use super::super::batches::{Cut, assert_whole, cut, numbers, sorted};
use super::super::harness::{Ability, Harness};
use super::super::owner::{assert_fenced, commit, context, letters, opened, owner, resume};
use crate::record::Offset;
use crate::sink::{SinkError, TransactionalSink};

/// A batch of which one partition is not ours is refused as a whole, wherever that one stands.
pub async fn a_refused_commit_leaves_nothing<H: Harness>(harness: &H) {
    let mut sink = owner(harness, &[1]).await;
    commit(&mut sink, cut(harness, 1, 0..4), harness).await;
    for foreign in [0, 2] {
        let batch = Cut::new(harness).filled(1, 4..8).filled(foreign, 0..4).batch();
        assert_fenced(harness, &sink.commit(&batch).await);
        let view = harness.view().await;
        assert_eq!(view.progress.get(&harness.partition(1)), Some(&Offset::new(4)));
        assert_eq!(sorted(&view.outputs), sorted(&numbers(1, 4)), "nothing was added");
        assert_eq!(resume(harness, &mut sink, &[1]).await, [4]);
    }
    commit(&mut sink, cut(harness, 1, 4..8), harness).await;
    assert_whole(harness, &harness.view().await);
    sink.close().await;
}

/// A batch that starts behind stored progress would leave records out.
pub async fn a_gap_is_refused<H: Harness>(harness: &H) {
    out_of_place(harness, 6..8).await;
}

/// A batch that starts before stored progress would store results twice.
pub async fn a_replay_is_refused<H: Harness>(harness: &H) {
    out_of_place(harness, 0..4).await;
    if harness.lacks(Ability::Compare).is_none() {
        // The same place is another replay: of a part.
        let mut sink = owner(harness, &[1]).await;
        commit(&mut sink, cut(harness, 1, 0..4), harness).await;
        assert_fenced(harness, &sink.commit(&cut(harness, 1, 2..6)).await);
        assert_eq!(resume(harness, &mut sink, &[1]).await, [4]);
        sink.close().await;
    }
}

/// With progress at 4, a batch of these offsets.
async fn out_of_place<H: Harness>(harness: &H, offsets: Range<i64>) {
    let mut sink = owner(harness, &[0]).await;
    commit(&mut sink, cut(harness, 0, 0..4), harness).await;
    let result = sink.commit(&cut(harness, 0, offsets.clone())).await;
    let stored = resume(harness, &mut sink, &[0]).await;
    match harness.lacks(Ability::Compare) {
        None => {
            assert_fenced(harness, &result);
            assert_eq!(stored, [4]);
            assert_whole(harness, &harness.view().await);
            commit(&mut sink, cut(harness, 0, 4..9), harness).await;
            assert_whole(harness, &harness.view().await);
        }
        Some(reason) => {
            assert!(result.is_ok(), "it compares nothing ({reason}), but says {result:?}");
            assert_eq!(stored, [offsets.end], "it compares nothing ({reason})");
        }
    }
    sink.close().await;
}

/// Whoever claims last is the owner; what an earlier owner sends is refused.
pub async fn a_new_owner_fences_the_old<H: Harness>(harness: &H) {
    let mut old = owner(harness, &[0]).await;
    commit(&mut old, cut(harness, 0, 0..4), harness).await;
    if let Some(reason) = harness.lacks(Ability::Owners) {
        return one_at_a_time(harness, old, reason).await;
    }
    let mut new = opened(harness).await;
    assert_eq!(resume(harness, &mut new, &[0]).await, [4]);
    // In its place, but too late.
    assert_fenced(harness, &old.commit(&cut(harness, 0, 4..6)).await);
    if harness.lacks(Ability::Compare).is_none() {
        // Whoever blames a record must still be the owner.
        assert_fenced(harness, &old.probe(&cut(harness, 0, 4..6)).await);
    }
    assert_whole(harness, &harness.view().await);
    commit(&mut new, cut(harness, 0, 4..8), harness).await;
    // It does not matter that progress has moved meanwhile.
    assert_fenced(harness, &old.commit(&cut(harness, 0, 8..12)).await);
    // The old one comes back by a claim, and fences in turn.
    assert_eq!(resume(harness, &mut old, &[0]).await, [8]);
    assert_fenced(harness, &new.commit(&cut(harness, 0, 8..12)).await);
    commit(&mut old, cut(harness, 0, 8..11), harness).await;
    assert_whole(harness, &harness.view().await);
    new.close().await;
    old.close().await;
}

/// The fence of a store that one process has to itself.
async fn one_at_a_time<H: Harness>(harness: &H, mut old: H::Sink, reason: &str) {
    let mut new = harness.sink().await;
    let opened = new.open(&context(letters(harness))).await;
    assert!(
        matches!(opened, Err(SinkError::Retry(_))),
        "one owner at a time ({reason}), but a second one opens: {opened:?}"
    );
    commit(&mut old, cut(harness, 0, 4..8), harness).await;
    old.close().await;
    drop(old);
    new.open(&context(letters(harness))).await.expect("the first is gone");
    assert_eq!(resume(harness, &mut new, &[0]).await, [8]);
    commit(&mut new, cut(harness, 0, 8..12), harness).await;
    assert_whole(harness, &harness.view().await);
    new.close().await;
}

/// Owners of different partitions commit side by side; a claim of one leaves the others alone.
pub async fn disjoint_owners_do_not_disturb_each_other<H: Harness>(harness: &H) {
    if let Some(reason) = harness.lacks(Ability::Owners) {
        let old = owner(harness, &[0]).await;
        let mut old = old;
        commit(&mut old, cut(harness, 0, 0..4), harness).await;
        return one_at_a_time(harness, old, reason).await;
    }
    let mut one = owner(harness, &[0]).await;
    let mut two = owner(harness, &[1]).await;
    for round in 0..3 {
        let offsets = round * 4..round * 4 + 4;
        // Both at once: their transactions may overlap.
        let (first, second) = (cut(harness, 0, offsets.clone()), cut(harness, 1, offsets));
        tokio::join!(commit(&mut one, first, harness), commit(&mut two, second, harness));
    }
    assert_eq!(resume(harness, &mut one, &[0]).await, [12]);
    commit(&mut two, cut(harness, 1, 12..16), harness).await;
    commit(&mut one, cut(harness, 0, 12..20), harness).await;
    let view = harness.view().await;
    assert_eq!(view.progress.get(&harness.partition(0)), Some(&Offset::new(20)));
    assert_eq!(view.progress.get(&harness.partition(1)), Some(&Offset::new(16)));
    assert_whole(harness, &view);
    one.close().await;
    two.close().await;
}
