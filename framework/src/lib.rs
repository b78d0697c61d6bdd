//! Stream processing from Kafka with transactional exactly-once sinks.
#![forbid(unsafe_code)]

pub mod batch;
pub mod decode;
mod delivery;
mod engine;
mod error;
mod lanes;
pub mod metrics;
pub mod pipeline;
mod policy;
mod pool;
mod process;
pub mod record;
mod settings;
pub mod sink;
pub mod source;
mod source_erased;
#[cfg(feature = "testing")]
pub mod testing;
mod tracker;

pub use delivery::{CommitHook, GroupCommits, Guarantee};
pub use engine::observe::{EngineEvent, Observer};
pub use engine::{
    Handle, Holder, PartitionState, PartitionStatus, SeekTo, State, Status, Summary, Totals,
};
pub use error::{BoxError, Cause, Error};
pub use pipeline::{Context, Emitter, Explanation, Job, Pipeline};
pub use policy::{FailurePolicy, Retry};
pub use settings::Order;

/// What most programs import.
pub mod prelude {
    #[cfg(feature = "json")]
    pub use crate::decode::Json;
    pub use crate::decode::{Decode, Raw, Utf8};
    pub use crate::record::Record;
    pub use crate::{
        Context, Emitter, FailurePolicy, GroupCommits, Guarantee, Job, Order, Pipeline, Retry,
    };
}
