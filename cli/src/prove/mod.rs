//! `prove`: a pipeline's processes are killed and stopped again and again; then what stands in its
//! outputs is compared with its input, by coordinates.
//!
//! It knows nothing of the pipeline but its command and its names: results, dead letters and
//! progress are read back as any reader sees them. What is decided is pure (`schedule`, `audit`,
//! `twin`, `verdict`); around it stand the processes (`tether`, `process`, `slot`, `faults`), what
//! is looked at (`target`, `begin`, `watch`, `read`) and what is shown (`screen`, `report`).

pub(crate) mod args;
mod audit;
mod begin;
mod database;
mod evidence;
mod faults;
mod finding;
mod interrupt;
mod logs;
mod names;
mod process;
mod read;
mod report;
mod run;
mod schedule;
mod screen;
mod slot;
mod target;
mod tether;
mod twin;
mod verdict;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use self::args::{Guarantee, Prove, Results};
use self::audit::Report;
use self::database::Database;
use self::finding::Kind;
use self::interrupt::Interrupt;
use self::logs::Logs;
use self::names::Run;
use self::report::Proof;
use self::run::{Outcome, Plan};
use self::schedule::{Fault, Wanted, schedule};
use self::screen::{Screen, Stream};
use self::target::{Outputs, Target};
use self::tether::Tether;
use self::twin::Differences;
use self::verdict::{Readable, Verdict};
use crate::failure::Failure;

/// Runs the command under faults and judges what it left.
pub(crate) async fn run(args: &Prove) -> Result<ExitCode, Failure> {
    let runs = target::runs(args)?;
    let results = results(args, &runs)?;
    let targets = runs.iter().map(|run| Ok(Arc::new(Target::new(args, *run)?)));
    let targets: Vec<Arc<Target>> = targets.collect::<Result<_, Failure>>()?;
    let interrupt = Interrupt::listen()?;
    // Numbers that people can read to each other.
    let seed = args.seed.unwrap_or_else(|| fastrand::u32(..).into());
    let wanted = Wanted {
        seed,
        processes: args.processes,
        kills: args.kills,
        stops: args.stops,
        stop_for: args.stop_for.get(),
    };
    let faults = schedule(&wanted);
    let screen = Screen::new(if args.json { Stream::Error } else { Stream::Output });
    let mut logs = Logs::new(args.logs.as_deref())?;
    introduce(args, &runs, seed, &logs, &screen);
    let outcomes = outcomes(args, &runs, &targets, &faults, &logs, &screen, &interrupt).await;
    screen.clear();
    let outcomes = outcomes.inspect_err(|failure| {
        if !matches!(failure, Failure::Interrupted) {
            logs.keep();
        }
    })?;
    let judged = judge(args, seed, results, outcomes, &targets);
    let proof = Proof { logs: logs.path().to_owned(), ..judged.await };
    if proof.verdict != Verdict::Kept {
        logs.keep();
    }
    match args.json {
        true => println!("{:#}", proof.json()),
        false => print!("\n{}", proof.text()),
    }
    Ok(ExitCode::from(proof.verdict.exit_code()))
}

/// A failure as `prove` tells it: that nothing could be compared is no finding.
pub(crate) fn unknown(failure: Failure) -> Failure {
    match failure {
        Failure::Failed(problem) => Failure::Unknown(problem),
        other => other,
    }
}

/// What a record becomes: what was said, or what need not be.
fn results(args: &Prove, runs: &[Run]) -> Result<Results, Failure> {
    match args.results {
        Some(results) => Ok(results),
        // The other run says it, or nothing promises that anything is there.
        None if runs.len() > 1 || args.guarantee == Guarantee::AtMostOnce => Ok(Results::Any),
        None => Err(Failure::usage(
            "--results is missing: say how many results a record has that is no dead letter (one, a \
             number, some), so that a lost one can be told from a filtered one; or put {run} into \
             --group, --output and the command, so that a run under faults is compared with one \
             that is left alone",
        )),
    }
}

fn introduce(args: &Prove, runs: &[Run], seed: u64, logs: &Logs, screen: &Screen) {
    let promise = match args.guarantee {
        Guarantee::ExactlyOnce => "exactly once",
        Guarantee::AtLeastOnce => "at least once",
        Guarantee::AtMostOnce => "at most once",
    };
    let command = args.command.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    let runs = match runs.len() {
        1 => "one, compared with its input",
        _ => "calm, left alone, then faults; their results are compared",
    };
    screen.headline(&format!(
        "Proves {promise} under {} and {} of {:.0} s\n\n  \
         group    {}\n  input    {}\n  output   {}\n  command  {} of {command}\n  \
         runs     {runs}\n  seed     {seed}\n  logs     {}\n",
        counted(args.kills, "kill", "kills"),
        counted(args.stops, "stop", "stops"),
        args.stop_for.get().as_secs_f64(),
        args.group,
        args.input.join(", "),
        args.output.join(", "),
        counted(args.processes, "process", "processes"),
        logs.path().display(),
    ));
    if args.processes > 1 && !names::has_number(&args.command) {
        screen.headline(
            "  note: the command has no {process}. Processes that share an instance name fence\n  \
             each other; without one this is of no account\n",
        );
    }
}

fn counted(count: u16, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

async fn outcomes(
    args: &Prove,
    runs: &[Run],
    targets: &[Arc<Target>],
    faults: &[Fault],
    logs: &Logs,
    screen: &Screen,
    interrupt: &Interrupt,
) -> Result<Vec<Outcome>, Failure> {
    let tether = Rc::new(Tether::new().map_err(|error| {
        Failure::failed(format_args!("sh, which ends what is left behind, cannot be run: {error}"))
    })?);
    // What the second run lacks is told before the first one begins.
    for target in &targets[1..] {
        interrupt.or(begin::begin(target, args.settle_within(), screen)).await?;
    }
    let mut outcomes = Vec::new();
    for (run, target) in runs.iter().zip(targets) {
        let plan = Plan {
            args,
            run: *run,
            faults: if run.has_faults() { faults } else { &[] },
            logs: logs.path().to_owned(),
            tether: Rc::clone(&tether),
            screen,
            interrupt,
        };
        outcomes.push(plan.run(Arc::clone(target)).await?);
    }
    Ok(outcomes)
}

/// Compares what the runs left.
async fn judge<'a>(
    args: &'a Prove,
    seed: u64,
    results: Results,
    outcomes: Vec<Outcome>,
    targets: &[Arc<Target>],
) -> Proof<'a> {
    let mut doubts = Vec::new();
    let is_single = outcomes.len() == 1;
    let mut runs: Vec<(Outcome, Option<Report>)> = Vec::new();
    for outcome in outcomes {
        let of = if is_single { String::new() } else { format!("{}: ", outcome.run.name()) };
        doubts.extend(outcome.doubts.iter().map(|doubt| format!("{of}{doubt}")));
        let report = outcome.evidence.as_ref().map(|evidence| {
            let mut report = audit::audit(evidence, results);
            for place in &outcome.regress {
                report.findings.add(Kind::Regress, place);
            }
            let odd = verdict::doubts(&report, evidence.odd);
            doubts.extend(odd.iter().map(|doubt| format!("{of}{doubt}")));
            report
        });
        runs.push((outcome, report));
    }
    let blind = verdict::blind(results, args.guarantee).filter(|_| is_single);
    let is_blind = results == Results::Any;
    doubts.extend(blind);
    let twin = match &runs[..] {
        [(calm, _), (faults, _)] => calm.evidence.as_ref().zip(faults.evidence.as_ref()),
        _ => None,
    };
    let twin = twin.map(|(calm, faults)| twin::compare(calm, faults));
    let mut columns = Vec::new();
    if let (Some(twin), [calm, faults]) = (&twin, targets) {
        doubts.extend(verdict::twin_doubts(twin));
        // Only a help for the reader: without it the places are there.
        columns = differing_columns(twin, calm, faults).await.unwrap_or_default();
    }
    let findings = runs.iter().flat_map(|(_, report)| report).map(|report| &report.findings);
    let findings = findings.chain(twin.iter().map(|twin| &twin.findings));
    let silent = runs.iter().flat_map(|(run, _)| &run.evidence).any(|found| found.odd.silent > 0);
    let readable = if silent { Readable::Partly } else { Readable::All };
    let verdict = Verdict::of(findings, args.guarantee, readable, &doubts);
    let logs = PathBuf::new();
    Proof { args, seed, runs, twin, columns, doubts, verdict, is_blind, logs }
}

/// The columns in which the first rows that differ do.
async fn differing_columns(
    twin: &Differences,
    calm: &Target,
    faults: &Target,
) -> Result<Vec<String>, tidegate::Error> {
    let mut columns: Vec<String> = Vec::new();
    if twin.different.is_empty() {
        return Ok(columns);
    }
    let (Some(mut one), Some(mut other)) = (calm.database().await?, faults.database().await?)
    else {
        return Ok(columns);
    };
    for (output, place) in &twin.different {
        let left = row(&mut one, calm, *output, place).await?;
        let right = row(&mut other, faults, *output, place).await?;
        let differing = left.iter().filter(|column| !right.contains(column)).map(|(name, _)| name);
        columns.extend(differing.cloned());
    }
    columns.sort();
    columns.dedup();
    Ok(columns)
}

async fn row(
    database: &mut Database,
    target: &Target,
    output: usize,
    place: &twin::Place,
) -> Result<Vec<(String, Option<String>)>, tidegate::Error> {
    match &target.outputs {
        Outputs::Tables { tables, .. } => database.columns(&tables[output], &place.lineage()).await,
        Outputs::Topics { .. } => Ok(Vec::new()),
    }
}
