//! The sink: what is set, and the order of steps of each call.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tidegate::Error;
use tidegate::batch::Batch;
use tidegate::record::PartitionId;
use tidegate::sink::{
    Claim, ClaimRequest, CommitError, Move, Sink, SinkContext, SinkDescription, SinkError,
    TransactionalSink,
};
use tidegate_sql::{DeadLetterTable, Failure, Ownership, Phase, Table, Target};

use crate::check;
use crate::connection::Settings;
use crate::error::failure;
use crate::store::Store;
use crate::transaction::{End, Opened, Transaction, WriteWith};
use crate::write::{Encoded, TablePlan, dead_letter_inserter};

/// Writes results of type `O`, dead letters and progress into one SQLite file, in one transaction.
///
/// It is a [`TransactionalSink`] for exactly-once and a [`Sink`] for the weaker guarantees, where
/// progress stays with the consumer group.
pub struct Sqlite<O> {
    settings: Settings,
    target: Target<O>,
    write_with: Option<WriteWith<O>>,
    opened: Option<Opened>,
    conn: Option<SqliteConnection>,
}

/// Whether progress is stored with the results.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Stored,
    Elsewhere,
}

impl<O> Sqlite<O>
where
    O: Send + Sync + 'static,
{
    /// The database in this file, which must exist with its tables for results.
    pub fn open(path: impl AsRef<Path>) -> Self {
        Self {
            settings: Settings::new(path.as_ref()),
            target: Target::default(),
            write_with: None,
            opened: None,
            conn: None,
        }
    }

    /// Writes results into this table too; each table takes every result for which its
    /// [`when`](Table::when) holds.
    #[must_use]
    pub fn into(mut self, table: Table<O>) -> Self {
        self.target.tables.push(table);
        self
    }

    /// Runs your own SQL in the transaction of each batch, after the tables were written.
    ///
    /// It sees the whole batch. It must not end the transaction: that is noticed, and stops the
    /// pipeline. It may be called again with the same batch after a failure, whose writes are
    /// undone. Anything it does outside this connection is not undone.
    #[must_use]
    pub fn write_with<F>(mut self, write: F) -> Self
    where
        F: for<'a> Fn(
                &'a mut SqliteConnection,
                &'a Batch<O>,
            ) -> BoxFuture<'a, Result<(), sqlx::Error>>
            + Send
            + Sync
            + 'static,
    {
        self.write_with = Some(Arc::new(write));
        self
    }

    /// What the names of the bookkeeping tables begin with: `tidegate_` unless set.
    #[must_use]
    pub fn bookkeeping_prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.settings.prefix);
        self
    }

    /// Forbids creating the bookkeeping tables; if they are missing, the error prints the
    /// statements that create them.
    #[must_use]
    pub fn tables_manual(mut self) -> Self {
        self.target.forbid_creation();
        self
    }

    /// Does without a dead letter table; a failure policy that sets records aside is refused.
    #[must_use]
    pub fn without_dead_letters(mut self) -> Self {
        self.target.dead_letters = DeadLetterTable::Off;
        self
    }

    /// How long a writer waits for another one before the batch is tried again; 10 s unless set.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.settings.busy_timeout = timeout;
        self
    }

    async fn open_file(
        &mut self,
        context: &SinkContext,
        progress: Progress,
    ) -> Result<(), SinkError> {
        let books = self.settings.validate().map_err(SinkError::Stop)?;
        let valid = self.target.validate(context, self.write_with.is_some());
        valid.map_err(SinkError::Stop)?;
        if !self.settings.path.exists() {
            let path = self.settings.path.display();
            let error = Error::configuration("path", format_args!("{path} does not exist"));
            return Err(SinkError::Stop(error.remedy("create the database with its tables first")));
        }
        let mut conn = self
            .settings
            .connect()
            .await
            .map_err(|error| failure(&error, Phase::BeforeCommit).into_sink_error())?;
        let needs_dead_letters = self.target.needs_dead_letters(context);
        if needs_dead_letters || progress == Progress::Stored {
            check::bookkeeping(&mut conn, &books, self.target.may_create()).await?;
        }
        let mut plans = Vec::with_capacity(self.target.tables.len());
        for table in &self.target.tables {
            plans.push(TablePlan::new(table, check::table(&mut conn, table).await?));
        }
        self.opened = Some(Opened {
            group: context.group.clone(),
            plans,
            dead_letters: needs_dead_letters.then(|| dead_letter_inserter(&books)),
            store: Store::new(books, &context.group),
            ownership: Ownership::default(),
            deferred_keys: check::has_deferred_keys(&mut conn).await?,
        });
        self.conn = Some(conn);
        Ok(())
    }

    fn description(&self) -> SinkDescription {
        let path = self.settings.path.display();
        let mut notes = vec![
            "rows are written 200 at a time by prepared statements".to_owned(),
            "one writer at a time: a process stopped inside a commit blocks the others".to_owned(),
        ];
        if self.write_with.is_some() {
            notes.push("your own SQL runs in the same transaction".to_owned());
        }
        SinkDescription {
            kind: "sqlite".to_owned(),
            target: format!("{path}: {}", self.target.labels().join(", ")),
            notes,
            bound_to: None,
        }
    }

    /// One batch in one transaction. The connection is taken out and put back only when it is
    /// known to be clean, so a future that is dropped half-way closes it, which rolls back.
    async fn store(
        &mut self,
        batch: &Batch<O>,
        progress: Progress,
        end: End,
    ) -> Result<(), Failure> {
        let opened = self.opened.as_ref().expect("a sink is opened first");
        let expected = match progress {
            Progress::Stored => opened.ownership.expect(batch.spans())?,
            Progress::Elsewhere => Vec::new(),
        };
        let encoded = Encoded::new(&self.target.tables, &opened.plans, &opened.group, batch);
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => connect(&self.settings).await?,
        };
        let transaction =
            Transaction { opened, write_with: self.write_with.as_ref(), expected: &expected, end };
        let result = match encoded {
            Ok(encoded) => transaction.run(&mut conn, batch, encoded).await,
            Err(rejection) => transaction.believe(&mut conn, rejection.into()).await,
        };
        if !result.as_ref().is_err_and(|failure| failure.taints_connection) {
            self.conn = Some(conn);
        }
        result
    }
}

async fn connect(settings: &Settings) -> Result<SqliteConnection, Failure> {
    let conn = settings.connect().await;
    conn.map_err(|error| failure(&error, Phase::BeforeCommit))
}

impl<O> TransactionalSink for Sqlite<O>
where
    O: Send + Sync + 'static,
{
    type Output = O;

    async fn open(&mut self, context: &SinkContext) -> Result<(), SinkError> {
        self.open_file(context, Progress::Stored).await
    }

    fn describe(&self) -> SinkDescription {
        self.description()
    }

    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        let opened = self.opened.as_mut().expect("a sink is opened first");
        // A connection that may hold a transaction is gone with it: claims start afresh.
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => connect(&self.settings).await.map_err(Failure::into_sink_error)?,
        };
        let claims = opened.store.claim(&mut conn, partitions, &mut opened.ownership);
        let claims = claims.await.map_err(Failure::into_sink_error)?;
        self.conn = Some(conn);
        Ok(claims)
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        let opened = self.opened.as_ref().expect("a sink is opened first");
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => connect(&self.settings).await.map_err(Failure::into_commit_error)?,
        };
        let moved = opened.store.reposition(&mut conn, moves, &opened.ownership);
        moved.await.map_err(Failure::into_commit_error)?;
        self.conn = Some(conn);
        Ok(())
    }

    async fn commit(&mut self, batch: &Batch<O>) -> Result<(), CommitError> {
        let stored = self.store(batch, Progress::Stored, End::Commit).await;
        stored.map_err(Failure::into_commit_error)
    }

    async fn probe(&mut self, batch: &Batch<O>) -> Result<(), CommitError> {
        let stored = self.store(batch, Progress::Stored, End::Undo).await;
        stored.map_err(Failure::into_commit_error)
    }

    async fn release(&mut self, partitions: &[PartitionId]) {
        let Some(opened) = self.opened.as_mut() else {
            return;
        };
        let held = opened.ownership.give_up(partitions);
        let Some(mut conn) = self.conn.take() else {
            return;
        };
        match opened.store.release(&mut conn, &held).await {
            Ok(()) => self.conn = Some(conn),
            Err(error) => tracing::warn!(%error, "claims were not handed back"),
        }
    }

    async fn close(&mut self) {
        self.close_file().await;
    }
}

impl<O> Sink for Sqlite<O>
where
    O: Send + Sync + 'static,
{
    type Output = O;

    async fn open(&mut self, context: &SinkContext) -> Result<(), SinkError> {
        self.open_file(context, Progress::Elsewhere).await
    }

    fn describe(&self) -> SinkDescription {
        self.description()
    }

    async fn write(&mut self, batch: &Batch<O>) -> Result<(), SinkError> {
        let stored = self.store(batch, Progress::Elsewhere, End::Commit).await;
        stored.map_err(Failure::into_sink_error)
    }

    async fn close(&mut self) {
        self.close_file().await;
    }
}

impl<O> Sqlite<O> {
    async fn close_file(&mut self) {
        if let Some(conn) = self.conn.take() {
            // The last connection checkpoints the log; if it cannot, the next one does.
            if let Err(error) = conn.close().await {
                tracing::debug!(%error, "the file was not closed cleanly");
            }
        }
    }
}

impl<O> fmt::Debug for Sqlite<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite")
            .field("settings", &self.settings)
            .field("target", &self.target)
            .finish()
    }
}
