//! The first moments of a source: reach the cluster, note which partitions exist, subscribe.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use tidegate::Error;
use tidegate::record::Topic;

use crate::context::Consumer;
use crate::error;
use crate::source::{KnownTopics, Subscription};

/// How long one question may take while the cluster is not reached.
const ASK_MAX: Duration = Duration::from_millis(500);
/// How long the list of partitions may take once it is.
const METADATA_MAX: Duration = Duration::from_secs(5);
/// The longest name a topic can have.
const NAME_BYTES_MAX: usize = 249;

/// Waits for the cluster, notes the partitions that exist now, and joins the group.
pub(crate) fn subscribe(
    consumer: &Consumer,
    subscription: &Subscription,
    start_max: Duration,
) -> Result<KnownTopics, Error> {
    reach(consumer, start_max)?;
    let known = match subscription {
        Subscription::Topics(names) => partitions_of(consumer, names)?,
        // What the pattern matches is librdkafka's or the broker's to say, so all are noted.
        Subscription::Pattern(_) => all_partitions(consumer)?,
    };
    join(consumer, subscription)?;
    Ok(known)
}

/// Joins the group, without waiting.
pub(crate) fn join(consumer: &Consumer, subscription: &Subscription) -> Result<(), Error> {
    let names: Vec<&str> = match subscription {
        Subscription::Topics(names) => names.iter().map(String::as_str).collect(),
        Subscription::Pattern(pattern) => vec![pattern.as_str()],
    };
    consumer.subscribe(&names).map_err(|error| {
        Error::configuration("source", format_args!("cannot subscribe to {names:?}: {error}"))
    })
}

/// Waits until a broker answers.
fn reach(consumer: &Consumer, start_max: Duration) -> Result<(), Error> {
    let begin = Instant::now();
    loop {
        if consumer.client().fetch_cluster_id(ASK_MAX).is_some() {
            consumer.client().context().bootstrap.found();
            return Ok(());
        }
        consumer.client().context().bootstrap.lead_back(consumer.client());
        let last = consumer.client().context().last_error();
        if let Some((code, text)) = &last
            && error::is_authentication(*code)
        {
            return Err(error::not_accepted(text));
        }
        if begin.elapsed() >= start_max {
            let last = last.map_or_else(|| "no answer".to_string(), |(_, text)| text);
            return Err(Error::deadline(format_args!(
                "no Kafka broker was reached within {start_max:?}: {last}"
            ))
            .remedy("check bootstrap.servers and that the broker runs"));
        }
    }
}

fn partitions_of(consumer: &Consumer, names: &[String]) -> Result<KnownTopics, Error> {
    let mut known = KnownTopics::new();
    for name in names {
        let metadata = consumer
            .fetch_metadata(Some(name), METADATA_MAX)
            .map_err(|error| no_metadata(&error))?;
        for topic in metadata.topics() {
            if topic.error().is_none() {
                known.insert(Topic::new(topic.name()), count(topic.partitions().len()));
            }
        }
    }
    Ok(known)
}

fn all_partitions(consumer: &Consumer) -> Result<KnownTopics, Error> {
    let metadata =
        consumer.fetch_metadata(None, METADATA_MAX).map_err(|error| no_metadata(&error))?;
    Ok(metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none())
        .map(|topic| (Topic::new(topic.name()), count(topic.partitions().len())))
        .collect())
}

fn count(partitions: usize) -> i32 {
    i32::try_from(partitions).unwrap_or(i32::MAX)
}

fn no_metadata(error: &KafkaError) -> Error {
    Error::source_failed(format_args!("the topics' partitions are not known: {error}"))
}

/// A client that librdkafka did not make: its words name the setting.
pub(crate) fn refused(error: &KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, problem, key, _) => Error::configuration(key, problem),
        other => Error::configuration("kafka", other),
    }
}

/// Whether a topic can have this name at all.
pub(crate) fn check_topic_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name == "." || name == ".." {
        return Err(format!("{name:?} is no topic name"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!(
            "a topic name of {} bytes is longer than {NAME_BYTES_MAX}",
            name.len()
        ));
    }
    if !name.chars().all(legal) {
        return Err(format!("topic name {name:?} may hold only letters, digits, `.`, `_` and `-`"));
    }
    if name == "__consumer_offsets" || name == "__transaction_state" {
        return Err(format!("{name} belongs to the broker"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_topic_names_are_refused() {
        for bad in ["", ".", "..", "a b", "a/b", "ü", "__consumer_offsets", &"x".repeat(250)] {
            assert!(check_topic_name(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a.b_c-D9", &"x".repeat(249), "__mine"] {
            check_topic_name(good).unwrap();
        }
    }
}
