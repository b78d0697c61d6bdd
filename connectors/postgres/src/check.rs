//! What is looked at before anything is consumed: bookkeeping tables and the tables for results.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};
use tidegate::Error;
use tidegate::sink::SinkError;
use tidegate_sql::{
    Actual, ActualColumn, Bookkeeping, Failure, Fit, Kind, Limit, PROGRESS_VERSION, Role, Table,
    check, creation_refused, version_refused,
};

use crate::connection::query;
use crate::error::{before, cause};

/// The statements that create the bookkeeping tables.
const SCHEMA: &str = include_str!("schema.sql");

/// Two instances that start at once must not both create tables.
const CREATION_LOCK: i64 = 0x7469_6465_6761_7465;

fn failed(error: sqlx::Error) -> SinkError {
    before(error).into_sink_error()
}

/// Makes sure that the bookkeeping tables exist in our version and can be used; creates them if
/// that is allowed.
pub(crate) async fn bookkeeping(
    conn: &mut PgConnection,
    books: &Bookkeeping,
    may_create: bool,
) -> Result<(), SinkError> {
    let missing = missing(conn, books).await.map_err(failed)?;
    if !missing.is_empty() {
        let ddl = books.ddl(SCHEMA);
        let missing = missing.join(", ");
        if !may_create {
            return Err(SinkError::Stop(creation_refused(&missing, &ddl)));
        }
        create(conn, &ddl).await.map_err(|failure| {
            SinkError::Stop(
                Error::sink_failed(format_args!("bookkeeping tables are missing: {missing}"))
                    .with_source(failure.cause)
                    .remedy(format_args!("have them created:\n{ddl}")),
            )
        })?;
    }
    version(conn, books).await.map_err(SinkError::Stop)?;
    for (table, rights) in [
        (&books.progress, &["SELECT", "INSERT", "UPDATE"][..]),
        (&books.dead_letter, &["INSERT"][..]),
    ] {
        rights_to(conn, table, rights).await?;
    }
    Ok(())
}

/// The bookkeeping tables that do not exist.
pub(crate) async fn missing(
    conn: &mut PgConnection,
    books: &Bookkeeping,
) -> Result<Vec<String>, sqlx::Error> {
    let mut missing = Vec::new();
    for table in [&books.version, &books.progress, &books.dead_letter] {
        let row = sqlx::query("SELECT to_regclass($1) IS NULL").bind(table.clone());
        if row.fetch_one(&mut *conn).await?.get(0) {
            missing.push(table.clone());
        }
    }
    Ok(missing)
}

/// Runs the user's statements.
pub(crate) async fn setup(conn: &mut PgConnection, statements: &[String]) -> Result<(), SinkError> {
    if statements.is_empty() {
        return Ok(());
    }
    create(conn, &statements.join(";\n")).await.map_err(Failure::into_setup_error)
}

/// Runs statements in one transaction, one process at a time.
async fn create(conn: &mut PgConnection, ddl: &str) -> Result<(), Failure> {
    let mut tx = conn.begin().await.map_err(before)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(CREATION_LOCK)
        .execute(&mut *tx)
        .await
        .map_err(before)?;
    // A backend remembers that a schema is missing until it locks a relation, whatever others have
    // created while it waited: `IF NOT EXISTS` would go by what it remembers, and fail.
    let look = "SELECT FROM pg_catalog.pg_namespace LIMIT 0";
    sqlx::query(look).execute(&mut *tx).await.map_err(before)?;
    // The names in it are quoted, or it is the user's own.
    sqlx::raw_sql(AssertSqlSafe(ddl.to_owned())).execute(&mut *tx).await.map_err(before)?;
    tx.commit().await.map_err(before)
}

/// Refuses bookkeeping tables of another version.
pub(crate) async fn version(conn: &mut PgConnection, books: &Bookkeeping) -> Result<(), Error> {
    let text = format!("SELECT max(version) FROM {}", books.version);
    let row = query(&text.into()).fetch_one(conn).await;
    let row = row.map_err(|error| Error::sink_failed(cause(&error)))?;
    match row.try_get::<Option<i32>, _>(0) {
        Ok(Some(PROGRESS_VERSION)) => Ok(()),
        found => Err(version_refused(&books.version, found.ok().flatten())),
    }
}

/// Refuses a bookkeeping table that this user may not use, or sees only in part.
async fn rights_to(conn: &mut PgConnection, table: &str, rights: &[&str]) -> Result<(), SinkError> {
    for right in rights {
        let row = sqlx::query(
            "SELECT has_table_privilege($1, $2), row_security_active($1), current_user::text",
        )
        .bind(table.to_owned())
        .bind((*right).to_owned())
        .fetch_one(&mut *conn)
        .await
        .map_err(failed)?;
        let user: String = row.get(2);
        if !row.get::<bool, _>(0) {
            let problem = format!("user {user:?} has no right to {right} in {table}");
            return Err(SinkError::Stop(
                Error::sink_failed(problem)
                    .remedy(format_args!("GRANT {right} ON {table} TO {user}")),
            ));
        }
        if row.get(1) {
            let problem = format!("row level security hides rows of {table} from {user:?}");
            return Err(SinkError::Stop(
                Error::sink_failed(problem).remedy("exempt the user: a hidden row looks lost"),
            ));
        }
    }
    Ok(())
}

/// What is known of a table for results.
#[derive(Debug)]
pub(crate) struct Known {
    /// The quoted name with its schema, found by the search path once and for all.
    pub(crate) target: String,
    pub(crate) limits: Vec<Limit>,
    /// What the text of a column is cast to, where no cast is implied: an enumeration.
    pub(crate) casts: Vec<Option<String>>,
    /// Whether `COPY` writes what `INSERT` would.
    pub(crate) takes_copy: bool,
    /// Whether rules rewrite what is inserted.
    pub(crate) has_rules: bool,
}

/// A real column with what only PostgreSQL knows of it.
struct Real {
    column: ActualColumn,
    /// The name of its type, of the type underneath for a domain.
    base: String,
    enumeration: bool,
    /// Whether two different texts are always different keys.
    exact: bool,
    insert: bool,
    update: bool,
    select: bool,
}

/// Compares a table's description with the real table.
pub(crate) async fn table<O>(
    conn: &mut PgConnection,
    table: &Table<O>,
) -> Result<Known, SinkError> {
    let stop = |problem: String, remedy: &str| {
        let setting = format!("table {}", table.label());
        SinkError::Stop(Error::configuration(&setting, problem).remedy(remedy))
    };
    let found = sqlx::query(
        "SELECT c.oid::bigint, format('%I.%I', n.nspname, c.relname), c.relkind::text, \
         row_security_active(c.oid), c.relhasrules, current_user::text \
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE c.oid = to_regclass($1)",
    )
    .bind(table.name().to_string())
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed)?;
    let Some(row) = found else {
        return Err(stop("does not exist".into(), "create it; the sink never does"));
    };
    if !matches!(row.get(2), "r" | "p") {
        let problem = "is a view or a foreign table, not a table".to_owned();
        return Err(stop(problem, "write to the table itself"));
    }
    let oid: i64 = row.get(0);
    let real = columns(conn, oid).await.map_err(failed)?;
    let actual = Actual {
        columns: real.iter().map(|real| real.column.clone()).collect(),
        unique: unique(conn, oid).await.map_err(failed)?,
    };
    let of = |name: &str| real.iter().find(|real| real.column.name == name);
    let fits = |kind: Kind, column: &ActualColumn| {
        of(&column.name).map_or(Fit::Takes, |real| fits(table, kind, real))
    };
    let limits = check(table, &actual, fits).map_err(SinkError::Stop)?;
    let user: &str = row.get(5);
    let mut casts = Vec::with_capacity(limits.len());
    for column in table.columns() {
        let real = of(column.name()).expect("the check found every column");
        if let Some(right) = missing_right(table, column.name(), column.role(), real) {
            let problem = format!("user {user:?} has no right to {right} {:?}", column.name());
            let remedy = format!("GRANT {right} ON {} TO {user}", table.label());
            return Err(stop(problem, &remedy));
        }
        casts.push(real.enumeration.then(|| real.column.type_name.clone()));
    }
    Ok(Known {
        target: row.get(1),
        limits,
        casts,
        // It knows no row security and ignores rules.
        takes_copy: !row.get::<bool, _>(3) && !row.get::<bool, _>(4),
        has_rules: row.get(4),
    })
}

fn missing_right<O>(table: &Table<O>, name: &str, role: Role, real: &Real) -> Option<&'static str> {
    let is_key = table.key().iter().any(|key| key == name);
    let reads = is_key || role == Role::Add;
    let writes_again = table.is_upsert() && !is_key;
    [
        (true, real.insert, "INSERT"),
        (writes_again, real.update, "UPDATE"),
        (reads, real.select, "SELECT"),
    ]
    .into_iter()
    .find(|(needed, has, _)| *needed && !has)
    .map(|(_, _, right)| right)
}

fn fits<O>(table: &Table<O>, kind: Kind, real: &Real) -> Fit {
    let base = &*real.base;
    let takes = match kind {
        Kind::Text => matches!(base, "text" | "varchar" | "bpchar" | "citext") || real.enumeration,
        kind => base == type_name(kind),
    };
    if !takes {
        let method = method_for(base);
        return Fit::Refuses(method.map_or_else(
            || format!("use a column of type {}", kind.sql()),
            |method| format!("write it with `.{method}(…)`"),
        ));
    }
    let is_key = table.key().contains(&real.column.name);
    if is_key && kind == Kind::Timestamptz && real.column.type_name.contains('(') {
        return Fit::Refuses("as a key it needs all its microseconds: leave out the (…)".into());
    }
    if is_key && kind == Kind::Text && !real.exact {
        return Fit::Refuses(
            "as a key it needs type text or varchar with a deterministic collation: here \
             different texts are equal"
                .into(),
        );
    }
    Fit::Takes
}

/// The internal name of the type that a kind is written as.
fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "bool",
        Kind::Int4 => "int4",
        Kind::Int8 => "int8",
        Kind::Float8 => "float8",
        Kind::Numeric => "numeric",
        Kind::Bytea => "bytea",
        Kind::Timestamptz => "timestamptz",
        Kind::Uuid => "uuid",
        Kind::Jsonb => "jsonb",
        Kind::BoolArray => "_bool",
        Kind::Int4Array => "_int4",
        Kind::Int8Array => "_int8",
        Kind::Float8Array => "_float8",
        Kind::TextArray => "_text",
        _ => "text",
    }
}

/// The method of `Table` that writes a column of this type.
fn method_for(base: &str) -> Option<&str> {
    Some(match base {
        "bool" | "int4" | "int8" | "float8" | "numeric" | "text" | "bytea" | "timestamptz"
        | "uuid" | "jsonb" => base,
        "varchar" | "bpchar" => "text",
        "_bool" => "bool_array",
        "_int4" => "int4_array",
        "_int8" => "int8_array",
        "_float8" => "float8_array",
        "_text" => "text_array",
        _ => return None,
    })
}

async fn columns(conn: &mut PgConnection, oid: i64) -> Result<Vec<Real>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), \
         a.attnotnull OR t.typnotnull, \
         a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, \
         a.attgenerated <> '' OR a.attidentity = 'a', \
         CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END, \
         coalesce(b.typname, t.typname)::text, coalesce(b.typtype, t.typtype) = 'e', \
         coalesce((SELECT l.collisdeterministic FROM pg_collation AS l \
         WHERE l.oid = a.attcollation), true), \
         has_column_privilege(a.attrelid, a.attnum, 'INSERT'), \
         has_column_privilege(a.attrelid, a.attnum, 'UPDATE'), \
         has_column_privilege(a.attrelid, a.attnum, 'SELECT') \
         FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid \
         LEFT JOIN pg_type AS b ON t.typtype = 'd' AND b.oid = t.typbasetype \
         WHERE a.attrelid = $1::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped \
         ORDER BY a.attnum",
    )
    .bind(oid)
    .fetch_all(conn)
    .await?;
    Ok(rows.iter().map(real).collect())
}

fn real(row: &PgRow) -> Real {
    let base: String = row.get(6);
    let not_null: bool = row.get(2);
    let modifier: i32 = row.get(5);
    let enumeration = row.get(7);
    Real {
        exact: row.get::<bool, _>(8) && matches!(&*base, "text" | "varchar"),
        column: ActualColumn {
            name: row.get(0),
            type_name: row.get(1),
            optional: !not_null || row.get(3),
            generated: row.get(4),
            limit: limit(&base, not_null, modifier),
        },
        base,
        enumeration,
        insert: row.get(9),
        update: row.get(10),
        select: row.get(11),
    }
}

/// What the modifier of a type says, as in `varchar(20)` or `numeric(10,2)`.
fn limit(base: &str, not_null: bool, modifier: i32) -> Limit {
    let mut limit = Limit { not_null, ..Limit::default() };
    // The modifier counts a header of four bytes; without a modifier it is -1.
    let Ok(modifier) = u32::try_from(modifier - 4) else {
        return limit;
    };
    match base {
        "varchar" | "bpchar" => limit.chars_max = usize::try_from(modifier).ok(),
        "numeric" => {
            let (precision, scale) = (modifier >> 16, modifier & 0x7ff);
            // A scale has eleven bits and a sign: what is below zero is left to the database.
            limit.numeric = (scale < 0x400).then_some((precision, scale));
        }
        _ => {}
    }
    limit
}

/// The columns of each index that `ON CONFLICT` can use.
async fn unique(conn: &mut PgConnection, oid: i64) -> Result<Vec<Vec<String>>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT array_agg(a.attname::text) FROM pg_index AS i, \
         unnest(i.indkey) WITH ORDINALITY AS k(attnum, place), pg_attribute AS a \
         WHERE i.indrelid = $1::bigint::oid AND a.attrelid = i.indrelid AND a.attnum = k.attnum \
         AND k.place <= i.indnkeyatts AND i.indisunique AND i.indimmediate AND i.indisvalid \
         AND i.indpred IS NULL AND i.indexprs IS NULL GROUP BY i.indexrelid",
    )
    .bind(oid)
    .fetch_all(conn)
    .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_become_limits() {
        assert_eq!(limit("varchar", false, 14).chars_max, Some(10));
        assert_eq!(limit("varchar", false, -1).chars_max, None);
        let of = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        assert_eq!(limit("numeric", true, of(10, 2)).numeric, Some((10, 2)));
        assert_eq!(limit("numeric", true, of(3, -2)).numeric, None);
        assert_eq!(limit("numeric", true, -1).numeric, None);
    }
}
