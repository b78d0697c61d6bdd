//! The tables of SQLite.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{Connection, Row, SqliteConnection};

use super::Tables;
use crate::audit::{Output, Partition};

pub(super) async fn read(path: &Path, group: &str) -> Result<Tables> {
    let Some(mut database) = open(path).await? else { return Ok(Tables::default()) };
    // In WAL mode a reader sees one moment from its first statement on.
    sqlx::raw_sql("begin").execute(&mut database).await?;
    // Rows are numbered as they come, and only one writer at a time can come.
    let mut tables = Tables { in_order: true, ..Tables::default() };
    if exists(&mut database, "copied").await? {
        let select =
            "select topic, partition, \"offset\", i, key, value from copied order by rowid";
        let rows = sqlx::query(select).fetch_all(&mut database).await?;
        tables.copied = outputs(rows)?;
    }
    if exists(&mut database, "tidegate_dead_letter").await? {
        let select = "select topic, partition, \"offset\", 0, key, value from tidegate_dead_letter \
                      where group_id = $1 order by id";
        tables.dead = outputs(sqlx::query(select).bind(group).fetch_all(&mut database).await?)?;
    }
    tables.progress = progress(&mut database, group).await?;
    database.close().await?;
    Ok(tables)
}

pub(super) async fn read_progress(path: &Path, group: &str) -> Result<BTreeMap<Partition, i64>> {
    let Some(mut database) = open(path).await? else { return Ok(BTreeMap::new()) };
    let progress = progress(&mut database, group).await?;
    database.close().await?;
    Ok(progress)
}

/// The file, unless nobody has made it yet.
pub(super) async fn open(path: &Path) -> Result<Option<SqliteConnection>> {
    if !path.exists() {
        return Ok(None);
    }
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(30));
    Ok(Some(SqliteConnection::connect_with(&options).await?))
}

pub(super) async fn progress(
    database: &mut SqliteConnection,
    group: &str,
) -> Result<BTreeMap<Partition, i64>> {
    let mut progress = BTreeMap::new();
    if exists(database, "tidegate_progress").await? {
        let select =
            "select topic, partition, next_offset from tidegate_progress where group_id = $1";
        for row in sqlx::query(select).bind(group).fetch_all(database).await? {
            let partition = (row.try_get::<String, _>(0)?.into(), row.try_get(1)?);
            let other = progress.insert(partition, row.try_get(2)?);
            ensure!(other.is_none(), "one partition has two rows of progress");
        }
    }
    Ok(progress)
}

fn outputs(rows: Vec<SqliteRow>) -> Result<Vec<Output>> {
    let output = |(place, row): (usize, SqliteRow)| {
        Ok(Output {
            source: (
                (row.try_get::<String, _>(0)?.into(), row.try_get(1)?),
                row.try_get(2)?,
                row.try_get(3)?,
            ),
            stream: 0,
            place: i64::try_from(place)?,
            key: row.try_get(4)?,
            value: row.try_get(5)?,
        })
    };
    rows.into_iter().enumerate().map(output).collect()
}

async fn exists(database: &mut SqliteConnection, table: &str) -> Result<bool> {
    let select = "select exists (select 1 from sqlite_master where type = 'table' and name = $1)";
    Ok(sqlx::query_scalar(select).bind(table).fetch_one(database).await?)
}
