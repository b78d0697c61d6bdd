//! Taking over: a claim.

use std::sync::Arc;

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tidegate::mutant;
use tidegate::record::Topic;
use tidegate::sink::{Claim, ClaimRequest};
use tidegate_sql::{Answers, Failure, Ownership, Phase, StoredRow, answer_claims};
use uuid::Uuid;

use crate::connection::query;
use crate::error::{before, failure};
use crate::store::{NOW, Store};

impl Store {
    /// See `TransactionalSink::claim`. The write lock is held from the first statement on, so the
    /// rows that are read are the rows that are changed.
    pub(crate) async fn claim(
        &self,
        conn: &mut SqliteConnection,
        asked: &[ClaimRequest],
        ownership: &mut Ownership,
    ) -> Result<Vec<Claim>, Failure> {
        let owner = Uuid::new_v4();
        let partitions = || asked.iter().map(|asked| &asked.partition);
        let mut early = None;
        if mutant::is("M45") {
            early = Some(self.rows(conn, partitions()).await.map_err(before)?);
        }
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(before)?;
        let rows = self.rows(&mut tx, partitions()).await.map_err(before)?;
        let rows = early.unwrap_or(rows);
        let Answers { claims, take, unborn } =
            answer_claims(asked, &rows, |topic| highest_index(&rows, topic));
        let text: Arc<str> = format!(
            "UPDATE {} SET claim = claim + 1, owner = ?, topic_id = coalesce(topic_id, ?), \
             updated_at = {NOW} WHERE group_id = ? AND topic = ? AND partition = ?",
            self.books.progress
        )
        .into();
        for request in &take {
            query(&text)
                .bind(owner.to_string())
                .bind(request.topic_id.map(|id| id.0.to_vec()))
                .bind(self.group.clone())
                .bind(request.partition.topic().as_str())
                .bind(request.partition.index())
                .execute(&mut *tx)
                .await
                .map_err(before)?;
        }
        tx.commit().await.map_err(|error| failure(&error, Phase::CommitSent))?;
        let taken = rows
            .into_iter()
            .filter(|row| take.iter().any(|taken| taken.partition == row.partition))
            .map(|row| (row.partition, row.claim + 1));
        ownership.hold_all(taken, unborn, owner);
        Ok(claims)
    }
}

fn highest_index(rows: &[StoredRow], topic: &Topic) -> Option<i32> {
    let of_topic = rows.iter().filter(|row| row.partition.topic() == topic);
    of_topic.map(|row| row.partition.index()).max()
}
