//! The servers, and what a case needs on them.

use anyhow::{Context as _, Result};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use sqlx::{Connection as _, Row as _};
use tidegate_tests::servers::{Kafka, KafkaOptions, Postgres, unique};

use crate::load::PARTITIONS;

pub(crate) struct Servers {
    kafka: &'static Kafka,
    postgres: Option<&'static Postgres>,
    /// Where PostgreSQL's Unix socket is, if it is on this machine.
    socket: Option<String>,
}

impl Servers {
    pub(crate) async fn start(needs_postgres: bool) -> Result<Self> {
        let kafka = match std::env::var("TIDEGATE_KAFKA") {
            Ok(named) if !named.is_empty() => Kafka::shared().await?,
            // Like a shared one it lives as long as the process.
            _ => Box::leak(Box::new(Kafka::start(as_in_production()).await?)),
        };
        let postgres = if needs_postgres { Some(Postgres::shared().await?) } else { None };
        let socket = match postgres {
            Some(postgres) => socket_of(postgres.url()).await?,
            None => None,
        };
        Ok(Self { kafka, postgres, socket })
    }

    pub(crate) fn bootstrap(&self) -> &str {
        self.kafka.bootstrap()
    }

    /// Both addresses, as lines for a shell.
    pub(crate) fn exports(&self) -> String {
        let postgres = self.postgres.map_or("", |postgres| postgres.url());
        format!("export TIDEGATE_KAFKA={}\nexport TIDEGATE_POSTGRES={postgres}", self.bootstrap())
    }

    /// How PostgreSQL is reached, in words.
    pub(crate) fn way_to_postgres(&self) -> &'static str {
        if self.socket.is_some() { "Unix socket" } else { "TCP" }
    }

    /// An empty topic.
    pub(crate) async fn topic(&self, name: &str) -> Result<String> {
        let name = unique(name);
        // What a case wrote is of no use after it: the space is given back at once.
        let settings = [("file.delete.delay.ms", "1000")];
        self.kafka.create_topic(&name, PARTITIONS, &settings).await?;
        Ok(name)
    }

    pub(crate) async fn delete_topic(&self, name: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.kafka.client().create()?;
        admin.delete_topics(&[name], &AdminOptions::new()).await?;
        Ok(())
    }

    /// The URL of an empty database, by Unix socket where there is one.
    pub(crate) async fn database(&self) -> Result<String> {
        let postgres = self.postgres.context("PostgreSQL was not started")?;
        let url = postgres.new_database().await?;
        let Some(socket) = &self.socket else {
            return Ok(url);
        };
        let (server, name) = url.rsplit_once('/').context("a URL without a database")?;
        let port = server.rsplit_once(':').context("a URL without a port")?.1;
        let (_, user) = server.split_once("//").context("a URL without a scheme")?;
        let user = user.split(['@', ':']).next().context("a URL without a user")?;
        Ok(format!("postgres:///{name}?host={socket}&port={port}&user={user}"))
    }

    pub(crate) async fn drop_database(&self, url: &str) -> Result<()> {
        let name = url.rsplit('/').find(|part| part.starts_with("test_"));
        let name = name.and_then(|name| name.split('?').next()).context("a URL of ours")?;
        let postgres = self.postgres.context("PostgreSQL was not started")?;
        let mut database = sqlx::PgConnection::connect(postgres.url()).await?;
        let text = format!("DROP DATABASE {name} WITH (FORCE)");
        sqlx::query(sqlx::AssertSqlSafe(text)).execute(&mut database).await?;
        Ok(database.close().await?)
    }
}

/// Tests want a broker that starts fast; this one has to run fast.
fn as_in_production() -> KafkaOptions {
    KafkaOptions::new().java("-XX:TieredStopAtLevel=4").java("-Xmx1g")
}

/// The directory of the server's socket, if this process can see it.
async fn socket_of(url: &str) -> Result<Option<String>> {
    let mut database = sqlx::PgConnection::connect(url).await?;
    let row = sqlx::query("SHOW unix_socket_directories").fetch_one(&mut database).await?;
    database.close().await?;
    let directories: String = row.get(0);
    let mut directories = directories.split(',').map(str::trim).filter(|name| !name.is_empty());
    Ok(directories.find(|name| std::path::Path::new(name).is_dir()).map(str::to_owned))
}
