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
