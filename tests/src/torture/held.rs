//! One commit of a copier, held on its way.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};
use tokio::time::sleep;

use crate::fleet::{Orders, Store};
use crate::wire::{Act, Trap, What, Wire, api};

/// How long a commit is waited for.
const CAUGHT_WITHIN: Duration = Duration::from_secs(15);
/// How long the write lock of a file is waited for: copiers hold it for moments.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Between two looks at what a copier says. One whose last word is the same cut in both waits.
const LOOK: Duration = Duration::from_millis(200);

/// A commit that is on its way.
pub(super) enum Held {
    /// On the wire.
    Trap(Arc<Trap>),
    /// It waits for the file's write lock.
    Lock(SqliteConnection),
}

impl Held {
    /// Lets it go on.
    pub(super) async fn release(self) {
        match self {
            Self::Trap(trap) => trap.open(),
            // The end of the connection ends its transaction.
            Self::Lock(connection) => drop(connection.close().await),
        }
    }

    /// Keeps a commit whose copier stands still from the store for so long. The lock is let go at once, because
    /// others need it to take over, and nobody is there to take it; a request arrives in the end.
    pub(super) async fn outlast(self, length: Duration) {
        if let Self::Trap(_) = self {
            sleep(length).await;
            self.release().await;
            sleep(LOOK).await;
        } else {
            self.release().await;
            sleep(length).await;
        }
    }
}

/// Does this to the next commit on a wire that writes results: another one shows nothing. `None` if none comes.
pub(super) async fn catch(wire: &Wire, act: Act) -> Option<Arc<Trap>> {
    let trap = wire.trap(act, |what| match what {
        What::Kafka { api, commits } => *api == api::END_TXN && *commits,
        other => other.commits_into("copied"),
    });
    let caught = trap.hit(CAUGHT_WITHIN).await.is_ok();
    // One that comes later passes.
    trap.disarm();
    if !caught {
        trap.open();
    }
    caught.then_some(trap)
}

/// Holds the next commit of a copier, if one comes: on its wire, or before the write lock of its file.
pub(super) async fn hold(
    wire: Option<&Wire>,
    store: &Store,
    orders: &Orders,
) -> Result<Option<Held>> {
    match (store, wire) {
        (Store::Sqlite(path), _) => {
            let options = SqliteConnectOptions::new().filename(path).busy_timeout(LOCK_WAIT);
            let mut connection = SqliteConnection::connect_with(&options).await?;
            if sqlx::raw_sql("begin immediate").execute(&mut connection).await.is_err() {
                return Ok(None);
            }
            sleep(LOOK).await;
            let before = orders.last_words()?.open_cut();
            sleep(LOOK).await;
            let waits = before.is_some() && before == orders.last_words()?.open_cut();
            Ok(waits.then_some(Held::Lock(connection)))
        }
        (_, Some(wire)) => Ok(catch(wire, Act::Hold).await.map(Held::Trap)),
        (_, None) => Ok(None),
    }
}
