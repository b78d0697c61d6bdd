//! From a batch to messages: results as they are, dead letters with their story in headers.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;

use rdkafka::types::RDKafkaErrorCode as Code;
use tidegate::batch::{DeadLetter, Finished, Outcome};
use tidegate::record::{self, Coordinates, RawRecord, Topic};

use crate::ffi::{self, Payload, Plain};
use crate::message::Message;
use crate::producer::TopicHandles;

/// The coordinates `topic/partition/offset/i` of the record a message came from.
pub const HEADER_SOURCE: &str = "tidegate-source";
/// Why a record was set aside: one word.
pub const HEADER_ERROR_REASON: &str = "tidegate-error-reason";
/// The error's text.
pub const HEADER_ERROR: &str = "tidegate-error";
/// How often the function was called.
pub const HEADER_ATTEMPTS: &str = "tidegate-attempts";
/// The size of a value that was refused and left out.
pub const HEADER_VALUE_BYTES: &str = "tidegate-value-bytes";
/// The SHA-256 of a value that was refused and left out, in hexadecimal digits.
pub const HEADER_VALUE_SHA256: &str = "tidegate-value-sha256";

/// Whether results carry their origin in a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Lineage {
    #[default]
    Off,
    On,
}

/// One message to be: a result, or a record set aside.
pub(crate) enum Item<'a> {
    Output { record: &'a RawRecord, index: u32, message: &'a Message },
    Dead { finished: &'a Finished<Message>, letter: &'a DeadLetter },
}

impl Item<'_> {
    pub(crate) fn coordinates(&self) -> Coordinates {
        match self {
            Self::Output { record, .. } => record.coordinates(),
            Self::Dead { finished, .. } => finished.record.coordinates(),
        }
    }
}

/// All messages of these records, in order.
pub(crate) fn items(finished: &[Finished<Message>]) -> impl Iterator<Item = Item<'_>> {
    finished.iter().flat_map(|finished| {
        let (outputs, dead) = match &finished.outcome {
            Outcome::Emit(outputs) => (outputs.as_slice(), None),
            Outcome::Filtered => (&[][..], None),
            Outcome::Dead(letter) => (&[][..], Some(Item::Dead { finished, letter })),
        };
        let outputs = outputs.iter().zip(0u32..).map(|(message, index)| Item::Output {
            record: &finished.record,
            index,
            message,
        });
        outputs.chain(dead)
    })
}

/// Hands messages to a producer.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) lineage: Lineage,
    pub(crate) dead_letters: Option<Topic>,
    /// Reused for every message.
    source: String,
}

impl Outbox {
    pub(crate) fn new(lineage: Lineage, dead_letters: Option<Topic>) -> Self {
        Self { lineage, dead_letters, source: String::new() }
    }

    /// Produces one message under this number. Nothing waits: a full queue is an error.
    pub(crate) fn send(
        &mut self,
        item: &Item<'_>,
        id: usize,
        topics: &mut TopicHandles,
    ) -> Result<(), Code> {
        match item {
            Item::Output { record, index, message } => {
                self.send_output(record, *index, message, id, topics)
            }
            Item::Dead { finished, letter } => self.send_dead(finished, letter, id, topics),
        }
    }

    /// Produces as many of these messages as go in one call, each under its number; answers how many
    /// were taken from the front, and why not the next. If that is not a full queue, some behind it
    /// may have been taken: only for transactions, which are aborted then.
    pub(crate) fn send_run(
        &mut self,
        items: &[(Item<'_>, usize)],
        topics: &mut TopicHandles,
    ) -> (usize, Result<(), Code>) {
        let Some(((item, id), rest)) = items.split_first() else { return (0, Ok(())) };
        let Some(first) = self.plain(item) else {
            let sent = self.send(item, *id, topics);
            return (usize::from(sent.is_ok()), sent);
        };
        let goes_along = |message: &Message| {
            message.partition == first.partition && message.topic == first.topic
        };
        let along = rest.iter().map_while(|(item, _)| self.plain(item).filter(|m| goes_along(m)));
        let messages = std::iter::once(first).chain(along).zip(items);
        let handle = match topics.get(&first.topic) {
            Ok(handle) => handle,
            Err(code) => return (0, Err(code)),
        };
        let mut count = 0;
        let run = messages.map(|(message, (_, id))| {
            count += 1;
            Plain { key: message.key.as_deref(), value: message.value.as_deref(), id: *id }
        });
        match ffi::produce_run(handle, first.partition, run) {
            Ok(()) => (count, Ok(())),
            Err((taken, code)) => (taken, Err(code)),
        }
    }

    /// The message of a result that needs neither headers nor a timestamp.
    fn plain<'a>(&self, item: &Item<'a>) -> Option<&'a Message> {
        match item {
            Item::Output { message, .. }
                if self.lineage == Lineage::Off
                    && message.headers.is_empty()
                    && message.timestamp.is_none() =>
            {
                Some(message)
            }
            Item::Output { .. } | Item::Dead { .. } => None,
        }
    }

    fn send_output(
        &mut self,
        record: &RawRecord,
        index: u32,
        message: &Message,
        id: usize,
        topics: &mut TopicHandles,
    ) -> Result<(), Code> {
        let mut headers: Vec<(&str, Option<&[u8]>)> =
            message.headers.iter().map(|header| (&*header.name, header.value.as_deref())).collect();
        if self.lineage == Lineage::On {
            write_source(&mut self.source, record, index);
            headers.push((HEADER_SOURCE, Some(self.source.as_bytes())));
        }
        let payload = Payload {
            partition: message.partition,
            key: message.key.as_deref(),
            value: message.value.as_deref(),
            timestamp: message.timestamp.map(tidegate::record::Timestamp::millis),
            headers: &headers,
        };
        ffi::produce(topics.get(&message.topic)?, &payload, id)
    }

    fn send_dead(
        &mut self,
        finished: &Finished<Message>,
        letter: &DeadLetter,
        id: usize,
        topics: &mut TopicHandles,
    ) -> Result<(), Code> {
        let record = &*finished.record;
        let topic = self.dead_letters.as_ref().ok_or(Code::UnknownTopic)?;
        write_source(&mut self.source, record, 0);
        let attempts = finished.attempts.to_string();
        let mut headers: Vec<(&str, Option<&[u8]>)> =
            record.headers.iter().map(|header| (&*header.name, header.value.as_deref())).collect();
        headers.extend([
            (HEADER_SOURCE, Some(self.source.as_bytes())),
            (HEADER_ERROR_REASON, Some(letter.reason.as_str().as_bytes())),
            (HEADER_ERROR, Some(letter.error.as_bytes())),
            (HEADER_ATTEMPTS, Some(attempts.as_bytes())),
        ]);
        let (size, hash);
        let mut value = record.value.as_deref();
        if letter.without_value
            && let Some(refused) = value.take()
        {
            size = refused.len().to_string();
            hash = sha256(refused);
            headers.push((HEADER_VALUE_BYTES, Some(size.as_bytes())));
            headers.push((HEADER_VALUE_SHA256, Some(hash.as_bytes())));
        }
        let payload = Payload {
            partition: None,
            key: record.key.as_deref(),
            value,
            timestamp: None,
            headers: &headers,
        };
        ffi::produce(topics.get(topic)?, &payload, id)
    }
}

fn write_source(buffer: &mut String, record: &RawRecord, index: u32) {
    let (partition, offset) = (&record.partition, record.offset);
    let topic = partition.topic().as_str();
    let lineage = record::Lineage { topic, partition: partition.index(), offset, index };
    buffer.clear();
    write!(buffer, "{lineage}").expect("writing to a string does not fail");
}

fn sha256(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        write!(digits, "{byte:02x}").expect("writing to a string does not fail");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_sha_256() {
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
