//! Where copiers play: an input topic, a store for the copies, a group, and a directory for what they leave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rdkafka::ClientConfig;
use tempfile::TempDir;

use super::{Orders, Planned, produce};
use crate::audit::{Evidence, Order, Partition, Report, Rules, audit};
use crate::readers::{
    Watch, add_tables, add_topic, create_counted_table, group_offsets, open_transactions_end,
    read_ends, read_input, read_postgres, read_postgres_progress, read_sqlite,
    read_sqlite_progress,
};
use crate::servers::{Kafka, Postgres, unique};

/// Where the copies go.
#[derive(Clone, Debug)]
pub enum Store {
    /// A topic.
    Kafka(String),
    /// A database.
    Postgres(String),
    /// A file.
    Sqlite(PathBuf),
}

impl Store {
    /// A new topic, and one for its dead letters.
    ///
    /// # Errors
    /// When they cannot be created.
    pub async fn topic(kafka: &Kafka, partitions: i32) -> Result<Self> {
        let name = unique("copies");
        kafka.create_topic(&name, partitions, &[]).await?;
        kafka.create_topic(&format!("{name}.dead-letters"), 1, &[]).await?;
        Ok(Self::Kafka(name))
    }

    /// A new database whose table counts its rows.
    ///
    /// # Errors
    /// When it cannot be created.
    pub async fn database(postgres: &Postgres) -> Result<Self> {
        let url = postgres.new_database().await?;
        create_counted_table(&url).await?;
        Ok(Self::Postgres(url))
    }

    /// As the copier's flag `--sink` wants it.
    #[must_use]
    pub fn flag(&self) -> String {
        match self {
            Self::Kafka(topic) => format!("kafka:{topic}"),
            Self::Postgres(url) => format!("postgres:{url}"),
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
        }
    }
}

/// Where progress is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// With the copies: exactly once.
    Store,
    /// In the group's offsets: the weaker guarantees.
    Group,
}

/// One input, one store, one group.
#[derive(Debug)]
pub struct Scene {
    /// The input topic.
    pub input: String,
    /// The group.
    pub group: String,
    /// Where copies go.
    pub store: Store,
    /// Where progress is looked for.
    pub progress: Progress,
    client: ClientConfig,
    bootstrap: String,
    program: String,
    dir: Option<TempDir>,
}

impl Scene {
    /// A scene with a new input topic and a group of its own.
    ///
    /// # Errors
    /// When the topic cannot be created.
    pub async fn new(program: &str, kafka: &Kafka, store: Store, partitions: i32) -> Result<Self> {
        let input = unique("input");
        kafka.create_topic(&input, partitions, &[]).await?;
        Self::on(program, kafka, store, &input)
    }

    /// A scene on an input topic that is there, with a group of its own.
    ///
    /// # Errors
    /// When there can be no directory.
    pub fn on(program: &str, kafka: &Kafka, store: Store, input: &str) -> Result<Self> {
        Ok(Self {
            input: input.into(),
            group: unique("copiers"),
            store,
            progress: Progress::Store,
            client: kafka.client(),
            bootstrap: kafka.bootstrap().into(),
            program: program.into(),
            dir: Some(directory()?),
        })
    }

    /// A scene whose store is a SQLite file in its directory.
    ///
    /// # Errors
    /// When there can be no directory.
    pub fn with_file(program: &str, kafka: &Kafka, input: &str) -> Result<Self> {
        let mut scene = Self::on(program, kafka, Store::Sqlite(PathBuf::new()), input)?;
        scene.store = Store::Sqlite(scene.dir().join("copies.sqlite"));
        Ok(scene)
    }

    /// Where evidence and logs are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("it is there until the scene ends").path()
    }

    /// A plain client of its Kafka.
    #[must_use]
    pub fn client(&self) -> &ClientConfig {
        &self.client
    }

    /// A copier of this scene.
    #[must_use]
    pub fn copier(&self, name: &str) -> Orders {
        Orders::new(&self.program, self.dir(), name)
            .flag("--bootstrap", &self.bootstrap)
            .flag("--group", &self.group)
            .flag("--input", &self.input)
            .flag("--sink", self.store.flag())
    }

    /// Produces input, as fast as it goes.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn feed(&self, records: Vec<Planned>) -> Result<()> {
        produce(&self.client, &self.input, records, 0).await
    }

    /// As [`feed`](Self::feed), by a scene that is there for nothing else.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn feed_and_pass(self, records: Vec<Planned>) -> Result<()> {
        self.feed(records).await?;
        self.passed();
        Ok(())
    }

    /// Whether progress is the end of every partition.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn is_done(&self) -> Result<bool> {
        let ends = self.ends().await?;
        Ok(self.stored(&ends).await? == ends)
    }

    /// The ends of all partitions of the input.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn ends(&self) -> Result<BTreeMap<Partition, i64>> {
        let topics: Vec<_> = self.input.split(',').collect();
        read_ends(&self.client, &topics).await
    }

    /// Progress as it stands, of those partitions that have any.
    ///
    /// # Errors
    /// When a server does not answer.
    pub async fn progress_now(&self) -> Result<BTreeMap<Partition, i64>> {
        self.stored(&self.ends().await?).await
    }

    /// Progress of these partitions.
    async fn stored(&self, ends: &BTreeMap<Partition, i64>) -> Result<BTreeMap<Partition, i64>> {
        match (&self.store, self.progress) {
            (Store::Postgres(url), Progress::Store) => {
                read_postgres_progress(url, &self.group).await
            }
            (Store::Sqlite(path), Progress::Store) => read_sqlite_progress(path, &self.group).await,
            _ => group_offsets(&self.client, &self.group, ends.keys()).await,
        }
    }

    /// Reads input, store and progress.
    ///
    /// # Errors
    /// When something cannot be read to its end.
    pub async fn evidence(&self) -> Result<(Evidence, Order)> {
        let topics: Vec<_> = self.input.split(',').collect();
        let mut evidence = read_input(&self.client, &topics).await?;
        let tables = match &self.store {
            Store::Kafka(topic) => {
                add_topic(&mut evidence, &self.client, topic, &self.group).await?;
                return Ok((evidence, Order::PerKey));
            }
            Store::Postgres(url) => read_postgres(url, &self.group).await?,
            Store::Sqlite(path) => read_sqlite(path, &self.group).await?,
        };
        let order = if tables.in_order { Order::PerPartition } else { Order::Unknown };
        add_tables(&mut evidence, tables);
        if self.progress == Progress::Group {
            evidence.progress = self.stored(&evidence.ends).await?;
        }
        Ok((evidence, order))
    }

    /// A watch on the store, if it can show one moment of itself.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn watch(&self) -> Result<Option<Watch>> {
        Ok(match &self.store {
            Store::Kafka(_) => None,
            Store::Postgres(url) => Some(Watch::postgres(url, &self.group).await?),
            Store::Sqlite(path) => Some(Watch::sqlite(path, &self.group)),
        })
    }

    /// Compares input and store. What order is compared follows from the store.
    ///
    /// # Errors
    /// When something cannot be read to its end.
    pub async fn audit(&self, rules: &Rules) -> Result<Report> {
        let (evidence, order) = self.evidence().await.context("read back")?;
        Ok(audit(&evidence, &Rules { order, ..rules.clone() }))
    }

    /// Waits until a writer that was killed blocks no reader of the store.
    ///
    /// # Errors
    /// When it does for too long.
    pub async fn settled(&self) -> Result<()> {
        match &self.store {
            Store::Kafka(topic) => open_transactions_end(&self.client, topic).await,
            Store::Postgres(_) | Store::Sqlite(_) => Ok(()),
        }
    }

    /// The scene showed what it should: nothing of it is kept, unless `TIDEGATE_KEEP` is set. A scene that ends
    /// without this keeps its directory.
    pub fn passed(mut self) {
        if std::env::var_os("TIDEGATE_KEEP").is_none() {
            self.dir = None;
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(dir) = self.dir.take() {
            eprintln!(
                "kept: logs and evidence of group {} in {}",
                self.group,
                dir.keep().display()
            );
        }
    }
}

fn directory() -> Result<TempDir> {
    Ok(TempDir::with_prefix("tidegate-scene-")?)
}
