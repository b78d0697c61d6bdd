//! What PostgreSQL refuses, or waits for, before anything is consumed.

#[path = "../../sql/tests/common/mod.rs"]
#[allow(dead_code, unused_macros, reason = "this file uses a part of it")]
mod common;
#[allow(dead_code, reason = "this file uses a part of it")]
mod lab;

use std::time::Duration;

use common::cut::cut;
use common::{Item, Lab, assert_stops, claim_from_zero, context, item, items, open, opened};
use lab::Database;
use tidegate::record::{Offset, PartitionId};
use tidegate::sink::{CommitError, DeadLetters, SinkContext, SinkError, TransactionalSink};
use tidegate_postgres::{Liveness, Postgres, Progress, Table};
use uuid::Uuid;

async fn refused(sink: Postgres<Item>, says: &str) -> String {
    let mut sink = sink;
    let opened = TransactionalSink::open(&mut sink, &context(DeadLetters::Expected)).await;
    assert_stops(opened, says)
}

/// A user with no rights, who goes with the database.
async fn user(lab: &Database) -> String {
    let name = format!("tidegate_{}", Uuid::new_v4().simple());
    lab.run(&format!("CREATE ROLE {name} LOGIN PASSWORD '{name}'")).await;
    name
}

async fn drop_user(lab: &Database, name: &str) {
    lab.run(&format!("DROP OWNED BY {name}; DROP ROLE {name}")).await;
}

#[tokio::test]
async fn each_missing_right_is_refused_by_name_until_it_is_granted() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE items (id bigint PRIMARY KEY, text text, amount bigint)").await;
    let user = user(&lab).await;
    let upsert = || {
        let table = Table::new("items")
            .int8("id", |i: &Item| i.id)
            .text("text", |i| &i.text)
            .int8_add("amount", |i| i.amount)
            .upsert_on(["id"]);
        Postgres::connect(&lab.url_as(&user)).into(table)
    };
    let message = refused(upsert(), "bookkeeping tables are missing").await;
    assert!(
        message.contains("permission denied") && message.contains("CREATE SCHEMA"),
        "{message}"
    );
    open(lab.sink(vec![items()])).await;
    refused(upsert(), "permission denied for schema tidegate").await;
    lab.run(&format!("GRANT USAGE ON SCHEMA tidegate TO {user}")).await;
    refused(upsert(), "permission denied for table version").await;
    lab.run(&format!("GRANT SELECT ON tidegate.version TO {user}")).await;
    for right in ["SELECT", "INSERT", "UPDATE"] {
        let says = format!("no right to {right} in \"tidegate\".\"progress\"");
        refused(upsert(), &says).await;
        lab.run(&format!("GRANT {right} ON tidegate.progress TO {user}")).await;
    }
    refused(upsert(), "no right to INSERT in \"tidegate\".\"dead_letter\"").await;
    lab.run(&format!("GRANT INSERT ON tidegate.dead_letter TO {user}")).await;
    for right in ["INSERT", "SELECT", "UPDATE"] {
        let message = refused(upsert(), &format!("no right to {right}")).await;
        assert!(message.starts_with("table items: "), "{message}");
        assert!(message.contains(&format!("GRANT {right} ON items TO")), "{message}");
        lab.run(&format!("GRANT {right} ON items TO {user}")).await;
    }
    // With exactly these rights everything works.
    let mut sink = open(upsert()).await;
    claim_from_zero(&mut sink, 1).await;
    let batch = cut(0, 0..2).emit(0, [item(1, "a", 1)]).dead(1, "x", false).batch();
    sink.commit(&batch).await.expect("committed");
    // A right that is taken away stops the pipeline, by name.
    lab.run(&format!("REVOKE INSERT ON items FROM {user}")).await;
    match sink.commit(&cut(0, 2..3).emit(2, [item(1, "a", 1)]).batch()).await {
        Err(CommitError::Aborted(cause)) => {
            assert!(cause.is_for_operator() && cause.to_string().contains("items"), "{cause}");
        }
        other => panic!("aborted for the operator, got {other:?}"),
    }
    drop(sink);
    drop_user(&lab, &user).await;
}

#[tokio::test]
async fn row_security_on_progress_is_refused_and_a_hidden_row_is_not_called_lost() {
    let lab = Database::new().await;
    let user = user(&lab).await;
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 1).await;
    lab.run(&format!(
        "GRANT ALL ON SCHEMA tidegate TO {user}; \
         GRANT ALL ON ALL TABLES IN SCHEMA tidegate TO {user}; GRANT ALL ON items TO {user}"
    ))
    .await;
    let mut other = open(Postgres::connect(&lab.url_as(&user)).into(items())).await;
    claim_from_zero(&mut other, 1).await;
    lab.run("ALTER TABLE tidegate.progress ENABLE ROW LEVEL SECURITY").await;
    let batch = cut(0, 0..1).emit(0, [item(1, "a", 1)]).batch();
    common::assert_fenced(other.commit(&batch).await, "not visible to this user");
    refused(Postgres::connect(&lab.url_as(&user)).into(items()), "row level security").await;
    drop(other);
    drop_user(&lab, &user).await;
}

#[tokio::test]
async fn columns_of_another_type_are_refused_with_the_method_that_fits() {
    let lab = Database::new().await;
    for (declared, says) in [
        ("integer", "type integer, the sink writes bigint (write it with `.int4(…)`)"),
        ("double precision", "write it with `.float8(…)`"),
        ("varchar(10)", "write it with `.text(…)`"),
        ("bigint[]", "write it with `.int8_array(…)`"),
        ("timestamp", "use a column of type bigint"),
        ("bigint GENERATED ALWAYS AS IDENTITY", "is generated by the database"),
        ("bigint GENERATED ALWAYS AS (5) STORED", "is generated by the database"),
    ] {
        lab.run(&format!("CREATE TABLE items (id {declared}, text text, amount bigint)")).await;
        refused(lab.sink(vec![items()]), says).await;
        lab.run("DROP TABLE items").await;
    }
}

#[tokio::test]
async fn a_key_whose_different_texts_are_equal_is_refused() {
    let lab = Database::new().await;
    lab.run(
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', \
         deterministic = false)",
    )
    .await;
    let table = || Table::new("items").text("text", |i: &Item| &i.text).upsert_on(["text"]);
    for declared in ["text COLLATE loose", "char(5)"] {
        lab.run(&format!("CREATE TABLE items (text {declared} PRIMARY KEY)")).await;
        refused(lab.sink(vec![table()]), "different texts are equal").await;
        lab.run("DROP TABLE items").await;
    }
    lab.run("CREATE TABLE items (at timestamptz(0) PRIMARY KEY)").await;
    let at = Table::new("items")
        .timestamptz("at", |_: &Item| chrono::DateTime::UNIX_EPOCH)
        .upsert_on(["at"]);
    refused(lab.sink(vec![at]), "needs all its microseconds").await;
    lab.run("DROP TABLE items").await;
    lab.run("CREATE TABLE items (text varchar(9) UNIQUE DEFERRABLE)").await;
    refused(lab.sink(vec![table()]), "no unique index on (text)").await;
}

#[tokio::test]
async fn a_table_is_found_by_the_search_path_once_and_for_all() {
    let lab = Database::new().await;
    lab.run("CREATE SCHEMA sales; CREATE TABLE sales.items (id bigint, text text, amount bigint)")
        .await;
    refused(lab.sink(vec![items()]), "does not exist").await;
    let table = Table::new("sales.items").int8("id", |i: &Item| i.id);
    let mut sink = open(lab.sink(vec![table])).await;
    claim_from_zero(&mut sink, 1).await;
    sink.commit(&cut(0, 0..1).emit(0, [item(4, "", 0)]).batch()).await.expect("committed");
    assert_eq!(lab.rows("SELECT id FROM sales.items").await, ["4"]);
}

/// The advisory lock under which tables are created.
const CREATION_LOCK: i64 = 0x7469_6465_6761_7465;

#[tokio::test]
async fn many_that_meet_an_empty_database_create_its_bookkeeping_once() {
    let lab = Database::new().await;
    let hold = format!("SELECT pg_advisory_lock({CREATION_LOCK})");
    let mut holder = lab.connect().await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(hold)).execute(&mut holder).await.unwrap();
    // A session that has created a schema before looks nothing up again that would tell it of the others' work.
    let warm = "CREATE SCHEMA IF NOT EXISTS warm; \
                CREATE TABLE IF NOT EXISTS items (id bigint, text text, amount bigint)";
    let starts = (0..4).map(|_| open(lab.set_up(vec![items()], &[warm])));
    let release = async {
        // All of them wait, and come on in turns: each sees that the tables are missing before the first creates them.
        let waiting = "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database \
                       WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted";
        while lab.number(waiting).await < 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(holder);
    };
    tokio::join!(futures::future::join_all(starts), release);
    assert_eq!(lab.number("SELECT count(*) FROM tidegate.version").await, 1);
}

#[tokio::test]
async fn a_read_only_database_is_waited_for() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE items (id bigint, text text, amount bigint)").await;
    let name = lab.rows("SELECT current_database()").await.remove(0);
    let read_only =
        |on: &str| format!("ALTER DATABASE {name} SET default_transaction_read_only = {on}");
    lab.run(&read_only("on")).await;
    let soon = SinkContext { deadline: Duration::from_millis(800), ..context(DeadLetters::Never) };
    let mut sink = lab.sink(vec![items()]);
    match TransactionalSink::open(&mut sink, &soon).await {
        Err(SinkError::Stop(error)) => {
            assert!(error.is_deadline(), "{error}");
            assert!(error.to_string().contains("read-only or in recovery"), "{error}");
        }
        other => panic!("stops at the deadline, got {other:?}"),
    }
    let waiting = tokio::spawn(async move { open(sink).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    let on_server = "BEGIN; SET LOCAL transaction_read_only = off; ";
    lab.run(&format!("{on_server}{}; COMMIT", read_only("off"))).await;
    waiting.await.expect("it opens once it can");
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_tried_until_the_deadline_and_then_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let url = format!("postgres://me:hunter2@127.0.0.1:{port}/db");
    let mut sink = Postgres::connect(&url).into(items());
    let soon = SinkContext { deadline: Duration::from_millis(500), ..context(DeadLetters::Never) };
    let refused = TransactionalSink::open(&mut sink, &soon).await;
    let Err(SinkError::Stop(error)) = refused else {
        panic!("stops at the deadline, got {refused:?}");
    };
    assert!(error.is_deadline());
    let text = format!("{error} {error:?} {sink:?}");
    assert!(text.contains(&format!("127.0.0.1:{port}/db")), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn an_unknown_database_or_user_is_refused_at_once() {
    let lab = Database::new().await;
    let unknown = lab.url().replace("tidegate_test_", "no_such_");
    refused(Postgres::connect(&unknown).into(items()), "does not exist").await;
    refused(Postgres::connect(&lab.url_as("nobody_at_all")).into(items()), "nobody_at_all").await;
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_once_and_not_shown() {
    let lab = Database::new().await;
    let user = user(&lab).await;
    let wrong = lab.url_as(&user).replace(&format!(":{user}@"), ":hunter2@");
    assert!(wrong.contains("hunter2"), "the password is in its place");
    let sink = Postgres::connect(&wrong).into(items());
    let message = refused(sink, "password authentication failed").await;
    assert!(message.contains(&user) && !message.contains("hunter2"), "{message}");
    drop_user(&lab, &user).await;
}

#[tokio::test]
async fn a_column_that_vanishes_while_running_stops_the_pipeline_by_name() {
    let lab = Database::new().await;
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 1).await;
    let one = |next| cut(0, next..next + 1).emit(next, [item(1, "abcdef", 1)]).batch();
    sink.commit(&one(0)).await.expect("committed");
    // A type that still takes the values: the statement is planned again.
    lab.run("ALTER TABLE items ALTER COLUMN text TYPE varchar(6)").await;
    sink.commit(&one(1)).await.expect("committed");
    lab.run("ALTER TABLE items DROP COLUMN text").await;
    match sink.commit(&one(2)).await {
        Err(CommitError::Aborted(cause)) => {
            assert!(cause.is_for_operator(), "{cause}");
            assert!(cause.to_string().contains("column \"text\""), "{cause}");
        }
        other => panic!("aborted for the operator, got {other:?}"),
    }
    assert_eq!(common::at(&common::claim_one(&mut sink, 0).await), 2);
}

#[tokio::test]
async fn tools_see_progress_and_its_owner_and_set_it_against_a_live_one() {
    let lab = Database::new().await;
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 2).await;
    let one = || cut(0, 0..3).emit(0, [item(1, "a", 1)]).batch();
    sink.commit(&one()).await.expect("committed");
    let mut progress = Progress::connect(&lab.url()).await.expect("connected");
    assert_eq!(progress.groups().await.expect("groups"), ["group"]);
    let rows = progress.rows("group").await.expect("rows");
    let shown: Vec<_> = rows.iter().map(|row| (row.partition.to_string(), row.next)).collect();
    assert_eq!(shown, [("in/0".to_owned(), 3), ("in/1".to_owned(), 0)]);
    let partitions: Vec<PartitionId> = rows.iter().map(|row| row.partition.clone()).collect();
    let live = progress.liveness("group").await.expect("liveness");
    assert_eq!(live, Liveness::Live(partitions.clone()));
    let set =
        [(partitions[0].clone(), Offset::new(1)), (PartitionId::new("new", 0), Offset::new(9))];
    progress.set("group", &set).await.expect("set");
    let again = cut(0, 3..4).emit(3, [item(1, "a", 1)]).batch();
    common::assert_fenced(sink.commit(&again).await, "claimed by another owner");
    let rows = progress.rows("group").await.expect("rows");
    let shown: Vec<_> =
        rows.iter().map(|row| (row.next, row.claim, row.reset_generation)).collect();
    assert_eq!(shown, [(1, 2, 1), (0, 1, 0), (9, 1, 1)]);
    TransactionalSink::close(&mut sink).await;
    let mut gone = progress.liveness("group").await.expect("liveness");
    for _ in 0..100 {
        if gone == Liveness::None {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        gone = progress.liveness("group").await.expect("liveness");
    }
    assert_eq!(gone, Liveness::None);
    assert!(Progress::connect(&lab.url().replace("test", "tset")).await.is_err());
}

#[tokio::test]
async fn a_rule_on_the_table_is_obeyed() {
    let lab = Database::new().await;
    lab.run(
        "CREATE TABLE items (id bigint, text text, amount bigint); CREATE TABLE log (id bigint); \
         CREATE RULE copy AS ON INSERT TO items DO ALSO INSERT INTO log VALUES (NEW.id)",
    )
    .await;
    let mut sink = open(lab.sink(vec![items()]).copy_rows_min(1)).await;
    claim_from_zero(&mut sink, 1).await;
    let batch = cut(0, 0..1).emit(0, [item(7, "a", 1), item(8, "b", 1)]).batch();
    sink.commit(&batch).await.expect("committed");
    assert_eq!(lab.rows("SELECT id FROM log ORDER BY id").await, ["7", "8"]);
    common::assert_fenced(sink.commit(&batch).await, "progress of in/0 is 1");
    assert_eq!(lab.number("SELECT count(*) FROM log").await, 2);
}
