//! The database as the parent sees it: plain SQL, nothing of Tidegate's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, FromRow};

/// Where everything is in PostgreSQL.
pub(crate) const SCHEMA: &str = "quickstart";

/// Where the results go.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub(crate) enum Store {
    Sqlite(PathBuf),
    Postgres(String),
}

/// The names of the tables.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) flights: String,
    pub(crate) routes: String,
    dead_letter: String,
    progress: String,
    /// The miles of a dead letter, whose value is bytes.
    dead_miles: &'static str,
}

/// An open database.
pub(crate) struct Database {
    connection: Open,
    names: Names,
}

enum Open {
    Sqlite(SqliteConnection),
    Postgres(Box<PgConnection>),
}

/// Both databases understand these words.
const TABLES: &str = "
    CREATE TABLE {flights} (
        departed text NOT NULL,
        origin text NOT NULL, origin_city text NOT NULL,
        destination text NOT NULL, destination_city text NOT NULL,
        miles bigint NOT NULL, delay integer NOT NULL,
        source_topic text, source_partition integer, source_offset bigint, source_index integer
    );
    CREATE TABLE {routes} (
        origin text NOT NULL, destination text NOT NULL,
        flights bigint NOT NULL, miles bigint NOT NULL, delay bigint NOT NULL,
        PRIMARY KEY (origin, destination)
    );";

impl Store {
    pub(crate) fn names(&self) -> Names {
        match self {
            Self::Sqlite(_) => Names {
                flights: "flights".into(),
                routes: "routes".into(),
                dead_letter: "tidegate_dead_letter".into(),
                progress: "tidegate_progress".into(),
                dead_miles: "json_extract(CAST(value AS text), '$.distance')",
            },
            Self::Postgres(_) => Names {
                flights: format!("{SCHEMA}.flights"),
                routes: format!("{SCHEMA}.routes"),
                dead_letter: format!("{SCHEMA}.dead_letter"),
                progress: format!("{SCHEMA}.progress"),
                dead_miles: "(convert_from(value, 'UTF8')::json ->> 'distance')::bigint",
            },
        }
    }

    /// Makes it anew, with empty tables. A file that was named by the user is never replaced.
    pub(crate) async fn create(&self, replace: Replace) -> Result<Database> {
        if let Self::Sqlite(path) = self {
            match replace {
                Replace::Yes => make_way(path)?,
                Replace::No => {
                    ensure!(!path.exists(), "--sqlite: {} exists already", path.display());
                }
            }
        }
        let mut database = self.open().await?;
        if matches!(self, Self::Postgres(_)) {
            let anew = format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}");
            database.execute(&anew).await?;
        }
        database.execute(TABLES).await?;
        Ok(database)
    }

    async fn open(&self) -> Result<Database> {
        let connection = match self {
            Self::Sqlite(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .busy_timeout(Duration::from_secs(10));
                let opened = options.connect().await;
                Open::Sqlite(opened.with_context(|| format!("--sqlite: {}", path.display()))?)
            }
            Self::Postgres(url) => {
                // The URL may hold a password: it is never shown.
                let opened = PgConnection::connect(url).await;
                Open::Postgres(Box::new(opened.context("--postgres: no connection")?))
            }
        };
        Ok(Database { connection, names: self.names() })
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("SQLite, {}", path.display()),
            Self::Postgres(_) => format!("PostgreSQL, schema {SCHEMA}"),
        }
    }
}

/// Whether a file may be replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Replace {
    Yes,
    No,
}

/// Removes what is there and makes the directory.
fn make_way(path: &Path) -> Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("{} cannot be made", directory.display()))?;
    }
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("{} cannot be replaced", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Database {
    /// Progress as it is stored: how many records are done. Before the first start there is none.
    pub(crate) async fn done(&mut self) -> i64 {
        let sum = "SELECT CAST(coalesce(sum(next_offset), 0) AS bigint) FROM {progress}";
        self.row::<(i64,)>(sum).await.map_or(0, |(done,)| done)
    }

    /// The one row of a query. Braces are filled in with the tables' names.
    pub(crate) async fn row<T>(&mut self, sql: &str) -> Result<T>
    where
        T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let rows = self.rows(sql).await?;
        rows.into_iter().next().with_context(|| format!("no row: {sql}"))
    }

    /// All rows of a query.
    pub(crate) async fn rows<T>(&mut self, sql: &str) -> Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let text = self.names.fill(sql);
        let rows = match &mut self.connection {
            Open::Sqlite(open) => sqlx::query_as(AssertSqlSafe(text)).fetch_all(open).await,
            Open::Postgres(open) => {
                sqlx::query_as(AssertSqlSafe(text)).fetch_all(&mut **open).await
            }
        };
        rows.with_context(|| format!("the query failed: {sql}"))
    }

    /// Runs statements, one behind the other.
    pub(crate) async fn execute(&mut self, sql: &str) -> Result<()> {
        let text = AssertSqlSafe(self.names.fill(sql));
        match &mut self.connection {
            Open::Sqlite(open) => sqlx::raw_sql(text).execute(open).await.map(|_| ()),
            Open::Postgres(open) => sqlx::raw_sql(text).execute(&mut **open).await.map(|_| ()),
        }
        .context("the tables were not made")
    }
}

impl Names {
    fn fill(&self, sql: &str) -> String {
        [
            ("{flights}", &*self.flights),
            ("{routes}", &self.routes),
            ("{dead_letter}", &self.dead_letter),
            ("{progress}", &self.progress),
            ("{dead_miles}", self.dead_miles),
        ]
        .iter()
        .fold(sql.to_owned(), |sql, (name, value)| sql.replace(name, value))
    }
}
