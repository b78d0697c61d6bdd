//! Tidegate reads records from Kafka, runs your function over them on a bounded pool, and stores
//! results and progress **in one step**: one Kafka transaction, or one SQL transaction that also
//! holds the offsets.
//!
//! This crate is the framework: it knows no broker and no database. The connectors are
//! `tidegate-kafka`, `tidegate-postgres` and `tidegate-sqlite`; your own sink implements
//! [`TransactionalSink`](sink::TransactionalSink).
//!
//! # A whole pipeline
//!
//! With the memory broker and store of the feature `testing`; a program puts `kafka.source("…")`
//! and `Postgres::connect(url).into(table)` in their places and changes nothing else.
//!
//! ```
//! # #[cfg(all(feature = "testing", feature = "json"))]
//! # #[tokio::main]
//! # async fn main() -> Result<(), tidegate::Error> {
//! use std::time::Duration;
//! use tidegate::prelude::*;
//! use tidegate::record::PartitionId;
//! use tidegate::testing::{MemoryBroker, MemoryStore};
//!
//! let broker = MemoryBroker::new();
//! broker.create_topic("temperatures", 2);
//! for (partition, celsius) in [(0, "18.5"), (1, "not a number"), (0, "21.0")] {
//!     let partition = PartitionId::new("temperatures", partition);
//!     broker.produce(&partition, Some(b"lisbon"), Some(celsius.as_bytes()));
//! }
//! let store = MemoryStore::<f64>::new();
//!
//! let handle = Pipeline::new("to-fahrenheit")                 // also the consumer group
//!     .from(broker.source(&["temperatures"]))
//!     .decode(Json::<f64>::new())                             // bytes to your type, on the pool
//!     .map(|reading| reading.value * 9.0 / 5.0 + 32.0)        // your function, on the pool
//!     .order(Order::ByKey)                                    // a slow key holds back only itself
//!     .on_failure(Retry::times(3).then_dead_letter())         // nothing is lost silently
//!     .exactly_once(store.sink())                             // compiles only for such a sink
//!     .start()                                                // or `.run().await` until a signal
//!     .await?;
//!
//! # let deadline = std::time::Instant::now() + Duration::from_secs(20);
//! while store.rows().len() < 2 || store.dead_letters().is_empty() {
//! #   assert!(std::time::Instant::now() < deadline, "it takes too long");
//!     tokio::time::sleep(Duration::from_millis(5)).await;
//! }
//! println!("{}", handle.stop(Duration::from_secs(5)).await?);
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "testing", feature = "json")))]
//! # fn main() {}
//! ```
//!
//! # The flow
//!
//! ```text
//!         assigned / revoked / lost / records                         batch = spans + results + dead letters
//! Source ──────────────▶ Engine ──────▶ Lanes ──▶ Pool ──outcome──▶ Tracker ──cut──▶ Delivery ──▶ store
//!    ▲                     │            order     decode and        contiguous        claim, commit   │
//!    └─ start at, credit ──┴───────────────────── your function ─── finished prefix ◀─────────────────┘
//! ```
//!
//! Results wait in the tracker, not in an open transaction. A *cut* takes of every partition its
//! contiguous finished prefix — by delivery order; holes in the offsets are normal — with exactly
//! those records' results and dead letters. The sink stores all of it with the new offsets, or
//! nothing. A slow record delays what is stored of its own partition only; with [`Order::ByKey`]
//! everything but its own key is processed meanwhile.
//!
//! # The guarantees
//!
//! | | stored progress | before running | after running | needs |
//! |---|---|---|---|---|
//! | `exactly_once(sink)` | with the results | – | results, dead letters and offsets in one transaction | [`TransactionalSink`](sink::TransactionalSink) |
//! | `at_least_once(sink)` | in the consumer group | – | write, then commit offsets | [`Sink`](sink::Sink) |
//! | `at_most_once(sink)` | in the consumer group | commit offsets | write; a failure is counted and set aside | [`Sink`](sink::Sink) |
//!
//! What is exact is what the sink shows. **Your function may run more than once** for a record: on
//! a retry, after a crash, after a hand-over. Whatever it does besides returning results happens as
//! often as it runs.
//!
//! # Where to look
//!
//! * [`Pipeline`]: the builder; [`Job::explain`] prints what it will do.
//! * [`Handle`]: status, pause, seek, skip, stop of a running pipeline.
//! * [`Retry`]: what happens to a record that fails.
//! * [`sink`] and [`source`]: the traits that connector authors implement.
//! * `testing` (feature): a driver that runs a whole pipeline without server, clock or threads.
#![forbid(unsafe_code)]

pub mod batch;
pub mod decode;
mod delivery;
mod engine;
mod error;
mod lanes;
pub mod metrics;
#[doc(hidden)]
pub mod mutant;
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
