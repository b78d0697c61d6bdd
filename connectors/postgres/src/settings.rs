//! Where the database is and how a session is set up.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tidegate::Error;
use tidegate::mutant;
use tidegate_sql::{Bookkeeping, quote};

/// Whether the server may be spoken to without a verified certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plaintext {
    /// On this machine only.
    Local,
    /// Everywhere: the user said so.
    Allowed,
}

/// How the database is reached. It holds a secret: it is never printed whole.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) url: String,
    pub(crate) schema: String,
    pub(crate) plaintext: Plaintext,
    pub(crate) statement_timeout: Duration,
    pub(crate) lock_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    /// How long a whole transaction may take; `None`: by the other time-outs.
    pub(crate) answer_within: Option<Duration>,
    /// How long a claim waits before it ends the backend that blocks it.
    pub(crate) patience: Duration,
    /// Rows of one table from which on `COPY` is used; `None`: by the kind of connection.
    pub(crate) copy_rows_min: Option<usize>,
}

impl Settings {
    pub(crate) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            schema: "tidegate".to_owned(),
            plaintext: Plaintext::Local,
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(10),
            answer_within: None,
            patience: Duration::from_secs(2),
            copy_rows_min: None,
        }
    }

    /// The names of the bookkeeping tables.
    pub(crate) fn bookkeeping(&self) -> Result<Bookkeeping, Error> {
        let refuse = |error| Error::configuration("bookkeeping_schema", error);
        let schema = quote(&self.schema).map_err(refuse)?;
        let name = |table: &str| format!("{schema}.{table}");
        Bookkeeping::new(schema.clone(), name).map_err(refuse)
    }

    /// Reads the URL and refuses what would be unsafe. Errors name settings, never the URL.
    pub(crate) fn parse(&self) -> Result<Server, Error> {
        let refuse = |problem: String| Error::configuration("postgres url", problem);
        if !self.url.starts_with("postgres://") && !self.url.starts_with("postgresql://") {
            return Err(refuse("does not begin with postgres://".to_owned()));
        }
        let options = PgConnectOptions::from_str(&self.url)
            .map_err(|error| refuse(format!("cannot be read: {error}")))?;
        if options.get_database().is_none() {
            return Err(refuse("names no database".to_owned())
                .remedy("add it: postgres://user@host:5432/database"));
        }
        let server = Server { options };
        server.check_encryption(self.plaintext)?;
        for (name, timeout) in [
            ("statement_timeout", self.statement_timeout),
            ("lock_timeout", self.lock_timeout),
            ("idle_in_transaction_session_timeout", self.idle_timeout),
        ] {
            // Zero means for ever to the server: a stopped process would hold its locks for ever.
            if timeout.as_millis() == 0 || timeout.as_millis() > i32::MAX as u128 {
                return Err(Error::configuration(name, "must be between 1 ms and 24 days"));
            }
        }
        Ok(server)
    }

    /// What each session is opened with.
    pub(crate) fn session(&self, server: &Server, application: &str) -> PgConnectOptions {
        let millis = |timeout: Duration| timeout.as_millis().to_string();
        let idle = if mutant::is("M38") { Duration::ZERO } else { self.idle_timeout };
        let options = server.options.clone().application_name(application);
        options.options([
            ("statement_timeout", millis(self.statement_timeout)),
            ("lock_timeout", millis(self.lock_timeout)),
            ("idle_in_transaction_session_timeout", millis(idle)),
            // A machine that vanished is noticed within half a minute.
            ("tcp_keepalives_idle", "10".to_owned()),
            ("tcp_keepalives_interval", "5".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            ("tcp_user_timeout", "30000".to_owned()),
        ])
    }

    /// How long a client waits for a whole transaction before it gives the connection up: longer
    /// than the server's own limits, which come first as long as the server can be reached.
    pub(crate) fn answer_within(&self) -> Duration {
        let others = self.statement_timeout * 2 + self.idle_timeout + Duration::from_secs(5);
        self.answer_within.unwrap_or(others)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("server", &self.parse().map(|server| server.to_string()))
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// A URL that was read. Displayed as host, port and database.
#[derive(Clone)]
pub(crate) struct Server {
    options: PgConnectOptions,
}

impl Server {
    /// Whether it is reached by a Unix socket.
    pub(crate) fn is_socket(&self) -> bool {
        self.options.get_socket().is_some() || self.options.get_host().starts_with('/')
    }

    fn is_local(&self) -> bool {
        let host = self.options.get_host().trim_matches(['[', ']']);
        let address = host.parse::<std::net::IpAddr>();
        self.is_socket() || host == "localhost" || address.is_ok_and(|ip| ip.is_loopback())
    }

    fn check_encryption(&self, plaintext: Plaintext) -> Result<(), Error> {
        let mode = self.options.get_ssl_mode();
        let verifies = matches!(mode, PgSslMode::VerifyFull);
        if !self.is_local() && !verifies && plaintext == Plaintext::Local {
            return Err(Error::configuration(
                "sslmode",
                format_args!(
                    "{} is another machine and its certificate would not be verified",
                    self.options.get_host()
                ),
            )
            .remedy("add ?sslmode=verify-full, or `.allow_plaintext()` on a trusted network"));
        }
        let needs_tls =
            matches!(mode, PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull);
        if needs_tls && !cfg!(feature = "tls") {
            return Err(Error::configuration("sslmode", "asks for TLS")
                .remedy("turn on the feature `tls` of tidegate-postgres"));
        }
        Ok(())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match self.options.get_socket() {
            Some(socket) => socket.to_string_lossy(),
            None => self.options.get_host().into(),
        };
        let port = self.options.get_port();
        let database = self.options.get_database().unwrap_or_default();
        write!(f, "{host}:{port}/{database}")
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Server, String> {
        Settings::new(url).parse().map_err(|error| error.to_string())
    }

    #[test]
    fn a_url_that_is_unsafe_or_incomplete_is_refused_without_its_secret() {
        for (url, says) in [
            ("mysql://u:hunter2@localhost/db", "postgres://"),
            ("postgres://u:hunter2@localhost:99999/db", "cannot be read"),
            ("postgres://u:hunter2@localhost/", "names no database"),
            ("postgres://u:hunter2@db.example.com/db", "sslmode"),
            ("postgres://u:hunter2@10.0.0.5/db?sslmode=require", "sslmode"),
        ] {
            let message = parse(url).unwrap_err();
            assert!(message.contains(says), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_local_server_needs_no_certificate() {
        for url in [
            "postgres://u@localhost/db",
            "postgres://u@127.0.0.1:5433/db",
            "postgres://u@[::1]/db",
            "postgres:///db?host=/var/run/postgresql&user=u",
        ] {
            parse(url).expect(url);
        }
        assert!(parse("postgres:///db?host=/tmp&user=u").unwrap().is_socket());
    }

    #[test]
    fn another_machine_needs_a_verified_certificate_or_the_users_word() {
        let far = "postgres://u@db.example.com/db?sslmode=verify-full";
        assert_eq!(parse(far).is_ok(), cfg!(feature = "tls"));
        let mut settings = Settings::new("postgres://u@db.example.com/db");
        settings.plaintext = Plaintext::Allowed;
        assert!(settings.parse().is_ok());
    }

    #[test]
    fn debugging_output_holds_no_secret() {
        let settings = Settings::new("postgres://u:hunter2@localhost/db");
        let text = format!("{settings:?} {:?}", settings.parse().unwrap());
        assert!(text.contains("localhost:5432/db") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_timeout_of_zero_would_mean_for_ever() {
        let mut settings = Settings::new("postgres://u@localhost/db");
        settings.lock_timeout = Duration::ZERO;
        let message = settings.parse().unwrap_err().to_string();
        assert!(message.starts_with("lock_timeout"), "{message}");
    }
}
