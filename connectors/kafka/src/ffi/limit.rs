//! What the benchmark's hand-written loops need and no safe binding offers: batches from one queue
//! for all partitions, producing by topic handle, a commit that does not sleep.
//!
//! Not part of the connector: it exists with the feature `limit` only, so that the loops the
//! connector is measured against can be as fast as librdkafka allows without unsafe code of their
//! own. Its shape follows the loops, not the connector, which it must not share its slow parts with.

use std::ffi::CString;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaResult;
use rdkafka::producer::{DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;

use super::queue::{HeldMessage, forget_released};
use super::{check, millis};

/// A member of a group whose partitions all lead into one queue.
pub struct BatchConsumer {
    // Declared before the consumer: messages are released before it can be.
    taken: Vec<Option<HeldMessage>>,
    count: usize,
    consumer: BaseConsumer<Forwarding>,
}

/// Leads the queue of every assigned partition into the one of the loop.
#[derive(Default)]
pub struct Forwarding(OnceLock<Own>);

struct Own(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues are internally locked and may be used and released by any thread.
unsafe impl Send for Own {}
// SAFETY: as above.
unsafe impl Sync for Own {}

impl rdkafka::ClientContext for Forwarding {}

impl ConsumerContext for Forwarding {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let (Some(own), Rebalance::Assign(partitions)) = (self.0.get(), rebalance) else {
            return;
        };
        for element in partitions.elements() {
            let name = CString::new(element.topic()).expect("a topic's name holds no NUL");
            // SAFETY: the client is live and the name terminated; the queue that is answered is a
            // new reference, released after it was led into ours, which lives as long as the
            // consumer.
            unsafe {
                let queue = sys::rd_kafka_queue_get_partition(
                    consumer.client().native_ptr(),
                    name.as_ptr(),
                    element.partition(),
                );
                if !queue.is_null() {
                    sys::rd_kafka_queue_forward(queue, own.0.as_ptr());
                    sys::rd_kafka_queue_destroy(queue);
                }
            }
        }
    }
}

impl BatchConsumer {
    /// A consumer of these settings that takes up to `batch` messages at once.
    ///
    /// # Errors
    /// If librdkafka refuses the settings.
    pub fn new(config: &ClientConfig, batch: usize) -> KafkaResult<Self> {
        let consumer = config.create_with_context::<_, BaseConsumer<_>>(Forwarding::default())?;
        // SAFETY: the client is live; the call never returns null.
        let queue = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        let queue = NonNull::new(queue).expect("librdkafka aborts when it has no memory");
        // The context is new: nothing was set before.
        let _ = consumer.client().context().0.set(Own(queue));
        let taken = std::iter::repeat_with(|| None).take(batch).collect();
        Ok(Self { taken, count: 0, consumer })
    }

    /// The client itself: to subscribe, to commit, for the group's metadata.
    pub fn client(&self) -> &BaseConsumer<Forwarding> {
        &self.consumer
    }

    /// Serves the group's events and takes what is there; waits for a first message at most so
    /// long. The batch call waits for a *full* batch, so the rest is taken without waiting.
    pub fn take(&mut self, wait: Duration) -> impl Iterator<Item = Taken<'_>> {
        self.taken[..self.count].fill_with(|| None);
        self.count = 0;
        // Records never come this way: their queues lead elsewhere.
        let _ = self.consumer.poll(Duration::ZERO);
        self.count = self.fill(0, 1, wait);
        if self.count == 1 {
            self.count += self.fill(1, self.taken.len(), Duration::ZERO);
        }
        let messages = self.taken[..self.count].iter().flatten();
        messages.map(|held| Taken { message: held.pointer(), _held: PhantomData })
    }

    fn fill(&mut self, from: usize, to: usize, wait: Duration) -> usize {
        let own = self.consumer.client().context().0.get().expect("set by new");
        let places = &mut self.taken[from..to];
        // SAFETY: the queue is live and read by this thread only; every place has the size and
        // form of a pointer that may be null, and is null now.
        let taken = unsafe {
            sys::rd_kafka_consume_batch_queue(
                own.0.as_ptr(),
                millis(Some(wait)),
                places.as_mut_ptr().cast(),
                places.len(),
            )
        };
        let taken = usize::try_from(taken).unwrap_or(0);
        forget_released(&mut places[taken..]);
        taken
    }
}

impl Drop for BatchConsumer {
    fn drop(&mut self) {
        self.taken.clear();
        if let Some(own) = self.consumer.client().context().0.get() {
            // SAFETY: the queue is live; nobody takes from it any more; this is the only release.
            unsafe { sys::rd_kafka_queue_destroy(own.0.as_ptr()) }
        }
    }
}

impl fmt::Debug for BatchConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchConsumer").field("batch", &self.taken.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forwarding")
    }
}

/// A message of the batch that was taken last.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    message: NonNull<sys::rd_kafka_message_t>,
    _held: PhantomData<&'a ()>,
}

impl<'a> Taken<'a> {
    /// The error in its place, if it is none.
    pub fn error(&self) -> Option<RDKafkaErrorCode> {
        // SAFETY: the message is live and initialised.
        let code: RDKafkaErrorCode = unsafe { (*self.message.as_ptr()).err }.into();
        (code != RDKafkaErrorCode::NoError).then_some(code)
    }

    /// Its partition.
    pub fn partition(&self) -> i32 {
        // SAFETY: the message is live and initialised.
        unsafe { (*self.message.as_ptr()).partition }
    }

    /// Its offset.
    pub fn offset(&self) -> i64 {
        // SAFETY: the message is live and initialised.
        unsafe { (*self.message.as_ptr()).offset }
    }

    /// Its key; empty if there is none.
    pub fn key(&self) -> &'a [u8] {
        // SAFETY: the message is live; pointer and length describe its key.
        unsafe { bytes((*self.message.as_ptr()).key, (*self.message.as_ptr()).key_len) }
    }

    /// Its value; empty if there is none.
    pub fn value(&self) -> &'a [u8] {
        // SAFETY: the message is live; pointer and length describe its value.
        unsafe { bytes((*self.message.as_ptr()).payload, (*self.message.as_ptr()).len) }
    }
}

/// # Safety
/// The pointer must be null or point to `len` initialised bytes that live for `'a`.
unsafe fn bytes<'a>(pointer: *const std::ffi::c_void, len: usize) -> &'a [u8] {
    if pointer.is_null() {
        return &[];
    }
    // SAFETY: not null, and the caller promises the rest.
    unsafe { std::slice::from_raw_parts(pointer.cast(), len) }
}

/// A producer with a thread that serves its reports, and one topic.
pub struct Output {
    topic: NonNull<sys::rd_kafka_topic_t>,
    producer: ThreadedProducer<DefaultProducerContext>,
}

// SAFETY: librdkafka's topics are reference counted and internally locked.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// A producer of these settings to this topic.
    ///
    /// # Errors
    /// If librdkafka refuses the settings.
    pub fn new(config: &ClientConfig, topic: &str) -> KafkaResult<Self> {
        let producer: ThreadedProducer<_> = config.create()?;
        let name = CString::new(topic)?;
        // SAFETY: the client is live, the name terminated, no configuration is handed over.
        let topic = unsafe {
            sys::rd_kafka_topic_new(producer.client().native_ptr(), name.as_ptr(), ptr::null_mut())
        };
        let topic = NonNull::new(topic).expect("the name was accepted by the broker before");
        Ok(Self { topic, producer })
    }

    /// The client itself: for the transaction's other calls.
    pub fn client(&self) -> &ThreadedProducer<DefaultProducerContext> {
        &self.producer
    }

    /// Produces one message without waiting.
    ///
    /// # Errors
    /// `QueueFull`, or whatever librdkafka refuses it for.
    pub fn send(&self, partition: i32, key: &[u8], value: &[u8]) -> Result<(), RDKafkaErrorCode> {
        const COPY: i32 = 0x2;
        // SAFETY: topic and client are live; key and value are copied before the call returns.
        let refused = unsafe {
            sys::rd_kafka_produce(
                self.topic.as_ptr(),
                partition,
                COPY,
                value.as_ptr().cast_mut().cast(),
                value.len(),
                key.as_ptr().cast(),
                key.len(),
                ptr::null_mut(),
            )
        };
        match refused {
            0 => Ok(()),
            // SAFETY: reads this thread's last error.
            _ => Err(unsafe { sys::rd_kafka_last_error() }.into()),
        }
    }

    /// Sends everything out, at once.
    ///
    /// # Errors
    /// If it takes longer.
    pub fn flush(&self, timeout: Duration) -> Result<(), RDKafkaErrorCode> {
        // SAFETY: the client is live.
        let code: RDKafkaErrorCode = unsafe {
            sys::rd_kafka_flush(self.producer.client().native_ptr(), millis(Some(timeout)))
        }
        .into();
        if code == RDKafkaErrorCode::NoError { Ok(()) } else { Err(code) }
    }

    /// Commits the transaction, without the steps of 100 ms of the safe binding.
    ///
    /// # Errors
    /// librdkafka's words.
    pub fn commit(&self) -> Result<(), String> {
        // SAFETY: the client is live.
        let result = check(unsafe {
            sys::rd_kafka_commit_transaction(self.producer.client().native_ptr(), millis(None))
        });
        result.map_err(|failure| failure.to_string())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // SAFETY: the client is live; the reference is released once.
        unsafe { sys::rd_kafka_topic_destroy(self.topic.as_ptr()) }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Output")
    }
}
