//! What a pipeline's functions emit for a Kafka sink.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tidegate::record::{Header, Headers, Timestamp, Topic};

/// A message to produce.
///
/// Without a [`partition`](Self::partition) it goes where Kafka's own clients would put its key:
/// murmur2 of the key over the number of partitions. A null key without a partition goes to any.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic. It must exist: sinks create none.
    pub topic: Topic,
    /// The partition; `None` lets the key decide.
    pub partition: Option<i32>,
    /// The key; `None` is a null key, which differs from an empty one.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers in order.
    pub headers: Headers,
    /// When it happened; `None` is the time of producing.
    pub timestamp: Option<Timestamp>,
}

impl Message {
    /// An empty message to this topic: null key, null value, no headers.
    pub fn to(topic: impl Into<Topic>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: None,
            value: None,
            headers: Headers::default(),
            timestamp: None,
        }
    }

    /// Sets the partition.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the value.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Adds a header behind the others.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Bytes>) -> Self {
        let mut headers: Vec<Header> = self.headers.iter().cloned().collect();
        headers.push(Header { name: Arc::from(name), value: Some(value.into()) });
        self.headers = Headers::new(headers);
        self
    }

    /// Sets the headers, in place of those it has.
    #[must_use]
    pub fn headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the timestamp.
    #[must_use]
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Bytes of key, value and headers: what the limit of bytes per record counts.
    pub fn size_bytes(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len))
            .sum();
        self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + headers
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Payloads and keys are never printed.
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("bytes", &self.size_bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_their_order_and_repeat() {
        let message = Message::to("t").header("a", "1").header("b", "2").header("a", "3");
        let names: Vec<&str> = message.headers.iter().map(|header| &*header.name).collect();
        assert_eq!(names, ["a", "b", "a"]);
    }

    #[test]
    fn debug_shows_no_payload() {
        let shown = format!("{:?}", Message::to("t").key("secret-key").value("secret-value"));
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.contains("22"), "{shown}");
    }
}
