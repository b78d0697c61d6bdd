//! The memory sink keeps the promises that the connectors keep.

use tidegate::record::Coordinates;
use tidegate::testing::conformance::{Ability, Harness, View};
use tidegate::testing::{MemorySink, MemoryStore};

/// A result that the store refuses.
const REFUSED: u64 = u64::MAX;

struct Memory(MemoryStore<u64>);

impl Harness for Memory {
    type Sink = MemorySink<u64>;

    async fn sink(&self) -> MemorySink<u64> {
        let refuses = |number: &u64| (*number == REFUSED).then(|| "a constraint".to_owned());
        self.0.sink().refusing(refuses)
    }

    fn output(&self, number: u64) -> u64 {
        number
    }

    async fn view(&self) -> View {
        let seen = self.0.snapshot();
        let dead = seen.dead.iter().map(|(record, _)| -> Coordinates { record.coordinates() });
        View {
            outputs: seen.rows.iter().map(|row| row.value).collect(),
            dead: dead.collect(),
            progress: seen.progress,
        }
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::Transaction => Some("a commit is one step under a lock"),
            Ability::Wire => Some("the store is in this process"),
            _ => None,
        }
    }

    fn refused_output(&self) -> u64 {
        REFUSED
    }
}

tidegate::sink_conformance!(Memory(MemoryStore::new()));
