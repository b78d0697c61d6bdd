//! Stored progress: compare, move, release.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{Connection, Row};
use tidegate::Cause;
use tidegate::record::PartitionId;
use tidegate::sink::Move;
use tidegate_sql::{
    Bookkeeping, Cell, Compare, Expectation, Failure, Fate, Kind, Ownership, Phase, StoredRow,
    compare_condition, explain_fence,
};
use uuid::Uuid;

use crate::connection::{Session, query};
use crate::encode::Arrays;
use crate::error::{before, failure};
use crate::settings::{Server, Settings};

/// The progress of one group.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) books: Bookkeeping,
    pub(crate) group: String,
    pub(crate) settings: Settings,
    pub(crate) server: Server,
}

/// What the compare compares, `s` being the spans.
pub(crate) const MATCH: &str = "p.group_id = $1 AND p.topic = s.topic \
     AND p.partition = s.partition AND p.claim = s.claim AND p.owner = s.owner \
     AND p.next_offset = s.first";

/// The spans of a compare as a table `s`, bound by [`bind_compare`] as parameters 1 to 7.
pub(crate) const SPANS: &str = "(SELECT * FROM UNNEST($2::text[], $3::integer[], $4::bigint[], \
     $5::bigint[], $6::bigint[], $7::uuid[]) AS u(topic, partition, first, next, claim, owner) \
     ORDER BY topic, partition) AS s";

/// Binds the group and the spans.
pub(crate) fn bind_compare(
    query: Query<'static, Postgres, PgArguments>,
    group: &str,
    expected: &[Expectation],
) -> Query<'static, Postgres, PgArguments> {
    let kinds = [Kind::Text, Kind::Int4, Kind::Int8, Kind::Int8, Kind::Int8, Kind::Uuid];
    let mut spans = Arrays::new(&kinds);
    for wanted in expected {
        let row = [
            Cell::Text(wanted.partition.topic().as_str()),
            Cell::Int4(wanted.partition.index()),
            Cell::Int8(wanted.first),
            Cell::Int8(wanted.next),
            Cell::Int8(wanted.claim),
            Cell::Uuid(wanted.owner),
        ];
        spans.push(row).expect("these types always fit");
    }
    spans.bind(query.bind(group.to_owned()))
}

impl Store {
    /// See `TransactionalSink::reposition`.
    pub(crate) async fn reposition(
        &self,
        session: &mut Session,
        moves: &[Move],
        ownership: &Ownership,
    ) -> Result<(), Failure> {
        let expected = ownership.expect_moves(moves)?;
        let starts: Vec<&Move> = moves.iter().filter(|to| to.expected.is_none()).collect();
        let backend_start = session.backend_start.clone();
        let mut tx = session.conn.begin().await.map_err(before)?;
        if !starts.is_empty() {
            let inserted = self.insert(&mut tx, &starts, ownership, &backend_start);
            inserted.await.map_err(before)?;
        }
        let text = format!(
            "UPDATE {} AS p SET next_offset = s.next, updated_at = now(), \
             reset_generation = p.reset_generation + 1 FROM {SPANS} WHERE {}",
            self.books.progress,
            compare_condition(MATCH)
        );
        let update = bind_compare(query(&text.into()), &self.group, &expected);
        let moved = update.execute(&mut *tx).await.map_err(before)?;
        if Compare::of(moved.rows_affected(), &expected) == Compare::Differs {
            tx.rollback().await.map_err(before)?;
            return Err(self.fenced(&mut session.conn, &expected).await);
        }
        tx.commit().await.map_err(|error| failure(&error, Phase::CommitSent))
    }

    /// Inserts starts where nothing is stored. A row that another instance inserted for us, still
    /// unclaimed and with the same start, becomes ours.
    async fn insert(
        &self,
        conn: &mut PgConnection,
        starts: &[&Move],
        ownership: &Ownership,
        backend_start: &str,
    ) -> Result<(), sqlx::Error> {
        let text: Arc<str> = format!(
            "INSERT INTO {} AS p (group_id, topic, partition, next_offset, claim, owner, topic_id, \
             owner_pid, owner_backend_start) \
             SELECT $1, s.*, CASE WHEN s.owner IS NOT NULL THEN pg_backend_pid() END, \
             CASE WHEN s.owner IS NOT NULL THEN $8::text::timestamptz END \
             FROM UNNEST($2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::uuid[], \
             $7::bytea[]) AS s(topic, partition, next, claim, owner, topic_id) ORDER BY 2, 3 \
             ON CONFLICT (group_id, topic, partition) DO UPDATE SET claim = excluded.claim, \
             owner = excluded.owner, owner_pid = excluded.owner_pid, \
             owner_backend_start = excluded.owner_backend_start, updated_at = now() \
             WHERE p.claim = 0 AND p.owner IS NULL AND excluded.owner IS NOT NULL \
             AND p.next_offset = excluded.next_offset",
            self.books.progress
        )
        .into();
        let kinds = [Kind::Text, Kind::Int4, Kind::Int8, Kind::Int8, Kind::Uuid, Kind::Bytea];
        let mut rows = Arrays::new(&kinds);
        for to in starts {
            let held = ownership.get(&to.partition);
            let row = [
                Cell::Text(to.partition.topic().as_str()),
                Cell::Int4(to.partition.index()),
                Cell::Int8(to.next.get()),
                Cell::Int8(held.map_or(0, |(claim, _)| claim)),
                held.map_or(Cell::Null, |(_, owner)| Cell::Uuid(owner)),
                to.topic_id.as_ref().map_or(Cell::Null, |id| Cell::Bytea(&id.0)),
            ];
            rows.push(row).expect("these types always fit");
        }
        rows.bind(query(&text).bind(self.group.clone()))
            .bind(backend_start.to_owned())
            .execute(conn)
            .await?;
        Ok(())
    }

    /// Gives up the claims on these partitions, if they are still ours.
    pub(crate) async fn release(
        &self,
        conn: &mut PgConnection,
        held: &[(PartitionId, i64, Uuid)],
    ) -> Result<(), Failure> {
        let text: Arc<str> = format!(
            "UPDATE {} SET owner = NULL, owner_pid = NULL, owner_backend_start = NULL, \
             updated_at = now() WHERE group_id = $1 AND topic = $2 AND partition = $3 \
             AND claim = $4 AND owner = $5",
            self.books.progress
        )
        .into();
        for (partition, claim, owner) in held {
            query(&text)
                .bind(self.group.clone())
                .bind(partition.topic().as_str())
                .bind(partition.index())
                .bind(*claim)
                .bind(*owner)
                .execute(&mut *conn)
                .await
                .map_err(before)?;
        }
        Ok(())
    }

    /// The compare as a statement of its own, for as long as transaction `xid` lasts: in any other
    /// it matches nothing. Unless all rows hold, the caller rolls back.
    pub(crate) async fn advance(
        &self,
        conn: &mut PgConnection,
        expected: &[Expectation],
        xid: &str,
    ) -> Result<Compare, sqlx::Error> {
        if expected.is_empty() {
            return Ok(Compare::Holds);
        }
        let text = format!(
            "UPDATE {} AS p SET next_offset = s.next, updated_at = now() FROM {SPANS} \
             WHERE {} AND pg_current_xact_id_if_assigned() = $8::text::xid8",
            self.books.progress,
            compare_condition(MATCH)
        );
        let update = bind_compare(query(&text.into()), &self.group, expected);
        let moved = update.bind(xid.to_owned()).execute(conn).await?;
        Ok(Compare::of(moved.rows_affected(), expected))
    }

    /// Whether every row still is where the batch starts and ours; changes nothing, waits for
    /// whoever is changing them.
    pub(crate) async fn verify(
        &self,
        conn: &mut PgConnection,
        expected: &[Expectation],
    ) -> Result<(), Failure> {
        if expected.is_empty() {
            return Ok(());
        }
        let text = format!(
            "SELECT 1 FROM {SPANS}, {} AS p WHERE {} FOR UPDATE OF p",
            self.books.progress,
            compare_condition(MATCH)
        );
        let rows = bind_compare(query(&text.into()), &self.group, expected)
            .fetch_all(&mut *conn)
            .await
            .map_err(before)?;
        match Compare::of(rows.len() as u64, expected) {
            Compare::Holds => Ok(()),
            Compare::Differs => Err(self.fenced(conn, expected).await),
        }
    }

    /// The fence in words. Called after the rollback, so that the words tell what is stored.
    pub(crate) async fn fenced(
        &self,
        conn: &mut PgConnection,
        expected: &[Expectation],
    ) -> Failure {
        let partitions = expected.iter().map(|wanted| &wanted.partition);
        let text = match self.rows(conn, partitions, "").await {
            Ok(rows) => {
                let rows: Vec<StoredRow> =
                    rows.iter().filter_map(|row| stored_row(row).ok()).collect();
                explain_fence(expected, &rows)
            }
            Err(_) => "stored progress is not where the batch starts".to_owned(),
        };
        Failure::new(Fate::Fenced, Cause::new(text))
    }

    /// The rows of these partitions, sorted.
    pub(crate) async fn rows(
        &self,
        conn: &mut PgConnection,
        partitions: impl Iterator<Item = &PartitionId>,
        lock: &str,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let text: Arc<str> = format!(
            "SELECT p.topic, p.partition, p.next_offset, p.claim, p.owner, p.topic_id, \
             p.owner_pid, p.owner_backend_start::text FROM {} AS p WHERE p.group_id = $1 AND (p.topic, p.partition) IN \
             (SELECT * FROM UNNEST($2::text[], $3::integer[])) ORDER BY 1, 2 {lock}",
            self.books.progress
        )
        .into();
        let mut wanted = Arrays::new(&[Kind::Text, Kind::Int4]);
        for partition in partitions {
            let row = [Cell::Text(partition.topic().as_str()), Cell::Int4(partition.index())];
            wanted.push(row).expect("these types always fit");
        }
        let rows = wanted.bind(query(&text).bind(self.group.clone()));
        rows.fetch_all(conn).await
    }
}

/// The partition that columns 0 and 1 name.
pub(crate) fn partition(row: &PgRow) -> Result<PartitionId, sqlx::Error> {
    let topic: &str = row.try_get(0)?;
    Ok(PartitionId::new(topic, row.try_get(1)?))
}

pub(crate) fn stored_row(row: &PgRow) -> Result<StoredRow, sqlx::Error> {
    Ok(StoredRow {
        partition: partition(row)?,
        next: row.try_get(2)?,
        claim: row.try_get(3)?,
        owner: row.try_get(4)?,
        topic_id: row.try_get(5)?,
    })
}
