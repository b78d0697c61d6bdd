//! One batch in one transaction: the order of its statements, and what ends it.

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tidegate::Cause;
use tidegate::batch::Batch;
use tidegate::mutant;
use tidegate_sql::{Compare, End, Expectation, Failure, Fate, Ownership, Phase, Phases, WriteWith};

use crate::check;
use crate::error::{before, failure};
use crate::store::Store;
use crate::write::{Encoded, Inserter, TablePlan};

/// What is known once the file was looked at.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) group: String,
    pub(crate) store: Store,
    pub(crate) plans: Vec<TablePlan>,
    pub(crate) dead_letters: Option<Inserter>,
    pub(crate) ownership: Ownership,
    /// Whether some foreign key is checked at `COMMIT` only.
    pub(crate) deferred_keys: bool,
}

/// One transaction of a batch.
pub(crate) struct Transaction<'s, O> {
    pub(crate) opened: &'s Opened,
    pub(crate) write_with: Option<&'s WriteWith<SqliteConnection, O, sqlx::Error>>,
    pub(crate) expected: &'s [Expectation],
    pub(crate) end: End,
}

impl<O> Transaction<'_, O>
where
    O: Send + Sync + 'static,
{
    pub(crate) async fn run(
        &self,
        conn: &mut SqliteConnection,
        batch: &Batch<O>,
        encoded: Encoded,
        watch: &mut Phases,
    ) -> Result<(), Failure> {
        // Everything is encoded: the write lock is held for as short as possible.
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(before)?;
        watch.end("begin");
        let mut result = self.write(&mut tx, batch, encoded, watch).await;
        if result.is_ok() && self.end == End::Commit {
            let committed = tx.commit().await;
            result = committed.map_err(|error| failure(&error, Phase::CommitSent));
            watch.end("commit");
        } else if let Err(error) = tx.rollback().await {
            let first = result.err().unwrap_or_else(|| before(error));
            return Err(first.not_rolled_back());
        }
        match result {
            Err(failure) if failure.fate == Fate::Rejected => self.believe(conn, failure).await,
            Err(failure) if failure.fate == Fate::Fenced => {
                Err(self.opened.store.fenced(conn, self.expected).await)
            }
            result => result,
        }
    }

    /// Results, dead letters, the user's SQL, and the compare as the last statement.
    async fn write(
        &self,
        conn: &mut SqliteConnection,
        batch: &Batch<O>,
        encoded: Encoded,
        watch: &mut Phases,
    ) -> Result<(), Failure> {
        let opened = self.opened;
        if encoded.has_dead_letters() && opened.dead_letters.is_none() {
            return Err(Failure::no_place_for_dead_letters());
        }
        let probes_keys = self.end == End::Undo && opened.deferred_keys;
        let broken = if probes_keys { check::broken_keys(conn).await.map_err(before)? } else { 0 };
        let mut expected = self.expected;
        if mutant::is("M07") {
            opened.store.advance(conn, expected, "reset_generation").await.map_err(before)?;
            split(conn).await.map_err(before)?;
            expected = &[];
        }
        let written = encoded.write(conn, &opened.plans, opened.dead_letters.as_ref()).await;
        written.or_else(|error| if mutant::is("M14") { Ok(()) } else { Err(before(error)) })?;
        if let Some(write) = self.write_with {
            guarded(conn, write, batch).await?;
        }
        watch.end("write");
        if mutant::is("M06") {
            split(conn).await.map_err(before)?;
        }
        let moved = opened.store.advance(conn, expected, "reset_generation");
        let compare = moved.await.map_err(before)?;
        watch.end("offsets");
        if compare == Compare::Differs {
            return Err(Failure::compare_differs());
        }
        if probes_keys && check::broken_keys(conn).await.map_err(before)? > broken {
            let cause = Cause::new("a deferred foreign key is violated");
            return Err(Failure::new(Fate::Rejected, cause));
        }
        Ok(())
    }

    /// A rejection is believed only from an owner whose progress is where the batch starts: a
    /// fenced writer can meet the rows that its successor wrote.
    pub(crate) async fn believe(
        &self,
        conn: &mut SqliteConnection,
        rejected: Failure,
    ) -> Result<(), Failure> {
        self.opened.store.verify(conn, self.expected).await?;
        Err(rejected)
    }
}

/// Makes two transactions of one.
async fn split(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("COMMIT").execute(&mut *conn).await?;
    sqlx::query("BEGIN IMMEDIATE").execute(conn).await.map(drop)
}

/// Runs the user's SQL inside a savepoint, which is gone if the transaction was ended.
async fn guarded<O>(
    conn: &mut SqliteConnection,
    write: &WriteWith<SqliteConnection, O, sqlx::Error>,
    batch: &Batch<O>,
) -> Result<(), Failure> {
    sqlx::query("SAVEPOINT tidegate_write_with").execute(&mut *conn).await.map_err(before)?;
    let result = write(conn, batch).await.map_err(before);
    let release = sqlx::query("RELEASE tidegate_write_with").execute(&mut *conn);
    match (release.await, result) {
        // A failed statement may have rolled back by itself: then it is the failure.
        (_, Err(failure)) => Err(failure),
        (Ok(_), Ok(())) => Ok(()),
        (Err(_), Ok(())) => Err(Failure::transaction_was_ended()),
    }
}
