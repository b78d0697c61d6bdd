//! Progress that a database has stored already and the consumer group is only shown: the newest
//! position of each partition, sent at most once a second and only to a broker that answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidegate::record::{Offset, PartitionId};
use tidegate::source::Position;

/// How often it is sent.
const SEND_EVERY: Duration = Duration::from_secs(1);

/// Positions that the group has not been shown yet.
#[derive(Default)]
pub(crate) struct Mirror {
    reached: BTreeMap<PartitionId, Offset>,
    sent_at: Option<Instant>,
}

impl Mirror {
    /// Remembers positions to be sent some time; newer ones replace older ones.
    pub(crate) fn note(&mut self, positions: Vec<Position>) {
        self.reached.extend(positions.into_iter().map(|it| (it.partition, it.next)));
    }

    /// What is to be sent now, if it is time and a broker would take it.
    ///
    /// librdkafka would keep it until a broker is back, and hold up the return to the group for
    /// it. By then the member may be another: one with an instance name is then fenced for good.
    pub(crate) fn take_due(
        &mut self,
        has_broker: bool,
        now: Instant,
    ) -> BTreeMap<PartitionId, Offset> {
        let due = self.sent_at.is_none_or(|at| now.duration_since(at) >= SEND_EVERY);
        if self.reached.is_empty() || !due || !has_broker {
            return BTreeMap::new();
        }
        self.sent_at = Some(now);
        std::mem::take(&mut self.reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(next: i64) -> Position {
        Position { partition: PartitionId::new("input", 0), next: Offset::new(next) }
    }

    #[test]
    fn the_newest_position_is_sent_at_most_once_a_second() {
        let (mut mirror, start) = (Mirror::default(), Instant::now());
        assert!(mirror.take_due(true, start).is_empty(), "there is nothing");
        mirror.note(vec![position(1)]);
        mirror.note(vec![position(2)]);
        let sent = mirror.take_due(true, start);
        assert_eq!(sent.into_values().collect::<Vec<_>>(), [position(2).next]);
        mirror.note(vec![position(3)]);
        assert!(mirror.take_due(true, start + SEND_EVERY / 2).is_empty(), "too early");
        let sent = mirror.take_due(true, start + SEND_EVERY);
        assert_eq!(sent.into_values().collect::<Vec<_>>(), [position(3).next]);
        assert!(mirror.take_due(true, start + SEND_EVERY * 2).is_empty(), "it was sent");
    }

    #[test]
    fn it_waits_for_a_broker_and_loses_nothing() {
        let (mut mirror, start) = (Mirror::default(), Instant::now());
        mirror.note(vec![position(1)]);
        assert!(mirror.take_due(false, start).is_empty(), "librdkafka would keep it");
        let sent = mirror.take_due(true, start);
        assert_eq!(sent.into_values().collect::<Vec<_>>(), [position(1).next]);
    }
}
