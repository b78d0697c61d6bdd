//! The sink: what is set, and the order of steps of each call.

use std::fmt;
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tidegate::batch::Batch;
use tidegate::mutant;
use tidegate::record::PartitionId;
use tidegate::sink::{Claim, ClaimRequest, Move, SinkContext, SinkDescription, SinkError};
use tidegate_sql::{End, Failure, Offsets, Ownership, Phases, Table, Target, WriteWith, sql_sink};

use crate::check;
use crate::claim::Earlier;
use crate::connection::{Session, bounded, connect, connect_within};
use crate::copy::copy_rows_min;
use crate::settings::{Plaintext, Settings};
use crate::store::Store;
use crate::transaction::{Opened, Transaction};
use crate::write::Plan;

/// How long the end of a connection may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Writes results of type `O`, dead letters and progress into one PostgreSQL database, in one
/// transaction.
///
/// It is a [`TransactionalSink`](tidegate::sink::TransactionalSink) for exactly-once and a [`Sink`](tidegate::sink::Sink) for the weaker guarantees, where
/// progress stays with the consumer group.
pub struct Postgres<O> {
    settings: Settings,
    target: Target<O>,
    write_with: Option<WriteWith<PgConnection, O, sqlx::Error>>,
    opened: Option<Opened>,
    session: Option<Session>,
}

impl<O> Postgres<O>
where
    O: Send + Sync + 'static,
{
    /// The database at this URL: `postgres://user:password@host:port/database?sslmode=…`, or a
    /// Unix socket as `postgres:///database?host=/run/postgresql`. What the URL leaves out is
    /// taken from the environment and the password file, as PostgreSQL's own tools do.
    pub fn connect(url: &str) -> Self {
        Self {
            settings: Settings::new(url),
            target: Target::default(),
            write_with: None,
            opened: None,
            session: None,
        }
    }

    /// The schema of the bookkeeping tables: `tidegate` unless set.
    #[must_use]
    pub fn bookkeeping_schema(mut self, schema: &str) -> Self {
        schema.clone_into(&mut self.settings.schema);
        self
    }

    /// Speaks to a server on another machine without a verified certificate. Everybody on the way
    /// can read and change what is sent.
    #[must_use]
    pub fn allow_plaintext(mut self) -> Self {
        self.settings.plaintext = Plaintext::Allowed;
        self
    }

    /// The server ends a statement that runs longer; 30 s unless set.
    #[must_use]
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.settings.statement_timeout = timeout;
        self
    }

    /// The server ends a statement that waits longer for a lock; 10 s unless set. A claim that
    /// waits for an earlier owner ends that owner's session after 2 s, or a third of this if it
    /// is less.
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.settings.lock_timeout = timeout;
        self.settings.patience = Duration::from_secs(2).min(timeout / 3);
        self
    }

    /// The server ends a session that does nothing inside a transaction for longer; 10 s unless
    /// set. It bounds how long a process that was stopped can block its successor.
    #[must_use]
    pub fn idle_in_transaction_session_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout;
        self
    }

    /// How long a whole transaction may take before the connection is given up, for a server that
    /// has fallen silent; twice the statement time-out and some seconds unless set. It must leave
    /// room for all statements of [`write_with`](Self::write_with).
    #[must_use]
    pub fn answer_within(mut self, timeout: Duration) -> Self {
        self.settings.answer_within = Some(timeout);
        self
    }

    /// From how many appended rows of one table in a batch on `COPY` is used instead of `INSERT`.
    #[must_use]
    pub fn copy_rows_min(mut self, rows: usize) -> Self {
        self.settings.copy_rows_min = Some(rows);
        self
    }

    async fn open_with(
        &mut self,
        context: &SinkContext,
        offsets: Offsets,
    ) -> Result<(), SinkError> {
        let server = self.settings.parse().map_err(SinkError::Stop)?;
        let books = self.settings.bookkeeping().map_err(SinkError::Stop)?;
        let valid = self.target.validate(context, self.write_with.is_some());
        valid.map_err(SinkError::Stop)?;
        let connected = connect_within(&self.settings, &server, &context.group, context.deadline);
        let mut session = connected.await.map_err(SinkError::Stop)?;
        check::setup(&mut session.conn, &self.target.setup).await?;
        let letters = self.target.needs_dead_letters(context);
        if letters || offsets == Offsets::Stored {
            check::bookkeeping(&mut session.conn, &books, self.target.may_create()).await?;
        }
        let mut known = Vec::with_capacity(self.target.tables.len());
        for table in &self.target.tables {
            known.push(check::table(&mut session.conn, table).await?);
        }
        // A rule on a table cannot be part of the one statement.
        let in_steps = self.write_with.is_some() || known.iter().any(|known| known.has_rules);
        let plan = Plan::new(
            &self.target.tables,
            known,
            letters.then_some(&books),
            (&context.group, offsets, in_steps),
            self.copies_from(server.is_socket()),
            &books.progress,
        );
        self.opened = Some(Opened {
            plan,
            ownership: Ownership::default(),
            earlier: Earlier::default(),
            store: Store {
                books,
                group: context.group.clone(),
                settings: self.settings.clone(),
                server,
            },
        });
        self.session = Some(session);
        Ok(())
    }

    fn copies_from(&self, is_socket: bool) -> usize {
        let set = self.settings.copy_rows_min;
        set.unwrap_or_else(|| copy_rows_min(is_socket))
    }

    fn description(&self) -> SinkDescription {
        let server = self.settings.parse();
        let copies_from = server.as_ref().map(|server| self.copies_from(server.is_socket()));
        let mut notes = vec![match &self.write_with {
            None => "a batch is one statement: compare, rows by UNNEST, dead letters".to_owned(),
            Some(_) => "rows by UNNEST, then your own SQL, then the compare".to_owned(),
        }];
        match copies_from {
            Ok(rows) if rows < usize::MAX => {
                notes.push(format!("from {rows} appended rows on by COPY"));
            }
            _ => {}
        }
        let server = server.map_or_else(|error| error.to_string(), |server| server.to_string());
        SinkDescription {
            kind: "postgres".to_owned(),
            target: format!("{server}: {}", self.target.labels().join(", ")),
            notes,
            bound_to: None,
        }
    }

    /// One batch in one transaction. The session is taken out and put back only when it is known
    /// to be clean, so a future that is dropped half-way closes it, which rolls back.
    async fn store(&mut self, batch: &Batch<O>, offsets: Offsets, end: End) -> Result<(), Failure> {
        let opened = self.opened.as_ref().expect("a sink is opened first");
        let expected = match offsets {
            Offsets::Stored => opened.ownership.expect(batch.spans())?,
            Offsets::Elsewhere => Vec::new(),
        };
        let mut watch = Phases::start(&opened.store.group, end);
        let encoded = opened.plan.encode(&self.target.tables, batch);
        watch.end("encode");
        let mut session = session(&mut self.session, opened).await?;
        let transaction = Transaction {
            opened,
            pid: session.pid,
            tables: &self.target.tables,
            write_with: self.write_with.as_ref(),
            offsets,
            expected: &expected,
            end,
        };
        let result = match encoded {
            Ok(encoded) => transaction.run(&mut session.conn, batch, encoded, &mut watch).await,
            Err(rejection) => transaction.believe(&mut session.conn, rejection.into()).await,
        };
        let tainted = result.as_ref().is_err_and(|failure| failure.taints_connection);
        if !tainted || mutant::is("M44") {
            self.session = Some(session);
        }
        result
    }

    async fn claim_all(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, Failure> {
        let opened = self.opened.as_mut().expect("a sink is opened first");
        let within = self.settings.answer_within();
        let mut session = session(&mut self.session, opened).await?;
        let Opened { store, ownership, earlier, .. } = opened;
        let claims = store.claim(&mut session, partitions, ownership, earlier);
        let claims = bounded(within, claims).await?;
        self.session = Some(session);
        Ok(claims)
    }

    async fn move_all(&mut self, moves: &[Move]) -> Result<(), Failure> {
        let opened = self.opened.as_ref().expect("a sink is opened first");
        let within = self.settings.answer_within();
        let mut session = session(&mut self.session, opened).await?;
        let moved = opened.store.reposition(&mut session, moves, &opened.ownership);
        let moved = bounded(within, moved).await;
        if !moved.as_ref().is_err_and(|failure| failure.taints_connection) {
            self.session = Some(session);
        }
        moved
    }

    async fn release_all(&mut self, partitions: &[PartitionId]) {
        let Some(opened) = self.opened.as_mut() else {
            return;
        };
        let held = opened.ownership.give_up(partitions);
        let Some(mut session) = self.session.take() else {
            return;
        };
        let within = self.settings.answer_within();
        match bounded(within, opened.store.release(&mut session.conn, &held)).await {
            Ok(()) => self.session = Some(session),
            Err(failure) => tracing::warn!(cause = %failure.cause, "claims were not handed back"),
        }
    }

    async fn close_all(&mut self) {
        if let Some(session) = self.session.take() {
            // The server notices a closed socket as well, so nobody waits for long.
            let closed = tokio::time::timeout(CLOSE_MAX, session.conn.close()).await;
            if !matches!(closed, Ok(Ok(()))) {
                tracing::debug!("the connection was not closed cleanly");
            }
        }
    }
}

/// The session that is left, or a new one that is recorded as the owner's.
async fn session(left: &mut Option<Session>, opened: &Opened) -> Result<Session, Failure> {
    if let Some(session) = left.take() {
        return Ok(session);
    }
    let store = &opened.store;
    let mut session = connect(&store.settings, &store.server, &store.group).await?;
    let adopted = store.adopt(&mut session, &opened.ownership);
    bounded(store.settings.answer_within(), adopted).await?;
    Ok(session)
}

sql_sink!(Postgres, PgConnection, sqlx::Error);

impl<O> fmt::Debug for Postgres<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("settings", &self.settings)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}
