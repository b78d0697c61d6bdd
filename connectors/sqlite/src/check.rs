//! What is looked at before anything is consumed: bookkeeping tables and the tables for results.

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};
use tidegate::Error;
use tidegate::sink::SinkError;
use tidegate_sql::{
    Actual, ActualColumn, Bookkeeping, Fit, Kind, Limit, PROGRESS_VERSION, Table, check,
    creation_refused, version_refused,
};

use crate::connection::query;
use crate::encode::{Affinity, refuses};
use crate::error::before;

/// The statements that create the bookkeeping tables.
const SCHEMA: &str = include_str!("schema.sql");

/// A fault of this call: temporary ones are tried again, the others end the start.
fn failed(error: sqlx::Error) -> SinkError {
    before(error).into_sink_error()
}

/// Makes sure that the bookkeeping tables exist in our version; creates them if that is allowed.
pub(crate) async fn bookkeeping(
    conn: &mut SqliteConnection,
    books: &Bookkeeping,
    may_create: bool,
) -> Result<(), SinkError> {
    let mut missing = Vec::new();
    for table in [&books.version, &books.progress, &books.dead_letter] {
        if !exists(conn, table).await.map_err(failed)? {
            missing.push(table.as_str());
        }
    }
    if !missing.is_empty() {
        let ddl = books.ddl(SCHEMA);
        if !may_create {
            return Err(SinkError::Stop(creation_refused(&missing.join(", "), &ddl)));
        }
        create(conn, ddl).await.map_err(failed)?;
    }
    version(conn, books).await.map_err(SinkError::Stop)
}

/// Runs the user's statements.
pub(crate) async fn setup(
    conn: &mut SqliteConnection,
    statements: &[String],
) -> Result<(), SinkError> {
    if statements.is_empty() {
        return Ok(());
    }
    let done = create(conn, statements.join(";\n")).await;
    done.map_err(|error| before(error).into_setup_error())
}

/// Runs statements in one transaction, one process at a time.
async fn create(conn: &mut SqliteConnection, ddl: String) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
    // The names in it are quoted, or it is the user's own.
    sqlx::raw_sql(sqlx::AssertSqlSafe(ddl)).execute(&mut *tx).await?;
    tx.commit().await
}

async fn exists(conn: &mut SqliteConnection, quoted: &str) -> Result<bool, sqlx::Error> {
    let name = quoted.trim_matches('"').replace("\"\"", "\"");
    let found = sqlx::query("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?")
        .bind(name)
        .fetch_optional(conn)
        .await?;
    Ok(found.is_some())
}

/// Refuses bookkeeping tables of another version.
pub(crate) async fn version(conn: &mut SqliteConnection, books: &Bookkeeping) -> Result<(), Error> {
    let text = format!("SELECT max(version) FROM {}", books.version);
    let row = query(&text.into()).fetch_one(conn).await;
    let row = row.map_err(|error| Error::sink_failed(crate::error::cause(&error)))?;
    match row.try_get::<Option<i32>, _>(0) {
        Ok(Some(PROGRESS_VERSION)) => Ok(()),
        found => Err(version_refused(&books.version, found.ok().flatten())),
    }
}

/// What is known of a table for results.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) affinities: Vec<Affinity>,
    pub(crate) limits: Vec<Limit>,
}

/// Compares a table's description with the real table.
pub(crate) async fn table<O>(
    conn: &mut SqliteConnection,
    table: &Table<O>,
) -> Result<Known, SinkError> {
    let name = table.name();
    let schema = name.schema().unwrap_or("main").to_owned();
    let found = sqlx::query("SELECT type FROM pragma_table_list WHERE schema = ? AND name = ?")
        .bind(schema.clone())
        .bind(name.table())
        .fetch_optional(&mut *conn)
        .await
        .map_err(failed)?;
    let stop = |problem: &str, remedy: &str| {
        let setting = format!("table {}", table.label());
        SinkError::Stop(Error::configuration(&setting, problem).remedy(remedy))
    };
    match found.map(|row| row.get::<String, _>(0)).as_deref() {
        None => return Err(stop("does not exist", "create it; the sink never does")),
        Some("table") => {}
        Some(other) => {
            let problem = format!("is a {other}, not a table");
            return Err(stop(&problem, "write to the table itself"));
        }
    }
    let actual = actual(conn, &schema, name.table()).await.map_err(failed)?;
    let fits = |kind: Kind, real: &ActualColumn| {
        if kind == Kind::Numeric && adds(table, &real.name) {
            return Fit::Refuses(
                "SQLite cannot add decimals exactly: count the smallest unit with `int8_add`"
                    .into(),
            );
        }
        if kind == Kind::Numeric && table.key().contains(&real.name) {
            return Fit::Refuses(
                "as a key it needs type text or an integer: 1.0 is not 1.00".into(),
            );
        }
        refuses(kind, Affinity::of(&real.type_name))
            .map_or(Fit::Takes, |remedy| Fit::Refuses(remedy.into()))
    };
    let limits = check(table, &actual, fits).map_err(SinkError::Stop)?;
    let affinity = |name: &str| {
        let real = actual.columns.iter().find(|real| real.name == name);
        Affinity::of(&real.expect("the check found every column").type_name)
    };
    Ok(Known { affinities: table.columns().iter().map(|c| affinity(c.name())).collect(), limits })
}

fn adds<O>(table: &Table<O>, name: &str) -> bool {
    let column = table.columns().iter().find(|column| column.name() == name);
    column.is_some_and(|column| column.role() == tidegate_sql::Role::Add)
}

async fn actual(
    conn: &mut SqliteConnection,
    schema: &str,
    table: &str,
) -> Result<Actual, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?, ?)",
    )
    .bind(table.to_owned())
    .bind(schema.to_owned())
    .fetch_all(&mut *conn)
    .await?;
    let mut actual = Actual::default();
    let mut primary = Vec::new();
    for row in rows {
        let name: String = row.get(0);
        let not_null = row.get::<i64, _>(2) != 0;
        let default: Option<String> = row.get(3);
        let hidden: i64 = row.get(5);
        let type_name: String = row.get(1);
        if row.get::<i64, _>(4) > 0 {
            primary.push((name.clone(), type_name.eq_ignore_ascii_case("integer")));
        }
        actual.columns.push(ActualColumn {
            name,
            type_name,
            optional: !not_null || default.is_some() || hidden != 0,
            generated: hidden != 0,
            limit: Limit { not_null, ..Limit::default() },
        });
    }
    actual.unique = unique(conn, schema, table).await?;
    // The row's own number has no index; every other primary key has one.
    if let [(name, true)] = &primary[..] {
        actual.unique.push(vec![name.clone()]);
    }
    Ok(actual)
}

/// The columns of each index that `ON CONFLICT` can use and that compares as the client does.
async fn unique(
    conn: &mut SqliteConnection,
    schema: &str,
    table: &str,
) -> Result<Vec<Vec<String>>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT i.name, c.name, c.coll FROM pragma_index_list(?1, ?2) AS i, \
         pragma_index_xinfo(i.name, ?2) AS c \
         WHERE i.\"unique\" = 1 AND i.partial = 0 AND c.key = 1 ORDER BY i.name, c.seqno",
    )
    .bind(table.to_owned())
    .bind(schema.to_owned())
    .fetch_all(conn)
    .await?;
    let mut indexes: Vec<(String, Option<Vec<String>>)> = Vec::new();
    for row in rows {
        let index: String = row.get(0);
        // An expression has no name; another collation makes different texts equal.
        let column: Option<String> = row.get(1);
        let column = column.filter(|_| row.get::<String, _>(2) == "BINARY");
        if indexes.last().is_none_or(|(last, _)| *last != index) {
            indexes.push((index, Some(Vec::new())));
        }
        let (_, columns) = indexes.last_mut().expect("an index was just pushed");
        match (columns.as_mut(), column) {
            (Some(columns), Some(column)) => columns.push(column),
            _ => *columns = None,
        }
    }
    Ok(indexes.into_iter().filter_map(|(_, columns)| columns).collect())
}

/// Whether some table has a foreign key that is checked at `COMMIT` only.
pub(crate) async fn has_deferred_keys(conn: &mut SqliteConnection) -> Result<bool, SinkError> {
    let found = sqlx::query(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%INITIALLY%DEFERRED%'",
    )
    .fetch_optional(conn)
    .await
    .map_err(failed)?;
    Ok(found.is_some())
}

/// How many rows break a foreign key. SQLite cannot check deferred keys before `COMMIT`, so a
/// probe counts, which reads every table that has one.
pub(crate) async fn broken_keys(conn: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let row = sqlx::query("SELECT count(*) FROM pragma_foreign_key_check").fetch_one(conn).await?;
    row.try_get(0)
}
