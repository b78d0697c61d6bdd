//! Planted histories: each anomaly is found, alone; a good history passes; nothing is never a pass.

use super::*;

const TOPIC: &str = "in";

fn partition(index: i32) -> Partition {
    (TOPIC.into(), index)
}

fn input(index: i32, offset: i64, key: &str, value: &str) -> Input {
    Input { partition: partition(index), offset, key: Some(key.into()), value: Some(value.into()) }
}

fn output(index: i32, offset: i64, i: i32, place: i64, key: &str, value: &str) -> Output {
    Output {
        source: (partition(index), offset, i),
        stream: 0,
        place,
        key: Some(key.into()),
        value: Some(value.into()),
    }
}

/// Two partitions with every kind of record; offset 3 is a hole, as a transaction marker leaves one.
fn good() -> Evidence {
    Evidence {
        inputs: vec![
            input(0, 0, "a", "one"),
            input(0, 1, "b", "fan:2:x"),
            input(0, 2, "a", "poison:x"),
            input(0, 4, "a", "flaky:2:x"),
            input(0, 5, "b", "drop:x"),
            input(1, 0, "a", "panic:x"),
            input(1, 1, "a", "two"),
            input(1, 2, "", "fan:0:x"),
            input(1, 3, "a", "three"),
        ],
        outputs: vec![
            output(0, 0, 0, 0, "a", "one"),
            output(1, 1, 0, 1, "a", "two"),
            output(0, 1, 0, 2, "b", "fan:2:x"),
            output(0, 1, 1, 3, "b", "fan:2:x"),
            output(1, 3, 0, 4, "a", "three"),
            output(0, 4, 0, 7, "a", "flaky:2:x"),
        ],
        dead: vec![output(0, 2, 0, 0, "a", "poison:x"), output(1, 0, 0, 1, "a", "panic:x")],
        progress: [(partition(0), 6), (partition(1), 4)].into(),
        ends: [(partition(0), 6), (partition(1), 4)].into(),
    }
}

fn found(evidence: &Evidence) -> Vec<Finding> {
    let report = audit(evidence, &Rules::default());
    let mut found: Vec<_> = report.anomalies().into_iter().map(|anomaly| anomaly.finding).collect();
    found.dedup();
    found
}

/// Spoils the good history and returns what an audit finds.
fn spoiled(spoil: impl FnOnce(&mut Evidence)) -> Vec<Finding> {
    let mut evidence = good();
    spoil(&mut evidence);
    found(&evidence)
}

#[test]
fn a_good_history_passes_and_everything_in_it_was_compared() {
    let report = audit(&good(), &Rules::default());
    let compared = report.exactly_once().expect("it is good");
    let wanted = Compared { inputs: 9, done: 9, outputs: 6, dead: 2, ordered: 3, partitions: 2 };
    assert_eq!(compared, wanted);
}

#[test]
fn an_output_twice_is_found() {
    assert_eq!(
        spoiled(|e| e.outputs.push(output(0, 4, 0, 9, "a", "flaky:2:x"))),
        [Finding::Duplicate]
    );
}

#[test]
fn a_lost_head_middle_or_tail_is_found() {
    for lost in [0, 2, 3, 5] {
        assert_eq!(spoiled(|e| drop(e.outputs.remove(lost))), [Finding::Lost], "output {lost}");
    }
}

#[test]
fn an_output_of_no_record_is_found() {
    let in_the_hole = output(0, 3, 0, 5, "a", "x");
    assert_eq!(spoiled(|e| e.outputs.push(in_the_hole)), [Finding::Phantom]);
    let another_topic =
        Output { source: (("other".into(), 0), 0, 0), ..output(0, 0, 0, 5, "a", "one") };
    // Progress knows nothing of that topic either.
    assert_eq!(spoiled(|e| e.outputs.push(another_topic)), [Finding::Phantom, Finding::Ahead]);
}

#[test]
fn an_output_that_its_record_should_not_have_is_found() {
    assert_eq!(spoiled(|e| e.outputs.push(output(0, 5, 0, 8, "b", "drop:x"))), [Finding::Phantom]);
    assert_eq!(spoiled(|e| e.outputs.push(output(0, 1, 2, 8, "b", "fan:2:x"))), [Finding::Phantom]);
    assert_eq!(
        spoiled(|e| e.outputs.push(output(0, 1, -1, 1, "b", "fan:2:x"))),
        [Finding::Phantom]
    );
}

#[test]
fn another_key_or_value_is_found_and_null_is_not_empty() {
    assert_eq!(spoiled(|e| e.outputs[0].value = Some(b"One".to_vec())), [Finding::WrongBytes]);
    assert_eq!(spoiled(|e| e.outputs[5].value = None), [Finding::WrongBytes]);
    let null_for_empty = |e: &mut Evidence| {
        e.inputs[8].key = Some(Vec::new());
        e.outputs[4].key = None;
    };
    assert_eq!(spoiled(null_for_empty), [Finding::WrongBytes]);
    assert_eq!(spoiled(|e| e.dead[0].value = Some(Vec::new())), [Finding::DeadWrongBytes]);
    assert_eq!(spoiled(|e| e.dead[0].key = None), [Finding::DeadWrongBytes]);
}

#[test]
fn order_is_compared_within_a_key_and_not_across_keys() {
    let swap = |one: usize, other: usize| {
        spoiled(|e| {
            let place = e.outputs[one].place;
            e.outputs[one].place = e.outputs[other].place;
            e.outputs[other].place = place;
        })
    };
    assert_eq!(swap(0, 5), [Finding::Disorder], "equal keys");
    assert_eq!(swap(2, 3), [Finding::Disorder], "two outputs of one record");
    assert_eq!(swap(0, 2), [], "different keys");
    assert_eq!(swap(0, 1), [], "equal keys of different partitions");
}

#[test]
fn order_is_compared_within_a_partition_where_that_is_asked() {
    let mut evidence = good();
    evidence.outputs[0].place = 20;
    evidence.outputs[5].place = 21;
    let rules = Rules { order: Order::PerPartition, ..Rules::default() };
    let report = audit(&evidence, &rules);
    assert_eq!(report.count(Finding::Disorder), 1, "{report}");
    let good = audit(&good(), &rules);
    assert_eq!(good.exactly_once().expect("it is good").ordered, 4);
}

#[test]
fn a_key_in_two_output_partitions_is_found() {
    assert_eq!(spoiled(|e| e.outputs[5].stream = 1), [Finding::Scattered]);
}

#[test]
fn dead_letters_are_there_once_and_of_bad_records_only() {
    assert_eq!(spoiled(|e| e.dead.push(e.dead[1].clone())), [Finding::DeadTwice]);
    assert_eq!(spoiled(|e| drop(e.dead.remove(1))), [Finding::DeadMissing]);
    let of_a_good_one = output(0, 0, 0, 5, "a", "one");
    assert_eq!(spoiled(|e| e.dead.push(of_a_good_one)), [Finding::DeadPhantom]);
    let of_none = output(0, 3, 0, 5, "a", "one");
    assert_eq!(spoiled(|e| e.dead.push(of_none)), [Finding::DeadPhantom]);
}

#[test]
fn results_ahead_of_progress_are_found() {
    let behind = |e: &mut Evidence| *e.progress.get_mut(&partition(0)).expect("it is there") = 4;
    assert_eq!(spoiled(behind), [Finding::Ahead, Finding::Unfinished]);
}

#[test]
fn progress_ahead_of_results_is_a_loss() {
    let cut = |e: &mut Evidence| {
        e.outputs.retain(|output| output.source.0.1 == 0);
        e.dead.pop();
    };
    assert_eq!(spoiled(cut), [Finding::Lost, Finding::DeadMissing]);
}

#[test]
fn progress_is_the_end_of_every_partition() {
    for (next, what) in [(Some(5), "short of it"), (Some(7), "beyond it"), (None, "not stored")] {
        let found = spoiled(|e| {
            e.progress.remove(&partition(0));
            e.progress.extend(next.map(|next| (partition(0), next)));
        });
        assert!(found.contains(&Finding::Unfinished), "{what}: {found:?}");
    }
    let empty_partition = |e: &mut Evidence| e.ends.extend([(partition(2), 0)]);
    assert_eq!(spoiled(empty_partition), [Finding::Unfinished]);
    assert_eq!(spoiled(|e| e.progress.extend([(partition(2), 0)])), [Finding::Phantom]);
}

#[test]
fn a_prefix_is_good_as_far_as_it_goes() {
    let mut evidence = good();
    evidence.progress = [(partition(0), 2), (partition(1), 4)].into();
    evidence.outputs.pop();
    evidence.dead.remove(0);
    let report = audit(&evidence, &Rules::default());
    assert_eq!(report.exactly_once_so_far().expect("it is good").done, 6);
    assert!(report.exactly_once().is_err(), "it is not done");
}

#[test]
fn the_same_offset_twice_in_the_input_is_the_readers_mistake() {
    assert_eq!(spoiled(|e| e.inputs.push(e.inputs[0].clone())), [Finding::InputTwice]);
}

#[test]
fn nothing_is_never_a_pass() {
    assert!(found(&Evidence::default()).contains(&Finding::NothingCompared));
    let no_input = spoiled(|e| e.inputs.clear());
    assert!(no_input.contains(&Finding::NothingCompared), "{no_input:?}");
    let no_output = spoiled(|e| e.outputs.clear());
    assert!(no_output.contains(&Finding::NothingCompared), "{no_output:?}");
    let nobody_worked = spoiled(|e| {
        e.outputs.clear();
        e.dead.clear();
        e.progress.clear();
        e.ends.clear();
    });
    assert_eq!(nobody_worked, [Finding::NothingCompared]);
    for permits in [Report::exactly_once_so_far, Report::at_least_once, Report::at_most_once] {
        assert!(permits(&audit(&Evidence::default(), &Rules::default())).is_err());
    }
}

#[test]
fn weaker_promises_permit_what_they_say_and_no_more() {
    let check = |spoil: &dyn Fn(&mut Evidence)| {
        let mut evidence = good();
        spoil(&mut evidence);
        let report = audit(&evidence, &Rules::default());
        (report.at_least_once().is_ok(), report.at_most_once().is_ok())
    };
    assert_eq!(check(&|_| {}), (true, true));
    assert_eq!(check(&|e| e.outputs.push(e.outputs[0].clone())), (true, false), "a duplicate");
    assert_eq!(check(&|e| drop(e.outputs.pop())), (false, true), "a loss");
    assert_eq!(check(&|e| e.outputs[0].key = None), (false, false), "wrong bytes");
}
