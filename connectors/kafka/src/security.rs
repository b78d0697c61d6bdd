//! How a connection is protected, and who connects.

use std::fmt;

#[cfg(not(feature = "tls"))]
use rdkafka::ClientConfig;

#[cfg(feature = "tls")]
pub use protected::{OauthToken, Security};

/// What must never be shown.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "tls"),
    allow(dead_code, reason = "only secured connections have secrets")
)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The protection of a connection; without the feature `tls` there is none to choose.
#[cfg(not(feature = "tls"))]
#[derive(Clone, Debug)]
pub(crate) enum Security {}

#[cfg(not(feature = "tls"))]
impl Security {
    #[allow(clippy::unused_self, reason = "there is no value to look at")]
    pub(crate) fn apply(&self, _config: &mut ClientConfig) {}
}

#[cfg(feature = "tls")]
mod protected {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use rdkafka::ClientConfig;
    use tidegate::BoxError;

    use super::{Secret, fmt};

    /// A protected connection: TLS, and the way the client proves who it is. The broker's
    /// certificate and host name are always verified.
    #[derive(Clone, Debug)]
    pub struct Security {
        proof: Proof,
        certificate_authority: Option<String>,
        certificate: Option<(String, String)>,
        key_password: Option<Secret>,
        encryption: Encryption,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Encryption {
        Tls,
        /// SCRAM alone protects the password, not the data.
        None,
    }

    #[derive(Clone, Debug)]
    enum Proof {
        None,
        Password { mechanism: &'static str, user: String, password: Secret },
        Token(TokenSource),
    }

    /// A token for OAUTHBEARER.
    #[derive(Clone)]
    pub struct OauthToken {
        /// The token itself.
        pub token: String,
        /// The name of the principal it was issued to.
        pub principal: String,
        /// How long it lives from now.
        pub lifetime: Duration,
    }

    impl fmt::Debug for OauthToken {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("OauthToken")
                .field("principal", &self.principal)
                .field("lifetime", &self.lifetime)
                .finish_non_exhaustive()
        }
    }

    /// Calls the user's function for a fresh token.
    #[derive(Clone)]
    pub(crate) struct TokenSource(
        #[allow(clippy::type_complexity, reason = "used once")]
        Arc<dyn Fn() -> Result<OauthToken, BoxError> + Send + Sync>,
    );

    impl fmt::Debug for TokenSource {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("TokenSource")
        }
    }

    impl TokenSource {
        pub(crate) fn fresh(&self) -> Result<rdkafka::client::OAuthToken, BoxError> {
            let token = (self.0)()?;
            let expires = SystemTime::now() + token.lifetime;
            let expires = expires.duration_since(SystemTime::UNIX_EPOCH)?;
            Ok(rdkafka::client::OAuthToken {
                token: token.token,
                principal_name: token.principal,
                lifetime_ms: i64::try_from(expires.as_millis()).unwrap_or(i64::MAX),
            })
        }
    }

    impl Security {
        fn new(proof: Proof) -> Self {
            Self {
                proof,
                certificate_authority: None,
                certificate: None,
                key_password: None,
                encryption: Encryption::Tls,
            }
        }

        fn password(
            mechanism: &'static str,
            user: impl Into<String>,
            password: impl Into<String>,
        ) -> Self {
            Self::new(Proof::Password {
                mechanism,
                user: user.into(),
                password: Secret(password.into()),
            })
        }

        /// TLS against the system's certificate authorities; add
        /// [`certificate`](Self::certificate) for mutual TLS.
        pub fn tls() -> Self {
            Self::new(Proof::None)
        }

        /// TLS with user and password by SCRAM-SHA-512.
        pub fn scram_sha_512(user: impl Into<String>, password: impl Into<String>) -> Self {
            Self::password("SCRAM-SHA-512", user, password)
        }

        /// TLS with user and password by SCRAM-SHA-256.
        pub fn scram_sha_256(user: impl Into<String>, password: impl Into<String>) -> Self {
            Self::password("SCRAM-SHA-256", user, password)
        }

        /// TLS with user and password as they are: never offered without TLS.
        pub fn plain(user: impl Into<String>, password: impl Into<String>) -> Self {
            Self::password("PLAIN", user, password)
        }

        /// TLS with tokens from `fresh`, which is called on the client's own threads whenever one
        /// is about to expire.
        pub fn oauthbearer(
            fresh: impl Fn() -> Result<OauthToken, BoxError> + Send + Sync + 'static,
        ) -> Self {
            Self::new(Proof::Token(TokenSource(Arc::new(fresh))))
        }

        /// The certificate authorities to trust, as a path to a PEM file, instead of the
        /// system's.
        #[must_use]
        pub fn certificate_authority(mut self, pem_path: impl Into<String>) -> Self {
            self.certificate_authority = Some(pem_path.into());
            self
        }

        /// The client's own certificate and key, as paths to PEM files: mutual TLS.
        #[must_use]
        pub fn certificate(
            mut self,
            certificate_path: impl Into<String>,
            key_path: impl Into<String>,
        ) -> Self {
            self.certificate = Some((certificate_path.into(), key_path.into()));
            self
        }

        /// The password of the client's key.
        #[must_use]
        pub fn key_password(mut self, password: impl Into<String>) -> Self {
            self.key_password = Some(Secret(password.into()));
            self
        }

        /// SCRAM without TLS: the password stays secret, the data does not. It has no effect on
        /// anything but SCRAM, and a host that is not local needs
        /// [`Kafka::allow_plaintext`](crate::Kafka::allow_plaintext) as well.
        #[must_use]
        pub fn without_encryption(mut self) -> Self {
            if let Proof::Password { mechanism, .. } = &self.proof
                && mechanism.starts_with("SCRAM")
            {
                self.encryption = Encryption::None;
            }
            self
        }

        pub(crate) fn is_encrypted(&self) -> bool {
            self.encryption == Encryption::Tls
        }

        pub(crate) fn tokens(&self) -> Option<TokenSource> {
            match &self.proof {
                Proof::Token(source) => Some(source.clone()),
                Proof::None | Proof::Password { .. } => None,
            }
        }

        pub(crate) fn apply(&self, config: &mut ClientConfig) {
            let protocol = match (&self.proof, self.encryption) {
                (Proof::None, _) => "ssl",
                (_, Encryption::Tls) => "sasl_ssl",
                (_, Encryption::None) => "sasl_plaintext",
            };
            config.set("security.protocol", protocol);
            match &self.proof {
                Proof::None => {}
                Proof::Password { mechanism, user, password } => {
                    config.set("sasl.mechanisms", *mechanism);
                    config.set("sasl.username", user);
                    config.set("sasl.password", &password.0);
                }
                Proof::Token(_) => {
                    config.set("sasl.mechanisms", "OAUTHBEARER");
                }
            }
            if let Some(path) = &self.certificate_authority {
                config.set("ssl.ca.location", path);
            }
            if let Some((certificate, key)) = &self.certificate {
                config.set("ssl.certificate.location", certificate);
                config.set("ssl.key.location", key);
            }
            if let Some(password) = &self.key_password {
                config.set("ssl.key.password", &password.0);
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn debug_shows_no_secret() {
            let security = Security::scram_sha_512("ann", "hunter2").key_password("swordfish");
            let shown = format!("{security:?}");
            assert!(shown.contains("ann"), "{shown}");
            assert!(!shown.contains("hunter2") && !shown.contains("swordfish"), "{shown}");
        }

        #[test]
        fn plain_is_never_sent_without_tls() {
            let mut config = ClientConfig::new();
            Security::plain("ann", "x").without_encryption().apply(&mut config);
            assert_eq!(config.get("security.protocol"), Some("sasl_ssl"));
            Security::scram_sha_512("ann", "x").without_encryption().apply(&mut config);
            assert_eq!(config.get("security.protocol"), Some("sasl_plaintext"));
        }
    }
}

#[cfg(feature = "tls")]
pub(crate) use protected::TokenSource;

/// Nobody needs a token without the feature `tls`.
#[cfg(not(feature = "tls"))]
#[derive(Clone, Debug)]
pub(crate) enum TokenSource {}

#[cfg(not(feature = "tls"))]
impl TokenSource {
    pub(crate) fn fresh(&self) -> Result<rdkafka::client::OAuthToken, tidegate::BoxError> {
        match *self {}
    }
}
