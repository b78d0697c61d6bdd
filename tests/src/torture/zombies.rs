//! What several copiers did to one partition, side by side: their evidence shares one clock.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::fleet::{Event, Trail};

/// A time in which a partition had no commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// `topic/partition`.
    pub partition: String,
    /// When it began, counted from the first thing that any copier said.
    pub since: Duration,
    /// How long it was.
    pub length: Duration,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (length, since) = (self.length.as_secs_f64(), self.since.as_secs_f64());
        write!(f, "{length:.1} s, {} from {since:.0} s on", self.partition)
    }
}

/// Commits that were not stored, of a process for a partition that another had claimed since.
pub(super) fn tried(trail: &Trail) -> usize {
    let mut claims: HashMap<&str, Vec<(u64, u32)>> = HashMap::new();
    for event in trail.all("claim").chain(trail.all("start")) {
        if let Some(partition) = &event.partition {
            claims.entry(partition).or_default().push((event.ns, event.pid));
        }
    }
    let overtaken = |event: &&Event| {
        event.spans.iter().any(|span| {
            let claims = claims.get(span.partition.as_str()).map_or(&[][..], Vec::as_slice);
            let before = claims.iter().filter(|(ns, _)| *ns < event.ns);
            let own = before.clone().filter(|(_, pid)| *pid == event.pid).map(|(ns, _)| *ns).max();
            let others = before.filter(|(_, pid)| *pid != event.pid).map(|(ns, _)| *ns).max();
            own < others
        })
    };
    let failed = trail.all("commit").filter(|event| event.fate.as_deref() != Some("committed"));
    failed.filter(overtaken).count()
}

/// Processes whose last word is a cut: they were killed before they knew how it ended. A refused batch is committed
/// again without another cut, so that cuts less commits would tell too few.
pub(super) fn open_cuts(trail: &Trail) -> usize {
    let mut last: HashMap<u32, (u64, bool)> = HashMap::new();
    for event in &trail.events {
        let is_cut = event.event == "cut";
        if is_cut || event.event == "commit" {
            let last = last.entry(event.pid).or_default();
            *last = (event.ns, is_cut).max(*last);
        }
    }
    last.values().filter(|(_, is_cut)| *is_cut).count()
}

/// The longest time between two commits of one partition: which, from when on, and how long.
pub(super) fn longest_silence(trail: &Trail) -> Option<Silence> {
    let begin = trail.events.iter().map(|event| event.ns).min()?;
    let mut commits: Vec<_> = trail
        .all("commit")
        .filter(|event| event.fate.as_deref() == Some("committed"))
        .flat_map(|event| event.spans.iter().map(|span| (span.partition.as_str(), event.ns)))
        .collect();
    commits.sort_unstable();
    let pairs = commits.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    let longest = pairs.max_by_key(|pair| pair[1].1 - pair[0].1)?;
    Some(Silence {
        partition: longest[0].0.to_owned(),
        since: Duration::from_nanos(longest[0].1 - begin),
        length: Duration::from_nanos(longest[1].1 - longest[0].1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::parse_trail;

    fn trail(lines: &[&str]) -> Trail {
        parse_trail(&lines.join("\n")).expect("evidence")
    }

    const CLAIM_1: &str = r#"{"event":"claim","pid":1,"ns":1,"partition":"t/0"}"#;
    const CLAIM_2: &str = r#"{"event":"claim","pid":2,"ns":5,"partition":"t/0"}"#;

    fn commit(fate: &str, ns: u64) -> String {
        let span = r#"{"partition":"t/0","epoch":1,"first":0,"next":1}"#;
        format!(r#"{{"event":"commit","fate":"{fate}","pid":1,"ns":{ns},"spans":[{span}]}}"#)
    }

    #[test]
    fn who_fails_after_a_claim_of_another_is_a_zombie() {
        assert_eq!(tried(&trail(&[CLAIM_1, CLAIM_2, &commit("fenced", 6)])), 1);
        assert_eq!(tried(&trail(&[CLAIM_1, CLAIM_2, &commit("committed", 6)])), 0);
        assert_eq!(tried(&trail(&[CLAIM_1, CLAIM_2, &commit("aborted", 3)])), 0);
        let again = CLAIM_1.replace("\"ns\":1", "\"ns\":7");
        assert_eq!(tried(&trail(&[CLAIM_1, CLAIM_2, &again, &commit("aborted", 8)])), 0);
    }

    #[test]
    fn a_process_whose_last_word_is_a_cut_left_it_open() {
        let cut = |pid: u32, ns: u64| format!(r#"{{"event":"cut","pid":{pid},"ns":{ns}}}"#);
        let (aborted, committed) = (commit("aborted", 6), commit("committed", 7));
        let lines = [cut(1, 5), aborted, committed, cut(2, 5), cut(3, 1)];
        assert_eq!(open_cuts(&trail(&lines.each_ref().map(String::as_str))), 2);
    }

    #[test]
    fn silence_is_what_lies_between_two_commits() {
        let lines = [commit("committed", 2), commit("aborted", 5), commit("committed", 9)];
        let silence = longest_silence(&trail(&lines.each_ref().map(String::as_str)));
        let (since, length) = (Duration::ZERO, Duration::from_nanos(7));
        assert_eq!(silence, Some(Silence { partition: "t/0".to_owned(), since, length }));
    }
}
