//! What a run reached, by what the copiers wrote about themselves: a run that reached little shows little.

use std::collections::HashSet;
use std::fmt;

use super::{Nemesis, Outcome};

/// How often the interesting things happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Commits that were stored.
    pub committed: usize,
    /// Partitions were given to a member.
    pub assignments: usize,
    /// Partitions were taken from a member that lived.
    pub revocations: usize,
    /// A member learned too late that its partitions had gone.
    pub losses: usize,
    /// A process got back a partition that it had before.
    pub regained: usize,
    /// Commits that were refused and tried again.
    pub aborted: usize,
    /// Commits refused because somebody else had claimed the partition.
    pub fenced_by_claim: usize,
    /// Commits refused because stored progress was another.
    pub fenced_by_offset: usize,
    /// Commits refused because the group no longer counted the member in that generation, or the producer was replaced.
    pub fenced_by_broker: usize,
    /// Work that was dropped because its partition had gone or been read again: fenced by our own epoch.
    pub fenced_by_epoch: usize,
    /// Commits whose fate was not known.
    pub in_doubt: usize,
    /// … which turned out to be stored.
    pub doubt_stored: usize,
    /// … which turned out not to be.
    pub doubt_not_stored: usize,
    /// … which somebody else had overtaken.
    pub doubt_taken_over: usize,
    /// Cuts whose process died before it knew.
    pub open_cuts: usize,
    /// Copiers that ended by themselves and were started again.
    pub ended: usize,
}

impl Coverage {
    /// Counts.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        let trail = &outcome.trail;
        let said = |fate: &str, words: &[&str]| {
            let with = |detail: &str| words.is_empty() || words.iter().any(|w| detail.contains(w));
            let commits = trail.all("commit").filter(|e| e.fate.as_deref() == Some(fate));
            commits
                .filter(|e| with(e.rest.get("detail").and_then(|d| d.as_str()).unwrap_or("")))
                .count()
        };
        let resolved = |fate: &str| {
            trail.all("fate").filter(|event| event.fate.as_deref() == Some(fate)).count()
        };
        let mut had = HashSet::new();
        let starts = trail.all("start").filter(|e| !had.insert((e.pid, e.partition.clone())));
        let regained = starts.count();
        let broker = ["eneration", "MemberId", "Fenced", "fenced", "ProducerEpoch", "Epoch"];
        let by_claim = said("fenced", &["claimed by another"]);
        let by_offset = said("fenced", &["progress of"]);
        Self {
            committed: trail.fates("committed"),
            assignments: trail.count("assign"),
            revocations: trail.count("revoke"),
            losses: trail.count("lost"),
            regained,
            aborted: trail.fates("aborted"),
            fenced_by_claim: by_claim,
            fenced_by_offset: by_offset,
            fenced_by_broker: said("aborted", &broker)
                + trail.fates("fenced").saturating_sub(by_claim + by_offset),
            fenced_by_epoch: trail.count("dropped"),
            in_doubt: trail.fates("in_doubt"),
            doubt_stored: resolved("committed"),
            doubt_not_stored: resolved("not_committed"),
            doubt_taken_over: resolved("taken_over"),
            open_cuts: trail.count("cut").saturating_sub(trail.count("commit")),
            ended: outcome.tally.ended.len(),
        }
    }

    /// What was asked for and not reached: nothing, or the run shows too little.
    #[must_use]
    pub fn gaps(&self, outcome: &Outcome, nemeses: &[Nemesis]) -> Vec<String> {
        let mut gaps = Vec::new();
        for nemesis in nemeses.iter().filter(|nemesis| outcome.tally.of(**nemesis) == 0) {
            gaps.push(format!("{nemesis} never hit"));
        }
        if outcome.watched.is_some_and(|watched| watched.moments == 0) {
            gaps.push("the store was compared in no moment".into());
        }
        if outcome.agreed.is_some_and(|agreed| agreed.committed == 0) {
            gaps.push("no transaction was compared".into());
        }
        if outcome.read_twice == Some(0) {
            gaps.push("no record of the input was read twice".into());
        }
        let mut need = |what: &str, count: usize, because: &[Nemesis]| {
            if count == 0 && because.iter().any(|nemesis| nemeses.contains(nemesis)) {
                gaps.push(format!("no {what}"));
            }
        };
        need("hand-over", self.assignments.saturating_sub(1), &[Nemesis::Kill, Nemesis::Stop]);
        need("lost partition", self.losses, &[Nemesis::Stop, Nemesis::Expiry]);
        need("commit in doubt", self.in_doubt, &[Nemesis::Commit]);
        need("work dropped", self.fenced_by_epoch, &[Nemesis::Stop, Nemesis::Storm]);
        gaps
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("commits stored", self.committed),
            ("assignments", self.assignments),
            ("revocations", self.revocations),
            ("partitions lost unawares", self.losses),
            ("partitions regained by a process", self.regained),
            ("commits aborted", self.aborted),
            ("fenced by claim", self.fenced_by_claim),
            ("fenced by offset", self.fenced_by_offset),
            ("fenced by the broker", self.fenced_by_broker),
            ("fenced by epoch (work dropped)", self.fenced_by_epoch),
            ("commits in doubt", self.in_doubt),
            ("  resolved: stored", self.doubt_stored),
            ("  resolved: not stored", self.doubt_not_stored),
            ("  resolved: taken over", self.doubt_taken_over),
            ("cuts that a kill left open", self.open_cuts),
            ("copiers that ended by themselves", self.ended),
        ];
        rows.iter().try_for_each(|(what, count)| writeln!(f, "  {what:<34}{count:>8}"))
    }
}
