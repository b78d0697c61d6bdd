//! The promises of the conformance kit, kept by PostgreSQL.

#[path = "../../sql/tests/common/mod.rs"]
#[allow(dead_code, unused_macros, reason = "this file uses a part of it")]
mod common;
#[allow(dead_code, reason = "this file uses a part of it")]
mod lab;

use common::conformance::{open_statements, output, prepare, refused_output, view};
use common::{Item, Lab, items};
use lab::Database;
use lab::proxy::Proxy;
use sqlx::{AssertSqlSafe, Row};
use tidegate::testing::conformance::{Guard, Harness, LeftOpen, Severed, View};
use tidegate_postgres::Postgres;

/// A database, and the wire that sinks reach it by.
struct Prepared {
    lab: Database,
    wire: Proxy,
}

impl Prepared {
    async fn new() -> Self {
        let lab = Database::new().await;
        prepare(&lab).await;
        let wire = Proxy::to(lab.address()).await;
        Self { lab, wire }
    }
}

impl Harness for Prepared {
    type Sink = Postgres<Item>;

    async fn sink(&self) -> Postgres<Item> {
        Postgres::connect(&self.lab.url_through(self.wire.port)).into(items())
    }

    fn output(&self, number: u64) -> Item {
        output(number)
    }

    async fn view(&self) -> View {
        view(&self.lab).await
    }

    fn refused_output(&self) -> Item {
        refused_output()
    }

    async fn sever(&self, at: Severed) {
        match at {
            Severed::BeforeRequest => self.wire.lose_request(),
            Severed::BeforeAnswer => self.wire.lose_answer(),
        }
    }

    fn was_severed(&self) -> bool {
        self.wire.was_hit()
    }

    /// The owner's backend, still open: a process that is stopped, which is worse than one that was
    /// killed.
    async fn leave_open(&self, left: LeftOpen<Item>) -> Guard {
        let mut conn = self.lab.connect().await;
        let pid = sqlx::query("SELECT pg_backend_pid()").fetch_one(&mut conn).await;
        let pid: i32 = pid.expect("a row").get(0);
        self.lab
            .run(&format!(
                "UPDATE tidegate.progress SET owner_pid = {pid}, owner_backend_start = \
                 (SELECT backend_start FROM pg_stat_activity WHERE pid = {pid})"
            ))
            .await;
        sqlx::raw_sql("BEGIN").execute(&mut conn).await.expect("begun");
        for sql in open_statements(&self.lab, &left) {
            let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await;
            assert_eq!(done.expect("written").rows_affected(), 1);
        }
        Box::new(conn)
    }
}

tidegate::sink_conformance!(Prepared::new().await);
