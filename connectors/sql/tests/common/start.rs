//! Promises about what is refused before anything is consumed.

use tidegate::sink::{DeadLetters, Sink, SinkContext, TransactionalSink};
use tidegate_sql::Table;

use super::cut::cut;
use super::{Item, Lab, assert_stops, claim_from_zero, context, item, items, open};

pub(crate) async fn a_table_that_does_not_fit_is_refused_before_anything_is_consumed<L: Lab>(
    lab: L,
) {
    let expected = context(DeadLetters::Expected);
    let refused = async |table: Table<Item>, says: &str| {
        let mut sink = lab.sink(vec![table]);
        let message = assert_stops(TransactionalSink::open(&mut sink, &expected).await, says);
        assert!(message.starts_with("table items: "), "{message}");
    };
    refused(items(), "does not exist").await;
    lab.run("CREATE VIEW items AS SELECT 1 AS id").await;
    refused(items(), "not a table").await;
    lab.run("DROP VIEW items").await;
    lab.run("CREATE TABLE items (id bigint NOT NULL, text text)").await;
    refused(items(), "column \"amount\" does not exist").await;
    lab.run("ALTER TABLE items ADD COLUMN amount text").await;
    refused(items(), "column \"amount\" has type ").await;
    lab.run("ALTER TABLE items DROP COLUMN amount").await;
    lab.run("ALTER TABLE items ADD COLUMN amount bigint").await;
    let upsert = || items().upsert_on(["id"]);
    refused(upsert(), "no unique index on (id)").await;
    lab.run("CREATE UNIQUE INDEX partial ON items (id) WHERE id > 5").await;
    refused(upsert(), "no unique index on (id)").await;
    lab.run("CREATE UNIQUE INDEX whole ON items (text, id)").await;
    open(lab.sink(vec![items().upsert_on(["id", "text"])])).await;
    let narrow = Table::new("items").text("text", |i: &Item| &i.text);
    refused(narrow, "column \"id\" is NOT NULL without a default").await;
    refused(Table::new("items").upsert_on(["x"]), "has no columns").await;
    let mut nothing = lab.sink::<Item>(vec![]);
    assert_stops(Sink::open(&mut nothing, &expected).await, "writes to no table");
}

const ITEMS: &str = "CREATE TABLE IF NOT EXISTS items (id bigint, text text, amount bigint)";

pub(crate) async fn setup_runs_at_every_start_before_the_tables_are_looked_at<L: Lab>(lab: L) {
    let sql = [ITEMS, "INSERT INTO items VALUES (1, 'a', 1); INSERT INTO items VALUES (2, 'b', 2)"];
    for starts in 1..=2 {
        open(lab.set_up(vec![items()], &sql)).await;
        assert_eq!(lab.number("SELECT count(*) FROM items").await, 2 * starts);
    }
}

pub(crate) async fn a_setup_that_is_refused_leaves_nothing_and_is_named<L: Lab>(lab: L) {
    let mut sink = lab.set_up(vec![items()], &[ITEMS, "INSERT INTO nowhere VALUES (1)"]);
    let refused = TransactionalSink::open(&mut sink, &context(DeadLetters::Expected)).await;
    let message = assert_stops(refused, "nowhere");
    assert!(message.starts_with("setup: "), "{message}");
    assert!(!lab.has("items").await, "it is one transaction");
}

pub(crate) async fn many_that_start_at_once_set_up_one_after_another<L: Lab>(lab: L) {
    // Run side by side, `IF NOT EXISTS` can fail, and a count can miss what others add.
    let sql = [ITEMS, "INSERT INTO items SELECT count(*), 'x', 0 FROM items"];
    let starts = (0..6).map(|_| open(lab.set_up(vec![items()], &sql)));
    futures::future::join_all(starts).await;
    assert_eq!(lab.number("SELECT count(DISTINCT id) FROM items").await, 6);
}

pub(crate) async fn missing_bookkeeping_is_created_or_its_statements_are_printed<L: Lab>(lab: L) {
    lab.run("CREATE TABLE items (id bigint, text text, amount bigint)").await;
    let mut manual = lab.manual(vec![items()]);
    let refused = TransactionalSink::open(&mut manual, &context(DeadLetters::Expected)).await;
    let message = assert_stops(refused, "tables_manual");
    assert!(message.contains("CREATE TABLE IF NOT EXISTS"), "{message}");
    // The printed statements are the remedy.
    let statements = message.split_once("create them:\n").expect("statements").1;
    lab.run(statements.trim_end_matches(')')).await;
    let mut sink = open(lab.manual(vec![items()])).await;
    claim_from_zero(&mut sink, 1).await;
    // Once more, allowed to create: everything is there already.
    open(lab.sink(vec![items()])).await;
}

pub(crate) async fn bookkeeping_of_another_version_is_refused<L: Lab>(lab: L) {
    open_items(&lab).await;
    lab.run(&format!("UPDATE {} SET version = 99", lab.books("version"))).await;
    let mut sink = lab.sink(vec![items()]);
    let refused = TransactionalSink::open(&mut sink, &context(DeadLetters::Never)).await;
    assert_stops(refused, "have version 99");
}

async fn open_items<L: Lab>(lab: &L) -> L::Sink<Item> {
    super::opened(lab).await
}

pub(crate) async fn a_policy_with_dead_letters_needs_their_table<L: Lab>(lab: L) {
    lab.run("CREATE TABLE items (id bigint, text text, amount bigint)").await;
    let mut sink = lab.no_letters(vec![items()]);
    let refused = TransactionalSink::open(&mut sink, &context(DeadLetters::Expected)).await;
    assert_stops(refused, "without_dead_letters");
    TransactionalSink::open(&mut sink, &context(DeadLetters::Never)).await.unwrap();
    claim_from_zero(&mut sink, 1).await;
    // A dead letter that comes all the same is not lost: nothing is stored and it says why.
    let result = sink.commit(&cut(0, 0..1).dead(0, "x", false).batch()).await;
    match result {
        Err(tidegate::sink::CommitError::Aborted(cause)) => assert!(cause.is_for_operator()),
        other => panic!("aborted for the operator, got {other:?}"),
    }
}

pub(crate) async fn names_with_quotes_and_capitals_work<L: Lab>(lab: L) {
    lab.run("CREATE TABLE \"Or\"\"der; DROP\" (\"Sel\"\"ect\" bigint PRIMARY KEY, \"Ä.n\" bigint)")
        .await;
    let table = Table::new("\"Or\"\"der; DROP\"")
        .int8("Sel\"ect", |i: &Item| i.id)
        .int8_add("Ä.n", |i| i.amount)
        .upsert_on(["Sel\"ect"]);
    let mut sink = open(lab.sink(vec![table])).await;
    claim_from_zero(&mut sink, 1).await;
    for next in [0, 1] {
        let batch = cut(0, next..next + 1).emit(next, [item(7, "", 2)]).batch();
        sink.commit(&batch).await.unwrap();
    }
    assert_eq!(lab.rows("SELECT * FROM \"Or\"\"der; DROP\"").await, ["7|4"]);
}

pub(crate) async fn a_group_without_a_name_is_refused<L: Lab>(lab: L) {
    lab.run("CREATE TABLE items (id bigint, text text, amount bigint)").await;
    for group in ["", "a\0b"] {
        let mut sink = lab.sink(vec![items()]);
        let nameless = SinkContext { group: group.to_owned(), ..context(DeadLetters::Never) };
        assert_stops(TransactionalSink::open(&mut sink, &nameless).await, "group: must not");
    }
}
