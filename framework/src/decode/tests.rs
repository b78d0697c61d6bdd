//! What decoders accept, and that their messages hold no payload.

use super::*;
use crate::record::{Headers, Offset, PartitionId};

fn record(value: Option<&[u8]>) -> RawRecord {
    RawRecord {
        partition: PartitionId::new("t", 0),
        offset: Offset::ZERO,
        timestamp: None,
        key: None,
        value: value.map(Bytes::copy_from_slice),
        headers: Headers::default(),
    }
}

fn error<V: fmt::Debug>(decoder: &impl Decode<V>, value: Option<&[u8]>) -> String {
    let refused = decoder.decode(&record(value));
    refused.expect_err("it is refused").to_string()
}

#[test]
fn text_is_utf8_and_a_message_names_the_place_and_not_the_text() {
    let text = Utf8.decode(&record(Some("größe".as_bytes())));
    assert_eq!(text.expect("it is UTF-8"), "größe");
    assert_eq!(Utf8.decode(&record(Some(b""))).expect("it is empty"), "");
    assert_eq!(error(&Utf8, Some(b"secret\xff")), "invalid UTF-8 at byte 6");
    assert_eq!(error(&Utf8, None), "the value is null");
}

#[test]
fn raw_bytes_are_shared_and_null_is_refused() {
    let record = record(Some(b"abc"));
    let bytes = Raw.decode(&record).expect("there is a value");
    let original = record.value.as_ref().expect("there is a value");
    assert_eq!(bytes.as_ptr(), original.as_ptr(), "nothing is copied");
    assert_eq!(error(&Raw, None), "the value is null");
}

#[test]
fn a_closure_is_a_decoder_and_sees_the_whole_record() {
    let decoder = |record: &RawRecord| match record.value.is_none() {
        true => Err("nothing there"),
        false => Ok(record.offset.get()),
    };
    assert_eq!(decoder.decode(&record(Some(b""))).expect("there is a value"), 0);
    assert_eq!(error(&decoder, None), "nothing there");
}

#[cfg(feature = "json")]
mod json {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Quake {
        id: String,
        mag: f64,
        #[serde(default)]
        kind: Kind,
    }

    #[derive(Deserialize, PartialEq, Debug, Default)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        #[default]
        Tectonic,
        Volcanic,
    }

    fn json_error(text: &str) -> String {
        error(&Json::<Quake>::new(), Some(text.as_bytes()))
    }

    #[test]
    fn values_are_read_into_the_type() {
        let value = record(Some(br#"{"id": "a", "mag": 4.5, "kind": "volcanic"}"#));
        let quake = Json::<Quake>::new().decode(&value).expect("it fits");
        let expected = Quake { id: "a".into(), mag: 4.5, kind: Kind::Volcanic };
        assert_eq!(quake, expected);
    }

    #[test]
    fn a_null_value_is_refused_unless_tombstones_are_wanted() {
        assert_eq!(error(&Json::<Quake>::new(), None), "the value is null");
        let with_tombstones = Json::<Quake>::new().with_tombstones();
        let tombstone = with_tombstones.decode(&record(None));
        assert_eq!(tombstone.expect("it is a tombstone"), None);
        let value = record(Some(br#"{"id": "a", "mag": 1}"#));
        assert!(with_tombstones.decode(&value).expect("it fits").is_some());
        let empty = error(&with_tombstones, Some(b""));
        assert!(empty.starts_with("EOF while parsing"), "an empty value is no tombstone: {empty}");
    }

    #[test]
    fn messages_say_what_and_where_and_hold_nothing_of_the_payload() {
        for (text, expected) in [
            (r#"{"id": 1, "mag": 1}"#, "invalid type, expected a string at line 1 column 8"),
            (
                r#"{"id": "a", "mag": "secret, expected secret"}"#,
                "invalid type, expected f64 at line 1 column 44",
            ),
            (
                r#"{"id": "a", "mag": 1, "kind": "secret"}"#,
                "unknown variant, expected `tectonic` or `volcanic` at line 1 column 38",
            ),
            (
                r#"{"id": "a", "secret": 1}"#,
                "unknown field, expected one of `id`, `mag`, `kind` at line 1 column 20",
            ),
            (r#"{"id": "a"}"#, "missing field `mag` at line 1 column 11"),
            (r#"{"id": "secret" x}"#, "expected `,` or `}` at line 1 column 17"),
            (r#"{"id": "secret"#, "EOF while parsing a string at line 1 column 14"),
            ("secret", "expected value at line 1 column 1"),
            (r#"{"id": "a", "mag": 1} secret"#, "trailing characters at line 1 column 23"),
        ] {
            let error = json_error(text);
            assert_eq!(error, expected, "{text}");
            assert!(!error.contains("secret"));
        }
        let invalid = error(&Json::<String>::new(), Some(b"\"secret\xff\""));
        assert_eq!(invalid, "invalid unicode code point at line 1 column 8");
    }

    #[test]
    fn an_error_of_the_types_own_reader_is_not_repeated() {
        #[derive(Debug)]
        struct Picky;
        impl<'de> Deserialize<'de> for Picky {
            fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
                let text = String::deserialize(reader)?;
                Err(serde::de::Error::custom(format_args!("cannot use {text}")))
            }
        }
        let error = error(&Json::<Picky>::new(), Some(b"\"secret\""));
        assert!(error.starts_with("it does not fit the type"), "{error}");
        assert!(!error.contains("secret"));
    }

    #[test]
    fn deep_nesting_is_refused_instead_of_overflowing_the_stack() {
        let deep = "[".repeat(100_000);
        let error = error(&Json::<serde_json::Value>::new(), Some(deep.as_bytes()));
        assert_eq!(error, "recursion limit exceeded at line 1 column 128");
    }
}
