//! The builder from end to end: what jobs do to a record, what they say, what they refuse.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::batch::{Batch, DeadReason};
use crate::decode::{Decode, Utf8};
use crate::delivery::{CommitHook, GroupCommits};
use crate::error::Error;
use crate::policy::Retry;
use crate::process::{Attempt, Failure, Process};
use crate::record::{Headers, Offset, PartitionId, RawRecord, Record};
use crate::sink::{
    Claim, ClaimRequest, CommitError, Move, Sink, SinkContext, SinkDescription, SinkError,
    TransactionalSink,
};
use crate::source::{
    Credit, EventSender, GroupOffsets, Resolved, SourceContext, SourceDescription, SourceError,
    Start as StartAt, Wanted,
};

/// A source that is described and never opened.
struct Described(u64);

impl Source for Described {
    fn describe(&self) -> SourceDescription {
        SourceDescription {
            kind: "memory".into(),
            target: "quakes at nowhere".into(),
            notes: vec!["read_committed".into()],
            id: self.0,
        }
    }

    async fn open(&mut self, _: &SourceContext, _: EventSender) -> Result<(), SourceError> {
        Ok(())
    }

    fn credit(&mut self, _: Vec<Credit>) {}

    fn resolve(
        &mut self,
        _: Vec<Wanted>,
    ) -> BoxFuture<'static, Result<Vec<Resolved>, SourceError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn reposition(&mut self, _: Vec<StartAt>) {}

    fn group_offsets(&self) -> Arc<dyn GroupOffsets> {
        unreachable!("it is never opened")
    }

    fn close(&mut self) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

/// A sink of any output, plain and transactional, that is described and never opened.
struct Anything<O> {
    bound_to: Option<u64>,
    measure: fn(&O) -> usize,
}

impl<O> Anything<O> {
    fn new() -> Self {
        Self { bound_to: None, measure: |_| 1 }
    }

    fn description(&self) -> SinkDescription {
        SinkDescription {
            kind: "memory".into(),
            target: "table quakes".into(),
            notes: vec!["one row for each result".into()],
            bound_to: self.bound_to,
        }
    }
}

impl<O: Send + Sync + 'static> TransactionalSink for Anything<O> {
    type Output = O;

    async fn open(&mut self, _: &SinkContext) -> Result<(), SinkError> {
        Ok(())
    }

    fn describe(&self) -> SinkDescription {
        self.description()
    }

    fn measure(&self) -> fn(&O) -> usize {
        self.measure
    }

    async fn claim(&mut self, _: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        Ok(Vec::new())
    }

    async fn reposition(&mut self, _: &[Move]) -> Result<(), CommitError> {
        Ok(())
    }

    async fn commit(&mut self, _: &Batch<O>) -> Result<(), CommitError> {
        Ok(())
    }

    async fn probe(&mut self, _: &Batch<O>) -> Result<(), CommitError> {
        Ok(())
    }

    async fn release(&mut self, _: &[PartitionId]) {}

    async fn close(&mut self) {}
}

impl<O: Send + Sync + 'static> Sink for Anything<O> {
    type Output = O;

    async fn open(&mut self, _: &SinkContext) -> Result<(), SinkError> {
        Ok(())
    }

    fn describe(&self) -> SinkDescription {
        self.description()
    }

    async fn write(&mut self, _: &Batch<O>) -> Result<(), SinkError> {
        Ok(())
    }

    async fn close(&mut self) {}
}

fn raw() -> Pipeline<Records<Undecoded>> {
    Pipeline::new("quakes").from(Described(1))
}

fn text() -> Pipeline<Records<impl Read<Value = String, Held = Record<String>>>> {
    raw().decode(Utf8)
}

fn ended<H: Head, T: Tail<H::Item>>(pipeline: Pipeline<Results<H, T>>) -> Job<T::Output>
where
    T::Output: Sync,
{
    pipeline.exactly_once(Anything::new())
}

fn record(value: &[u8]) -> Arc<RawRecord> {
    Arc::new(RawRecord {
        partition: PartitionId::new("t", 3),
        offset: Offset::new(7),
        timestamp: None,
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::copy_from_slice(value)),
        headers: Headers::default(),
    })
}

/// Calls a job's process once.
fn call<O>(job: &Job<O>, value: &str, attempt: u32) -> Attempt<O> {
    let record = record(value.as_bytes());
    match &job.process {
        Process::Sync(function) => function(&record, attempt),
        Process::Async(function) => tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime starts")
            .block_on(function(record, attempt)),
    }
}

/// The results of a first call; `None` if the record was filtered.
fn results<O: Clone + fmt::Debug>(job: &Job<O>, value: &str) -> Option<Vec<O>> {
    match call(job, value, 1) {
        Attempt::Done(outputs) => outputs.map(|outputs| outputs.as_slice().to_vec()),
        Attempt::Failed(failure) => panic!("{failure:?}"),
    }
}

fn failure<O>(job: &Job<O>, value: &str) -> Failure {
    match call(job, value, 1) {
        Attempt::Failed(failure) => failure,
        Attempt::Done(_) => panic!("it should fail"),
    }
}

fn some<O>(items: impl IntoIterator<Item = O>) -> Option<Vec<O>> {
    Some(items.into_iter().collect())
}

/// An error with another underneath.
#[derive(Debug)]
struct Outer(fmt::Error);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outer")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn map_makes_one_result_of_each_record() {
    let job = ended(text().map(|record| record.value.len()));
    assert_eq!(results(&job, "four"), some([4]));
}

#[test]
fn try_map_fails_with_the_whole_chain_of_errors_and_may_be_repeated() {
    let job = ended(text().try_map(|record| match record.value.as_str() {
        "good" => Ok(1),
        _ => Err(Outer(fmt::Error)),
    }));
    assert_eq!(results(&job, "good"), some([1]));
    let failure = failure(&job, "bad");
    assert_eq!(failure.reason, DeadReason::Process);
    assert!(failure.retriable);
    let underneath = fmt::Error.to_string();
    assert_eq!(failure.error, format!("outer: {underneath}"));
}

#[test]
fn flat_map_keeps_the_order_and_an_empty_one_is_not_filtered() {
    let job = ended(text().flat_map(|record| record.value.clone().into_bytes()));
    assert_eq!(results(&job, "abc"), some(*b"abc"));
    assert_eq!(results(&job, ""), some([]));
}

#[test]
fn process_emits_through_its_context_and_knows_the_call() {
    let job = ended(text().process(|record, context| {
        context.emit(record.value.clone());
        context.emit(format!("{} call {}", context.coordinates(), context.attempt()));
        match context.attempt() {
            1 => Err("not yet"),
            _ => Ok(()),
        }
    }));
    assert_eq!(failure(&job, "a").error, "not yet");
    let Attempt::Done(Some(outputs)) = call(&job, "a", 2) else {
        panic!("the second call succeeds");
    };
    assert_eq!(outputs.as_slice(), ["a", "t/3/7 call 2"], "nothing is left of the first call");
}

#[test]
fn a_raw_stream_is_the_record_itself() {
    let seen: Arc<std::sync::Mutex<Vec<usize>>> = Arc::default();
    let notes = Arc::clone(&seen);
    let job = ended(raw().map(move |record: &Record| {
        let at = std::ptr::from_ref(record).addr();
        notes.lock().expect("no panic").push(at);
        record.value.as_ref().map_or(0, Bytes::len)
    }));
    let given = record(b"abc");
    let Process::Sync(function) = &job.process else {
        panic!("it is sync");
    };
    function(&given, 1);
    let expected = std::ptr::from_ref(&*given).addr();
    assert_eq!(*seen.lock().expect("no panic"), [expected], "nothing is copied");
}

#[test]
fn records_are_filtered_before_and_after_decoding() {
    let decoded = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&decoded);
    let job = ended(
        raw()
            .filter(|record| record.value.as_ref().is_some_and(|value| !value.is_empty()))
            .decode(move |record: &RawRecord| {
                counted.fetch_add(1, Ordering::SeqCst);
                Utf8.decode(record)
            })
            .filter(|record| record.value != "no")
            .filter(|record| record.key.is_some())
            .map(|record| record.value.clone()),
    );
    assert_eq!(results(&job, ""), None);
    assert_eq!(decoded.load(Ordering::SeqCst), 0, "what is filtered is not decoded");
    assert_eq!(results(&job, "no"), None);
    assert_eq!(results(&job, "yes"), some(["yes".to_owned()]));
}

#[test]
fn results_go_through_further_steps_in_order() {
    let job = ended(
        text()
            .flat_map(|record| record.value.clone().into_bytes())
            .filter(|byte| byte.is_ascii_digit())
            .map(|byte| usize::from(byte - b'0'))
            .flat_map(|n| vec![n; n])
            .map(|n| n * 10),
    );
    assert_eq!(results(&job, "a2b1c0"), some([20, 20, 10]));
    assert_eq!(results(&job, "abc"), None, "every result was filtered, so the record was");
    assert_eq!(results(&job, "0"), some([]), "nothing came of it, but nothing was filtered");
}

#[test]
fn what_cannot_be_decoded_fails_for_good_and_the_function_is_not_called() {
    let job = ended(raw().decode(Utf8).map(|_| -> u8 { panic!("it is not called") }));
    let Process::Sync(function) = &job.process else {
        panic!("it is sync");
    };
    let Attempt::Failed(failure) = function(&record(b"\xff"), 1) else {
        panic!("it is no text");
    };
    assert_eq!(failure.reason, DeadReason::Decode);
    assert!(!failure.retriable);
    assert_eq!(failure.error, "invalid UTF-8 at byte 0");
}

#[test]
fn a_repeated_call_sees_an_equal_record() {
    let job = ended(text().map(|record| format!("{record:?} {:?} {}", record.key, record.value)));
    let first = call(&job, "a", 1);
    let second = call(&job, "a", 2);
    let (Attempt::Done(Some(first)), Attempt::Done(Some(second))) = (first, second) else {
        panic!("it succeeds");
    };
    assert_eq!(first, second);
}

#[test]
fn a_record_that_emits_without_end_fails_at_the_limit() {
    let pulled = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pulled);
    let job = ended(text().outputs_per_record(1_000).flat_map(move |_| {
        let counted = Arc::clone(&counted);
        std::iter::repeat_with(move || counted.fetch_add(1, Ordering::SeqCst))
    }));
    let failure = failure(&job, "");
    assert_eq!(failure.reason, DeadReason::TooLarge);
    assert!(!failure.retriable);
    assert_eq!(
        failure.error,
        "one record emitted at least 1001 results of 1001 bytes; outputs_per_record allows 1000 \
         and output_bytes_per_record 67108864 bytes"
    );
    assert_eq!(pulled.load(Ordering::SeqCst), 1_001, "taken lazily");
}

#[test]
fn exactly_the_limit_is_allowed() {
    let job = ended(text().outputs_per_record(3).flat_map(|r| r.value.clone().into_bytes()));
    assert_eq!(results(&job, "abc").map(|all| all.len()), Some(3));
    assert_eq!(failure(&job, "abcd").reason, DeadReason::TooLarge);
}

#[test]
fn bytes_are_limited_as_the_sink_measures_them() {
    let sink = || Anything { bound_to: None, measure: String::len };
    let job = text()
        .output_bytes_per_record(10)
        .flat_map(|record| [record.value.clone(), record.value.clone()])
        .exactly_once(sink());
    assert_eq!(results(&job, "12345").map(|all| all.len()), Some(2));
    let failure = failure(&job, "123456");
    assert!(failure.error.contains("2 results of 12 bytes"), "{}", failure.error);
    assert!(failure.error.contains("output_bytes_per_record 10 bytes"), "{}", failure.error);
}

/// Counts how many of it are alive.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(alive: &Arc<AtomicUsize>, most: &AtomicUsize) -> Self {
        let now = alive.fetch_add(1, Ordering::SeqCst) + 1;
        most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(alive))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn memory_is_bounded_however_much_a_function_emits_by_itself() {
    let (alive, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, peak) = (Arc::clone(&alive), Arc::clone(&most));
    let job = ended(text().outputs_per_record(100).process(move |_, context| {
        for _ in 0..100_000 {
            context.emit(Counted::new(&counted, &peak));
        }
        Err("its own error does not matter any more")
    }));
    assert_eq!(failure(&job, "").reason, DeadReason::TooLarge);
    assert_eq!(most.load(Ordering::SeqCst), 101);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn limits_hold_behind_further_steps_too() {
    let job = ended(
        text().outputs_per_record(10).map(|_| 0_u64).flat_map(|_| 0_u64..).flat_map(|_| 0_u64..),
    );
    assert_eq!(failure(&job, "").reason, DeadReason::TooLarge);
    let job = ended(
        text()
            .outputs_per_record(10)
            .flat_map(|_| 0_u64..1_000_000)
            .filter(|n| n.is_multiple_of(100_000)),
    );
    assert_eq!(results(&job, "").map(|all| all.len()), Some(10), "only what comes out counts");
}

#[test]
fn async_functions_go_the_same_way() {
    let job = ended(
        text()
            .filter(|record| record.value != "no")
            .map_async(|record| async move {
                tokio::task::yield_now().await;
                match record.value.as_str() {
                    "bad" => Err("bad"),
                    text => Ok(text.to_owned()),
                }
            })
            .flat_map(String::into_bytes)
            .filter(|byte| *byte != b'x'),
    );
    assert_eq!(results(&job, "axb"), some(*b"ab"));
    assert_eq!(results(&job, "xx"), None);
    assert_eq!(results(&job, "no"), None);
    let failed = failure(&job, "bad");
    assert_eq!((failed.reason, failed.error.as_str()), (DeadReason::Process, "bad"));
    let job = ended(
        raw().map_async(|record: Arc<Record>| async move { Ok::<_, Error>(record.offset.get()) }),
    );
    assert_eq!(results(&job, ""), some([7]));
}

#[test]
fn an_async_function_may_emit_by_itself_until_it_ends() {
    let kept = Arc::new(std::sync::Mutex::new(None));
    let keeper = Arc::clone(&kept);
    let job = ended(
        text()
            .process_async(move |record, emitter| {
                let kept = Arc::clone(&keeper);
                async move {
                    for byte in record.value.bytes() {
                        emitter.emit(byte);
                        tokio::task::yield_now().await;
                    }
                    emitter.emit(b'0' + u8::try_from(emitter.attempt()).expect("small"));
                    assert_eq!(emitter.coordinates().to_string(), "t/3/7");
                    *kept.lock().expect("no panic") = Some(emitter.clone());
                    match record.value.as_str() {
                        "bad" => Err("bad"),
                        _ => Ok(()),
                    }
                }
            })
            .map(char::from),
    );
    assert_eq!(results(&job, "ab"), some(['a', 'b', '1']));
    let late: Emitter<u8> = kept.lock().expect("no panic").take().expect("it was kept");
    late.emit(b'z');
    assert_eq!(failure(&job, "bad").error, "bad");
    let job = ended(text().outputs_per_record(2).process_async(|_, emitter| async move {
        (0..1_000).for_each(|n| emitter.emit(n));
        Ok::<(), Error>(())
    }));
    assert_eq!(failure(&job, "").reason, DeadReason::TooLarge);
}

#[test]
fn an_endless_error_text_is_cut() {
    let job = ended(text().try_map(|_| Err::<u8, _>("ö".repeat(100_000))));
    let error = failure(&job, "").error;
    assert!(error.len() <= 2_010, "{}", error.len());
    assert!(error.ends_with("ö…"));
}

#[test]
fn a_job_says_only_what_it_emits_and_goes_to_another_thread() {
    fn build(sink: Anything<usize>) -> Job<usize> {
        text().map(|record| record.value.len()).at_most_once(sink)
    }
    let job = build(Anything::new());
    let debug = std::thread::spawn(move || format!("{job:?}")).join();
    assert!(debug.expect("no panic").contains("AtMostOnce"));
}

#[test]
fn settings_are_taken_at_every_stage() {
    let job = Pipeline::new("g")
        .threads(3)
        .from(Described(1))
        .concurrency(7)
        .decode(Utf8)
        .order(Order::ByKey)
        .map(|record| record.value.clone())
        .in_flight(10, 20)
        .commit_interval(Duration::from_millis(5))
        .commit_records(6)
        .drain_max(Duration::from_secs(1))
        .stop_max(Duration::from_secs(2))
        .claim_max(Duration::from_secs(3))
        .start_max(Duration::from_secs(4))
        .stuck_after(Duration::from_secs(5))
        .instance("one")
        .on_failure(Retry::never().then_skip())
        .exactly_once(Anything::new());
    let limits = job.check().expect("all of it is allowed");
    assert_eq!(limits.threads, 3);
    assert_eq!(limits.concurrency, 7);
    assert_eq!((limits.in_flight_records, limits.in_flight_bytes), (10, 20));
    assert_eq!(limits.commit_interval, Duration::from_millis(5));
    assert_eq!(limits.commit_records, 6);
    let seconds = [limits.drain_max, limits.stop_max, limits.claim_max, limits.start_max];
    assert_eq!(seconds.map(|d| d.as_secs()), [1, 2, 3, 4]);
    assert_eq!(limits.stuck_after, Duration::from_secs(5));
    assert_eq!(job.order, Order::ByKey);
    assert_eq!(job.instance.as_deref(), Some("one"));
}

fn refusal<O>(job: &Job<O>) -> String {
    let error = job.check().expect_err("it is refused");
    assert!(error.is_configuration());
    error.to_string()
}

#[test]
fn what_cannot_work_is_refused_by_the_name_of_its_setting() {
    let named = |name: &str| {
        let pipeline = Pipeline::new(name).from(Described(1));
        ended(pipeline.map(|_: &Record| 1))
    };
    assert_eq!(refusal(&named("")), "name: it is empty");
    let job = ended(raw().instance("a b").map(|_| 1));
    assert!(refusal(&job).starts_with("instance: \"a b\" contains ' '"));
    let job = ended(raw().threads(0).map(|_| 1));
    assert!(refusal(&job).starts_with("threads: 0 is out of range"));
    for pace in [Duration::ZERO, Duration::from_secs(3_601)] {
        let commits = GroupCommits::Every(pace);
        let job = raw().map(|_| 1).at_least_once_with(Anything::new(), commits);
        assert!(refusal(&job).starts_with("at_least_once_with: "));
    }
    let hook = GroupCommits::Async(CommitHook::none());
    let job = raw().map(|_| 1).at_least_once_with(Anything::new(), hook);
    job.check().expect("it is allowed");
}

#[test]
fn a_sink_of_another_source_is_refused() {
    let bound_to = |id| {
        let mut sink = Anything::new();
        sink.bound_to = Some(id);
        raw().map(|_| 1).exactly_once(sink)
    };
    bound_to(1).check().expect("it belongs to this source");
    let refused = refusal(&bound_to(2));
    assert!(refused.contains("belongs to another source"), "{refused}");
    assert!(refused.contains("source.sink()"), "{refused}");
}

#[test]
fn an_observer_goes_with_the_job() {
    struct Silent;
    impl Observer for Silent {
        fn observe(&self, _: &crate::engine::observe::EngineEvent) {}
    }
    let job = ended(raw().observe(Silent).map(|_| 1));
    assert!(job.observer.is_some());
}

#[test]
fn a_job_explains_itself_from_source_to_sink_with_what_it_does_not_cover() {
    let job = text()
        .instance("pod-1")
        .threads(4)
        .filter(|record| !record.value.is_empty())
        .map(|record| HashMap::from([(record.value.clone(), 1_u8)]))
        .order(Order::ByKey)
        .on_failure(Retry::times(3).then_dead_letter())
        .exactly_once(Anything::new());
    let expected = "\
pipeline quakes, instance pod-1

  source         memory: quakes at nowhere
                 read_committed
  decode         utf-8 into String
  filter
  map            into HashMap<String, u8>
  sink           memory: table quakes
                 one row for each result

  order          by key: records of a partition with the same key run one after another
  runs on        4 threads
  on failure     3 retries (100ms to 30s), then dead letter
  in flight      up to 65536 records or 64 MiB
  one record     up to 100000 results or 64 MiB
  commits        after 100ms at the latest, up to 50000 records each
  deadlines      start 60s, claim 30s, drain 10s, stop 20s; stuck after 10s

  guarantee      exactly once: results, dead letters and progress are stored in one step, all of
                 them or none
  not covered    user code may run more than once: what is exact is what the sink shows
                 whatever the functions do outside the sink (calls, mails, files) is not undone
                 and may be repeated
";
    assert_eq!(job.explain().to_string(), expected);
}

#[test]
fn every_guarantee_says_what_it_does_not_cover() {
    let pipeline = || raw().order(Order::Unordered).map_async(|_| async { Ok::<_, Error>(1) });
    let every = GroupCommits::Every(Duration::from_secs(2));
    let texts = [
        pipeline().exactly_once(Anything::new()).explain().to_string(),
        pipeline().at_least_once_with(Anything::new(), every).explain().to_string(),
        pipeline().at_most_once(Anything::new()).explain().to_string(),
    ];
    for text in &texts {
        assert!(text.contains("user code may run more than once"), "{text}");
        assert!(text.contains("may run at the same time and in any order"), "{text}");
        assert!(text.contains("tasks, up to 256 at the same time"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
    let words: Vec<&str> = texts[1].split_whitespace().collect();
    assert!(words.join(" ").contains("committed, at least 2s apart"), "{}", texts[1]);
    assert!(texts[2].contains("results are missing"), "{}", texts[2]);
}
