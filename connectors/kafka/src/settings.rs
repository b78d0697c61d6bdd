//! Which cluster, how to reach it, and the settings all clients of it share.

use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use tidegate::Error;

use crate::admin::{self, Admin};
use crate::keys::{self, Side};
use crate::read::{self, ReadRange, ReadRecord};
use crate::security::Security;
use crate::security::TokenSource;
use crate::sink::KafkaSink;
use crate::source::{KafkaSource, Subscription, Topics};
use crate::{plain_sink, sink, source};

/// A Kafka cluster: makes sources and sinks. Cloning it is cheap; nothing connects before a
/// pipeline runs.
#[derive(Clone, Debug)]
pub struct Kafka {
    bootstrap: String,
    plaintext: Plaintext,
    security: Option<Security>,
}

/// Whether unprotected connections to other hosts were asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plaintext {
    LocalOnly,
    Allowed,
}

impl Kafka {
    /// The cluster that answers at `servers`: `host:port`, or several separated by commas. A
    /// malformed list is reported when a pipeline opens its source or sink.
    pub fn connect(servers: impl Into<String>) -> Self {
        Self { bootstrap: servers.into(), plaintext: Plaintext::LocalOnly, security: None }
    }

    /// Allows unprotected connections to hosts other than this one.
    #[must_use]
    pub fn allow_plaintext(mut self) -> Self {
        self.plaintext = Plaintext::Allowed;
        self
    }

    /// Protects all connections.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn security(mut self, security: Security) -> Self {
        self.security = Some(security);
        self
    }

    /// Reads these topics: one name, or several.
    pub fn source(&self, topics: impl Topics) -> KafkaSource {
        source::new(self.clone(), Subscription::Topics(topics.names()))
    }

    /// Reads all topics whose names match this regular expression, those created later included.
    /// It starts with `^`; under [`GroupProtocol::Consumer`](crate::GroupProtocol::Consumer) the
    /// broker matches it against whole names.
    pub fn source_pattern(&self, pattern: impl Into<String>) -> KafkaSource {
        source::new(self.clone(), Subscription::Pattern(pattern.into()))
    }

    /// Writes results without storing progress: for at-least-once and at-most-once. The sink for
    /// exactly-once comes from the source: [`KafkaSource::sink`].
    pub fn sink(&self) -> plain_sink::KafkaPlainSink {
        plain_sink::new(self.clone())
    }

    /// Asks this cluster questions and sets offsets, apart from any pipeline.
    ///
    /// # Errors
    /// A configuration error if the settings cannot be used. Nothing connects yet.
    pub fn admin(&self) -> Result<Admin, Error> {
        admin::new(self)
    }

    /// Reads these ranges as a reader of committed data sees them: for checking a pipeline from
    /// outside. `step` is called for each record, in the order of the offsets within a partition,
    /// and what it leaves in `state` is returned. The group is named for its rights alone: it is not
    /// joined, and no offset of it is stored.
    ///
    /// # Errors
    /// If the cluster does not answer, a partition does not exist, records of a range were deleted,
    /// or an open transaction hides some.
    pub async fn read_committed<S: Send + 'static>(
        &self,
        group: &str,
        ranges: Vec<ReadRange>,
        state: S,
        step: impl FnMut(&mut S, &ReadRecord<'_>) + Send + 'static,
    ) -> Result<S, Error> {
        read::read(self, group, ranges, state, step).await
    }

    pub(crate) fn transactional_sink(&self, source: &KafkaSource) -> KafkaSink {
        sink::new(self.clone(), source)
    }

    /// The brokers as they were given, for descriptions.
    pub(crate) fn servers(&self) -> &str {
        &self.bootstrap
    }

    pub(crate) fn tokens(&self) -> Option<TokenSource> {
        #[cfg(feature = "tls")]
        return self.security.as_ref().and_then(Security::tokens);
        #[cfg(not(feature = "tls"))]
        None
    }

    /// What every client of this cluster is configured with.
    pub(crate) fn common(&self) -> Result<ClientConfig, Error> {
        let hosts = parse_servers(&self.bootstrap)
            .map_err(|problem| Error::configuration("bootstrap.servers", problem))?;
        self.check_plaintext(&hosts)?;
        let mut config = ClientConfig::new();
        config
            .set_log_level(RDKafkaLogLevel::Info)
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", "tidegate")
            .set("reconnect.backoff.max.ms", "500")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true");
        if let Some(security) = &self.security {
            security.apply(&mut config);
        }
        Ok(config)
    }

    fn check_plaintext(&self, hosts: &[String]) -> Result<(), Error> {
        #[cfg(feature = "tls")]
        let encrypted = self.security.as_ref().is_some_and(Security::is_encrypted);
        #[cfg(not(feature = "tls"))]
        let encrypted = self.security.is_some();
        if encrypted || self.plaintext == Plaintext::Allowed {
            return Ok(());
        }
        match hosts.iter().find(|host| !is_local(host)) {
            None => Ok(()),
            Some(host) => Err(Error::configuration(
                "bootstrap.servers",
                format_args!("{host} is another host and the connection is not encrypted"),
            )
            .remedy(
                "set `Kafka::security` (feature `tls`), or say `allow_plaintext` on a trusted network",
            )),
        }
    }
}

/// The hosts of a list of servers.
fn parse_servers(list: &str) -> Result<Vec<String>, String> {
    if list.trim().is_empty() {
        return Err("the list is empty; it needs at least one host:port".into());
    }
    list.split(',')
        .map(|server| {
            let server = server.trim();
            let malformed = |problem: &str| Err(format!("{server:?} {problem}"));
            let Some((host, port)) = server.rsplit_once(':') else {
                return malformed("has no port; write host:port");
            };
            let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
                Some(Some(host)) => host,
                Some(None) => return malformed("opens a bracket and does not close it"),
                None if host.contains(':') => {
                    return malformed("is not host:port; write IPv6 addresses in brackets");
                }
                None => host,
            };
            if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
                return malformed("has no valid host; write host:port");
            }
            match port.parse::<u16>() {
                Ok(1..) => Ok(host.to_string()),
                _ => malformed("has no valid port; ports are 1 to 65535"),
            }
        })
        .collect()
}

fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Settings of librdkafka's that are passed through as they are.
#[derive(Clone, Default)]
pub(crate) struct Overrides(Vec<(String, String)>);

impl Overrides {
    pub(crate) fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.push((key.into(), value.into()));
    }

    /// Checks and applies all; the last of a name wins.
    pub(crate) fn apply(&self, config: &mut ClientConfig, side: Side) -> Result<(), Error> {
        for (key, value) in &self.0 {
            keys::check(key, value, side)?;
            config.set(key, value);
            if key == "debug" {
                config.set_log_level(RDKafkaLogLevel::Debug);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        f.debug_list().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_list_of_servers_names_the_setting() {
        for bad in [
            "",
            "  ",
            "localhost",
            "localhost:",
            ":9092",
            "localhost:0",
            "localhost:99999",
            "a:1,",
            "a:1,,b:2",
            "[::1:9092",
            "::1:9092",
            "http://a:1",
            "a b:1",
        ] {
            let error = Kafka::connect(bad).common().unwrap_err();
            assert!(error.is_configuration(), "{bad:?}: {error}");
            assert!(error.to_string().starts_with("bootstrap.servers: "), "{bad:?}: {error}");
        }
    }

    #[test]
    fn good_lists_pass() {
        for good in ["localhost:9092", "127.0.0.1:1, localhost:65535", "[::1]:9092"] {
            Kafka::connect(good).common().unwrap();
        }
    }

    #[test]
    fn plaintext_to_another_host_must_be_asked_for() {
        let kafka = Kafka::connect("localhost:9092,kafka.example:9092");
        let error = kafka.common().unwrap_err().to_string();
        assert!(error.contains("kafka.example"), "{error}");
        kafka.allow_plaintext().common().unwrap();
    }
}
