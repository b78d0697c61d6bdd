//! Where offsets are kept, behind one face, and the cluster they are offsets of.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tidegate::record::{Offset, PartitionId, Timestamp};
use tidegate::source::Position;
use tidegate_kafka::{Admin, Kafka};
use tidegate_postgres as postgres;
use tidegate_sql::{Liveness, ProgressRow};
use tidegate_sqlite as sqlite;

use crate::args::Place;
use crate::failure::Failure;
use crate::scenario::Log;

#[cfg(feature = "tls")]
pub(crate) mod security;

/// A file does not know who has it open. Progress that changed so recently has an owner that is
/// probably alive.
const FRESH: Duration = Duration::from_secs(30);

/// A store of offsets and, if it is known, the cluster.
pub(crate) struct Store {
    kept: Kept,
    cluster: Option<Admin>,
}

enum Kept {
    /// In the cluster's consumer groups.
    Kafka,
    Postgres(postgres::Progress),
    Sqlite(sqlite::Progress),
}

/// A stored offset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) partition: PartitionId,
    pub(crate) next: i64,
    /// What only databases keep.
    pub(crate) more: Option<More>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct More {
    pub(crate) claim: i64,
    pub(crate) resets: i64,
    pub(crate) updated_at: SystemTime,
}

impl From<ProgressRow> for Row {
    fn from(row: ProgressRow) -> Self {
        let ProgressRow { claim, reset_generation: resets, updated_at, .. } = row;
        let more = Some(More { claim, resets, updated_at });
        Self { partition: row.partition, next: row.next, more }
    }
}

impl Store {
    pub(crate) async fn open(place: &Place) -> Result<Self, Failure> {
        let cluster = kafka(place)?.map(|kafka| kafka.admin()).transpose()?;
        let kept = match (&place.postgres, &place.sqlite) {
            (Some(url), _) => {
                let options = postgres::ProgressOptions::new(url).bookkeeping_schema(&place.schema);
                let options =
                    if place.allow_plaintext { options.allow_plaintext() } else { options };
                Kept::Postgres(options.connect().await?)
            }
            (None, Some(path)) => {
                if !path.exists() {
                    return Err(Failure::usage(format_args!("{} does not exist", path.display())));
                }
                Kept::Sqlite(sqlite::Progress::open_with_prefix(path, &place.prefix).await?)
            }
            (None, None) => Kept::Kafka,
        };
        Ok(Self { kept, cluster })
    }

    /// Whether the offsets are the consumer group's.
    pub(crate) fn is_kafka(&self) -> bool {
        matches!(self.kept, Kept::Kafka)
    }

    /// The groups with progress; a cluster has too many to show.
    pub(crate) async fn groups(&mut self) -> Result<Vec<String>, Failure> {
        match &mut self.kept {
            Kept::Kafka => Err(Failure::usage("--group is missing")),
            Kept::Postgres(progress) => Ok(progress.groups().await?),
            Kept::Sqlite(progress) => Ok(progress.groups().await?),
        }
    }

    /// What is stored for a group, sorted by partition.
    pub(crate) async fn stored(&mut self, group: &str) -> Result<Vec<Row>, Failure> {
        let mut rows: Vec<Row> = match &mut self.kept {
            Kept::Kafka => {
                let positions = asked(&self.cluster).group_offsets(group).await?;
                let row = |Position { partition, next }| {
                    let next = next.get();
                    Row { partition, next, more: None }
                };
                positions.into_iter().map(row).collect()
            }
            Kept::Postgres(kept) => kept.rows(group).await?.into_iter().map(Row::from).collect(),
            Kept::Sqlite(kept) => kept.rows(group).await?.into_iter().map(Row::from).collect(),
        };
        rows.sort_by(|a, b| a.partition.cmp(&b.partition));
        Ok(rows)
    }

    /// Why the group must not be touched: somebody works on it.
    pub(crate) async fn in_use(&mut self, group: &str) -> Result<Option<String>, Failure> {
        // A pipeline is a member of its group wherever its progress is.
        if let Some(cluster) = &self.cluster {
            let members = cluster.group_members(group).await?;
            if members > 0 {
                let members = if members == 1 {
                    "1 live member".to_owned()
                } else {
                    format!("{members} live members")
                };
                return Ok(Some(format!(
                    "it has {members}; one that died counts until its session is over"
                )));
            }
        }
        let liveness = match &mut self.kept {
            Kept::Kafka => return Ok(None),
            Kept::Postgres(progress) => progress.liveness(group).await?,
            Kept::Sqlite(progress) => progress.liveness(group).await?,
        };
        Ok(match liveness {
            Liveness::None => None,
            Liveness::Live(partitions) => {
                let names: Vec<String> = partitions.iter().map(ToString::to_string).collect();
                Some(format!("the owner of {} is connected", names.join(", ")))
            }
            Liveness::Unknown(changed) => {
                let age = changed.and_then(|at| SystemTime::now().duration_since(at).ok());
                age.filter(|age| *age < FRESH && self.cluster.is_none()).map(|age| {
                    format!(
                        "its progress changed {} s ago, so a pipeline may be at work; wait {} s, \
                         or add --kafka HOST:PORT to ask its group",
                        age.as_secs(),
                        FRESH.as_secs()
                    )
                })
            }
            _ => Some("whether it is at work cannot be told".to_owned()),
        })
    }

    /// Stores positions: all or none in a database, in one request at a broker.
    pub(crate) async fn set(&mut self, group: &str, to: Vec<Position>) -> Result<(), Failure> {
        if let Kept::Kafka = self.kept {
            return Ok(asked(&self.cluster).set_group_offsets(group, to).await?);
        }
        let to: Vec<(PartitionId, Offset)> =
            to.into_iter().map(|position| (position.partition, position.next)).collect();
        match &mut self.kept {
            Kept::Kafka => unreachable!("dealt with above"),
            Kept::Postgres(progress) => progress.set(group, &to).await?,
            Kept::Sqlite(progress) => progress.set(group, &to).await?,
        }
        Ok(())
    }

    /// The logs of these partitions; a topic that is gone has none. Empty without a cluster.
    pub(crate) async fn logs(
        &self,
        partitions: &[PartitionId],
    ) -> Result<HashMap<PartitionId, Log>, Failure> {
        let Some(cluster) = &self.cluster else {
            return Ok(HashMap::new());
        };
        let mut logs = HashMap::new();
        for topic in topics(partitions) {
            // A group may hold offsets of a topic that was deleted, or of more partitions than
            // the topic has now.
            let there = match cluster.partitions([topic.as_str()]).await {
                Ok(there) => there,
                Err(error) => {
                    eprintln!("note: {error}");
                    continue;
                }
            };
            let asked: Vec<PartitionId> =
                there.into_iter().filter(|partition| partitions.contains(partition)).collect();
            for range in cluster.log_ranges(&asked).await? {
                let log = Log { start: range.start.get(), end: range.end.get() };
                logs.insert(range.partition, log);
            }
        }
        Ok(logs)
    }

    /// The partitions of a topic, if the cluster is known.
    pub(crate) async fn partitions(
        &self,
        topic: &str,
    ) -> Result<Option<Vec<PartitionId>>, Failure> {
        match &self.cluster {
            None => Ok(None),
            Some(cluster) => Ok(Some(cluster.partitions([topic]).await?)),
        }
    }

    /// The first offset of each partition at this time or later.
    pub(crate) async fn offsets_at(
        &self,
        partitions: &[PartitionId],
        time: Timestamp,
    ) -> Result<Vec<Offset>, Failure> {
        match &self.cluster {
            None => Err(needs_cluster("a time")),
            Some(cluster) => Ok(cluster.offsets_at(partitions, time).await?),
        }
    }

    /// Whether [`in_use`](Self::in_use) would notice an idle owner.
    pub(crate) fn knows_owners(&self) -> bool {
        self.cluster.is_some() || matches!(self.kept, Kept::Postgres(_))
    }

    pub(crate) fn knows_cluster(&self) -> bool {
        self.cluster.is_some()
    }
}

/// The cluster that is named, if one is.
pub(crate) fn kafka(place: &Place) -> Result<Option<Kafka>, Failure> {
    let Some(servers) = &place.kafka else { return Ok(None) };
    let mut kafka = Kafka::connect(servers);
    if place.allow_plaintext {
        kafka = kafka.allow_plaintext();
    }
    #[cfg(feature = "tls")]
    if let Some(security) = place.security.read()? {
        kafka = kafka.security(security);
    }
    Ok(Some(kafka))
}

/// The refusal of what only the cluster can answer.
pub(crate) fn needs_cluster(what: &str) -> Failure {
    Failure::usage(format_args!(
        "{what} is found in the log, and the database does not know the cluster: add --kafka \
         HOST:PORT"
    ))
}

/// The cluster of a store that is the cluster.
fn asked(cluster: &Option<Admin>) -> &Admin {
    cluster.as_ref().expect("without a database there is a cluster: the arguments ask for it")
}

/// The topics of these partitions, each once.
fn topics(partitions: &[PartitionId]) -> Vec<String> {
    let mut names: Vec<String> =
        partitions.iter().map(|partition| partition.topic().to_string()).collect();
    names.sort();
    names.dedup();
    names
}
