//! Flights from Kafka to Kafka: three output topics and the offsets in one transaction.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tidegate::prelude::*;
use tidegate_examples::args::Args;
use tidegate_examples::flights::{Airports, FLIGHTS, Flight, UnknownAirport};
use tidegate_examples::show::{Checks, Table};
use tidegate_examples::{kafka, run};
use tidegate_kafka::Message;

/// Above so many minutes a flight is late.
const LATE_MIN: i32 = 60;
const PARTITIONS: i32 = 4;

/// The names of the topics.
#[derive(Clone, Debug)]
struct Topics {
    flights: String,
    enriched: String,
    late: String,
    dead: String,
}

impl Topics {
    fn of(args: &Args) -> Self {
        let named = |part| args.named("flights", part);
        Self {
            flights: named(""),
            enriched: named("enriched"),
            late: named("late"),
            dead: named("dead"),
        }
    }
}

/// A flight with the names of its places.
#[derive(Debug, Deserialize, Serialize)]
struct Leg {
    #[serde(flatten)]
    flight: Flight,
    from: String,
    to: String,
}

/// Every flight goes to one topic; those that are late go to another one as well; a flight from or
/// to an unknown airport goes to a third, whole and with its coordinates.
fn pipeline(args: &Args) -> Job<Message> {
    let topics = Topics::of(args);
    let airports = Airports::load();
    let work = args.work();
    let source = args.kafka().source(topics.flights.as_str());
    // The sink belongs to the source: its transactions carry the offsets of that very consumer.
    let sink = source
        .sink()
        .outputs([topics.enriched.as_str(), topics.late.as_str()])
        .dead_letters(topics.dead.as_str())
        .lineage(); // each result says in a header what it was made from
    Pipeline::new(args.named("flights", ""))
        .instance(&args.instance)
        .from(source)
        .decode(Json::<Flight>::new())
        .process(move |record, out: &mut Context<'_, Message>| {
            work();
            let leg = enrich(&airports, &record.value)?;
            let value = serde_json::to_vec(&leg)?;
            if leg.flight.delay > LATE_MIN {
                let late = Message::to(topics.late.as_str()).key(leg.flight.origin.clone());
                out.emit(late.value(value.clone()));
            }
            let mut message = Message::to(topics.enriched.as_str()).value(value);
            message.key = record.key.clone();
            out.emit(message);
            Ok::<_, tidegate::BoxError>(())
        })
        .order(Order::ByKey)
        .on_failure(Retry::never().then_dead_letter())
        .exactly_once(sink)
}

fn enrich(airports: &Airports, flight: &Flight) -> Result<Leg, UnknownAirport> {
    Ok(Leg {
        from: airports.find(&flight.origin)?.place(),
        to: airports.find(&flight.destination)?.place(),
        flight: flight.clone(),
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    run::exit(example(&Args::read()).await)
}

async fn example(args: &Args) -> Result<()> {
    let job = pipeline(args);
    if args.explained(&job) {
        return Ok(());
    }
    let (topics, bootstrap) = (Topics::of(args), args.bootstrap());
    for output in [&topics.enriched, &topics.late, &topics.dead] {
        kafka::create_topic(&bootstrap, output, PARTITIONS).await?;
    }
    kafka::load(&bootstrap, &topics.flights, PARTITIONS, flights()?).await?;
    let summary = run::run(job, args, &topics.flights).await?;
    println!("{summary}\n");
    if args.drain { report(&bootstrap, &topics) } else { Ok(()) }
}

/// The flights, the route as their key.
fn flights() -> Result<Vec<(String, &'static str)>> {
    let keyed = FLIGHTS.lines().map(|line| {
        let flight: Flight = serde_json::from_str(line)?;
        Ok((format!("{}-{}", flight.origin, flight.destination), line))
    });
    keyed.collect()
}

/// Reads all output topics back, committed data only.
fn report(bootstrap: &str, topics: &Topics) -> Result<()> {
    let legs = |topic: &str| -> Result<Vec<Leg>> {
        let values = kafka::committed_values(bootstrap, topic)?;
        values.iter().map(|value| Ok(serde_json::from_str(value)?)).collect()
    };
    let (enriched, mut late) = (legs(&topics.enriched)?, legs(&topics.late)?);
    let dead = kafka::committed_values(bootstrap, &topics.dead)?;
    let number = |items: usize| i64::try_from(items).unwrap_or(i64::MAX);
    Checks::default()
        .equal("enriched", number(enriched.len()), 19_999)
        .equal("their miles", enriched.iter().map(|leg| leg.flight.distance).sum(), 14_476_631)
        .equal("late", number(late.len()), 1_088)
        .equal("their minutes", late.iter().map(|leg| i64::from(leg.flight.delay)).sum(), 115_882)
        .equal("dead letters", number(dead.len()), 1)
        .verify("What a reader of committed data sees in the output topics")?;
    late.sort_by_key(|leg| (-leg.flight.delay, leg.flight.date.clone()));
    let mut table = Table::new(["latest", "from", "to", "minutes"]);
    for Leg { flight, from, to } in late.into_iter().take(5) {
        table.row([flight.date, from, to, flight.delay.to_string()]);
    }
    print!("{table}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate::testing::TestDriver;

    #[test]
    fn a_late_flight_goes_to_two_topics_and_an_unknown_airport_to_a_third() {
        let mut driver =
            TestDriver::new(pipeline(&Args::nowhere())).expect("the settings are allowed");
        let flight = |delay: i32, to: &str| {
            format!(
                r#"{{"date":"2001/01/01 01:39","delay":{delay},"distance":256,"origin":"LAS","destination":"{to}"}}"#
            )
        };
        driver.feed("flights", Some("LAS-PHX"), Some(&flight(60, "PHX")));
        driver.feed("flights", Some("LAS-PHX"), Some(&flight(61, "PHX")));
        driver.feed("flights", Some("LAS-???"), Some(&flight(1, "???")));
        driver.run().expect("nothing stops it");
        let topics: Vec<String> =
            driver.outputs().iter().map(|message| message.topic.to_string()).collect();
        assert_eq!(topics, ["flights-enriched", "flights-late", "flights-enriched"]);
        assert_eq!(driver.dead_letters().len(), 1);
        let leg: Leg = serde_json::from_slice(driver.outputs()[1].value.as_ref().expect("a value"))
            .expect("a leg");
        assert_eq!((&*leg.from, &*leg.to), ("Las Vegas, NV", "Phoenix, AZ"));
    }
}
