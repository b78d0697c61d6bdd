//! The words of the input side: topic, partition, offset, epoch, record.
//!
//! Plain values with no behaviour beyond checking themselves. An [`Offset`] is always a *position*;
//! whatever Tidegate stores is the **next** offset to read, never the last one read.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

/// The name of a topic; cloning it is cheap.
#[derive(Clone, Eq, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// A topic of this name.
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Topic {
    fn eq(&self, other: &Self) -> bool {
        // Clones of one name are by far the most frequent case.
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Hash for Topic {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl From<&str> for Topic {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// One partition of one topic, written `topic/index`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    topic: Topic,
    index: i32,
}

impl PartitionId {
    /// Partition `index` of `topic`.
    pub fn new(topic: impl Into<Topic>, index: i32) -> Self {
        Self { topic: topic.into(), index }
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The number of the partition inside its topic.
    pub fn index(&self) -> i32 {
        self.index
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.index)
    }
}

impl fmt::Debug for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A position in a partition; never negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(i64);

impl Offset {
    /// The first position any partition can have.
    pub const ZERO: Self = Self(0);

    /// The offset of this number.
    ///
    /// # Panics
    /// If `value` is negative: brokers use negative numbers for "none", which is not a position.
    pub fn new(value: i64) -> Self {
        assert!(value >= 0, "an offset is never negative, got {value}");
        Self(value)
    }

    /// The offset of this number, or `None` if it is negative.
    pub fn try_new(value: i64) -> Option<Self> {
        (value >= 0).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> i64 {
        self.0
    }

    /// The position after this one.
    ///
    /// # Panics
    /// At `i64::MAX`, which no broker hands out.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("no broker hands out offset i64::MAX"))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Counts the (re)positionings of partitions in this process: assignment, seek, a claim that
/// answered another offset than expected.
///
/// Work and results carry the epoch they were read under; whatever carries an epoch that is no
/// longer the partition's current one is dropped. It is the only thing that stops a result from
/// before a revoke, because the broker fences members, not partitions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of this number.
    pub fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// Milliseconds since 1970-01-01 UTC as the broker gave them; may be negative or far away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The instant this many milliseconds after the Unix epoch.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub fn millis(self) -> i64 {
        self.0
    }
}

/// One header of a record: a name and bytes, which may be null.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The name; names may repeat.
    pub name: Arc<str>,
    /// The value; `None` is a null value, which differs from an empty one.
    pub value: Option<Bytes>,
}

/// The headers of a record in the order they were written; cloning is cheap.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Headers(Option<Arc<[Header]>>);

impl Headers {
    /// The headers in this order.
    pub fn new(headers: Vec<Header>) -> Self {
        Self((!headers.is_empty()).then(|| headers.into()))
    }

    /// All headers in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Header> {
        self.0.as_deref().unwrap_or_default().iter()
    }

    /// The last header of this name, as Kafka's own clients answer.
    pub fn last(&self, name: &str) -> Option<&Header> {
        self.iter().rev().find(|header| &*header.name == name)
    }

    /// How many headers there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |headers| headers.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may hold secrets or payloads: only names are shown.
        f.debug_list().entries(self.iter().map(|header| &*header.name)).finish()
    }
}

/// One input message with the value decoded to `V`.
///
/// `None` as key is a null key, which differs from an empty one.
#[derive(Clone)]
pub struct Record<V = Option<Bytes>> {
    /// The partition it was read from.
    pub partition: PartitionId,
    /// Its position there.
    pub offset: Offset,
    /// The broker's timestamp, if it has one.
    pub timestamp: Option<Timestamp>,
    /// The key as it was written.
    pub key: Option<Bytes>,
    /// The value.
    pub value: V,
    /// The headers.
    pub headers: Headers,
}

/// A record as it was read, before decoding; a value of `None` is a tombstone.
pub type RawRecord = Record<Option<Bytes>>;

impl<V> Record<V> {
    /// The same record with another value.
    pub fn with_value<W>(&self, value: W) -> Record<W> {
        Record {
            partition: self.partition.clone(),
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.clone(),
            value,
            headers: self.headers.clone(),
        }
    }

    /// Where it was read, for messages: `topic/partition/offset`.
    pub fn coordinates(&self) -> Coordinates {
        Coordinates { partition: self.partition.clone(), offset: self.offset }
    }
}

impl RawRecord {
    /// Bytes of key, value and headers: what the bounds on bytes in flight count.
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

impl<V> fmt::Debug for Record<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Payloads and keys are never printed: a record shows where it is, not what it holds.
        write!(f, "Record({}/{})", self.partition, self.offset)
    }
}

/// The place of one record, written `topic/partition/offset`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Coordinates {
    /// The partition.
    pub partition: PartitionId,
    /// The offset in it.
    pub offset: Offset,
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

impl fmt::Debug for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a result says it was made from, written `topic/partition/offset/index`: the place of its
/// record, and which of that record's results it is, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lineage<'a> {
    /// The topic of the record.
    pub topic: &'a str,
    /// The partition of the record.
    pub partition: i32,
    /// The offset of the record.
    pub offset: Offset,
    /// The number of the result among those of its record.
    pub index: u32,
}

impl<'a> Lineage<'a> {
    /// Reads what was written; `None` if it is something else.
    pub fn parse(text: &'a str) -> Option<Self> {
        // From the right: a topic's name may hold a slash where nobody forbids it.
        let mut parts = text.rsplitn(4, '/');
        let (index, offset, partition) = (parts.next()?, parts.next()?, parts.next()?);
        let offset = Offset::try_new(offset.parse().ok()?)?;
        let (partition, index) = (partition.parse().ok()?, index.parse().ok()?);
        let topic = parts.next().filter(|topic| !topic.is_empty() && partition >= 0)?;
        Some(Self { topic, partition, offset, index })
    }
}

impl fmt::Display for Lineage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.topic, self.partition, self.offset, self.index)
    }
}

impl fmt::Debug for Lineage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lineage_is_read_as_it_is_written_and_nothing_else_is() {
        let offset = Offset::new(123_456_789_012);
        let lineage = Lineage { topic: "a.b-c", partition: 3, offset, index: 2 };
        assert_eq!(lineage.to_string(), "a.b-c/3/123456789012/2");
        assert_eq!(Lineage::parse("a.b-c/3/123456789012/2"), Some(lineage));
        assert_eq!(Lineage::parse("a/b/0/0/0").map(|lineage| lineage.topic), Some("a/b"));
        for bad in ["", "t/1/2", "t/1/2/x", "t/x/1/2", "t/1//2", "t/-1/2/0", "t/1/-2/0", "/1/2/0"] {
            assert_eq!(Lineage::parse(bad), None, "{bad}");
        }
    }
}
