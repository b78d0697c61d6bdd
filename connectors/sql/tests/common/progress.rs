//! Promises about claims, the compare and the start.

use std::future::Future;
use std::task::{Context, Poll, Waker};

use tidegate::record::{Offset, PartitionId};
use tidegate::sink::{CommitError, Move, Stored, TransactionalSink};

use super::cut::cut;
use super::{
    Item, Lab, asked, asked_of, assert_fenced, at, claim_from_zero, claim_one, context, item,
    opened, partition, start,
};

pub(crate) async fn a_first_start_finds_nothing_and_stores_every_start_once<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    assert!(matches!(claim_one(&mut sink, 0).await, Stored::Nothing));
    // All partitions of the topic, claimed or not, in any order; a second call changes nothing.
    sink.reposition(&[start(1, 7), start(0, 5)]).await.unwrap();
    sink.reposition(&[start(0, 9), start(1, 9)]).await.unwrap();
    let progress = lab.books("progress");
    let rows = format!("SELECT partition, next_offset, claim FROM {progress} ORDER BY 1");
    assert_eq!(lab.rows(&rows).await, ["0|5|1", "1|7|0"]);
    let batch = cut(0, 5..6).emit(5, [item(1, "a", 1)]).batch();
    sink.commit(&batch).await.unwrap();
    assert_eq!(at(&claim_one(&mut sink, 0).await), 6);
    assert_eq!(at(&claim_one(&mut sink, 1).await), 7);
}

pub(crate) async fn two_first_starts_at_once_agree_on_one_start<L: Lab>(lab: L) {
    let (mut one, mut two) = (opened(&lab).await, opened(&lab).await);
    assert!(matches!(claim_one(&mut one, 0).await, Stored::Nothing));
    assert!(matches!(claim_one(&mut two, 1).await, Stored::Nothing));
    one.reposition(&[start(0, 5), start(1, 6)]).await.unwrap();
    // The same start again: the row becomes the claimant's.
    two.reposition(&[start(0, 5), start(1, 6)]).await.unwrap();
    let of_two = cut(1, 6..7).emit(6, [item(1, "a", 1)]).batch();
    two.commit(&of_two).await.unwrap();
    one.commit(&cut(0, 5..6).emit(5, [item(2, "b", 1)]).batch()).await.unwrap();
    // Another start (`latest` moved on meanwhile): what was stored first holds.
    let mut three = opened(&lab).await;
    let claims = three.claim(&[asked_other(0)]).await.unwrap();
    assert!(matches!(claims[0].stored, Stored::Nothing));
    let other = |next| Move { partition: asked_other(0).partition, ..start(0, next) };
    one.reposition(&[other(1)]).await.unwrap();
    three.reposition(&[other(2)]).await.unwrap();
    assert_eq!(at(&three.claim(&[asked_other(0)]).await.unwrap()[0].stored), 1);
}

fn asked_other(index: i32) -> tidegate::sink::ClaimRequest {
    tidegate::sink::ClaimRequest { partition: PartitionId::new("other", index), topic_id: None }
}

pub(crate) async fn one_partition_out_of_place_keeps_everything_out<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 2).await;
    let batch = cut(0, 0..1)
        .emit(0, [item(1, "a", 1)])
        .dead(0, "x", false)
        .span(1, 3..4)
        .emit(3, [item(2, "b", 1)])
        .batch();
    assert_fenced(sink.commit(&batch).await, "in/1");
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 0);
    let letters = format!("SELECT count(*) FROM {}", lab.books("dead_letter"));
    assert_eq!(lab.number(&letters).await, 0);
    assert_eq!(at(&claim_one(&mut sink, 0).await), 0);
}

pub(crate) async fn a_partition_that_was_never_claimed_is_fenced<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    let batch = cut::<Item>(0, 0..1).emit(0, []).batch();
    assert_fenced(sink.commit(&batch).await, "not claimed");
    let seek = Move { expected: Some(Offset::ZERO), ..start(0, 4) };
    assert_fenced(sink.reposition(&[seek]).await, "not claimed");
}

pub(crate) async fn a_partition_added_later_starts_at_its_beginning<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 2).await;
    assert!(matches!(claim_one(&mut sink, 2).await, Stored::Added));
    sink.reposition(&[start(2, 0)]).await.unwrap();
    let batch = cut(2, 0..1).emit(0, [item(1, "a", 1)]).batch();
    sink.commit(&batch).await.unwrap();
    assert_eq!(at(&claim_one(&mut sink, 2).await), 1);
}

pub(crate) async fn a_missing_row_among_others_is_refused_by_name<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 3).await;
    let progress = lab.books("progress");
    lab.run(&format!("DELETE FROM {progress} WHERE partition = 1")).await;
    let batch = cut(1, 0..1).emit(0, [item(1, "a", 1)]).batch();
    assert_fenced(sink.commit(&batch).await, "gone or not visible");
    let claims = sink.claim(&[asked(1), asked(0)]).await.unwrap();
    assert!(
        matches!(&claims[0].stored, Stored::Refused(cause) if cause.to_string().contains("missing"))
    );
    assert_eq!(at(&claims[1].stored), 0);
}

pub(crate) async fn a_recreated_topic_is_refused_by_name<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    sink.claim(&[asked_of(0, 1), asked_of(1, 1)]).await.unwrap();
    let born = Move { topic_id: asked_of(0, 1).topic_id, ..start(0, 5) };
    sink.reposition(&[born, start(1, 5)]).await.unwrap();
    // The other row learns the topic's incarnation at its first claim that knows it.
    sink.claim(&[asked_of(1, 1)]).await.unwrap();
    for index in [0, 1] {
        let claims = sink.claim(&[asked_of(index, 2)]).await.unwrap();
        assert!(
            matches!(&claims[0].stored, Stored::Refused(cause) if cause.to_string().contains("created again"))
        );
        assert_eq!(at(&sink.claim(&[asked_of(index, 1)]).await.unwrap()[0].stored), 5);
    }
}

pub(crate) async fn a_seek_moves_progress_under_the_claim_and_counts_a_reset<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 2).await;
    let seek = |index, expected, next| Move {
        expected: Some(Offset::new(expected)),
        ..start(index, next)
    };
    sink.reposition(&[seek(1, 0, 50), seek(0, 0, 40)]).await.unwrap();
    assert_fenced(sink.reposition(&[seek(0, 0, 60)]).await, "stored progress of in/0 is 40");
    // One that is out of place keeps the other back.
    assert_fenced(sink.reposition(&[seek(0, 40, 1), seek(1, 0, 1)]).await, "in/1");
    let progress = lab.books("progress");
    let rows = format!("SELECT next_offset, reset_generation FROM {progress} ORDER BY partition");
    assert_eq!(lab.rows(&rows).await, ["40|1", "50|1"]);
    sink.commit(&cut(0, 40..41).emit(40, [item(1, "a", 1)]).batch()).await.unwrap();
    assert_eq!(lab.rows(&rows).await, ["41|1", "50|1"]);
}

pub(crate) async fn a_released_partition_is_not_ours_any_more<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 2).await;
    sink.release(&[partition(0)]).await;
    let batch = cut(0, 0..1).emit(0, [item(1, "a", 1)]).batch();
    assert_fenced(sink.commit(&batch).await, "not claimed");
    let progress = lab.books("progress");
    let owned = format!("SELECT partition FROM {progress} WHERE owner IS NOT NULL");
    assert_eq!(lab.rows(&owned).await, ["1"]);
    assert_eq!(at(&claim_one(&mut sink, 0).await), 0);
    sink.commit(&batch).await.unwrap();
    // A release of what somebody else claimed meanwhile leaves it alone.
    let mut heir = opened(&lab).await;
    claim_one(&mut heir, 0).await;
    sink.release(&[partition(0)]).await;
    let batch = cut(0, 1..2).emit(1, [item(2, "b", 1)]).batch();
    heir.commit(&batch).await.unwrap();
}

pub(crate) async fn a_reset_from_outside_fences_the_owner<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 1).await;
    let progress = lab.books("progress");
    // What a row looks like after the tools' reset to the same position: only the claim differs.
    lab.run(&format!("UPDATE {progress} SET claim = claim + 1, owner = NULL")).await;
    let batch = cut(0, 0..1).emit(0, [item(1, "a", 1)]).batch();
    assert_fenced(sink.commit(&batch).await, "claimed by another owner");
}

pub(crate) async fn spans_without_progress_are_not_stored<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 1).await;
    // Partition 1 is not even claimed.
    let batch = cut(0, 0..1).emit(0, [item(1, "a", 1)]).span(1, 4..4).batch();
    sink.commit(&batch).await.unwrap();
    sink.commit(&cut(0, 1..1).batch()).await.unwrap();
    // Progress alone is a real commit: filtered records and holes.
    sink.commit(&cut(0, 1..9).emit(3, []).batch()).await.unwrap();
    assert_eq!(at(&claim_one(&mut sink, 0).await), 9);
}

pub(crate) async fn groups_do_not_see_each_other<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 1).await;
    let mut other = lab.sink(vec![super::items()]);
    let elsewhere = tidegate::sink::SinkContext {
        group: "other".to_owned(),
        ..context(tidegate::sink::DeadLetters::Never)
    };
    TransactionalSink::open(&mut other, &elsewhere).await.unwrap();
    assert!(matches!(claim_one(&mut other, 0).await, Stored::Nothing));
    let batch = cut(0, 0..1).emit(0, [item(1, "a", 1)]).batch();
    sink.commit(&batch).await.unwrap();
}

/// Polls a commit so many times, drops it, and looks: everything or nothing is stored, a claim
/// says which, and the next commit goes on from there. Every await point is tried.
pub(crate) async fn a_dropped_commit_stores_all_or_nothing<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 1).await;
    let mut next = 0;
    let mut completed = false;
    for polls in 0..400 {
        let batch =
            cut(0, next..next + 1).emit(next, [item(next, "a", 1), item(next, "b", 1)]).batch();
        if poll_some(sink.commit(&batch), polls).await {
            completed = true;
        }
        next = at(&claim_one(&mut sink, 0).await);
        let stored = lab.number("SELECT count(*) FROM items").await;
        assert_eq!(stored, 2 * next, "after {polls} polls");
        if completed {
            break;
        }
    }
    assert!(completed, "a commit ends within 400 polls");
    assert!(next > 0);
}

/// Whether the future ended within so many polls.
async fn poll_some(future: impl Future<Output = Result<(), CommitError>>, polls: u32) -> bool {
    let mut future = Box::pin(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            result.expect("the commit succeeds");
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    false
}
