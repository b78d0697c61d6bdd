//! Where a reset moves each partition. Pure: what is known comes in, the new offset comes out.

use tidegate::record::{Offset, PartitionId};

/// What is known of one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    pub(crate) partition: PartitionId,
    /// The next offset to read, as stored.
    pub(crate) stored: Option<i64>,
    /// Where its log begins and ends, if the cluster was asked.
    pub(crate) log: Option<Log>,
}

/// The offsets that can be read: `start..=end`, the end being the next one to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Log {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// A way to move a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scenario {
    Earliest,
    Latest,
    Current,
    /// To this offset, given or found by its time.
    To(i64),
    ShiftBy(i64),
}

/// A partition's new offset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    pub(crate) partition: PartitionId,
    pub(crate) stored: Option<i64>,
    pub(crate) next: Offset,
    /// Why it is not what was asked for.
    pub(crate) note: Option<&'static str>,
}

/// The new offset, inside the log if that is known; as in Kafka's own tool, what lies outside is
/// brought to the nearer end.
pub(crate) fn target(scenario: Scenario, known: &Known) -> Result<Target, String> {
    let partition = &known.partition;
    let no_log = || format!("{partition}: its log is not known; add --kafka HOST:PORT");
    let wanted = match scenario {
        Scenario::Earliest => known.log.ok_or_else(no_log)?.start,
        Scenario::Latest => known.log.ok_or_else(no_log)?.end,
        // Where nothing is stored there is nothing to keep: Kafka's tool takes the end then.
        Scenario::Current => match known.stored {
            Some(stored) => stored,
            None => known.log.ok_or_else(no_log)?.end,
        },
        Scenario::To(offset) => offset,
        Scenario::ShiftBy(records) => match known.stored {
            Some(stored) => stored.saturating_add(records),
            None => return Err(format!("{partition}: nothing is stored that could be shifted")),
        },
    };
    let (next, note) = match known.log {
        Some(log) if wanted < log.start => (log.start, Some("before the log's start, set to it")),
        Some(log) if wanted > log.end => (log.end, Some("behind the log's end, set to it")),
        None if wanted < 0 => (0, Some("before the first offset, set to it")),
        _ => (wanted, None),
    };
    let next = Offset::try_new(next).ok_or_else(|| format!("{partition}: {next} is no offset"))?;
    Ok(Target { partition: partition.clone(), stored: known.stored, next, note })
}

/// Partitions as they are asked for: a whole topic, or some partitions of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Scope {
    pub(crate) topic: String,
    /// Empty: all of them.
    pub(crate) partitions: Vec<i32>,
}

impl Scope {
    /// `orders` or `orders:0,2`. A topic's name has no colon.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (topic, list) = text.split_once(':').map_or((text, None), |(t, l)| (t, Some(l)));
        if topic.is_empty() {
            return Err(format!("{text:?} names no topic; write orders or orders:0,2"));
        }
        let numbers = list.into_iter().flat_map(|list| list.split(','));
        let partitions = numbers.map(|number| {
            let number = number.trim().parse().ok().filter(|number: &i32| *number >= 0);
            number.ok_or_else(|| format!("{text:?} is not of the form orders or orders:0,2"))
        });
        Ok(Self { topic: topic.to_owned(), partitions: partitions.collect::<Result<_, _>>()? })
    }

    pub(crate) fn holds(&self, partition: &PartitionId) -> bool {
        partition.topic().as_str() == self.topic
            && (self.partitions.is_empty() || self.partitions.contains(&partition.index()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(stored: Option<i64>, log: Option<(i64, i64)>) -> Known {
        let log = log.map(|(start, end)| Log { start, end });
        Known { partition: PartitionId::new("orders", 3), stored, log }
    }

    fn next(scenario: Scenario, known: &Known) -> (i64, bool) {
        let target = target(scenario, known).expect("there is an answer");
        (target.next.get(), target.note.is_some())
    }

    #[test]
    fn every_scenario_ends_inside_the_log() {
        let inside = known(Some(50), Some((10, 100)));
        for (scenario, expected) in [
            (Scenario::Earliest, (10, false)),
            (Scenario::Latest, (100, false)),
            (Scenario::Current, (50, false)),
            (Scenario::To(70), (70, false)),
            (Scenario::To(5), (10, true)),
            (Scenario::To(101), (100, true)),
            (Scenario::ShiftBy(-7), (43, false)),
            (Scenario::ShiftBy(-41), (10, true)),
            (Scenario::ShiftBy(i64::MAX), (100, true)),
            (Scenario::ShiftBy(i64::MIN), (10, true)),
        ] {
            assert_eq!(next(scenario, &inside), expected, "{scenario:?}");
        }
        let behind = known(Some(5), Some((10, 100)));
        assert_eq!(next(Scenario::Current, &behind), (10, true));
    }

    #[test]
    fn without_the_log_only_what_needs_none_is_answered() {
        let blind = known(Some(50), None);
        assert_eq!(next(Scenario::Current, &blind), (50, false));
        assert_eq!(next(Scenario::To(70), &blind), (70, false));
        assert_eq!(next(Scenario::ShiftBy(-60), &blind), (0, true));
        for scenario in [Scenario::Earliest, Scenario::Latest] {
            let problem = target(scenario, &blind).unwrap_err();
            assert_eq!(problem, "orders/3: its log is not known; add --kafka HOST:PORT");
        }
    }

    #[test]
    fn a_partition_without_a_stored_offset_cannot_be_shifted() {
        let fresh = known(None, Some((10, 100)));
        assert!(target(Scenario::ShiftBy(1), &fresh).is_err());
        assert_eq!(next(Scenario::Current, &fresh), (100, false));
        assert_eq!(next(Scenario::Earliest, &fresh), (10, false));
    }

    #[test]
    fn a_scope_is_a_topic_or_some_of_its_partitions() {
        let all = Scope::parse("orders").unwrap();
        assert!(all.holds(&PartitionId::new("orders", 9)));
        assert!(!all.holds(&PartitionId::new("orders2", 9)));
        let some = Scope::parse("orders:0,2").unwrap();
        assert!(some.holds(&PartitionId::new("orders", 2)));
        assert!(!some.holds(&PartitionId::new("orders", 1)));
        for bad in ["", ":1", "orders:", "orders:x", "orders:-1", "orders:1,"] {
            Scope::parse(bad).unwrap_err();
        }
    }
}
