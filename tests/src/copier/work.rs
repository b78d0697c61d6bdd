//! What the copier does with one record, steered by the record's value.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate::record::RawRecord;

use super::args::Work;

/// What a value asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// So many copies.
    Copies(u32),
    /// None: it is filtered.
    Drop,
    /// This call fails.
    Fail,
    /// This call panics.
    Panic,
}

/// What the value wishes for at this call, counted from 1.
///
/// `poison:` always fails, `flaky:N:` fails N times, `panic:` panics, `drop:` is filtered,
/// `fan:N:` gives N copies; anything else gives one.
pub fn wish(value: Option<&[u8]>, attempt: u32) -> Wish {
    let Some(value) = value else { return Wish::Copies(1) };
    if value.starts_with(b"poison:") {
        Wish::Fail
    } else if value.starts_with(b"panic:") {
        Wish::Panic
    } else if value.starts_with(b"drop:") {
        Wish::Drop
    } else if let Some(times) = number_after(value, b"flaky:") {
        if attempt <= times { Wish::Fail } else { Wish::Copies(1) }
    } else {
        Wish::Copies(number_after(value, b"fan:").unwrap_or(1))
    }
}

/// The number in `prefix` `N:`; `None` if the value does not begin like that.
fn number_after(value: &[u8], prefix: &[u8]) -> Option<u32> {
    let rest = value.strip_prefix(prefix)?;
    let digits = rest.split(|byte| *byte == b':').next()?;
    if digits.len() == rest.len() {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A copy of a record, as it goes to a SQL sink.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The key as it was.
    pub key: Option<Bytes>,
    /// The value as it was.
    pub value: Option<Bytes>,
    /// The process that made it.
    pub pid: i32,
}

impl Copied {
    /// A copy of this record.
    pub fn of(record: &RawRecord) -> Self {
        let pid = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
        Self { key: record.key.clone(), value: record.value.clone(), pid }
    }
}

/// How long the work for one record takes: even over the range, from its coordinates, so that a
/// run can be repeated.
pub fn duration(range: &RangeInclusive<u64>, record: &RawRecord) -> Duration {
    let (least, most) = (*range.start(), *range.end());
    if most == 0 {
        return Duration::ZERO;
    }
    let mix = (record.offset.get() as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(record.partition.index() as u32 % 64);
    Duration::from_micros(least + (mix >> 33) % (most - least + 1))
}

/// Works on the calling thread.
pub fn work(kind: Work, time: Duration) {
    if time.is_zero() {
        return;
    }
    match kind {
        Work::Sleep | Work::Async => std::thread::sleep(time),
        Work::Spin => {
            let began = Instant::now();
            while began.elapsed() < time {
                std::hint::spin_loop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_steer_the_copier() {
        for (value, attempt, wanted) in [
            (&b"poison:x"[..], 9, Wish::Fail),
            (b"panic:", 1, Wish::Panic),
            (b"drop:me", 1, Wish::Drop),
            (b"flaky:2:x", 1, Wish::Fail),
            (b"flaky:2:x", 2, Wish::Fail),
            (b"flaky:2:x", 3, Wish::Copies(1)),
            (b"fan:0:x", 1, Wish::Copies(0)),
            (b"fan:3:x", 1, Wish::Copies(3)),
            (b"fan:many:x", 1, Wish::Copies(1)),
            (b"fan:3", 1, Wish::Copies(1)),
            (b"plain", 1, Wish::Copies(1)),
            (b"", 1, Wish::Copies(1)),
        ] {
            assert_eq!(wish(Some(value), attempt), wanted, "{value:?}");
        }
        assert_eq!(wish(None, 1), Wish::Copies(1));
    }
}
