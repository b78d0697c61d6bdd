//! A listener with TLS and SASL.

use super::certificates::Certificates;
use anyhow::Result;
use rdkafka::ClientConfig;
use std::collections::BTreeMap;

/// The user that the broker knows by SCRAM and PLAIN; `scripts/lib-servers.sh` writes the SCRAM one down.
const USER: &str = "tidegate";
const PASSWORD: &str = "tidegate-secret";
const SECURITY: &str = "org.apache.kafka.common.security";

/// The second listener of a Kafka that was started with [`secure`](super::KafkaOptions::secure): TLS, and SASL by
/// SCRAM-SHA-256, SCRAM-SHA-512, PLAIN, or OAUTHBEARER with unsecured tokens.
#[derive(Debug)]
pub struct Secure {
    port: u16,
    certificates: Certificates,
}

impl Secure {
    pub(super) fn new(port: u16) -> Result<Self> {
        Ok(Self { port, certificates: Certificates::new()? })
    }

    /// `host:port` of the secure listener.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The certificate of the authority that signed the broker's, as PEM. No other is trusted by it.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.certificates.authority
    }

    /// The user's name, for SCRAM and PLAIN.
    #[must_use]
    pub fn username(&self) -> &'static str {
        USER
    }

    /// The user's password.
    #[must_use]
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// A client's configuration that connects by the mechanism, such as `SCRAM-SHA-256`.
    #[must_use]
    pub fn client(&self, mechanism: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap())
            .set("security.protocol", "SASL_SSL")
            .set("sasl.mechanism", mechanism)
            .set("ssl.ca.pem", &self.certificates.authority);
        if mechanism == "OAUTHBEARER" {
            config.set("enable.sasl.oauthbearer.unsecure.jwt", "true");
            config.set("sasl.oauthbearer.config", format!("principal={USER}"));
        } else {
            config.set("sasl.username", USER).set("sasl.password", PASSWORD);
        }
        config
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What the broker must be told about the listener, beside its address. The certificates stand in the
    /// properties themselves, so that a container needs no files.
    pub(super) fn properties(&self) -> BTreeMap<String, String> {
        let scram = format!("{SECURITY}.scram.ScramLoginModule required;");
        let plain =
            format!(r#"{SECURITY}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";"#);
        let bearer = format!(
            r#"{SECURITY}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="{USER}";"#
        );
        let settings = [
            ("sasl.enabled.mechanisms", "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER".to_owned()),
            ("scram-sha-256.sasl.jaas.config", scram.clone()),
            ("scram-sha-512.sasl.jaas.config", scram),
            ("plain.sasl.jaas.config", plain),
            ("oauthbearer.sasl.jaas.config", bearer),
            ("ssl.keystore.type", "PEM".to_owned()),
            ("ssl.keystore.certificate.chain", one_line(&self.certificates.chain)),
            ("ssl.keystore.key", one_line(&self.certificates.key)),
        ];
        settings
            .into_iter()
            .map(|(name, value)| (format!("listener.name.secure.{name}"), value))
            .collect()
    }

    /// The command lines, after the address, by which Kafka's own tool adds the SCRAM user. Each takes one mechanism.
    #[cfg(feature = "containers")]
    pub(super) fn add_user() -> [Vec<String>; 2] {
        ["SCRAM-SHA-256", "SCRAM-SHA-512"].map(|mechanism| {
            let credentials = format!("{mechanism}=[password={PASSWORD}]");
            let words = [
                "--alter",
                "--add-config",
                &credentials,
                "--entity-type",
                "users",
                "--entity-name",
                USER,
            ];
            words.map(str::to_owned).to_vec()
        })
    }
}

/// A value with its line ends as a properties file writes them.
fn one_line(pem: &str) -> String {
    pem.trim_end().replace('\n', "\\n")
}
