//! Results, dead letters and progress as whoever checks a pipeline from outside reads them back.

#[path = "../../sql/tests/common/mod.rs"]
#[allow(dead_code, unused_macros, reason = "this file uses a part of it")]
mod common;
#[allow(dead_code, reason = "this file uses a part of it")]
mod lab;

use common::cut::cut;
use common::{Item, Lab, claim_from_zero, item, open};
use lab::Database;
use tidegate::record::{Lineage, Offset};
use tidegate::sink::TransactionalSink;
use tidegate_postgres::{Contents, ProgressOptions, ReadRow, ReadTable, Readback, Table};

fn lined() -> Table<Item> {
    Table::new("lined").int8("id", |item: &Item| item.id).text("text", |item| &item.text).lineage()
}

fn read_lined() -> ReadTable {
    ReadTable::new("lined").expect("a name")
}

async fn readback(lab: &Database) -> Readback {
    ProgressOptions::new(&lab.url()).readback().await.expect("the database answers")
}

async fn rows(database: &mut Readback, table: &ReadTable) -> Vec<(Option<String>, Option<String>)> {
    let mut rows = Vec::new();
    let each = |row: &ReadRow<'_>| {
        rows.push((row.lineage.map(|at| at.to_string()), row.contents.map(str::to_owned)));
    };
    database.rows(table, each).await.expect("the rows are read");
    rows
}

const CREATE: &str = "CREATE TABLE lined (id bigint, text text, source_topic text, \
    source_partition integer, source_offset bigint, source_index integer, seq bigserial, \
    own bigint GENERATED ALWAYS AS IDENTITY, twice bigint GENERATED ALWAYS AS (id * 2) STORED)";

#[tokio::test]
async fn what_a_sink_stored_is_read_back_by_coordinates() {
    let lab = Database::new().await;
    let mut database = readback(&lab).await;
    assert_eq!(database.progress("group").await.expect("no tables yet"), []);
    database.dead_letters("group", |_| panic!("no tables yet")).await.expect("read");
    assert!(!database.check(&read_lined()).await.expect("no table yet"));

    lab.run(CREATE).await;
    let mut sink = open(lab.sink(vec![lined()])).await;
    claim_from_zero(&mut sink, 2).await;
    let batch =
        cut(1, 0..9).emit(4, [item(2, "a", 0), item(1, "b", 0)]).dead(6, "no", false).batch();
    sink.commit(&batch).await.expect("committed");
    lab.run("INSERT INTO lined (id) VALUES (9)").await;

    assert!(database.check(&read_lined()).await.expect("it can be read"));
    let at = |text: &str| (Some(text.to_owned()), None);
    for (column, expected) in [
        ("seq", [at("in/1/4/0"), at("in/1/4/1"), (None, None)]),
        ("id", [at("in/1/4/1"), at("in/1/4/0"), (None, None)]),
    ] {
        let mut table = read_lined();
        table.order_by(column);
        assert_eq!(rows(&mut database, &table).await, expected, "by {column}");
    }
    let progress = database.progress("group").await.expect("it is read");
    let progress: Vec<_> = progress.iter().map(|row| row.next).collect();
    assert_eq!(progress, [0, 9]);
    let mut dead = Vec::new();
    database.dead_letters("group", |at| dead.push(at.to_string())).await.expect("they are read");
    assert_eq!(dead, ["in/1/6/0"]);
    database.dead_letters("another", |at| panic!("{at}")).await.expect("another's");
}

#[tokio::test]
async fn a_snapshot_shows_one_moment() {
    let lab = Database::new().await;
    lab.run(CREATE).await;
    let mut database = readback(&lab).await;
    let insert = "INSERT INTO lined VALUES (1, 'a', 'in', 0, 0, 0)";
    database.snapshot().await.expect("it begins");
    assert_eq!(rows(&mut database, &read_lined()).await.len(), 0);
    lab.run(insert).await;
    assert_eq!(rows(&mut database, &read_lined()).await.len(), 0, "the same moment");
    database.snapshot().await.expect("it begins anew");
    assert_eq!(rows(&mut database, &read_lined()).await.len(), 1);
}

#[tokio::test]
async fn contents_differ_where_values_do_and_not_by_what_the_database_makes_itself() {
    let lab = Database::new().await;
    lab.run(CREATE).await;
    let texts = ["NULL", "''", "'a'", "'a,b'", "'\"a\"'", "'(a)'"];
    for (offset, text) in texts.iter().enumerate() {
        for partition in [0, 1] {
            let insert = "INSERT INTO lined (id, text, source_topic, source_partition, \
                          source_offset, source_index)";
            let values = format!("VALUES (1, {text}, 'in', {partition}, {offset}, 0)");
            lab.run(&format!("{insert} {values}")).await;
        }
    }
    let mut table = read_lined();
    table.set_contents(Contents::Read);
    table.ignore(&["seq".to_owned()]);
    let mut database = readback(&lab).await;
    let mut all = rows(&mut database, &table).await;
    all.sort();
    let contents: Vec<String> =
        all.into_iter().map(|(_, contents)| contents.expect("they were asked for")).collect();
    let (one, other) = contents.split_at(texts.len());
    assert_eq!(one, other, "equal values");
    let mut different = one.to_vec();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), texts.len(), "{one:?}");

    let at = |offset| Lineage { topic: "in", partition: 0, offset: Offset::new(offset), index: 0 };
    let columns = database.columns(&table, &at(0)).await.expect("it is read");
    let names: Vec<&str> = columns.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["id", "text"]);
    let others = database.columns(&table, &at(1)).await.expect("it is read");
    assert_eq!((columns[0] == others[0], columns[1] == others[1]), (true, false));
    assert_eq!(database.columns(&table, &at(99)).await.expect("nobody is there"), []);
}

#[tokio::test]
async fn a_table_that_does_not_say_what_it_was_made_from_is_refused() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE lined (id bigint, source_topic text)").await;
    let mut database = readback(&lab).await;
    let problem = database.check(&read_lined()).await.expect_err("it has no lineage");
    assert!(problem.is_configuration() && problem.to_string().contains("source_partition"));
    let nobody = ReadTable::new("nobody").expect("a name");
    let problem = database.rows(&nobody, |_| {}).await.expect_err("it does not exist");
    assert!(problem.to_string().contains("table nobody: does not exist"), "{problem}");
}
