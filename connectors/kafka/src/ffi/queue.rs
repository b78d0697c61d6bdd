//! Queues of messages and events that wake a thread when they become non-empty.

use std::collections::VecDeque;
use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdkafka::bindings as sys;
use rdkafka::consumer::Consumer as _;
use rdkafka::types::RDKafkaErrorCode;
use tidegate::record::{Offset, PartitionId};

use super::text;
use crate::context::Consumer;
use crate::wake::Waker;

/// A reference to one of a consumer's queues, with wake-ups enabled.
pub(crate) struct WakingQueue {
    pointer: NonNull<sys::rd_kafka_queue_t>,
    // Both are kept alive because librdkafka uses them until the queue is released.
    consumer: Arc<Consumer>,
    waker: Arc<Waker>,
}

// SAFETY: librdkafka's queues are internally locked and may be used and released by any thread.
unsafe impl Send for WakingQueue {}

impl WakingQueue {
    /// Enables wake-ups on a queue of `consumer` and takes over the reference to it.
    ///
    /// # Safety
    /// The pointer must be a reference to a queue of `consumer` that nobody else releases.
    unsafe fn enable(
        pointer: NonNull<sys::rd_kafka_queue_t>,
        consumer: &Arc<Consumer>,
        waker: &Arc<Waker>,
    ) -> Self {
        // SAFETY: the queue is live; the payload is copied by the call; the descriptor stays open
        // because `self` keeps the waker until wake-ups are disabled in `drop`.
        unsafe {
            sys::rd_kafka_queue_io_event_enable(
                pointer.as_ptr(),
                waker.fd(),
                [1u8].as_ptr().cast(),
                1,
            );
        }
        Self { pointer, consumer: Arc::clone(consumer), waker: Arc::clone(waker) }
    }

    /// The consumer's main queue: group events, errors, logs, statistics. It is served by polling
    /// the consumer; this handle wakes and tells how much is left.
    pub(crate) fn main(consumer: &Arc<Consumer>, waker: &Arc<Waker>) -> Option<Self> {
        // SAFETY: the client is live; the call returns a new reference or null.
        let pointer = unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        // SAFETY: a new reference to a queue of this consumer.
        NonNull::new(pointer).map(|pointer| unsafe { Self::enable(pointer, consumer, waker) })
    }

    /// An own, empty queue for answers.
    pub(crate) fn own(consumer: &Arc<Consumer>, waker: &Arc<Waker>) -> Self {
        // SAFETY: the client is live; the call never returns null.
        let pointer = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        let pointer = NonNull::new(pointer).expect("librdkafka aborts when it has no memory");
        // SAFETY: a new queue of this consumer.
        unsafe { Self::enable(pointer, consumer, waker) }
    }

    /// How many entries wait.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: the queue is live as long as `self`.
        unsafe { sys::rd_kafka_queue_length(self.pointer.as_ptr()) }
    }

    /// For the calls of this module that answer into a queue.
    pub(super) fn as_ptr(&self) -> *mut sys::rd_kafka_queue_t {
        self.pointer.as_ptr()
    }
}

impl Drop for WakingQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is live; after the first call librdkafka does not touch the waker's
        // descriptor any more; the reference is released once.
        unsafe {
            sys::rd_kafka_queue_io_event_enable(self.pointer.as_ptr(), -1, ptr::null(), 0);
            sys::rd_kafka_queue_destroy(self.pointer.as_ptr());
        }
        let _ = (&self.consumer, &self.waker);
    }
}

/// The queue of one assigned partition, which librdkafka fills ahead of us, and the few messages
/// that were taken out of it but not handed on yet.
pub(crate) struct PartitionQueue {
    // Declared before `queue`: messages are released before the consumer can be.
    held: VecDeque<HeldMessage>,
    scratch: Vec<Option<HeldMessage>>,
    queue: WakingQueue,
}

/// A message owned by us, released once. An `Option` of it is a pointer that may be null.
#[repr(transparent)]
pub(super) struct HeldMessage(NonNull<sys::rd_kafka_message_t>);

#[cfg(feature = "limit")]
impl HeldMessage {
    pub(super) fn pointer(&self) -> NonNull<sys::rd_kafka_message_t> {
        self.0
    }
}

// SAFETY: a message is plain memory of librdkafka with atomic reference counts; any one thread may
// read and release it.
unsafe impl Send for HeldMessage {}

impl Drop for HeldMessage {
    fn drop(&mut self) {
        // SAFETY: we own the message and release it once.
        unsafe { sys::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

impl PartitionQueue {
    /// Cuts the partition's queue off from the consumer's main queue, so that it is read only
    /// through this object. Must be called before the partition is assigned.
    pub(crate) fn detach(
        consumer: &Arc<Consumer>,
        topic: &str,
        partition: i32,
        waker: &Arc<Waker>,
    ) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: the client is live, the name terminated; the answer is a new reference or null.
        let pointer = unsafe {
            sys::rd_kafka_queue_get_partition(
                consumer.client().native_ptr(),
                topic.as_ptr(),
                partition,
            )
        };
        let pointer = NonNull::new(pointer)?;
        // SAFETY: the queue is live; forwarding to null means keeping the messages in it.
        unsafe { sys::rd_kafka_queue_forward(pointer.as_ptr(), ptr::null_mut()) };
        Some(Self {
            held: VecDeque::new(),
            scratch: Vec::new(),
            // SAFETY: a new reference to a queue of this consumer.
            queue: unsafe { WakingQueue::enable(pointer, consumer, waker) },
        })
    }

    /// Takes messages that are already fetched, without waiting, until `max` are held. Messages
    /// from before the last seek or assignment are discarded by librdkafka on the way. Returns
    /// whether the queue may hold more.
    pub(crate) fn fill(&mut self, max: usize) -> bool {
        let room = max.saturating_sub(self.held.len());
        if room == 0 {
            return true;
        }
        self.scratch.resize_with(room.max(self.scratch.len()), || None);
        // SAFETY: the queue is live and this thread is its only reader; the array has `room`
        // entries, each of the size and form of a pointer that may be null, and all null now.
        let taken = unsafe {
            sys::rd_kafka_consume_batch_queue(
                self.queue.as_ptr(),
                0,
                self.scratch.as_mut_ptr().cast(),
                room,
            )
        };
        let taken = usize::try_from(taken).unwrap_or(0);
        let (given, behind) = self.scratch.split_at_mut(taken);
        forget_released(behind);
        let owned = |message: &mut Option<_>| message.take().expect("a taken message is not null");
        self.held.extend(given.iter_mut().map(owned));
        taken == room
    }

    /// How many messages are held.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// The oldest message that is held.
    pub(crate) fn front(&self) -> Option<Row<'_>> {
        self.row(0)
    }

    /// The message at this place among those that are held.
    pub(crate) fn row(&self, place: usize) -> Option<Row<'_>> {
        self.held.get(place).map(|message| Row { message: message.0, _queue: self })
    }

    /// Releases the oldest `count` messages.
    pub(crate) fn release(&mut self, count: usize) {
        self.held.drain(..count.min(self.held.len()));
    }

    /// Releases everything that is held.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
    }
}

/// Forgets what a batch call left behind the messages it gave: it may have written more before a
/// seek or the end of an assignment made them outdated. It has released those, and left their
/// pointers.
pub(super) fn forget_released(behind: &mut [Option<HeldMessage>]) {
    for released in behind.iter_mut().map_while(Option::take) {
        std::mem::forget(released);
    }
}

/// What a row of a partition's queue is.
pub(crate) enum RowKind {
    /// A record.
    Record,
    /// The end of the partition: the row's offset is the next one.
    End,
    /// Anything else: the partition cannot be read on.
    Error,
}

/// One row of a partition's queue, borrowed.
pub(crate) struct Row<'a> {
    message: NonNull<sys::rd_kafka_message_t>,
    _queue: &'a PartitionQueue,
}

impl<'a> Row<'a> {
    /// What it is.
    pub(crate) fn kind(&self) -> RowKind {
        const RECORD: i32 = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR as i32;
        const END: i32 = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF as i32;
        // SAFETY: the message is live and initialised. The code is read as a number because a
        // broker may send one that the binding's enumeration does not know.
        match unsafe { (&raw const (*self.message.as_ptr()).err).cast::<i32>().read() } {
            RECORD => RowKind::Record,
            END => RowKind::End,
            _ => RowKind::Error,
        }
    }

    /// The row's offset.
    pub(crate) fn offset(&self) -> i64 {
        // SAFETY: the message is live and initialised.
        unsafe { (*self.message.as_ptr()).offset }
    }

    /// The text of an error row.
    pub(crate) fn error(&self) -> String {
        // SAFETY: the message is live; the text is static or belongs to the message.
        unsafe { text(sys::rd_kafka_message_errstr(self.message.as_ptr())) }
    }

    /// The broker's or the producer's timestamp, if there is one.
    pub(crate) fn timestamp(&self) -> Option<i64> {
        const NONE: sys::rd_kafka_timestamp_type_t =
            sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        let mut kind = NONE;
        // SAFETY: the message is live; `kind` is valid to write.
        let millis = unsafe { sys::rd_kafka_message_timestamp(self.message.as_ptr(), &mut kind) };
        (kind != NONE).then_some(millis)
    }

    /// The key; `None` is a null key.
    pub(crate) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: the message is live; pointer and length describe its key.
        unsafe {
            let message = self.message.as_ptr();
            slice((*message).key.cast(), (*message).key_len)
        }
    }

    /// The value; `None` is a tombstone.
    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: the message is live; pointer and length describe its payload.
        unsafe {
            let message = self.message.as_ptr();
            slice((*message).payload.cast(), (*message).len)
        }
    }

    /// Calls `each` with every header in order. Names that are not UTF-8 are shown with
    /// replacement characters.
    pub(crate) fn headers(&self, mut each: impl FnMut(&str, Option<&'a [u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is live; the list stays the message's and lives as long.
        let found = unsafe { sys::rd_kafka_message_headers(self.message.as_ptr(), &mut headers) };
        if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the list is live; the three places are valid to write; the call reports the
            // end of the list.
            let found = unsafe {
                sys::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size)
            };
            if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return;
            }
            // SAFETY: name and value belong to the list; the name is terminated.
            unsafe {
                let name = std::ffi::CStr::from_ptr(name).to_string_lossy();
                each(&name, slice(value.cast(), size));
            }
        }
    }
}

/// Bytes of librdkafka's: null is absent, which differs from empty.
///
/// # Safety
/// The pointer must be null or point to `len` initialised bytes that live for `'a`.
unsafe fn slice<'a>(pointer: *const u8, len: usize) -> Option<&'a [u8]> {
    // SAFETY: not null here, and the caller promises the rest.
    (!pointer.is_null()).then(|| unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// The high watermark of the newest fetch answer; nothing is asked of the broker.
pub(crate) fn cached_high_watermark(consumer: &Consumer, id: &PartitionId) -> Option<Offset> {
    let topic = CString::new(id.topic().as_str()).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client is live, the name terminated, both places valid to write.
    let code: RDKafkaErrorCode = unsafe {
        sys::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            id.index(),
            &mut low,
            &mut high,
        )
    }
    .into();
    if code == RDKafkaErrorCode::NoError { Offset::try_new(high) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_batch_call_has_released_again_is_not_owned() {
        // To release one of these would crash.
        let dangling = || Some(HeldMessage(NonNull::dangling()));
        let mut behind = [dangling(), dangling(), None];
        forget_released(&mut behind);
        assert!(behind.iter().all(Option::is_none), "a pointer was kept");
    }
}
