//! The real engine over a store whose calls fail: did it happen × were we told × how late. However
//! a commit ends, every record is stored once; a lie that no sink may tell is caught by the compare.

use std::time::Duration;

use tidegate::prelude::*;
use tidegate::record::{Offset, PartitionId};
use tidegate::testing::{Call, Fault, FaultScript, Happens, MemoryBroker, MemoryStore, Told};
use tidegate::{Handle, SeekTo};

const TOPIC: &str = "in";
/// Long enough for any of these tests on a busy machine, short enough to notice a hang.
const PATIENCE: Duration = Duration::from_secs(60);
const RECORDS: usize = 12;

const HAPPENS: [Happens; 3] = [Happens::Yes, Happens::No, Happens::CancelledAtPoll(0)];
const TOLD: [Told; 4] = [Told::TheTruth, Told::Nothing, Told::Success, Told::Aborted];

fn partition() -> PartitionId {
    PartitionId::new(TOPIC, 0)
}

struct Run {
    broker: MemoryBroker,
    store: MemoryStore<String>,
    handle: Handle,
}

impl Run {
    /// A pipeline that copies one partition in several commits.
    async fn start(script: &FaultScript) -> Self {
        let (broker, store) = (MemoryBroker::new(), MemoryStore::new());
        broker.create_topic(TOPIC, 1);
        let job = Pipeline::new("copy")
            .from(broker.source(&[TOPIC]))
            .decode(Utf8)
            .map(|record| record.value.clone())
            .order(Order::ByPartition)
            .threads(1)
            .commit_interval(Duration::from_millis(1))
            .commit_records(4)
            .exactly_once(script.wrap(store.sink()));
        let handle = job.start().await.expect("it starts");
        Self { broker, store, handle }
    }

    fn feed(&self) {
        for number in 0..RECORDS {
            self.broker.produce(&partition(), None, Some(number.to_string().as_bytes()));
        }
    }

    async fn drained(&self, what: &str) {
        let patience = tokio::time::Instant::now() + PATIENCE;
        while self.store.progress(&partition()) != self.broker.end(&partition()) {
            let status = self.handle.status().await;
            assert!(tokio::time::Instant::now() < patience, "{what}: in vain: {status:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn stop(&self) {
        self.handle.stop(Duration::from_secs(10)).await.expect("it stops cleanly");
    }

    /// Every record once, in order.
    fn assert_exactly_once(&self, what: &str) {
        let values: Vec<String> = self.store.rows().into_iter().map(|row| row.value).collect();
        let wanted: Vec<String> = (0..RECORDS).map(|number| number.to_string()).collect();
        assert_eq!(values, wanted, "{what}");
    }
}

/// Runs all records through one faulty call.
async fn copied_in_spite_of(call: Call, nth: u32, fault: Fault) -> u32 {
    let what = format!("{call:?} {nth} {fault:?}");
    let script = FaultScript::new().on(call, nth, fault);
    let run = Run::start(&script).await;
    run.feed();
    run.drained(&what).await;
    run.stop().await;
    run.assert_exactly_once(&what);
    let claims = script.calls(Call::Claim);
    script.finish();
    claims
}

#[tokio::test]
async fn whatever_becomes_of_a_commit_every_record_is_stored_once() {
    for nth in 1..=2 {
        for happens in HAPPENS {
            for told in TOLD {
                copied_in_spite_of(Call::Commit, nth, Fault::new(happens, told)).await;
            }
        }
    }
}

#[tokio::test]
async fn a_commit_in_doubt_is_settled_by_a_claim_and_an_aborted_one_by_a_repetition() {
    let undisturbed = {
        let script = FaultScript::new();
        let run = Run::start(&script).await;
        run.feed();
        run.drained("no fault").await;
        run.stop().await;
        script.calls(Call::Claim)
    };
    for happens in HAPPENS {
        let fault = Fault::new(happens, Told::Nothing);
        assert_eq!(
            copied_in_spite_of(Call::Commit, 1, fault).await,
            undisturbed + 1,
            "{happens:?}"
        );
    }
    let aborted = Fault::new(Happens::No, Told::Aborted);
    assert_eq!(copied_in_spite_of(Call::Commit, 1, aborted).await, undisturbed);
}

#[tokio::test]
async fn an_answer_that_comes_late_is_waited_for() {
    let late = Duration::from_millis(300);
    for (happens, told) in [
        (Happens::Yes, Told::TheTruth),
        (Happens::Yes, Told::Nothing),
        (Happens::No, Told::Nothing),
        (Happens::No, Told::Aborted),
    ] {
        copied_in_spite_of(Call::Commit, 1, Fault::new(happens, told).after(late)).await;
    }
    copied_in_spite_of(Call::Claim, 1, Fault::new(Happens::Yes, Told::TheTruth).after(late)).await;
}

#[tokio::test]
async fn a_claim_or_a_start_without_an_answer_is_made_again() {
    for happens in HAPPENS {
        for nth in 1..=2 {
            copied_in_spite_of(Call::Claim, nth, Fault::new(happens, Told::Nothing)).await;
        }
        for told in [Told::Nothing, Told::Aborted] {
            copied_in_spite_of(Call::Reposition, 1, Fault::new(happens, told)).await;
        }
    }
}

#[tokio::test]
async fn a_release_that_does_not_happen_changes_nothing() {
    for happens in [Happens::No, Happens::CancelledAtPoll(0)] {
        copied_in_spite_of(Call::Release, 1, Fault::new(happens, Told::TheTruth)).await;
    }
}

#[tokio::test]
async fn a_seek_whose_answer_is_lost_is_settled_by_a_claim() {
    for happens in [Happens::Yes, Happens::No] {
        let fault = Fault::new(happens, Told::Nothing);
        // The first one stores the start.
        let script = FaultScript::new().on(Call::Reposition, 2, fault);
        let run = Run::start(&script).await;
        run.feed();
        run.drained("before the seek").await;
        let sought = run.handle.seek(&partition(), SeekTo::Offset(Offset::new(3))).await;
        run.drained("after the seek").await;
        run.stop().await;
        // Whatever is said of it, the results from there on are stored again or they are not.
        let again = run.store.rows().len() - RECORDS;
        let (all, none) = (RECORDS - 3, 0);
        match sought {
            Ok(_) => assert_eq!(again, all, "{happens:?}"),
            Err(error) => assert!([all, none].contains(&again), "{happens:?} {again}: {error}"),
        }
        script.finish();
    }
}

#[tokio::test]
#[should_panic(expected = "planned and not met: [(Commit, 99,")]
async fn a_fault_that_is_not_met_fails_the_test() {
    copied_in_spite_of(Call::Commit, 99, Fault::new(Happens::Yes, Told::Nothing)).await;
}

#[tokio::test]
#[should_panic(expected = "planned and not met: [(Commit, 1,")]
async fn a_call_that_ends_before_it_is_cancelled_met_no_fault() {
    let fault = Fault::new(Happens::CancelledAtPoll(50), Told::Nothing);
    copied_in_spite_of(Call::Commit, 1, fault).await;
}

#[test]
#[should_panic(expected = "planned and not met")]
fn a_script_that_is_only_dropped_says_so_too() {
    let fault = Fault::new(Happens::Yes, Told::Nothing);
    drop(FaultScript::new().on(Call::Claim, 1, fault));
}

#[test]
#[should_panic(expected = "the test's own reason")]
fn a_test_that_fails_already_keeps_its_own_reason() {
    let fault = Fault::new(Happens::Yes, Told::Nothing);
    let _script = FaultScript::new().on(Call::Claim, 1, fault);
    panic!("the test's own reason");
}
