//! Finds positions: where to start, whether a stored offset still lies in the log.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tidegate::Cause;
use tidegate::record::{Offset, PartitionId, Timestamp, Topic};
use tidegate::source::{Resolved, SourceError, Unresolved, Wanted};

use crate::consumer_options::StartPolicy;
use crate::current::Current;
use crate::error;
use crate::ffi;
use crate::source::KnownTopics;

/// How long one question to the cluster may take.
const ASK_MAX: Duration = Duration::from_secs(5);
/// What ListOffsets takes for a time to mean the end, and the beginning.
const TIME_OF_END: i64 = -1;
const TIME_OF_BEGINNING: i64 = -2;

/// The failure of whoever asks before the source is open.
pub(crate) fn not_open() -> SourceError {
    SourceError::Retry(Cause::new("the source is not open"))
}

/// Answers questions about positions, on a thread that may wait.
pub(crate) struct Resolver {
    consumer: Current,
    policy: StartPolicy,
    /// How many partitions each topic had when it was first seen. One above that appeared while
    /// the pipeline ran, and starts at its beginning whatever the policy.
    known: Mutex<KnownTopics>,
}

/// A question about one partition, in the terms of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    Beginning,
    End,
    At(Timestamp),
    Stored(Offset),
    NoStart,
}

type Answer = Result<Offset, Unresolved>;

impl Resolver {
    pub(crate) fn new(consumer: Current, policy: StartPolicy, known: KnownTopics) -> Self {
        Self { consumer, policy, known: Mutex::new(known) }
    }

    /// One answer per question; a topic is answered by all its partitions.
    pub(crate) fn resolve(&self, wanted: &[Wanted]) -> Result<Vec<Resolved>, SourceError> {
        let mut questions = Vec::new();
        for wanted in wanted {
            match wanted {
                Wanted::Start(id) => questions.push((id.clone(), self.start(id))),
                Wanted::StartOfTopic(topic) => {
                    for index in 0..self.partitions(topic)? {
                        let id = PartitionId::new(topic.clone(), index);
                        let question = self.start(&id);
                        questions.push((id, question));
                    }
                }
                Wanted::Stored(id, offset) => {
                    questions.push((id.clone(), Question::Stored(*offset)));
                }
                Wanted::Beginning(id) => questions.push((id.clone(), Question::Beginning)),
                Wanted::End(id) => questions.push((id.clone(), Question::End)),
                Wanted::At(id, time) => questions.push((id.clone(), Question::At(*time))),
                other => {
                    return Err(SourceError::Retry(
                        Cause::new(format_args!("the Kafka source cannot find {other:?}"))
                            .needs_operator(),
                    ));
                }
            }
        }
        let mut answers = self.answer(&questions);
        self.doubt_unknown(&mut answers);
        Ok(answers)
    }

    /// The leader of a partition that was created a moment ago may not know it yet: it is taken for
    /// unknown only when the cluster does not list it either.
    fn doubt_unknown(&self, answers: &mut [Resolved]) {
        let unknown =
            |resolved: &&mut Resolved| matches!(resolved.position, Err(Unresolved::Unknown));
        let mut counts: HashMap<Topic, Option<i32>> = HashMap::new();
        for resolved in answers.iter_mut().filter(unknown) {
            let topic = resolved.partition.topic();
            let count = match counts.get(topic) {
                Some(count) => *count,
                None => {
                    let count = self.partitions(topic).ok();
                    counts.insert(topic.clone(), count);
                    count
                }
            };
            if count.is_none_or(|count| resolved.partition.index() < count) {
                let cause = Cause::new("its leader does not know it yet");
                resolved.position = Err(Unresolved::Temporary(cause));
            }
        }
    }

    /// What the start policy means for this partition.
    fn start(&self, id: &PartitionId) -> Question {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if id.index() >= known.get(id.topic()).copied().unwrap_or(0) {
            return Question::Beginning;
        }
        match self.policy {
            StartPolicy::Earliest => Question::Beginning,
            StartPolicy::Latest => Question::End,
            StartPolicy::Timestamp(time) => Question::At(time),
            StartPolicy::Error => Question::NoStart,
        }
    }

    fn partitions(&self, topic: &Topic) -> Result<i32, SourceError> {
        let metadata =
            self.consumer.get().fetch_metadata(Some(topic.as_str()), ASK_MAX).map_err(|error| {
                error::question("partitions of a topic", error::code_of(&error))
            })?;
        let found = metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic.as_str() && found.error().is_none());
        Ok(found.map_or(0, |found| i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)))
    }

    fn answer(&self, questions: &[(PartitionId, Question)]) -> Vec<Resolved> {
        let ask = |matches: fn(Question) -> Option<i64>| {
            let times: Vec<(&PartitionId, i64)> = questions
                .iter()
                .filter_map(|(id, question)| Some((id, matches(*question)?)))
                .collect();
            self.offsets_for_times(&times)
        };
        let beginnings = ask(|question| match question {
            Question::Beginning | Question::Stored(_) => Some(TIME_OF_BEGINNING),
            Question::End | Question::At(_) | Question::NoStart => None,
        });
        let ends = ask(|question| match question {
            // The end for a time behind the last record, and for the range of what is stored.
            Question::End | Question::Stored(_) | Question::At(_) => Some(TIME_OF_END),
            Question::Beginning | Question::NoStart => None,
        });
        let times = ask(|question| match question {
            Question::At(time) => Some(time.millis().max(0)),
            _ => None,
        });
        let open_ends = self.high_watermarks_above(questions, &ends);
        questions
            .iter()
            .map(|(id, question)| Resolved {
                partition: id.clone(),
                position: match question {
                    Question::Beginning => beginnings.of(id),
                    Question::End => ends.of(id),
                    Question::NoStart => Err(Unresolved::NoStart),
                    Question::At(_) => match times.found(id) {
                        // No record of that time or later: the end.
                        Some(None) => ends.of(id),
                        _ => times.of(id),
                    },
                    Question::Stored(stored) => {
                        in_range(*stored, beginnings.of(id), ends.of(id), open_ends.get(id))
                    }
                },
            })
            .collect()
    }

    /// The high watermarks of partitions whose stored offset is above the last stable offset: an
    /// offset may have been set to the end while a transaction was open.
    fn high_watermarks_above(
        &self,
        questions: &[(PartitionId, Question)],
        ends: &Found,
    ) -> HashMap<PartitionId, Offset> {
        let above: Vec<PartitionId> = questions
            .iter()
            .filter(|(id, question)| match question {
                Question::Stored(stored) => ends.of(id).is_ok_and(|end| *stored > end),
                _ => false,
            })
            .map(|(id, _)| id.clone())
            .collect();
        if above.is_empty() {
            return HashMap::new();
        }
        ffi::read_uncommitted_ends(self.consumer.get().client(), &above, ASK_MAX).unwrap_or_else(
            |failure| {
                tracing::debug!(%failure, "high watermarks are not available");
                HashMap::new()
            },
        )
    }

    /// Offsets for times, or for the two special times; one request per broker. A read-committed
    /// consumer's end is the last stable offset.
    fn offsets_for_times(&self, times: &[(&PartitionId, i64)]) -> Found {
        // A partition may be asked about twice, librdkafka's list holds it once.
        let mut seen = HashSet::new();
        let mut list = TopicPartitionList::with_capacity(times.len());
        for (id, time) in times.iter().filter(|(id, _)| seen.insert(*id)) {
            let mut element = list.add_partition(id.topic().as_str(), id.index());
            // The special times have the numbers of librdkafka's logical offsets.
            if let Err(error) = element.set_offset(KafkaOffset::from_raw(*time)) {
                tracing::debug!(%error, time, "not a time");
            }
        }
        if list.count() == 0 {
            return Found::default();
        }
        match self.consumer.get().offsets_for_times(list, ASK_MAX) {
            // One unknown partition fails the whole call: each is asked for alone.
            Err(error) if times.len() > 1 && matches!(unresolved(&error), Failed::Unknown) => {
                let mut found = Found::default();
                for time in times {
                    let alone = self.offsets_for_times(&[*time]);
                    found.failed = found.failed.or(alone.failed);
                    found.partitions.extend(alone.partitions);
                }
                found
            }
            Err(error) if matches!(unresolved(&error), Failed::Unknown) => Found {
                failed: None,
                partitions: times
                    .iter()
                    .map(|(id, _)| ((*id).clone(), Err(Failed::Unknown)))
                    .collect(),
            },
            Err(error) => Found { failed: Some(error.to_string()), partitions: HashMap::new() },
            Ok(list) => Found {
                failed: None,
                partitions: list
                    .elements()
                    .iter()
                    .map(|element| {
                        let id = PartitionId::new(element.topic(), element.partition());
                        let offset = match element.error() {
                            Ok(()) => Ok(element.offset().to_raw().and_then(Offset::try_new)),
                            Err(error) => Err(unresolved(&error)),
                        };
                        (id, offset)
                    })
                    .collect(),
            },
        }
    }
}

/// Answers of the log by partition.
#[derive(Default)]
struct Found {
    failed: Option<String>,
    /// `None`: no record of that time or later.
    partitions: HashMap<PartitionId, Result<Option<Offset>, Failed>>,
}

#[derive(Clone)]
enum Failed {
    Unknown,
    Temporary(String),
}

impl Found {
    fn found(&self, id: &PartitionId) -> Option<Option<Offset>> {
        self.partitions.get(id)?.as_ref().ok().copied()
    }

    fn of(&self, id: &PartitionId) -> Answer {
        let temporary = |text: &str| Err(Unresolved::Temporary(Cause::new(text)));
        match (self.partitions.get(id), &self.failed) {
            (Some(Ok(Some(offset))), _) => Ok(*offset),
            (Some(Err(Failed::Unknown)), _) => Err(Unresolved::Unknown),
            (Some(Err(Failed::Temporary(text))), _) | (None, Some(text)) => temporary(text),
            (Some(Ok(None)) | None, _) => temporary("the broker gave no offset"),
        }
    }
}

fn unresolved(error: &rdkafka::error::KafkaError) -> Failed {
    use rdkafka::types::RDKafkaErrorCode as Code;
    match error::code_of(error) {
        Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopic => {
            Failed::Unknown
        }
        _ => Failed::Temporary(error.to_string()),
    }
}

/// Whether a stored offset lies in the log.
fn in_range(stored: Offset, low: Answer, stable_end: Answer, open_end: Option<&Offset>) -> Answer {
    let (low, stable_end) = (low?, stable_end?);
    let high = open_end.copied().unwrap_or(stable_end).max(stable_end);
    if low <= stored && stored <= high {
        Ok(stored)
    } else {
        Err(Unresolved::OutOfRange { stored, low, high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Answer {
        Ok(Offset::new(offset))
    }

    #[test]
    fn a_stored_offset_lies_between_both_ends_of_the_log() {
        let check = |stored, open: Option<i64>| {
            let open = open.map(Offset::new);
            in_range(Offset::new(stored), at(5), at(9), open.as_ref())
        };
        assert!(check(5, None).is_ok());
        assert!(check(9, None).is_ok());
        assert!(matches!(check(4, None), Err(Unresolved::OutOfRange { .. })));
        assert!(matches!(check(10, None), Err(Unresolved::OutOfRange { .. })));
        // An open transaction reaches to 12.
        assert!(check(12, Some(12)).is_ok());
        assert!(matches!(check(13, Some(12)), Err(Unresolved::OutOfRange { .. })));
    }
}
