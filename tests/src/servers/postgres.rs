//! One PostgreSQL: its options, its databases, and the faults a test can bring upon it.

use super::kafka::PATIENCE;
use super::local;
use super::machine::Machine;
use super::port::Port;
use super::provider::Provider;
use super::unique;
use anyhow::{Context, Result, bail, ensure};
use sqlx::{Connection, PgConnection};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

/// What every PostgreSQL of the tests has in common, also those that the scripts start.
const COMMON: &str = include_str!("../../servers/postgres.conf");
/// The superuser of every PostgreSQL of the tests.
pub(super) const USER: &str = "tidegate";
/// Its password. It is checked, so that a test can try a wrong one.
pub(super) const PASSWORD: &str = "tidegate";

/// How a PostgreSQL for one test differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    pub(super) settings: Vec<(String, String)>,
}

impl PostgresOptions {
    /// As durable as in production, with room for 200 connections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a server setting, such as `idle_in_transaction_session_timeout`. The last one set wins.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// The common settings, and then the test's.
    pub(super) fn all(&self) -> Vec<(String, String)> {
        let common = COMMON.lines().filter_map(|line| line.split('#').next()?.split_once('='));
        let common = common.map(|(name, value)| (name.trim().into(), value.trim().into()));
        common.chain(self.settings.iter().cloned()).collect()
    }
}

/// What a provider hands over: a server on its way up, and what must live as long as it does.
#[derive(Debug)]
pub(super) struct Site {
    /// `host:port`.
    pub(super) address: String,
    pub(super) machine: Machine,
    pub(super) port: Option<Port>,
    pub(super) dir: Option<TempDir>,
}

/// A PostgreSQL that answers. Dropping it ends it, unless it is a shared one.
#[derive(Debug)]
pub struct Postgres {
    url: String,
    machine: Machine,
    _port: Option<Port>,
    _dir: Option<TempDir>,
}

impl Postgres {
    /// Starts a PostgreSQL for one test and waits until it answers.
    ///
    /// # Errors
    /// When this machine has none to start: the error says what to install. When it does not come up: the error
    /// quotes its last words.
    pub async fn start(options: PostgresOptions) -> Result<Self> {
        let site = match Provider::choose().await? {
            Provider::Local => {
                tokio::task::spawn_blocking(move || local::postgres(&options)).await??
            }
            #[cfg(feature = "containers")]
            Provider::Containers => super::containers::postgres(&options).await?,
            #[cfg(not(feature = "containers"))]
            Provider::Containers => {
                unreachable!("containers are chosen only where they are built in")
            }
            Provider::External => {
                bail!(
                    "TIDEGATE_SERVERS=external: no PostgreSQL but the one in TIDEGATE_POSTGRES, and this test needs another"
                )
            }
        };
        let url = format!("postgres://{USER}:{PASSWORD}@{}/postgres", site.address);
        let postgres = Self { url, machine: site.machine, _port: site.port, _dir: site.dir };
        postgres.ready().await?;
        Ok(postgres)
    }

    /// The PostgreSQL that tests have in common: the one `TIDEGATE_POSTGRES` names, or else one for this process.
    /// A test works in a [`new_database`](Self::new_database) of it.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::find_or_start).await
    }

    async fn find_or_start() -> Result<Self> {
        match std::env::var("TIDEGATE_POSTGRES") {
            Ok(url) if !url.is_empty() => {
                let postgres = Self { url, machine: Machine::Elsewhere, _port: None, _dir: None };
                postgres.ready().await.context("TIDEGATE_POSTGRES")?;
                Ok(postgres)
            }
            _ => Self::start(PostgresOptions::new()).await,
        }
    }

    /// The superuser's way in, as a URL, to a database that is not for tables.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Creates an empty database that nobody else knows; its URL.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn new_database(&self) -> Result<String> {
        let name = unique("test").replace('-', "_");
        let mut connection = PgConnection::connect(&self.url).await?;
        // An AssertSqlSafe string: the name is ours, and a database's name cannot be a parameter.
        sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}")))
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        let (address, parameters) =
            self.url.split_once('?').map_or((&*self.url, ""), |(url, rest)| (url, rest));
        let (server, _) = address.rsplit_once('/').context("a URL without a database")?;
        let parameters =
            if parameters.is_empty() { String::new() } else { format!("?{parameters}") };
        Ok(format!("{server}/{name}{parameters}"))
    }

    /// Waits until a query is answered.
    ///
    /// # Errors
    /// When the server has ended by itself, or after two minutes.
    pub async fn ready(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let error = match timeout(Duration::from_secs(5), answers(&self.url)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(late) => late.to_string(),
            };
            self.machine.check_alive().await.context("PostgreSQL")?;
            ensure!(start.elapsed() < PATIENCE, "PostgreSQL does not answer: {error}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the server and every process of its connections (`SIGKILL`), as a power cut would.
    ///
    /// # Errors
    /// When it is down already, or is a shared one.
    pub async fn kill(&self) -> Result<()> {
        self.machine.kill().await
    }

    /// Starts a killed server on its old data and waits until it answers.
    ///
    /// # Errors
    /// When it is not down, or does not come up.
    pub async fn start_again(&self) -> Result<()> {
        self.machine.start_again().await?;
        self.ready().await
    }

    /// Stops the server and every process of its connections without ending them (`SIGSTOP`).
    ///
    /// # Errors
    /// When it is down, or is a shared one.
    pub async fn pause(&self) -> Result<()> {
        self.machine.pause().await
    }

    /// Lets a paused server go on (`SIGCONT`).
    ///
    /// # Errors
    /// When it is down, or is a shared one.
    pub async fn resume(&self) -> Result<()> {
        self.machine.resume().await
    }
}

async fn answers(url: &str) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query("select 1").execute(&mut connection).await?;
    connection.close().await
}
