//! Stored progress: compare, move, release.

use std::sync::Arc;

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};
use tidegate::Cause;
use tidegate::record::{PartitionId, Topic};
use tidegate::sink::Move;
use tidegate_sql::{
    Bookkeeping, Compare, Expectation, Failure, Fate, Ownership, Phase, StoredRow,
    compare_condition, explain_fence,
};
use uuid::Uuid;

use crate::connection::query;
use crate::error::{before, failure};

/// Every change stamps the row with the time.
pub(crate) const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";

/// The progress of one group.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) books: Bookkeeping,
    pub(crate) group: String,
}

impl Store {
    pub(crate) fn new(books: Bookkeeping, group: &str) -> Self {
        let group = group.to_owned();
        Self { books, group }
    }

    /// See `TransactionalSink::reposition`.
    pub(crate) async fn reposition(
        &self,
        conn: &mut SqliteConnection,
        moves: &[Move],
        ownership: &Ownership,
    ) -> Result<(), Failure> {
        let expected = ownership.expect_moves(moves)?;
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(before)?;
        for to in moves.iter().filter(|to| to.expected.is_none()) {
            let held = ownership.get(&to.partition);
            self.insert(&mut tx, to, held).await.map_err(before)?;
        }
        let moved = self.advance(&mut tx, &expected, "reset_generation + 1");
        if moved.await.map_err(before)? == Compare::Differs {
            tx.rollback().await.map_err(before)?;
            return Err(self.fenced(conn, &expected).await);
        }
        tx.commit().await.map_err(|error| failure(&error, Phase::CommitSent))
    }

    /// Inserts a start if nothing is stored. A row that another instance inserted for us, still
    /// unclaimed and with the same start, becomes ours.
    async fn insert(
        &self,
        conn: &mut SqliteConnection,
        to: &Move,
        held: Option<(i64, Uuid)>,
    ) -> Result<(), sqlx::Error> {
        let progress = &self.books.progress;
        let text: Arc<str> = format!(
            "INSERT INTO {progress} AS p (group_id, topic, partition, next_offset, claim, owner, \
             topic_id) VALUES (?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (group_id, topic, partition) DO UPDATE \
             SET claim = excluded.claim, owner = excluded.owner, updated_at = {NOW} \
             WHERE p.claim = 0 AND p.owner IS NULL AND excluded.owner IS NOT NULL \
             AND p.next_offset = excluded.next_offset"
        )
        .into();
        query(&text)
            .bind(self.group.clone())
            .bind(to.partition.topic().as_str())
            .bind(to.partition.index())
            .bind(to.next.get())
            .bind(held.map_or(0, |(claim, _)| claim))
            .bind(held.map(|(_, owner)| owner.to_string()))
            .bind(to.topic_id.map(|id| id.0.to_vec()))
            .execute(conn)
            .await?;
        Ok(())
    }

    /// Gives up the claims on these partitions, if they are still ours.
    pub(crate) async fn release(
        &self,
        conn: &mut SqliteConnection,
        held: &[(PartitionId, i64, Uuid)],
    ) -> Result<(), sqlx::Error> {
        let text: Arc<str> = format!(
            "UPDATE {} SET owner = NULL, updated_at = {NOW} WHERE group_id = ? AND topic = ? \
             AND partition = ? AND claim = ? AND owner = ?",
            self.books.progress
        )
        .into();
        for (partition, claim, owner) in held {
            query(&text)
                .bind(self.group.clone())
                .bind(partition.topic().as_str())
                .bind(partition.index())
                .bind(*claim)
                .bind(owner.to_string())
                .execute(&mut *conn)
                .await?;
        }
        Ok(())
    }

    /// The compare: moves every row from `first` to `next`. Unless all hold, the caller rolls back.
    pub(crate) async fn advance(
        &self,
        conn: &mut SqliteConnection,
        expected: &[Expectation],
        reset_generation: &str,
    ) -> Result<Compare, sqlx::Error> {
        if expected.is_empty() {
            return Ok(Compare::Holds);
        }
        let text = format!(
            "WITH {} UPDATE {} AS p SET next_offset = s.next, updated_at = {NOW}, \
             reset_generation = {reset_generation} FROM s WHERE {}",
            spans(expected.len()),
            self.books.progress,
            compare_condition(MATCH)
        );
        let update = bind_spans(&text.into(), &self.group, expected);
        let moved = update.execute(conn).await?.rows_affected();
        Ok(Compare::of(moved, expected))
    }

    /// Whether every row still is where the batch starts and ours; changes nothing.
    pub(crate) async fn verify(
        &self,
        conn: &mut SqliteConnection,
        expected: &[Expectation],
    ) -> Result<(), Failure> {
        if expected.is_empty() {
            return Ok(());
        }
        let text = format!(
            "WITH {} SELECT count(*) FROM s, {} AS p WHERE {}",
            spans(expected.len()),
            self.books.progress,
            compare_condition(MATCH)
        );
        let row = bind_spans(&text.into(), &self.group, expected)
            .fetch_one(&mut *conn)
            .await
            .map_err(before)?;
        match Compare::of(row.get::<i64, _>(0).unsigned_abs(), expected) {
            Compare::Holds => Ok(()),
            Compare::Differs => Err(self.fenced(conn, expected).await),
        }
    }

    /// The fence in words. Called after the rollback, so that the words tell what is stored.
    pub(crate) async fn fenced(
        &self,
        conn: &mut SqliteConnection,
        expected: &[Expectation],
    ) -> Failure {
        let rows = self.rows(conn, expected.iter().map(|wanted| &wanted.partition));
        let text = match rows.await {
            Ok(rows) => explain_fence(expected, &rows),
            Err(_) => "stored progress is not where the batch starts".to_owned(),
        };
        Failure::new(Fate::Fenced, Cause::new(text))
    }

    /// All rows of the topics that these partitions belong to.
    pub(crate) async fn rows(
        &self,
        conn: &mut SqliteConnection,
        partitions: impl Iterator<Item = &PartitionId>,
    ) -> Result<Vec<StoredRow>, sqlx::Error> {
        let mut topics: Vec<&Topic> = partitions.map(PartitionId::topic).collect();
        topics.sort();
        topics.dedup();
        let text: Arc<str> = format!(
            "SELECT partition, next_offset, claim, owner, topic_id FROM {} \
             WHERE group_id = ? AND topic = ? ORDER BY partition",
            self.books.progress
        )
        .into();
        let mut rows = Vec::new();
        for topic in topics {
            let found = query(&text).bind(self.group.clone()).bind(topic.as_str());
            for row in found.fetch_all(&mut *conn).await? {
                rows.push(stored_row(topic, &row)?);
            }
        }
        Ok(rows)
    }
}

/// What the compare compares.
const MATCH: &str = "p.group_id = s.group_id AND p.topic = s.topic AND p.partition = s.partition \
     AND p.claim = s.claim AND p.owner = s.owner AND p.next_offset = s.first";

/// A table `s` of spans, to be bound by [`bind_spans`].
fn spans(count: usize) -> String {
    let rows = vec!["(?, ?, ?, ?, ?, ?, ?)"; count].join(", ");
    format!("s (group_id, topic, partition, first, next, claim, owner) AS (VALUES {rows})")
}

fn bind_spans(
    text: &Arc<str>,
    group: &str,
    expected: &[Expectation],
) -> sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments> {
    expected.iter().fold(query(text), |query, wanted| {
        query
            .bind(group.to_owned())
            .bind(wanted.partition.topic().as_str())
            .bind(wanted.partition.index())
            .bind(wanted.first)
            .bind(wanted.next)
            .bind(wanted.claim)
            .bind(wanted.owner.to_string())
    })
}

fn stored_row(topic: &Topic, row: &SqliteRow) -> Result<StoredRow, sqlx::Error> {
    let owner: Option<String> = row.try_get(3)?;
    Ok(StoredRow {
        partition: PartitionId::new(topic.clone(), row.try_get(0)?),
        next: row.try_get(1)?,
        claim: row.try_get(2)?,
        owner: owner.and_then(|owner| owner.parse().ok()),
        topic_id: row.try_get(4)?,
    })
}
