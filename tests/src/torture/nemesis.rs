//! The kinds of things that break, by the names that the command line has for them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Nemesis {
    /// A copier is killed (`SIGKILL`) and started again.
    Kill,
    /// A copier is stopped (`SIGSTOP`) for longer than its session.
    Stop,
    /// A copier is stopped for longer than its transactions may stay open.
    Expiry,
    /// A copier is stopped while a commit of it is on its way, which arrives when others have its partitions.
    Zombie,
    /// A copier is stopped for moments, again and again.
    Stutter,
    /// A copier is asked to end (`SIGTERM`), sometimes twice.
    Term,
    /// The broker is killed and started again.
    Broker,
    /// The broker is stopped for a while: nothing is answered, no connection ends.
    Pause,
    /// The database server is killed and started again.
    Database,
    /// The database ends the connections of all copiers.
    Backends,
    /// A copier's wire to the broker or the database is cut, silent or slow.
    Link,
    /// The request or the answer of a copier's commit is lost, or arrives late.
    Commit,
    /// Members join and leave the group every second.
    Storm,
    /// Something else takes the processors.
    Burn,
    /// A foreign transaction stays open in the input, so that readers wait behind it.
    Hanging,
    /// The input gets another partition.
    Topic,
    /// Records of the input that are done are deleted.
    Delete,
    /// An operator moves the group's offsets, deletes the group, or throttles all clients.
    Operator,
}

/// Everything there is.
pub const ALL: [Nemesis; 18] = [
    Nemesis::Kill,
    Nemesis::Stop,
    Nemesis::Expiry,
    Nemesis::Zombie,
    Nemesis::Stutter,
    Nemesis::Term,
    Nemesis::Broker,
    Nemesis::Pause,
    Nemesis::Database,
    Nemesis::Backends,
    Nemesis::Link,
    Nemesis::Commit,
    Nemesis::Storm,
    Nemesis::Burn,
    Nemesis::Hanging,
    Nemesis::Topic,
    Nemesis::Delete,
    Nemesis::Operator,
];

impl Nemesis {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Expiry => "expiry",
            Self::Zombie => "zombie",
            Self::Stutter => "stutter",
            Self::Term => "term",
            Self::Broker => "broker",
            Self::Pause => "pause",
            Self::Database => "database",
            Self::Backends => "backends",
            Self::Link => "link",
            Self::Commit => "commit",
            Self::Storm => "storm",
            Self::Burn => "burn",
            Self::Hanging => "hanging",
            Self::Topic => "topic",
            Self::Delete => "delete",
            Self::Operator => "operator",
        }
    }

    /// Whether it needs a database server.
    #[must_use]
    pub fn needs_database(self) -> bool {
        matches!(self, Self::Database | Self::Backends)
    }

    /// Whether it needs a commit that goes over a wire.
    #[must_use]
    pub fn needs_wire(self) -> bool {
        self == Self::Commit
    }
}

impl fmt::Display for Nemesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Nemesis {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match ALL.into_iter().find(|nemesis| nemesis.name() == text) {
            Some(nemesis) => Ok(nemesis),
            None => {
                bail!("no nemesis is called {text}; there are {}", ALL.map(Self::name).join(", "))
            }
        }
    }
}
