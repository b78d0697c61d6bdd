//! Why a transactional producer did not start, in words that name the setting and the limit.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode as Code;
use tidegate::sink::SinkError;
use tidegate::{Cause, Error};

use crate::error;
use crate::ffi::Failure;
use crate::producer::Times;
use crate::settings::Kafka;

/// How long the broker may take to tell its limit.
const ASK_MAX: Duration = Duration::from_secs(5);
/// The broker's setting that limits transactions.
const LIMIT: &str = "transaction.max.timeout.ms";

/// What the failed start of a producer means.
pub(crate) async fn start_failed(kafka: &Kafka, failure: Failure, times: Times) -> SinkError {
    match failure.code {
        Code::InvalidTransactionTimeout => {
            let limit = broker_limit(kafka).await.map_or_else(
                || format!("the broker's {LIMIT}"),
                |limit| format!("the broker's {LIMIT} of {limit} ms"),
            );
            SinkError::Stop(
                Error::configuration(
                    "transaction_timeout",
                    format_args!("{} ms is above {limit}", times.transaction.as_millis()),
                )
                .remedy("shorten it, or raise the broker's limit"),
            )
        }
        Code::InvalidArgument => SinkError::Stop(Error::configuration("kafka sink", failure.text)),
        code if error::is_authorization(code) => SinkError::Stop(
            Error::sink_failed(format_args!("a right is missing: {failure}"))
                .remedy("grant WRITE on the transactional id and the output topics"),
        ),
        code if error::is_authentication(code) => SinkError::Stop(error::not_accepted(failure)),
        Code::UnsupportedFeature | Code::UnsupportedVersion => SinkError::Stop(Error::sink_failed(
            format_args!("the broker has no transactions: {failure}"),
        )),
        _ => SinkError::Retry(Cause::from_error("a producer could not be started", failure)),
    }
}

/// The broker's limit in milliseconds, if it tells.
async fn broker_limit(kafka: &Kafka) -> Option<String> {
    let admin: AdminClient<DefaultClientContext> = kafka.common().ok()?.create().ok()?;
    // Not the one that answered: under the address it was reached by, it may have no number yet.
    let broker = admin.inner().fetch_metadata(None, ASK_MAX).ok()?.brokers().first()?.id();
    let options = AdminOptions::new().request_timeout(Some(ASK_MAX));
    let configs =
        admin.describe_configs(&[ResourceSpecifier::Broker(broker)], &options).await.ok()?;
    let config = configs.into_iter().next()?.ok()?;
    config.get(LIMIT)?.value.clone()
}
