//! Steps that read: from raw bytes to the record that the user's functions see, or to nothing.

use std::borrow::Borrow;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use super::Step;
use crate::batch::DeadReason;
use crate::decode::Decode;
use crate::process::{Failure, error_text};
use crate::record::{RawRecord, Record};

/// Makes the record that the head's function sees. Repeated for every retry.
pub trait Read: Send + Sync + 'static {
    /// The type of the record's value.
    type Value: 'static;
    /// How the record is held while the function runs: by value, or shared.
    type Held: Borrow<Record<Self::Value>> + Into<Arc<Record<Self::Value>>>;

    /// The record, or `None` if it was filtered.
    fn read(&self, raw: &Arc<RawRecord>) -> Result<Option<Self::Held>, Failure>;
}

/// The record as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Undecoded;

impl Read for Undecoded {
    type Value = Option<Bytes>;
    type Held = Arc<RawRecord>;

    fn read(&self, raw: &Arc<RawRecord>) -> Result<Option<Self::Held>, Failure> {
        Ok(Some(Arc::clone(raw)))
    }
}

/// Kind of step: the value decoded into `V`.
#[derive(Debug)]
pub struct Decoded<V>(PhantomData<fn() -> V>);

impl<R, D, V> Read for Step<Decoded<V>, R, D>
where
    R: Read<Value = Option<Bytes>>,
    D: Decode<V>,
    V: 'static,
{
    type Value = V;
    type Held = Record<V>;

    fn read(&self, raw: &Arc<RawRecord>) -> Result<Option<Self::Held>, Failure> {
        let Some(held) = self.before.read(raw)? else {
            return Ok(None);
        };
        let record: &RawRecord = held.borrow();
        match self.function.decode(record) {
            Ok(value) => Ok(Some(record.with_value(value))),
            Err(error) => Err(Failure {
                reason: DeadReason::Decode,
                error: error_text(&*error),
                retriable: false,
            }),
        }
    }
}

/// Kind of step: only some records.
#[derive(Debug)]
pub struct FilterRecords;

impl<R, F> Read for Step<FilterRecords, R, F>
where
    R: Read,
    F: Fn(&Record<R::Value>) -> bool + Send + Sync + 'static,
{
    type Value = R::Value;
    type Held = R::Held;

    fn read(&self, raw: &Arc<RawRecord>) -> Result<Option<Self::Held>, Failure> {
        let held = self.before.read(raw)?;
        Ok(held.filter(|held| (self.function)(held.borrow())))
    }
}
