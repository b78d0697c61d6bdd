//! Commits against each other, and against the results that they stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::check::{Partition, place_of};
use super::evidence::{Commit, History, Outcome, Output};
use super::report::{Anomaly, Report};

pub(super) fn check(history: &History, snapshots: &BTreeSet<u64>, report: &mut Report) {
    check_ranges(history, report);
    check_fences(history, report);
    check_results(history, report);
    check_whole(history, snapshots, report);
}

/// The ranges of committed transactions tile the offsets of each partition.
fn check_ranges(history: &History, report: &mut Report) {
    // Where progress may stand: more than one place after a commit that nobody knows the end of.
    let mut stands: BTreeMap<Partition<'_>, BTreeSet<i64>> = BTreeMap::new();
    for commit in history.commits.iter().filter(|commit| commit.outcome != Outcome::Aborted) {
        let known = stands.entry((&commit.topic, commit.partition)).or_default();
        let fits = known.is_empty() || known.contains(&commit.first);
        if commit.outcome == Outcome::Unknown {
            if fits {
                known.extend([commit.first, commit.next]);
            }
            continue;
        }
        if let Some(most) = known.last() {
            report.compared.commits += 1;
            if !fits {
                let anomaly = match commit.first > *most {
                    true => Anomaly::RangeGap,
                    false => Anomaly::RangeOverlap,
                };
                report.add(anomaly, name(commit));
            }
        }
        *known = [commit.next].into();
    }
}

/// Claims and epochs only grow.
fn check_fences(history: &History, report: &mut Report) {
    let mut claims: BTreeMap<Partition<'_>, u64> = BTreeMap::new();
    let mut epochs: BTreeMap<(Partition<'_>, Option<u64>), u64> = BTreeMap::new();
    for commit in history.commits.iter().filter(|commit| commit.outcome == Outcome::Committed) {
        let partition = (&*commit.topic, commit.partition);
        if let Some(claim) = commit.claim {
            let newest = claims.entry(partition).or_insert(claim);
            if claim < *newest {
                report.add(Anomaly::Zombie, name(commit));
            }
            *newest = claim.max(*newest);
        }
        if let Some(epoch) = commit.epoch {
            let newest = epochs.entry((partition, commit.claim)).or_insert(epoch);
            if epoch < *newest {
                report.add(Anomaly::StaleEpoch, name(commit));
            }
            *newest = epoch.max(*newest);
        }
    }
}

/// What a transaction stored lies in the ranges that it moved progress over.
fn check_results(history: &History, report: &mut Report) {
    let mut parts: HashMap<&str, Vec<&Commit>> = HashMap::new();
    for commit in &history.commits {
        parts.entry(&commit.transaction).or_default().push(commit);
    }
    for output in &history.outputs {
        let Some(transaction) = output.transaction.as_deref() else { continue };
        let Some(parts) = parts.get(transaction) else {
            // Without any commits there is nothing to compare with.
            if !history.commits.is_empty() {
                report.add(Anomaly::Torn, format_args!("{}: no such commit", result(output)));
            }
            continue;
        };
        if parts.iter().any(|commit| commit.outcome == Outcome::Aborted) {
            report.add(Anomaly::AbortedVisible, result(output));
            continue;
        }
        let covers = |commit: &&Commit| {
            (&*commit.topic, commit.partition) == place_of(output).0
                && (commit.first..commit.next).contains(&output.offset)
        };
        if !parts.iter().any(covers) {
            report.add(Anomaly::Torn, format_args!("{}: outside its ranges", result(output)));
        }
    }
}

/// In every snapshot a transaction is there as it was in the end, or not at all.
fn check_whole(history: &History, snapshots: &BTreeSet<u64>, report: &mut Report) {
    let Some(last) = snapshots.last() else { return };
    type Results<'a> = BTreeMap<&'a str, BTreeSet<String>>;
    let mut seen: BTreeMap<u64, Results<'_>> = BTreeMap::new();
    for output in &history.outputs {
        if let Some(transaction) = output.transaction.as_deref() {
            let snapshot = seen.entry(output.snapshot).or_default();
            snapshot.entry(transaction).or_default().insert(result(output));
        }
    }
    let nothing = Results::new();
    let end = seen.get(last).unwrap_or(&nothing);
    for snapshot in snapshots.iter().filter(|snapshot| *snapshot != last) {
        for (transaction, results) in seen.get(snapshot).unwrap_or(&nothing) {
            if end.get(transaction) != Some(results) {
                let place = format_args!("transaction {transaction} in snapshot {snapshot}");
                report.add(Anomaly::Torn, place);
            }
        }
    }
}

fn result(output: &Output) -> String {
    let Output { topic, partition, offset, index, .. } = output;
    format!("{topic}/{partition}/{offset}/{index}")
}

fn name(commit: &Commit) -> String {
    let Commit { transaction, topic, partition, first, next, .. } = commit;
    format!("{topic}/{partition} {first}..{next} by {transaction}")
}
