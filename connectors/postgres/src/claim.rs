//! Taking over: a claim, and what ends an earlier owner that stands in its way.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};
use tidegate::mutant;
use tidegate::record::{PartitionId, Topic};
use tidegate::sink::{Claim, ClaimRequest};
use tidegate_sql::{Answers, Cell, Failure, Kind, Ownership, Phase, StoredRow, answer_claims};
use tokio::time::timeout;
use uuid::Uuid;

use crate::connection::{Session, connect, query};
use crate::encode::Arrays;
use crate::error::{before, failure};
use crate::store::{Store, partition, stored_row};

/// How many earlier owners are remembered.
const EARLIER_MAX: usize = 64;

/// A backend of the server for ever: its number, which comes again, and its start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Backend {
    pid: i32,
    start: String,
}

/// Who owned our partitions before us. Whatever is left of them cannot commit any more, but it can
/// hold rows that we want to write.
#[derive(Debug, Default)]
pub(crate) struct Earlier(Vec<Backend>);

impl Earlier {
    fn remember(&mut self, backend: Backend) {
        if !self.0.contains(&backend) {
            self.0.push(backend);
        }
        let surplus = self.0.len().saturating_sub(EARLIER_MAX);
        self.0.drain(..surplus);
    }
}

/// Which backends may be ended if they stand in the way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Blockers<'e> {
    /// For a claim: whoever is recorded as an owner in this group and holds the rows we claim.
    Owners,
    /// For a commit: an earlier owner that owns nothing any more. One that still does may hold
    /// rows that both of us write, for a commit of its own.
    Leftovers(&'e Earlier),
}

/// The backends that are remembered.
const KNOWN: &str = "(a.pid, a.backend_start) IN (SELECT k.pid, k.start::timestamptz \
     FROM UNNEST(known.pids, known.starts) AS k(pid, start))";

impl Store {
    /// See `TransactionalSink::claim`. The rows are locked before they are read, in one order for
    /// everybody: whatever an earlier owner left open is settled by then.
    pub(crate) async fn claim(
        &self,
        session: &mut Session,
        asked: &[ClaimRequest],
        ownership: &mut Ownership,
        earlier: &mut Earlier,
    ) -> Result<Vec<Claim>, Failure> {
        let owner = Uuid::new_v4();
        let topics: Vec<&Topic> = asked.iter().map(|asked| asked.partition.topic()).collect();
        let pid = session.pid;
        let backend_start = session.backend_start.clone();
        let mut tx = session.conn.begin().await.map_err(before)?;
        let rows = self.lock(&mut tx, asked);
        let locked = self.unblocked(pid, Blockers::Owners, rows).await.map_err(before)?;
        let rows: Vec<StoredRow> = locked.iter().map(|(row, _)| row.clone()).collect();
        let highest = self.highest(&mut tx, &topics).await.map_err(before)?;
        let answers = answer_claims(asked, &rows, |topic| {
            let found = highest.iter().find(|(name, _)| name == topic.as_str());
            found.map(|(_, index)| *index)
        });
        let Answers { claims, take, unborn } = answers;
        let taken = self.take(&mut tx, &take, owner, &backend_start);
        let taken = taken.await.map_err(before)?;
        tx.commit().await.map_err(|error| failure(&error, Phase::CommitSent))?;
        ownership.hold_all(taken, unborn, owner);
        let owners = locked.into_iter().filter_map(|(_, backend)| backend);
        owners.filter(|owner| owner.start != backend_start).for_each(|o| earlier.remember(o));
        Ok(claims)
    }

    /// Waits for `work` of backend `pid`, and ends a backend that keeps it waiting if it is one of
    /// these: a process that was stopped inside a transaction holds its rows, and no time-out of
    /// the server ends it while it is inside a `COPY` or in the middle of a message.
    pub(crate) async fn unblocked<T>(
        &self,
        pid: i32,
        blockers: Blockers<'_>,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        loop {
            if let Ok(done) = timeout(self.settings.patience, &mut work).await {
                return done;
            }
            if matches!(blockers, Blockers::Leftovers(Earlier(earlier)) if earlier.is_empty()) {
                return work.await;
            }
            match self.end_blockers(pid, blockers).await {
                Ok(ended) if ended.is_empty() => tracing::info!("waiting for the database"),
                Ok(ended) => tracing::warn!(pids = ?ended, "ended the backend of an earlier owner"),
                Err(failure) => {
                    tracing::warn!(cause = %failure.cause, "an owner may stand in the way");
                }
            }
        }
    }

    /// Ends those of these backends that block backend `pid`.
    async fn end_blockers(&self, pid: i32, blockers: Blockers<'_>) -> Result<Vec<i32>, Failure> {
        let mut other = connect(&self.settings, &self.server, &self.group).await?;
        let recorded = format!(
            "EXISTS (SELECT 1 FROM {} AS p WHERE p.group_id = $1 AND p.owner_pid = a.pid \
             AND p.owner_backend_start = a.backend_start)",
            self.books.progress
        );
        let (condition, earlier) = match blockers {
            Blockers::Owners => (recorded, &[][..]),
            Blockers::Leftovers(Earlier(earlier)) => {
                (format!("{KNOWN} AND NOT {recorded}"), &earlier[..])
            }
        };
        let text: Arc<str> = format!(
            "SELECT a.pid, pg_terminate_backend(a.pid) FROM pg_stat_activity AS a, \
             (SELECT $3::integer[] AS pids, $4::text[] AS starts) AS known \
             WHERE a.pid = ANY (pg_blocking_pids($2)) AND {condition}"
        )
        .into();
        let rows = query(&text)
            .bind(self.group.clone())
            .bind(pid)
            .bind(earlier.iter().map(|backend| backend.pid).collect::<Vec<i32>>())
            .bind(earlier.iter().map(|backend| backend.start.clone()).collect::<Vec<String>>())
            .fetch_all(&mut other.conn)
            .await
            .map_err(before)?;
        let ended = rows.iter().filter(|row| row.get(1)).map(|row| row.get(0));
        let ended = ended.collect();
        // Whether the second connection closes cleanly matters to nobody.
        let _ = other.conn.close().await;
        Ok(ended)
    }

    async fn lock(
        &self,
        conn: &mut PgConnection,
        asked: &[ClaimRequest],
    ) -> Result<Vec<(StoredRow, Option<Backend>)>, sqlx::Error> {
        let partitions = asked.iter().map(|asked| &asked.partition);
        let lock = if mutant::is("M13") { "" } else { "FOR UPDATE OF p" };
        let rows = self.rows(conn, partitions, lock).await?;
        let owner = |row: &PgRow| -> Result<_, sqlx::Error> {
            let pid: Option<i32> = row.try_get(6)?;
            let start: Option<String> = row.try_get(7)?;
            Ok(pid.zip(start).map(|(pid, start)| Backend { pid, start }))
        };
        rows.iter().map(|row| Ok((stored_row(row)?, owner(row)?))).collect()
    }

    async fn highest(
        &self,
        conn: &mut PgConnection,
        topics: &[&Topic],
    ) -> Result<Vec<(String, i32)>, sqlx::Error> {
        let text: Arc<str> = format!(
            "SELECT topic, max(partition) FROM {} WHERE group_id = $1 AND topic = ANY ($2) \
             GROUP BY topic",
            self.books.progress
        )
        .into();
        let topics: Vec<String> = topics.iter().map(|topic| topic.as_str().to_owned()).collect();
        let rows = query(&text).bind(self.group.clone()).bind(topics);
        let rows = rows.fetch_all(conn).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    async fn take(
        &self,
        conn: &mut PgConnection,
        take: &[ClaimRequest],
        owner: Uuid,
        backend_start: &str,
    ) -> Result<Vec<(PartitionId, i64)>, sqlx::Error> {
        let text: Arc<str> = format!(
            "UPDATE {} AS p SET claim = p.claim + 1, owner = $5, owner_pid = pg_backend_pid(), \
             owner_backend_start = $6::text::timestamptz, \
             topic_id = coalesce(p.topic_id, s.topic_id), updated_at = now() \
             FROM UNNEST($2::text[], $3::integer[], $4::bytea[]) AS s(topic, partition, topic_id) \
             WHERE p.group_id = $1 AND p.topic = s.topic AND p.partition = s.partition \
             RETURNING p.topic, p.partition, p.claim",
            self.books.progress
        )
        .into();
        let mut spans = Arrays::new(&[Kind::Text, Kind::Int4, Kind::Bytea]);
        for request in take {
            let row = [
                Cell::Text(request.partition.topic().as_str()),
                Cell::Int4(request.partition.index()),
                request.topic_id.as_ref().map_or(Cell::Null, |id| Cell::Bytea(&id.0)),
            ];
            spans.push(row).expect("these types always fit");
        }
        let rows = spans
            .bind(query(&text).bind(self.group.clone()))
            .bind(owner)
            .bind(backend_start.to_owned())
            .fetch_all(conn)
            .await?;
        rows.iter().map(|row| Ok((partition(row)?, row.try_get(2)?))).collect()
    }

    /// Records a new connection in the rows that this instance owns, so that a heir ends the right
    /// backend. An earlier connection of ours that still holds the rows is ended the same way.
    pub(crate) async fn adopt(
        &self,
        session: &mut Session,
        ownership: &Ownership,
    ) -> Result<(), Failure> {
        let mut owners: Vec<Uuid> = ownership.iter().map(|(_, _, owner)| owner).collect();
        owners.sort_unstable();
        owners.dedup();
        if owners.is_empty() {
            return Ok(());
        }
        let text: Arc<str> = format!(
            "UPDATE {} SET owner_pid = pg_backend_pid(), \
             owner_backend_start = $3::text::timestamptz WHERE group_id = $1 AND owner = ANY ($2)",
            self.books.progress
        )
        .into();
        let pid = session.pid;
        let update = query(&text)
            .bind(self.group.clone())
            .bind(owners)
            .bind(session.backend_start.clone())
            .execute(&mut session.conn);
        self.unblocked(pid, Blockers::Owners, update).await.map_err(before)?;
        Ok(())
    }
}
