//! Questions to the cluster that the safe client cannot ask.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::raw::c_char;
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tidegate::record::{Offset, PartitionId, Topic};
use tidegate::sink::TopicId;

use super::{Failure, check, millis, text};

/// The time the answer may need on its way back to us, beyond the request's own.
const GRACE: Duration = Duration::from_millis(500);

/// The answer to one question, released once.
pub(super) struct Answer(NonNull<sys::rd_kafka_event_t>);

impl Answer {
    pub(super) fn as_ptr(&self) -> *mut sys::rd_kafka_event_t {
        self.0.as_ptr()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: the event is ours and released once.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

/// Asks one question and waits for its answer. `call` gets the client, the options and the queue
/// that the answer must be sent to.
pub(super) fn ask<C: ClientContext>(
    client: &Client<C>,
    operation: sys::rd_kafka_admin_op_t,
    timeout: Duration,
    set: impl FnOnce(*mut sys::rd_kafka_AdminOptions_t) -> Result<(), Failure>,
    call: impl FnOnce(*const sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
) -> Result<Answer, Failure> {
    // SAFETY: the client is live; options and queue are made here, used by the call, which copies
    // the options, and released here, once. An answer that comes too late finds its queue closed
    // and is dropped by librdkafka.
    let event = unsafe {
        let options = sys::rd_kafka_AdminOptions_new(client.native_ptr(), operation);
        let mut words = [0 as c_char; 256];
        sys::rd_kafka_AdminOptions_set_request_timeout(
            options,
            millis(Some(timeout)),
            words.as_mut_ptr(),
            words.len(),
        );
        let ready = set(options);
        let queue = sys::rd_kafka_queue_new(client.native_ptr());
        let event = ready.map(|()| {
            call(options, queue);
            sys::rd_kafka_queue_poll(queue, millis(Some(timeout + GRACE)))
        });
        sys::rd_kafka_queue_destroy(queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        event?
    };
    let answer = Answer(NonNull::new(event).ok_or_else(|| Failure {
        code: RDKafkaErrorCode::OperationTimedOut,
        fatal: false,
        retriable: true,
        abort: false,
        text: "no answer in time".into(),
    })?);
    // SAFETY: the event is live; its text is its own.
    unsafe {
        let code: RDKafkaErrorCode = sys::rd_kafka_event_error(answer.as_ptr()).into();
        if code != RDKafkaErrorCode::NoError {
            return Err(failure(code, text(sys::rd_kafka_event_error_string(answer.as_ptr()))));
        }
    }
    Ok(answer)
}

pub(super) fn failure(code: RDKafkaErrorCode, text: String) -> Failure {
    Failure { code, fatal: false, retriable: false, abort: false, text }
}

/// Looks at an error object that stays its owner's.
///
/// # Safety
/// The pointer must be null or point to a live error object.
pub(super) unsafe fn look(error: *const sys::rd_kafka_error_t) -> Result<(), Failure> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the object is live by the caller's promise.
    unsafe {
        match sys::rd_kafka_error_code(error).into() {
            RDKafkaErrorCode::NoError => Ok(()),
            code => Err(failure(code, text(sys::rd_kafka_error_string(error)))),
        }
    }
}

pub(super) fn c_string(words: &str) -> Result<CString, Failure> {
    CString::new(words)
        .map_err(|_| failure(RDKafkaErrorCode::InvalidArgument, "a name holds a NUL byte".into()))
}

/// Whether the cluster names a controller that is none of its brokers, as librdkafka's mock cluster
/// does: every admin request waits for it in vain. One that names none at all may be electing it.
/// `known` is a topic that exists: asking a broker for another may create it.
pub(crate) fn has_false_controller<C: ClientContext>(
    client: &Client<C>,
    known: &Topic,
    timeout: Duration,
) -> bool {
    // SAFETY: the client is live. Without time to wait the answer is what is known.
    let controller = unsafe { sys::rd_kafka_controllerid(client.native_ptr(), 0) };
    controller >= 0
        && client.fetch_metadata(Some(known.as_str()), timeout).is_ok_and(|metadata| {
            !metadata.brokers().iter().any(|broker| broker.id() == controller)
        })
}

/// Tells a client of more brokers, of which it may know some.
pub(crate) fn add_brokers<C: ClientContext>(client: &Client<C>, servers: &str) {
    let Ok(servers) = CString::new(servers) else { return };
    // SAFETY: the client is live, and the list is terminated and copied by the call.
    unsafe { sys::rd_kafka_brokers_add(client.native_ptr(), servers.as_ptr()) };
}

/// The topics among these that exist, with the ids of their incarnations if the broker has any.
pub(crate) fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[Topic],
    timeout: Duration,
) -> Result<HashMap<Topic, Option<TopicId>>, Failure> {
    let names =
        topics.iter().map(|topic| c_string(topic.as_str())).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let answer = ask(
        client,
        sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        timeout,
        |_| Ok(()),
        // SAFETY: the names live through the call, which copies them; the collection is released
        // once.
        |options, queue| unsafe {
            let names =
                sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            sys::rd_kafka_DescribeTopics(client.native_ptr(), names, options, queue);
            sys::rd_kafka_TopicCollection_destroy(names);
        },
    )?;
    let mut ids = HashMap::new();
    // SAFETY: the answer is of this operation, or its result is null; all it holds lives as long
    // as the event.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(answer.as_ptr());
        let mut count = 0;
        if result.is_null() {
            return Ok(ids);
        }
        let descriptions = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        for index in 0..count {
            let description = *descriptions.add(index);
            if look(sys::rd_kafka_TopicDescription_error(description)).is_err() {
                continue;
            }
            let name = text(sys::rd_kafka_TopicDescription_name(description));
            let id = sys::rd_kafka_TopicDescription_topic_id(description);
            ids.insert(Topic::new(&name), topic_id(id));
        }
    }
    Ok(ids)
}

/// # Safety
/// The pointer must be null or point to a live id.
unsafe fn topic_id(id: *const sys::rd_kafka_Uuid_t) -> Option<TopicId> {
    if id.is_null() {
        return None;
    }
    // SAFETY: the id is live by the caller's promise.
    let (high, low) = unsafe {
        (
            sys::rd_kafka_Uuid_most_significant_bits(id),
            sys::rd_kafka_Uuid_least_significant_bits(id),
        )
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    // A broker that knows no ids answers zeros.
    (bytes != [0; 16]).then_some(TopicId(bytes))
}

/// The ends of the logs, open transactions included: the high watermarks. A read-committed client
/// learns the last stable offsets from its own calls.
pub(crate) fn read_uncommitted_ends<C: ClientContext>(
    client: &Client<C>,
    partitions: &[PartitionId],
    timeout: Duration,
) -> Result<HashMap<PartitionId, Offset>, Failure> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition_offset(partition.topic().as_str(), partition.index(), KafkaOffset::End)
            .map_err(|error| failure(RDKafkaErrorCode::InvalidArgument, error.to_string()))?;
    }
    let answer = ask(
        client,
        sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS,
        timeout,
        // SAFETY: the options are live.
        |options| unsafe {
            check(sys::rd_kafka_AdminOptions_set_isolation_level(
                options,
                sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
            ))
        },
        // SAFETY: client and list are live; the call copies the list.
        |options, queue| unsafe {
            sys::rd_kafka_ListOffsets(client.native_ptr(), list.ptr(), options, queue);
        },
    )?;
    let mut ends = HashMap::new();
    // SAFETY: the answer is of this operation, or its result is null; all it holds lives as long
    // as the event; a partition's topic is a terminated string.
    unsafe {
        let result = sys::rd_kafka_event_ListOffsets_result(answer.as_ptr());
        let mut count = 0;
        if result.is_null() {
            return Ok(ends);
        }
        let infos = sys::rd_kafka_ListOffsets_result_infos(result, &mut count);
        for index in 0..count {
            let info = *infos.add(index);
            let found = sys::rd_kafka_ListOffsetsResultInfo_topic_partition(info);
            let code: RDKafkaErrorCode = (*found).err.into();
            if let (RDKafkaErrorCode::NoError, Some(end)) = (code, Offset::try_new((*found).offset))
            {
                let topic = text((*found).topic);
                ends.insert(PartitionId::new(topic.as_str(), (*found).partition), end);
            }
        }
    }
    Ok(ends)
}
