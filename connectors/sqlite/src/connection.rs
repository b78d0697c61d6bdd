//! The connection that is left or a new one, and the one place where generated text becomes SQL.

use std::sync::Arc;

use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{AssertSqlSafe, Sqlite};
use tidegate_sql::Failure;

use crate::error::before;
use crate::settings::{Missing, Settings};

/// A query from generated text. Whatever stands in it is a constant of this crate or went through
/// `tidegate_sql::quote`.
pub(crate) fn query(text: &Arc<str>) -> Query<'static, Sqlite, SqliteArguments> {
    sqlx::query(AssertSqlSafe(Arc::clone(text)))
}

/// The connection that is left, or a new one.
pub(crate) async fn connection(
    left: &mut Option<SqliteConnection>,
    settings: &Settings,
) -> Result<SqliteConnection, Failure> {
    match left.take() {
        Some(conn) => Ok(conn),
        None => settings.connect(Missing::Refused).await.map_err(before),
    }
}
