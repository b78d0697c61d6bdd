//! Proof that the conformance kit can fail: sinks with one planted defect each, and the promise that
//! finds it. A promise that no defect breaks would be a promise about nothing.

mod sink;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

use self::sink::BrokenSink;
use self::store::Store;
use super::conformance::{Ability, Guard, Harness, LeftOpen, Severed, View, promises};

/// A result that the store refuses.
const REFUSED: u64 = u64::MAX;

/// What can be wrong with a sink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Defect {
    StartsAnEmptyStoreAtZero,
    StoresProgressOfOnePartition,
    KeepsWhatItWroteBeforeARefusal,
    SkipsEmptyBatches,
    StoresEveryStart,
    SeeksWithoutCompare,
    AcceptsGaps,
    AcceptsReplays,
    HasNoFence,
    ClaimsEverything,
    WritesDeadLettersFirst,
    LosesDeadLetters,
    ShowsResultsBeforeProgress,
    LeavesAProbe,
    ProbesNothing,
    BlamesTheFirstRecord,
    FlushesItsBufferWhenDropped,
    ComparesTooEarly,
    TakesDoubtForFailure,
    TakesDoubtForSuccess,
    ResumesWhereItThinks,
    CommitsAnOpenTransaction,
    FlushesAnOpenTransaction,
}

/// Each defect, and the promises that it breaks: those and no others.
const TABLE: &[(Defect, &[&str])] = &[
    (
        Defect::StartsAnEmptyStoreAtZero,
        &["an_empty_store_claims_nothing", "a_start_is_stored_once"],
    ),
    // What stays torn is torn for every reader too.
    (
        Defect::StoresProgressOfOnePartition,
        &["results_and_progress_appear_together", "a_reader_never_sees_half"],
    ),
    (Defect::KeepsWhatItWroteBeforeARefusal, &["a_refused_commit_leaves_nothing"]),
    (Defect::SkipsEmptyBatches, &["an_empty_batch_still_moves_progress"]),
    (Defect::StoresEveryStart, &["a_start_is_stored_once"]),
    (Defect::SeeksWithoutCompare, &["a_seek_moves_progress_under_the_compare"]),
    (Defect::AcceptsGaps, &["a_gap_is_refused"]),
    (Defect::AcceptsReplays, &["a_replay_is_refused"]),
    // Whoever goes on after a pause is an old owner too.
    (
        Defect::HasNoFence,
        &[
            "a_new_owner_fences_the_old",
            "a_commit_frozen_at_any_poll_stores_nothing_behind_its_heirs_back",
        ],
    ),
    (Defect::ClaimsEverything, &["disjoint_owners_do_not_disturb_each_other"]),
    (Defect::WritesDeadLettersFirst, &["dead_letters_commit_with_the_batch"]),
    (Defect::LosesDeadLetters, &["dead_letters_commit_with_the_batch"]),
    (Defect::ShowsResultsBeforeProgress, &["a_reader_never_sees_half"]),
    (Defect::LeavesAProbe, &["a_probe_leaves_nothing_behind"]),
    (Defect::ProbesNothing, &["a_rejected_record_can_be_found_and_its_neighbours_commit"]),
    (Defect::BlamesTheFirstRecord, &["a_rejected_record_can_be_found_and_its_neighbours_commit"]),
    (Defect::FlushesItsBufferWhenDropped, &["a_commit_cancelled_at_any_poll_is_all_or_nothing"]),
    (
        Defect::ComparesTooEarly,
        &["a_commit_frozen_at_any_poll_stores_nothing_behind_its_heirs_back"],
    ),
    (Defect::TakesDoubtForFailure, &["a_severed_commit_is_told_truly_by_the_next_claim"]),
    (Defect::TakesDoubtForSuccess, &["a_severed_commit_is_told_truly_by_the_next_claim"]),
    (Defect::ResumesWhereItThinks, &["a_severed_commit_is_told_truly_by_the_next_claim"]),
    (Defect::CommitsAnOpenTransaction, &["an_open_transaction_is_settled_by_the_next_claim"]),
    (Defect::FlushesAnOpenTransaction, &["an_open_transaction_is_settled_by_the_next_claim"]),
];

/// A store whose sinks have this defect, or none. Its reader has none.
struct Broken {
    store: Store,
    defect: Option<Defect>,
    /// What it declares that it lacks, truly or not.
    declares: Option<Ability>,
}

impl Broken {
    fn with(defect: Option<Defect>) -> Self {
        Self { store: Store::default(), defect, declares: None }
    }
}

impl Harness for Broken {
    type Sink = BrokenSink;

    async fn sink(&self) -> BrokenSink {
        BrokenSink::new(&self.store, self.defect)
    }

    fn output(&self, number: u64) -> u64 {
        number
    }

    async fn view(&self) -> View {
        let state = self.store.lock();
        let progress = state.progress.iter().map(|(id, stored)| (id.clone(), stored.next));
        View {
            outputs: state.outputs.clone(),
            dead: state.dead.clone(),
            progress: progress.collect::<BTreeMap<_, _>>(),
        }
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        (self.declares == Some(ability)).then_some("so it says")
    }

    fn refused_output(&self) -> u64 {
        REFUSED
    }

    async fn sever(&self, at: Severed) {
        self.store.lock().sever = Some(at);
    }

    fn was_severed(&self) -> bool {
        self.store.lock().sever.is_none()
    }

    async fn leave_open(&self, left: LeftOpen<u64>) -> Guard {
        self.store.lock().open.push((left.partition, left.next, left.output));
        Box::new(())
    }
}

/// The promises that this harness breaks.
async fn broken_by(make: impl Fn() -> Broken) -> BTreeSet<&'static str> {
    let mut broken = BTreeSet::new();
    macro_rules! try_each {
        ([] $($promise:ident,)*) => {
            $(
                let harness = make();
                let promise = AssertUnwindSafe(promises::$promise(&harness));
                if promise.catch_unwind().await.is_err() {
                    broken.insert(stringify!($promise));
                }
            )*
        };
    }
    crate::each_promise_of_a_sink!([try_each]);
    broken
}

fn names_of_all() -> BTreeSet<&'static str> {
    macro_rules! names {
        ([] $($promise:ident,)*) => { [$(stringify!($promise)),*].into() };
    }
    crate::each_promise_of_a_sink!([names])
}

#[tokio::test]
async fn the_whole_sink_breaks_no_promise() {
    assert_eq!(broken_by(|| Broken::with(None)).await, BTreeSet::new());
}

#[tokio::test]
async fn each_defect_breaks_its_own_promise_and_no_other() {
    let mut wrong = Vec::new();
    for (defect, promises) in TABLE {
        let broken = broken_by(|| Broken::with(Some(*defect))).await;
        if broken != promises.iter().copied().collect() {
            wrong.push((defect, broken));
        }
    }
    assert!(wrong.is_empty(), "these break other promises than the table says: {wrong:#?}");
}

#[test]
fn every_promise_has_a_defect_that_breaks_it() {
    let broken: BTreeSet<&str> =
        TABLE.iter().flat_map(|(_, promises)| *promises).copied().collect();
    assert_eq!(broken, names_of_all());
}

#[tokio::test]
async fn an_ability_that_is_there_although_it_is_declared_lacking_is_found() {
    for (ability, promises) in [
        (Ability::Compare, &["a_gap_is_refused", "a_replay_is_refused"][..]),
        (
            Ability::Owners,
            &[
                "a_commit_frozen_at_any_poll_stores_nothing_behind_its_heirs_back",
                "a_new_owner_fences_the_old",
                "disjoint_owners_do_not_disturb_each_other",
            ],
        ),
        (
            Ability::Succession,
            &["a_commit_frozen_at_any_poll_stores_nothing_behind_its_heirs_back"],
        ),
        (
            Ability::Transaction,
            &[
                "a_commit_frozen_at_any_poll_stores_nothing_behind_its_heirs_back",
                "an_open_transaction_is_settled_by_the_next_claim",
            ],
        ),
        (Ability::DeadLetters, &["dead_letters_commit_with_the_batch"]),
    ] {
        let broken = broken_by(|| Broken { declares: Some(ability), ..Broken::with(None) }).await;
        assert_eq!(broken, promises.iter().copied().collect(), "{ability:?}");
    }
}
