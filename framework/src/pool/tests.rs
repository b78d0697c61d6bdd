//! The rules of the pool, for all three kinds where they hold for all.

use std::collections::HashMap;
use std::panic::panic_any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::batch::Outputs;
use crate::engine::work::{Gate, Ticket};
use crate::record::{Epoch, Headers, Offset, PartitionId, RawRecord};

type Function = dyn Fn(&RawRecord, u32) -> Attempt<i64> + Send + Sync;

fn record(offset: i64) -> Arc<RawRecord> {
    Arc::new(RawRecord {
        partition: PartitionId::new("t", 0),
        offset: Offset::new(offset),
        timestamp: None,
        key: None,
        value: None,
        headers: Headers::default(),
    })
}

fn lane(lane: u32) -> LaneKey {
    LaneKey { slot: 0, epoch: Epoch::new(1), lane }
}

/// A job of this lane; sequence numbers and offsets are the same.
fn job(at: u32, seqs: impl IntoIterator<Item = u64>) -> Job {
    gated(at, seqs, &Arc::default())
}

fn gated(at: u32, seqs: impl IntoIterator<Item = u64>, gate: &Arc<Gate>) -> Job {
    let tickets = seqs.into_iter().map(|seq| Ticket {
        seq,
        attempt: 1,
        record: record(i64::try_from(seq).expect("small")),
    });
    Job { key: lane(at), gate: Arc::clone(gate), tickets: tickets.collect() }
}

fn done(value: i64) -> Attempt<i64> {
    Attempt::Done(Some(Outputs::One(value)))
}

fn failed() -> Attempt<i64> {
    Attempt::Failed(Failure { reason: DeadReason::Process, error: "no".into(), retriable: true })
}

fn sync(function: Arc<Function>) -> Process<i64> {
    Process::Sync(Arc::new(move |record, attempt| function(record, attempt)))
}

struct Tested {
    kind: &'static str,
    pool: Pool<i64>,
    wake: Arc<Notify>,
}

/// A job is never cut short.
const NO_TURN: Duration = Duration::MAX;

impl Tested {
    fn threads(threads: usize, function: Arc<Function>) -> Self {
        Self::taking_turns(threads, NO_TURN, function)
    }

    fn taking_turns(threads: usize, turn: Duration, function: Arc<Function>) -> Self {
        let wake = Arc::new(Notify::new());
        let pool = Pool::start(threads, sync(function), turn, Arc::clone(&wake));
        let pool = pool.expect("threads start");
        Self { kind: "threads", pool, wake }
    }

    fn tasks(function: Arc<Function>) -> Self {
        let wake = Arc::new(Notify::new());
        let process = Process::Async(Arc::new(move |record, attempt| {
            let function = Arc::clone(&function);
            Box::pin(async move { function(&record, attempt) })
        }));
        let pool = Pool::start(1, process, NO_TURN, Arc::clone(&wake)).expect("no thread to start");
        Self { kind: "tasks", pool, wake }
    }

    fn inline(seed: u64, function: Arc<Function>) -> Self {
        let wake = Arc::new(Notify::new());
        Self { kind: "inline", pool: Pool::inline(sync(function), seed, Arc::clone(&wake)), wake }
    }

    /// All three kinds with this function.
    fn every(
        function: impl Fn(&RawRecord, u32) -> Attempt<i64> + Send + Sync + 'static,
    ) -> [Self; 3] {
        let function: Arc<Function> = Arc::new(function);
        [
            Self::threads(2, Arc::clone(&function)),
            Self::tasks(Arc::clone(&function)),
            Self::inline(7, function),
        ]
    }

    /// Drains when woken until so many completions came, as the engine does.
    async fn finish(&mut self, count: usize) -> Vec<Completion<i64>> {
        let mut finished = Vec::new();
        loop {
            self.pool.drain(&mut finished);
            if finished.len() >= count {
                assert_eq!(finished.len(), count, "{}", self.kind);
                return finished;
            }
            let woken = timeout(Duration::from_secs(20), self.wake.notified()).await;
            woken.unwrap_or_else(|_| panic!("{}: nobody wakes the engine", self.kind));
        }
    }

    async fn until_running(&self, count: usize) -> Vec<Running> {
        loop {
            let running = self.pool.running();
            if running.len() == count {
                return running;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Sequence numbers with what was said: results as they are, failures as -1, not started as -2.
fn said(finished: &[Completion<i64>]) -> Vec<(u64, i64)> {
    let value = |said: &Said<i64>| match said {
        Said::Attempt(Attempt::Done(Some(outputs))) => outputs.as_slice()[0],
        Said::Attempt(Attempt::Done(None)) => 0,
        Said::Attempt(Attempt::Failed(_)) => -1,
        Said::NotStarted => -2,
    };
    finished.iter().map(|c| (c.seq, value(&c.said))).collect()
}

/// Holds calls up until it is opened.
#[derive(Default)]
struct Barrier(Mutex<bool>, Condvar);

impl Barrier {
    fn pass(&self) {
        let mut open = self.0.lock().expect("no panic while it is held");
        while !*open {
            open = self.1.wait(open).expect("no panic while it is held");
        }
    }

    fn open(&self) {
        *self.0.lock().expect("no panic while it is held") = true;
        self.1.notify_all();
    }
}

/// A function that answers the offset and is held up at one offset until the barrier opens.
fn held_at(offset: i64) -> (Arc<Barrier>, Arc<Function>) {
    let barrier = Arc::new(Barrier::default());
    let inside = Arc::clone(&barrier);
    let function = move |record: &RawRecord, _: u32| {
        if record.offset.get() == offset {
            inside.pass();
        }
        done(record.offset.get())
    };
    (barrier, Arc::new(function))
}

#[tokio::test]
async fn every_record_of_every_job_is_reported_once_and_in_the_order_of_its_job() {
    for mut tested in Tested::every(|record, _| done(record.offset.get())) {
        let jobs = (0..50).map(|at| job(at, u64::from(at) * 10..u64::from(at) * 10 + 10));
        tested.pool.submit(jobs.collect());
        let mut by_lane: HashMap<u32, Vec<u64>> = HashMap::new();
        for completion in tested.finish(500).await {
            let lane = by_lane.entry(completion.key.lane).or_default();
            lane.push(completion.seq);
        }
        for (at, seqs) in by_lane {
            let first = u64::from(at) * 10;
            let expected: Vec<u64> = (first..first + 10).collect();
            assert_eq!(seqs, expected, "{}", tested.kind);
        }
    }
}

#[tokio::test]
async fn a_failure_ends_the_run_and_the_rest_comes_back_with_it() {
    for mut tested in Tested::every(|record, _| match record.offset.get() {
        2 => failed(),
        offset => done(offset),
    }) {
        tested.pool.submit(vec![job(0, 1..=5)]);
        let finished = tested.finish(3).await;
        assert_eq!(said(&finished), [(1, 1), (2, -1), (3, -2)], "{}", tested.kind);
        assert!(tested.pool.running().is_empty());
    }
}

#[tokio::test]
async fn a_run_that_had_its_turn_hands_back_what_it_has_not_started() {
    let function = |record: &RawRecord, _| done(record.offset.get());
    let mut tested = Tested::taking_turns(1, Duration::ZERO, Arc::new(function));
    tested.pool.submit(vec![job(0, 1..=3)]);
    let finished = tested.finish(2).await;
    assert_eq!(said(&finished), [(1, 1), (2, -2)], "the first record of a job always runs");
    assert!(tested.pool.running().is_empty());
}

#[tokio::test]
async fn a_failure_of_the_last_record_leaves_nothing_to_come_back() {
    for mut tested in Tested::every(|_, _| failed()) {
        tested.pool.submit(vec![job(0, [1]), job(1, [2])]);
        let mut finished = said(&tested.finish(2).await);
        finished.sort_unstable();
        assert_eq!(finished, [(1, -1), (2, -1)], "{}", tested.kind);
    }
}

#[tokio::test]
async fn a_closed_gate_stops_a_job_between_two_records() {
    for kind in 0..3 {
        let gate = Arc::new(Gate::default());
        let closer = Arc::clone(&gate);
        let pools = Tested::every(move |record, _| {
            if record.offset.get() == 2 {
                closer.close();
            }
            done(record.offset.get())
        });
        let mut tested = pools.into_iter().nth(kind).expect("there are three");
        tested.pool.submit(vec![gated(0, 1..=4, &gate)]);
        let finished = tested.finish(3).await;
        assert_eq!(said(&finished), [(1, 1), (2, 2), (3, -2)], "{}", tested.kind);
        tested.pool.submit(vec![gated(0, 3..=4, &gate)]);
        let finished = tested.finish(1).await;
        assert_eq!(said(&finished), [(3, -2)], "{}", tested.kind);
        assert!(tested.pool.running().is_empty());
    }
}

#[tokio::test]
async fn a_panic_is_a_failure_with_its_message_and_the_worker_lives_on() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in the drop of a panic");
        }
    }
    for mut tested in Tested::every(|record, _| match record.offset.get() {
        1 => panic!("plain"),
        2 => panic!("with number {}", 2),
        3 => panic_any(Bomb),
        offset => done(offset),
    }) {
        tested.pool.submit((1..=40).map(|seq| job(seq, [u64::from(seq)])).collect());
        let finished = tested.finish(40).await;
        let mut texts: Vec<String> = Vec::new();
        for completion in finished {
            if let Said::Attempt(Attempt::Failed(failure)) = completion.said {
                assert_eq!(failure.reason, DeadReason::Panic);
                assert!(failure.retriable);
                texts.push(failure.error);
            }
        }
        texts.sort_unstable();
        let expected = [
            "panicked: plain",
            "panicked: with a value that is no text",
            "panicked: with number 2",
        ];
        assert_eq!(texts, expected, "{}", tested.kind);
    }
}

#[tokio::test]
async fn a_finished_record_is_visible_although_the_next_of_its_job_takes_long() {
    let (barrier, function) = held_at(2);
    let mut tested = Tested::threads(1, function);
    tested.pool.submit(vec![job(0, 1..=3)]);
    assert_eq!(said(&tested.finish(1).await), [(1, 1)]);
    let running = tested.until_running(1).await;
    assert_eq!((running[0].key, running[0].seq), (lane(0), 2));
    barrier.open();
    assert_eq!(said(&tested.finish(2).await), [(2, 2), (3, 3)]);
    assert!(tested.pool.running().is_empty());
}

#[tokio::test]
async fn the_age_of_a_running_record_is_counted_from_its_own_start() {
    let (barrier, function) = held_at(2);
    let mut tested = Tested::threads(1, function);
    tested.pool.submit(vec![job(0, 1..=2)]);
    tested.finish(1).await;
    let finished_first = Instant::now();
    let running = tested.until_running(1).await;
    assert!(running[0].since.elapsed() <= finished_first.elapsed() + Duration::from_secs(1));
    let before = running[0].since;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let running = tested.pool.running();
    assert_eq!(running[0].since, before, "looking changes nothing");
    assert!(running[0].since.elapsed() >= Duration::from_millis(20));
    barrier.open();
}

#[tokio::test]
async fn a_skipped_hung_record_costs_no_worker_and_its_late_answer_is_dropped() {
    let (barrier, function) = held_at(2);
    let mut tested = Tested::threads(1, function);
    tested.pool.submit(vec![job(0, 1..=4)]);
    tested.finish(1).await;
    tested.until_running(1).await;
    assert_eq!(tested.pool.replace(lane(0), 2), Replaced::Yes);
    assert!(tested.pool.running().is_empty(), "it is written off");
    // The lane goes on behind the skipped record, on the new worker.
    tested.pool.submit(vec![job(0, 3..=4), job(1, [9])]);
    assert_eq!(said(&tested.finish(3).await), [(3, 3), (4, 4), (9, 9)]);
    barrier.open();
    tested.pool.submit(vec![job(0, 5..=100)]);
    let finished = said(&tested.finish(96).await);
    let expected: Vec<(u64, i64)> = (5..=100_u8).map(|n| (n.into(), n.into())).collect();
    assert_eq!(finished, expected, "neither 2 nor what was behind it");
}

#[tokio::test]
async fn a_job_that_no_worker_has_begun_is_taken_back_whole() {
    let (barrier, function) = held_at(1);
    let mut tested = Tested::threads(1, function);
    tested.pool.submit(vec![job(0, [1])]);
    tested.until_running(1).await;
    tested.pool.submit(vec![job(1, 5..=7), job(2, [8])]);
    assert_eq!(tested.pool.replace(lane(1), 6), Replaced::Yes);
    assert_eq!(tested.pool.replace(lane(1), 6), Replaced::NotOut);
    barrier.open();
    assert_eq!(said(&tested.finish(2).await), [(1, 1), (8, 8)]);
}

#[tokio::test]
async fn what_an_abandoned_job_had_finished_behind_the_record_is_forgotten() {
    let (barrier, function) = held_at(3);
    let mut tested = Tested::threads(1, function);
    tested.pool.submit(vec![job(0, 1..=4)]);
    while tested.pool.running().first().is_none_or(|running| running.seq != 3) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(tested.pool.replace(lane(0), 2), Replaced::Yes);
    assert_eq!(said(&tested.finish(1).await), [(1, 1)]);
    barrier.open();
}

#[tokio::test]
async fn jobs_abandoned_at_any_moment_report_nothing_more_and_all_others_report_everything() {
    const JOBS: u32 = 20_000;
    let function: Arc<Function> = Arc::new(|record, _| done(record.offset.get()));
    let mut tested = Tested::threads(2, function);
    let mut random = fastrand::Rng::with_seed(11);
    let mut abandoned: HashMap<u32, u64> = HashMap::new();
    let mut reported: HashMap<u32, Vec<u64>> = HashMap::new();
    let mut finished = Vec::new();
    for at in 0..JOBS {
        tested.pool.submit(vec![job(at, 0..4)]);
        if random.u8(..) < 128 {
            let victim = at - random.u32(..=at.min(3));
            let seq = random.u64(..4);
            if !abandoned.contains_key(&victim)
                && tested.pool.replace(lane(victim), seq) != Replaced::NotOut
            {
                abandoned.insert(victim, seq);
            }
        }
        tested.pool.drain(&mut finished);
        for completion in finished.drain(..) {
            let Completion { key, seq, .. } = completion;
            let stale = abandoned.get(&key.lane).is_some_and(|from| seq >= *from);
            assert!(!stale, "job {} reports {seq} although it was abandoned", key.lane);
            reported.entry(key.lane).or_default().push(seq);
        }
    }
    let expected = usize::try_from(JOBS).expect("small") - abandoned.len();
    let whole = |reported: &HashMap<u32, Vec<u64>>| {
        let whole = reported
            .iter()
            .filter(|(at, seqs)| !abandoned.contains_key(at) && seqs.as_slice() == [0, 1, 2, 3]);
        whole.count()
    };
    let start = Instant::now();
    while whole(&reported) < expected {
        assert!(start.elapsed() < Duration::from_secs(20), "a job was lost");
        tokio::time::sleep(Duration::from_millis(1)).await;
        tested.pool.drain(&mut finished);
        for completion in finished.drain(..) {
            reported.entry(completion.key.lane).or_default().push(completion.seq);
        }
    }
    assert!(abandoned.len() > 100, "{} jobs were abandoned", abandoned.len());
}

#[tokio::test]
async fn a_pool_never_has_more_hung_workers_than_threads_and_takes_them_back() {
    let (barrier, function) = held_at(0);
    let mut tested = Tested::threads(2, function);
    for at in 0..4 {
        tested.pool.submit(vec![job(at, [0])]);
        tested.until_running(1).await;
        let replaced = tested.pool.replace(lane(at), 0);
        let expected = if at < 2 { Replaced::Yes } else { Replaced::Shrunk };
        assert_eq!(replaced, expected, "hung worker {at}");
    }
    tested.pool.submit(vec![job(9, [9])]);
    assert!(tested.pool.running().is_empty(), "all four hang");
    barrier.open();
    assert_eq!(said(&tested.finish(1).await), [(9, 9)]);
    // Two of the four came back into the empty places, and only two: both are held up now.
    let (barrier, function) = held_at(0);
    let mut tested = Tested::threads(2, function);
    tested.pool.submit((0..4).map(|at| job(at, [0])).collect());
    tested.until_running(2).await;
    barrier.open();
    tested.finish(4).await;
}

#[tokio::test]
async fn a_shutdown_leaves_a_stuck_worker_behind_and_says_so() {
    let (barrier, function) = held_at(1);
    let mut tested = Tested::threads(2, function);
    tested.pool.submit(vec![job(0, 1..=3)]);
    tested.until_running(1).await;
    let left = tested.pool.shutdown();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].key, left[0].seq), (lane(0), 1));
    tested.pool.submit(vec![job(1, [5])]);
    barrier.open();
    assert_eq!(said(&tested.finish(2).await), [(1, 1), (2, -2)], "what was not started never runs");
}

#[tokio::test]
async fn threads_end_when_the_pool_is_dropped() {
    let function: Arc<Function> = Arc::new(|_, _| done(0));
    let watched = Arc::downgrade(&function);
    let mut tested = Tested::threads(3, function);
    tested.pool.submit(vec![job(0, 0..10)]);
    tested.finish(10).await;
    drop(tested);
    while watched.strong_count() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn completions_that_nobody_has_taken_wake_the_engine_once() {
    let wake = Arc::new(Notify::new());
    let bell = Bell::new(Arc::clone(&wake));
    for _ in 0..5 {
        bell.ring();
    }
    wake.notified().await;
    let again = timeout(Duration::from_millis(20), wake.notified()).await;
    assert!(again.is_err(), "one wake for all of them");
    bell.ring();
    let still = timeout(Duration::from_millis(20), wake.notified()).await;
    assert!(still.is_err(), "until the engine answers");
    bell.answer();
    bell.ring();
    wake.notified().await;
}

#[tokio::test]
async fn a_hung_task_is_aborted_and_its_lane_goes_on() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let process: Process<i64> = Process::Async(Arc::new(move |record, _| {
        let calls = Arc::clone(&counted);
        Box::pin(async move {
            calls.fetch_add(1, Ordering::SeqCst);
            if record.offset.get() == 2 {
                std::future::pending::<()>().await;
            }
            done(record.offset.get())
        })
    }));
    let wake = Arc::new(Notify::new());
    let pool = Pool::start(1, process, NO_TURN, Arc::clone(&wake)).expect("no thread to start");
    let mut tested = Tested { kind: "tasks", pool, wake };
    tested.pool.submit(vec![job(0, 1..=4), job(1, 7..=8)]);
    let mut finished = said(&tested.finish(3).await);
    finished.sort_unstable();
    assert_eq!(finished, [(1, 1), (7, 7), (8, 8)]);
    let running = tested.until_running(1).await;
    assert_eq!((running[0].key, running[0].seq), (lane(0), 2));
    assert_eq!(tested.pool.replace(lane(0), 2), Replaced::Yes);
    assert!(tested.pool.running().is_empty());
    tested.pool.submit(vec![job(0, 3..=4)]);
    assert_eq!(said(&tested.finish(2).await), [(3, 3), (4, 4)]);
    assert_eq!(calls.load(Ordering::SeqCst), 6, "nothing ran twice");
    assert_eq!(tested.pool.replace(lane(0), 2), Replaced::NotOut);
}

#[tokio::test]
async fn many_tasks_wait_at_the_same_time() {
    let (open, _) = tokio::sync::broadcast::channel::<()>(1);
    let sender = open.clone();
    let process: Process<i64> = Process::Async(Arc::new(move |record, _| {
        let mut opened = sender.subscribe();
        Box::pin(async move {
            let _ = opened.recv().await;
            done(record.offset.get())
        })
    }));
    let wake = Arc::new(Notify::new());
    let pool = Pool::start(1, process, NO_TURN, Arc::clone(&wake)).expect("no thread to start");
    let mut tested = Tested { kind: "tasks", pool, wake };
    tested.pool.submit((0..100).map(|at| job(at, [at.into()])).collect());
    tested.until_running(100).await;
    while open.receiver_count() < 100 {
        tokio::task::yield_now().await;
    }
    open.send(()).expect("all of them wait");
    tested.finish(100).await;
}

#[tokio::test]
async fn a_shutdown_ends_the_tasks_and_says_which() {
    let function: Arc<Function> = Arc::new(|_, _| done(0));
    let watched = Arc::downgrade(&function);
    let process: Process<i64> = Process::Async(Arc::new(move |_, _| {
        let function = Arc::clone(&function);
        Box::pin(async move {
            std::future::pending::<()>().await;
            function(&record(0), 1)
        })
    }));
    let mut pool = Pool::start(1, process, NO_TURN, Arc::default()).expect("no thread to start");
    pool.submit(vec![job(0, [1]), job(1, [2])]);
    tokio::task::yield_now().await;
    assert_eq!(pool.shutdown().len(), 2);
    drop(pool);
    while watched.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}

/// The order in which an inline pool of this seed runs three jobs of four records.
fn inline_order(seed: u64) -> Vec<u64> {
    let mut tested = Tested::inline(seed, Arc::new(|record, _| done(record.offset.get())));
    let jobs = [job(0, 0..4), job(1, 10..14), job(2, 20..24)];
    tested.pool.submit(jobs.into());
    let mut order = Vec::new();
    for drained in 1..=12 {
        let mut finished = Vec::new();
        tested.pool.drain(&mut finished);
        assert_eq!(finished.len(), 1, "one record at drain {drained}");
        order.push(finished[0].seq);
    }
    order
}

#[test]
fn an_inline_pool_runs_one_record_at_a_time_in_the_order_of_its_seed() {
    let orders: Vec<Vec<u64>> = (0..20).map(inline_order).collect();
    let again: Vec<Vec<u64>> = (0..20).map(inline_order).collect();
    assert_eq!(orders, again, "a seed always gives the same order");
    let mut distinct = orders.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 15, "seeds differ");
    for order in orders {
        for lane in 0..3 {
            let of_lane: Vec<u64> = order.iter().copied().filter(|s| s / 10 == lane).collect();
            assert!(of_lane.is_sorted(), "a lane runs in its order: {order:?}");
        }
    }
}

#[tokio::test]
async fn an_inline_pool_waits_for_async_functions_without_threads() {
    let (open, _) = tokio::sync::broadcast::channel::<()>(1);
    let sender = open.clone();
    let process: Process<i64> = Process::Async(Arc::new(move |record, _| {
        let mut opened = sender.subscribe();
        Box::pin(async move {
            if record.offset.get() < 2 {
                let _ = opened.recv().await;
            }
            done(record.offset.get())
        })
    }));
    let wake = Arc::new(Notify::new());
    let mut tested =
        Tested { kind: "inline", pool: Pool::inline(process, 3, Arc::clone(&wake)), wake };
    tested.pool.submit((0..3).map(|at| job(at, [at.into()])).collect());
    let finished = tested.finish(1).await;
    assert_eq!(said(&finished), [(2, 2)]);
    let mut nothing = Vec::new();
    tested.pool.drain(&mut nothing);
    assert!(nothing.is_empty(), "two calls wait");
    assert_eq!(tested.pool.running().len(), 2);
    assert_eq!(tested.pool.replace(lane(0), 0), Replaced::Yes);
    open.send(()).expect("a call waits");
    assert_eq!(said(&tested.finish(1).await), [(1, 1)]);
}
