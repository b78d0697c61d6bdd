//! A healthy history passes, each planted anomaly is found and no other, and nothing is no pass.

use tidegate::record::PartitionId;

use super::*;
use crate::prove::args::Guarantee;

fn shown(offset: i64, index: u32) -> Shown {
    Shown { offset, index, output: 0, digest: 0 }
}

/// Two partitions, holes in the offsets: every record has one result, that at 7 a dead letter.
fn healthy() -> Evidence {
    let mut one = Partition::new(PartitionId::new("in", 0), 5, 9);
    one.records = vec![5, 7, 8];
    one.results = vec![shown(5, 0), shown(8, 0)];
    one.dead = vec![7];
    let mut other = Partition::new(PartitionId::new("in", 1), 0, 2);
    other.records = vec![0, 1];
    other.results = vec![shown(0, 0), shown(1, 0)];
    let outputs = vec!["topic out".to_owned(), "topic more".to_owned()];
    Evidence { partitions: vec![one, other], outputs, ordered: Some(2), ..Evidence::default() }
}

/// The healthy evidence with this done to it: what is found, by kind and count, and where.
fn spoiled(results: Results, spoil: impl FnOnce(&mut Evidence)) -> (Vec<(Kind, u64)>, String) {
    let mut evidence = healthy();
    spoil(&mut evidence);
    evidence.sort();
    let report = audit(&evidence, results);
    let kinds = report.findings.all().map(|(kind, count, _)| (kind, count)).collect();
    let places: Vec<&str> =
        report.findings.all().flat_map(|(.., places)| places).map(String::as_str).collect();
    (kinds, places.join("; "))
}

fn one(spoil: impl FnOnce(&mut Evidence)) -> (Vec<(Kind, u64)>, String) {
    spoiled(Results::Exactly(1), spoil)
}

#[test]
fn a_healthy_run_passes_whatever_is_said_of_results_and_all_of_it_was_compared() {
    for results in [Results::Exactly(1), Results::Some, Results::Any] {
        let report = audit(&healthy(), results);
        let nothing = Findings::default();
        let wanted = Report {
            records: 5,
            results: 4,
            distinct: 4,
            dead: 1,
            ordered: Some(2),
            findings: nothing,
        };
        assert_eq!(report, wanted, "{results:?}");
    }
}

#[test]
fn a_result_that_is_there_several_times_is_a_duplicate() {
    let (found, place) = one(|e| e.partitions[0].results.extend([shown(8, 0), shown(8, 0)]));
    assert_eq!(found, [(Kind::Duplicate, 2)]);
    assert_eq!(place, "in/0/8/0 in topic out: 3 times");
    let elsewhere = Shown { output: 1, ..shown(8, 0) };
    let (found, _) = one(|e| e.partitions[0].results.push(elsewhere));
    assert_eq!(found, [(Kind::Duplicate, 1)], "a message goes to one topic");
    let tables = |e: &mut Evidence| {
        e.sharing = Sharing::SeveralOutputs;
        e.partitions[0].results.push(elsewhere);
    };
    assert_eq!(one(tables).0, [], "a result may be taken by several tables");
    let twice = |e: &mut Evidence| {
        tables(e);
        e.partitions[0].results.push(elsewhere);
    };
    assert_eq!(one(twice).0, [(Kind::Duplicate, 1)]);
}

#[test]
fn a_record_without_what_it_should_have_is_lost_wherever_it_lies() {
    for (partition, offset) in [(0, 5), (0, 8), (1, 0), (1, 1)] {
        let gone = |e: &mut Evidence| {
            e.partitions[partition].results.retain(|shown| shown.offset != offset);
        };
        let (found, place) = one(gone);
        assert_eq!(found, [(Kind::Lost, 1)]);
        assert_eq!(place, format!("in/{partition}/{offset}/0"));
        assert_eq!(spoiled(Results::Some, gone).0, [(Kind::Lost, 1)]);
        assert_eq!(spoiled(Results::Any, gone).0, [], "it may have been filtered");
    }
    assert_eq!(one(|e| e.partitions[0].dead.clear()).0, [(Kind::Lost, 1)], "the dead letter");
    let everything = |e: &mut Evidence| e.partitions.iter_mut().for_each(|p| p.results.clear());
    assert_eq!(one(everything).0, [(Kind::Lost, 4)]);
}

#[test]
fn the_results_of_a_record_are_numbered_without_a_hole() {
    let third = |e: &mut Evidence| {
        e.partitions[1].results.extend([shown(0, 3), shown(1, 1)]);
    };
    let (found, place) = spoiled(Results::Some, third);
    assert_eq!(found, [(Kind::Hole, 2)]);
    assert_eq!(place, "in/1/0/1, behind it 3");
    let headless = |e: &mut Evidence| {
        e.partitions[1].results.retain(|shown| shown.offset != 1);
        e.partitions[1].results.push(shown(1, 1));
    };
    assert_eq!(spoiled(Results::Some, headless).0, [(Kind::Hole, 1)]);
    assert_eq!(spoiled(Results::Any, headless).0, []);
}

#[test]
fn a_number_of_results_is_meant_exactly() {
    let two_each = |e: &mut Evidence| {
        for partition in &mut e.partitions {
            let again: Vec<Shown> = partition.results.iter().map(|s| shown(s.offset, 1)).collect();
            partition.results.extend(again);
        }
    };
    assert_eq!(spoiled(Results::Exactly(2), two_each).0, []);
    assert_eq!(spoiled(Results::Exactly(3), two_each).0, [(Kind::Lost, 4)]);
    let (found, place) = one(two_each);
    assert_eq!(found, [(Kind::Phantom, 4)]);
    assert!(place.starts_with("in/0/5/1: 1 results are expected"), "{place}");
}

#[test]
fn what_was_made_from_no_record_is_a_phantom() {
    let (found, place) = one(|e| e.partitions[0].results.push(shown(6, 0)));
    assert_eq!(found, [(Kind::Phantom, 1)]);
    assert_eq!(place, "in/0/6/0 in topic out: there is no such record");
    assert_eq!(one(|e| e.partitions[0].dead.push(6)).0, [(Kind::DeadPhantom, 1)]);
    assert_eq!(one(|e| e.odd.old = 3).0, [(Kind::Phantom, 3)], "of records before the run");
}

#[test]
fn what_progress_has_not_passed_must_not_be_there() {
    let (found, place) = one(|e| e.partitions[0].results.push(shown(9, 0)));
    assert_eq!(found, [(Kind::Ahead, 1)]);
    assert_eq!(place, "in/0/9, progress is 9");
    assert_eq!(one(|e| e.partitions[1].dead.push(2)).0, [(Kind::Ahead, 1)]);
    // Progress that was not stored leaves everything ahead of it.
    let no_progress = |e: &mut Evidence| {
        e.partitions[1].next = 0;
        e.partitions[1].records.clear();
    };
    assert_eq!(one(no_progress).0, [(Kind::Ahead, 2)]);
}

#[test]
fn a_record_is_either_a_result_or_a_dead_letter_and_that_once() {
    assert_eq!(one(|e| e.partitions[0].dead.push(7)).0, [(Kind::DeadTwice, 1)]);
    let (found, place) = one(|e| e.partitions[0].dead.push(5));
    assert_eq!((found, &*place), (vec![(Kind::Both, 1)], "in/0/5"));
}

#[test]
fn a_result_behind_a_later_one_is_out_of_order_unless_it_was_written_again() {
    let (found, place) = one(|e| e.partitions[0].behind.push((5, 0)));
    assert_eq!((found, &*place), (vec![(Kind::Disorder, 1)], "in/0/5/0"));
    let again = |e: &mut Evidence| {
        e.partitions[0].behind.push((5, 0));
        e.partitions[0].results.push(shown(5, 0));
    };
    assert_eq!(one(again).0, [(Kind::Duplicate, 1)]);
}

#[test]
fn the_weaker_promises_forgive_what_they_do_not_promise() {
    let mut evidence = healthy();
    evidence.partitions[0].results.push(shown(8, 0));
    let report = audit(&evidence, Results::Exactly(1));
    assert_eq!(report.findings.against(Guarantee::AtLeastOnce).count(), 0);
    assert_eq!(report.findings.against(Guarantee::AtMostOnce).count(), 1);
    let mut evidence = healthy();
    evidence.partitions[0].results.pop();
    let report = audit(&evidence, Results::Exactly(1));
    assert_eq!(report.findings.against(Guarantee::AtLeastOnce).count(), 1);
    assert_eq!(report.findings.against(Guarantee::AtMostOnce).count(), 0);
}
