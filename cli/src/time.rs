//! Times and durations as people write them: in the forms of ISO 8601, and short ones.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use tidegate::record::Timestamp;

/// A point in time: `2026-03-01T12:00:00`, with a fraction and an offset from UTC if wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Moment(DateTime<Utc>);

impl Moment {
    pub(crate) fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(self.0.timestamp_millis())
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self(time.to_utc()));
        }
        let formats = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"];
        let time = formats.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
        match time {
            Some(time) => Ok(Self(time.and_utc())),
            None => Err("is no time like 2026-03-01T12:00:00.000 or with +02:00 behind it".into()),
        }
    }
}

/// A time that lies so long back: `PT1H30M`, `P2DT12H`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Past(TimeDelta);

impl Past {
    pub(crate) fn before(self, now: DateTime<Utc>) -> Timestamp {
        Timestamp::from_millis(now.timestamp_millis().saturating_sub(self.0.num_milliseconds()))
    }
}

impl FromStr for Past {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration(text)
            .filter(|past| !past.is_zero())
            .map(Self)
            .ok_or_else(|| "is no duration like PT1H30M or P2D".into())
    }
}

/// How long something lasts: `500ms`, `10s`, `2m`, `1h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Length(Duration);

impl Length {
    pub(crate) fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
        let number = text[..text.len() - unit.len()].parse::<u64>().ok();
        let millis = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        // A day is as long as any time-out of Tidegate's can be.
        let day = Duration::from_secs(24 * 3600);
        let length = number.zip(millis).and_then(|(number, millis)| number.checked_mul(millis));
        let length = length.map(Duration::from_millis);
        let length = length.filter(|length| !length.is_zero() && *length <= day);
        length.map(Self).ok_or_else(|| "is no time like 500ms, 10s, 2m or 1h".into())
    }
}

/// `PnDTnHnMnS`; years and months have no fixed length and are left out.
fn duration(text: &str) -> Option<TimeDelta> {
    let (days, clock) = match text.strip_prefix('P')?.split_once('T') {
        Some((days, clock)) if !clock.is_empty() => (days, clock),
        Some(_) => return None,
        None => (text.strip_prefix('P')?, ""),
    };
    let mut total = TimeDelta::zero();
    for (text, units) in [
        (days, &[('W', 604_800.0), ('D', 86_400.0)][..]),
        (clock, &[('H', 3_600.0), ('M', 60.0), ('S', 1.0)]),
    ] {
        let (mut rest, mut units) = (text, units.iter());
        while !rest.is_empty() {
            let end = rest.find(|letter: char| letter.is_ascii_alphabetic())?;
            let unit = rest[end..].chars().next()?;
            // Units come in this order, each at most once.
            let (_, seconds) = units.by_ref().find(|(letter, _)| *letter == unit)?;
            let number: f64 = rest[..end].parse().ok().filter(|number| *number >= 0.0)?;
            let millis = number * seconds * 1000.0;
            #[allow(clippy::cast_possible_truncation, reason = "checked against the range")]
            let millis = (millis < 1e17).then_some(millis as i64)?;
            total = total.checked_add(&TimeDelta::try_milliseconds(millis)?)?;
            rest = &rest[end + 1..];
        }
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_time_is_a_number_and_its_unit() {
        for (text, millis) in
            [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("24h", 86_400_000)]
        {
            assert_eq!(text.parse::<Length>().map(|l| l.get().as_millis()), Ok(millis), "{text}");
        }
        for bad in ["", "s", "10", "-1s", "1.5s", "0s", "25h", "10 s", "99999999999999999999s"] {
            assert!(bad.parse::<Length>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_utc_unless_they_say_otherwise() {
        for text in [
            "2026-03-01T12:00:00",
            "2026-03-01T12:00:00.000",
            "2026-03-01T12:00",
            "2026-03-01T12:00:00Z",
            "2026-03-01T14:00:00+02:00",
        ] {
            let moment: Moment = text.parse().unwrap();
            assert_eq!(moment.timestamp().millis(), 1_772_366_400_000, "{text}");
        }
        for text in ["", "yesterday", "2026-03-01", "2026-13-01T00:00:00", "12:00"] {
            text.parse::<Moment>().unwrap_err();
        }
    }

    #[test]
    fn durations_are_those_of_iso_8601() {
        for (text, millis) in [
            ("PT1S", 1_000),
            ("PT0.5S", 500),
            ("PT1H30M", 5_400_000),
            ("P2D", 172_800_000),
            ("P1W", 604_800_000),
            ("P1DT12H", 129_600_000),
        ] {
            assert_eq!(duration(text).unwrap().num_milliseconds(), millis, "{text}");
        }
        for text in
            ["", "P", "PT", "1H", "PT1", "PT1M1H", "P1Y", "PT-1H", "P1H", "PT1H1H", "PT1e30S"]
        {
            assert!(text.parse::<Past>().is_err(), "{text}");
        }
    }
}
