//! What a record should have become, worked out from its value.

use super::{Failed, Rules};

/// What the sink should show of one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// So many outputs, numbered from 0, and no dead letter.
    Copies(u32),
    /// One dead letter and no output.
    Dead,
}

/// What the sink should show of a record with this value.
#[must_use]
pub fn expected(value: Option<&[u8]>, rules: &Rules) -> Expected {
    let failed = match rules.failed {
        Failed::DeadLetter => Expected::Dead,
        Failed::Skipped => Expected::Copies(0),
    };
    let Some(value) = value else { return Expected::Copies(1) };
    // Directives are text at the front; what follows the last colon may be anything.
    let front = &value[..value.len().min(32)];
    let mut words = front.split(|byte| *byte == b':');
    let (word, second) = (words.next().unwrap_or_default(), words.next());
    let closed = words.next().is_some();
    let number =
        second.filter(|_| closed).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let copies: u32 = match (word, second, number) {
        (b"poison" | b"panic", Some(_), _) => return failed,
        (b"drop", Some(_), _) => return Expected::Copies(0),
        (b"flaky", _, Some(times)) if times > rules.retries => return failed,
        (b"fan", _, Some(copies)) => copies,
        _ => 1,
    };
    if copies > rules.outputs_per_record || (copies > 0 && value.len() > rules.value_bytes) {
        return failed;
    }
    Expected::Copies(copies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_says_what_becomes_of_its_record() {
        let rules = Rules { outputs_per_record: 10, value_bytes: 20, ..Rules::default() };
        for (value, wanted) in [
            (&b"plain"[..], Expected::Copies(1)),
            (b"", Expected::Copies(1)),
            (b"poison:", Expected::Dead),
            (b"poison", Expected::Copies(1)),
            (b"panic:x", Expected::Dead),
            (b"drop:x", Expected::Copies(0)),
            (b"flaky:3:x", Expected::Copies(1)),
            (b"flaky:4:x", Expected::Dead),
            (b"flaky:4", Expected::Copies(1)),
            (b"fan:0:x", Expected::Copies(0)),
            (b"fan:10:\xff", Expected::Copies(10)),
            (b"fan:11:x", Expected::Dead),
            (b"fan:x:x", Expected::Copies(1)),
            (b"twenty-one bytes long", Expected::Dead),
            (b"drop:one bytes, long.", Expected::Copies(0)),
        ] {
            assert_eq!(expected(Some(value), &rules), wanted, "{value:?}");
        }
        assert_eq!(expected(None, &rules), Expected::Copies(1));
        let skipping = Rules { failed: Failed::Skipped, ..rules };
        assert_eq!(expected(Some(b"poison:"), &skipping), Expected::Copies(0));
    }
}
