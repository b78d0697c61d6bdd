//! Producing by topic handle, and the transaction calls with their error flags.

use std::ffi::CString;
use std::os::raw::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as sys;
use rdkafka::bindings::rd_kafka_vtype_t::{
    RD_KAFKA_VTYPE_END, RD_KAFKA_VTYPE_HEADERS, RD_KAFKA_VTYPE_KEY, RD_KAFKA_VTYPE_MSGFLAGS,
    RD_KAFKA_VTYPE_OPAQUE, RD_KAFKA_VTYPE_PARTITION, RD_KAFKA_VTYPE_RKT, RD_KAFKA_VTYPE_TIMESTAMP,
    RD_KAFKA_VTYPE_VALUE,
};
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode;

use super::group::GroupMetadata;
use super::{Failure, check, millis};
use crate::producer::Producer;

/// librdkafka's number for "let the partitioner choose", a macro that has no binding.
const PARTITION_UNASSIGNED: i32 = -1;

/// A topic as a producer knows it; looked up once, not by name for every message.
pub(crate) struct TopicHandle {
    pointer: NonNull<sys::rd_kafka_topic_t>,
    producer: Arc<Producer>,
}

// SAFETY: librdkafka's topics are reference counted and internally locked.
unsafe impl Send for TopicHandle {}
// SAFETY: as above; all calls that take a topic may be made by any thread.
unsafe impl Sync for TopicHandle {}

impl TopicHandle {
    /// The topic of this name. Nothing is sent.
    pub(crate) fn new(producer: &Arc<Producer>, topic: &str) -> Result<Self, RDKafkaErrorCode> {
        let name = CString::new(topic).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
        // SAFETY: the client is live, the name terminated, no configuration is handed over.
        let pointer = unsafe {
            sys::rd_kafka_topic_new(producer.client().native_ptr(), name.as_ptr(), ptr::null_mut())
        };
        NonNull::new(pointer)
            .map(|pointer| Self { pointer, producer: Arc::clone(producer) })
            // The only refusals are a name or a configuration that is not valid.
            .ok_or(RDKafkaErrorCode::InvalidTopic)
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        // SAFETY: the client is live as long as `self.producer`; the reference is released once.
        unsafe { sys::rd_kafka_topic_destroy(self.pointer.as_ptr()) }
    }
}

/// What is produced, borrowed: librdkafka copies it.
pub(crate) struct Payload<'a> {
    /// The partition, or `None` for the partitioner's choice.
    pub(crate) partition: Option<i32>,
    /// The key; `None` is a null key.
    pub(crate) key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub(crate) value: Option<&'a [u8]>,
    /// Milliseconds since the epoch; `None` is now.
    pub(crate) timestamp: Option<i64>,
    /// Headers in order.
    pub(crate) headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Hands a message to librdkafka's queue without waiting. `id` comes back with its delivery
/// report.
pub(crate) fn produce(
    topic: &TopicHandle,
    payload: &Payload<'_>,
    id: usize,
) -> Result<(), RDKafkaErrorCode> {
    if payload.headers.is_empty() && payload.timestamp.is_none() {
        return produce_plain(topic, payload, id);
    }
    let headers = HeaderList::new(payload.headers)?;
    let (value, value_len) = parts(payload.value);
    let (key, key_len) = parts(payload.key);
    // SAFETY: topic and client are live; the arguments are pairs of a tag and the types that tag
    // asks for, ended by the end tag; key and value are copied (MSG_F_COPY) before the call
    // returns; the opaque value is a number that is never followed; on success the header list
    // becomes librdkafka's.
    let code: RDKafkaErrorCode = unsafe {
        sys::rd_kafka_producev(
            topic.producer.client().native_ptr(),
            RD_KAFKA_VTYPE_RKT,
            topic.pointer.as_ptr(),
            RD_KAFKA_VTYPE_PARTITION,
            payload.partition.unwrap_or(PARTITION_UNASSIGNED),
            RD_KAFKA_VTYPE_MSGFLAGS,
            sys::RD_KAFKA_MSG_F_COPY,
            RD_KAFKA_VTYPE_VALUE,
            value,
            value_len,
            RD_KAFKA_VTYPE_KEY,
            key,
            key_len,
            RD_KAFKA_VTYPE_OPAQUE,
            id as *mut c_void,
            RD_KAFKA_VTYPE_TIMESTAMP,
            payload.timestamp.unwrap_or(0),
            RD_KAFKA_VTYPE_HEADERS,
            headers.as_ptr(),
            RD_KAFKA_VTYPE_END,
        )
    }
    .into();
    match code {
        RDKafkaErrorCode::NoError => {
            headers.hand_over();
            Ok(())
        }
        code => Err(code),
    }
}

/// As [`produce`], by the call that knows neither headers nor timestamps: it is the cheaper one.
fn produce_plain(
    topic: &TopicHandle,
    payload: &Payload<'_>,
    id: usize,
) -> Result<(), RDKafkaErrorCode> {
    let (value, value_len) = parts(payload.value);
    let (key, key_len) = parts(payload.key);
    // SAFETY: the topic is live; key and value are copied (MSG_F_COPY) before the call returns; the
    // opaque value is a number that is never followed.
    let refused = unsafe {
        sys::rd_kafka_produce(
            topic.pointer.as_ptr(),
            payload.partition.unwrap_or(PARTITION_UNASSIGNED),
            sys::RD_KAFKA_MSG_F_COPY,
            value,
            value_len,
            key,
            key_len,
            id as *mut c_void,
        )
    };
    match refused {
        0 => Ok(()),
        // SAFETY: reads this thread's last error, which the call has just set.
        _ => Err(unsafe { sys::rd_kafka_last_error() }.into()),
    }
}

/// A message of [`produce_run`], borrowed: librdkafka copies it.
pub(crate) struct Plain<'a> {
    /// The key; `None` is a null key.
    pub(crate) key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub(crate) value: Option<&'a [u8]>,
    /// Comes back with the delivery report.
    pub(crate) id: usize,
}

/// As [`produce`] for messages without headers and timestamps that go to one partition, or all where
/// the partitioner says: locks and clocks are asked once for all of them. Answers the place of the
/// first that was not taken. Behind one that found the queue full none is taken; behind one that was
/// refused for another reason the others are.
pub(crate) fn produce_run<'a>(
    topic: &TopicHandle,
    partition: Option<i32>,
    messages: impl Iterator<Item = Plain<'a>>,
) -> Result<(), (usize, RDKafkaErrorCode)> {
    let mut entries: Vec<sys::rd_kafka_message_t> = messages
        .map(|message| {
            let (payload, len) = parts(message.value);
            let (key, key_len) = parts(message.key);
            sys::rd_kafka_message_t {
                err: sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
                rkt: ptr::null_mut(),
                partition: PARTITION_UNASSIGNED,
                payload,
                len,
                key,
                key_len,
                offset: 0,
                _private: message.id as *mut c_void,
            }
        })
        .collect();
    // SAFETY: the topic is live; the array has as many entries as said; keys and values live for
    // `'a` and are copied (MSG_F_COPY) before the call returns; the opaque values are numbers that
    // are never followed.
    unsafe {
        sys::rd_kafka_produce_batch(
            topic.pointer.as_ptr(),
            partition.unwrap_or(PARTITION_UNASSIGNED),
            sys::RD_KAFKA_MSG_F_COPY,
            entries.as_mut_ptr(),
            i32::try_from(entries.len()).expect("a run is a part of a batch"),
        );
    }
    let codes = entries.iter().map(|entry| RDKafkaErrorCode::from(entry.err));
    match codes.enumerate().find(|(_, code)| *code != RDKafkaErrorCode::NoError) {
        Some(refused) => Err(refused),
        None => Ok(()),
    }
}

fn parts(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((ptr::null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast(), bytes.len()))
}

/// A list of headers that is ours until librdkafka takes it; null when there are none.
struct HeaderList(*mut sys::rd_kafka_headers_t);

impl HeaderList {
    fn new(headers: &[(&str, Option<&[u8]>)]) -> Result<Self, RDKafkaErrorCode> {
        if headers.is_empty() {
            return Ok(Self(ptr::null_mut()));
        }
        // SAFETY: makes a list of ours.
        let list = Self(unsafe { sys::rd_kafka_headers_new(headers.len()) });
        for (name, value) in headers {
            let (value, value_len) = parts(*value);
            // SAFETY: the list is live; name and value are copied, with the lengths given.
            let code: RDKafkaErrorCode = unsafe {
                sys::rd_kafka_header_add(
                    list.0,
                    name.as_ptr().cast(),
                    isize::try_from(name.len()).unwrap_or(isize::MAX),
                    value,
                    isize::try_from(value_len).unwrap_or(isize::MAX),
                )
            }
            .into();
            if code != RDKafkaErrorCode::NoError {
                return Err(code);
            }
        }
        Ok(list)
    }

    fn as_ptr(&self) -> *mut sys::rd_kafka_headers_t {
        self.0
    }

    fn hand_over(mut self) {
        self.0 = ptr::null_mut();
    }
}

impl Drop for HeaderList {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the list is still ours and released once.
            unsafe { sys::rd_kafka_headers_destroy(self.0) }
        }
    }
}

/// Registers the transactional id: fences its earlier owner and settles what it left open. May be
/// repeated after a retriable failure.
pub(crate) fn init_transactions(producer: &Producer, timeout: Duration) -> Result<(), Failure> {
    // SAFETY: the client is live.
    check(unsafe {
        sys::rd_kafka_init_transactions(producer.client().native_ptr(), millis(Some(timeout)))
    })
}

/// Begins a transaction; nothing is sent.
pub(crate) fn begin_transaction(producer: &Producer) -> Result<(), Failure> {
    // SAFETY: the client is live.
    check(unsafe { sys::rd_kafka_begin_transaction(producer.client().native_ptr()) })
}

/// Adds the group's offsets to the transaction; waits up to the rest of the transaction's time.
pub(crate) fn send_offsets(
    producer: &Producer,
    offsets: &TopicPartitionList,
    group: &GroupMetadata,
) -> Result<(), Failure> {
    // SAFETY: client, list and metadata are live; the call copies what it keeps.
    check(unsafe {
        sys::rd_kafka_send_offsets_to_transaction(
            producer.client().native_ptr(),
            offsets.ptr(),
            group.as_ptr(),
            millis(None),
        )
    })
}

/// Flushes and commits; waits up to the rest of the transaction's time. Unlike the safe wrapper it
/// does not sleep in steps of 100 ms while messages are in flight; the producer's own thread
/// serves the delivery reports meanwhile.
pub(crate) fn commit_transaction(producer: &Producer) -> Result<(), Failure> {
    // SAFETY: the client is live.
    check(unsafe { sys::rd_kafka_commit_transaction(producer.client().native_ptr(), millis(None)) })
}

/// Purges and aborts; waits up to the rest of the transaction's time.
pub(crate) fn abort_transaction(producer: &Producer) -> Result<(), Failure> {
    // SAFETY: the client is live.
    check(unsafe { sys::rd_kafka_abort_transaction(producer.client().native_ptr(), millis(None)) })
}

/// Sends everything now and waits until each message was delivered or has failed. The producer's
/// own thread serves the reports meanwhile.
pub(crate) fn flush(producer: &Producer, timeout: Duration) -> Result<(), RDKafkaErrorCode> {
    // SAFETY: the client is live.
    let code: RDKafkaErrorCode =
        unsafe { sys::rd_kafka_flush(producer.client().native_ptr(), millis(Some(timeout))) }
            .into();
    match code {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(code),
    }
}
