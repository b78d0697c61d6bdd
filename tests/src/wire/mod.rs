//! Wires between clients and a server that can be cut, silenced and slowed down, and that know enough of what passes
//! to hold or lose one particular request or answer.
//!
//! A server does not know its wires: a client is given a wire's port instead of the server's. A broker tells clients
//! where to connect, so it has a listener of its own for each wire; see
//! [`KafkaOptions::wires`](crate::servers::KafkaOptions::wires).

mod connection;
mod kafka;
mod postgres;
mod trap;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use kafka::api;
pub use trap::{Act, Trap};

/// What one side said to the other.
#[derive(Clone, Debug)]
pub struct Request {
    /// All of it, to be passed on.
    pub(crate) bytes: Vec<u8>,
    /// Which answer is its answer.
    pub(crate) number: u64,
    /// What it asks for.
    pub what: What,
}

/// What a request asks for, as far as a wire understands it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A request to a broker.
    Kafka {
        /// Its number in the protocol; see [`api`].
        api: i16,
        /// The end of a transaction: whether it commits.
        commits: bool,
    },
    /// Statements to a database.
    Postgres {
        /// What is executed.
        sql: String,
        /// What was executed since the transaction began, this included.
        transaction: String,
    },
    /// Something else.
    Other,
}

impl What {
    /// Whether this ends a transaction that wrote into this table and moved progress, or is such a transaction in one
    /// statement. One that only names the table, such as the set-up that creates it, is none.
    #[must_use]
    pub fn commits_into(&self, table: &str) -> bool {
        let Self::Postgres { sql, transaction } = self else { return false };
        let ends = transaction == sql || sql.trim() == "COMMIT";
        ends && transaction.contains("next_offset") && transaction.contains(table)
    }

    /// Whether this is a request to a broker with this number.
    #[must_use]
    pub fn is_api(&self, number: i16) -> bool {
        matches!(self, Self::Kafka { api, .. } if *api == number)
    }
}

/// An answer, or a part of one.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    /// The request whose answer ends with it.
    pub(crate) ends: Option<u64>,
}

/// Cuts what passes into requests and answers.
pub(crate) trait Speech: Send {
    /// The requests that are complete with these bytes.
    fn requests(&mut self, bytes: &[u8]) -> Vec<Request>;
    /// The answers that are complete with these bytes.
    fn answers(&mut self, bytes: &[u8]) -> Vec<Answer>;
}

/// Which protocol a wire carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// A broker's.
    Kafka,
    /// PostgreSQL's, in the clear.
    Postgres,
}

impl Protocol {
    fn speech(self) -> Box<dyn Speech> {
        match self {
            Self::Kafka => Box::new(kafka::Frames::default()),
            Self::Postgres => Box::new(postgres::Messages::default()),
        }
    }
}

/// What a wire does to everything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    /// Passes everything on.
    Whole,
    /// Every connection is reset, and new ones are.
    Cut,
    /// Nothing passes and nobody is told, until it is mended.
    Silent,
    /// Everything takes this much longer, each way.
    Slow(Duration),
}

/// What all connections of a wire share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) mode: watch::Sender<Mode>,
    pub(crate) traps: Mutex<Vec<Arc<Trap>>>,
}

impl Shared {
    /// The first trap that this request steps into.
    pub(crate) fn trap_for(&self, what: &What) -> Option<Arc<Trap>> {
        let traps = self.traps.lock().unwrap_or_else(PoisonError::into_inner);
        traps.iter().find(|trap| trap.catches(what)).cloned()
    }
}

/// A wire to a server. Dropping it cuts it.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Wire {
    /// A wire to the server at `HOST:PORT`, which need not be there yet.
    ///
    /// # Errors
    /// When there is no port for it.
    pub fn to(server: String, protocol: Protocol) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let shared =
            Arc::new(Shared { mode: watch::Sender::new(Mode::Whole), traps: Mutex::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, protocol, Arc::clone(&shared)));
        Ok(Self { port, shared, _tasks: tasks })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port of [`address`](Self::address).
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it does to everything from now on.
    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Lays a trap for the next request that `takes` says yes to.
    pub fn trap(
        &self,
        act: Act,
        takes: impl Fn(&What) -> bool + Send + Sync + 'static,
    ) -> Arc<Trap> {
        let trap = Arc::new(Trap::new(act, Box::new(takes)));
        let mut traps = self.shared.traps.lock().unwrap_or_else(PoisonError::into_inner);
        traps.retain(|trap| trap.waits());
        traps.push(Arc::clone(&trap));
        trap
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    server: String,
    protocol: Protocol,
    shared: Arc<Shared>,
) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let (server, shared) = (server.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            // A client of a server that is down is hung up on.
            if *shared.mode.borrow() != Mode::Cut
                && let Ok(server) = TcpStream::connect(&server).await
            {
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                connection::run(client, server, protocol.speech(), &shared).await;
            }
        });
    }
}
