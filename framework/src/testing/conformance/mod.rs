//! The promises of a transactional sink, as tests that the author of a sink runs on it.
//!
//! Write a [`Harness`]: a fresh store, sinks on it, and a reader of it. [`sink_conformance!`] makes
//! one test of each promise. What a store cannot do is [declared](Harness::lacks), and then asserted
//! to be so. [WRITING_A_SINK.md][page] goes through it step by step.
//!
//! ```
//! use tidegate::sink::TransactionalSink;
//! use tidegate::testing::conformance::{Ability, Harness, View, promises};
//! use tidegate::testing::{MemorySink, MemoryStore};
//!
//! struct Memory(MemoryStore<u64>);
//!
//! impl Harness for Memory {
//!     type Sink = MemorySink<u64>;
//!
//!     async fn sink(&self) -> MemorySink<u64> {
//!         self.0.sink()
//!     }
//!
//!     fn output(&self, number: u64) -> u64 {
//!         number
//!     }
//!
//!     async fn view(&self) -> View {
//!         // In one snapshot, and not through a sink.
//!         let seen = self.0.snapshot();
//!         View {
//!             outputs: seen.rows.into_iter().map(|row| row.value).collect(),
//!             dead: seen.dead.into_iter().map(|(record, _)| record.coordinates()).collect(),
//!             progress: seen.progress,
//!         }
//!     }
//!
//!     fn lacks(&self, ability: Ability) -> Option<&'static str> {
//!         match ability {
//!             Ability::Transaction => Some("a commit is one step under a lock"),
//!             Ability::Wire => Some("the store is in this process"),
//!             Ability::Rejection => Some("this sink takes everything"),
//!             _ => None,
//!         }
//!     }
//! }
//!
//! // In a test crate: tidegate::sink_conformance!(Memory(MemoryStore::new()));
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! promises::a_gap_is_refused(&Memory(MemoryStore::new())).await;
//! # });
//! ```

mod batches;
mod harness;
mod owner;
pub mod promises;

use std::future::Future;
use std::time::Duration;

pub use harness::{Ability, Guard, Harness, LeftOpen, OutputOf, Severed, View};

/// Longer than any promise takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs one promise on a runtime of its own.
///
/// # Panics
/// If the promise is broken, or does not end.
#[doc(hidden)]
pub fn run(promise: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, promise).await });
    ended.unwrap_or_else(|_| panic!("the promise was not looked at within {PATIENCE:?}"));
}

/// Hands the names of all promises to another macro, behind what it is given.
#[doc(hidden)]
#[macro_export]
macro_rules! each_promise_of_a_sink {
    ([$($then:tt)+] $($with:tt)*) => {
        $($then)+! {
            [$($with)*]
            an_empty_store_claims_nothing,
            results_and_progress_appear_together,
            a_refused_commit_leaves_nothing,
            an_empty_batch_still_moves_progress,
            a_start_is_stored_once,
            a_seek_moves_progress_under_the_compare,
            a_gap_is_refused,
            a_replay_is_refused,
            a_new_owner_fences_the_old,
            disjoint_owners_do_not_disturb_each_other,
            dead_letters_commit_with_the_batch,
            a_reader_never_sees_half,
            a_probe_leaves_nothing_behind,
            a_rejected_record_can_be_found_and_its_neighbours_commit,
            a_commit_cancelled_at_any_poll_is_all_or_nothing,
            a_commit_frozen_at_any_poll_stores_nothing_behind_its_heirs_back,
            a_severed_commit_is_told_truly_by_the_next_claim,
            an_open_transaction_is_settled_by_the_next_claim,
        }
    };
}

/// One test per promise of a transactional sink. The argument makes a
/// [`Harness`] on a fresh store, once for each test, and may `.await`.
///
/// ```text
/// mod conformance {
///     tidegate::sink_conformance!(super::Lab::new().await);
/// }
/// ```
#[macro_export]
macro_rules! sink_conformance {
    ($harness:expr) => {
        $crate::each_promise_of_a_sink!([$crate::promises_as_tests] $harness);
    };
}

/// The tests of [`sink_conformance!`].
#[doc(hidden)]
#[macro_export]
macro_rules! promises_as_tests {
    ([$harness:expr] $($promise:ident,)*) => {
        $(
            #[test]
            fn $promise() {
                $crate::testing::conformance::run(async {
                    let harness = $harness;
                    $crate::testing::conformance::promises::$promise(&harness).await;
                });
            }
        )*
    };
}
