//! The pass-through of librdkafka's settings: what it knows, what would break the guarantee, and
//! the nearest name of a misspelt one.

use tidegate::Error;

/// Which client a setting is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// The consumer behind a source.
    Source,
    /// The producer behind a sink.
    Sink,
}

/// Why a setting is not passed through, and what to use instead.
struct Refusal {
    key: &'static str,
    /// The only values that are let through: they change nothing.
    harmless: &'static [&'static str],
    reason: &'static str,
}

const fn refuse(key: &'static str, reason: &'static str) -> Refusal {
    Refusal { key, harmless: &[], reason }
}

const fn unless(
    key: &'static str,
    harmless: &'static [&'static str],
    reason: &'static str,
) -> Refusal {
    Refusal { key, harmless, reason }
}

/// Refused for both clients.
const REFUSED: &[Refusal] = &[
    refuse("bootstrap.servers", "use `Kafka::connect`"),
    refuse("metadata.broker.list", "use `Kafka::connect`"),
    refuse("security.protocol", "use `Kafka::security`"),
    refuse("sasl.mechanism", "use `Kafka::security`"),
    refuse("sasl.mechanisms", "use `Kafka::security`"),
    refuse("sasl.username", "use `Kafka::security`"),
    refuse("sasl.password", "use `Kafka::security`"),
    unless(
        "enable.ssl.certificate.verification",
        &["true"],
        "without it anybody can pose as the broker",
    ),
    unless(
        "ssl.endpoint.identification.algorithm",
        &["https"],
        "without it anybody can pose as the broker",
    ),
    refuse("plugin.library.paths", "plug-ins can change any guarantee"),
    refuse("client.software.name", "the client names itself"),
];

/// Refused for the consumer.
const REFUSED_SOURCE: &[Refusal] = &[
    unless(
        "enable.auto.commit",
        &["false"],
        "progress is stored with the results; a commit by timer would skip records",
    ),
    unless(
        "enable.auto.offset.store",
        &["false"],
        "progress is stored with the results; librdkafka's position is never trusted",
    ),
    unless(
        "isolation.level",
        &["read_committed"],
        "reading uncommitted data makes an heir start before its predecessor's commit is decided: \
         duplicates although every call succeeds",
    ),
    unless(
        "auto.offset.reset",
        &["error"],
        "an offset outside the log stops its partition by name; use `start` for the first start",
    ),
    unless("enable.partition.eof", &["true"], "ends of partitions close holes in the log"),
    unless("check.crcs", &["true"], "a corrupt record must stop its partition"),
    unless("allow.auto.create.topics", &["false"], "a source waits for its topic"),
    refuse("group.id", "the pipeline's name is the group"),
    refuse("group.instance.id", "use the pipeline's instance name"),
    refuse("auto.commit.interval.ms", "there is no automatic commit"),
    refuse("session.timeout.ms", "use `session_timeout`"),
    refuse("heartbeat.interval.ms", "use `heartbeat_interval`"),
    refuse("max.poll.interval.ms", "use `max_poll_interval`"),
    refuse("fetch.min.bytes", "use `fetch_min_bytes`"),
    refuse("fetch.wait.max.ms", "use `fetch_wait_max`"),
    refuse("group.protocol", "use `group_protocol`"),
    refuse("topic.metadata.refresh.interval.ms", "use `topic_refresh`"),
];

/// Refused for the producer.
const REFUSED_SINK: &[Refusal] = &[
    unless(
        "enable.idempotence",
        &["true"],
        "without it a retried request writes its records twice or out of order",
    ),
    unless("acks", &["all", "-1"], "an acknowledged record could be lost"),
    unless("request.required.acks", &["all", "-1"], "an acknowledged record could be lost"),
    unless(
        "enable.gapless.guarantee",
        &["false"],
        "a failed message must fail its transaction, not the client",
    ),
    refuse("transactional.id", "it is made of the pipeline's and the instance's name"),
    refuse("transaction.timeout.ms", "use `transaction_timeout`"),
    refuse("delivery.report.only.error", "the sink needs exactly the failures"),
    refuse("partitioner", "keys go to the partitions where Kafka's own clients put them"),
];

/// Checks one setting.
///
/// # Errors
/// A configuration error that names the setting and says why, or the nearest known name.
pub(crate) fn check(key: &str, value: &str, side: Side) -> Result<(), Error> {
    let own = match side {
        Side::Source => REFUSED_SOURCE,
        Side::Sink => REFUSED_SINK,
    };
    if let Some(refusal) = REFUSED.iter().chain(own).find(|refusal| refusal.key == key) {
        if refusal.harmless.contains(&value) {
            return Ok(());
        }
        return Err(Error::configuration(key, format_args!("is refused: {}", refusal.reason)));
    }
    if KNOWN.contains(&key) {
        return Ok(());
    }
    if key.ends_with("_cb") {
        return Err(Error::configuration(key, "callbacks cannot be set by name"));
    }
    let error = Error::configuration(key, "is not a setting of librdkafka");
    Err(match nearest(key) {
        Some(near) => error.remedy(format_args!("did you mean `{near}`?")),
        None => error,
    })
}

/// The known name with the fewest edits, if it is near enough to be a misspelling.
fn nearest(key: &str) -> Option<&'static str> {
    let (near, edits) = KNOWN
        .iter()
        .chain(REFUSED.iter().map(|refusal| &refusal.key))
        .chain(REFUSED_SOURCE.iter().map(|refusal| &refusal.key))
        .chain(REFUSED_SINK.iter().map(|refusal| &refusal.key))
        .map(|known| (*known, edit_distance(key, known)))
        .min_by_key(|(_, edits)| *edits)?;
    (edits <= 2 + key.len() / 5).then_some(near)
}

/// Insertions, deletions and replacements between two names.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<u8> = to.bytes().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// The settings of librdkafka 2.12 that can be given as text.
#[rustfmt::skip]
const KNOWN: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "api.version.fallback.ms",
    "api.version.request",
    "api.version.request.timeout.ms",
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "batch.num.messages",
    "batch.size",
    "bootstrap.servers",
    "broker.address.family",
    "broker.address.ttl",
    "broker.version.fallback",
    "builtin.features",
    "check.crcs",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "compression.codec",
    "compression.level",
    "compression.type",
    "connections.max.idle.ms",
    "consume.callback.max.messages",
    "coordinator.query.interval.ms",
    "debug",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.metrics.push",
    "enable.partition.eof",
    "enable.random.seed",
    "enable.sasl.oauthbearer.unsecure.jwt",
    "enable.ssl.certificate.verification",
    "enabled_events",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.protocol.type",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "https.ca.location",
    "https.ca.pem",
    "internal.termination.signal",
    "isolation.level",
    "linger.ms",
    "log.connection.close",
    "log.queue",
    "log.thread.name",
    "log_level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "message.copy.max.bytes",
    "message.max.bytes",
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.broker.list",
    "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "msg_order_cmp",
    "offset.store.method",
    "offset.store.path",
    "offset.store.sync.interval.ms",
    "partition.assignment.strategy",
    "partitioner",
    "plugin.library.paths",
    "produce.offset.report",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "queuing.strategy",
    "receive.message.max.bytes",
    "reconnect.backoff.jitter.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.required.acks",
    "request.timeout.ms",
    "retries",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.kerberos.keytab",
    "sasl.kerberos.kinit.cmd",
    "sasl.kerberos.min.time.before.relogin",
    "sasl.kerberos.principal",
    "sasl.kerberos.service.name",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.oauthbearer.assertion.algorithm",
    "sasl.oauthbearer.assertion.claim.aud",
    "sasl.oauthbearer.assertion.claim.exp.seconds",
    "sasl.oauthbearer.assertion.claim.iss",
    "sasl.oauthbearer.assertion.claim.jti.include",
    "sasl.oauthbearer.assertion.claim.nbf.seconds",
    "sasl.oauthbearer.assertion.claim.sub",
    "sasl.oauthbearer.assertion.file",
    "sasl.oauthbearer.assertion.jwt.template.file",
    "sasl.oauthbearer.assertion.private.key.file",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.client.credentials.client.id",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.extensions",
    "sasl.oauthbearer.grant.type",
    "sasl.oauthbearer.metadata.authentication.type",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "session.timeout.ms",
    "socket.blocking.max.ms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.ca.certificate.stores",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.crl.location",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.engine.id",
    "ssl.engine.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.providers",
    "ssl.sigalgs.list",
    "ssl_ca",
    "ssl_certificate",
    "ssl_engine_callback_data",
    "ssl_key",
    "statistics.interval.ms",
    "sticky.partitioning.linger.ms",
    "topic.blacklist",
    "topic.metadata.propagation.max.ms",
    "topic.metadata.refresh.fast.cnt",
    "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.refresh.sparse",
    "transaction.timeout.ms",
    "transactional.id",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_setting_is_refused_with_its_reason() {
        let error = check("enable.auto.commit", "true", Side::Source).unwrap_err();
        assert!(error.is_configuration());
        assert!(
            error.to_string().starts_with("enable.auto.commit: is refused: progress"),
            "{error}"
        );
        assert!(check("isolation.level", "read_uncommitted", Side::Source).is_err());
        assert!(check("auto.offset.reset", "latest", Side::Source).is_err());
        assert!(check("acks", "1", Side::Sink).is_err());
        assert!(check("enable.idempotence", "false", Side::Sink).is_err());
        assert!(check("bootstrap.servers", "x:1", Side::Sink).is_err());
    }

    #[test]
    fn saying_what_holds_anyway_is_allowed() {
        assert!(check("enable.auto.commit", "false", Side::Source).is_ok());
        assert!(check("acks", "all", Side::Sink).is_ok());
    }

    #[test]
    fn a_misspelt_setting_is_refused_with_the_nearest_name() {
        let error = check("fetch.max.byte", "1", Side::Source).unwrap_err().to_string();
        assert!(error.contains("`fetch.max.bytes`"), "{error}");
        let error = check("lingerms", "1", Side::Sink).unwrap_err().to_string();
        assert!(error.contains("`linger.ms`"), "{error}");
        let error = check("nothing.like.any.of.them.at.all", "1", Side::Sink).unwrap_err();
        assert!(!error.to_string().contains("did you mean"), "{error}");
    }

    #[test]
    fn every_known_name_is_known_to_librdkafka() {
        for key in KNOWN {
            // A wrong value or a missing feature of the build is fine here, an unknown name is not.
            let mut config = rdkafka::ClientConfig::new();
            config.set(*key, "0");
            if let Err(error) = config.create_native_config() {
                assert!(!error.to_string().contains("No such configuration"), "{key}: {error}");
            }
        }
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("same", "same"), 0);
    }
}
