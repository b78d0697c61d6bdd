//! What Kafka's error codes mean, by what the caller must do: the only place that knows.

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use tidegate::source::SourceError;
use tidegate::{Cause, Error};

use crate::ffi::Failure;

/// What an answer without brokers says: of a broker that its controller has not taken back yet.
pub(crate) const NO_BROKERS: &str = "the cluster has no brokers yet";

/// The call of a transactional producer that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// `begin_transaction`: nothing is sent.
    Begin,
    /// Handing a message to the producer: nothing is sent yet.
    Produce,
    /// A message came back undelivered.
    Delivery,
    /// `send_offsets_to_transaction`.
    SendOffsets,
    /// `commit_transaction`.
    Commit,
    /// `abort_transaction`.
    Abort,
}

/// What a failed call means for the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Abort the transaction; once that is confirmed nothing is stored and the batch may be tried
    /// again.
    Retry,
    /// As `Retry`, after the group told of newer membership.
    Membership,
    /// As `Retry`, but no repetition helps until an operator acts.
    Operator,
    /// As `Retry`, but the message itself is at fault.
    Rejected,
    /// Another producer took this one's place before anything was committed. The producer is
    /// dead.
    Fenced,
    /// Nobody knows. The producer is thrown away; a new one decides what became of it.
    InDoubt,
}

/// Which of librdkafka's flags a failure must carry for a rule to apply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flag {
    Any,
    Fatal,
    Abort,
}

/// One line of the table.
struct Rule {
    /// For these calls; empty: all.
    calls: &'static [Call],
    /// For these codes; empty: all.
    codes: &'static [Code],
    flag: Flag,
    verdict: Verdict,
}

const fn rule(
    calls: &'static [Call],
    codes: &'static [Code],
    flag: Flag,
    verdict: Verdict,
) -> Rule {
    Rule { calls, codes, flag, verdict }
}

const ANY_CALL: &[Call] = &[];
const ANY_CODE: &[Code] = &[];
const BEFORE_COMMIT: &[Call] = &[Call::Begin, Call::Produce, Call::Delivery, Call::SendOffsets];
const MESSAGE: &[Call] = &[Call::Produce, Call::Delivery];

/// From codes, flags and calls to fates. The first line that matches decides; what no line knows
/// is in doubt.
const TABLE: &[Rule] = &[
    // Rights, features and limits: the same again would fail the same way.
    rule(
        ANY_CALL,
        &[
            Code::TopicAuthorizationFailed,
            Code::GroupAuthorizationFailed,
            Code::ClusterAuthorizationFailed,
            Code::TransactionalIdAuthorizationFailed,
            Code::SaslAuthenticationFailed,
            Code::Authentication,
        ],
        Flag::Any,
        Verdict::Operator,
    ),
    rule(
        ANY_CALL,
        &[
            Code::UnsupportedFeature,
            Code::UnsupportedVersion,
            Code::UnsupportedForMessageFormat,
            Code::InvalidTransactionTimeout,
            Code::UnsupportedCompressionType,
            Code::PolicyViolation,
        ],
        Flag::Any,
        Verdict::Operator,
    ),
    // Another producer with our id, or the coordinator gave our transaction up: before the
    // commit was asked for it cannot have happened, after that only the successor knows.
    rule(
        BEFORE_COMMIT,
        &[Code::Fenced, Code::ProducerFenced, Code::InvalidProducerEpoch],
        Flag::Any,
        Verdict::Fenced,
    ),
    rule(ANY_CALL, ANY_CODE, Flag::Fatal, Verdict::InDoubt),
    // librdkafka asks for an abort when a commit ran out of time, although the commit may be on
    // its way; and it sends requests again after a broken connection without a word.
    rule(
        &[Call::SendOffsets, Call::Commit, Call::Abort],
        &[
            Code::OperationTimedOut,
            Code::TimedOutQueue,
            Code::RequestTimedOut,
            Code::BrokerTransportFailure,
            Code::NetworkException,
            Code::AllBrokersDown,
        ],
        Flag::Any,
        Verdict::InDoubt,
    ),
    // The group moved on without us, or is moving.
    rule(
        &[Call::SendOffsets, Call::Commit],
        &[
            Code::IllegalGeneration,
            Code::UnknownMemberId,
            Code::StaleMemberEpoch,
            Code::FencedMemberEpoch,
            Code::RebalanceInProgress,
            Code::FencedInstanceId,
        ],
        Flag::Abort,
        Verdict::Membership,
    ),
    // The message itself.
    rule(
        MESSAGE,
        &[
            Code::MessageSizeTooLarge,
            Code::InvalidMessageSize,
            Code::MessageBatchTooLarge,
            Code::InvalidRecord,
            Code::InvalidTimestamp,
            Code::InvalidTopic,
            Code::UnknownPartition,
            Code::InvalidArgument,
        ],
        Flag::Any,
        Verdict::Rejected,
    ),
    rule(
        MESSAGE,
        &[Code::UnknownTopic, Code::UnknownTopicOrPartition],
        Flag::Any,
        Verdict::Operator,
    ),
    // `State` from a send: the transaction failed in the background meanwhile. `QueueFull`: it
    // did not empty within the transaction's time.
    rule(MESSAGE, ANY_CODE, Flag::Any, Verdict::Retry),
    // librdkafka says so: the transaction was not committed and must be aborted.
    rule(&[Call::Begin, Call::SendOffsets, Call::Commit], ANY_CODE, Flag::Abort, Verdict::Retry),
    // Everything else: see `judge`.
];

/// What a failure of this call means; what the table does not know is in doubt.
pub(crate) fn judge(call: Call, failure: &Failure) -> Verdict {
    TABLE
        .iter()
        .find(|rule| {
            (rule.calls.is_empty() || rule.calls.contains(&call))
                && (rule.codes.is_empty() || rule.codes.contains(&failure.code))
                && match rule.flag {
                    Flag::Any => true,
                    Flag::Fatal => failure.fatal,
                    Flag::Abort => failure.abort,
                }
        })
        .map_or(Verdict::InDoubt, |rule| rule.verdict)
}

/// What the failure of a commit of group offsets means.
pub(crate) fn group_commit(code: Code) -> SourceError {
    let cause = Cause::from_error("group commit", KafkaError::ConsumerCommit(code));
    match code {
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::StaleMemberEpoch
        | Code::FencedMemberEpoch
        | Code::FencedInstanceId
        | Code::AssignmentLost => SourceError::Fenced(cause),
        code if is_authorization(code) => SourceError::Retry(cause.needs_operator()),
        _ => SourceError::Retry(cause),
    }
}

/// What the failure of a question to the cluster means.
pub(crate) fn question(what: &str, code: Code) -> SourceError {
    let cause = Cause::from_error(what, KafkaError::MetadataFetch(code));
    if is_authorization(code) {
        SourceError::Retry(cause.needs_operator())
    } else {
        SourceError::Retry(cause)
    }
}

/// The code inside an error of the safe client.
pub(crate) fn code_of(error: &KafkaError) -> Code {
    error.rdkafka_error_code().unwrap_or(Code::Unknown)
}

/// Whether a right is missing.
pub(crate) fn is_authorization(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

/// Whether the broker does not believe who we are, or cannot be talked to safely.
pub(crate) fn is_authentication(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::SSL
    )
}

/// The error of a start that broker and client do not let each other make.
pub(crate) fn not_accepted(text: impl std::fmt::Display) -> Error {
    Error::configuration(
        "security",
        format_args!("the broker and this client do not accept each other: {text}"),
    )
    .remedy("check user, password and certificate authority, and that the listener is secured")
}

/// What an error that the consumer reports, apart from any partition, means.
#[derive(Debug)]
pub(crate) enum Report {
    /// The source ends for good.
    Stop(Error),
    /// No broker can be reached; the client goes on trying.
    NoBroker(String),
    /// A subscribed topic does not exist; the client goes on looking.
    NoTopic(Option<String>),
    /// Nothing to do but to log it.
    Log,
}

/// Sorts an error that the consumer reports.
pub(crate) fn report(code: Code, fatal: bool, text: &str) -> Report {
    match code {
        Code::FencedInstanceId | Code::UnreleasedInstanceId => Report::Stop(
            Error::fenced(format_args!("the group's member was fenced: {text}"))
                .remedy("another process uses the same instance name; give each its own"),
        ),
        code if is_authorization(code) => Report::Stop(
            Error::source_failed(format_args!("a right is missing: {text}"))
                .remedy("grant READ on the topics and the group to this principal"),
        ),
        _ if fatal => {
            Report::Stop(Error::source_failed(format_args!("the consumer failed for good: {text}")))
        }
        Code::AllBrokersDown => Report::NoBroker(text.to_string()),
        Code::UnknownTopicOrPartition | Code::UnknownTopic => Report::NoTopic(missing_topic(text)),
        _ => Report::Log,
    }
}

/// The topic in librdkafka's words "Subscribed topic not available: NAME: Broker: …".
fn missing_topic(text: &str) -> Option<String> {
    let rest = text.strip_prefix("Subscribed topic not available: ")?;
    let end = rest.find(": ")?;
    Some(rest[..end].to_string())
}

#[cfg(test)]
mod tests;
