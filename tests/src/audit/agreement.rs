//! The audit and the history checker that ships to users were written apart: they must find the same.

use proptest::prelude::*;
use tidegate::testing::history::{self, Anomaly, History, Line, Verdict};

use super::*;

/// What may be done to a good history, and where.
type Spoil = (u8, prop::sample::Index);

/// Records of these kinds, spread over two partitions, and all that a sink should show of them.
fn good(kinds: &[(u8, u8)]) -> Evidence {
    let mut evidence = Evidence::default();
    for (at, (kind, key)) in (0_i64..).zip(kinds) {
        let partition: Partition = ("in".into(), i32::from(at % 2 == 1));
        // Every other offset is a hole.
        let offset = at / 2 * 2;
        let (value, copies, is_dead) = match kind % 4 {
            0 => ("plain", 1, false),
            1 => ("fan:2:x", 2, false),
            2 => ("drop:x", 0, false),
            _ => ("poison:x", 0, true),
        };
        let (key, value) = (Some(vec![*key]), Some(value.as_bytes().to_vec()));
        let shown = |i, place| Output {
            source: (partition.clone(), offset, i),
            stream: 0,
            place,
            key: key.clone(),
            value: value.clone(),
        };
        for i in 0..copies {
            let place = i64::try_from(evidence.outputs.len()).expect("few");
            evidence.outputs.push(shown(i, place));
        }
        if is_dead {
            evidence.dead.push(shown(0, offset));
        }
        evidence.progress.insert(partition.clone(), offset + 1);
        evidence.ends.insert(partition.clone(), offset + 1);
        evidence.inputs.push(Input { partition, offset, key, value });
    }
    evidence
}

fn spoil(evidence: &mut Evidence, (what, at): &Spoil) {
    let outputs = &mut evidence.outputs;
    let later = 1_000 + i64::try_from(outputs.len()).expect("few");
    match what % 7 {
        0 if outputs.len() > 1 => drop(outputs.remove(at.index(outputs.len()))),
        1 if !outputs.is_empty() => {
            let again = outputs[at.index(outputs.len())].clone();
            outputs.push(Output { place: later, ..again });
        }
        2 if outputs.len() > 1 => {
            let (one, other) = (at.index(outputs.len() - 1), outputs.len() - 1);
            let place = outputs[one].place;
            outputs[one].place = std::mem::replace(&mut outputs[other].place, place);
        }
        3 if !outputs.is_empty() => {
            // One more than its record should have.
            let mut extra = outputs[at.index(outputs.len())].clone();
            extra.source.2 += 2;
            outputs.push(Output { place: later, ..extra });
        }
        4 => {
            let partition = at.index(evidence.progress.len());
            let next = evidence.progress.values_mut().nth(partition).expect("one of them");
            *next -= 2;
        }
        5 if !evidence.dead.is_empty() => {
            drop(evidence.dead.remove(at.index(evidence.dead.len())));
        }
        6 if !evidence.dead.is_empty() => {
            let again = evidence.dead[at.index(evidence.dead.len())].clone();
            evidence.dead.push(again);
        }
        _ => {}
    }
}

/// The same evidence as plain lines.
fn lines(evidence: &Evidence) -> History {
    let topic = |partition: &Partition| partition.0.to_string();
    let inputs = evidence.inputs.iter().map(|input| {
        let wanted = expected(input.value.as_deref(), &Rules::default());
        Line::Input(history::Input {
            topic: topic(&input.partition),
            topic_id: None,
            partition: input.partition.1,
            offset: input.offset,
            key: input.key.as_ref().map(|key| format!("{key:?}")),
            outputs: if let Expected::Copies(copies) = wanted { copies } else { 0 },
            dead: wanted == Expected::Dead,
        })
    });
    let outputs = evidence.outputs.iter().map(|output| {
        let (partition, offset, index) = &output.source;
        Line::Output(history::Output {
            topic: topic(partition),
            topic_id: None,
            partition: partition.1,
            offset: *offset,
            index: u32::try_from(*index).expect("numbered from 0"),
            stream: output.stream,
            place: output.place,
            transaction: None,
            snapshot: 0,
        })
    });
    let dead = evidence.dead.iter().map(|letter| {
        let (partition, offset, _) = &letter.source;
        let (topic, partition) = (topic(partition), partition.1);
        Line::Dead(history::Dead { topic, partition, offset: *offset, snapshot: 0 })
    });
    let progress = evidence.progress.iter().map(|(partition, next)| {
        let (topic, partition) = (topic(partition), partition.1);
        Line::Progress(history::Progress { topic, partition, next: *next, snapshot: 0 })
    });
    inputs.chain(outputs).chain(dead).chain(progress).collect()
}

const SAME: &[(Finding, Anomaly)] = &[
    (Finding::Duplicate, Anomaly::Duplicate),
    (Finding::Lost, Anomaly::Lost),
    (Finding::Phantom, Anomaly::Phantom),
    (Finding::Disorder, Anomaly::Disorder),
    (Finding::Ahead, Anomaly::Ahead),
    (Finding::DeadTwice, Anomaly::DeadTwice),
    (Finding::DeadMissing, Anomaly::DeadMissing),
    (Finding::DeadPhantom, Anomaly::DeadPhantom),
];

proptest! {
    #[test]
    fn both_checkers_agree_on_random_histories(
        kinds in prop::collection::vec((0_u8..4, 0_u8..3), 2..30),
        spoils in prop::collection::vec((0_u8..7, any::<prop::sample::Index>()), 0..4),
    ) {
        let mut evidence = good(&kinds);
        spoils.iter().for_each(|one| spoil(&mut evidence, one));
        let audited = audit(&evidence, &Rules::default());
        let checked = lines(&evidence).check();
        for (finding, anomaly) in SAME {
            let both = (audited.count(*finding) > 0, checked.count(*anomaly) > 0);
            prop_assert_eq!(both.0, both.1, "{:?}: {}\n{}", finding, audited, checked);
        }
        if !matches!(checked.verdict(), Verdict::Unknown(_)) && audited.count(Finding::NothingCompared) == 0 {
            let so_far = audited.exactly_once_so_far().is_ok();
            prop_assert_eq!(so_far, checked.verdict() == Verdict::ExactlyOnce, "{}\n{}", audited, checked);
        }
    }
}
