//! The comparison, both ways: everything expected is there once, and everything there is expected.

use std::collections::HashMap;

use super::report::{name, place};
use super::{
    DeadValues, Evidence, Expected, Finding, Input, Order, Output, Partition, Report, Rules,
    expected,
};

/// The input by place, with what should have become of each record.
type Log<'a> = HashMap<(&'a Partition, i64), (&'a Input, Expected)>;

/// Compares what a sink shows with what the input asks for.
#[must_use]
pub fn audit(evidence: &Evidence, rules: &Rules) -> Report {
    let mut report = Report::default();
    let log = read_log(evidence, rules, &mut report);
    let shown = check_outputs(evidence, &log, &mut report);
    let dead = check_dead(evidence, rules, &log, &mut report);
    check_complete(evidence, &log, &shown, &dead, &mut report);
    check_order(evidence, rules, &mut report);
    check_progress(evidence, &mut report);
    check_counts(evidence, rules, &mut report);
    report
}

fn read_log<'a>(evidence: &'a Evidence, rules: &Rules, report: &mut Report) -> Log<'a> {
    let mut log = Log::with_capacity(evidence.inputs.len());
    for input in &evidence.inputs {
        let wanted = expected(input.value.as_deref(), rules);
        if log.insert((&input.partition, input.offset), (input, wanted)).is_some() {
            report.add(
                Finding::InputTwice,
                format_args!("{}/{}", name(&input.partition), input.offset),
            );
        }
    }
    report.compared.inputs = log.len();
    log
}

/// How often each output was seen.
type Seen<'a> = HashMap<(&'a Partition, i64, i32), u32>;

/// Every output has a record that asks for it, and that record's bytes.
fn check_outputs<'a>(evidence: &'a Evidence, log: &Log<'_>, report: &mut Report) -> Seen<'a> {
    let mut seen = Seen::with_capacity(evidence.outputs.len());
    for output in &evidence.outputs {
        let (partition, offset, i) = &output.source;
        match log.get(&(partition, *offset)) {
            Some((input, Expected::Copies(copies)))
                if (0..i64::from(*copies)).contains(&i64::from(*i)) =>
            {
                report.compared.outputs += 1;
                if output.key != input.key || output.value != input.value {
                    report.add(Finding::WrongBytes, difference(output, input));
                }
            }
            Some((_, wanted)) => {
                report.add(
                    Finding::Phantom,
                    format_args!("{}, of a record with {wanted:?}", place(&output.source)),
                );
            }
            None => report
                .add(Finding::Phantom, format_args!("{}, of no record", place(&output.source))),
        }
        let times = seen.entry((partition, *offset, *i)).or_default();
        *times += 1;
        if *times > 1 {
            report.add(
                Finding::Duplicate,
                format_args!("{} at {}/{}", place(&output.source), output.stream, output.place),
            );
        }
    }
    seen
}

/// Every dead letter has a record that failed, and that record's bytes.
fn check_dead<'a>(
    evidence: &'a Evidence,
    rules: &Rules,
    log: &Log<'_>,
    report: &mut Report,
) -> Seen<'a> {
    let mut seen = Seen::new();
    for letter in &evidence.dead {
        let (partition, offset, _) = &letter.source;
        match log.get(&(partition, *offset)) {
            Some((input, Expected::Dead)) => {
                report.compared.dead += 1;
                let left_out =
                    letter.value.is_none() && rules.dead_values == DeadValues::MayBeLeftOut;
                if letter.key != input.key || (letter.value != input.value && !left_out) {
                    report.add(Finding::DeadWrongBytes, difference(letter, input));
                }
            }
            Some((_, wanted)) => {
                report.add(
                    Finding::DeadPhantom,
                    format_args!("{}, of a record with {wanted:?}", place(&letter.source)),
                );
            }
            None => report
                .add(Finding::DeadPhantom, format_args!("{}, of no record", place(&letter.source))),
        }
        let times = seen.entry((partition, *offset, 0)).or_default();
        *times += 1;
        if *times > 1 {
            report.add(Finding::DeadTwice, place(&letter.source));
        }
    }
    seen
}

/// What progress has passed is there, and nothing else is.
fn check_complete(
    evidence: &Evidence,
    log: &Log<'_>,
    shown: &Seen<'_>,
    dead: &Seen<'_>,
    report: &mut Report,
) {
    let passed = |partition: &Partition, offset| {
        evidence.progress.get(partition).is_some_and(|next| offset < *next)
    };
    for ((partition, offset), (_, wanted)) in log {
        if !passed(partition, *offset) {
            continue;
        }
        report.compared.done += 1;
        match wanted {
            Expected::Copies(copies) => {
                let missing = |i: &i32| !shown.contains_key(&(*partition, *offset, *i));
                for i in (0..i32::try_from(*copies).unwrap_or(i32::MAX)).filter(missing) {
                    report.add(Finding::Lost, format_args!("{}/{offset}/{i}", name(partition)));
                }
            }
            Expected::Dead if !dead.contains_key(&(*partition, *offset, 0)) => {
                report.add(Finding::DeadMissing, format_args!("{}/{offset}", name(partition)));
            }
            Expected::Dead => {}
        }
    }
    for (partition, offset, _) in shown.keys().chain(dead.keys()) {
        if !passed(partition, *offset) {
            report.add(Finding::Ahead, format_args!("{}/{offset}", name(partition)));
        }
    }
}

type Key<'a> = Option<&'a [u8]>;

/// Within a stream, later records appear later.
fn check_order(evidence: &Evidence, rules: &Rules, report: &mut Report) {
    if rules.order == Order::Unknown {
        return;
    }
    let mut outputs: Vec<&Output> = evidence.outputs.iter().collect();
    outputs.sort_by_key(|output| (output.stream, output.place));
    // By stream, partition and key; and the stream of each key.
    let mut last: HashMap<(i32, &Partition, Option<Key<'_>>), (i64, i32)> = HashMap::new();
    let mut homes: HashMap<(&Partition, Key<'_>), i32> = HashMap::new();
    for output in outputs {
        let (partition, offset, i) = &output.source;
        let key = (rules.order == Order::PerKey).then_some(output.key.as_deref());
        if let Some(before) = last.insert((output.stream, partition, key), (*offset, *i)) {
            report.compared.ordered += 1;
            // The same one again is a duplicate, which is said elsewhere.
            if before > (*offset, *i) {
                report.add(
                    Finding::Disorder,
                    format_args!(
                        "{} after offset {} ({})",
                        place(&output.source),
                        before.0,
                        before.1
                    ),
                );
            }
        }
        if rules.order == Order::PerKey {
            let home = *homes.entry((partition, output.key.as_deref())).or_insert(output.stream);
            if home != output.stream {
                report.add(
                    Finding::Scattered,
                    format_args!(
                        "{} in {}, others of its key in {home}",
                        place(&output.source),
                        output.stream
                    ),
                );
            }
        }
    }
}

fn check_progress(evidence: &Evidence, report: &mut Report) {
    for (partition, end) in &evidence.ends {
        report.compared.partitions += 1;
        let next = evidence.progress.get(partition);
        if next != Some(end) {
            let next = next.map_or("nothing".to_owned(), ToString::to_string);
            report.add(
                Finding::Unfinished,
                format_args!("{}: {next} stored, the end is {end}", name(partition)),
            );
        }
    }
    for partition in
        evidence.progress.keys().filter(|partition| !evidence.ends.contains_key(*partition))
    {
        report.add(
            Finding::Phantom,
            format_args!("progress of {}, which is no input", name(partition)),
        );
    }
}

/// A comparison of nothing is not a pass.
fn check_counts(evidence: &Evidence, rules: &Rules, report: &mut Report) {
    let compared = report.compared;
    // What is expected of the records that progress has passed.
    let passed = |input: &&Input| {
        evidence.progress.get(&input.partition).is_some_and(|next| input.offset < *next)
    };
    let wanted: Vec<_> = evidence
        .inputs
        .iter()
        .filter(passed)
        .map(|input| expected(input.value.as_deref(), rules))
        .collect();
    let copies = wanted.iter().any(|wanted| matches!(wanted, Expected::Copies(1..)));
    let dead = wanted.contains(&Expected::Dead);
    for (nothing, what) in [
        (compared.inputs == 0, "no input"),
        (compared.done == 0, "progress has passed no record"),
        (compared.partitions == 0, "no end of a partition is known"),
        (compared.outputs == 0 && copies, "no output was compared"),
        (compared.dead == 0 && dead, "no dead letter was compared"),
        (
            compared.ordered == 0
                && copies
                && compared.outputs > 1
                && rules.order != Order::Unknown,
            "no order was compared",
        ),
    ] {
        if nothing {
            report.add(Finding::NothingCompared, what);
        }
    }
}

fn difference(output: &Output, input: &Input) -> String {
    let show = |bytes: &Option<Vec<u8>>| match bytes {
        None => "null".to_owned(),
        Some(bytes) => {
            let front = &bytes[..bytes.len().min(40)];
            format!("{} bytes {:?}", bytes.len(), String::from_utf8_lossy(front))
        }
    };
    format!(
        "{}: key {} for {}, value {} for {}",
        place(&output.source),
        show(&output.key),
        show(&input.key),
        show(&output.value),
        show(&input.value)
    )
}
