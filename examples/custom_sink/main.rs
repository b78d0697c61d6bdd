//! A transactional sink of your own: totals and progress in one file, exactly once.
#![forbid(unsafe_code)]

#[cfg(test)]
mod conformance;
mod sink;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use tidegate::prelude::*;
use tidegate_examples::args::Args;
use tidegate_examples::flights::{Airports, FLIGHTS, Flight, UnknownAirport};
use tidegate_examples::show::{Checks, Table, thousands};
use tidegate_examples::{kafka, run};

use crate::sink::{Contents, TotalsFile};

#[derive(Parser, Debug)]
struct Flags {
    #[command(flatten)]
    common: Args,
    /// The file with the totals.
    #[arg(long, value_name = "PATH", default_value = "target/totals.json")]
    file: PathBuf,
}

/// For each flight two numbers: one departure of its state, and its miles.
fn pipeline(args: &Args, file: &Path) -> Job<(String, i64)> {
    let airports = Airports::load();
    let work = args.work();
    Pipeline::new(args.named("totals", ""))
        .instance(&args.instance)
        .from(args.kafka().source(args.named("totals", "")))
        .decode(Json::<Flight>::new())
        .process(move |record, out: &mut Context<'_, _>| {
            work();
            let state = &airports.find(&record.value.origin)?.state;
            airports.find(&record.value.destination)?;
            out.emit((format!("departures {state}"), 1));
            out.emit(("miles".to_owned(), record.value.distance));
            Ok::<_, UnknownAirport>(())
        })
        .on_failure(Retry::never().then_dead_letter())
        .exactly_once(TotalsFile::at(file))
}

#[tokio::main]
async fn main() -> ExitCode {
    run::log();
    let Flags { common, file } = Flags::parse();
    run::exit(example(&common, &file).await)
}

async fn example(args: &Args, file: &Path) -> Result<()> {
    let file = std::path::absolute(file)?;
    let job = pipeline(args, &file);
    if args.explained(&job) {
        return Ok(());
    }
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let topic = args.named("totals", "");
    let flights = FLIGHTS.lines().map(|line| (line.to_owned(), line));
    kafka::load(&args.bootstrap(), &topic, 4, flights).await?;
    let summary = run::run(job, args, &topic).await?;
    println!("{summary}\n");
    if args.drain { report(&file) } else { Ok(()) }
}

fn report(file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let contents: Contents = serde_json::from_str(&text)?;
    let mut states: Vec<(&str, i64)> = contents
        .totals
        .iter()
        .filter_map(|(name, number)| Some((name.strip_prefix("departures ")?, *number)))
        .collect();
    states.sort_by_key(|(state, departures)| (-departures, *state));
    let miles = contents.totals.get("miles").copied().unwrap_or(0);
    Checks::default()
        .equal("departures", states.iter().map(|(_, departures)| departures).sum(), 19_999)
        .equal("miles", miles, 14_476_631)
        .equal("states, territories", i64::try_from(states.len())?, 51)
        .equal("dead letters", i64::try_from(contents.dead.len())?, 1)
        .verify(&format!("Totals of 20,000 flights ({})", file.display()))?;
    let mut table = Table::new(["state", "departures"]);
    for (state, departures) in states.into_iter().take(5) {
        table.row([state.to_owned(), thousands(departures)]);
    }
    print!("{table}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate::testing::TestDriver;

    #[test]
    fn a_flight_gives_a_departure_and_its_miles() {
        let job = pipeline(&Args::nowhere(), Path::new("never-written.json"));
        let mut driver = TestDriver::new(job).expect("the settings are allowed");
        driver.feed("totals", None, FLIGHTS.lines().next());
        driver.feed("totals", None, Some("{}"));
        driver.run().expect("nothing stops it");
        let outputs = driver.outputs();
        assert_eq!(outputs, [("departures MI".to_owned(), 1), ("miles".to_owned(), 1_750)]);
        assert_eq!(driver.dead_letters().len(), 1);
    }
}
