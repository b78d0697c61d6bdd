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
/// How long the list of partitions may take once it is; then it is asked for again.
const METADATA_MAX: Duration = Duration::from_secs(5);
/// The pause before a question that failed at once is repeated.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest name a topic can have.
const NAME_BYTES_MAX: usize = 249;

/// Waits for the cluster, notes the partitions that exist now, and joins the group.
pub(crate) fn subscribe(
    consumer: &Consumer,
    subscription: &Subscription,
    start_max: Duration,
) -> Result<KnownTopics, Error> {
    let start = Start { consumer, began: Instant::now(), max: start_max };
    start.wait_for(|| consumer.client().fetch_cluster_id(ASK_MAX))?;
    let mut known = KnownTopics::new();
    match subscription {
        Subscription::Topics(names) => {
            for name in names {
                known.extend(start.wait_for(|| partitions(consumer, Some(name)))?);
            }
        }
        // What the pattern matches is librdkafka's or the broker's to say, so all are noted.
        Subscription::Pattern(_) => known.extend(start.wait_for(|| partitions(consumer, None))?),
    }
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

/// A start that waits for the cluster.
struct Start<'a> {
    consumer: &'a Consumer,
    began: Instant,
    max: Duration,
}

impl Start<'_> {
    /// Asks until there is an answer, or for as long as the start may take.
    fn wait_for<T>(&self, ask: impl Fn() -> Option<T>) -> Result<T, Error> {
        let client = self.consumer.client();
        loop {
            if let Some(answer) = ask() {
                client.context().bootstrap.found();
                return Ok(answer);
            }
            client.context().bootstrap.lost();
            client.context().bootstrap.lead_back(client);
            let last = client.context().last_error();
            if let Some((code, text)) = &last
                && error::is_authentication(*code)
            {
                return Err(error::not_accepted(text));
            }
            if self.began.elapsed() >= self.max {
                let last = last.map_or_else(|| "no answer".to_string(), |(_, text)| text);
                return Err(Error::deadline(format_args!(
                    "no Kafka broker was reached within {:?}: {last}",
                    self.max
                ))
                .remedy("check bootstrap.servers and that the broker runs"));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// How many partitions this topic has, or each of all; nothing without an answer.
fn partitions(consumer: &Consumer, name: Option<&String>) -> Option<KnownTopics> {
    let metadata = consumer
        .fetch_metadata(name.map(String::as_str), METADATA_MAX)
        .inspect_err(|error| tracing::debug!(%error, "the topics' partitions are not known"))
        .ok()
        // A broker that its controller has not let in yet knows nothing.
        .filter(|metadata| !metadata.brokers().is_empty())?;
    let exists = metadata.topics().iter().filter(|topic| topic.error().is_none());
    Some(exists.map(|topic| (Topic::new(topic.name()), count(topic.partitions().len()))).collect())
}

fn count(partitions: usize) -> i32 {
    i32::try_from(partitions).unwrap_or(i32::MAX)
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
