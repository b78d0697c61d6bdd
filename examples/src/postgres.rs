//! A database for the examples: tables made, numbers looked at.

use anyhow::{Context, Result};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, FromRow};

/// An open database.
#[derive(Debug)]
pub struct Database(PgConnection);

impl Database {
    /// Connects.
    ///
    /// # Errors
    /// If it does not answer, or refuses. The URL may hold a password: it is not in the error.
    pub async fn connect(url: &str) -> Result<Self> {
        let connected = PgConnection::connect(url).await;
        Ok(Self(connected.context("--postgres: no connection (scripts/servers up starts one)")?))
    }

    /// Runs statements, one behind the other.
    ///
    /// # Errors
    /// The first that fails.
    pub async fn execute(&mut self, sql: &str) -> Result<()> {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.0).await;
        done.map(|_| ()).with_context(|| sql.trim().to_owned())
    }

    /// All rows of a query with these parameters, which are text.
    ///
    /// # Errors
    /// If it fails, or its columns have other types.
    pub async fn rows<T>(&mut self, sql: &str, parameters: &[&str]) -> Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let query = sqlx::query_as(AssertSqlSafe(sql));
        let query = parameters.iter().fold(query, |query, parameter| query.bind(*parameter));
        query.fetch_all(&mut self.0).await.with_context(|| sql.trim().to_owned())
    }

    /// The one row of a query.
    ///
    /// # Errors
    /// As [`rows`](Self::rows), or if there is none.
    pub async fn row<T>(&mut self, sql: &str, parameters: &[&str]) -> Result<T>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let rows = self.rows(sql, parameters).await?;
        rows.into_iter().next().with_context(|| format!("no row: {}", sql.trim()))
    }
}
