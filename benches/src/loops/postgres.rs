//! L4: rows and offsets in one statement with `UNNEST`; many rows by `COPY BINARY`.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tokio::runtime::Runtime;

use super::rows::{Rows, Storage};
use crate::case::Case;
use crate::measure::Span;
use crate::table::PROGRESS;

/// Rows from which on `COPY` wins.
const COPY_ROWS_MIN: usize = 5_000;

const COPY: &str = "COPY bench (partition, \"offset\", key, value) FROM STDIN (FORMAT binary)";

pub(super) struct Postgres {
    runtime: Runtime,
    connection: PgConnection,
    whole: Arc<str>,
    advance: Arc<str>,
}

pub(super) fn open(case: &Case) -> Result<Postgres> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let options: PgConnectOptions = case.output.parse()?;
    let connection = runtime.block_on(options.connect())?;
    let compare = format!(
        "UPDATE {PROGRESS} p SET next_offset = s.next FROM \
         UNNEST($1::int4[], $2::int8[], $3::int8[]) AS s(partition, first, next) \
         WHERE p.partition = s.partition AND p.next_offset = s.first"
    );
    Ok(Postgres {
        runtime,
        connection,
        whole: format!(
            "WITH held AS ({compare} RETURNING 1), t AS (INSERT INTO bench (partition, \"offset\", key, value) \
             SELECT * FROM UNNEST($4::int4[], $5::int8[], $6::bytea[], $7::bytea[]) \
             WHERE (SELECT count(*) FROM held) = cardinality($1)) \
             SELECT 1 / (CASE WHEN count(*) = cardinality($1) THEN 1 ELSE 0 END) FROM held"
        )
        .into(),
        advance: compare.into(),
    })
}

/// The partitions that moved, where from and where to.
fn moved(rows: &Rows) -> (Vec<i32>, Vec<i64>, Vec<i64>) {
    let ranges = (0..).zip(rows.first.iter().zip(&rows.next));
    let ranges = ranges.filter(|(_, (first, next))| first != next);
    let mut all = (Vec::new(), Vec::new(), Vec::new());
    for (partition, (first, next)) in ranges {
        all.0.push(partition);
        all.1.push(*first);
        all.2.push(*next);
    }
    all
}

/// Rows in the binary format of `COPY`.
fn copied(rows: &Rows) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows.len() * 150 + 21);
    bytes.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    let places = rows.partitions.iter().zip(&rows.offsets);
    for ((partition, offset), (key, value)) in places.zip(rows.cells()) {
        bytes.extend_from_slice(&4_i16.to_be_bytes());
        bytes.extend_from_slice(&4_i32.to_be_bytes());
        bytes.extend_from_slice(&partition.to_be_bytes());
        bytes.extend_from_slice(&8_i32.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        for cell in [key, value] {
            let length = i32::try_from(cell.len()).expect("records of 100 B");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(cell);
        }
    }
    bytes.extend_from_slice(&(-1_i16).to_be_bytes());
    bytes
}

impl Storage for Postgres {
    fn store(&mut self, rows: &Rows, span: &Span) -> Result<()> {
        let (partitions, firsts, nexts) = moved(rows);
        let count = partitions.len();
        if rows.len() < COPY_ROWS_MIN {
            let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) = rows.cells().unzip();
            let whole = sqlx::query(AssertSqlSafe(Arc::clone(&self.whole)))
                .bind(partitions)
                .bind(firsts)
                .bind(nexts)
                .bind(&rows.partitions)
                .bind(&rows.offsets)
                .bind(keys)
                .bind(values);
            self.runtime.block_on(whole.execute(&mut self.connection))?;
            return Ok(());
        }
        let begun = Instant::now();
        let bytes = copied(rows);
        span.phases.record("encode", begun.elapsed());
        self.runtime.block_on(async {
            let begun = Instant::now();
            let mut tx = self.connection.begin().await?;
            let mut copy = tx.copy_in_raw(COPY).await?;
            copy.send(bytes).await?;
            copy.finish().await?;
            span.phases.record("rows", begun.elapsed());
            let begun = Instant::now();
            let advance = sqlx::query(AssertSqlSafe(Arc::clone(&self.advance)))
                .bind(partitions)
                .bind(firsts)
                .bind(nexts);
            let held = advance.execute(&mut *tx).await?.rows_affected();
            ensure!(held == u64::try_from(count)?, "{held} of {count} offsets were as expected");
            span.phases.record("compare", begun.elapsed());
            let begun = Instant::now();
            tx.commit().await?;
            span.phases.record("commit", begun.elapsed());
            Ok(())
        })
    }
}
