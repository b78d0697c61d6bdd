//! A database file of its own for each test.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Row, TypeInfo, ValueRef};
use tempfile::TempDir;
use tidegate_sqlite::{Sqlite, Table};

use crate::common::Lab;

pub(crate) struct File(TempDir);

impl File {
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.0.path().join("test.db")
    }

    pub(crate) async fn connect(&self) -> SqliteConnection {
        SqliteConnectOptions::new()
            .filename(self.path())
            .create_if_missing(true)
            .foreign_keys(false)
            .connect()
            .await
            .expect("the file opens")
    }
}

impl Lab for File {
    type Sink<O: Send + Sync + 'static> = Sqlite<O>;

    async fn new() -> Self {
        let file = Self(TempDir::new().expect("a directory"));
        file.connect().await;
        file
    }

    fn sink<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>) -> Sqlite<O> {
        tables.into_iter().fold(Sqlite::open(self.path()), Sqlite::into)
    }

    fn manual<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>) -> Sqlite<O> {
        self.sink(tables).tables_manual()
    }

    fn no_letters<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>) -> Sqlite<O> {
        self.sink(tables).without_dead_letters()
    }

    fn set_up<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>, sql: &[&str]) -> Sqlite<O> {
        sql.iter().fold(self.sink(tables), |sink, sql| sink.setup(*sql))
    }

    fn writes<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>, sql: &str) -> Sqlite<O> {
        let sql: std::sync::Arc<str> = sql.into();
        self.sink(tables).write_with(move |conn, _| {
            let statements = sqlx::raw_sql(AssertSqlSafe(std::sync::Arc::clone(&sql)));
            Box::pin(async move { statements.execute(conn).await.map(drop) })
        })
    }

    async fn run(&self, sql: &str) {
        let mut conn = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.expect(sql);
    }

    async fn rows(&self, sql: &str) -> Vec<String> {
        let mut conn = self.connect().await;
        let rows = sqlx::query(AssertSqlSafe(sql.to_owned()));
        let rows = rows.fetch_all(&mut conn).await.expect(sql);
        rows.iter()
            .map(|row| {
                let texts = (0..row.len()).map(|index| {
                    let value = row.try_get_raw(index).expect("a column");
                    let kind = value.type_info().name().to_owned();
                    match (value.is_null(), &*kind) {
                        (true, _) => "-".to_owned(),
                        (_, "REAL") => format!("{:?}", row.get::<f64, _>(index)),
                        (_, "TEXT") => row.get(index),
                        _ => row.get::<i64, _>(index).to_string(),
                    }
                });
                texts.collect::<Vec<String>>().join("|")
            })
            .collect()
    }

    async fn has(&self, table: &str) -> bool {
        let sql = format!("SELECT count(*) FROM sqlite_schema WHERE name = '{table}'");
        self.number(&sql).await == 1
    }

    fn books(&self, table: &str) -> String {
        format!("tidegate_{table}")
    }
}
