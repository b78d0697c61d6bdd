//! One batch in one transaction: the order of its statements, and what ends it.

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::postgres::{PgArguments, PgConnection, Postgres};
use sqlx::query::Query;
use sqlx::{Connection, Row};
use tidegate::Cause;
use tidegate::batch::Batch;
use tidegate::mutant;
use tidegate_sql::{
    Compare, End, Expectation, Failure, Fate, Offsets, Ownership, Phase, Phases, Table, WriteWith,
};
use tokio::time::timeout;

use crate::claim::{Blockers, Earlier};
use crate::error::{before, failure};
use crate::store::Store;
use crate::write::{Encoded, Plan};

/// What is known once the database was looked at.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) plan: Plan,
    pub(crate) ownership: Ownership,
    pub(crate) earlier: Earlier,
}

/// One transaction of a batch.
pub(crate) struct Transaction<'s, O> {
    pub(crate) opened: &'s Opened,
    /// The backend that runs it.
    pub(crate) pid: i32,
    pub(crate) tables: &'s [Table<O>],
    pub(crate) write_with: Option<&'s WriteWith<PgConnection, O, sqlx::Error>>,
    pub(crate) offsets: Offsets,
    pub(crate) expected: &'s [Expectation],
    pub(crate) end: End,
}

impl<O> Transaction<'_, O>
where
    O: Send + Sync + 'static,
{
    /// Runs it. The server's time-outs end a slow transaction; if the server itself cannot be
    /// reached, waiting ends too, and the connection with it.
    pub(crate) async fn run(
        &self,
        conn: &mut PgConnection,
        batch: &Batch<O>,
        encoded: Encoded,
        watch: &mut Phases,
    ) -> Result<(), Failure> {
        if encoded.has_dead_letters() && !self.opened.plan.takes_dead_letters() {
            return Err(Failure::no_place_for_dead_letters());
        }
        let within = self.opened.store.settings.answer_within();
        let commit_sent = AtomicBool::new(false);
        let attempt = self.attempt(conn, batch, encoded, &commit_sent, watch);
        let leftovers = Blockers::Leftovers(&self.opened.earlier);
        let attempt = self.opened.store.unblocked(self.pid, leftovers, attempt);
        let Ok(result) = timeout(within, attempt).await else {
            let fate = match commit_sent.load(Ordering::Relaxed) {
                true => Fate::InDoubt,
                false => Fate::Reconnect,
            };
            let cause = Cause::new(format_args!("no answer within {within:?}"));
            return Err(Failure::new(fate, cause));
        };
        match result {
            Err(failure) if failure.taints_connection => Err(failure),
            Err(failure) if failure.fate == Fate::Rejected => self.believe(conn, failure).await,
            Err(failure) if failure.fate == Fate::Fenced => {
                Err(self.opened.store.fenced(conn, self.expected).await)
            }
            result => result,
        }
    }

    async fn attempt(
        &self,
        conn: &mut PgConnection,
        batch: &Batch<O>,
        encoded: Encoded,
        commit_sent: &AtomicBool,
        watch: &mut Phases,
    ) -> Result<(), Failure> {
        let expected = (self.offsets == Offsets::Stored).then_some(self.expected);
        let statement = match self.opened.plan.one(encoded, expected) {
            Ok(statement) if self.end == End::Commit => {
                // It commits by itself: from here on silence is doubt. All answers are read,
                // because a deferred constraint speaks after the row.
                commit_sent.store(true, Ordering::Relaxed);
                let stored = statement.fetch_all(conn).await;
                stored.map_err(|error| failure(&error, Phase::CommitSent))?;
                watch.end("statement");
                return Ok(());
            }
            Ok(statement) => Ok(statement),
            Err(encoded) => Err(encoded),
        };
        let mut tx = conn.begin().await.map_err(before)?;
        let written = match statement {
            Ok(statement) => probe(&mut tx, statement).await,
            Err(encoded) => self.write(&mut tx, batch, encoded, watch).await,
        };
        let xid = match written {
            Ok(xid) if self.end == End::Commit => xid,
            written => {
                let result = match written {
                    Ok(_) => check_deferred(&mut tx).await,
                    Err(failure) => Err(failure),
                };
                return match tx.rollback().await {
                    Ok(()) => result,
                    Err(error) => {
                        let first = result.err().unwrap_or_else(|| before(error));
                        Err(first.not_rolled_back())
                    }
                };
            }
        };
        commit_sent.store(true, Ordering::Relaxed);
        let sent = |error| failure(&error, Phase::CommitSent);
        tx.commit().await.map_err(sent)?;
        settled(conn, &xid).await?;
        watch.end("commit");
        Ok(())
    }

    /// Results, dead letters, the user's SQL, and the compare as the last statement; returns the
    /// number of the transaction.
    async fn write(
        &self,
        conn: &mut PgConnection,
        batch: &Batch<O>,
        encoded: Encoded,
        watch: &mut Phases,
    ) -> Result<String, Failure> {
        // Taken first: whoever ends the transaction in between ends this number.
        let row = sqlx::query("SELECT pg_current_xact_id()::text").fetch_one(&mut *conn);
        let xid: String = row.await.map_err(before)?.get(0);
        watch.end("begin");
        self.opened.plan.steps(conn, self.tables, batch, encoded).await?;
        if let Some(write) = self.write_with {
            write(conn, batch).await.map_err(before)?;
            if current_xid(conn).await?.as_deref() != Some(&*xid) {
                return Err(Failure::transaction_was_ended());
            }
        }
        watch.end("write");
        let moved = self.opened.store.advance(conn, self.expected, &xid);
        let compare = moved.await.map_err(before)?;
        watch.end("offsets");
        match compare {
            Compare::Holds => Ok(xid),
            Compare::Differs => Err(Failure::compare_differs()),
        }
    }

    /// A rejection is believed only from an owner whose progress is where the batch starts: a
    /// fenced writer can meet the rows that its successor wrote.
    pub(crate) async fn believe(
        &self,
        conn: &mut PgConnection,
        rejected: Failure,
    ) -> Result<(), Failure> {
        self.opened.store.verify(conn, self.expected).await?;
        Err(rejected)
    }
}

/// The number of the transaction, if it has one yet.
async fn current_xid(conn: &mut PgConnection) -> Result<Option<String>, Failure> {
    let row = sqlx::query("SELECT pg_current_xact_id_if_assigned()::text").fetch_one(conn);
    match row.await {
        Ok(row) => Ok(row.get(0)),
        Err(error) => {
            let failed = before(error);
            let cause = Cause::from_error("the transaction cannot go on", failed.cause);
            Err(Failure { cause, ..failed })
        }
    }
}

/// Runs the one-statement form inside a transaction; a probe needs no number of it.
async fn probe(
    conn: &mut PgConnection,
    statement: Query<'static, Postgres, PgArguments>,
) -> Result<String, Failure> {
    statement.fetch_all(conn).await.map_err(before)?;
    Ok(String::new())
}

/// What `COMMIT` would find.
async fn check_deferred(conn: &mut PgConnection) -> Result<(), Failure> {
    let check = sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(conn);
    check.await.map(drop).map_err(before)
}

/// Whether the transaction really committed: the server answers `ROLLBACK` to the `COMMIT` of a
/// failed transaction, and the client calls that success.
async fn settled(conn: &mut PgConnection, xid: &str) -> Result<(), Failure> {
    let status = sqlx::query("SELECT pg_xact_status($1::text::xid8)")
        .bind(xid.to_owned())
        .fetch_one(conn)
        .await
        .map_err(|error| failure(&error, Phase::CommitSent))?;
    match status.get::<Option<&str>, _>(0) {
        Some("committed") => Ok(()),
        Some("aborted") if mutant::is("M14") => Ok(()),
        Some("aborted") => {
            let cause = Cause::new("the server answered COMMIT with ROLLBACK");
            Err(Failure::new(Fate::Aborted, cause))
        }
        _ => {
            let cause = Cause::new("the server does not know how the transaction ended");
            Err(Failure::new(Fate::InDoubt, cause))
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions;
    use sqlx::postgres::PgConnectOptions;

    use super::*;

    #[tokio::test]
    async fn a_commit_that_was_answered_with_rollback_is_not_taken_for_success() {
        let url = std::env::var("TIDEGATE_POSTGRES").expect(
            "TIDEGATE_POSTGRES is not set: this test needs a PostgreSQL server; run `scripts/test`",
        );
        let options: PgConnectOptions = url.parse().expect("a URL");
        let mut conn = options.connect().await.expect("connected");
        let mut tx = conn.begin().await.expect("begun");
        let row = sqlx::query("SELECT pg_current_xact_id()::text").fetch_one(&mut *tx);
        let xid: String = row.await.expect("a number").get(0);
        assert!(sqlx::query("SELECT 1 / 0").execute(&mut *tx).await.is_err());
        tx.commit().await.expect("the client calls it success");
        let settled = settled(&mut conn, &xid).await;
        assert_eq!(settled.expect_err("it was not").fate, Fate::Aborted);

        let mut tx = conn.begin().await.expect("begun");
        let row = sqlx::query("SELECT pg_current_xact_id()::text").fetch_one(&mut *tx);
        let xid: String = row.await.expect("a number").get(0);
        tx.commit().await.expect("committed");
        super::settled(&mut conn, &xid).await.expect("it was");
    }
}
