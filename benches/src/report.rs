//! The numbers as tables and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::args::Args;
use crate::case::{Outcome, Times, Who, Work};

/// One measurement with its coordinates.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) work: Work,
    pub(crate) who: Who,
    pub(crate) interval_ms: u64,
    pub(crate) rate: Option<u64>,
    pub(crate) repetition: u32,
    pub(crate) outcome: Outcome,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { work, who, interval_ms, outcome, .. } = self;
        let who = format!("{who:?}").to_lowercase();
        write!(f, "{:14} {who:10} {interval_ms:4} ms  ", name(*work))?;
        if let (Some(rate), Some(latency)) = (self.rate, outcome.latency) {
            write!(f, "{rate:6} rec/s: p50 {:.1} ms, p99 {:.1} ms", latency.p50, latency.p99)?;
        } else {
            let (rate, cpu) = (outcome.per_second() / 1e3, outcome.cpu_per_million());
            write!(f, "{rate:7.0} k rec/s, {cpu:.2} CPU s/M, {:.0} MiB", outcome.peak_mib)?;
        }
        match outcome.phases.get("total") {
            Some(total) => write!(f, ", commit p50 {:.1} ms, p99 {:.1} ms", total.p50, total.p99),
            None => Ok(()),
        }
    }
}

/// What the numbers were measured under.
#[derive(Debug, Serialize)]
pub(crate) struct Conditions {
    cores: usize,
    load_average: String,
    postgres_by: &'static str,
    records: u64,
    repetitions: u32,
    seconds: u64,
}

impl Conditions {
    pub(crate) fn now(args: &Args, postgres_by: &'static str) -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load_average: load_average(),
            postgres_by,
            records: args.records(),
            repetitions: args.repetitions(),
            seconds: args.seconds(),
        }
    }
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    conditions: Conditions,
    load_average_after: String,
    measurements: Vec<Measured>,
}

/// What is compared: the same work at the same interval.
type Cell = (Work, u64, Option<u64>);

impl Report {
    pub(crate) fn new(conditions: Conditions) -> Self {
        let (load_average_after, measurements) = (String::new(), Vec::new());
        Self { conditions, load_average_after, measurements }
    }

    pub(crate) fn add(&mut self, measured: Measured) {
        self.measurements.push(measured);
        self.load_average_after = load_average();
    }

    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    pub(crate) fn print(&self) {
        let Conditions { cores, load_average, records, repetitions, .. } = &self.conditions;
        println!(
            "\n{cores} cores, load average {load_average} before and {} after; PostgreSQL by {}; \
             {records} records of 100 B in 8 partitions, {repetitions} repetitions in turns; \
             median (least to most)\n",
            self.load_average_after, self.conditions.postgres_by
        );
        self.print_throughput();
        self.print_phases();
        self.print_latency();
    }

    fn cells(&self) -> BTreeMap<Cell, [Vec<&Outcome>; 2]> {
        let mut cells: BTreeMap<Cell, [Vec<&Outcome>; 2]> = BTreeMap::new();
        for measured in &self.measurements {
            let cell = (measured.work, measured.interval_ms, measured.rate);
            let place = usize::from(measured.who == Who::Framework);
            cells.entry(cell).or_default()[place].push(&measured.outcome);
        }
        cells
    }

    fn print_throughput(&self) {
        let mut rows = vec![
            [
                "work",
                "commit",
                "loop k rec/s",
                "framework k rec/s",
                "ratio",
                "loop CPU s/M",
                "framework CPU s/M",
                "ratio",
                "loop MiB",
                "framework MiB",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for ((work, interval, rate), [loops, framework]) in self.cells() {
            if rate.is_some() {
                continue;
            }
            let of = |all: &[&Outcome], what: fn(&Outcome) -> f64| -> Vec<f64> {
                all.iter().map(|outcome| what(outcome)).collect()
            };
            let rate = |outcome: &Outcome| outcome.per_second() / 1e3;
            let (slow, fast) = (of(&framework, rate), of(&loops, rate));
            let cpu = Outcome::cpu_per_million;
            let (cpu_framework, cpu_loop) = (of(&framework, cpu), of(&loops, cpu));
            let peak = |outcome: &Outcome| outcome.peak_mib;
            rows.push(vec![
                name(work).to_owned(),
                format!("{interval} ms"),
                spread(&fast, 0),
                spread(&slow, 0),
                spread(&ratios(&slow, &fast), 2),
                spread(&cpu_loop, 2),
                spread(&cpu_framework, 2),
                spread(&ratios(&cpu_framework, &cpu_loop), 2),
                spread(&of(&loops, peak), 0),
                spread(&of(&framework, peak), 0),
            ]);
        }
        if rows.len() > 1 {
            println!("Throughput over a backlog\n\n{}", aligned(&rows));
        }
    }

    fn print_phases(&self) {
        let head = ["work", "commit", "rate", "who", "phase", "p50 ms", "p99 ms", "most ms"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for ((work, interval, rate), sides) in self.cells() {
            for (who, outcomes) in ["loop", "framework"].iter().zip(sides) {
                for (phase, times) in phases(&outcomes) {
                    let median = |what: fn(&Times) -> f64| {
                        spread(&times.iter().copied().map(what).collect::<Vec<_>>(), 2)
                    };
                    rows.push(vec![
                        name(work).to_owned(),
                        format!("{interval} ms"),
                        rate.map_or_else(|| "backlog".to_owned(), |rate| rate.to_string()),
                        (*who).to_owned(),
                        phase.to_owned(),
                        median(|times| times.p50),
                        median(|times| times.p99),
                        median(|times| times.max),
                    ]);
                }
            }
        }
        if rows.len() > 1 {
            println!("Time of one commit\n\n{}", aligned(&rows));
        }
    }

    fn print_latency(&self) {
        let head = [
            "work",
            "commit",
            "rec/s",
            "loop p50 ms",
            "p99",
            "most",
            "framework p50 ms",
            "p99",
            "most",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for ((work, interval, rate), sides) in self.cells() {
            let Some(rate) = rate else { continue };
            let mut row = vec![name(work).to_owned(), format!("{interval} ms"), rate.to_string()];
            for outcomes in sides {
                let times: Vec<Times> = outcomes.iter().filter_map(|o| o.latency).collect();
                for what in [|t: &Times| t.p50, |t: &Times| t.p99, |t: &Times| t.max] {
                    row.push(spread(&times.iter().map(what).collect::<Vec<_>>(), 1));
                }
            }
            rows.push(row);
        }
        if rows.len() > 1 {
            println!("From due to visible, at a steady rate\n\n{}", aligned(&rows));
        }
    }
}

/// The name of a work in the tables.
pub(crate) fn name(work: Work) -> &'static str {
    match work {
        Work::Consume => "L1 consume",
        Work::AtLeastOnce => "L2 Kafka ALO",
        Work::Kafka => "L3 Kafka EOS",
        Work::Postgres => "L4 PostgreSQL",
        Work::Sqlite => "L5 SQLite",
    }
}

fn phases<'a>(outcomes: &[&'a Outcome]) -> BTreeMap<&'a str, Vec<&'a Times>> {
    let mut phases: BTreeMap<&str, Vec<&Times>> = BTreeMap::new();
    for (phase, times) in outcomes.iter().flat_map(|outcome| &outcome.phases) {
        phases.entry(phase).or_default().push(times);
    }
    phases
}

/// Ratios within each repetition: what disturbs one side mostly disturbs the other too.
fn ratios(over: &[f64], under: &[f64]) -> Vec<f64> {
    over.iter().zip(under).map(|(over, under)| over / under).collect()
}

/// Median, and least and most if there are several.
fn spread(values: &[f64], digits: usize) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => "-".to_owned(),
        [one] => format!("{one:.digits$}"),
        [least, .., most] => {
            let middle = sorted.len() / 2;
            let median = match sorted.len() % 2 {
                1 => sorted[middle],
                _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
            };
            format!("{median:.digits$} ({least:.digits$}-{most:.digits$})")
        }
    }
}

/// A table of Markdown with columns of equal width.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(&format!("| {} |\n", cells.collect::<Vec<_>>().join(" | ")));
        if number == 0 {
            let lines: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text.push_str(&format!("| {} |\n", lines.join(" | ")));
        }
    }
    text
}
