//! A database that is looked at again and again while others write: each time one moment, and only what is new in it,
//! so that a look at a large table costs as much as one at a small table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, PgConnection, Row};
use tokio::time::timeout;

use super::{postgres, sqlite};
use crate::audit::{Count, Moment, Partition, Rows, Stride};

/// How long one look may take. A server that is stopped just then does not hold up the next one.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Whether a look also counts all rows there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Only what is new.
    New,
    /// That, and how much there is in all.
    Whole,
}

/// Looks at one group's progress and rows.
#[derive(Debug)]
pub struct Watch {
    group: String,
    database: Database,
    /// Progress when it was looked at last.
    before: BTreeMap<Partition, i64>,
}

#[derive(Debug)]
enum Database {
    Postgres {
        url: String,
        connection: Option<PgConnection>,
    },
    /// With the last rows of the copies and of the dead letters that were seen.
    Sqlite {
        path: PathBuf,
        seen: (i64, i64),
    },
}

/// Places of rows: topic, partition, offset, number.
type Place = (String, i32, i64, i32);

/// One look, as it was read.
#[derive(Debug, Default)]
struct Seen {
    progress: BTreeMap<Partition, i64>,
    copies: Vec<Place>,
    dead: Vec<Place>,
    counts: Option<BTreeMap<Partition, Count>>,
}

impl Watch {
    /// A watch on PostgreSQL's tables. It needs an index to find what is new.
    ///
    /// # Errors
    /// When the database does not answer, or has no table `copied`.
    pub async fn postgres(url: &str, group: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        let index = "create index on copied (topic, partition, \"offset\")";
        sqlx::raw_sql(index).execute(&mut connection).await.context("an index for looking")?;
        let database = Database::Postgres { url: url.into(), connection: Some(connection) };
        Ok(Self { group: group.into(), database, before: BTreeMap::new() })
    }

    /// A watch on a SQLite file, which need not be there yet. Its rows are numbered in the order of their commits.
    #[must_use]
    pub fn sqlite(path: &Path, group: &str) -> Self {
        let database = Database::Sqlite { path: path.into(), seen: (0, 0) };
        Self { group: group.into(), database, before: BTreeMap::new() }
    }

    /// What is new since the last look that succeeded.
    ///
    /// # Errors
    /// When the database does not answer just now. Nothing is missed: the next look sees it.
    pub async fn look(&mut self, look: Look) -> Result<Moment> {
        let Self { group, database, before } = self;
        let looked = match database {
            Database::Postgres { url, connection } => {
                let looked = timeout(LOOK_MAX, at_postgres(url, connection, group, before, look));
                let Ok(Ok(looked)) = looked.await else {
                    *connection = None;
                    bail!("the database does not answer");
                };
                looked
            }
            Database::Sqlite { path, seen } => {
                let (looked, now) =
                    timeout(LOOK_MAX, at_sqlite(path, group, *seen, look)).await??;
                *seen = now;
                looked
            }
        };
        let stride = |(partition, next): (&Partition, &i64)| {
            let from = before.get(partition).copied().unwrap_or_default();
            (partition.clone(), Stride { from, next: *next })
        };
        let progress = looked.progress.iter().map(stride).collect();
        *before = looked.progress;
        let mut new: BTreeMap<Partition, Rows> = BTreeMap::new();
        for (topic, partition, offset, i) in looked.copies {
            new.entry((topic.into(), partition)).or_default().copies.push((offset, i));
        }
        for (topic, partition, offset, _) in looked.dead {
            new.entry((topic.into(), partition)).or_default().dead.push(offset);
        }
        Ok(Moment { progress, new, totals: looked.counts })
    }
}

/// Rows at and behind the progress of the last look: what lies before it was compared then.
const NEW_IN_POSTGRES: &str = "select c.topic, c.partition, c.\"offset\", c.i \
    from unnest($1::text[], $2::int[], $3::bigint[]) as s(topic, partition, since) \
    join copied c on c.topic = s.topic and c.partition = s.partition and c.\"offset\" >= s.since";
const NEW_DEAD_IN_POSTGRES: &str = "select d.topic, d.partition, d.\"offset\", 0 \
    from unnest($1::text[], $2::int[], $3::bigint[]) as s(topic, partition, since) \
    join tidegate.dead_letter d \
        on d.topic = s.topic and d.partition = s.partition and d.\"offset\" >= s.since \
    where d.group_id = $4";

async fn at_postgres(
    url: &str,
    kept: &mut Option<PgConnection>,
    group: &str,
    before: &BTreeMap<Partition, i64>,
    look: Look,
) -> Result<Seen> {
    let database = match kept {
        Some(database) => database,
        None => kept.insert(PgConnection::connect(url).await?),
    };
    // The planner guesses that a third of the table is new; it is next to nothing.
    let begin = "begin isolation level repeatable read, read only; \
        set local enable_hashjoin = off; set local enable_mergejoin = off; \
        set local enable_seqscan = off";
    sqlx::raw_sql(begin).execute(&mut *database).await?;
    let mut seen = Seen { progress: postgres::progress(database, group).await?, ..Seen::default() };
    if seen.progress.is_empty() {
        sqlx::raw_sql("rollback").execute(database).await?;
        return Ok(seen);
    }
    let topics: Vec<String> = seen.progress.keys().map(|(topic, _)| topic.to_string()).collect();
    let numbers: Vec<i32> = seen.progress.keys().map(|(_, partition)| *partition).collect();
    let since = |partition| before.get(partition).copied().unwrap_or_default();
    let since: Vec<i64> = seen.progress.keys().map(since).collect();
    let new = sqlx::query(NEW_IN_POSTGRES).bind(&topics).bind(&numbers).bind(&since);
    seen.copies = places_of_postgres(new.fetch_all(&mut *database).await?)?;
    let dead = sqlx::query(NEW_DEAD_IN_POSTGRES).bind(&topics).bind(&numbers).bind(&since);
    seen.dead = places_of_postgres(dead.bind(group).fetch_all(&mut *database).await?)?;
    if look == Look::Whole {
        sqlx::raw_sql("set local enable_seqscan = on").execute(&mut *database).await?;
        let count = "select topic, partition, count(*) from copied group by 1, 2";
        let copies = sqlx::query(count).fetch_all(&mut *database).await?;
        let count = "select topic, partition, count(*) from tidegate.dead_letter \
                     where group_id = $1 group by 1, 2";
        let dead = sqlx::query(count).bind(group).fetch_all(&mut *database).await?;
        let number = |row: PgRow| anyhow::Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let copies = copies.into_iter().map(number).collect::<Result<_>>()?;
        seen.counts = Some(counts(copies, dead.into_iter().map(number).collect::<Result<_>>()?)?);
    }
    sqlx::raw_sql("commit").execute(database).await?;
    Ok(seen)
}

fn places_of_postgres(rows: Vec<PgRow>) -> Result<Vec<Place>> {
    let place =
        |row: PgRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
    rows.into_iter().map(place).collect()
}

async fn at_sqlite(
    path: &Path,
    group: &str,
    (mut last, mut last_dead): (i64, i64),
    look: Look,
) -> Result<(Seen, (i64, i64))> {
    let mut seen = Seen::default();
    let Some(mut database) = sqlite::open(path).await? else {
        return Ok((seen, (last, last_dead)));
    };
    // In WAL mode a reader sees one moment from its first statement on.
    sqlx::raw_sql("begin").execute(&mut database).await?;
    seen.progress = sqlite::progress(&mut database, group).await?;
    if !seen.progress.is_empty() {
        let new = "select topic, partition, \"offset\", i, rowid from copied where rowid > $1";
        let rows = sqlx::query(new).bind(last).fetch_all(&mut database).await?;
        seen.copies = places_of_sqlite(rows, &mut last)?;
        let new = "select topic, partition, \"offset\", 0, id from tidegate_dead_letter \
                   where id > $1 and group_id = $2";
        let rows = sqlx::query(new).bind(last_dead).bind(group).fetch_all(&mut database).await?;
        seen.dead = places_of_sqlite(rows, &mut last_dead)?;
        if look == Look::Whole {
            let count = "select topic, partition, count(*) from copied group by 1, 2";
            let copies = sqlx::query(count).fetch_all(&mut database).await?;
            let count = "select topic, partition, count(*) from tidegate_dead_letter \
                         where group_id = $1 group by 1, 2";
            let dead = sqlx::query(count).bind(group).fetch_all(&mut database).await?;
            let number =
                |row: SqliteRow| anyhow::Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
            let copies = copies.into_iter().map(number).collect::<Result<_>>()?;
            let dead = dead.into_iter().map(number).collect::<Result<_>>()?;
            seen.counts = Some(counts(copies, dead)?);
        }
    }
    database.close().await?;
    Ok((seen, (last, last_dead)))
}

/// The places, and the number of the last row.
fn places_of_sqlite(rows: Vec<SqliteRow>, last: &mut i64) -> Result<Vec<Place>> {
    let place = |row: SqliteRow| {
        *last = row.try_get::<i64, _>(4)?.max(*last);
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))
    };
    rows.into_iter().map(place).collect()
}

/// Topic, partition and how many.
type Counted = Vec<(String, i32, i64)>;

fn counts(copies: Counted, dead: Counted) -> Result<BTreeMap<Partition, Count>> {
    let mut counts: BTreeMap<Partition, Count> = BTreeMap::new();
    for (topic, partition, count) in copies {
        counts.entry((topic.into(), partition)).or_default().copies = count.try_into()?;
    }
    for (topic, partition, count) in dead {
        counts.entry((topic.into(), partition)).or_default().dead = count.try_into()?;
    }
    Ok(counts)
}
