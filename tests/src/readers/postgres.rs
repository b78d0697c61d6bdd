//! The tables of PostgreSQL.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::Tables;
use crate::audit::{Output, Partition};

const COLUMNS: &str = "topic, partition, \"offset\", i, key, value";

pub(super) async fn create_counted_table(url: &str) -> Result<()> {
    let mut database = PgConnection::connect(url).await?;
    sqlx::raw_sql(
        "create table copied (topic text, partition int, \"offset\" bigint, i int, key bytea, value bytea, \
         pid int, seq bigserial)",
    )
    .execute(&mut database)
    .await?;
    Ok(database.close().await?)
}

pub(super) async fn read(url: &str, group: &str) -> Result<Tables> {
    let mut database = PgConnection::connect(url).await?;
    sqlx::raw_sql("begin isolation level repeatable read, read only")
        .execute(&mut database)
        .await?;
    let mut tables = Tables::default();
    if exists(&mut database, "copied").await? {
        tables.in_order = has_column(&mut database, "copied", "seq").await?;
        let order = if tables.in_order { "seq" } else { "ctid" };
        let select = format!("select {COLUMNS} from copied order by {order}");
        tables.copied = outputs(&mut database, select, None).await?;
    }
    if exists(&mut database, "tidegate.dead_letter").await? {
        let select = "select topic, partition, \"offset\", 0 as i, key, value from tidegate.dead_letter \
                      where group_id = $1 order by id";
        tables.dead = outputs(&mut database, select.to_owned(), Some(group)).await?;
    }
    tables.progress = progress(&mut database, group).await?;
    database.close().await?;
    Ok(tables)
}

pub(super) async fn read_progress(url: &str, group: &str) -> Result<BTreeMap<Partition, i64>> {
    let mut database = PgConnection::connect(url).await?;
    let progress = progress(&mut database, group).await?;
    database.close().await?;
    Ok(progress)
}

pub(super) async fn progress(
    database: &mut PgConnection,
    group: &str,
) -> Result<BTreeMap<Partition, i64>> {
    let mut progress = BTreeMap::new();
    if exists(database, "tidegate.progress").await? {
        let select =
            "select topic, partition, next_offset from tidegate.progress where group_id = $1";
        for row in sqlx::query(select).bind(group).fetch_all(database).await? {
            let partition = (row.try_get::<String, _>(0)?.into(), row.try_get(1)?);
            let other = progress.insert(partition, row.try_get(2)?);
            ensure!(other.is_none(), "one partition has two rows of progress");
        }
    }
    Ok(progress)
}

async fn outputs(
    database: &mut PgConnection,
    select: String,
    group: Option<&str>,
) -> Result<Vec<Output>> {
    let mut query = sqlx::query(AssertSqlSafe(select));
    if let Some(group) = group {
        query = query.bind(group.to_owned());
    }
    let rows = query.fetch_all(database).await?;
    let output = |(place, row): (usize, sqlx::postgres::PgRow)| {
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

async fn exists(database: &mut PgConnection, table: &str) -> Result<bool> {
    Ok(sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(table)
        .fetch_one(database)
        .await?)
}

async fn has_column(database: &mut PgConnection, table: &str, column: &str) -> Result<bool> {
    let select = "select exists (select from pg_attribute where attrelid = to_regclass($1) and attname = $2)";
    Ok(sqlx::query_scalar(select).bind(table).bind(column).fetch_one(database).await?)
}
