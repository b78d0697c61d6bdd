//! What is SQLite's own: the file, its one writer, its types.

use std::path::PathBuf;
use std::time::Duration;

#[path = "../../sql/tests/common/mod.rs"]
#[allow(dead_code, unused_macros, reason = "this file uses a part of it")]
mod common;
#[allow(dead_code, reason = "this file uses a part of it")]
mod lab;

use chrono::DateTime;
use common::cut::cut;
use common::{
    Item, Lab, assert_stops, at, claim_from_zero, claim_one, context, item, items, open, opened,
};
use lab::File;
use rust_decimal::Decimal;
use serde_json::json;
use tidegate::record::{Offset, PartitionId};
use tidegate::sink::{CommitError, DeadLetters, SinkError, TransactionalSink};
use tidegate_sqlite::{Liveness, Progress, Sqlite, Table};
use uuid::Uuid;

#[tokio::test]
async fn a_path_that_names_no_file_is_refused() {
    for (path, says) in [
        (PathBuf::from(":memory:"), "progress in memory is lost"),
        (PathBuf::from(""), "names no file"),
        (PathBuf::from("/no/such/place.db"), "does not exist"),
    ] {
        let mut sink = Sqlite::open(path).into(items());
        let refused = TransactionalSink::open(&mut sink, &context(DeadLetters::Never)).await;
        assert_stops(refused, says);
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let lab = File::new().await;
    std::fs::write(lab.path(), [b'x'; 4096]).expect("written");
    let mut sink = lab.sink(vec![items()]);
    let refused = TransactionalSink::open(&mut sink, &context(DeadLetters::Never)).await;
    assert_stops(refused, "not a database");
}

#[tokio::test]
async fn the_file_is_put_into_wal_mode() {
    let lab = File::new().await;
    opened(&lab).await;
    assert_eq!(lab.rows("PRAGMA journal_mode").await, ["wal"]);
}

#[tokio::test]
async fn a_writer_that_takes_too_long_delays_the_batch_and_loses_nothing() {
    let lab = File::new().await;
    opened(&lab).await;
    let sink = lab.sink(vec![items()]).busy_timeout(Duration::from_millis(200));
    let mut sink = open(sink).await;
    claim_from_zero(&mut sink, 1).await;
    let mut other = lab.connect().await;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.expect("the lock");
    let batch = cut(0, 0..1).emit(0, [item(1, "a", 1)]).batch();
    match sink.commit(&batch).await {
        Err(CommitError::Aborted(cause)) => assert!(!cause.is_for_operator(), "{cause}"),
        other => panic!("aborted, got {other:?}"),
    }
    let claim = sink.claim(&[common::asked(0)]).await;
    assert!(matches!(claim, Err(SinkError::Retry(_))), "{claim:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.expect("released");
    sink.commit(&batch).await.expect("the same batch again");
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 1);
}

#[tokio::test]
async fn a_claim_waits_for_the_writer_and_sees_what_it_stored() {
    let lab = File::new().await;
    let mut old = opened(&lab).await;
    claim_from_zero(&mut old, 1).await;
    let mut heir = opened(&lab).await;
    let mut writer = lab.connect().await;
    sqlx::raw_sql("BEGIN IMMEDIATE; UPDATE tidegate_progress SET next_offset = 7")
        .execute(&mut writer)
        .await
        .expect("the lock");
    let claim = tokio::spawn(async move { at(&claim_one(&mut heir, 0).await) });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!claim.is_finished(), "it waits");
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.expect("committed");
    assert_eq!(claim.await.expect("claimed"), 7);
}

#[tokio::test]
async fn the_statements_of_two_writers_never_mix() {
    let lab = File::new().await;
    let (mut one, mut two) = (opened(&lab).await, opened(&lab).await);
    claim_from_zero(&mut one, 2).await;
    assert_eq!(at(&claim_one(&mut two, 1).await), 0);
    let write = |mut sink: Sqlite<Item>, index| async move {
        for next in 0..50 {
            let results = [item(next, "a", 1), item(next, "b", 1)];
            let batch = cut(index, next..next + 1).emit(next, results).batch();
            sink.commit(&batch).await.expect("committed");
        }
    };
    tokio::join!(write(one, 0), write(two, 1));
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 200);
    assert_eq!(lab.number("SELECT sum(next_offset) FROM tidegate_progress").await, 100);
}

#[derive(Clone)]
struct Row {
    float8: f64,
    nanos: i64,
}

#[tokio::test]
async fn every_type_is_stored_as_the_table_in_the_docs_says() {
    let lab = File::new().await;
    lab.run(
        "CREATE TABLE types (b INTEGER, i INTEGER, f REAL, n TEXT, t TEXT, y BLOB, at TEXT, \
         micros INTEGER, u TEXT, raw BLOB, j TEXT, a TEXT)",
    )
    .await;
    let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    let at = |row: &Row| DateTime::from_timestamp_nanos(row.nanos);
    let table = Table::new("types")
        .bool("b", |_: &Row| true)
        .int4("i", |_| -7)
        .float8("f", |row| row.float8)
        .numeric("n", |_| Decimal::new(-1230, 2))
        .text("t", |_| "text")
        .bytea("y", |_| &[0, 255])
        .timestamptz("at", at)
        .timestamptz("micros", at)
        .uuid("u", move |_| id)
        .uuid("raw", move |_| id)
        .jsonb_owned("j", |_| json!({"k": [1, null]}))
        .text_array("a", |_| &[]);
    let mut sink = open(lab.sink(vec![table])).await;
    claim_from_zero(&mut sink, 1).await;
    let row = |float8| Row { float8, nanos: 1_714_564_800_123_456_789 };
    sink.commit(&cut(0, 0..1).emit(0, [row(1.5)]).batch()).await.expect("committed");
    let stored = "SELECT b, i, f, n, t, hex(y), at, micros, u, hex(raw), j, a FROM types";
    assert_eq!(
        lab.rows(stored).await,
        ["1|-7|1.5|-12.30|text|00FF|2024-05-01T12:00:00.123456Z|1714564800123456|\
          01234567-89ab-cdef-0123-456789abcdef|0123456789ABCDEF0123456789ABCDEF|\
          {\"k\":[1,null]}|[]"]
    );
    match sink.commit(&cut(0, 1..2).emit(1, [row(f64::NAN)]).batch()).await {
        Err(CommitError::Rejected(rejection)) => {
            assert!(rejection.cause.to_string().contains("NaN"), "{}", rejection.cause);
            assert_eq!(rejection.record.expect("known").offset.get(), 1);
        }
        other => panic!("rejected, got {other:?}"),
    }
}

#[tokio::test]
async fn decimals_cannot_be_added_up_and_are_refused() {
    let lab = File::new().await;
    lab.run("CREATE TABLE ledger (account TEXT PRIMARY KEY, balance TEXT NOT NULL)").await;
    let table = Table::new("ledger")
        .text("account", |_: &Decimal| "a")
        .numeric_add("balance", |amount| *amount)
        .upsert_on(["account"]);
    let mut sink = lab.sink(vec![table]);
    let refused = TransactionalSink::open(&mut sink, &context(DeadLetters::Never)).await;
    assert_stops(refused, "cannot add decimals exactly");
}

#[tokio::test]
async fn a_key_whose_different_texts_are_equal_is_refused() {
    let lab = File::new().await;
    lab.run("CREATE TABLE items (text TEXT COLLATE NOCASE PRIMARY KEY)").await;
    let table = Table::new("items").text("text", |i: &Item| &i.text).upsert_on(["text"]);
    let mut sink = lab.sink(vec![table]);
    let refused = TransactionalSink::open(&mut sink, &context(DeadLetters::Never)).await;
    assert_stops(refused, "no unique index on (text)");
}

#[tokio::test]
async fn a_decimal_is_no_key_because_it_is_stored_as_text() {
    let lab = File::new().await;
    lab.run("CREATE TABLE rates (rate TEXT PRIMARY KEY)").await;
    let table = Table::new("rates").numeric("rate", |rate: &Decimal| *rate).upsert_on(["rate"]);
    let mut sink = lab.sink(vec![table]);
    let refused = TransactionalSink::open(&mut sink, &context(DeadLetters::Never)).await;
    assert_stops(refused, "1.0 is not 1.00");
}

#[tokio::test]
async fn a_part_of_a_primary_key_is_no_key() {
    let lab = File::new().await;
    let table = || Table::new("items").int8("id", |i: &Item| i.id).upsert_on(["id"]);
    lab.run("CREATE TABLE items (id INTEGER, text TEXT, PRIMARY KEY (id, text))").await;
    let mut sink = lab.sink(vec![table()]);
    let refused = TransactionalSink::open(&mut sink, &context(DeadLetters::Never)).await;
    assert_stops(refused, "no unique index on (id)");
    lab.run("DROP TABLE items; CREATE TABLE items (id INTEGER PRIMARY KEY, text TEXT)").await;
    open(lab.sink(vec![table()])).await;
}

#[tokio::test]
async fn a_trigger_that_refuses_a_row_is_a_rejection_even_if_it_rolls_back_by_itself() {
    for action in ["ABORT", "ROLLBACK", "FAIL"] {
        let lab = File::new().await;
        let mut sink = opened(&lab).await;
        lab.run(&format!(
            "CREATE TRIGGER refuse BEFORE INSERT ON items WHEN NEW.id = 13 \
             BEGIN SELECT RAISE({action}, 'unlucky'); END"
        ))
        .await;
        claim_from_zero(&mut sink, 1).await;
        let batch = cut(0, 0..3)
            .emit(0, [item(1, "a", 1)])
            .emit(1, [item(13, "b", 1)])
            .emit(2, [item(3, "c", 1)])
            .batch();
        let result = sink.commit(&batch).await;
        assert!(matches!(result, Err(CommitError::Rejected(_))), "{action}: {result:?}");
        assert_eq!(common::culprit(&mut sink, &batch).await, 1, "{action}");
        assert_eq!(lab.number("SELECT count(*) FROM items").await, 0, "{action}");
        assert_eq!(at(&claim_one(&mut sink, 0).await), 0, "{action}");
    }
}

#[tokio::test]
async fn tools_see_progress_and_set_it_against_an_owner() {
    let lab = File::new().await;
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 2).await;
    sink.commit(&cut(0, 0..3).emit(0, [item(1, "a", 1)]).batch()).await.expect("committed");
    let mut progress = Progress::open(lab.path()).await.expect("opened");
    assert_eq!(progress.groups().await.expect("groups"), ["group"]);
    let rows = progress.rows("group").await.expect("rows");
    let shown: Vec<_> = rows.iter().map(|row| (row.partition.to_string(), row.next)).collect();
    assert_eq!(shown, [("in/0".to_owned(), 3), ("in/1".to_owned(), 0)]);
    match progress.liveness("group").await.expect("liveness") {
        Liveness::Unknown(Some(changed)) => {
            assert!(changed.elapsed().expect("in the past") < Duration::from_secs(60));
        }
        other => panic!("a file does not know, got {other:?}"),
    }
    let set =
        [(PartitionId::new("in", 0), Offset::new(1)), (PartitionId::new("new", 0), Offset::new(9))];
    progress.set("group", &set).await.expect("set");
    let again = cut(0, 3..4).emit(3, [item(1, "a", 1)]).batch();
    common::assert_fenced(sink.commit(&again).await, "claimed by another owner");
    let rows = progress.rows("group").await.expect("rows");
    let shown: Vec<_> =
        rows.iter().map(|row| (row.next, row.claim, row.reset_generation)).collect();
    assert_eq!(shown, [(1, 2, 1), (0, 1, 0), (9, 1, 1)]);
}
