//! Where the logs end, for lag: told once a second, by what fetches learn, and by a question about
//! partitions that are not fetched because nobody takes what was.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use tidegate::record::{Offset, PartitionId};
use tidegate::source::{Position, SourceEvent};

use crate::context::Consumer;
use crate::ffi;
use crate::helper::Helper;
use crate::metrics;
use crate::thread::{Command, Reader, Remote};

/// How long a question may take; the next one waits for it.
const ASK_MAX: Duration = Duration::from_secs(2);

/// What is known of the ends.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    known: HashMap<PartitionId, Known>,
    asking: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    end: Offset,
    /// What the newest fetch said when this was last looked at.
    fetched: Option<Offset>,
}

/// One partition as it stands now.
pub(crate) struct Standing {
    pub(crate) id: PartitionId,
    /// The next offset to hand on.
    pub(crate) next: Offset,
    /// The end of the log by the newest answer to a fetch.
    pub(crate) fetched: Option<Offset>,
}

impl Ends {
    /// Takes in where the partitions stand; answers those of which fetches tell nothing: there is
    /// more to hand on, so the client may have enough and fetch nothing.
    pub(crate) fn look(&mut self, standings: &[Standing]) -> Vec<PartitionId> {
        self.known.retain(|id, _| standings.iter().any(|standing| standing.id == *id));
        let mut silent = Vec::new();
        for Standing { id, next, fetched } in standings {
            let before = self.known.get(id).copied();
            let end = before.map(|known| known.end).max(*fetched).unwrap_or(*next).max(*next);
            let heard = fetched.is_some() && before.is_some_and(|known| known.fetched != *fetched);
            if !heard && (fetched.is_none() || *next < end) {
                silent.push(id.clone());
            }
            self.known.insert(id.clone(), Known { end, fetched: *fetched });
        }
        silent
    }

    /// Asks the brokers for these ends.
    pub(crate) fn ask(
        &mut self,
        partitions: Vec<PartitionId>,
        consumer: &Arc<Consumer>,
        helper: &Helper,
        remote: &Remote,
    ) {
        if partitions.is_empty() || std::mem::replace(&mut self.asking, true) {
            return;
        }
        let (consumer, remote) = (Arc::clone(consumer), remote.clone());
        helper.run(move || {
            let ends = ffi::read_uncommitted_ends(consumer.client(), &partitions, ASK_MAX);
            let ends = ends.unwrap_or_else(|failure| {
                tracing::debug!(%failure, "ends of logs are not available");
                HashMap::new()
            });
            remote.send(Command::Ends(ends));
        });
    }

    /// The answer to the question.
    pub(crate) fn answered(&mut self, ends: HashMap<PartitionId, Offset>) {
        self.asking = false;
        for (id, end) in ends {
            if let Some(known) = self.known.get_mut(&id) {
                known.end = known.end.max(end);
            }
        }
    }

    /// Every end that is known.
    pub(crate) fn positions(&self) -> Vec<Position> {
        let ends = self.known.iter();
        ends.map(|(id, known)| Position { partition: id.clone(), next: known.end }).collect()
    }
}

impl Reader {
    /// Once a second: what was read, and where the logs end.
    pub(crate) fn tell_ends(&mut self) {
        if !self.meters.are_due() {
            return;
        }
        self.meters.flush();
        let read = self.partitions.values().filter(|partition| !partition.is_parked());
        let standings: Vec<Standing> = read
            .map(|partition| Standing {
                id: partition.id.clone(),
                next: partition.next(),
                fetched: ffi::cached_high_watermark(&self.consumer, &partition.id),
            })
            .collect();
        let silent = self.ends.look(&standings);
        self.ends.ask(silent, &self.consumer, &self.helper, &self.remote);
        let ends = self.ends.positions();
        for end in &ends {
            if let Some(partition) = self.partitions.get(&end.partition) {
                metrics::lag(&end.partition, end.next.get() - partition.next().get());
            }
        }
        if !ends.is_empty() {
            self.events.send(SourceEvent::Ends(ends));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> PartitionId {
        PartitionId::new("t", 0)
    }

    fn at(next: i64, fetched: Option<i64>) -> [Standing; 1] {
        [Standing { id: id(), next: Offset::new(next), fetched: fetched.map(Offset::new) }]
    }

    fn end(ends: &Ends) -> i64 {
        let positions = ends.positions();
        assert_eq!(positions.len(), 1);
        positions[0].next.get()
    }

    #[test]
    fn what_is_fetched_tells_the_end() {
        let mut ends = Ends::default();
        ends.look(&at(0, Some(100)));
        assert_eq!(end(&ends), 100);
        assert!(ends.look(&at(10, Some(120))).is_empty(), "a fetch told of 120");
        assert_eq!(end(&ends), 120);
        assert!(ends.look(&at(120, Some(120))).is_empty(), "a fetch waits for more");
        // A record was handed on before its fetch was looked at.
        ends.look(&at(121, Some(120)));
        assert_eq!(end(&ends), 121);
    }

    #[test]
    fn where_nothing_is_fetched_the_end_is_asked_for() {
        let mut ends = Ends::default();
        ends.look(&at(0, Some(100)));
        assert_eq!(ends.look(&at(0, Some(100))), [id()], "nobody takes what was fetched");
        ends.answered(HashMap::from([(id(), Offset::new(5000))]));
        assert_eq!(end(&ends), 5000);
        // What is known is more than the fetches told, so the question goes on.
        assert_eq!(ends.look(&at(100, Some(100))), [id()]);
        assert_eq!(end(&ends), 5000);
        assert_eq!(Ends::default().look(&at(7, None)), [id()], "never fetched");
    }

    #[test]
    fn a_partition_that_has_gone_is_forgotten() {
        let mut ends = Ends::default();
        ends.look(&at(0, Some(100)));
        ends.look(&[]);
        assert!(ends.positions().is_empty());
        ends.answered(HashMap::from([(id(), Offset::new(5000))]));
        assert!(ends.positions().is_empty(), "an answer that came late");
    }
}
