//! How much a run must have reached to say anything, by what was to break and for how long.

use std::time::Duration;

use super::Nemesis::{Commit, Expiry, Hanging, Kill, Stop, Storm, Term, Zombie};
use super::{Coverage, Kind, Nemesis, Outcome};

/// Something that must have happened so often in ten minutes, if one of these was to break things. Shorter runs must
/// have reached their share of it, rounded down: a run of seconds is asked for little.
struct Gate {
    what: &'static str,
    count: fn(&Coverage) -> usize,
    in_ten_minutes: f64,
    because: &'static [Nemesis],
    sinks: &'static [Kind],
}

const ALL: &[Kind] = &[Kind::Kafka, Kind::Postgres, Kind::Sqlite];
const SQL: &[Kind] = &[Kind::Postgres, Kind::Sqlite];
const KAFKA: &[Kind] = &[Kind::Kafka];
/// Those whose commit can be lost on its way.
const WIRED: &[Kind] = &[Kind::Kafka, Kind::Postgres];

const fn gate(
    what: &'static str,
    count: fn(&Coverage) -> usize,
    in_ten_minutes: f64,
    because: &'static [Nemesis],
    sinks: &'static [Kind],
) -> Gate {
    Gate { what, count, in_ten_minutes, because, sinks }
}

/// A third of what runs of three minutes reached, or less: one that falls short of it was not what it was meant to be,
/// and chance alone seldom makes it so.
const GATES: &[Gate] = &[
    gate("hand-overs", |c| c.assignments, 20.0, &[Kill, Stop, Expiry, Term, Storm], ALL),
    gate("partitions lost unawares", |c| c.losses, 5.0, &[Stop, Expiry], ALL),
    gate("partitions regained", |c| c.regained, 5.0, &[Stop, Expiry, Storm], ALL),
    gate("work dropped by epoch", |c| c.fenced_by_epoch, 5.0, &[Stop, Expiry, Storm], ALL),
    gate("zombies that tried", |c| c.zombies, 1.0, &[Zombie], ALL),
    gate("commits fenced by claim", |c| c.fenced_by_claim, 1.0, &[Zombie], SQL),
    gate("transactions expired", |c| c.expired, 3.5, &[Expiry, Kill], KAFKA),
    gate("aborted parts in the output", |c| c.aborted_parts, 5.0, &[Kill, Stop, Expiry], KAFKA),
    gate("commits in doubt", |c| c.in_doubt, 1.5, &[Commit], WIRED),
    gate("doubts resolved as stored", |c| c.doubt_stored, 0.4, &[Commit], WIRED),
    gate("doubts resolved as not stored", |c| c.doubt_not_stored, 0.4, &[Commit], WIRED),
    gate("markers in the input", |c| c.markers, 2.0, &[Hanging], ALL),
    gate("aborted records in the input", |c| c.aborted_inputs, 2.0, &[Hanging], ALL),
    gate("cuts left open", |c| c.open_cuts, 0.7, &[Kill], ALL),
];

/// What was to happen and did not: nothing, or the run says nothing.
#[must_use]
pub fn gaps(
    coverage: &Coverage,
    outcome: &Outcome,
    sink: Kind,
    nemeses: &[Nemesis],
    over: Duration,
) -> Vec<String> {
    let never = nemeses.iter().filter(|nemesis| outcome.tally.of(**nemesis) == 0);
    let mut gaps: Vec<_> = never.map(|nemesis| format!("{nemesis} never hit")).collect();
    let compared = [
        ("the store was compared in no moment", outcome.watched.map(|watched| watched.moments)),
        ("no record of the input was read twice", outcome.read_twice),
        ("no transaction was compared", outcome.agreed.map(|agreed| agreed.committed)),
    ];
    let nothing = compared.iter().filter(|(_, count)| *count == Some(0));
    gaps.extend(nothing.map(|(what, _)| (*what).to_owned()));
    let asked = GATES.iter().filter(|gate| {
        gate.sinks.contains(&sink) && gate.because.iter().any(|nemesis| nemeses.contains(nemesis))
    });
    gaps.extend(asked.filter_map(|gate| {
        let least = (gate.in_ten_minutes * over.as_secs_f64() / 600.0) as usize;
        let count = (gate.count)(coverage);
        (count < least).then(|| format!("{}: {count}, at least {least} were wanted", gate.what))
    }));
    gaps
}

#[cfg(test)]
mod tests {
    use super::super::ALL as EVERYTHING;
    use super::*;

    #[test]
    fn a_run_that_reached_nothing_says_nothing_and_a_moment_is_asked_for_nothing() {
        let (nothing, outcome) = (Coverage::default(), Outcome::default());
        for sink in [Kind::Kafka, Kind::Postgres, Kind::Sqlite] {
            let gaps = |minutes: f64, nemeses: &[Nemesis]| {
                let over = Duration::from_secs_f64(minutes * 60.0);
                super::gaps(&nothing, &outcome, sink, nemeses, over)
            };
            assert_eq!(gaps(0.3, &[]), [""; 0]);
            assert_eq!(gaps(0.3, &[Nemesis::Kill]), ["kill never hit"]);
            let long = gaps(30.0, &EVERYTHING);
            assert!(long.iter().any(|gap| gap.starts_with("zombies that tried: 0")), "{long:?}");
            assert!(long.len() > EVERYTHING.len() + 5, "{long:?}");
        }
    }
}
