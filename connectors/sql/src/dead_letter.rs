//! Dead letters as rows that any database can store, whatever the record holds.
//!
//! Key and value are bytes. Text that a column could refuse is made storable: NUL characters are
//! replaced, headers become JSON. A dead letter that was refused once is stored without its value;
//! size and hash remain.

use tidegate::batch::{Batch, DeadLetter, Finished};
use tidegate::record::RawRecord;

use serde_json::{Value, json};

/// Longer error texts are cut: an error may quote a payload of any size.
const ERROR_BYTES_MAX: usize = 8 * 1024;

/// One row of the dead letter table; everything but the group, which is the sink's.
#[derive(Debug)]
pub struct DeadLetterRow<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The broker's timestamp in milliseconds since 1970, if it has one. A number, because a
    /// broker's timestamp may lie beyond what a database calls a time.
    pub timestamp_ms: Option<i64>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` also if it was left out.
    pub value: Option<&'a [u8]>,
    /// The headers as JSON.
    pub headers: Value,
    /// Why, in one word.
    pub reason: &'static str,
    /// The error, made storable.
    pub error: String,
    /// How often the function was called.
    pub attempts: i32,
    /// Bytes of the value, left out or not; `None` for a null value.
    pub value_size: Option<i64>,
    /// FNV-1a (64 bits) of the value, in hexadecimal; `None` for a null value.
    pub value_hash: Option<String>,
}

/// The dead letters of a batch as rows, in order.
pub fn dead_letter_rows<O>(batch: &Batch<O>) -> impl Iterator<Item = DeadLetterRow<'_>> {
    batch.dead_letters().map(|(finished, letter)| row(finished, letter))
}

fn row<'a, O>(finished: &'a Finished<O>, letter: &DeadLetter) -> DeadLetterRow<'a> {
    let record: &RawRecord = &finished.record;
    let value = record.value.as_deref();
    DeadLetterRow {
        topic: record.partition.topic().as_str(),
        partition: record.partition.index(),
        offset: record.offset.get(),
        timestamp_ms: record.timestamp.map(|timestamp| timestamp.millis()),
        key: record.key.as_deref(),
        value: value.filter(|_| !letter.without_value),
        headers: headers_json(record),
        reason: letter.reason.as_str(),
        error: sanitise(&letter.error),
        attempts: i32::try_from(finished.attempts).unwrap_or(i32::MAX),
        value_size: value.map(|value| i64::try_from(value.len()).unwrap_or(i64::MAX)),
        value_hash: value.map(|value| format!("{:016x}", fnv1a(value))),
    }
}

/// Headers as a JSON array in their order: objects with `name` and `value`. A value that is not
/// text is given as `value_hex`, a null value as null; a name with a NUL also as `name_hex`.
pub fn headers_json(record: &RawRecord) -> Value {
    let headers = record.headers.iter().map(|header| {
        let mut entry = json!({ "name": header.name.replace('\0', "\u{fffd}") });
        if header.name.contains('\0') {
            entry["name_hex"] = hex(header.name.as_bytes()).into();
        }
        match header.value.as_deref() {
            None => entry["value"] = Value::Null,
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if !text.contains('\0') => entry["value"] = text.into(),
                _ => entry["value_hex"] = hex(bytes).into(),
            },
        }
        entry
    });
    headers.collect()
}

/// Makes an error's text storable: no NUL, at most 8 KiB.
pub fn sanitise(text: &str) -> String {
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Stable across releases and machines, which the standard library's hashers are not.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tidegate::batch::{DeadReason, Outcome, Span};
    use tidegate::record::{Epoch, Header, Headers, Offset, PartitionId, Record};

    use super::*;

    #[test]
    fn whatever_a_record_holds_its_dead_letter_is_storable() {
        let header = |name: &str, value: Option<&'static [u8]>| Header {
            name: Arc::from(name),
            value: value.map(Bytes::from_static),
        };
        let record = Arc::new(Record {
            partition: PartitionId::new("t", 1),
            offset: Offset::new(4),
            timestamp: None,
            key: Some(Bytes::from_static(b"\0key")),
            value: Some(Bytes::from_static(b"foobar")),
            headers: Headers::new(vec![
                header("plain", Some(b"text")),
                header("null", None),
                header("binary\0", Some(b"\xff\x00")),
            ]),
        });
        let batch = Batch::<()>::new(
            vec![Span {
                partition: PartitionId::new("t", 1),
                epoch: Epoch::new(1),
                first: Offset::new(4),
                next: Offset::new(5),
            }],
            vec![Finished {
                record,
                outcome: Outcome::Dead(DeadLetter {
                    reason: DeadReason::Rejected,
                    error: format!("a\0b{}", "ä".repeat(5000)),
                    without_value: true,
                }),
                attempts: 2,
            }],
        );
        let row = dead_letter_rows(&batch).next().unwrap();
        assert_eq!((row.value, row.value_size), (None, Some(6)));
        // The published test vector of FNV-1a for "foobar".
        assert_eq!(row.value_hash.as_deref(), Some("85944171f73967e8"));
        assert!(row.error.starts_with("a\u{fffd}bä") && row.error.len() <= ERROR_BYTES_MAX + 2);
        assert_eq!(
            row.headers,
            json!([
                {"name": "plain", "value": "text"},
                {"name": "null", "value": null},
                {"name": "binary\u{fffd}", "name_hex": "62696e61727900", "value_hex": "ff00"},
            ])
        );
    }
}
