//! Results, dead letters and progress as whoever checks a pipeline from outside reads them back.

#[path = "../../sql/tests/common/mod.rs"]
#[allow(dead_code, unused_macros, reason = "this file uses a part of it")]
mod common;
#[allow(dead_code, reason = "this file uses a part of it")]
mod lab;

use common::cut::cut;
use common::{Item, Lab, claim_from_zero, item, open};
use lab::File;
use tidegate::record::{Lineage, Offset};
use tidegate::sink::TransactionalSink;
use tidegate_sqlite::{Contents, ReadTable, Readback, Table};

fn lined() -> Table<Item> {
    Table::new("lined").int8("id", |item: &Item| item.id).text("text", |item| &item.text).lineage()
}

fn read_lined() -> ReadTable {
    ReadTable::new("lined").expect("a name")
}

async fn readback(lab: &File) -> Readback {
    Readback::open_with_prefix(lab.path(), "tidegate_").await.expect("the file opens")
}

async fn rows(file: &mut Readback, table: &ReadTable) -> Vec<(Option<String>, Option<String>)> {
    let mut rows = Vec::new();
    let each = |row: &tidegate_sqlite::ReadRow<'_>| {
        rows.push((row.lineage.map(|at| at.to_string()), row.contents.map(str::to_owned)));
    };
    file.rows(table, each).await.expect("the rows are read");
    rows.sort();
    rows
}

const CREATE: &str = "CREATE TABLE lined (id integer, text text, source_topic text, \
    source_partition integer, source_offset integer, source_index integer)";

#[tokio::test]
async fn what_a_sink_stored_is_read_back_by_coordinates() {
    let lab = File::new().await;
    let mut file = readback(&lab).await;
    assert_eq!(file.progress("group").await.expect("no tables yet"), []);
    file.dead_letters("group", |_| panic!("no tables yet")).await.expect("read");
    assert!(!file.check(&read_lined()).await.expect("no table yet"));

    lab.run(CREATE).await;
    let mut sink = open(lab.sink(vec![lined()])).await;
    claim_from_zero(&mut sink, 2).await;
    let batch =
        cut(1, 0..9).emit(4, [item(1, "a", 0), item(2, "b", 0)]).dead(6, "no", false).batch();
    sink.commit(&batch).await.expect("committed");
    lab.run("INSERT INTO lined (id) VALUES (9)").await;

    assert!(file.check(&read_lined()).await.expect("it can be read"));
    let nobody = (None, None);
    let at = |text: &str| (Some(text.to_owned()), None);
    assert_eq!(rows(&mut file, &read_lined()).await, [nobody, at("in/1/4/0"), at("in/1/4/1")]);
    let progress = file.progress("group").await.expect("it is read");
    let progress: Vec<_> = progress.iter().map(|row| row.next).collect();
    assert_eq!(progress, [0, 9]);
    let mut dead = Vec::new();
    file.dead_letters("group", |at| dead.push(at.to_string())).await.expect("they are read");
    assert_eq!(dead, ["in/1/6/0"]);
    file.dead_letters("another", |at| panic!("{at}")).await.expect("another's");
}

#[tokio::test]
async fn a_snapshot_shows_one_moment() {
    let lab = File::new().await;
    lab.run("PRAGMA journal_mode = WAL").await;
    lab.run(CREATE).await;
    let mut file = readback(&lab).await;
    file.snapshot().await.expect("it begins");
    assert_eq!(rows(&mut file, &read_lined()).await.len(), 0);
    lab.run("INSERT INTO lined VALUES (1, 'a', 'in', 0, 0, 0)").await;
    assert_eq!(rows(&mut file, &read_lined()).await.len(), 0, "the same moment");
    file.snapshot().await.expect("it begins anew");
    assert_eq!(rows(&mut file, &read_lined()).await.len(), 1);
}

#[tokio::test]
async fn contents_differ_where_values_do_and_nowhere_else() {
    let lab = File::new().await;
    lab.run("CREATE TABLE lined (v, w, t text, p integer, o integer, i integer, g AS (w) STORED)")
        .await;
    let values = [
        "NULL",
        "''",
        "x''",
        "'a'",
        "x'61'",
        "1",
        "'1'",
        "1.0",
        "0.1",
        "0.10000000000000002",
        "char(97, 0, 98)",
        "char(97, 0, 99)",
        "'a,b'",
    ];
    for (offset, value) in values.iter().enumerate() {
        lab.run(&format!("INSERT INTO lined VALUES ({value}, 'same', 'in', 0, {offset}, 0)")).await;
        lab.run(&format!("INSERT INTO lined VALUES ({value}, 'same', 'in', 1, {offset}, 0)")).await;
    }
    let mut table = read_lined();
    table.set_lineage(["t", "p", "o", "i"].map(str::to_owned));
    table.set_contents(Contents::Read);
    let mut file = readback(&lab).await;
    let rows = rows(&mut file, &table).await;
    let (one, other) = rows.split_at(values.len());
    let contents = |rows: &[(Option<String>, Option<String>)]| -> Vec<String> {
        rows.iter().map(|(_, contents)| contents.clone().expect("they were asked for")).collect()
    };
    assert_eq!(contents(one), contents(other), "equal values");
    let mut different = contents(one);
    different.sort();
    different.dedup();
    assert_eq!(different.len(), values.len(), "{:?}", contents(one));

    let at = |offset| Lineage { topic: "in", partition: 0, offset: Offset::new(offset), index: 0 };
    let columns = file.columns(&table, &at(3)).await.expect("it is read");
    let names: Vec<&str> = columns.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["v", "w"], "neither coordinates nor what the database makes itself");
    assert_eq!(columns[1], file.columns(&table, &at(4)).await.expect("it is read")[1]);
    assert_ne!(columns[0], file.columns(&table, &at(4)).await.expect("it is read")[0]);
    assert_eq!(file.columns(&table, &at(99)).await.expect("nobody is there"), []);
}
