//! What PostgreSQL adds to the promises: doubt, zombies, lost connections.

#[path = "../../sql/tests/common/mod.rs"]
#[allow(dead_code, unused_macros, reason = "this file uses a part of it")]
mod common;
#[allow(dead_code, reason = "this file uses a part of it")]
mod lab;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::cut::cut;
use common::{Item, Lab, at, claim_from_zero, claim_one, item, items, open, opened};
use lab::Database;
use lab::proxy::Proxy;
use sqlx::{Connection, Row};
use tidegate::batch::Batch;
use tidegate::sink::{CommitError, SinkError, TransactionalSink};
use tidegate_postgres::Postgres;

fn one(next: i64) -> Batch<Item> {
    cut(0, next..next + 1).emit(next, [item(next, "a", 1)]).batch()
}

/// A sink behind a wire that can be cut, with its first partition claimed from 0.
async fn behind_proxy(lab: &Database) -> (Proxy, Postgres<Item>) {
    lab.run("CREATE TABLE items (id bigint, text text, amount bigint)").await;
    let proxy = Proxy::to(lab.address()).await;
    let sink = Postgres::connect(&lab.url_through(proxy.port)).into(items());
    let mut sink = open(sink).await;
    claim_from_zero(&mut sink, 1).await;
    // The statement is prepared: from now on a commit is one request and one answer.
    sink.commit(&one(0)).await.expect("a first commit");
    (proxy, sink)
}

#[tokio::test]
async fn a_wrong_guess_after_doubt_is_caught_by_the_compare() {
    let lab = Database::new().await;
    let (proxy, mut sink) = behind_proxy(&lab).await;
    proxy.lose_answer();
    let result = sink.commit(&one(1)).await;
    assert!(matches!(result, Err(CommitError::InDoubt(_))), "{result:?}");
    // Whoever repeats the batch without a claim stores nothing twice.
    common::assert_fenced(sink.commit(&one(1)).await, "progress of in/0 is 2");
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 2);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_in_doubt() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE items (id bigint, text text, amount bigint)").await;
    let proxy = Proxy::to(lab.address()).await;
    let short = Duration::from_millis(100);
    let sink = Postgres::connect(&lab.url_through(proxy.port))
        .into(items())
        .statement_timeout(short)
        .idle_in_transaction_session_timeout(short);
    let mut sink = open(sink).await;
    claim_from_zero(&mut sink, 1).await;
    proxy.silence();
    let result = sink.commit(&one(0)).await;
    assert!(proxy.was_hit());
    assert!(matches!(result, Err(CommitError::InDoubt(_))), "{result:?}");
    assert_eq!(at(&claim_one(&mut sink, 0).await), 0);
}

#[tokio::test]
async fn a_session_that_was_ended_between_batches_is_replaced_and_recorded() {
    let lab = Database::new().await;
    let mut sink = opened(&lab).await;
    claim_from_zero(&mut sink, 1).await;
    let pid = "SELECT owner_pid FROM tidegate.progress";
    let first = lab.number(pid).await;
    lab.run(&format!("SELECT pg_terminate_backend({first}, 5000)")).await;
    // What a closed connection did with the request cannot be known; nothing was stored.
    let result = sink.commit(&one(0)).await;
    assert!(matches!(result, Err(CommitError::InDoubt(_) | CommitError::Aborted(_))), "{result:?}");
    sink.commit(&one(0)).await.expect("on a new session");
    let second = lab.number(pid).await;
    assert_ne!(first, second);
    let recorded = "SELECT count(*) FROM tidegate.progress JOIN pg_stat_activity \
                    ON pid = owner_pid AND backend_start = owner_backend_start";
    assert_eq!(lab.number(recorded).await, 1);
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 1);
}

/// Makes inserts of `hang` into `items` wait for so long.
async fn hang_inserts(lab: &Database, seconds: u32) {
    lab.run(&format!(
        "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END $$; \
         CREATE TRIGGER hang BEFORE INSERT ON items FOR EACH ROW \
         WHEN (NEW.text = 'hang') EXECUTE FUNCTION hang()"
    ))
    .await;
}

#[tokio::test]
async fn an_owner_stuck_inside_its_commit_is_ended_by_its_heir() {
    let lab = Database::new().await;
    let mut old = opened(&lab).await;
    hang_inserts(&lab, 60).await;
    claim_from_zero(&mut old, 1).await;
    let mut heir = opened(&lab).await;
    let stuck = tokio::spawn(async move {
        let hang = cut(0, 0..1).emit(0, [item(1, "hang", 1)]).batch();
        let result = old.commit(&hang).await;
        (old, result)
    });
    // The compare is the first thing the statement does: it holds the row by now.
    until_blocked(&lab, "wait_event = 'PgSleep'").await;
    assert_eq!(at(&claim_one(&mut heir, 0).await), 0);
    let (mut old, result) = stuck.await.expect("it ends");
    assert!(matches!(result, Err(CommitError::InDoubt(_))), "{result:?}");
    heir.commit(&one(0)).await.expect("the heir goes on");
    common::assert_fenced(old.commit(&one(0)).await, "claimed by another owner");
    assert_eq!(lab.rows("SELECT text FROM items").await, ["a"]);
}

async fn until_blocked(lab: &Database, condition: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
    );
    for _ in 0..200 {
        if lab.number(&sql).await > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody reached {condition}");
}

#[tokio::test]
async fn an_earlier_owner_that_holds_rows_of_results_is_ended_by_its_heirs_commit() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE items (id bigint PRIMARY KEY, text text, amount bigint)").await;
    let mut zombie = lab.connect().await;
    let mut old = opened(&lab).await;
    claim_from_zero(&mut old, 1).await;
    // The owner stops between its rows and its compare; nothing of it blocks the claim.
    let pid: i32 = sqlx::query("SELECT pg_backend_pid()")
        .fetch_one(&mut zombie)
        .await
        .expect("a number")
        .get(0);
    lab.run(&format!(
        "UPDATE tidegate.progress SET owner_pid = {pid}, owner_backend_start = \
         (SELECT backend_start FROM pg_stat_activity WHERE pid = {pid})"
    ))
    .await;
    sqlx::raw_sql("BEGIN; INSERT INTO items VALUES (0, 'zombie', 0)")
        .execute(&mut zombie)
        .await
        .expect("its rows");
    let mut heir = opened(&lab).await;
    assert_eq!(at(&claim_one(&mut heir, 0).await), 0);
    heir.commit(&one(0)).await.expect("the heir is not held up for ever");
    assert!(zombie.ping().await.is_err(), "the zombie was ended");
    assert_eq!(lab.rows("SELECT text FROM items").await, ["a"]);
}

#[tokio::test]
async fn an_earlier_owner_that_still_owns_something_is_waited_for() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE items (id bigint PRIMARY KEY, text text, amount bigint)").await;
    let mut busy = opened(&lab).await;
    hang_inserts(&lab, 5).await;
    claim_from_zero(&mut busy, 2).await;
    let mut heir = opened(&lab).await;
    assert_eq!(at(&claim_one(&mut heir, 0).await), 0);
    // It keeps partition 1 and is slow there, holding a row that the heir wants to write too.
    let slow = tokio::spawn(async move {
        let slow = cut(1, 0..1).emit(0, [item(0, "b", 1), item(1, "hang", 1)]).batch();
        busy.commit(&slow).await
    });
    until_blocked(&lab, "wait_event = 'PgSleep'").await;
    let result = heir.commit(&one(0)).await;
    assert!(matches!(result, Err(CommitError::Rejected(_))), "the row was there: {result:?}");
    slow.await.expect("it ends").expect("committed in peace");
}

/// A stranger's transaction that holds the row of partition 0.
async fn holding_the_row(lab: &Database, set: &str) -> sqlx::PgConnection {
    let mut conn = lab.connect().await;
    let sql = format!("BEGIN; UPDATE tidegate.progress SET {set} WHERE partition = 0");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.expect("the row");
    conn
}

#[tokio::test]
async fn a_claim_waits_for_a_pending_commit_and_sees_its_result() {
    let lab = Database::new().await;
    let mut old = opened(&lab).await;
    claim_from_zero(&mut old, 1).await;
    let mut heir = opened(&lab).await;
    // What a COMMIT that is still on its way looks like: a plain read sees the old offset.
    let mut pending = holding_the_row(&lab, "next_offset = 7").await;
    let claim = tokio::spawn(async move { at(&claim_one(&mut heir, 0).await) });
    until_blocked(&lab, "wait_event_type = 'Lock'").await;
    assert_eq!(lab.number("SELECT next_offset FROM tidegate.progress").await, 0);
    sqlx::query("COMMIT").execute(&mut pending).await.expect("committed");
    assert_eq!(claim.await.expect("claimed"), 7);
}

#[tokio::test]
async fn nobody_but_the_recorded_owner_is_ended() {
    let lab = Database::new().await;
    let mut old = opened(&lab).await;
    claim_from_zero(&mut old, 1).await;
    let sink = Postgres::connect(&lab.url()).into(items());
    let mut heir = open(sink.lock_timeout(Duration::from_secs(3))).await;
    // Its number is recorded, but with another start: a backend that reuses the number.
    let mut stranger = lab.connect().await;
    let pid: i32 = sqlx::query("SELECT pg_backend_pid()")
        .fetch_one(&mut stranger)
        .await
        .expect("a number")
        .get(0);
    lab.run(&format!("UPDATE tidegate.progress SET owner_pid = {pid}")).await;
    sqlx::raw_sql("BEGIN; UPDATE tidegate.progress SET next_offset = 9")
        .execute(&mut stranger)
        .await
        .expect("the row");
    let refused = heir.claim(&[common::asked(0)]).await;
    match refused {
        Err(SinkError::Retry(cause)) => assert!(!cause.is_for_operator(), "{cause}"),
        other => panic!("the claim is tried again later, got {other:?}"),
    }
    stranger.ping().await.expect("the stranger lives");
    sqlx::query("ROLLBACK").execute(&mut stranger).await.expect("it ends");
    assert_eq!(at(&claim_one(&mut heir, 0).await), 0);
}

#[tokio::test]
async fn an_error_that_own_sql_ignores_stops_the_pipeline_instead_of_committing_nothing() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE items (id bigint, text text, amount bigint)").await;
    let sink = lab.sink(vec![items()]).write_with(|conn, _| {
        Box::pin(async move {
            // The transaction has failed: COMMIT would be answered with ROLLBACK, as success.
            let _ = sqlx::query("SELECT 1 / 0").execute(conn).await;
            Ok(())
        })
    });
    let mut sink = open(sink).await;
    claim_from_zero(&mut sink, 1).await;
    match sink.commit(&one(0)).await {
        Err(CommitError::Aborted(cause)) => assert!(cause.is_for_operator(), "{cause}"),
        other => panic!("aborted for the operator, got {other:?}"),
    }
    assert_eq!(at(&claim_one(&mut sink, 0).await), 0);
}

#[tokio::test]
async fn a_session_that_stands_still_inside_its_transaction_is_ended_by_the_server() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE items (id bigint, text text, amount bigint)").await;
    let stands_still = Arc::new(AtomicBool::new(true));
    let first = Arc::clone(&stands_still);
    let sink = lab.sink(vec![items()]).write_with(move |_, _| {
        let stops = first.swap(false, Ordering::Relaxed);
        Box::pin(async move {
            if stops {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Ok(())
        })
    });
    let short = Duration::from_millis(200);
    let mut sink = open(sink.idle_in_transaction_session_timeout(short)).await;
    claim_from_zero(&mut sink, 1).await;
    match sink.commit(&one(0)).await {
        Err(CommitError::Aborted(cause)) => assert!(!cause.is_for_operator(), "{cause}"),
        other => panic!("its rows were freed for others, got {other:?}"),
    }
    sink.commit(&one(0)).await.expect("the same batch on a new session");
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 1);
}

#[tokio::test]
async fn own_sql_may_nest_a_transaction_of_its_own() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE items (id bigint, text text, amount bigint)").await;
    let sink = lab.sink(vec![items()]).write_with(|conn, batch: &Batch<Item>| {
        Box::pin(async move {
            let mut nested = conn.begin().await?;
            for output in batch.outputs() {
                sqlx::query("INSERT INTO items VALUES ($1, 'own', 0)")
                    .bind(output.value.id)
                    .execute(&mut *nested)
                    .await?;
            }
            nested.commit().await?;
            let mut undone = conn.begin().await?;
            sqlx::query("DELETE FROM items").execute(&mut *undone).await?;
            undone.rollback().await
        })
    });
    let mut sink = open(sink).await;
    claim_from_zero(&mut sink, 1).await;
    sink.commit(&one(0)).await.expect("committed");
    assert_eq!(lab.rows("SELECT text FROM items ORDER BY text").await, ["a", "own"]);
}

#[tokio::test]
async fn a_copy_is_part_of_the_transaction_like_any_insert() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE items (id bigint CHECK (id <> 13), text text, amount bigint)").await;
    let mut sink = open(lab.sink(vec![items()]).copy_rows_min(1)).await;
    claim_from_zero(&mut sink, 1).await;
    sink.commit(&one(0)).await.expect("committed");
    common::assert_fenced(sink.commit(&one(0)).await, "progress of in/0 is 1");
    let bad = || {
        cut(0, 1..4)
            .emit(1, [item(1, "a", 1)])
            .emit(2, [item(13, "b", 1)])
            .emit(3, [item(3, "c", 1)])
            .dead(3, "x", false)
    };
    let bad = || bad().batch();
    let result = sink.commit(&bad()).await;
    assert!(matches!(result, Err(CommitError::Rejected(_))), "{result:?}");
    assert_eq!(common::culprit(&mut sink, &bad()).await, 2);
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 1);
}

/// What was sent of it before is taken back, whether we refuse a row or the server has refused one before.
#[tokio::test]
async fn a_copy_of_several_parts_that_ends_in_the_middle_leaves_nothing() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE items (id bigint CHECK (id <> 13), text text, amount bigint)").await;
    let mut sink = open(lab.sink(vec![items()]).copy_rows_min(1)).await;
    claim_from_zero(&mut sink, 1).await;
    let long = "long enough for many parts ".repeat(40);
    let batch = |bad: &[(i64, Item)]| {
        let rows = (0..3000).map(|offset| {
            let bad = bad.iter().find(|(at, _)| *at == offset).map(|(_, item)| item.clone());
            (offset, bad.unwrap_or_else(|| item(offset + 100, &long, 1)))
        });
        rows.fold(cut(0, 0..3000), |cut, (offset, row)| cut.emit(offset, [row])).batch()
    };
    let (ours, servers) = ((2500, item(1, "\0", 1)), (100, item(13, "b", 1)));
    let refused = batch(std::slice::from_ref(&ours));
    match sink.commit(&refused).await {
        Err(CommitError::Rejected(rejection)) => {
            let record = rejection.record.map(|record| record.offset.get());
            assert_eq!(record, Some(2500), "{}", rejection.cause);
        }
        other => panic!("rejected, got {other:?}"),
    }
    assert_eq!(common::culprit(&mut sink, &refused).await, 2500);
    let both = batch(&[servers, ours]);
    let result = sink.commit(&both).await;
    assert!(matches!(result, Err(CommitError::Rejected(_))), "{result:?}");
    assert_eq!(common::culprit(&mut sink, &both).await, 100);
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 0);
    sink.commit(&batch(&[])).await.expect("committed");
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 3000);
}

#[tokio::test]
async fn a_plan_that_went_stale_is_made_again_on_a_new_session() {
    let lab = Database::new().await;
    lab.run("CREATE TABLE items (id bigint, text text, amount bigint)").await;
    let sink = lab.sink(vec![items()]).write_with(|conn, _| {
        Box::pin(async move {
            sqlx::query("SELECT * FROM items").fetch_all(conn).await?;
            Ok(())
        })
    });
    let mut sink = open(sink).await;
    claim_from_zero(&mut sink, 1).await;
    sink.commit(&one(0)).await.expect("committed");
    lab.run("ALTER TABLE items ADD COLUMN more text").await;
    match sink.commit(&one(1)).await {
        Err(CommitError::Aborted(cause)) => assert!(!cause.is_for_operator(), "{cause}"),
        other => panic!("aborted, to be tried again, got {other:?}"),
    }
    sink.commit(&one(1)).await.expect("on a new session");
    assert_eq!(lab.number("SELECT count(*) FROM items").await, 2);
}
