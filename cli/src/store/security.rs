//! How the connection to Kafka is protected.

use clap::ValueEnum;
use tidegate_kafka::Security;

use crate::failure::Failure;

/// Where the password is looked for: on a command line everybody could read it.
const PASSWORD: &str = "TIDEGATE_KAFKA_PASSWORD";

/// The protection asked for.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection to Kafka")]
pub(crate) struct Options {
    /// Encrypts the connection.
    #[arg(long, requires = "kafka")]
    tls: bool,
    /// The certificate authorities to trust, as a PEM file, instead of the system's.
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca: Option<String>,
    /// The client's certificate, as a PEM file.
    #[arg(long, value_name = "FILE", requires_all = ["tls", "key"])]
    certificate: Option<String>,
    /// The key of the client's certificate, as a PEM file.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<String>,
    /// Whom to log in as; the password is taken from TIDEGATE_KAFKA_PASSWORD.
    #[arg(long, value_name = "NAME", requires = "tls")]
    user: Option<String>,
    /// How to log in.
    #[arg(long, value_enum, default_value_t = Sasl::ScramSha512, requires = "user")]
    sasl: Sasl,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sasl {
    #[value(name = "scram-sha-512")]
    ScramSha512,
    #[value(name = "scram-sha-256")]
    ScramSha256,
    Plain,
}

impl Options {
    /// The protection, or none.
    pub(crate) fn read(&self) -> Result<Option<Security>, Failure> {
        if !self.tls {
            return Ok(None);
        }
        let mut security = match &self.user {
            None => Security::tls(),
            Some(user) => {
                let password = std::env::var(PASSWORD)
                    .map_err(|_| Failure::usage(format_args!("--user needs {PASSWORD} set")))?;
                match self.sasl {
                    Sasl::ScramSha512 => Security::scram_sha_512(user, password),
                    Sasl::ScramSha256 => Security::scram_sha_256(user, password),
                    Sasl::Plain => Security::plain(user, password),
                }
            }
        };
        if let Some(ca) = &self.ca {
            security = security.certificate_authority(ca);
        }
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            security = security.certificate(certificate, key);
        }
        Ok(Some(security))
    }
}
