//! Promises about rows: what they become, and what happens to rows that cannot be.

use tidegate::sink::{CommitError, DeadLetters, Sink, TransactionalSink};
use tidegate_sql::Table;

use super::cut::{Cut, cut};
use super::{
    Item, Lab, assert_fenced, at, claim_from_zero, claim_one, context, culprit, item, items, open,
    opened,
};

pub(crate) async fn an_upsert_keeps_the_last_and_adds_up_totals<L: Lab>(lab: L) {
    lab.run(
        "CREATE TABLE totals (id bigint PRIMARY KEY, text text, n bigint, sum bigint NOT NULL, \
         part double precision, kept bigint DEFAULT 5)",
    )
    .await;
    let table = || {
        Table::new("totals")
            .int8("id", |i: &Item| i.id)
            .text("text", |i| &i.text)
            .int8_add("n", |_| 1)
            .int8_add("sum", |i| i.amount)
            .float8_add("part", |i| i.amount as f64 / 2.0)
            .upsert_on(["id"])
    };
    let mut sink = open(lab.sink(vec![table()])).await;
    claim_from_zero(&mut sink, 1).await;
    let batch = cut(0, 0..3)
        .emit(0, [item(1, "a", 10), item(2, "x", 1)])
        .emit(1, [item(1, "b", 20)])
        .emit(2, [item(1, "c", -5)])
        .batch();
    sink.commit(&batch).await.unwrap();
    let rows = "SELECT id, text, n, sum, part, kept FROM totals ORDER BY id";
    assert_eq!(lab.rows(rows).await, ["1|c|3|25|12.5|5", "2|x|1|1|0.5|5"]);
    lab.run("UPDATE totals SET n = NULL, part = NULL, kept = 6 WHERE id = 2").await;
    let batch = cut(0, 3..5).emit(3, [item(2, "y", 3)]).emit(4, [item(1, "d", 2)]).batch();
    sink.commit(&batch).await.unwrap();
    assert_eq!(lab.rows(rows).await, ["1|d|4|27|13.5|5", "2|y|1|4|1.5|6"]);
}

pub(crate) async fn keys_written_differently_are_one_row<L: Lab>(lab: L) {
    lab.run("CREATE TABLE prices (at timestamp with time zone, f double precision, n bigint, PRIMARY KEY (at, f))")
        .await;
    let table = Table::new("prices")
        .timestamptz("at", |nanos: &i64| chrono::DateTime::from_timestamp_nanos(*nanos))
        .float8("f", |nanos| if *nanos % 2 == 0 { 0.0 } else { -0.0 })
        .int8_add("n", |_| 1)
        .upsert_on(["f", "at"]);
    let mut sink = open(lab.sink(vec![table])).await;
    claim_from_zero(&mut sink, 1).await;
    let batch = cut(0, 0..1).emit(0, [1_000, 1_001, 1_999, 2_000]).batch();
    sink.commit(&batch).await.unwrap();
    assert_eq!(lab.rows("SELECT n FROM prices ORDER BY at").await, ["3", "1"]);
}

pub(crate) async fn each_table_takes_the_results_its_filter_holds_for<L: Lab>(lab: L) {
    lab.run("CREATE TABLE small (id bigint)").await;
    lab.run("CREATE TABLE large (id bigint)").await;
    lab.run("CREATE TABLE every (id bigint)").await;
    let table = |name| Table::new(name).int8("id", |i: &Item| i.id);
    let tables = vec![
        table("small").when(|i| i.amount < 10),
        table("large").when(|i| i.amount >= 10),
        table("every"),
    ];
    let mut sink = open(lab.sink(tables)).await;
    claim_from_zero(&mut sink, 1).await;
    let batch =
        cut(0, 0..2).emit(0, [item(1, "", 3), item(2, "", 30)]).emit(1, [item(3, "", 3)]).batch();
    sink.commit(&batch).await.unwrap();
    assert_eq!(lab.rows("SELECT id FROM small ORDER BY id").await, ["1", "3"]);
    assert_eq!(lab.rows("SELECT id FROM large").await, ["2"]);
    assert_eq!(lab.number("SELECT count(*) FROM every").await, 3);
    // One table has no room: none gets anything.
    lab.run("DELETE FROM every").await;
    lab.run("CREATE UNIQUE INDEX one ON every (id)").await;
    let batch = cut(0, 2..3).emit(2, [item(4, "", 3), item(4, "", 3)]).batch();
    assert!(matches!(sink.commit(&batch).await, Err(CommitError::Rejected(_))));
    assert_eq!(lab.number("SELECT count(*) FROM small").await, 2);
}

pub(crate) async fn one_table_may_be_named_twice<L: Lab>(lab: L) {
    lab.run("CREATE TABLE totals (id bigint PRIMARY KEY, n bigint)").await;
    // Every transfer counts for both of its accounts.
    let side = |of: fn(&Item) -> i64| {
        Table::new("totals").int8("id", of).int8_add("n", |_| 1).upsert_on(["id"])
    };
    let mut sink = open(lab.sink(vec![side(|i| i.id), side(|i| i.amount)])).await;
    claim_from_zero(&mut sink, 1).await;
    let batch = cut(0, 0..1).emit(0, [item(1, "", 2), item(2, "", 1), item(2, "", 3)]).batch();
    sink.probe(&batch).await.unwrap();
    sink.commit(&batch).await.unwrap();
    assert_fenced(sink.commit(&batch).await, "progress of in/0 is 1");
    assert_eq!(lab.rows("SELECT * FROM totals ORDER BY id").await, ["1|2", "2|3", "3|1"]);
}

pub(crate) async fn lineage_says_where_each_row_came_from<L: Lab>(lab: L) {
    lab.run(
        "CREATE TABLE lined (id bigint, source_topic text, source_partition integer, \
         source_offset bigint, source_index integer)",
    )
    .await;
    let table = Table::new("lined").int8("id", |i: &Item| i.id).lineage();
    let mut sink = open(lab.sink(vec![table])).await;
    claim_from_zero(&mut sink, 3).await;
    let batch = cut(1, 0..9)
        .emit(4, [item(1, "", 0), item(2, "", 0)])
        .span(2, 0..1)
        .emit(0, [item(3, "", 0)])
        .batch();
    sink.commit(&batch).await.unwrap();
    assert_eq!(
        lab.rows("SELECT * FROM lined ORDER BY id").await,
        ["1|in|1|4|0", "2|in|1|4|1", "3|in|2|0|0"]
    );
}

pub(crate) async fn many_rows_of_every_size_arrive_once_in_order<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 1).await;
    let (mut next, mut id) = (0, 0);
    for rows in [0, 1, 2, 5, 63, 64, 199, 200, 201, 487, 6_001] {
        let results: Vec<Item> = (id..id + rows).map(|id| item(id, "text", id * 2)).collect();
        id += rows;
        let batch = cut(0, next..next + 1).emit(next, results).batch();
        next += 1;
        sink.commit(&batch).await.unwrap();
    }
    let count = "SELECT count(*) FROM items";
    assert_eq!(lab.number(count).await, id);
    assert_eq!(lab.number(&format!("{count} WHERE amount = id * 2 AND text = 'text'")).await, id);
    assert_eq!(lab.number("SELECT count(DISTINCT id) FROM items").await, id);
}

pub(crate) async fn a_dead_letter_is_stored_with_all_it_had<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 1).await;
    let batch = cut(0, 0..8)
        .emit(1, [item(1, "a", 1)])
        .dead(3, "no\0good", false)
        .dead(7, "too large", true)
        .batch();
    sink.commit(&batch).await.unwrap();
    let letters = lab.books("dead_letter");
    let sql = format!(
        "SELECT group_id, topic, partition, \"offset\", timestamp, reason, error, attempts, \
         value_size, value_hash, length(key), \
         CASE WHEN value IS NULL THEN 'left out' ELSE 'kept' END FROM {letters} \
         ORDER BY \"offset\""
    );
    let (time, hash) = (i64::MAX, "67c196194dbfa68f");
    assert_eq!(
        lab.rows(&sql).await,
        [
            format!("group|in|0|3|{time}|process|no\u{fffd}good|2|3|{hash}|3|kept"),
            format!("group|in|0|7|{time}|process|too large|2|3|{hash}|3|left out"),
        ]
    );
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 1);
    // The same record may die again after a reset: that is no conflict.
    let again = cut::<Item>(0, 8..9).dead(8, "again", false).batch();
    sink.commit(&again).await.unwrap();
}

pub(crate) async fn a_value_that_can_be_in_no_row_names_its_record<L: Lab>(lab: L) {
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 1).await;
    let batch = cut(0, 0..6).emit(2, [item(1, "good", 1)]).emit(5, [item(2, "a\0b", 1)]).batch();
    for result in [sink.commit(&batch).await, sink.probe(&batch).await] {
        match result {
            Err(CommitError::Rejected(rejection)) => {
                let record = rejection.record.expect("the record is known");
                assert_eq!(record.to_string(), "in/0/5");
                let says = rejection.cause.to_string();
                assert!(says.contains("column \"text\"") && says.contains("NUL"), "{says}");
                assert!(!says.contains("a\0b"), "no payload in {says}");
            }
            other => panic!("rejected, got {other:?}"),
        }
    }
    // Known before anything is sent, but believed only from the owner.
    let mut heir = opened(&lab).await;
    claim_one(&mut heir, 0).await;
    assert_fenced(sink.commit(&batch).await, "claimed by another owner");
}

/// A commit is rejected, and probes find the record at `bad`.
async fn rejected_at<S>(sink: &mut S, make: impl Fn() -> Cut<Item>, bad: i64)
where
    S: TransactionalSink<Output = Item>,
{
    let batch = make().batch();
    match sink.commit(&batch).await {
        Err(CommitError::Rejected(rejection)) => {
            if let Some(record) = rejection.record {
                assert_eq!(record.offset.get(), bad);
            }
        }
        other => panic!("rejected because of {bad}, got {other:?}"),
    }
    assert_eq!(culprit(sink, &batch).await, bad);
}

pub(crate) async fn not_null_check_unique_and_foreign_key_are_bisected_to_their_record<L: Lab>(
    lab: L,
) {
    lab.run("CREATE TABLE parent (id bigint PRIMARY KEY)").await;
    lab.run("INSERT INTO parent VALUES (1), (2), (3), (4)").await;
    lab.run(
        "CREATE TABLE child (id bigint REFERENCES parent (id), text text NOT NULL UNIQUE, \
         amount bigint CHECK (amount < 100))",
    )
    .await;
    let table = Table::new("child")
        .int8("id", |i: &Item| i.id)
        .text_opt("text", |i| (i.text != "null").then_some(&*i.text))
        .int8("amount", |i| i.amount);
    let mut sink = open(lab.sink(vec![table])).await;
    claim_from_zero(&mut sink, 1).await;
    let good = || cut(0, 0..9).emit(0, [item(1, "a", 1)]).emit(1, []).emit(3, [item(2, "b", 1)]);
    let tail = |bad: Item| good().emit(5, [bad]).emit(8, [item(3, "z", 1)]);
    rejected_at(&mut sink, || tail(item(2, "null", 1)), 5).await;
    rejected_at(&mut sink, || tail(item(2, "c", 100)), 5).await;
    rejected_at(&mut sink, || tail(item(2, "b", 1)), 5).await;
    rejected_at(&mut sink, || tail(item(99, "c", 1)), 5).await;
    assert_eq!(lab.number("SELECT count(*) FROM child").await, 0);
    // The rest commits as one batch once the culprit is a dead letter.
    let rest = good().dead(5, "refused", false).emit(8, [item(3, "z", 1)]);
    sink.commit(&rest.batch()).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM child").await, 3);
    assert_eq!(at(&claim_one(&mut sink, 0).await), 9);
}

pub(crate) async fn a_deferred_constraint_is_bisected_to_its_record<L: Lab>(lab: L) {
    lab.run("CREATE TABLE parent (id bigint PRIMARY KEY)").await;
    lab.run("INSERT INTO parent VALUES (1), (2)").await;
    lab.run(
        "CREATE TABLE items (id bigint REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED, \
         text text, amount bigint)",
    )
    .await;
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 1).await;
    let batch = || {
        cut(0, 0..4)
            .emit(0, [item(1, "a", 1)])
            .emit(2, [item(9, "b", 1)])
            .emit(3, [item(2, "c", 1)])
    };
    rejected_at(&mut sink, batch, 2).await;
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 0);
    assert_eq!(at(&claim_one(&mut sink, 0).await), 0);
}

pub(crate) async fn a_total_that_overflows_in_the_table_is_rejected<L: Lab>(lab: L) {
    lab.run("CREATE TABLE totals (id bigint PRIMARY KEY, sum bigint NOT NULL)").await;
    let table = || {
        Table::new("totals")
            .int8("id", |i: &Item| i.id)
            .int8_add("sum", |i| i.amount)
            .upsert_on(["id"])
    };
    let mut sink = open(lab.sink(vec![table()])).await;
    claim_from_zero(&mut sink, 1).await;
    let first = cut(0, 0..1).emit(0, [item(1, "", i64::MAX - 1)]).batch();
    sink.commit(&first).await.unwrap();
    let in_table = || cut(0, 1..4).emit(1, [item(1, "", 1)]).emit(3, [item(1, "", 5)]);
    rejected_at(&mut sink, in_table, 3).await;
    let in_batch = || {
        let large = item(2, "", i64::MAX);
        cut(0, 1..4).emit(1, [large.clone()]).emit(3, [large])
    };
    rejected_at(&mut sink, in_batch, 3).await;
    assert_eq!(lab.number("SELECT sum FROM totals").await, i64::MAX - 1);
}

pub(crate) async fn a_rejection_of_a_fenced_writer_is_a_fence<L: Lab>(lab: L) {
    lab.run("CREATE TABLE items (id bigint PRIMARY KEY, text text, amount bigint)").await;
    let mut old = opened(&lab).await;
    claim_from_zero(&mut old, 1).await;
    let mut heir = opened(&lab).await;
    claim_one(&mut heir, 0).await;
    let batch = cut(0, 0..1).emit(0, [item(1, "a", 1)]).batch();
    heir.commit(&batch).await.unwrap();
    // The row is there because the heir did the work: that is no fault of the record.
    assert_fenced(old.commit(&batch).await, "claimed by another owner");
    assert_fenced(old.probe(&batch).await, "claimed by another owner");
}

pub(crate) async fn a_plain_sink_writes_results_and_dead_letters_without_progress<L: Lab>(lab: L) {
    lab.run("CREATE TABLE items (id bigint PRIMARY KEY, text text, amount bigint)").await;
    let mut sink = lab.sink(vec![items()]);
    Sink::open(&mut sink, &context(DeadLetters::Expected)).await.unwrap();
    let batch = cut(0, 5..9).emit(5, [item(1, "a", 1)]).dead(8, "x", false).batch();
    Sink::write(&mut sink, &batch).await.unwrap();
    let letters = format!("SELECT \"offset\" FROM {}", lab.books("dead_letter"));
    assert_eq!(lab.rows(&letters).await, ["8"]);
    let again = Sink::write(&mut sink, &batch).await;
    assert!(matches!(again, Err(tidegate::sink::SinkError::Rejected(_))), "{again:?}");
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 1);
    let progress = lab.books("progress");
    assert_eq!(lab.number(&format!("SELECT count(*) FROM {progress}")).await, 0);
    Sink::close(&mut sink).await;
}
