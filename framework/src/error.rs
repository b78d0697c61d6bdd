//! The one public error, opaque and answering questions.
//!
//! It is told apart by what the reader must do: change a setting, look at a broker or a database,
//! or look at a record. The message names the setting or the record and the remedy.

use std::error::Error as StdError;
use std::fmt;

/// Any error of another crate.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// Why a pipeline did not start or did not end well.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    remedy: Option<String>,
    source: Option<BoxError>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Configuration,
    Source,
    Sink,
    Record,
    Fenced,
    Deadline,
}

impl Error {
    fn new(kind: Kind, message: String) -> Self {
        Self(Box::new(Inner { kind, message, remedy: None, source: None }))
    }

    /// A setting that cannot be used. The message opens with the setting's name.
    pub fn configuration(setting: &str, problem: impl fmt::Display) -> Self {
        Self::new(Kind::Configuration, format!("{setting}: {problem}"))
    }

    /// The source failed for good: the broker, the group or a partition.
    pub fn source_failed(problem: impl fmt::Display) -> Self {
        Self::new(Kind::Source, problem.to_string())
    }

    /// The sink failed for good: an operator must act.
    pub fn sink_failed(problem: impl fmt::Display) -> Self {
        Self::new(Kind::Sink, problem.to_string())
    }

    /// A record failed and the failure policy says stop. The message opens with its coordinates.
    pub fn record_failed(problem: impl fmt::Display) -> Self {
        Self::new(Kind::Record, problem.to_string())
    }

    /// Another process took this one's place again and again, or for good.
    pub fn fenced(problem: impl fmt::Display) -> Self {
        Self::new(Kind::Fenced, problem.to_string())
    }

    /// Something did not answer within the set deadline.
    pub fn deadline(problem: impl fmt::Display) -> Self {
        Self::new(Kind::Deadline, problem.to_string())
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.0.remedy = Some(remedy.to_string());
        self
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Whether a setting must change; programs end with exit code 2 then.
    pub fn is_configuration(&self) -> bool {
        self.0.kind == Kind::Configuration
    }

    /// Whether the source failed.
    pub fn is_source(&self) -> bool {
        self.0.kind == Kind::Source
    }

    /// Whether the sink failed.
    pub fn is_sink(&self) -> bool {
        self.0.kind == Kind::Sink
    }

    /// Whether a record stopped the pipeline.
    pub fn is_record(&self) -> bool {
        self.0.kind == Kind::Record
    }

    /// Whether another process took over.
    pub fn is_fenced(&self) -> bool {
        self.0.kind == Kind::Fenced
    }

    /// Whether a deadline passed.
    pub fn is_deadline(&self) -> bool {
        self.0.kind == Kind::Deadline
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        match &self.0.remedy {
            Some(remedy) => write!(f, " ({remedy})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `main` prints errors with Debug: it must read like a sentence.
        write!(f, "{:?} error: {self}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// What went wrong underneath a [`SinkError`](crate::sink::SinkError),
/// [`CommitError`](crate::sink::CommitError) or [`SourceError`](crate::source::SourceError).
#[derive(Debug)]
pub struct Cause {
    message: String,
    source: Option<BoxError>,
    operator: bool,
}

impl Cause {
    /// A cause of this text: short, lower case, no payload, no secret.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), source: None, operator: false }
    }

    /// A cause with the error underneath.
    pub fn from_error(message: impl fmt::Display, source: impl Into<BoxError>) -> Self {
        Self { message: message.to_string(), source: Some(source.into()), operator: false }
    }

    /// Marks that no repetition can help until an operator acts (a missing right, a missing
    /// table): the pipeline stops and says so.
    #[must_use]
    pub fn needs_operator(mut self) -> Self {
        self.operator = true;
        self
    }

    /// Whether an operator must act.
    pub fn is_for_operator(&self) -> bool {
        self.operator
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
