//! Promises about the user's own SQL in the transaction of a batch.

use tidegate::batch::Batch;
use tidegate::sink::{CommitError, DeadLetters, Sink, TransactionalSink};

use super::cut::cut;
use super::{Item, Lab, assert_fenced, at, claim_from_zero, claim_one, context, item, items, open};

async fn tables<L: Lab>(lab: &L) {
    lab.run("CREATE TABLE items (id bigint, text text, amount bigint)").await;
    lab.run("CREATE TABLE runs (n bigint PRIMARY KEY)").await;
    lab.run("INSERT INTO runs VALUES (0)").await;
}

fn one() -> Batch<Item> {
    cut(0, 0..1).emit(0, [item(1, "a", 1)]).batch()
}

pub(crate) async fn own_sql_is_stored_with_the_batch_or_not_at_all<L: Lab>(lab: L) {
    tables(&lab).await;
    let sql = "UPDATE runs SET n = n + (SELECT count(*) FROM items)";
    let mut sink = open(lab.writes(vec![items()], sql)).await;
    claim_from_zero(&mut sink, 1).await;
    sink.probe(&one()).await.unwrap();
    assert_eq!(lab.rows("SELECT n FROM runs").await, ["0"]);
    // It sees the rows that the tables were given before it.
    sink.commit(&one()).await.unwrap();
    assert_eq!(lab.rows("SELECT n FROM runs").await, ["1"]);
    assert_fenced(sink.commit(&one()).await, "progress of in/0 is 1");
    assert_eq!(lab.rows("SELECT n FROM runs").await, ["1"]);
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 1);
}

pub(crate) async fn own_sql_that_refuses_the_data_is_a_rejection<L: Lab>(lab: L) {
    tables(&lab).await;
    let sql = "INSERT INTO runs SELECT id FROM items WHERE id < 9";
    let mut sink = open(lab.writes(vec![items()], sql)).await;
    claim_from_zero(&mut sink, 1).await;
    let batch = || {
        cut(0, 0..3)
            .emit(0, [item(9, "a", 1)])
            .emit(1, [item(0, "b", 1)])
            .emit(2, [item(9, "c", 1)])
            .batch()
    };
    assert!(matches!(sink.commit(&batch()).await, Err(CommitError::Rejected(_))));
    assert_eq!(super::culprit(&mut sink, &batch()).await, 1);
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 0);
}

pub(crate) async fn own_sql_that_is_wrong_stops_the_pipeline<L: Lab>(lab: L) {
    tables(&lab).await;
    let mut sink = open(lab.writes(vec![items()], "UPDATE nowhere SET n = 1")).await;
    claim_from_zero(&mut sink, 1).await;
    match sink.commit(&one()).await {
        Err(CommitError::Aborted(cause)) => {
            assert!(cause.is_for_operator() && cause.to_string().contains("nowhere"), "{cause}");
        }
        other => panic!("aborted for the operator, got {other:?}"),
    }
}

pub(crate) async fn own_sql_that_ends_the_transaction_is_noticed_and_stores_no_progress<L: Lab>(
    lab: L,
) {
    tables(&lab).await;
    for sql in ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "ROLLBACK; BEGIN"] {
        let mut sink = open(lab.writes(vec![items()], sql)).await;
        claim_from_zero(&mut sink, 1).await;
        match sink.commit(&one()).await {
            Err(CommitError::Aborted(cause)) => {
                let says = cause.to_string();
                assert!(cause.is_for_operator(), "{sql}: {says}");
                assert!(says.contains("`write_with` ended the transaction"), "{sql}: {says}");
            }
            other => panic!("{sql} is noticed, got {other:?}"),
        }
        assert_eq!(at(&claim_one(&mut sink, 0).await), 0, "{sql}");
    }
}

pub(crate) async fn own_sql_alone_needs_no_table<L: Lab>(lab: L) {
    tables(&lab).await;
    let mut sink = open(lab.writes::<Item>(vec![], "UPDATE runs SET n = n + 1")).await;
    claim_from_zero(&mut sink, 1).await;
    sink.commit(&cut(0, 0..2).dead(1, "x", false).batch()).await.unwrap();
    assert_eq!(at(&claim_one(&mut sink, 0).await), 2);
    let mut plain = lab.writes::<Item>(vec![], "UPDATE runs SET n = n + 1");
    Sink::open(&mut plain, &context(DeadLetters::Never)).await.unwrap();
    Sink::write(&mut plain, &one()).await.unwrap();
    assert_eq!(lab.rows("SELECT n FROM runs").await, ["2"]);
}
