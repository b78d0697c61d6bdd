//! A job in words: what it reads, does and writes, what it promises and what it does not.

use std::fmt;

use super::job::Job;
use crate::delivery::{GroupCommits, Guarantee};
use crate::process::Process;
use crate::settings::Order;

/// What a pipeline will do, for people; print it. See [`Job::explain`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    title: String,
    sections: Vec<Vec<Entry>>,
}

/// A label and what belongs to it, one line or more.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    label: &'static str,
    lines: Vec<String>,
}

impl Explanation {
    pub(super) fn of<O>(job: &Job<O>) -> Self {
        let instance = job.instance.as_ref();
        let instance = instance.map_or(String::new(), |name| format!(", instance {name}"));
        Self {
            title: format!("pipeline {}{instance}", job.name),
            sections: vec![flow(job), bounds(job), promise(job)],
        }
    }
}

/// The column of labels is this wide.
const LABELS: usize = 15;
/// Lines are broken at this width, labels not counted.
const WIDTH: usize = 80;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for section in &self.sections {
            writeln!(f)?;
            for entry in section {
                let mut label = entry.label;
                for line in entry.lines.iter().flat_map(|line| wrap(line)) {
                    let text = format!("  {label:LABELS$}{line}");
                    writeln!(f, "{}", text.trim_end())?;
                    label = "";
                }
            }
        }
        Ok(())
    }
}

/// From the source through the steps to the sink.
fn flow<O>(job: &Job<O>) -> Vec<Entry> {
    let source = job.source.describe();
    let sink = job.delivery.describe();
    let mut entries = vec![end("source", &source.kind, &source.target, source.notes)];
    entries.extend(
        job.steps.iter().map(|step| Entry { label: step.verb, lines: vec![step.detail.clone()] }),
    );
    entries.push(end("sink", &sink.kind, &sink.target, sink.notes));
    entries
}

fn end(label: &'static str, kind: &str, target: &str, notes: Vec<String>) -> Entry {
    let mut lines = vec![format!("{kind}: {target}")];
    lines.extend(notes);
    Entry { label, lines }
}

fn bounds<O>(job: &Job<O>) -> Vec<Entry> {
    let s = &job.settings;
    let order = match job.order {
        Order::ByPartition => "by partition: the records of a partition run one after another",
        Order::ByKey => "by key: records of a partition with the same key run one after another",
        Order::Unordered => "none: records run in any order, results are stored in offset order",
    };
    let runs = match job.process {
        Process::Sync(_) => format!("{} threads", s.threads),
        Process::Async(_) => format!("tasks, up to {} at the same time", s.concurrency),
    };
    vec![
        line("order", order.to_owned()),
        line("runs on", runs),
        line("on failure", job.policy.to_string()),
        line(
            "in flight",
            format!("up to {} records or {}", s.in_flight_records, size(s.in_flight_bytes)),
        ),
        line(
            "one record",
            format!(
                "up to {} results or {}",
                s.outputs_per_record,
                size(s.output_bytes_per_record)
            ),
        ),
        line(
            "commits",
            format!(
                "after {:?} at the latest, up to {} records each",
                s.commit_interval, s.commit_records
            ),
        ),
        line(
            "deadlines",
            format!(
                "start {:?}, claim {:?}, drain {:?}, stop {:?}; stuck after {:?}",
                s.start_max, s.claim_max, s.drain_max, s.stop_max, s.stuck_after
            ),
        ),
    ]
}

fn promise<O>(job: &Job<O>) -> Vec<Entry> {
    let guarantee = job.delivery.guarantee();
    let (promise, mut gaps) = match guarantee {
        Guarantee::ExactlyOnce => (
            "exactly once: results, dead letters and progress are stored in one step, all of \
             them or none"
                .to_owned(),
            vec![
                "user code may run more than once: what is exact is what the sink shows".to_owned(),
                "whatever the functions do outside the sink (calls, mails, files) is not undone \
                 and may be repeated"
                    .to_owned(),
            ],
        ),
        Guarantee::AtLeastOnce => (
            format!(
                "at least once: results are written, then the group's offsets are committed, {}",
                pace(job.group_commits.as_ref())
            ),
            vec![
                "user code may run more than once".to_owned(),
                "after a crash, a rebalance or a failed write, results are written again: the \
                 sink may show them twice"
                    .to_owned(),
            ],
        ),
        Guarantee::AtMostOnce => (
            "at most once: the group's offsets are committed before records run".to_owned(),
            vec![
                "after a crash or a failed write, results are missing: they were never written \
                 and will not be"
                    .to_owned(),
                "user code may run more than once where the failure policy retries".to_owned(),
            ],
        ),
    };
    if job.order == Order::Unordered {
        gaps.push("records of one key may run at the same time and in any order".to_owned());
    }
    vec![line("guarantee", promise), Entry { label: "not covered", lines: gaps }]
}

fn pace(commits: Option<&GroupCommits>) -> String {
    match commits {
        None | Some(GroupCommits::Sync) => "waiting for each answer".to_owned(),
        Some(GroupCommits::Async(_)) => "without waiting, in order".to_owned(),
        Some(GroupCommits::Every(pace)) => format!("at least {pace:?} apart"),
    }
}

fn line(label: &'static str, text: String) -> Entry {
    Entry { label, lines: vec![text] }
}

/// Bytes in the largest binary unit that divides them.
fn size(bytes: usize) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fit = units.into_iter().find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift));
    match fit {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// Breaks a line at spaces.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is always a line");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(word.to_owned());
            continue;
        }
        if !last.is_empty() {
            last.push(' ');
        }
        last.push_str(word);
    }
    lines
}
