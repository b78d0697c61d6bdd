//! The result: a table for people, or JSON for programs.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::args::{Guarantee, Prove};
use super::audit::Report;
use super::finding::{Findings, Kind};
use super::run::Outcome;
use super::screen::thousands;
use super::twin::Differences;
use super::verdict::Verdict;

/// How wide lines of words are.
const WIDTH: usize = 79;

/// Kinds that have a row also when nothing of the kind was found.
const ALWAYS: [Kind; 4] = [Kind::Duplicate, Kind::Lost, Kind::Phantom, Kind::Disorder];
/// Kinds that have a row only then.
const IF_FOUND: [Kind; 6] =
    [Kind::Hole, Kind::Ahead, Kind::Both, Kind::DeadTwice, Kind::DeadPhantom, Kind::Regress];

/// Everything that is to be told.
pub(crate) struct Proof<'a> {
    pub(crate) args: &'a Prove,
    pub(crate) seed: u64,
    /// Each run, with what was found in it if it could be read back.
    pub(crate) runs: Vec<(Outcome, Option<Report>)>,
    /// What differs between the two.
    pub(crate) twin: Option<Differences>,
    /// Columns in which rows differ.
    pub(crate) columns: Vec<String>,
    pub(crate) doubts: Vec<String>,
    pub(crate) verdict: Verdict,
    /// Whether one run cannot tell what is missing.
    pub(crate) is_blind: bool,
    /// Where the output of the processes is, if it was kept.
    pub(crate) logs: PathBuf,
}

impl Proof<'_> {
    fn guarantee(&self) -> Guarantee {
        self.args.guarantee
    }

    fn findings(&self) -> impl Iterator<Item = (&'static str, &Findings)> {
        let runs = self.runs.iter();
        let runs =
            runs.filter_map(|(run, report)| Some((run.run.name(), &report.as_ref()?.findings)));
        runs.chain(self.twin.iter().map(|twin| ("compared", &twin.findings)))
    }

    /// The table, the first places of what was found, the doubts, and the verdict.
    pub(crate) fn text(&self) -> String {
        let mut text = self.table();
        self.short_stops(&mut text);
        for (run, findings) in self.findings() {
            self.quote(run, findings, &mut text);
        }
        if !self.columns.is_empty() {
            let columns = self.columns.join(", ");
            wrap(&mut text, "", &format!("rows differ in {columns}: --ignore leaves columns out"));
        }
        if !self.doubts.is_empty() {
            text.push_str("\n  in doubt, because\n");
            self.doubts.iter().for_each(|doubt| wrap(&mut text, "- ", doubt));
        }
        let _ = writeln!(text, "\n{}  (seed {})", self.verdict.words(self.guarantee()), self.seed);
        if self.verdict != Verdict::Kept {
            let _ = writeln!(text, "logs are in {}", self.logs.display());
        }
        text
    }

    /// A stop that is shorter than the session shows little, which is worth knowing.
    fn short_stops(&self, text: &mut String) {
        let (short, stops) = self.runs.iter().fold((0, 0), |(short, stops), (run, _)| {
            (short + run.tally.short, stops + run.tally.stops)
        });
        if short > 0 && self.args.processes > 1 {
            text.push('\n');
            wrap(
                text,
                "",
                &format!(
                    "note: during {short} of {stops} stops no partition was seen to change hands: the \
                     stopped process had none, or --stop-for is not longer than its session \
                     (session_timeout, 45 s unless set)"
                ),
            );
        }
    }

    fn quote(&self, run: &str, findings: &Findings, text: &mut String) {
        let against = findings.all().filter(|(kind, ..)| !kind.is_permitted(self.guarantee()));
        for (kind, count, places) in against {
            let of = if self.runs.len() > 1 { format!(" ({run})") } else { String::new() };
            let first = match places.len() as u64 {
                quoted if quoted < count => ", the first of them",
                _ => "",
            };
            let _ = writeln!(text, "\n  {}{of}: {}{first}", kind.title(), thousands(count));
            for place in places {
                let _ = writeln!(text, "    {place}");
            }
            kind.hint().into_iter().for_each(|hint| wrap(text, "", hint));
        }
    }

    fn table(&self) -> String {
        let mut table = Table::default();
        if self.runs.len() > 1 {
            table.row("", self.cells(|run, _| Some(run.run.name().to_owned())), "");
        }
        let read = |number: fn(&Report) -> u64| {
            self.cells(|_, report| report.map(|report| thousands(number(report))))
        };
        table.row("input records done", read(|report| report.records), "");
        table.row("results", read(|report| report.results), "");
        table.row("distinct results", read(|report| report.distinct), "");
        table.row("dead letters", read(|report| report.dead), "");
        self.found(&mut table);
        self.compared(&mut table);
        let faults = |hits: fn(&Outcome) -> u64, of: u16| {
            let cell = |run: &Outcome| format!("{} of {of}", thousands(hits(run)));
            self.cells(|run, _| run.run.has_faults().then(|| cell(run)))
        };
        table.row("kills", faults(|run| run.tally.kills, self.args.kills), "");
        table.row("stops", faults(|run| run.tally.stops, self.args.stops), "");
        table.row("restarts", self.cells(|run, _| Some(thousands(run.tally.restarts))), "");
        table.row("ended by themselves", self.cells(|run, _| Some(thousands(run.tally.ended))), "");
        let handed = self.cells(|run, _| Some(thousands(run.hand_overs)));
        table.row("partitions handed over", handed, "");
        table.row(
            "seconds",
            self.cells(|run, _| Some(format!("{:.1}", run.took.as_secs_f64()))),
            "",
        );
        table.text()
    }

    fn cells(&self, cell: impl Fn(&Outcome, Option<&Report>) -> Option<String>) -> Vec<String> {
        let cells = self.runs.iter().map(|(run, report)| cell(run, report.as_ref()));
        cells.map(|cell| cell.unwrap_or_else(|| "-".to_owned())).collect()
    }

    /// What was found in each run by itself.
    fn found(&self, table: &mut Table) {
        let reports = || self.runs.iter().flat_map(|(_, report)| report);
        for kind in ALWAYS.into_iter().chain(IF_FOUND) {
            let count = |report: &Report| report.findings.count(kind);
            let is_found = reports().any(|report| count(report) > 0);
            if !is_found && IF_FOUND.contains(&kind) {
                continue;
            }
            let is_told = |report: &Report| match kind {
                Kind::Lost => !self.is_blind,
                Kind::Disorder => report.ordered.is_some(),
                _ => true,
            };
            let is_permitted = kind.is_permitted(self.guarantee());
            let mark = match (reports().any(is_told), is_found, is_permitted) {
                // The comparison of two runs tells it.
                (false, ..) if self.twin.is_some() && kind == Kind::Lost => continue,
                (false, ..) => "not told",
                (true, true, true) => "permitted",
                (true, true, false) => "✗",
                (true, false, _) => "✓",
            };
            let cell = |_: &Outcome, report: Option<&Report>| {
                report.filter(|report| is_told(report)).map(|report| thousands(count(report)))
            };
            table.row(kind.title(), self.cells(cell), mark);
        }
    }

    /// What differs between both runs; it stands below the one under faults.
    fn compared(&self, table: &mut Table) {
        let Some(twin) = &self.twin else { return };
        let beside = |count: u64| vec![String::new(), thousands(count)];
        table.row("results in both", beside(twin.results), "");
        table.row("dead letters in both", beside(twin.dead), "");
        for kind in [Kind::Missing, Kind::Extra, Kind::Different] {
            let count = twin.findings.count(kind);
            let mark = match (count, kind.is_permitted(self.guarantee())) {
                (0, _) => "✓",
                (_, true) => "permitted",
                (_, false) => "✗",
            };
            table.row(kind.title(), beside(count), mark);
        }
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        let findings = |findings: &Findings| -> Value {
            let one = |(kind, count, places): (Kind, u64, &[String])| {
                let permitted = kind.is_permitted(self.guarantee());
                json!({ "kind": kind.name(), "count": count, "permitted": permitted, "first": places })
            };
            findings.all().map(one).collect()
        };
        let run = |(run, report): &(Outcome, Option<Report>)| {
            json!({
                "run": run.run.name(),
                "group": run.group,
                "records": report.as_ref().map(|report| report.records),
                "results": report.as_ref().map(|report| report.results),
                "distinct_results": report.as_ref().map(|report| report.distinct),
                "dead_letters": report.as_ref().map(|report| report.dead),
                "compared_in_order": report.as_ref().and_then(|report| report.ordered),
                "findings": report.as_ref().map(|report| findings(&report.findings)),
                "kills": run.tally.kills,
                "stops": run.tally.stops,
                "stops_without_hand_over": run.tally.short,
                "missed_faults": run.tally.missed,
                "restarts": run.tally.restarts,
                "ended_by_themselves": run.tally.ended,
                "ends": run.tally.ends,
                "hand_overs": run.hand_overs,
                "seconds": run.took.as_secs_f64(),
            })
        };
        let twin = self.twin.as_ref().map(|twin| {
            json!({
                "results": twin.results,
                "dead_letters": twin.dead,
                "findings": findings(&twin.findings),
                "columns": self.columns,
            })
        });
        json!({
            "verdict": self.verdict.words(self.guarantee()),
            "exit_code": self.verdict.exit_code(),
            "guarantee": match self.guarantee() {
                Guarantee::ExactlyOnce => "exactly-once",
                Guarantee::AtLeastOnce => "at-least-once",
                Guarantee::AtMostOnce => "at-most-once",
            },
            "seed": self.seed,
            "runs": self.runs.iter().map(run).collect::<Vec<_>>(),
            "compared": twin,
            "doubts": self.doubts,
            "logs": (self.verdict != Verdict::Kept).then(|| self.logs.display().to_string()),
        })
    }
}

/// A paragraph in lines that fit into a terminal.
fn wrap(text: &mut String, mark: &str, paragraph: &str) {
    let mut line = format!("    {mark}");
    let mut is_first = true;
    for word in paragraph.split(' ') {
        if !is_first && line.chars().count() + word.chars().count() >= WIDTH {
            let _ = writeln!(text, "{line}");
            line = format!("    {:1$}", "", mark.len());
            is_first = true;
        }
        let space = if is_first { "" } else { " " };
        let _ = write!(line, "{space}{word}");
        is_first = false;
    }
    let _ = writeln!(text, "{line}");
}

/// Labels to the left, numbers to the right, marks behind them.
#[derive(Debug, Default)]
struct Table(Vec<(&'static str, Vec<String>, &'static str)>);

impl Table {
    fn row(&mut self, label: &'static str, cells: Vec<String>, mark: &'static str) {
        self.0.push((label, cells, mark));
    }

    fn text(&self) -> String {
        let label = self.0.iter().map(|(label, ..)| label.chars().count()).max().unwrap_or(0);
        let cells = self.0.iter().flat_map(|(_, cells, _)| cells);
        let cell = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, cells, mark) in &self.0 {
            let cells: String = cells.iter().map(|text| format!("  {text:>cell$}")).collect();
            let line = format!("  {name:label$}{cells}  {mark}");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::super::names::Run;
    use super::super::slot::Tally;
    use super::*;
    use crate::args::{Args, Command};

    fn args(words: &str) -> Prove {
        let base = "tidegate prove --kafka h:1 --group g --input in --output out";
        let words = base.split(' ').chain(words.split(' ')).chain(["--", "job"]);
        match Args::try_parse_from(words).expect("it can be read").command {
            Command::Prove(prove) => prove,
            Command::Offsets { .. } => unreachable!("it is the other command"),
        }
    }

    fn outcome(run: Run) -> Outcome {
        let kills = if run.has_faults() { 10 } else { 0 };
        Outcome {
            run,
            group: "g".to_owned(),
            evidence: None,
            tally: Tally { kills, stops: kills / 2, restarts: kills, ..Tally::default() },
            hand_overs: 37,
            regress: Vec::new(),
            took: Duration::from_millis(85_320),
            doubts: Vec::new(),
        }
    }

    fn report() -> Report {
        let (records, results) = (200_000, 201_403);
        Report {
            records,
            results,
            distinct: results,
            dead: 585,
            ordered: Some(7),
            ..Report::default()
        }
    }

    fn proof(args: &Prove, runs: Vec<(Outcome, Option<Report>)>, verdict: Verdict) -> Proof<'_> {
        Proof {
            args,
            seed: 7,
            runs,
            twin: None,
            columns: Vec::new(),
            doubts: Vec::new(),
            verdict,
            is_blind: false,
            logs: "logs".into(),
        }
    }

    #[test]
    fn a_run_that_is_exact_is_told_in_one_column() {
        let args = args("--results some");
        let proof = proof(&args, vec![(outcome(Run::Only), Some(report()))], Verdict::Kept);
        let expected = "  input records done       200,000
  results                  201,403
  distinct results         201,403
  dead letters                 585
  duplicates                     0  ✓
  lost                           0  ✓
  phantoms                       0  ✓
  out of order                   0  ✓
  kills                   10 of 10
  stops                     5 of 5
  restarts                      10
  ended by themselves            0
  partitions handed over        37
  seconds                     85.3

EXACT  (seed 7)
";
        assert_eq!(proof.text(), expected);
    }

    #[test]
    fn two_runs_stand_side_by_side_with_what_differs_between_them() {
        let args = args("--results any");
        let runs = [Run::Calm, Run::Faults].map(|run| (outcome(run), Some(report())));
        let mut twin = Differences { results: 201_402, dead: 585, ..Differences::default() };
        twin.findings.add(Kind::Missing, "in/0/8/0 in topic out");
        let mut proof = proof(&args, runs.into(), Verdict::Broken);
        proof.twin = Some(twin);
        proof.is_blind = true;
        let text = proof.text();
        for line in [
            "                              calm    faults",
            "  results                  201,403   201,403",
            "  results in both                    201,402",
            "  missing under faults                     1  ✗",
            "  only under faults                        0  ✓",
            "  kills                          -  10 of 10",
            "  missing under faults (compared): 1",
            "    in/0/8/0 in topic out",
            "NOT EXACT  (seed 7)",
            "logs are in logs",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains("lost"), "the other run tells it\n{text}");
    }

    #[test]
    fn what_is_not_told_is_no_pass_and_what_is_permitted_is_no_failure() {
        let args = args("--results any --guarantee at-least-once");
        let mut report = Report { ordered: None, ..report() };
        report.findings.add_many(Kind::Duplicate, 12, "in/0/1/0 in topic out: 13 times");
        let runs = vec![(outcome(Run::Only), Some(report))];
        let mut proof = proof(&args, runs, Verdict::Unknown);
        proof.is_blind = true;
        proof.doubts = vec!["a sentence that is long ".repeat(9).trim().to_owned()];
        let text = proof.text();
        for line in [
            "duplicates                    12  permitted",
            "lost                           -  not told",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains("in/0/1/0"), "nothing is wrong with it\n{text}");
        assert!(text.ends_with("UNKNOWN  (seed 7)\nlogs are in logs\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 79), "{text}");
        assert_eq!(proof.json()["doubts"][0], proof.doubts[0].as_str());
        assert_eq!(proof.json()["runs"][0]["findings"][0]["permitted"], true);
    }

    #[test]
    fn a_run_that_could_not_be_read_back_has_no_numbers() {
        let args = args("--results one");
        let proof = proof(&args, vec![(outcome(Run::Only), None)], Verdict::Unknown);
        assert!(proof.text().contains("results                        -\n"), "{}", proof.text());
        assert_eq!(proof.json()["runs"][0]["records"], Value::Null);
    }
}
