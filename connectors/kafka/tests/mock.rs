//! Client state machines against librdkafka's mock cluster, with injected errors. It is never a
//! witness of exactly-once: it stores no transactional offsets and fences nobody.

#[path = "mock/codes.rs"]
mod codes;
#[path = "mock/forgetful.rs"]
mod forgetful;
#[path = "mock/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use rdkafka::types::RDKafkaApiKey as Api;
use rdkafka::types::RDKafkaRespErr as Code;
use tidegate::record::Offset;
use tidegate::sink::{ClaimRequest, CommitError, SinkError, TransactionalSink};
use tidegate::source::{Source, SourceError, SourceEvent};

use support::Rig;

#[tokio::test]
async fn a_source_reads_from_the_mock_cluster() {
    let mut rig = Rig::start().await;
    rig.produce(1000);
    rig.reads(1000).await;
    rig.close().await;
}

#[tokio::test]
async fn a_member_that_the_group_forgot_loses_its_partitions_and_gets_them_back() {
    let mut rig = Rig::start().await;
    let unknown = [Code::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID; 1];
    rig.cluster.request_errors(Api::Heartbeat, &unknown);
    match rig.event().await {
        SourceEvent::Lost(partitions) => assert_eq!(partitions, [rig.partition.clone()]),
        other => panic!("expected a loss, got {other:?}"),
    }
    // A result from before the loss is refused, whatever the membership is by now.
    match rig.commit_fails().await {
        CommitError::Aborted(_) => {}
        other => panic!("{other}"),
    }
    rig.start_partition(2, 0).await;
    match rig.commit_fails().await {
        CommitError::Aborted(cause) => {
            assert!(cause.to_string().contains("repositioned"), "{cause}")
        }
        other => panic!("{other}"),
    }
    // Nor do the group's own offsets go back to where a former life has been.
    let group = rig.source.group_offsets();
    match group.commit_reached(rig.batch(1).spans()).await {
        Err(SourceError::Retry(cause)) => {
            assert!(cause.to_string().contains("repositioned"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    let batch = rig.batch(2);
    group.commit_reached(batch.spans()).await.expect("the new epoch commits");
    rig.sink.commit(&batch).await.expect("the new epoch commits");
    rig.close().await;
}

/// The group forgets a member, which learns of it only as it joins again: librdkafka takes a new id
/// and keeps what it had, without a word.
#[tokio::test]
async fn what_was_given_to_a_former_member_is_lost_and_given_anew() {
    let mut rig = Rig::start().await;
    rig.cluster.request_errors(Api::JoinGroup, &[Code::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
    rig.cluster.request_errors(Api::Heartbeat, &[Code::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS]);
    // It may go on to read meanwhile.
    let lost = async {
        loop {
            match rig.event().await {
                SourceEvent::Lost(partitions) => return partitions,
                SourceEvent::Records(_) => {}
                other => panic!("expected a loss, got {other:?}"),
            }
        }
    };
    let lost = tokio::time::timeout(Duration::from_secs(20), lost).await.expect("a loss is told");
    assert_eq!(lost, std::slice::from_ref(&rig.partition));
    let stale = rig.commit_fails().await;
    assert!(matches!(stale, CommitError::Aborted(_)), "{stale}");
    rig.start_partition(2, 0).await;
    let batch = rig.batch(2);
    rig.sink.commit(&batch).await.expect("under the new id");
    rig.close().await;
}

/// librdkafka sends a commit again that no broker answered, although the session ended meanwhile, and
/// believes the answer that another process has its name.
#[tokio::test]
async fn a_member_that_its_own_late_commit_fenced_joins_anew() {
    let mut rig = Rig::start_named("one").await;
    let brokers = 1..=3;
    brokers.clone().try_for_each(|id| rig.cluster.broker_down(id)).expect("down");
    // The later it is sent, the longer librdkafka keeps it after the session.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let (group, late) = (rig.source.group_offsets(), rig.batch(1));
    let late = tokio::spawn(async move { group.commit_reached(late.spans()).await });
    match rig.event().await {
        SourceEvent::Lost(partitions) => assert_eq!(partitions, [rig.partition.clone()]),
        other => panic!("expected the end of the session, got {other:?}"),
    }
    rig.cluster.request_errors(Api::OffsetCommit, &[Code::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID]);
    brokers.clone().try_for_each(|id| rig.cluster.broker_up(id)).expect("up");
    rig.start_partition(2, 0).await;
    let late = late.await.expect("no panic");
    assert!(matches!(late, Err(SourceError::Retry(_) | SourceError::Fenced(_))), "{late:?}");
    rig.produce(10);
    rig.reads(10).await;
    let batch = rig.batch(2);
    let group = rig.source.group_offsets();
    group.commit_reached(batch.spans()).await.expect("the new member commits");
    // The sink's producer lost its brokers, too, and has to be replaced.
    rig.sink.commit(&batch).await.expect_err("in doubt");
    rig.claim().await;
    rig.sink.commit(&batch).await.expect("the new member commits");
    let stored = group.committed(std::slice::from_ref(&rig.partition)).await;
    assert_eq!(stored.expect("an answer"), [Some(Offset::new(1))]);
    rig.close().await;
}

#[tokio::test]
async fn a_stale_membership_at_the_broker_aborts_and_the_same_batch_goes_through_later() {
    let mut rig = Rig::start().await;
    for code in [
        Code::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
        Code::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
        Code::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
        Code::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID,
    ] {
        // librdkafka repeats the first two by itself for a while.
        rig.cluster.request_errors(Api::TxnOffsetCommit, &[code; 10]);
        match rig.commit_fails().await {
            CommitError::Aborted(cause) => assert!(!cause.is_for_operator(), "{cause}"),
            other => panic!("{code:?}: {other}"),
        }
        rig.cluster.clear_request_errors(Api::TxnOffsetCommit);
        rig.goes_on().await;
    }
    rig.close().await;
}

#[tokio::test]
async fn a_missing_right_needs_an_operator() {
    let mut rig = Rig::start().await;
    let denied = [Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED];
    rig.cluster.request_errors(Api::TxnOffsetCommit, &denied);
    match rig.commit_fails().await {
        CommitError::Aborted(cause) => assert!(cause.is_for_operator(), "{cause}"),
        other => panic!("{other}"),
    }
    rig.goes_on().await;
    rig.close().await;
}

#[tokio::test]
async fn a_fenced_commit_is_in_doubt_and_a_claim_goes_on() {
    let mut rig = Rig::start().await;
    for code in [Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED, Code::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE]
    {
        rig.cluster.request_errors(Api::EndTxn, &[code]);
        match rig.commit_fails().await {
            CommitError::InDoubt(_) => {}
            other => panic!("{code:?}: {other}"),
        }
        match rig.commit_fails().await {
            CommitError::InDoubt(cause) => assert!(cause.to_string().contains("claim"), "{cause}"),
            other => panic!("{other}"),
        }
        rig.claim().await;
        rig.goes_on().await;
    }
    rig.close().await;
}

/// Counts the producers that are made, by reason.
#[derive(Default)]
struct Producers(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Producers {
    fn made(&self) -> Vec<(String, u64)> {
        let counters = self.0.lock().expect("no panic");
        counters.iter().map(|(why, count)| (why.clone(), count.load(Ordering::Relaxed))).collect()
    }

    fn assert_made(&self, wanted: &[(&str, u64)]) {
        let wanted: Vec<_> = wanted.iter().map(|(why, count)| (why.to_string(), *count)).collect();
        assert_eq!(self.made(), wanted);
    }
}

impl Recorder for Producers {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() != "tidegate_kafka_producer_replacements_total" {
            return Counter::noop();
        }
        let why = key.labels().map(|label| label.value().to_owned()).collect();
        let mut counters = self.0.lock().expect("no panic");
        Counter::from_arc(Arc::clone(counters.entry(why).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn a_new_producer_is_made_at_the_start_and_after_a_doubt_and_for_nothing_else() {
    let producers = Producers::default();
    let _counting = metrics::set_default_local_recorder(&producers);
    let mut rig = Rig::start().await;
    producers.assert_made(&[("start", 1)]);
    // Neither an ordinary claim nor a result that is definite needs another one.
    rig.goes_on().await;
    rig.claim().await;
    rig.goes_on().await;
    for (code, times) in [
        (Code::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION, 10),
        (Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, 1),
    ] {
        rig.cluster.request_errors(Api::TxnOffsetCommit, &vec![code; times]);
        assert!(matches!(rig.commit_fails().await, CommitError::Aborted(_)), "{code:?}");
        rig.cluster.clear_request_errors(Api::TxnOffsetCommit);
        rig.goes_on().await;
        rig.claim().await;
    }
    producers.assert_made(&[("start", 1)]);

    rig.cluster.request_errors(Api::EndTxn, &[Code::RD_KAFKA_RESP_ERR__TRANSPORT]);
    assert!(matches!(rig.commit_fails().await, CommitError::InDoubt(_)));
    rig.claim().await;
    rig.claim().await;
    rig.goes_on().await;
    producers.assert_made(&[("doubt", 1), ("start", 1)]);

    rig.cluster.request_errors(Api::EndTxn, &[Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    assert!(matches!(rig.commit_fails().await, CommitError::InDoubt(_)));
    rig.claim().await;
    rig.goes_on().await;
    producers.assert_made(&[("doubt", 1), ("fenced", 1), ("start", 1)]);
    rig.close().await;
}

#[tokio::test]
async fn a_producer_that_is_fenced_six_times_a_minute_ends_the_engine_and_names_a_twin() {
    let mut rig = Rig::start().await;
    for _ in 0..5 {
        rig.cluster.request_errors(Api::EndTxn, &[Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
        assert!(matches!(rig.commit_fails().await, CommitError::InDoubt(_)));
        rig.claim().await;
        rig.goes_on().await;
    }
    rig.cluster.request_errors(Api::EndTxn, &[Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    assert!(matches!(rig.commit_fails().await, CommitError::InDoubt(_)));
    let request = ClaimRequest { partition: rig.partition.clone(), topic_id: None };
    match rig.sink.claim(&[request]).await {
        Err(SinkError::Stop(error)) => {
            assert!(error.is_fenced(), "{error}");
            for word in ["g-one-0", "fenced 6 times", "instance name"] {
                assert!(error.to_string().contains(word), "{word:?} is not in {error}");
            }
        }
        other => panic!("a stop by name, not {other:?}"),
    }
    rig.close().await;
}

#[tokio::test]
async fn a_refused_message_is_rejected_with_its_record() {
    let mut rig = Rig::start().await;
    let large = [Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE];
    rig.cluster.request_errors(Api::Produce, &large);
    match rig.commit_fails().await {
        CommitError::Rejected(rejection) => {
            assert_eq!(rejection.record.expect("a record").offset, Offset::ZERO);
        }
        other => panic!("{other}"),
    }
    // The mock counts the refused message as a gap in the sequence once: aborted, then repeated.
    let batch = rig.batch(1);
    if let Err(error) = rig.sink.commit(&batch).await {
        assert!(matches!(error, CommitError::Aborted(_)), "{error}");
        rig.goes_on().await;
    }
    rig.close().await;
}

#[tokio::test]
async fn what_the_client_repeats_by_itself_commits() {
    let mut rig = Rig::start().await;
    let busy = [Code::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS; 2];
    rig.cluster.request_errors(Api::EndTxn, &busy);
    rig.goes_on().await;
    let few = [Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS];
    rig.cluster.request_errors(Api::Produce, &few);
    rig.goes_on().await;
    rig.close().await;
}

#[tokio::test]
async fn a_commit_whose_connection_broke_is_in_doubt_although_it_says_ok() {
    let mut rig = Rig::start().await;
    // The request vanishes with its connection; librdkafka sends another one without a word.
    let broken = [Code::RD_KAFKA_RESP_ERR__TRANSPORT];
    rig.cluster.request_errors(Api::EndTxn, &broken);
    match rig.commit_fails().await {
        CommitError::InDoubt(cause) => assert!(cause.to_string().contains("twice"), "{cause}"),
        other => panic!("{other}"),
    }
    rig.claim().await;
    rig.goes_on().await;
    // Twice within the time in which librdkafka tells the same error only once.
    rig.cluster.request_errors(Api::EndTxn, &broken);
    match rig.commit_fails().await {
        CommitError::InDoubt(_) => {}
        other => panic!("{other}"),
    }
    rig.claim().await;
    rig.cluster.request_errors(Api::TxnOffsetCommit, &broken);
    match rig.commit_fails().await {
        CommitError::InDoubt(_) => {}
        other => panic!("{other}"),
    }
    rig.claim().await;
    rig.goes_on().await;
    rig.close().await;
}

#[tokio::test]
async fn a_commit_that_takes_suspiciously_long_is_in_doubt_although_it_says_ok() {
    let mut rig = Rig::start().await;
    rig.goes_on().await;
    // Above half of the socket time-out, which is half of the transaction's 10 s.
    for broker in 1..=3 {
        rig.cluster.broker_round_trip_time(broker, Duration::from_millis(1500)).expect("slower");
    }
    match rig.commit_fails().await {
        CommitError::InDoubt(_) => {}
        other => panic!("{other}"),
    }
    for broker in 1..=3 {
        rig.cluster.broker_round_trip_time(broker, Duration::ZERO).expect("fast again");
    }
    rig.claim().await;
    rig.goes_on().await;
    rig.close().await;
}
