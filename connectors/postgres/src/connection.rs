//! Sessions, and the one place where generated text becomes SQL.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgConnection, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions, Row};
use tidegate::{Cause, Error};
use tidegate_sql::{Failure, Fate};
use tokio::time::{sleep, timeout};

use crate::error::connecting;
use crate::settings::{Server, Settings};

/// How long one attempt to connect may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// The oldest server that knows everything we use: `pg_current_xact_id` came with it.
const SERVER_VERSION_MIN: i32 = 130_000;

/// A query from generated text. Whatever stands in it is a constant of this crate or went through
/// `tidegate_sql::quote`.
pub(crate) fn query(text: &Arc<str>) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(AssertSqlSafe(Arc::clone(text)))
}

/// A connection and what the server calls it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn: PgConnection,
    pub(crate) pid: i32,
    /// When the backend started, as the server writes it: with the number it names one backend
    /// for ever, because numbers come again.
    pub(crate) backend_start: String,
}

/// Opens a session on a server that takes writes.
pub(crate) async fn connect(
    settings: &Settings,
    server: &Server,
    group: &str,
) -> Result<Session, Failure> {
    let application = format!("tidegate/{group}");
    let options = settings.session(server, &application);
    let attempt = async {
        let mut conn = options.connect().await?;
        let row = sqlx::query(
            "SELECT pg_backend_pid(), \
             (SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()), \
             pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', \
             current_setting('server_version_num')::integer",
        )
        .fetch_one(&mut conn)
        .await?;
        // Where the server's system can, it notices within seconds that a client is gone, also in
        // the middle of a statement. Where it cannot, it refuses the setting.
        let notices = sqlx::query("SET client_connection_check_interval = '2s'");
        if let Err(error) = notices.execute(&mut conn).await {
            tracing::debug!(%error, "a lost client is noticed at the end of its statement only");
        }
        Ok((conn, row))
    };
    let (conn, row) = match timeout(CONNECT_MAX, attempt).await {
        Ok(result) => result.map_err(|error| connecting(error, server.is_socket()))?,
        Err(_) => {
            let cause = Cause::new(format_args!("{server} does not answer"));
            return Err(Failure::new(Fate::Reconnect, cause));
        }
    };
    let version: i32 = row.get(3);
    if version < SERVER_VERSION_MIN {
        let cause = Cause::new(format_args!("{server} is older than PostgreSQL 13"));
        return Err(Failure::new(Fate::Operator, cause));
    }
    if row.get::<bool, _>(2) {
        let cause = Cause::new(format_args!("{server} is read-only or in recovery"));
        return Err(Failure::new(Fate::Reconnect, cause));
    }
    Ok(Session { conn, pid: row.get(0), backend_start: row.get(1) })
}

/// Waits so long for an answer. The server's own time-outs come first as long as it can be
/// reached; if it cannot, the connection is given up.
pub(crate) async fn bounded<T>(
    within: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    timeout(within, work).await.unwrap_or_else(|_| {
        let cause = Cause::new(format_args!("the database gave no answer within {within:?}"));
        Err(Failure::new(Fate::Reconnect, cause))
    })
}

/// Connects, waiting while the server cannot be reached, starts up or is read-only.
pub(crate) async fn connect_within(
    settings: &Settings,
    server: &Server,
    group: &str,
    deadline: Duration,
) -> Result<Session, Error> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(100);
    loop {
        let failure = match connect(settings, server, group).await {
            Ok(session) => return Ok(session),
            Err(failure) => failure,
        };
        if failure.fate == Fate::Operator {
            let problem = format_args!("{server} refuses the connection");
            return Err(Error::configuration("postgres url", problem).with_source(failure.cause));
        }
        if Instant::now() + pause >= end {
            return Err(Error::deadline(format_args!(
                "{server} could not be used within {deadline:?}"
            ))
            .with_source(failure.cause)
            .remedy("check that the server runs, is the primary and can be reached"));
        }
        tracing::info!(server = %server, cause = %failure.cause, "waiting for the database");
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}
