//! The tables that rows are copied into, and the loops' own progress.

use anyhow::Result;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

use crate::load::PARTITIONS;

/// The loops' table of offsets.
pub(crate) const PROGRESS: &str = "loop_progress";

/// What was stored: rows, and how many of them are different.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub(crate) rows: i64,
    pub(crate) different: i64,
}

fn creation(bytes: &str) -> String {
    let mut text = format!(
        "CREATE TABLE bench (partition integer, \"offset\" bigint, key {bytes}, value {bytes});
         CREATE TABLE {PROGRESS} (partition integer PRIMARY KEY, next_offset bigint NOT NULL);"
    );
    for partition in 0..PARTITIONS {
        text.push_str(&format!("INSERT INTO {PROGRESS} VALUES ({partition}, 0);"));
    }
    text
}

const COUNT: &str = "SELECT count(*) AS rows, \
     (SELECT count(*) FROM (SELECT DISTINCT partition, \"offset\" FROM bench) AS d) AS different \
     FROM bench";

/// Creates empty tables.
pub(crate) async fn create_in_postgres(url: &str) -> Result<()> {
    let mut database = sqlx::PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(creation("bytea"))).execute(&mut database).await?;
    Ok(database.close().await?)
}

pub(crate) async fn stored_in_postgres(url: &str) -> Result<Stored> {
    let mut database = sqlx::PgConnection::connect(url).await?;
    // A new table has no statistics: taken for small, what is different was gathered in a hash table that spilt over
    // and over, for minutes with 1.5 million rows. Sorting takes a second.
    sqlx::query("SET enable_hashagg = off").execute(&mut database).await?;
    let row = sqlx::query(COUNT).fetch_one(&mut database).await?;
    let stored = Stored { rows: row.get(0), different: row.get(1) };
    database.close().await?;
    Ok(stored)
}

/// As [`create_in_postgres`], in a new file.
pub(crate) async fn create_in_sqlite(path: &str) -> Result<()> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut database = options.connect().await?;
    sqlx::raw_sql(AssertSqlSafe(creation("blob"))).execute(&mut database).await?;
    Ok(database.close().await?)
}

pub(crate) async fn stored_in_sqlite(path: &str) -> Result<Stored> {
    let mut database = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await?;
    let row = sqlx::query(COUNT).fetch_one(&mut database).await?;
    let stored = Stored { rows: row.get(0), different: row.get(1) };
    database.close().await?;
    Ok(stored)
}
