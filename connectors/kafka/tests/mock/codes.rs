//! Every code at every call of a transaction, once and for ever: what librdkafka makes of it, and
//! what the sink does then.
//!
//! The mock cluster answers with any code at any call, also with those that a broker never gives
//! there: what nobody expects must not do harm either. What it cannot stage: a request that was
//! carried out although its answer is an error, and offsets or producers that are really fenced.
//! The tests on a real broker do that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::types::RDKafkaApiKey as Api;
use rdkafka::types::RDKafkaRespErr as Code;
use tidegate::sink::{ClaimRequest, CommitError, SinkError, TransactionalSink};
use tidegate::source::SourceEvent;

use super::support::Rig;

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Made {
    /// librdkafka repeats the request by itself.
    Committed,
    /// Aborted, confirmed: the same batch goes through the same producer again.
    Again,
    /// As `Again`, but not before an operator acts; a claim says the same. The engine ends by name.
    Operator,
    /// The message is at fault.
    Rejected,
    /// Nothing is stored, and only a new producer goes on.
    Fenced,
    /// Only a new producer knows what is stored.
    InDoubt,
    /// A claim in spite of it.
    Claimed,
    /// The claim is made again.
    Later,
    /// The engine ends by name.
    Stopped,
    /// The member keeps its partitions.
    Kept,
    /// It loses them and is given them again.
    Lost,
    /// The source ends by name.
    Ended,
}
use Made::{
    Again, Claimed, Committed, Ended, Fenced, InDoubt, Kept, Later, Lost, Operator, Rejected,
    Stopped,
};

/// When a request that is refused for ever comes to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ends {
    AtOnce,
    /// With the time of the transaction.
    Waits,
}
use Ends::{AtOnce, Waits};

/// The code, what becomes of the call if it comes once, and if it comes for ever. Two answers are
/// possible where a request that fails early meets the next call or the one after it, and where
/// looking for another coordinator may break a connection, which makes an end of a transaction
/// suspicious.
type Row = (&'static str, &'static [Made], &'static [Made], Ends);

/// A member that is not heard for ever is put out like any other: there is nothing for ever there.
#[rustfmt::skip]
const TABLE: &[(Api, &[Row])] = &[
    (Api::InitProducerId, &[
        ("CONCURRENT_TRANSACTIONS", &[Claimed], &[Later], Waits),
        ("COORDINATOR_NOT_AVAILABLE", &[Claimed], &[Later], Waits),
        ("COORDINATOR_LOAD_IN_PROGRESS", &[Claimed], &[Later], Waits),
        ("NOT_COORDINATOR", &[Claimed], &[Later], Waits),
        ("REQUEST_TIMED_OUT", &[Claimed], &[Later], Waits),
        ("NOT_ENOUGH_REPLICAS", &[Claimed], &[Later], Waits),
        ("KAFKA_STORAGE_ERROR", &[Claimed], &[Later], Waits),
        ("UNSTABLE_OFFSET_COMMIT", &[Claimed], &[Later], Waits),
        ("INVALID_PRODUCER_EPOCH", &[Later], &[Later], AtOnce),
        ("PRODUCER_FENCED", &[Later], &[Later], AtOnce),
        ("INVALID_TXN_STATE", &[Claimed], &[Later], Waits),
        ("INVALID_PRODUCER_ID_MAPPING", &[Claimed], &[Later], Waits),
        ("UNKNOWN_PRODUCER_ID", &[Claimed], &[Later], Waits),
        ("OUT_OF_ORDER_SEQUENCE_NUMBER", &[Claimed], &[Later], Waits),
        ("ILLEGAL_GENERATION", &[Claimed], &[Later], Waits),
        ("UNKNOWN_MEMBER_ID", &[Claimed], &[Later], Waits),
        ("FENCED_INSTANCE_ID", &[Claimed], &[Later], Waits),
        ("STALE_MEMBER_EPOCH", &[Claimed], &[Later], Waits),
        ("TOPIC_AUTHORIZATION_FAILED", &[Claimed], &[Stopped], Waits),
        ("GROUP_AUTHORIZATION_FAILED", &[Claimed], &[Stopped], Waits),
        ("CLUSTER_AUTHORIZATION_FAILED", &[Stopped], &[Stopped], AtOnce),
        ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", &[Stopped], &[Stopped], AtOnce),
        ("MSG_SIZE_TOO_LARGE", &[Claimed], &[Later], Waits),
    ]),
    (Api::FindCoordinator, &[
        ("CONCURRENT_TRANSACTIONS", &[Claimed], &[Later], Waits),
        ("COORDINATOR_NOT_AVAILABLE", &[Claimed], &[Later], Waits),
        ("COORDINATOR_LOAD_IN_PROGRESS", &[Claimed], &[Later], Waits),
        ("NOT_COORDINATOR", &[Claimed], &[Later], Waits),
        ("REQUEST_TIMED_OUT", &[Claimed], &[Later], Waits),
        ("NOT_ENOUGH_REPLICAS", &[Claimed], &[Later], Waits),
        ("KAFKA_STORAGE_ERROR", &[Claimed], &[Later], Waits),
        ("UNSTABLE_OFFSET_COMMIT", &[Claimed], &[Later], Waits),
        ("INVALID_PRODUCER_EPOCH", &[Claimed], &[Later], Waits),
        ("PRODUCER_FENCED", &[Claimed], &[Later], Waits),
        ("INVALID_TXN_STATE", &[Claimed], &[Later], Waits),
        ("INVALID_PRODUCER_ID_MAPPING", &[Claimed], &[Later], Waits),
        ("UNKNOWN_PRODUCER_ID", &[Claimed], &[Later], Waits),
        ("OUT_OF_ORDER_SEQUENCE_NUMBER", &[Claimed], &[Later], Waits),
        ("ILLEGAL_GENERATION", &[Claimed], &[Later], Waits),
        ("UNKNOWN_MEMBER_ID", &[Claimed], &[Later], Waits),
        ("FENCED_INSTANCE_ID", &[Claimed], &[Later], Waits),
        ("STALE_MEMBER_EPOCH", &[Claimed], &[Later], Waits),
        ("TOPIC_AUTHORIZATION_FAILED", &[Claimed], &[Later], Waits),
        ("GROUP_AUTHORIZATION_FAILED", &[Claimed], &[Later], Waits),
        ("CLUSTER_AUTHORIZATION_FAILED", &[Stopped], &[Stopped], AtOnce),
        ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", &[Stopped], &[Stopped], AtOnce),
        ("MSG_SIZE_TOO_LARGE", &[Claimed], &[Later], Waits),
    ]),
    (Api::AddPartitionsToTxn, &[
        ("CONCURRENT_TRANSACTIONS", &[Committed], &[Again], Waits),
        ("COORDINATOR_NOT_AVAILABLE", &[Committed, InDoubt], &[Again, InDoubt], Waits),
        ("COORDINATOR_LOAD_IN_PROGRESS", &[Committed], &[Again], Waits),
        ("NOT_COORDINATOR", &[Committed, InDoubt], &[Again, InDoubt], Waits),
        ("REQUEST_TIMED_OUT", &[Again, InDoubt], &[Again, InDoubt], AtOnce),
        ("NOT_ENOUGH_REPLICAS", &[Again], &[Again], AtOnce),
        ("KAFKA_STORAGE_ERROR", &[Again], &[Again], AtOnce),
        ("UNSTABLE_OFFSET_COMMIT", &[Again], &[Again], AtOnce),
        ("INVALID_PRODUCER_EPOCH", &[Fenced], &[Fenced], AtOnce),
        ("PRODUCER_FENCED", &[Fenced], &[Fenced], AtOnce),
        ("INVALID_TXN_STATE", &[InDoubt], &[InDoubt], AtOnce),
        ("INVALID_PRODUCER_ID_MAPPING", &[Again], &[Again], AtOnce),
        ("UNKNOWN_PRODUCER_ID", &[Again], &[Again], AtOnce),
        ("OUT_OF_ORDER_SEQUENCE_NUMBER", &[Again], &[Again], AtOnce),
        ("ILLEGAL_GENERATION", &[Again], &[Again], AtOnce),
        ("UNKNOWN_MEMBER_ID", &[Again], &[Again], AtOnce),
        ("FENCED_INSTANCE_ID", &[Again], &[Again], AtOnce),
        ("STALE_MEMBER_EPOCH", &[Again], &[Again], AtOnce),
        ("TOPIC_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("GROUP_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("CLUSTER_AUTHORIZATION_FAILED", &[InDoubt], &[InDoubt], AtOnce),
        ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", &[InDoubt], &[InDoubt], AtOnce),
        ("MSG_SIZE_TOO_LARGE", &[Again, Rejected], &[Again, Rejected], AtOnce),
    ]),
    (Api::Produce, &[
        ("CONCURRENT_TRANSACTIONS", &[Again], &[Again], AtOnce),
        ("COORDINATOR_NOT_AVAILABLE", &[Committed], &[Again], Waits),
        ("COORDINATOR_LOAD_IN_PROGRESS", &[Committed], &[Again], Waits),
        ("NOT_COORDINATOR", &[Committed], &[Again], Waits),
        ("REQUEST_TIMED_OUT", &[Committed], &[Again], Waits),
        ("NOT_ENOUGH_REPLICAS", &[Committed], &[Again], Waits),
        ("KAFKA_STORAGE_ERROR", &[Committed], &[Again], Waits),
        ("UNSTABLE_OFFSET_COMMIT", &[Again], &[Again], AtOnce),
        ("INVALID_PRODUCER_EPOCH", &[Fenced], &[Fenced], AtOnce),
        ("PRODUCER_FENCED", &[Fenced], &[Fenced], AtOnce),
        ("INVALID_TXN_STATE", &[Again], &[Again], AtOnce),
        ("INVALID_PRODUCER_ID_MAPPING", &[Again], &[Again], AtOnce),
        ("UNKNOWN_PRODUCER_ID", &[Again], &[Again], AtOnce),
        ("OUT_OF_ORDER_SEQUENCE_NUMBER", &[InDoubt], &[InDoubt], AtOnce),
        ("ILLEGAL_GENERATION", &[Again], &[Again], AtOnce),
        ("UNKNOWN_MEMBER_ID", &[Again], &[Again], AtOnce),
        ("FENCED_INSTANCE_ID", &[Again], &[Again], AtOnce),
        ("STALE_MEMBER_EPOCH", &[Again], &[Again], AtOnce),
        ("TOPIC_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("GROUP_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("CLUSTER_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("MSG_SIZE_TOO_LARGE", &[Rejected], &[Rejected], AtOnce),
    ]),
    (Api::AddOffsetsToTxn, &[
        ("CONCURRENT_TRANSACTIONS", &[Committed], &[InDoubt], Waits),
        ("COORDINATOR_NOT_AVAILABLE", &[Committed], &[InDoubt], Waits),
        ("COORDINATOR_LOAD_IN_PROGRESS", &[Committed], &[InDoubt], Waits),
        ("NOT_COORDINATOR", &[Committed], &[InDoubt], Waits),
        ("REQUEST_TIMED_OUT", &[Committed], &[InDoubt], Waits),
        ("NOT_ENOUGH_REPLICAS", &[Again], &[Again], AtOnce),
        ("KAFKA_STORAGE_ERROR", &[Again], &[Again], AtOnce),
        ("UNSTABLE_OFFSET_COMMIT", &[Again], &[Again], AtOnce),
        ("INVALID_PRODUCER_EPOCH", &[Fenced], &[Fenced], AtOnce),
        ("PRODUCER_FENCED", &[Fenced], &[Fenced], AtOnce),
        ("INVALID_TXN_STATE", &[InDoubt], &[InDoubt], AtOnce),
        ("INVALID_PRODUCER_ID_MAPPING", &[Again], &[Again], AtOnce),
        ("UNKNOWN_PRODUCER_ID", &[Again], &[Again], AtOnce),
        ("OUT_OF_ORDER_SEQUENCE_NUMBER", &[Again], &[Again], AtOnce),
        ("ILLEGAL_GENERATION", &[Again], &[Again], AtOnce),
        ("UNKNOWN_MEMBER_ID", &[Again], &[Again], AtOnce),
        ("FENCED_INSTANCE_ID", &[Again], &[Again], AtOnce),
        ("STALE_MEMBER_EPOCH", &[Again], &[Again], AtOnce),
        ("TOPIC_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("GROUP_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("CLUSTER_AUTHORIZATION_FAILED", &[InDoubt], &[InDoubt], AtOnce),
        ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", &[InDoubt], &[InDoubt], AtOnce),
        ("MSG_SIZE_TOO_LARGE", &[Again], &[Again], AtOnce),
    ]),
    (Api::TxnOffsetCommit, &[
        ("CONCURRENT_TRANSACTIONS", &[Committed], &[Again], Waits),
        ("COORDINATOR_NOT_AVAILABLE", &[Committed], &[Again], Waits),
        ("COORDINATOR_LOAD_IN_PROGRESS", &[Committed], &[Again], Waits),
        ("NOT_COORDINATOR", &[Committed], &[Again], Waits),
        ("REQUEST_TIMED_OUT", &[Committed], &[InDoubt], Waits),
        ("NOT_ENOUGH_REPLICAS", &[Again], &[Again], AtOnce),
        ("KAFKA_STORAGE_ERROR", &[Again], &[Again], AtOnce),
        ("UNSTABLE_OFFSET_COMMIT", &[Again], &[Again], AtOnce),
        ("INVALID_PRODUCER_EPOCH", &[Fenced], &[Fenced], AtOnce),
        ("PRODUCER_FENCED", &[Fenced], &[Fenced], AtOnce),
        ("INVALID_TXN_STATE", &[InDoubt], &[InDoubt], AtOnce),
        ("INVALID_PRODUCER_ID_MAPPING", &[InDoubt], &[InDoubt], AtOnce),
        ("UNKNOWN_PRODUCER_ID", &[Again], &[Again], AtOnce),
        ("OUT_OF_ORDER_SEQUENCE_NUMBER", &[Again], &[Again], AtOnce),
        ("ILLEGAL_GENERATION", &[Again], &[Again], AtOnce),
        ("UNKNOWN_MEMBER_ID", &[Again], &[Again], AtOnce),
        ("FENCED_INSTANCE_ID", &[Again], &[Again], AtOnce),
        ("STALE_MEMBER_EPOCH", &[Again], &[Again], AtOnce),
        ("TOPIC_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("GROUP_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("CLUSTER_AUTHORIZATION_FAILED", &[InDoubt], &[InDoubt], AtOnce),
        ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", &[InDoubt], &[InDoubt], AtOnce),
        ("MSG_SIZE_TOO_LARGE", &[Again], &[Again], AtOnce),
    ]),
    (Api::EndTxn, &[
        ("CONCURRENT_TRANSACTIONS", &[Committed], &[InDoubt], Waits),
        ("COORDINATOR_NOT_AVAILABLE", &[Committed, InDoubt], &[InDoubt], Waits),
        ("COORDINATOR_LOAD_IN_PROGRESS", &[Committed], &[InDoubt], Waits),
        ("NOT_COORDINATOR", &[Committed, InDoubt], &[InDoubt], Waits),
        ("REQUEST_TIMED_OUT", &[InDoubt], &[InDoubt], AtOnce),
        ("NOT_ENOUGH_REPLICAS", &[Again], &[InDoubt], AtOnce),
        ("KAFKA_STORAGE_ERROR", &[Again], &[InDoubt], AtOnce),
        ("UNSTABLE_OFFSET_COMMIT", &[Again], &[InDoubt], AtOnce),
        ("INVALID_PRODUCER_EPOCH", &[InDoubt], &[InDoubt], AtOnce),
        ("PRODUCER_FENCED", &[InDoubt], &[InDoubt], AtOnce),
        ("INVALID_TXN_STATE", &[InDoubt], &[InDoubt], AtOnce),
        ("INVALID_PRODUCER_ID_MAPPING", &[Again], &[Again], AtOnce),
        ("UNKNOWN_PRODUCER_ID", &[Again], &[Again], AtOnce),
        ("OUT_OF_ORDER_SEQUENCE_NUMBER", &[Again], &[InDoubt], AtOnce),
        ("ILLEGAL_GENERATION", &[Again], &[InDoubt], AtOnce),
        ("UNKNOWN_MEMBER_ID", &[Again], &[InDoubt], AtOnce),
        ("FENCED_INSTANCE_ID", &[Again], &[InDoubt], AtOnce),
        ("STALE_MEMBER_EPOCH", &[Again], &[InDoubt], AtOnce),
        ("TOPIC_AUTHORIZATION_FAILED", &[Operator], &[InDoubt], AtOnce),
        ("GROUP_AUTHORIZATION_FAILED", &[Operator], &[InDoubt], AtOnce),
        ("CLUSTER_AUTHORIZATION_FAILED", &[InDoubt], &[InDoubt], AtOnce),
        ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", &[InDoubt], &[InDoubt], AtOnce),
        ("MSG_SIZE_TOO_LARGE", &[Again], &[InDoubt], AtOnce),
    ]),
    (Api::OffsetFetch, &[
        ("CONCURRENT_TRANSACTIONS", &[Later], &[Later], AtOnce),
        ("COORDINATOR_NOT_AVAILABLE", &[Later], &[Later], AtOnce),
        ("COORDINATOR_LOAD_IN_PROGRESS", &[Claimed], &[Later], Waits),
        ("NOT_COORDINATOR", &[Later], &[Later], AtOnce),
        ("REQUEST_TIMED_OUT", &[Claimed], &[Later], Waits),
        ("NOT_ENOUGH_REPLICAS", &[Claimed], &[Later], Waits),
        ("KAFKA_STORAGE_ERROR", &[Claimed], &[Later], Waits),
        ("UNSTABLE_OFFSET_COMMIT", &[Claimed], &[Later], Waits),
        ("INVALID_PRODUCER_EPOCH", &[Later], &[Later], AtOnce),
        ("PRODUCER_FENCED", &[Later], &[Later], AtOnce),
        ("INVALID_TXN_STATE", &[Later], &[Later], AtOnce),
        ("INVALID_PRODUCER_ID_MAPPING", &[Later], &[Later], AtOnce),
        ("UNKNOWN_PRODUCER_ID", &[Later], &[Later], AtOnce),
        ("OUT_OF_ORDER_SEQUENCE_NUMBER", &[Later], &[Later], AtOnce),
        ("ILLEGAL_GENERATION", &[Later], &[Later], AtOnce),
        ("UNKNOWN_MEMBER_ID", &[Later], &[Later], AtOnce),
        ("FENCED_INSTANCE_ID", &[Later], &[Later], AtOnce),
        ("STALE_MEMBER_EPOCH", &[Later], &[Later], AtOnce),
        ("TOPIC_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("GROUP_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("CLUSTER_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", &[Operator], &[Operator], AtOnce),
        ("MSG_SIZE_TOO_LARGE", &[Later], &[Later], AtOnce),
    ]),
    (Api::Heartbeat, &[
        ("CONCURRENT_TRANSACTIONS", &[Kept], &[], AtOnce),
        ("COORDINATOR_NOT_AVAILABLE", &[Kept], &[], AtOnce),
        ("COORDINATOR_LOAD_IN_PROGRESS", &[Kept], &[], AtOnce),
        ("NOT_COORDINATOR", &[Kept], &[], AtOnce),
        ("REQUEST_TIMED_OUT", &[Kept], &[], AtOnce),
        ("NOT_ENOUGH_REPLICAS", &[Kept], &[], AtOnce),
        ("KAFKA_STORAGE_ERROR", &[Kept], &[], AtOnce),
        ("UNSTABLE_OFFSET_COMMIT", &[Kept], &[], AtOnce),
        ("INVALID_PRODUCER_EPOCH", &[Kept], &[], AtOnce),
        ("PRODUCER_FENCED", &[Kept], &[], AtOnce),
        ("INVALID_TXN_STATE", &[Kept], &[], AtOnce),
        ("INVALID_PRODUCER_ID_MAPPING", &[Kept], &[], AtOnce),
        ("UNKNOWN_PRODUCER_ID", &[Kept], &[], AtOnce),
        ("OUT_OF_ORDER_SEQUENCE_NUMBER", &[Kept], &[], AtOnce),
        ("ILLEGAL_GENERATION", &[Lost], &[], AtOnce),
        ("UNKNOWN_MEMBER_ID", &[Lost], &[], AtOnce),
        ("FENCED_INSTANCE_ID", &[Ended], &[], AtOnce),
        ("STALE_MEMBER_EPOCH", &[Kept], &[], AtOnce),
        ("TOPIC_AUTHORIZATION_FAILED", &[Kept], &[], AtOnce),
        ("GROUP_AUTHORIZATION_FAILED", &[Kept], &[], AtOnce),
        ("CLUSTER_AUTHORIZATION_FAILED", &[Kept], &[], AtOnce),
        ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", &[Kept], &[], AtOnce),
        ("MSG_SIZE_TOO_LARGE", &[Kept], &[], AtOnce),
    ]),
];

/// Times in which a busy machine does not look like a broken connection, and in which waiting for
/// the end of a transaction is short.
const PATIENT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(4);
/// More than librdkafka sends in that time.
const FOR_EVER: usize = 10_000;
/// Mock clusters side by side: most of the time is waiting.
const CLUSTERS: usize = 10;
/// How long a member is watched that should not notice anything: three heartbeats.
const WATCH: Duration = Duration::from_millis(1600);

fn code(name: &str) -> Code {
    let name = format!("RD_KAFKA_RESP_ERR_{name}");
    let known = (0..=300).filter_map(|number| Code::try_from(number).ok());
    let found = known.into_iter().find(|code| format!("{code:?}") == name);
    found.unwrap_or_else(|| panic!("{name} is no code"))
}

/// One thing to try.
#[derive(Clone, Copy, Debug)]
struct Case {
    api: Api,
    code: Code,
    times: usize,
    wanted: &'static [Made],
}

impl Case {
    fn is_of_a_twin(&self) -> bool {
        let twin = [
            Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED,
            Code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
        ];
        twin.contains(&self.code)
    }

    /// The consumer may ask for its own coordinator at that moment, and meets the one refusal in the
    /// producer's place: the claim goes through, which says nothing. A code that is really not heeded
    /// gives that answer every time.
    fn was_met_by_the_consumer(&self, made: Made) -> bool {
        matches!(self.api, Api::FindCoordinator)
            && made == Claimed
            && !self.wanted.contains(&Claimed)
    }
}

/// All cases with patient and with short transactions.
fn cases() -> (VecDeque<Case>, VecDeque<Case>) {
    let (mut patient, mut short) = (VecDeque::new(), VecDeque::new());
    for (api, rows) in TABLE {
        for (name, once, for_ever, ends) in *rows {
            let case = |times, wanted| Case { api: *api, code: code(name), times, wanted };
            patient.push_back(case(1, *once));
            match ends {
                _ if for_ever.is_empty() => {}
                AtOnce => patient.push_back(case(FOR_EVER, *for_ever)),
                Waits => short.push_back(case(FOR_EVER, *for_ever)),
            }
        }
    }
    (patient, short)
}

impl Rig {
    async fn try_claim(&mut self) -> Result<(), SinkError> {
        let request = ClaimRequest { partition: self.partition.clone(), topic_id: None };
        self.sink.claim(&[request]).await.map(|_| ())
    }

    async fn try_commit(&mut self) -> Made {
        let batch = self.batch(1);
        match self.sink.commit(&batch).await {
            Ok(()) => Committed,
            Err(CommitError::Aborted(cause)) if cause.is_for_operator() => Operator,
            Err(CommitError::Aborted(_)) => Again,
            Err(CommitError::Fenced(_)) => Fenced,
            Err(CommitError::InDoubt(_)) => InDoubt,
            Err(CommitError::Rejected(_)) => Rejected,
            Err(other) => panic!("{other}"),
        }
    }

    async fn made_by_a_claim(&mut self) -> Made {
        match self.try_claim().await {
            Ok(()) => Claimed,
            Err(SinkError::Retry(cause)) if cause.is_for_operator() => Operator,
            Err(SinkError::Retry(_)) => Later,
            Err(SinkError::Fenced(_)) => Fenced,
            Err(SinkError::Stop(_)) => Stopped,
            Err(other) => panic!("{other}"),
        }
    }

    /// What the member notices within a while.
    async fn noticed(&mut self) -> Made {
        match tokio::time::timeout(WATCH, self.event()).await {
            Err(_) => Kept,
            Ok(SourceEvent::Lost(_)) => Lost,
            Ok(SourceEvent::Failed(_)) => Ended,
            Ok(other) => panic!("{other:?}"),
        }
    }

    async fn make(&mut self, case: Case) -> Made {
        let errors = vec![case.code; case.times];
        if matches!(case.api, Api::InitProducerId | Api::FindCoordinator) {
            let lose = Code::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE;
            self.cluster.request_errors(Api::EndTxn, &[lose]);
            assert_eq!(self.try_commit().await, InDoubt, "the producer must go");
        }
        self.cluster.request_errors(case.api, &errors);
        let made = match case.api {
            Api::InitProducerId | Api::FindCoordinator | Api::OffsetFetch => {
                self.made_by_a_claim().await
            }
            Api::Heartbeat => self.noticed().await,
            _ => self.try_commit().await,
        };
        self.cluster.clear_request_errors(case.api);
        made
    }

    /// When nothing is refused any more everything goes on, by a claim only where one is due.
    async fn recovers(&mut self, case: Case, made: Made) {
        if made == Lost {
            self.start_partition(1, 0).await;
        }
        let mut needs_claim = matches!(made, InDoubt | Fenced | Later);
        // The mock counts a message that it refused as a gap in the sequence, once or twice; and on
        // a busy machine a commit can take suspiciously long.
        for _ in 0..6 {
            if needs_claim {
                self.try_claim().await.unwrap_or_else(|error| panic!("{case:?}: {error}"));
            }
            match self.try_commit().await {
                Committed => return,
                made => needs_claim = matches!(made, InDoubt | Fenced),
            }
        }
        panic!("{case:?}: {made:?}, and it does not go on");
    }
}

/// Tries cases from the queue until it is empty.
async fn work(queue: &Mutex<VecDeque<Case>>, transactions: Duration, found: &Mutex<Vec<Found>>) {
    let mut rig: Option<Rig> = None;
    let mut fenced = 0;
    loop {
        let next = queue.lock().expect("no panic").pop_front();
        let Some(case) = next else { break };
        let mut one = match rig.take() {
            Some(rig) => rig,
            None => Rig::start_with(transactions).await,
        };
        let mut made = one.make(case).await;
        for _ in 0..2 {
            if case.was_met_by_the_consumer(made) {
                one.recovers(case, made).await;
                made = one.make(case).await;
            }
        }
        // The engine ends, by name; and so it would at the sixth fence within a minute.
        fenced += usize::from(case.is_of_a_twin());
        let ends = matches!(made, Stopped | Ended | Operator) || fenced > 4;
        if case.wanted.contains(&made) && !ends {
            one.recovers(case, made).await;
            rig = Some(one);
        } else {
            fenced = 0;
            if made != Ended {
                one.close().await;
            }
        }
        found.lock().expect("no panic").push(Found { case, made });
    }
    if let Some(rig) = rig {
        rig.close().await;
    }
}

struct Found {
    case: Case,
    made: Made,
}

#[test]
fn every_code_at_every_call_leads_to_what_its_row_says() {
    let (patient, short) = cases();
    let count = patient.len() + short.len();
    let (patient, short) = (Mutex::new(patient), Mutex::new(short));
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..2 * CLUSTERS {
            let (queue, transactions) =
                if number % 2 == 0 { (&patient, PATIENT) } else { (&short, SHORT) };
            let found = &found;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(work(queue, transactions, found));
            });
        }
    });
    let found = found.into_inner().expect("no panic");
    assert_eq!(found.len(), count, "each row is tried");
    let wrong: Vec<String> = found
        .iter()
        .filter(|Found { case, made }| !case.wanted.contains(made))
        .map(|Found { case, made }| format!("{case:?}: {made:?}"))
        .collect();
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    // A code that is not met changes nothing: each call must have been refused by some code.
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    for Found { case, made } in &found {
        let unmet = matches!(made, Committed | Claimed | Kept);
        *refused.entry(format!("{:?}", case.api)).or_default() += usize::from(!unmet);
    }
    assert_eq!(refused.len(), TABLE.len());
    assert!(refused.values().all(|count| *count > 0), "{refused:?}");
}

#[test]
fn the_table_names_every_code_once_at_every_call() {
    let names = |rows: &[Row]| rows.iter().map(|row| row.0).collect::<Vec<_>>();
    let first = names(TABLE[0].1);
    assert!(first.len() > 20 && TABLE.len() == 9, "{} codes", first.len());
    for (api, rows) in TABLE {
        assert_eq!(names(rows), first, "{api:?}");
        assert!(rows.iter().all(|row| !row.1.is_empty()), "{api:?}");
    }
}
