//! The promises of the conformance kit, kept by SQLite.

#[path = "../../sql/tests/common/mod.rs"]
#[allow(dead_code, unused_macros, reason = "this file uses a part of it")]
mod common;
#[allow(dead_code, reason = "this file uses a part of it")]
mod lab;

use std::time::Duration;

use common::conformance::{open_statements, output, prepare, refused_output, view};
use common::{Item, Lab, items};
use lab::File;
use sqlx::AssertSqlSafe;
use tidegate::testing::conformance::{Ability, Guard, Harness, LeftOpen, View};
use tidegate_sqlite::Sqlite;

struct Prepared(File);

impl Prepared {
    async fn new() -> Self {
        let file = File::new().await;
        prepare(&file).await;
        Self(file)
    }
}

impl Harness for Prepared {
    type Sink = Sqlite<Item>;

    async fn sink(&self) -> Sqlite<Item> {
        // Who waits for the file's one writer is told soon: several promises want to see that.
        self.0.sink(vec![items()]).busy_timeout(Duration::from_millis(300))
    }

    fn output(&self, number: u64) -> Item {
        output(number)
    }

    async fn view(&self) -> View {
        view(&self.0).await
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::Succession => Some("who is stopped in its transaction holds the file's lock"),
            Ability::Wire => Some("the database is in this process"),
            _ => None,
        }
    }

    fn refused_output(&self) -> Item {
        refused_output()
    }

    async fn leave_open(&self, left: LeftOpen<Item>) -> Guard {
        let mut conn = self.0.connect().await;
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut conn).await.expect("the lock");
        for sql in open_statements(&self.0, &left) {
            let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await;
            assert_eq!(done.expect("written").rows_affected(), 1);
        }
        // A process that is killed takes its lock with it.
        drop(conn);
        Box::new(())
    }
}

tidegate::sink_conformance!(Prepared::new().await);
