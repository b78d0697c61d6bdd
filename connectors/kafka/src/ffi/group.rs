//! The membership of a consumer and commits of its group's offsets.

use std::ptr::NonNull;
use std::sync::Arc;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as sys;
use rdkafka::consumer::Consumer as _;
use rdkafka::types::RDKafkaErrorCode;

use super::queue::WakingQueue;
use super::text;
use crate::context::Consumer;
use crate::wake::Waker;

/// A snapshot of the consumer's place in its group, by which the broker fences a transaction.
pub(crate) struct GroupMetadata {
    pointer: NonNull<sys::rd_kafka_consumer_group_metadata_t>,
}

// SAFETY: the object is a plain copy of three strings and a number; any thread may read it.
unsafe impl Send for GroupMetadata {}
// SAFETY: as above; nothing changes it after it was made.
unsafe impl Sync for GroupMetadata {}

impl GroupMetadata {
    /// The consumer's place now; `None` if it has no group, or has left it for good: then nobody
    /// would answer.
    pub(crate) fn of(consumer: &Consumer) -> Option<Self> {
        if consumer.closed() {
            return None;
        }
        // SAFETY: the client is live; the answer is an object of ours or null.
        let pointer =
            unsafe { sys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr()) };
        NonNull::new(pointer).map(|pointer| Self { pointer })
    }

    /// The id of the member that the consumer is now; empty while it is none.
    pub(crate) fn member_now(consumer: &Consumer) -> String {
        Self::of(consumer).map(|metadata| metadata.member()).unwrap_or_default()
    }

    /// The id the coordinator gave this member; empty before it joined.
    pub(crate) fn member(&self) -> String {
        // SAFETY: the object is live and the string belongs to it.
        unsafe { text(sys::rd_kafka_consumer_group_metadata_member_id(self.as_ptr())) }
    }

    /// The generation or member epoch; negative before the member joined.
    pub(crate) fn generation(&self) -> i32 {
        // SAFETY: the object is live.
        unsafe { sys::rd_kafka_consumer_group_metadata_generation_id(self.as_ptr()) }
    }

    pub(super) fn as_ptr(&self) -> *const sys::rd_kafka_consumer_group_metadata_t {
        self.pointer.as_ptr()
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: we own the object and release it once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.pointer.as_ptr()) }
    }
}

/// Commits of group offsets whose answers arrive in a queue of their own.
pub(crate) struct CommitQueue {
    queue: WakingQueue,
    consumer: Arc<Consumer>,
}

/// The answer to one commit.
pub(crate) struct CommitResult {
    /// The number the commit was made under.
    pub(crate) id: usize,
    /// How it ended: of the whole, or else of the first partition that failed.
    pub(crate) result: Result<(), RDKafkaErrorCode>,
}

impl CommitQueue {
    /// A queue that wakes `waker` when an answer arrives.
    pub(crate) fn new(consumer: &Arc<Consumer>, waker: &Arc<Waker>) -> Self {
        Self { queue: WakingQueue::own(consumer, waker), consumer: Arc::clone(consumer) }
    }

    /// Sends a commit off without waiting.
    pub(crate) fn commit(
        &self,
        id: usize,
        offsets: &TopicPartitionList,
    ) -> Result<(), RDKafkaErrorCode> {
        // SAFETY: client, list and queue are live; the list is copied by the call; the opaque
        // value is a number that is never followed.
        let code = unsafe {
            sys::rd_kafka_commit_queue(
                self.consumer.client().native_ptr(),
                offsets.ptr(),
                self.queue.as_ptr(),
                None,
                id as *mut _,
            )
        };
        failed(code.into())
    }

    /// Takes the next answer, if one is there.
    pub(crate) fn poll(&self) -> Option<CommitResult> {
        loop {
            // SAFETY: the queue is live; the event is ours and released below.
            let event = unsafe { sys::rd_kafka_queue_poll(self.queue.as_ptr(), 0) };
            if event.is_null() {
                return None;
            }
            // SAFETY: the event is live until it is destroyed, once, after all reading; a list
            // belongs to its event and has `cnt` entries.
            let answer = unsafe {
                let answer = (sys::rd_kafka_event_type(event) == sys::RD_KAFKA_EVENT_OFFSET_COMMIT)
                    .then(|| {
                        let whole = failed(sys::rd_kafka_event_error(event).into());
                        let list = sys::rd_kafka_event_topic_partition_list(event);
                        CommitResult {
                            id: sys::rd_kafka_event_opaque(event) as usize,
                            result: whole.and_then(|()| first_failure(list)),
                        }
                    });
                sys::rd_kafka_event_destroy(event);
                answer
            };
            if answer.is_some() {
                return answer;
            }
        }
    }
}

fn failed(code: RDKafkaErrorCode) -> Result<(), RDKafkaErrorCode> {
    match code {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(code),
    }
}

/// The first partition's failure in a list.
///
/// # Safety
/// The pointer must be null or point to a live list.
unsafe fn first_failure(
    list: *mut sys::rd_kafka_topic_partition_list_t,
) -> Result<(), RDKafkaErrorCode> {
    if list.is_null() {
        return Ok(());
    }
    // SAFETY: the list is live and holds `cnt` entries.
    unsafe {
        for index in 0..usize::try_from((*list).cnt).unwrap_or(0) {
            failed((*(*list).elems.add(index)).err.into())?;
        }
    }
    Ok(())
}
