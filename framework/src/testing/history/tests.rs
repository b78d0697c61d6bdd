//! Planted histories: a good one passes, each anomaly is found alone, and nothing is never a pass.

use super::*;

/// Two partitions in three snapshots and four commits. Offset 2 is filtered, offset 3 is a hole,
/// offset 5 is dead.
const GOOD: &str = r#"
{"kind":"input","topic":"in","partition":0,"offset":0,"key":"a"}
{"kind":"input","topic":"in","partition":0,"offset":1,"key":"b","outputs":2}
{"kind":"input","topic":"in","partition":0,"offset":2,"key":"a","outputs":0}
{"kind":"input","topic":"in","partition":0,"offset":4,"key":"a"}
{"kind":"input","topic":"in","partition":0,"offset":5,"key":"b","dead":true}
{"kind":"input","topic":"in","partition":0,"offset":6,"key":"a","topic_id":"first"}
{"kind":"input","topic":"in","partition":1,"offset":0,"key":"a"}
{"kind":"input","topic":"in","partition":1,"offset":1,"key":"c"}
{"kind":"commit","transaction":"t1","topic":"in","partition":0,"first":0,"next":2,"claim":1,"epoch":1}
{"kind":"commit","transaction":"t1","topic":"in","partition":1,"first":0,"next":1,"claim":1,"epoch":1}
{"kind":"commit","transaction":"t2","topic":"in","partition":0,"first":2,"next":4,"claim":1,"epoch":1,"outcome":"aborted"}
{"kind":"commit","transaction":"t3","topic":"in","partition":0,"first":2,"next":3,"claim":1,"epoch":2}
{"kind":"commit","transaction":"t4","topic":"in","partition":0,"first":3,"next":7,"claim":2,"epoch":1}
{"kind":"commit","transaction":"t4","topic":"in","partition":1,"first":1,"next":2,"claim":2,"epoch":1}
{"kind":"progress","snapshot":0,"topic":"in","partition":0,"next":0}
{"kind":"progress","snapshot":0,"topic":"in","partition":1,"next":0}
{"kind":"output","snapshot":1,"topic":"in","partition":0,"offset":0,"place":0,"transaction":"t1"}
{"kind":"output","snapshot":1,"topic":"in","partition":0,"offset":1,"index":0,"place":1,"transaction":"t1"}
{"kind":"output","snapshot":1,"topic":"in","partition":0,"offset":1,"index":1,"place":2,"transaction":"t1"}
{"kind":"output","snapshot":1,"topic":"in","partition":1,"offset":0,"place":3,"transaction":"t1"}
{"kind":"progress","snapshot":1,"topic":"in","partition":0,"next":2}
{"kind":"progress","snapshot":1,"topic":"in","partition":1,"next":1}
{"kind":"output","snapshot":2,"topic":"in","partition":0,"offset":0,"place":0,"transaction":"t1"}
{"kind":"output","snapshot":2,"topic":"in","partition":0,"offset":1,"index":0,"place":1,"transaction":"t1"}
{"kind":"output","snapshot":2,"topic":"in","partition":0,"offset":1,"index":1,"place":2,"transaction":"t1"}
{"kind":"output","snapshot":2,"topic":"in","partition":1,"offset":0,"place":3,"transaction":"t1"}
{"kind":"output","snapshot":2,"topic":"in","partition":0,"offset":4,"place":4,"transaction":"t4"}
{"kind":"output","snapshot":2,"topic":"in","partition":0,"offset":6,"place":5,"transaction":"t4","topic_id":"first"}
{"kind":"output","snapshot":2,"topic":"in","partition":1,"offset":1,"place":6,"transaction":"t4"}
{"kind":"dead","snapshot":2,"topic":"in","partition":0,"offset":5}
{"kind":"progress","snapshot":2,"topic":"in","partition":0,"next":7}
{"kind":"progress","snapshot":2,"topic":"in","partition":1,"next":2}
"#;

fn good() -> History {
    let history = History::read(GOOD.as_bytes()).expect("a reader in memory");
    assert!(history.unreadable.is_empty(), "{:?}", history.unreadable);
    history
}

/// The good history with this done to it: its anomalies and verdict.
fn spoiled(spoil: impl FnOnce(&mut History)) -> (Vec<Anomaly>, Verdict) {
    let mut history = good();
    spoil(&mut history);
    let report = history.check();
    (report.anomalies(), report.verdict())
}

/// The results of the last snapshot, by record.
fn last(history: &mut History, partition: i32, offset: i64) -> &mut Output {
    let outputs = &mut history.outputs;
    let found =
        outputs.iter_mut().find(|o| (o.snapshot, o.partition, o.offset) == (2, partition, offset));
    found.expect("it is there")
}

fn without(history: &mut History, gone: impl Fn(&Output) -> bool) {
    let before = history.outputs.len();
    history.outputs.retain(|output| !gone(output));
    assert!(history.outputs.len() < before, "something was to be removed");
}

fn progress(history: &mut History, snapshot: u64, partition: i32) -> &mut i64 {
    let found = history.progress.iter_mut();
    let found = { found }.find(|p| (p.snapshot, p.partition) == (snapshot, partition));
    &mut found.expect("it is there").next
}

fn commit<'a>(history: &'a mut History, transaction: &str, partition: i32) -> &'a mut Commit {
    let found = history.commits.iter_mut();
    let found = { found }.find(|c| (&*c.transaction, c.partition) == (transaction, partition));
    found.expect("it is there")
}

#[test]
fn a_good_history_is_exactly_once_and_everything_in_it_was_compared() {
    let report = good().check();
    assert_eq!(report.verdict(), Verdict::ExactlyOnce, "{report}");
    let wanted =
        Compared { snapshots: 3, records: 11, outputs: 11, dead: 1, ordered: 4, commits: 3 };
    assert_eq!(report.compared, wanted);
}

#[test]
fn a_line_says_what_it_was_made_from() {
    for line in GOOD.lines().filter(|line| !line.is_empty()) {
        let parsed: Line = serde_json::from_str(line).expect(line);
        let written = serde_json::to_string(&parsed).expect("it is written");
        assert_eq!(serde_json::from_str::<Line>(&written).expect("read again"), parsed);
    }
}

#[test]
fn a_duplicate_is_found() {
    let twice = |h: &mut History| {
        let again = Output { place: 9, ..last(h, 0, 6).clone() };
        h.outputs.push(again);
    };
    assert_eq!(spoiled(twice), (vec![Anomaly::Duplicate], Verdict::AtLeastOnce));
}

#[test]
fn a_lost_head_middle_or_tail_is_found() {
    for (partition, offset) in [(0, 0), (0, 4), (0, 6), (1, 1)] {
        // Lost in all snapshots, so that no transaction was seen in part.
        let lost = spoiled(|h| without(h, |o| (o.partition, o.offset) == (partition, offset)));
        assert_eq!(lost, (vec![Anomaly::Lost], Verdict::AtMostOnce), "{partition}/{offset}");
    }
    let one_of_two = spoiled(|h| without(h, |o| o.index == 1));
    assert_eq!(one_of_two, (vec![Anomaly::Lost], Verdict::AtMostOnce));
}

#[test]
fn progress_over_records_without_an_output_that_is_made_twice_is_found() {
    // Offset 2 has no results: only the ranges show that it was processed twice.
    let twice = |h: &mut History| {
        let again = Commit { transaction: "again".into(), ..commit(h, "t3", 0).clone() };
        let at = h.commits.iter().position(|c| c.transaction == "t4").expect("it is there");
        h.commits.insert(at, again);
    };
    assert_eq!(spoiled(twice), (vec![Anomaly::RangeOverlap], Verdict::AtLeastOnce));
}

#[test]
fn order_is_compared_within_a_key_and_not_across_keys() {
    let swap = |one: (i32, i64), other: (i32, i64)| {
        spoiled(|h| {
            let place = last(h, one.0, one.1).place;
            let other_place = std::mem::replace(&mut last(h, other.0, other.1).place, place);
            last(h, one.0, one.1).place = other_place;
        })
    };
    assert_eq!(swap((0, 4), (0, 6)), (vec![Anomaly::Disorder], Verdict::AtLeastOnce), "a key");
    assert_eq!(swap((0, 0), (0, 1)), (vec![], Verdict::ExactlyOnce), "two keys");
    assert_eq!(swap((0, 4), (1, 0)), (vec![], Verdict::ExactlyOnce), "two partitions");
    let index = |h: &mut History| {
        let fan =
            h.outputs.iter_mut().filter(|o| o.snapshot == 2 && o.offset == 1 && o.partition == 0);
        fan.for_each(|o| o.place = 2 - i64::from(o.index));
    };
    assert_eq!(spoiled(index), (vec![Anomaly::Disorder], Verdict::AtLeastOnce), "one record");
}

#[test]
fn a_result_of_an_aborted_transaction_is_found() {
    let aborted = |h: &mut History| last(h, 0, 6).transaction = Some("t2".into());
    assert_eq!(spoiled(aborted), (vec![Anomaly::AbortedVisible], Verdict::AtLeastOnce));
}

#[test]
fn a_transaction_torn_over_two_partitions_is_found() {
    // Half of t1 is in the first snapshot, with the progress of that half.
    let torn = |h: &mut History| {
        let half: Vec<Output> = h.outputs.iter().filter(|o| o.snapshot == 1).cloned().collect();
        let half = half.into_iter().filter(|o| o.partition == 0);
        let half: Vec<Output> = half.map(|o| Output { snapshot: 0, ..o }).collect();
        h.outputs.extend(half);
        *progress(h, 0, 0) = 2;
    };
    assert_eq!(spoiled(torn), (vec![Anomaly::Torn], Verdict::AtLeastOnce));
}

#[test]
fn a_transaction_torn_between_results_and_offsets_is_found() {
    let outside = |h: &mut History| last(h, 0, 4).transaction = Some("t3".into());
    assert_eq!(spoiled(outside), (vec![Anomaly::Torn], Verdict::AtLeastOnce));
    let unknown = |h: &mut History| last(h, 0, 4).transaction = Some("t9".into());
    assert_eq!(spoiled(unknown), (vec![Anomaly::Torn], Verdict::AtLeastOnce));
    let ahead_of_offsets = |h: &mut History| *progress(h, 1, 1) = 0;
    assert_eq!(spoiled(ahead_of_offsets), (vec![Anomaly::Ahead], Verdict::AtLeastOnce));
    let behind_offsets = |h: &mut History| *progress(h, 0, 1) = 1;
    assert_eq!(spoiled(behind_offsets), (vec![Anomaly::Lost], Verdict::AtMostOnce));
}

#[test]
fn progress_that_goes_back_is_found() {
    let back = |h: &mut History| {
        let later = Progress { topic: "in".into(), partition: 1, next: 1, snapshot: 3 };
        let seen: Vec<Output> = h.outputs.iter().filter(|o| o.snapshot == 2).cloned().collect();
        let seen = seen.into_iter().filter(|o| (o.partition, o.offset) == (1, 0));
        let seen: Vec<Output> =
            seen.map(|o| Output { snapshot: 3, transaction: None, ..o }).collect();
        h.outputs.iter_mut().for_each(|o| o.transaction = None);
        h.outputs.extend(seen);
        h.progress.push(later);
    };
    assert_eq!(spoiled(back), (vec![Anomaly::Regress], Verdict::AtLeastOnce));
}

#[test]
fn a_hole_between_commits_is_found() {
    let hole = |h: &mut History| commit(h, "t3", 0).outcome = Outcome::Aborted;
    assert_eq!(spoiled(hole), (vec![Anomaly::RangeGap], Verdict::AtMostOnce));
}

#[test]
fn a_commit_that_nobody_knows_the_end_of_is_either() {
    let lost_answer = |h: &mut History| commit(h, "t3", 0).outcome = Outcome::Unknown;
    assert_eq!(spoiled(lost_answer), (vec![], Verdict::ExactlyOnce), "it was committed");
    let never_happened = |h: &mut History| {
        let again = Commit { transaction: "lost".into(), ..commit(h, "t3", 0).clone() };
        h.commits.insert(3, Commit { outcome: Outcome::Unknown, ..again });
    };
    assert_eq!(spoiled(never_happened), (vec![], Verdict::ExactlyOnce), "it was not");
}

#[test]
fn a_commit_of_a_fenced_owner_is_found() {
    let zombie = |h: &mut History| commit(h, "t1", 0).claim = Some(3);
    assert_eq!(spoiled(zombie), (vec![Anomaly::Zombie], Verdict::AtLeastOnce));
}

#[test]
fn a_commit_of_an_old_epoch_is_found() {
    let stale = |h: &mut History| commit(h, "t1", 0).epoch = Some(9);
    assert_eq!(spoiled(stale), (vec![Anomaly::StaleEpoch], Verdict::AtLeastOnce));
}

#[test]
fn a_result_that_no_record_asks_for_is_found() {
    let wrong_topic = |h: &mut History| last(h, 0, 6).topic_id = Some("second".into());
    assert_eq!(spoiled(wrong_topic), (vec![Anomaly::Phantom], Verdict::Nothing), "incarnation");
    for (offset, index) in [(2, 0), (3, 0), (4, 1), (5, 0)] {
        let extra = spoiled(|h| {
            let extra =
                Output { offset, index, place: 20, transaction: None, ..last(h, 0, 4).clone() };
            h.outputs.push(extra);
            h.inputs.iter_mut().for_each(|input| input.key = None);
        });
        assert_eq!(extra, (vec![Anomaly::Phantom], Verdict::Nothing), "{offset}/{index}");
    }
}

#[test]
fn dead_letters_are_there_once_and_of_failed_records_only() {
    let twice = |h: &mut History| h.dead.push(h.dead[0].clone());
    assert_eq!(spoiled(twice), (vec![Anomaly::DeadTwice], Verdict::AtLeastOnce));
    let gone = |h: &mut History| h.dead.clear();
    assert_eq!(spoiled(gone), (vec![Anomaly::DeadMissing], Verdict::AtMostOnce));
    let wrong = |h: &mut History| h.dead.push(Dead { offset: 4, ..h.dead[0].clone() });
    assert_eq!(spoiled(wrong), (vec![Anomaly::DeadPhantom], Verdict::Nothing));
}

#[test]
fn a_loss_and_a_duplicate_together_prove_nothing() {
    let both = |h: &mut History| {
        without(h, |o| (o.partition, o.offset) == (1, 1));
        let again = Output { place: 9, ..last(h, 0, 6).clone() };
        h.outputs.push(again);
    };
    assert_eq!(spoiled(both), (vec![Anomaly::Duplicate, Anomaly::Lost], Verdict::Nothing));
}

fn assert_unknown(verdict: &Verdict, says: &str) {
    match verdict {
        Verdict::Unknown(reasons) => {
            assert!(reasons.iter().any(|reason| reason.contains(says)), "{reasons:?}");
        }
        other => panic!("{says}: unknown, got {other:?}"),
    }
}

#[test]
fn nothing_is_never_a_pass() {
    assert_unknown(&History::default().check().verdict(), "the input is empty");
    assert_unknown(&spoiled(|h| h.inputs.clear()).1, "the input is empty");
    assert_unknown(&spoiled(|h| h.outputs.clear()).1, "the output is empty");
    assert_unknown(&spoiled(|h| h.progress.clear()).1, "no progress is known");
    let nobody_worked = |h: &mut History| {
        h.progress.iter_mut().for_each(|progress| progress.next = 0);
    };
    assert_unknown(&spoiled(nobody_worked).1, "progress has passed no record");
    let only_dead = r#"{"kind":"input","topic":"in","partition":0,"offset":0,"dead":true}
        {"kind":"progress","topic":"in","partition":0,"next":1}"#;
    let only_dead = History::read(only_dead.as_bytes()).expect("read").check();
    assert_unknown(&only_dead.verdict(), "there are no dead letters");
}

#[test]
fn evidence_that_cannot_be_read_or_contradicts_itself_is_unknown() {
    for bad in [
        "{",
        "not json",
        r#"{"kind":"output","topic":"in","partition":0,"offset":0}"#,
        r#"{"kind":"output","topic":"in","partition":0,"offset":0,"place":1,"plcae":2}"#,
        r#"{"kind":"outputs","topic":"in","partition":0,"offset":0,"place":1}"#,
        r#"{"kind":"progress","topic":"in","partition":0,"next":"7"}"#,
    ] {
        let text = format!("{GOOD}{bad}\n");
        let report = History::read(text.as_bytes()).expect("read").check();
        assert_unknown(&report.verdict(), "cannot be read: line");
    }
    let text = [GOOD.as_bytes(), b"\xff\xfe\n"].concat();
    assert_unknown(&History::read(&*text).expect("read").check().verdict(), "cannot be read");
    assert_unknown(
        &spoiled(|h| h.inputs.push(h.inputs[0].clone())).1,
        "the input has in/0/0 twice",
    );
    assert_unknown(&spoiled(|h| h.progress.push(h.progress[0].clone())).1, "twice in a snapshot");
}
