//! The sink: what is set, and the order of steps of each call.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tidegate::Error;
use tidegate::batch::Batch;
use tidegate::record::PartitionId;
use tidegate::sink::{Claim, ClaimRequest, Move, SinkContext, SinkDescription, SinkError};
use tidegate_sql::{
    End, Failure, Fate, Offsets, Ownership, Phases, Table, Target, WriteWith, sql_sink,
};

use crate::check;
use crate::connection::connection;
use crate::error::before;
use crate::settings::{Missing, Settings};
use crate::store::Store;
use crate::transaction::{Opened, Transaction};
use crate::write::{Encoded, TablePlan, dead_letter_inserter};

/// Writes results of type `O`, dead letters and progress into one SQLite file, in one transaction.
///
/// It is a [`TransactionalSink`](tidegate::sink::TransactionalSink) for exactly-once and a [`Sink`](tidegate::sink::Sink) for the weaker guarantees, where
/// progress stays with the consumer group.
pub struct Sqlite<O> {
    settings: Settings,
    target: Target<O>,
    write_with: Option<WriteWith<SqliteConnection, O, sqlx::Error>>,
    opened: Option<Opened>,
    conn: Option<SqliteConnection>,
}

impl<O> Sqlite<O>
where
    O: Send + Sync + 'static,
{
    /// The database in this file, which must exist with its tables for results unless
    /// [`setup`](Self::setup) creates them.
    pub fn open(path: impl AsRef<Path>) -> Self {
        Self {
            settings: Settings::new(path.as_ref()),
            target: Target::default(),
            write_with: None,
            opened: None,
            conn: None,
        }
    }

    /// What the names of the bookkeeping tables begin with: `tidegate_` unless set.
    #[must_use]
    pub fn bookkeeping_prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.settings.prefix);
        self
    }

    /// How long a writer waits for another one before the batch is tried again; 10 s unless set.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.settings.busy_timeout = timeout;
        self
    }

    async fn open_with(
        &mut self,
        context: &SinkContext,
        offsets: Offsets,
    ) -> Result<(), SinkError> {
        let books = self.settings.validate().map_err(SinkError::Stop)?;
        let valid = self.target.validate(context, self.write_with.is_some());
        valid.map_err(SinkError::Stop)?;
        let missing =
            if self.target.setup.is_empty() { Missing::Refused } else { Missing::Created };
        if missing == Missing::Refused && !self.settings.path.exists() {
            let path = self.settings.path.display();
            let error = Error::configuration("path", format_args!("{path} does not exist"));
            let remedy = "create the database with its tables first, or let `.setup(…)` do it";
            return Err(SinkError::Stop(error.remedy(remedy)));
        }
        let connected = self.settings.connect(missing).await.map_err(before);
        let mut conn = connected.map_err(|failure| self.not_opened(failure))?;
        check::setup(&mut conn, &self.target.setup).await?;
        let needs_dead_letters = self.target.needs_dead_letters(context);
        if needs_dead_letters || offsets == Offsets::Stored {
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

    /// A folder that is not there, a file that is none of SQLite's or must not be written: mend the path.
    fn not_opened(&self, failure: Failure) -> SinkError {
        if failure.fate != Fate::Operator {
            return failure.into_sink_error();
        }
        let problem = format_args!("{} cannot be opened", self.settings.path.display());
        SinkError::Stop(Error::configuration("path", problem).with_source(failure.cause))
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
    async fn store(&mut self, batch: &Batch<O>, offsets: Offsets, end: End) -> Result<(), Failure> {
        let opened = self.opened.as_ref().expect("a sink is opened first");
        let expected = match offsets {
            Offsets::Stored => opened.ownership.expect(batch.spans())?,
            Offsets::Elsewhere => Vec::new(),
        };
        let mut watch = Phases::start(&opened.group, end);
        let encoded = Encoded::new(&self.target.tables, &opened.plans, &opened.group, batch);
        watch.end("encode");
        let mut conn = connection(&mut self.conn, &self.settings).await?;
        let transaction =
            Transaction { opened, write_with: self.write_with.as_ref(), expected: &expected, end };
        let result = match encoded {
            Ok(encoded) => transaction.run(&mut conn, batch, encoded, &mut watch).await,
            Err(rejection) => transaction.believe(&mut conn, rejection.into()).await,
        };
        if !result.as_ref().is_err_and(|failure| failure.taints_connection) {
            self.conn = Some(conn);
        }
        result
    }

    async fn claim_all(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, Failure> {
        let mut conn = connection(&mut self.conn, &self.settings).await?;
        let opened = self.opened.as_mut().expect("a sink is opened first");
        let claims = opened.store.claim(&mut conn, partitions, &mut opened.ownership).await?;
        self.conn = Some(conn);
        Ok(claims)
    }

    async fn move_all(&mut self, moves: &[Move]) -> Result<(), Failure> {
        let mut conn = connection(&mut self.conn, &self.settings).await?;
        let opened = self.opened.as_ref().expect("a sink is opened first");
        let moved = opened.store.reposition(&mut conn, moves, &opened.ownership).await;
        if !moved.as_ref().is_err_and(|failure| failure.taints_connection) {
            self.conn = Some(conn);
        }
        moved
    }

    async fn release_all(&mut self, partitions: &[PartitionId]) {
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

    async fn close_all(&mut self) {
        if let Some(conn) = self.conn.take() {
            // The last connection checkpoints the log; if it cannot, the next one does.
            if let Err(error) = conn.close().await {
                tracing::debug!(%error, "the file was not closed cleanly");
            }
        }
    }
}

sql_sink!(Sqlite, SqliteConnection, sqlx::Error);

impl<O> fmt::Debug for Sqlite<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite")
            .field("settings", &self.settings)
            .field("target", &self.target)
            .finish()
    }
}
