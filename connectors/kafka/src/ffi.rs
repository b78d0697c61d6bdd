//! What the safe client crate does not offer: batches from one partition's queue, transactions
//! with their error flags, group metadata that can be looked at, asynchronous commits with an
//! answer, descriptions of topics and groups.
//!
//! The only unsafe code of the project lives in this module and the files below it. Everything it
//! exports is safe to call: pointers are owned by types that release them once, every type that
//! points into a client keeps that client alive, and nothing of librdkafka's leaves the module.
#![allow(
    unsafe_code,
    reason = "the batch, transaction and admin calls of librdkafka have no safe binding"
)]

mod admin;
mod group;
mod group_admin;
#[cfg(feature = "limit")]
pub mod limit;
#[cfg(feature = "testing")]
mod mock;
mod produce;
mod queue;

use std::ffi::CStr;
use std::os::raw::c_char;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::types::RDKafkaErrorCode;

pub(crate) use admin::{add_brokers, describe_topics, has_false_controller, read_uncommitted_ends};
pub(crate) use group::{CommitQueue, GroupMetadata};
pub(crate) use group_admin::{Pending, group_members, group_offsets, set_group_offsets};
#[cfg(feature = "testing")]
pub(crate) use mock::set_initial_rebalance_delay;
pub(crate) use produce::{
    Payload, Plain, TopicHandle, abort_transaction, begin_transaction, commit_transaction, flush,
    init_transactions, produce, produce_run, send_offsets,
};
pub(crate) use queue::{PartitionQueue, Row, RowKind, WakingQueue, cached_high_watermark};

/// A failed call with the three answers librdkafka gives about it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// What happened.
    pub(crate) code: RDKafkaErrorCode,
    /// The client is dead and must be replaced.
    pub(crate) fatal: bool,
    /// The same call may be made again.
    pub(crate) retriable: bool,
    /// The transaction must be aborted; the producer lives on.
    pub(crate) abort: bool,
    /// librdkafka's words.
    pub(crate) text: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?})", self.text, self.code)
    }
}

impl std::error::Error for Failure {}

/// Takes an error object apart and releases it; null means the call went well.
fn check(error: *mut sys::rd_kafka_error_t) -> Result<(), Failure> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: librdkafka returned the object to us, it is not null, it is read before it is
    // destroyed, and it is destroyed once.
    unsafe {
        let failure = Failure {
            code: sys::rd_kafka_error_code(error).into(),
            fatal: sys::rd_kafka_error_is_fatal(error) != 0,
            retriable: sys::rd_kafka_error_is_retriable(error) != 0,
            abort: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            text: text(sys::rd_kafka_error_string(error)),
        };
        sys::rd_kafka_error_destroy(error);
        Err(failure)
    }
}

/// Copies a C string; null becomes empty, bytes that are not UTF-8 become replacement characters.
///
/// # Safety
/// The pointer must be null or point to a terminated string that lives through the call.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: not null, and terminated by the caller's promise.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// A time-out as librdkafka takes it: `None` is what the call itself calls unlimited.
fn millis(timeout: Option<Duration>) -> i32 {
    timeout.map_or(-1, |timeout| i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX))
}
