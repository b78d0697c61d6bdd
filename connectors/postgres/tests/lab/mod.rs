//! A database of its own for each test, on the server that `TIDEGATE_POSTGRES` names.

pub(crate) mod proxy;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};
use tidegate_postgres::{Postgres, Table};
use uuid::Uuid;

use crate::common::Lab;

pub(crate) struct Database {
    name: String,
    server: String,
}

/// The URL of a server whose user may create databases.
fn server() -> String {
    std::env::var("TIDEGATE_POSTGRES").unwrap_or_else(|_| {
        panic!(
            "TIDEGATE_POSTGRES is not set: this test needs a PostgreSQL server. Run \
             `scripts/test`, which starts one, or set it to a URL like \
             postgres://postgres@127.0.0.1:5432/postgres whose user may create databases"
        )
    })
}

async fn run_on(url: &str, sql: String) {
    let options: PgConnectOptions = url.parse().expect("TIDEGATE_POSTGRES is a URL");
    let mut conn = options.connect().await.expect("TIDEGATE_POSTGRES answers");
    sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut conn).await.expect(&sql);
}

impl Database {
    /// The URL of this database.
    pub(crate) fn url(&self) -> String {
        let (user, host, query) = self.parts();
        format!("postgres://{user}@{host}/{}?{query}", self.name)
    }

    /// The same for another user, whose password is the name.
    pub(crate) fn url_as(&self, user: &str) -> String {
        let (_, host, query) = self.parts();
        format!("postgres://{user}:{user}@{host}/{}?{query}", self.name)
    }

    /// The same through a port of this machine.
    pub(crate) fn url_through(&self, port: u16) -> String {
        let (user, _, query) = self.parts();
        format!("postgres://{user}@127.0.0.1:{port}/{}?{query}", self.name)
    }

    /// Host and port of the server.
    pub(crate) fn address(&self) -> String {
        let (_, host, _) = self.parts();
        if host.contains(':') { host.to_owned() } else { format!("{host}:5432") }
    }

    /// User with password, host with port, parameters.
    fn parts(&self) -> (&str, &str, &str) {
        let rest = self.server.split_once("://").expect("a URL").1;
        let (authority, rest) = rest.split_once('/').expect("a URL with a database");
        let query = rest.split_once('?').map_or("", |(_, query)| query);
        let (user, host) = authority.rsplit_once('@').expect("a URL with a user");
        (user, host, query)
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        let options: PgConnectOptions = self.url().parse().expect("a URL");
        options.connect().await.expect("the database answers")
    }
}

impl Lab for Database {
    type Sink<O: Send + Sync + 'static> = Postgres<O>;

    async fn new() -> Self {
        let database =
            Self { name: format!("tidegate_test_{}", Uuid::new_v4().simple()), server: server() };
        run_on(&database.server, format!("CREATE DATABASE {}", database.name)).await;
        // A user of the name of the bookkeeping schema would find that schema first.
        let path = format!("ALTER DATABASE {} SET search_path = public", database.name);
        run_on(&database.server, path).await;
        database
    }

    fn sink<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>) -> Postgres<O> {
        let sink = Postgres::connect(&self.url());
        tables.into_iter().fold(sink, Postgres::into)
    }

    fn manual<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>) -> Postgres<O> {
        self.sink(tables).tables_manual()
    }

    fn no_letters<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>) -> Postgres<O> {
        self.sink(tables).without_dead_letters()
    }

    fn set_up<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>, sql: &[&str]) -> Postgres<O> {
        sql.iter().fold(self.sink(tables), |sink, sql| sink.setup(*sql))
    }

    fn writes<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>, sql: &str) -> Postgres<O> {
        let sql: std::sync::Arc<str> = sql.into();
        self.sink(tables).write_with(move |conn, _| {
            let statements = sqlx::raw_sql(AssertSqlSafe(std::sync::Arc::clone(&sql)));
            Box::pin(async move { statements.execute(conn).await.map(drop) })
        })
    }

    async fn run(&self, sql: &str) {
        run_on(&self.url(), sql.to_owned()).await;
    }

    async fn rows(&self, sql: &str) -> Vec<String> {
        let mut conn = self.connect().await;
        // The simple protocol answers in text, whatever the types are.
        let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let rows = rows.fetch_all(&mut conn).await.expect(sql);
        rows.iter()
            .map(|row| {
                let texts = (0..row.len()).map(|index| {
                    let text = row.try_get_unchecked::<Option<String>, _>(index);
                    text.expect("a column").unwrap_or_else(|| "-".to_owned())
                });
                texts.collect::<Vec<String>>().join("|")
            })
            .collect()
    }

    async fn has(&self, table: &str) -> bool {
        self.number(&format!("SELECT count(to_regclass('{table}'))")).await == 1
    }

    fn books(&self, table: &str) -> String {
        format!("tidegate.{table}")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let server = self.server.clone();
        // A test's runtime is busy ending; a database that stays behind is only untidy.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(run_on(&server, sql));
        });
        let _ = dropped.join();
    }
}
