//! What a run reached, by what the copiers wrote about themselves and what the servers show: a run that reached little
//! shows little.

use std::collections::HashSet;
use std::fmt;

use super::zombies::Silence;
use super::{Outcome, zombies};
use crate::fleet::Event;

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
    /// Transactions that the coordinator ended because of their time-out.
    pub expired: usize,
    /// Commits refused because somebody else had claimed the partition.
    pub fenced_by_claim: usize,
    /// Commits refused because stored progress was another.
    pub fenced_by_offset: usize,
    /// Commits refused because the group no longer counted the member in that generation.
    pub fenced_by_generation: usize,
    /// Commits refused because the producer was no longer the one of its name.
    pub fenced_by_producer: usize,
    /// Work that was dropped because its partition had gone or been read again: fenced by our own epoch.
    pub fenced_by_epoch: usize,
    /// Commits that somebody tried for a partition after another process had claimed it, and that were not stored.
    pub zombies: usize,
    /// Commits whose fate was not known.
    pub in_doubt: usize,
    /// … which turned out to be stored.
    pub doubt_stored: usize,
    /// … which turned out not to be.
    pub doubt_not_stored: usize,
    /// … which somebody else took over, or whose process ended before it knew.
    pub doubt_left: usize,
    /// Cuts whose process died before it knew.
    pub open_cuts: usize,
    /// Producers that wrote, by number and epoch.
    pub producers: usize,
    /// Parts of transactions that were aborted, in the segments of the output.
    pub aborted_parts: usize,
    /// Markers in the input, which no reader gets.
    pub markers: usize,
    /// Aborted records in the input, which no reader gets.
    pub aborted_inputs: usize,
    /// Records that had no output and no dead letter.
    pub filtered: usize,
    /// Records that became dead letters.
    pub dead: usize,
    /// Copiers that ended by themselves and were started again.
    pub ended: usize,
    /// The longest time in which a partition had no commit. It is told, not judged: input may have been away.
    pub silence: Option<Silence>,
}

/// Words by which a broker refuses a member of the group.
const GENERATION: &[&str] = &[
    "IllegalGeneration",
    "UnknownMemberId",
    "StaleMemberEpoch",
    "FencedMemberEpoch",
    "FencedInstanceId",
    "RebalanceInProgress",
];
/// Words by which it refuses a producer.
const PRODUCER: &[&str] =
    &["ProducerFenced", "InvalidProducerEpoch", "InvalidProducerIdMapping", "Fenced"];

impl Coverage {
    /// Counts.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        let trail = &outcome.trail;
        let refused = |words: &[&str], but: &[&str]| {
            let detail = |event: &Event| {
                event.rest.get("detail").and_then(|d| d.as_str()).unwrap_or_default().to_owned()
            };
            let said = |event: &&Event| {
                let detail = detail(event);
                let any = |words: &[&str]| words.iter().any(|word| detail.contains(word));
                event.fate.as_deref() != Some("committed") && any(words) && !any(but)
            };
            trail.all("commit").filter(said).count()
        };
        let resolved =
            |fate: &str| trail.all("fate").filter(|e| e.fate.as_deref() == Some(fate)).count();
        let mut had = HashSet::new();
        let starts = trail.all("start").filter(|e| !had.insert((e.pid, e.partition.clone())));
        let regained = starts.count();
        Self {
            committed: trail.fates("committed"),
            assignments: trail.count("assign"),
            revocations: trail.count("revoke"),
            losses: trail.count("lost"),
            regained,
            aborted: trail.fates("aborted"),
            expired: outcome.expired,
            fenced_by_claim: refused(&["claimed by another", "another owner held"], &[]),
            fenced_by_offset: refused(&["stored progress of"], &[]),
            fenced_by_generation: refused(GENERATION, &[]),
            fenced_by_producer: refused(PRODUCER, GENERATION),
            fenced_by_epoch: trail.count("dropped"),
            zombies: zombies::tried(trail),
            in_doubt: trail.fates("in_doubt"),
            doubt_stored: resolved("committed"),
            doubt_not_stored: resolved("not_committed"),
            doubt_left: trail.fates("in_doubt").saturating_sub(trail.count("fate")),
            open_cuts: zombies::open_cuts(trail),
            producers: outcome.agreed.map_or(0, |agreed| agreed.producers),
            aborted_parts: outcome.agreed.map_or(0, |agreed| agreed.aborted),
            markers: outcome.holes.markers,
            aborted_inputs: outcome.holes.aborted,
            filtered: outcome.filtered,
            dead: outcome.dead,
            ended: outcome.tally.ended.len(),
            silence: zombies::longest_silence(trail),
        }
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
            ("transactions expired", self.expired),
            ("fenced by claim", self.fenced_by_claim),
            ("fenced by offset", self.fenced_by_offset),
            ("fenced by generation", self.fenced_by_generation),
            ("fenced as a producer", self.fenced_by_producer),
            ("fenced by epoch (work dropped)", self.fenced_by_epoch),
            ("zombies that tried after a hand-over", self.zombies),
            ("commits in doubt", self.in_doubt),
            ("  resolved: stored", self.doubt_stored),
            ("  resolved: not stored", self.doubt_not_stored),
            ("  taken over, or it ended before", self.doubt_left),
            ("cuts that a kill left open", self.open_cuts),
            ("producers that wrote", self.producers),
            ("aborted parts in the output", self.aborted_parts),
            ("gaps: markers", self.markers),
            ("gaps: aborted records", self.aborted_inputs),
            ("gaps: filtered records", self.filtered),
            ("gaps: dead letters", self.dead),
            ("copiers that ended by themselves", self.ended),
        ];
        rows.iter().try_for_each(|(what, count)| writeln!(f, "  {what:<37}{count:>8}"))?;
        let silence = self.silence.as_ref().map_or_else(|| "-".to_owned(), Silence::to_string);
        writeln!(f, "  longest without a commit: {silence}")
    }
}
