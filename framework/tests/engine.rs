//! The real engine over the broker and the store in memory: real threads, real time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::prelude::*;
use tidegate::record::{Offset, PartitionId};
use tidegate::testing::{MemoryBroker, MemoryStore};
use tidegate::{Handle, Job, SeekTo};

const TOPIC: &str = "in";
/// Long enough for any of these tests on a busy machine, short enough to notice a hang.
const PATIENCE: Duration = Duration::from_secs(30);

fn partition(index: i32) -> PartitionId {
    PartitionId::new(TOPIC, index)
}

/// A broker whose topic holds `per_partition` numbered records in each of `partitions`, with a
/// hole after every tenth.
fn filled(partitions: i32, per_partition: i32) -> MemoryBroker {
    let broker = MemoryBroker::new();
    broker.create_topic(TOPIC, partitions);
    for index in 0..partitions {
        for number in 0..per_partition {
            let key = format!("k{}", number % 7);
            let value = format!("{index}:{number}");
            broker.produce(&partition(index), Some(key.as_bytes()), Some(value.as_bytes()));
            if number % 10 == 9 {
                broker.leave_hole(&partition(index), 2);
            }
        }
    }
    broker
}

fn copy(broker: &MemoryBroker, store: &MemoryStore<String>, order: Order) -> Job<String> {
    Pipeline::new("copy")
        .from(broker.source(&[TOPIC]))
        .decode(Utf8)
        .map(|record| record.value.clone())
        .order(order)
        .threads(3)
        .commit_interval(Duration::from_millis(5))
        .exactly_once(store.sink())
}

async fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let patience = tokio::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(tokio::time::Instant::now() < patience, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn drained(broker: &MemoryBroker, store: &MemoryStore<String>, partitions: i32) {
    wait_for("the topic to be drained", || {
        (0..partitions)
            .all(|index| store.progress(&partition(index)) == broker.end(&partition(index)))
    })
    .await;
}

async fn stop(handle: &Handle) {
    handle.stop(Duration::from_secs(10)).await.expect("it stops cleanly");
}

/// Every record once, results of a key in offset order; answers how many rows were compared.
fn assert_exactly_once(
    broker: &MemoryBroker,
    store: &MemoryStore<String>,
    partitions: i32,
) -> usize {
    let rows = store.rows();
    let mut seen = BTreeMap::new();
    let mut last: BTreeMap<(PartitionId, i32), i32> = BTreeMap::new();
    for row in &rows {
        let number: i32 =
            row.value.split(':').nth(1).expect("index:number").parse().expect("number");
        *seen.entry((row.source.clone(), row.index)).or_insert(0) += 1;
        let before = last.insert((row.source.partition.clone(), number % 7), number);
        assert!(before.is_none_or(|before| before < number), "order of a key: {row:?}");
    }
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "stored more than once: {twice:?}");
    for index in 0..partitions {
        let end = broker.end(&partition(index)).expect("it exists");
        assert_eq!(store.progress(&partition(index)), Some(end), "progress of {index}");
    }
    rows.len()
}

#[tokio::test]
async fn every_record_is_stored_once_in_every_order() {
    for order in [Order::ByPartition, Order::ByKey, Order::Unordered] {
        let (broker, store) = (filled(4, 500), MemoryStore::new());
        let handle = copy(&broker, &store, order).start().await.expect("it starts");
        drained(&broker, &store, 4).await;
        stop(&handle).await;
        assert_eq!(assert_exactly_once(&broker, &store, 4), 2000, "{order:?}");
    }
}

#[tokio::test]
async fn members_that_come_and_go_store_every_record_once() {
    let (broker, store) = (filled(6, 2000), MemoryStore::new());
    let slow = |broker: &MemoryBroker| {
        Pipeline::new("copy")
            .from(broker.source(&[TOPIC]))
            .decode(Utf8)
            .map(|record| {
                std::thread::sleep(Duration::from_micros(50));
                record.value.clone()
            })
            .order(Order::ByKey)
            .threads(2)
            .commit_interval(Duration::from_millis(3))
            .exactly_once(store.sink())
    };
    let first = slow(&broker).start().await.expect("it starts");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let second = slow(&broker).start().await.expect("it joins");
    tokio::time::sleep(Duration::from_millis(80)).await;
    let third = slow(&broker).start().await.expect("it joins");
    stop(&first).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    stop(&third).await;
    drained(&broker, &store, 6).await;
    stop(&second).await;
    assert_eq!(assert_exactly_once(&broker, &store, 6), 12_000);
}

#[tokio::test]
async fn a_failed_record_is_tried_again_before_its_successors_and_then_set_aside() {
    let (broker, store) = (filled(1, 20), MemoryStore::new());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let job = Pipeline::new("copy")
        .from(broker.source(&[TOPIC]))
        .decode(Utf8)
        .try_map(move |record| {
            seen.lock().expect("no panic inside").push(record.value.clone());
            if record.value == "0:5" { Err("never works") } else { Ok(record.value.clone()) }
        })
        .on_failure(
            Retry::times(2)
                .backoff(Duration::from_millis(5), Duration::from_millis(10))
                .then_dead_letter(),
        )
        .exactly_once(store.sink());
    let handle = job.start().await.expect("it starts");
    drained(&broker, &store, 1).await;
    stop(&handle).await;
    let calls = calls.lock().expect("no panic inside").clone();
    let first = calls.iter().position(|value| value == "0:5").expect("it was called");
    assert_eq!(&calls[first..first + 4], ["0:5", "0:5", "0:5", "0:6"]);
    assert_eq!(store.rows().len(), 19);
    let dead = store.dead_letters();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].0.value.as_deref(), Some(&b"0:5"[..]));
    assert!(dead[0].1.error.contains("never works"), "{:?}", dead[0].1);
}

#[tokio::test]
async fn a_record_that_the_sink_refuses_is_found_and_its_neighbours_are_stored() {
    let (broker, store) = (filled(2, 100), MemoryStore::new());
    let sink = store.sink().refusing(|value: &String| {
        (value == "1:42" || value == "0:7").then(|| "violates a constraint".to_owned())
    });
    let job = Pipeline::new("copy")
        .from(broker.source(&[TOPIC]))
        .decode(Utf8)
        .map(|record| record.value.clone())
        .on_failure(Retry::times(1).then_dead_letter())
        .exactly_once(sink);
    let handle = job.start().await.expect("it starts");
    drained(&broker, &store, 2).await;
    stop(&handle).await;
    assert_eq!(store.rows().len(), 198);
    let mut dead: Vec<_> = store
        .dead_letters()
        .into_iter()
        .map(|(record, letter)| (record.value.expect("not a tombstone"), letter.reason.as_str()))
        .collect();
    dead.sort();
    assert_eq!(dead, [("0:7".into(), "rejected"), ("1:42".into(), "rejected")]);
}

#[tokio::test]
async fn a_policy_of_stop_ends_with_the_record_named_and_progress_before_it() {
    let (broker, store) = (filled(1, 30), MemoryStore::new());
    let job = Pipeline::new("copy")
        .from(broker.source(&[TOPIC]))
        .decode(Utf8)
        .try_map(|record| if record.value == "0:4" { Err("bad") } else { Ok(record.value.clone()) })
        .on_failure(Retry::never().then_stop())
        .exactly_once(store.sink());
    let handle = job.start().await.expect("it starts");
    let error = handle.join().await.expect_err("the record stops it");
    assert!(error.is_record(), "{error}");
    assert!(error.to_string().contains("in/0/4"), "{error}");
    assert_eq!(store.progress(&partition(0)), Some(Offset::new(4)));
    assert_eq!(store.rows().len(), 4);
}

#[tokio::test]
async fn a_policy_of_stop_at_a_refused_record_stores_only_what_is_before_it() {
    let (broker, store) = (filled(1, 30), MemoryStore::new());
    let sink = store.sink().refusing(|value: &String| (value == "0:4").then(|| "bad".to_owned()));
    let job = Pipeline::new("copy")
        .from(broker.source(&[TOPIC]))
        .decode(Utf8)
        .map(|record| record.value.clone())
        .on_failure(Retry::never().then_stop())
        .exactly_once(sink);
    let handle = job.start().await.expect("it starts");
    let error = handle.join().await.expect_err("the record stops it");
    assert!(error.is_record() && error.to_string().contains("in/0/4"), "{error}");
    assert_eq!(store.progress(&partition(0)), Some(Offset::new(4)));
    assert_eq!(store.rows().len(), 4);
}

#[tokio::test]
async fn a_hung_record_shows_in_the_status_and_can_be_skipped() {
    let (broker, store) = (filled(1, 10), MemoryStore::new());
    let hang = Arc::new(AtomicU32::new(1));
    let hung = Arc::clone(&hang);
    let job = Pipeline::new("copy")
        .from(broker.source(&[TOPIC]))
        .decode(Utf8)
        .map(move |record| {
            while record.value == "0:3" && hung.load(Ordering::Relaxed) == 1 {
                std::thread::sleep(Duration::from_millis(5));
            }
            record.value.clone()
        })
        .threads(1)
        .exactly_once(store.sink());
    let handle = job.start().await.expect("it starts");
    wait_for("the records before it", || store.rows().len() == 3).await;
    let status = handle.status().await.expect("it runs");
    let holder = status.partitions[0].holder.clone().expect("something is in flight");
    assert_eq!(holder.record.offset, Offset::new(3));
    assert!(holder.worker.is_some(), "{holder:?}");
    handle.skip(&partition(0), Offset::new(3)).await.expect("it is in flight");
    drained(&broker, &store, 1).await;
    hang.store(0, Ordering::Relaxed);
    stop(&handle).await;
    let values: Vec<_> = store.rows().into_iter().map(|row| row.value).collect();
    assert!(!values.contains(&"0:3".to_owned()), "{values:?}");
    assert_eq!(values.len(), 9);
}

#[tokio::test]
async fn a_seek_is_stored_and_reads_again_from_there() {
    let (broker, store) = (filled(1, 50), MemoryStore::new());
    let handle = copy(&broker, &store, Order::ByPartition).start().await.expect("it starts");
    drained(&broker, &store, 1).await;
    handle.seek(&partition(0), SeekTo::Offset(Offset::new(5))).await.expect("it is in the log");
    assert_eq!(store.resets(&partition(0)), 1);
    drained(&broker, &store, 1).await;
    let error = handle.seek(&partition(0), SeekTo::Offset(Offset::new(5000))).await;
    assert!(error.expect_err("above the end").to_string().contains("outside the log"));
    stop(&handle).await;
    assert_eq!(store.rows().len(), 50 + 45);
}

#[tokio::test]
async fn a_paused_partition_stays_while_the_others_go_on() {
    let (broker, store) = (filled(2, 0), MemoryStore::new());
    let handle = copy(&broker, &store, Order::ByPartition).start().await.expect("it starts");
    wait_for("the assignment", || store.progress(&partition(1)).is_some()).await;
    handle.pause_partition(&partition(0)).await.expect("it is assigned");
    for index in 0..2 {
        broker.produce(&partition(index), None, Some(format!("{index}:0").as_bytes()));
    }
    wait_for("the partition that is not paused", || store.rows().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(store.rows().len(), 1);
    handle.resume_partition(&partition(0)).await.expect("it is assigned");
    drained(&broker, &store, 2).await;
    stop(&handle).await;
    assert_eq!(store.rows().len(), 2);
}

#[tokio::test]
async fn a_drain_ends_within_its_deadline_although_a_function_hangs() {
    let (broker, store) = (filled(1, 10), MemoryStore::<String>::new());
    let job = Pipeline::new("copy")
        .from(broker.source(&[TOPIC]))
        .decode(Utf8)
        .map(|record| {
            if record.value == "0:2" {
                std::thread::sleep(Duration::from_secs(20));
            }
            record.value.clone()
        })
        .exactly_once(store.sink());
    let handle = job.start().await.expect("it starts");
    wait_for("the records before it", || store.rows().len() == 2).await;
    let began = std::time::Instant::now();
    let error = handle.stop(Duration::from_millis(300)).await.expect_err("a record still runs");
    assert!(error.is_deadline(), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(store.progress(&partition(0)), Some(Offset::new(2)));
}
