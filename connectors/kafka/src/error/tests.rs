use super::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Says {
    Nothing,
    Fatal,
    Retriable,
    Abort,
}

fn verdict(call: Call, code: Code, says: Says) -> Verdict {
    judge(
        call,
        &Failure {
            code,
            fatal: says == Says::Fatal,
            retriable: says == Says::Retriable,
            abort: says == Says::Abort,
            text: String::new(),
        },
    )
}

/// One test per line of the table: its name says what the line promises, its body every sample.
macro_rules! rows {
    ($($name:ident: $expected:ident = [$(($call:ident, $code:ident, $says:ident)),+ $(,)?];)+) => {
        $(#[test] fn $name() {
            $(assert_eq!(
                verdict(Call::$call, Code::$code, Says::$says),
                Verdict::$expected,
                "{:?} {:?} {:?}", Call::$call, Code::$code, Says::$says,
            );)+
        })+

        const SAMPLES: &[(Call, Code, Verdict)] =
            &[$($((Call::$call, Code::$code, Verdict::$expected)),+),+];
    };
}

rows! {
    a_missing_right_needs_an_operator: Operator = [
        (SendOffsets, TopicAuthorizationFailed, Abort),
        (SendOffsets, GroupAuthorizationFailed, Abort),
        (Commit, TopicAuthorizationFailed, Abort),
        (Commit, ClusterAuthorizationFailed, Fatal),
        (Begin, TransactionalIdAuthorizationFailed, Fatal),
        (Delivery, TopicAuthorizationFailed, Nothing),
        (Commit, SaslAuthenticationFailed, Nothing),
        (Commit, Authentication, Nothing),
    ];
    a_missing_feature_or_a_limit_needs_an_operator: Operator = [
        (Commit, UnsupportedFeature, Fatal),
        (SendOffsets, UnsupportedVersion, Fatal),
        (Delivery, UnsupportedForMessageFormat, Nothing),
        (Begin, InvalidTransactionTimeout, Fatal),
        (Delivery, UnsupportedCompressionType, Nothing),
        (Delivery, PolicyViolation, Nothing),
    ];
    fenced_before_the_commit_stored_nothing: Fenced = [
        (Begin, Fenced, Fatal),
        (Produce, Fenced, Nothing),
        (Delivery, InvalidProducerEpoch, Nothing),
        (SendOffsets, Fenced, Fatal),
        (SendOffsets, ProducerFenced, Fatal),
        (SendOffsets, InvalidProducerEpoch, Abort),
    ];
    fenced_at_the_commit_is_in_doubt: InDoubt = [
        (Commit, Fenced, Fatal),
        (Commit, ProducerFenced, Fatal),
        (Commit, InvalidProducerEpoch, Fatal),
        (Abort, Fenced, Fatal),
    ];
    any_other_fatal_failure_is_in_doubt: InDoubt = [
        (Begin, Fatal, Fatal),
        (Produce, Fatal, Fatal),
        (Commit, InvalidTransactionalState, Fatal),
        (SendOffsets, InvalidTransactionalState, Fatal),
        (Commit, OutOfOrderSequenceNumber, Fatal),
        (Commit, Inconsistent, Fatal),
    ];
    a_time_out_or_a_broken_connection_is_in_doubt_whatever_librdkafka_asks_for: InDoubt = [
        (Commit, OperationTimedOut, Abort),
        (SendOffsets, OperationTimedOut, Abort),
        (SendOffsets, OperationTimedOut, Retriable),
        (Commit, OperationTimedOut, Retriable),
        (Abort, OperationTimedOut, Retriable),
        (Commit, TimedOutQueue, Abort),
        (Commit, BrokerTransportFailure, Retriable),
        (SendOffsets, BrokerTransportFailure, Nothing),
        (Commit, RequestTimedOut, Retriable),
        (Commit, NetworkException, Nothing),
        (Abort, AllBrokersDown, Nothing),
    ];
    lost_membership_keeps_the_batch: Membership = [
        (SendOffsets, IllegalGeneration, Abort),
        (SendOffsets, UnknownMemberId, Abort),
        (SendOffsets, StaleMemberEpoch, Abort),
        (SendOffsets, FencedMemberEpoch, Abort),
        (SendOffsets, RebalanceInProgress, Abort),
        (SendOffsets, FencedInstanceId, Abort),
        (Commit, IllegalGeneration, Abort),
    ];
    a_bad_message_is_rejected: Rejected = [
        (Produce, MessageSizeTooLarge, Nothing),
        (Delivery, MessageSizeTooLarge, Nothing),
        (Delivery, InvalidMessageSize, Nothing),
        (Delivery, MessageBatchTooLarge, Nothing),
        (Delivery, InvalidRecord, Nothing),
        (Delivery, InvalidTimestamp, Nothing),
        (Produce, InvalidTopic, Nothing),
        (Produce, UnknownPartition, Nothing),
        (Delivery, UnknownPartition, Nothing),
        (Produce, InvalidArgument, Nothing),
    ];
    a_missing_output_topic_needs_an_operator: Operator = [
        (Produce, UnknownTopic, Nothing),
        (Delivery, UnknownTopic, Nothing),
        (Delivery, UnknownTopicOrPartition, Nothing),
    ];
    any_other_failed_message_aborts: Retry = [
        (Produce, State, Nothing),
        (Produce, QueueFull, Nothing),
        (Delivery, MessageTimedOut, Nothing),
        (Delivery, NotEnoughReplicas, Nothing),
        (Delivery, PurgeQueue, Nothing),
    ];
    an_abortable_failure_aborts: Retry = [
        (Commit, MessageTimedOut, Abort),
        (Commit, UnknownProducerId, Abort),
        (SendOffsets, OffsetMetadataTooLarge, Abort),
        (Begin, ConcurrentTransactions, Abort),
    ];
    what_nobody_recognises_is_in_doubt: InDoubt = [
        (Commit, Unknown, Nothing),
        (Commit, ConcurrentTransactions, Retriable),
        (Abort, InvalidTransactionalState, Abort),
        (Begin, Conflict, Nothing),
        (Begin, State, Nothing),
    ];
}

#[test]
fn every_line_of_the_table_decides_something() {
    // A line that an earlier one always hides would be a promise nobody keeps.
    for (index, rule) in TABLE.iter().enumerate() {
        let calls = [Call::Begin, Call::Produce, Call::Delivery, Call::SendOffsets, Call::Commit];
        let call = rule.calls.first().copied().unwrap_or(calls[3]);
        for code in
            rule.codes.iter().copied().chain([Code::Inconsistent]).take(rule.codes.len().max(1))
        {
            let found = TABLE.iter().position(|other| {
                (other.calls.is_empty() || other.calls.contains(&call))
                    && (other.codes.is_empty() || other.codes.contains(&code))
                    && (other.flag == Flag::Any || other.flag == rule.flag)
            });
            assert_eq!(found, Some(index), "line {index}, {code:?}");
        }
    }
}

#[test]
fn every_code_of_every_line_has_a_sample() {
    let mut looked_at = 0;
    for (index, rule) in TABLE.iter().enumerate() {
        for code in rule.codes {
            looked_at += 1;
            let is_sampled = SAMPLES.iter().any(|(call, sample, verdict)| {
                (sample, *verdict) == (code, rule.verdict)
                    && (rule.calls.is_empty() || rule.calls.contains(call))
            });
            assert!(is_sampled, "line {index}: no sample says what {code:?} means");
        }
    }
    assert!(looked_at > 30, "{looked_at} codes");
}

#[test]
fn a_group_commit_of_a_former_member_is_fenced() {
    for code in [Code::IllegalGeneration, Code::UnknownMemberId, Code::StaleMemberEpoch] {
        assert!(matches!(group_commit(code), SourceError::Fenced(_)), "{code:?}");
    }
    for code in [Code::RebalanceInProgress, Code::OperationTimedOut, Code::NotCoordinator] {
        assert!(matches!(group_commit(code), SourceError::Retry(_)), "{code:?}");
    }
    match group_commit(Code::GroupAuthorizationFailed) {
        SourceError::Retry(cause) => assert!(cause.is_for_operator()),
        other => panic!("{other}"),
    }
}

#[test]
fn reports_are_sorted_by_what_to_do() {
    let text = "Subscribed topic not available: a.b-c: Broker: Unknown topic or partition";
    match report(Code::UnknownTopicOrPartition, false, text) {
        Report::NoTopic(Some(topic)) => assert_eq!(topic, "a.b-c"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(report(Code::AllBrokersDown, false, ""), Report::NoBroker(_)));
    assert!(matches!(report(Code::BrokerTransportFailure, false, ""), Report::Log));
    assert!(matches!(report(Code::PollExceeded, false, ""), Report::Log));
    match report(Code::FencedInstanceId, true, "x") {
        Report::Stop(error) => assert!(error.is_fenced()),
        other => panic!("{other:?}"),
    }
    match report(Code::InvalidRequest, true, "x") {
        Report::Stop(error) => assert!(error.is_source()),
        other => panic!("{other:?}"),
    }
    assert!(matches!(report(Code::GroupAuthorizationFailed, false, "x"), Report::Stop(_)));
}

/// Every error code that librdkafka and the brokers know.
fn every_code() -> Vec<Code> {
    let known =
        (-300..=300).filter_map(|number| rdkafka::types::RDKafkaRespErr::try_from(number).ok());
    let codes: Vec<Code> = known.map(Code::from).collect();
    assert!(codes.len() > 150 && codes.contains(&Code::StaleMemberEpoch), "{}", codes.len());
    codes
}

const EVERY_CALL: [Call; 6] =
    [Call::Begin, Call::Produce, Call::Delivery, Call::SendOffsets, Call::Commit, Call::Abort];

/// Every call, every code, every combination of what librdkafka says about it.
fn every_failure() -> Vec<(Call, Failure)> {
    let mut failures = Vec::new();
    for (call, code) in EVERY_CALL
        .into_iter()
        .flat_map(|call| every_code().into_iter().map(move |code| (call, code)))
    {
        for flags in 0..8 {
            let (fatal, retriable, abort) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            failures.push((call, Failure { code, fatal, retriable, abort, text: String::new() }));
        }
    }
    failures
}

/// The rules once more, as plainly as possible, by the names that librdkafka gives its codes.
fn naive(call: Call, failure: &Failure) -> Verdict {
    let name = format!("{:?}", failure.code);
    let is = |names: &[&str]| names.contains(&name.as_str());
    let is_message = matches!(call, Call::Produce | Call::Delivery);
    let sends_nothing_more = matches!(call, Call::Commit | Call::Abort);
    if name.ends_with("AuthorizationFailed") && !is(&["DelegationTokenAuthorizationFailed"])
        || is(&["SaslAuthenticationFailed", "Authentication"])
        || is(&["UnsupportedFeature", "UnsupportedVersion", "UnsupportedForMessageFormat"])
        || is(&["UnsupportedCompressionType", "InvalidTransactionTimeout", "PolicyViolation"])
    {
        return Verdict::Operator;
    }
    if is(&["Fenced", "ProducerFenced", "InvalidProducerEpoch"]) && !sends_nothing_more {
        return Verdict::Fenced;
    }
    if failure.fatal {
        return Verdict::InDoubt;
    }
    if is_message {
        return if is(&["UnknownTopic", "UnknownTopicOrPartition"]) {
            Verdict::Operator
        } else if is(&["MessageSizeTooLarge", "InvalidMessageSize", "MessageBatchTooLarge"])
            || is(&["InvalidRecord", "InvalidTimestamp", "InvalidTopic", "UnknownPartition"])
            || is(&["InvalidArgument"])
        {
            Verdict::Rejected
        } else {
            Verdict::Retry
        };
    }
    let nobody_heard = is(&["OperationTimedOut", "TimedOutQueue", "RequestTimedOut"])
        || is(&["BrokerTransportFailure", "NetworkException", "AllBrokersDown"]);
    let moved_on = is(&["IllegalGeneration", "UnknownMemberId", "RebalanceInProgress"])
        || is(&["StaleMemberEpoch", "FencedMemberEpoch", "FencedInstanceId"]);
    match call {
        Call::Abort => Verdict::InDoubt,
        Call::Begin if failure.abort => Verdict::Retry,
        Call::SendOffsets | Call::Commit if nobody_heard => Verdict::InDoubt,
        Call::SendOffsets | Call::Commit if failure.abort && moved_on => Verdict::Membership,
        Call::SendOffsets | Call::Commit if failure.abort => Verdict::Retry,
        _ => Verdict::InDoubt,
    }
}

#[test]
fn every_failure_of_every_call_means_what_the_rules_say() {
    for (call, failure) in every_failure() {
        assert_eq!(judge(call, &failure), naive(call, &failure), "{call:?} {failure:?}");
    }
}

#[test]
fn no_failure_of_any_call_is_taken_for_harmless_without_a_reason() {
    use Verdict::{Fenced, InDoubt, Membership, Operator, Rejected, Retry};
    let mut compared = 0;
    for (call, failure) in every_failure() {
        compared += 1;
        let verdict = judge(call, &failure);
        let what = format!("{call:?} {failure:?}: {verdict:?}");
        let ends = matches!(call, Call::Commit | Call::Abort);
        // Once the end of a transaction was asked for, only librdkafka's word that it must be
        // aborted, or a right that is missing, makes it certain that nothing is stored.
        if ends && (failure.fatal || !failure.abort || call == Call::Abort) {
            assert!(matches!(verdict, InDoubt | Operator), "{what}");
        }
        match verdict {
            Fenced => assert!(!ends, "{what}"),
            Rejected => assert!(matches!(call, Call::Produce | Call::Delivery), "{what}"),
            Membership => assert!(failure.abort && !failure.fatal, "{what}"),
            Retry => assert!(!failure.fatal, "{what}"),
            InDoubt | Operator => {}
        }
        if is_authorization(failure.code) {
            assert_eq!(verdict, Operator, "{what}");
        }
        // That the same call may be made again is said of calls that may have been heard.
        let again = Failure { retriable: !failure.retriable, ..failure.clone() };
        assert_eq!(judge(call, &again), verdict, "{what}");
    }
    assert!(compared > 7_000, "{compared}");
}

#[test]
fn every_code_of_a_group_commit_a_question_and_a_report_is_sorted_by_what_to_do() {
    let is_fence = |code: Code| {
        let name = format!("{code:?}");
        name.starts_with("Fenced") && name != "Fenced" && !name.contains("LeaderEpoch")
            || ["IllegalGeneration", "UnknownMemberId", "StaleMemberEpoch", "AssignmentLost"]
                .contains(&name.as_str())
    };
    for code in every_code() {
        match (group_commit(code), is_fence(code)) {
            (SourceError::Fenced(_), true) => {}
            (SourceError::Retry(cause), false) => {
                assert_eq!(cause.is_for_operator(), is_authorization(code), "{code:?}");
            }
            (other, _) => panic!("{code:?}: {other}"),
        }
        match question("it", code) {
            SourceError::Retry(cause) => {
                assert_eq!(cause.is_for_operator(), is_authorization(code), "{code:?}");
            }
            other => panic!("{code:?}: {other}"),
        }
        // What is fatal ends the source, and so does what only an operator or a namesake can mend.
        assert!(matches!(report(code, true, ""), Report::Stop(_)), "{code:?}");
        let stops = matches!(report(code, false, ""), Report::Stop(_));
        let is_namesake = matches!(code, Code::FencedInstanceId | Code::UnreleasedInstanceId);
        assert_eq!(stops, is_authorization(code) || is_namesake, "{code:?}");
    }
}
