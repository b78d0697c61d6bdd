//! Every snapshot against the input, both ways: what progress has passed is there once, and nothing
//! else is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::evidence::{History, Input, Output};
use super::report::{Anomaly, Report};
use super::transactions;

/// A topic and one of its partitions.
pub(super) type Partition<'a> = (&'a str, i32);
/// A record of the input.
type Place<'a> = (Partition<'a>, i64);
type Log<'a> = HashMap<Place<'a>, &'a Input>;
/// Progress of every partition in one snapshot.
type Nexts<'a> = BTreeMap<Partition<'a>, i64>;

impl History {
    /// Decides what this history proves.
    pub fn check(&self) -> Report {
        let mut report = Report::default();
        let log = read_log(self, &mut report);
        let mut nexts: BTreeMap<u64, Nexts<'_>> = BTreeMap::new();
        for line in &self.progress {
            let seen = nexts.entry(line.snapshot).or_default();
            if seen.insert((&line.topic, line.partition), line.next).is_some() {
                let (topic, partition) = (&line.topic, line.partition);
                report.doubt(format_args!("progress of {topic}/{partition} twice in a snapshot"));
            }
        }
        let snapshots: BTreeSet<u64> = nexts
            .keys()
            .copied()
            .chain(self.outputs.iter().map(|output| output.snapshot))
            .chain(self.dead.iter().map(|dead| dead.snapshot))
            .collect();
        for snapshot in &snapshots {
            report.compared.snapshots += 1;
            let nothing = Nexts::new();
            let seen = Seen::of(self, *snapshot, nexts.get(snapshot).unwrap_or(&nothing));
            seen.check(&log, &mut report);
        }
        check_monotone(&nexts, &mut report);
        transactions::check(self, &snapshots, &mut report);
        check_evidence(self, &mut report);
        report
    }
}

fn read_log<'a>(history: &'a History, report: &mut Report) -> Log<'a> {
    let mut log = Log::with_capacity(history.inputs.len());
    for input in &history.inputs {
        let place = ((&*input.topic, input.partition), input.offset);
        if log.insert(place, input).is_some() {
            report.doubt(format_args!("the input has {} twice", name(place)));
        }
    }
    log
}

/// What is seen in one snapshot.
struct Seen<'a> {
    snapshot: u64,
    nexts: &'a Nexts<'a>,
    outputs: Vec<&'a Output>,
    dead: Vec<Place<'a>>,
}

impl<'a> Seen<'a> {
    fn of(history: &'a History, snapshot: u64, nexts: &'a Nexts<'a>) -> Self {
        let outputs = history.outputs.iter().filter(|output| output.snapshot == snapshot);
        let dead = history.dead.iter().filter(|dead| dead.snapshot == snapshot);
        Self {
            snapshot,
            nexts,
            outputs: outputs.collect(),
            dead: dead.map(|dead| ((&*dead.topic, dead.partition), dead.offset)).collect(),
        }
    }

    fn check(&self, log: &Log<'_>, report: &mut Report) {
        let outputs = self.check_outputs(log, report);
        let dead = self.check_dead(log, report);
        self.check_complete(log, &outputs, &dead, report);
        self.check_order(log, report);
    }

    fn has_passed(&self, (partition, offset): Place<'_>) -> bool {
        self.nexts.get(&partition).is_some_and(|next| offset < *next)
    }

    fn at(&self, place: Place<'_>) -> String {
        format!("{} in snapshot {}", name(place), self.snapshot)
    }

    /// Every result has a record that asks for it. How often each is there.
    fn check_outputs(
        &self,
        log: &Log<'_>,
        report: &mut Report,
    ) -> HashMap<(Place<'a>, u32), usize> {
        let mut times = HashMap::new();
        for output in &self.outputs {
            let place = place_of(output);
            let asks = log.get(&place).is_some_and(|input| {
                let same_topic = match (&input.topic_id, &output.topic_id) {
                    (Some(one), Some(other)) => one == other,
                    _ => true,
                };
                !input.dead && output.index < input.outputs && same_topic
            });
            match asks {
                true => report.compared.outputs += 1,
                false => report.add(Anomaly::Phantom, self.at(place)),
            }
            let count = times.entry((place, output.index)).or_insert(0);
            *count += 1;
            if *count > 1 {
                report.add(Anomaly::Duplicate, self.at(place));
            }
            if !self.has_passed(place) {
                report.add(Anomaly::Ahead, self.at(place));
            }
        }
        times
    }

    /// Every dead letter has a record that asks for it.
    fn check_dead(&self, log: &Log<'_>, report: &mut Report) -> BTreeSet<Place<'a>> {
        let mut seen = BTreeSet::new();
        for place in &self.dead {
            match log.get(place) {
                Some(input) if input.dead => report.compared.dead += 1,
                _ => report.add(Anomaly::DeadPhantom, self.at(*place)),
            }
            if !seen.insert(*place) {
                report.add(Anomaly::DeadTwice, self.at(*place));
            }
            if !self.has_passed(*place) {
                report.add(Anomaly::Ahead, self.at(*place));
            }
        }
        seen
    }

    /// What progress has passed is there.
    fn check_complete(
        &self,
        log: &Log<'_>,
        outputs: &HashMap<(Place<'a>, u32), usize>,
        dead: &BTreeSet<Place<'a>>,
        report: &mut Report,
    ) {
        for (place, input) in log.iter().filter(|(place, _)| self.has_passed(**place)) {
            report.compared.records += 1;
            match input.dead {
                true if !dead.contains(place) => report.add(Anomaly::DeadMissing, self.at(*place)),
                true => {}
                false => {
                    let missing =
                        (0..input.outputs).filter(|i| !outputs.contains_key(&(*place, *i)));
                    missing.for_each(|_| report.add(Anomaly::Lost, self.at(*place)));
                }
            }
        }
    }

    /// Within a stream, later results of a key come from later records.
    fn check_order(&self, log: &Log<'_>, report: &mut Report) {
        let mut outputs = self.outputs.clone();
        outputs.sort_by_key(|output| (output.stream, output.place));
        let mut last = HashMap::new();
        for output in outputs {
            let place = place_of(output);
            let Some(key) = log.get(&place).and_then(|input| input.key.as_deref()) else {
                continue;
            };
            let now = (output.offset, output.index);
            if let Some(before) = last.insert((output.stream, place.0, key), now) {
                report.compared.ordered += 1;
                // The same one again is a duplicate, which is said elsewhere.
                if before > now {
                    report.add(Anomaly::Disorder, self.at(place));
                }
            }
        }
    }
}

/// Progress never goes back.
fn check_monotone(nexts: &BTreeMap<u64, Nexts<'_>>, report: &mut Report) {
    let mut reached: Nexts<'_> = Nexts::new();
    for (snapshot, seen) in nexts {
        for (partition, next) in seen {
            let before = reached.insert(*partition, *next);
            if before.is_some_and(|before| before > *next) {
                let (topic, index) = partition;
                let place = format_args!("{topic}/{index} in snapshot {snapshot}").to_string();
                report.add(Anomaly::Regress, place);
            }
        }
    }
}

/// A comparison of nothing is not a pass.
fn check_evidence(history: &History, report: &mut Report) {
    for line in &history.unreadable {
        report.doubt(format_args!("evidence that cannot be read: {line}"));
    }
    let compared = report.compared;
    let wants_outputs = history.inputs.iter().any(|input| !input.dead && input.outputs > 0);
    let wants_dead = history.inputs.iter().any(|input| input.dead);
    for (is_missing, what) in [
        (history.inputs.is_empty(), "the input is empty"),
        (history.progress.is_empty(), "no progress is known"),
        (history.outputs.is_empty() && wants_outputs, "the output is empty"),
        (
            history.dead.is_empty() && wants_dead && !wants_outputs,
            "there are no dead letters, and nothing else was asked for",
        ),
        (compared.records == 0, "progress has passed no record"),
    ] {
        if is_missing {
            report.doubt(what);
        }
    }
}

pub(super) fn place_of(output: &Output) -> Place<'_> {
    ((&output.topic, output.partition), output.offset)
}

fn name(((topic, partition), offset): Place<'_>) -> String {
    format!("{topic}/{partition}/{offset}")
}
