//! From bytes to types: what runs before the first step of a decoded stream.
//!
//! Decoding runs on the pool, in the call of the user's function. A failure goes the way of the
//! failure policy without a retry, because the same bytes fail again. Messages say where and what
//! kind, never what: a payload does not belong into logs.

use std::fmt;

use bytes::Bytes;

use crate::error::BoxError;
use crate::record::RawRecord;

#[cfg(feature = "json")]
pub use json::{Json, NullableJson};

/// Makes a `V` of a record's bytes: value, key or headers.
///
/// Any closure `Fn(&RawRecord) -> Result<V, E>` is a decoder:
///
/// ```
/// use tidegate::prelude::*;
/// use tidegate::record::RawRecord;
///
/// fn decodes<V>(_: impl Decode<V>) {}
/// decodes::<u8>(|record: &RawRecord| {
///     let value = record.value.as_ref().ok_or("the value is null")?;
///     value.first().copied().ok_or("the value is empty")
/// });
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a decoder of records",
    label = "does not implement `Decode`",
    note = "use `Json::<T>::new()`, `Utf8`, `Raw`, or a closure \
            `|record: &RawRecord| -> Result<T, E>` with its argument's type written out"
)]
pub trait Decode<V>: Send + Sync + 'static {
    /// Decodes one record. It is called again for a retry and must answer the same.
    ///
    /// # Errors
    /// If these bytes are no `V`. The text is stored with the dead letter and logged, so it should
    /// not repeat the payload.
    fn decode(&self, record: &RawRecord) -> Result<V, BoxError>;

    /// One or two words for `explain()`.
    fn describe(&self) -> String {
        "function".to_owned()
    }
}

impl<F, V, E> Decode<V> for F
where
    F: Fn(&RawRecord) -> Result<V, E> + Send + Sync + 'static,
    E: Into<BoxError>,
{
    fn decode(&self, record: &RawRecord) -> Result<V, BoxError> {
        self(record).map_err(Into::into)
    }
}

/// The value as it is. A null value is a failure; without any decoder it is `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Raw;

impl Decode<Bytes> for Raw {
    fn decode(&self, record: &RawRecord) -> Result<Bytes, BoxError> {
        Ok(value_of(record)?.clone())
    }

    fn describe(&self) -> String {
        "raw".to_owned()
    }
}

/// The value as text. A null value and bytes that are no UTF-8 are failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Utf8;

impl Decode<String> for Utf8 {
    fn decode(&self, record: &RawRecord) -> Result<String, BoxError> {
        let bytes = value_of(record)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => {
                Err(Undecodable::new(format_args!("invalid UTF-8 at byte {}", error.valid_up_to())))
            }
        }
    }

    fn describe(&self) -> String {
        "utf-8".to_owned()
    }
}

/// What a decoder of this module says of a value.
#[derive(Debug)]
struct Undecodable(String);

impl Undecodable {
    #[expect(clippy::new_ret_no_self, reason = "it is only ever needed boxed")]
    fn new(message: impl fmt::Display) -> BoxError {
        Box::new(Self(message.to_string()))
    }
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Undecodable {}

fn value_of(record: &RawRecord) -> Result<&Bytes, BoxError> {
    let value = record.value.as_ref();
    value.ok_or_else(|| Undecodable::new("the value is null"))
}

#[cfg(feature = "json")]
mod json {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::DeserializeOwned;
    use serde_json::error::Category;

    use super::{Decode, Undecodable, value_of};
    use crate::error::BoxError;
    use crate::record::RawRecord;

    /// The value as JSON, into any `serde` type. A null value is a failure; see
    /// [`Json::with_tombstones`]. Values nested deeper than 128 levels are refused.
    pub struct Json<T>(PhantomData<fn() -> T>);

    impl<T: DeserializeOwned + 'static> Json<T> {
        /// The decoder of values into `T`.
        pub fn new() -> Self {
            Self(PhantomData)
        }

        /// Decodes into `Option<T>`: a null value (a tombstone) is `None`, and so is the JSON
        /// value `null` for types that can be read from it.
        pub fn with_tombstones(self) -> NullableJson<T> {
            NullableJson(self)
        }
    }

    /// As [`Json`], but a null value is `None` instead of a failure.
    pub struct NullableJson<T>(Json<T>);

    impl<T: DeserializeOwned + 'static> Decode<T> for Json<T> {
        fn decode(&self, record: &RawRecord) -> Result<T, BoxError> {
            serde_json::from_slice(value_of(record)?).map_err(|error| without_payload(&error))
        }

        fn describe(&self) -> String {
            "json".to_owned()
        }
    }

    impl<T: DeserializeOwned + 'static> Decode<Option<T>> for NullableJson<T> {
        fn decode(&self, record: &RawRecord) -> Result<Option<T>, BoxError> {
            match record.value {
                None => Ok(None),
                Some(_) => self.0.decode(record).map(Some),
            }
        }

        fn describe(&self) -> String {
            "json with tombstones".to_owned()
        }
    }

    /// What is wrong and where, without the payload that `serde_json` quotes.
    ///
    /// Errors of syntax are fixed sentences. Errors of data quote what was found before they say
    /// what was expected; the latter comes from the type.
    fn without_payload(error: &serde_json::Error) -> BoxError {
        const QUOTING: [&str; 5] =
            ["invalid type", "invalid value", "invalid length", "unknown variant", "unknown field"];
        if error.classify() != Category::Data {
            return Undecodable::new(error);
        }
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let text = text.strip_suffix(&place).unwrap_or(&text);
        let said = match QUOTING.into_iter().find(|kind| text.starts_with(kind)) {
            Some(kind) => match text.rsplit_once(", expected ") {
                Some((_, expected)) => format!("{kind}, expected {expected}"),
                None => kind.to_owned(),
            },
            None if text.starts_with("missing field `") => text.to_owned(),
            None => "it does not fit the type".to_owned(),
        };
        Undecodable::new(format_args!("{said}{place}"))
    }

    impl<T: DeserializeOwned + 'static> Default for Json<T> {
        fn default() -> Self {
            Self::new()
        }
    }

    impl<T> Clone for Json<T> {
        fn clone(&self) -> Self {
            Self(PhantomData)
        }
    }

    impl<T> fmt::Debug for Json<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "Json<{}>", std::any::type_name::<T>())
        }
    }

    impl<T> Clone for NullableJson<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T> fmt::Debug for NullableJson<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{:?} with tombstones", self.0)
        }
    }
}

#[cfg(test)]
mod tests;
