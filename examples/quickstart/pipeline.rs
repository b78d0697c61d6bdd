//! The job: what is done with one flight, and where the result goes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate::prelude::*;
use tidegate::sink::TransactionalSink;
use tidegate_examples::flights::{Airports, Flight, UnknownAirport};
use tidegate_kafka::{Kafka, KafkaSource};
use tidegate_sqlite::Table;

use crate::store::{Names, Store};

/// What the parent tells the child.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Task {
    pub(crate) kafka: String,
    pub(crate) broker: Broker,
    pub(crate) topic: String,
    /// The name of the pipeline: the consumer group, and the key of its stored progress.
    pub(crate) group: String,
    pub(crate) store: Store,
    pub(crate) work_us: u64,
}

/// Which kind of Kafka it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub(crate) enum Broker {
    /// In the parent process.
    Embedded,
    /// A server.
    Real,
}

/// A flight with the names of its places.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Leg {
    pub(crate) flight: Flight,
    pub(crate) origin: String,
    pub(crate) destination: String,
}

/// Flights become legs; a flight from or to an unknown airport becomes a dead letter.
pub(crate) fn pipeline<S>(task: &Task, sink: S) -> Job<Leg>
where
    S: TransactionalSink<Output = Leg>,
{
    let airports = Airports::load();
    let work = Duration::from_micros(task.work_us);
    Pipeline::new(&task.group)
        .from(source(task))
        .decode(Json::<Flight>::new())
        .try_map(move |record| {
            std::thread::sleep(work);
            enrich(&airports, &record.value)
        })
        .instance("quickstart")
        .threads(4)
        .order(Order::ByPartition)
        .on_failure(Retry::never().then_dead_letter())
        .commit_interval(Duration::from_millis(50))
        .stop_max(Duration::from_secs(5))
        .exactly_once(sink)
}

fn source(task: &Task) -> KafkaSource {
    let source = Kafka::connect(&task.kafka).allow_plaintext().source(&*task.topic);
    match task.broker {
        Broker::Real => source,
        // The embedded Kafka waits for all of this, see `tidegate_kafka::testing`.
        Broker::Embedded => source
            .session_timeout(Duration::from_millis(1_100))
            .heartbeat_interval(Duration::from_millis(100))
            .fetch_wait_max(Duration::from_millis(10)),
    }
}

fn enrich(airports: &Airports, flight: &Flight) -> Result<Leg, UnknownAirport> {
    Ok(Leg {
        origin: airports.find(&flight.origin)?.place(),
        destination: airports.find(&flight.destination)?.place(),
        flight: flight.clone(),
    })
}

/// One row a flight, with the coordinates of its record. There is no unique constraint: a
/// duplicate would show, not fail.
pub(crate) fn flights(names: &Names) -> Table<Leg> {
    Table::new(&names.flights)
        .text("departed", |leg: &Leg| &leg.flight.date)
        .text("origin", |leg| &leg.flight.origin)
        .text("origin_city", |leg| &leg.origin)
        .text("destination", |leg| &leg.flight.destination)
        .text("destination_city", |leg| &leg.destination)
        .int8("miles", |leg| leg.flight.distance)
        .int4("delay", |leg| leg.flight.delay)
        .lineage()
}

/// One row a route; every flight adds to it, so a flight that counted twice would show here too.
pub(crate) fn routes(names: &Names) -> Table<Leg> {
    Table::new(&names.routes)
        .text("origin", |leg: &Leg| &leg.flight.origin)
        .text("destination", |leg| &leg.flight.destination)
        .int8_add("flights", |_| 1)
        .int8_add("miles", |leg| leg.flight.distance)
        .int8_add("delay", |leg| leg.flight.delay.into())
        .upsert_on(["origin", "destination"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate::testing::TestDriver;
    use tidegate_sqlite::Sqlite;

    fn driver() -> TestDriver<Leg> {
        let task = Task {
            kafka: "127.0.0.1:9092".into(),
            broker: Broker::Embedded,
            topic: "flights".into(),
            group: "quickstart".into(),
            store: Store::Sqlite("never-opened.sqlite".into()),
            work_us: 0,
        };
        let names = task.store.names();
        let sink = Sqlite::open("never-opened.sqlite").into(flights(&names)).into(routes(&names));
        TestDriver::new(pipeline(&task, sink)).expect("the settings are allowed")
    }

    #[test]
    fn a_flight_gets_the_names_of_its_places() {
        let mut driver = driver();
        let flight = r#"{"date":"2001/01/01 01:39","delay":4,"distance":256,"origin":"LAS","destination":"PHX"}"#;
        driver.feed("flights", Some("LAS-PHX"), Some(flight));
        driver.run().expect("nothing stops it");
        let legs = driver.outputs();
        assert_eq!(legs.len(), 1);
        assert_eq!((&*legs[0].origin, &*legs[0].destination), ("Las Vegas, NV", "Phoenix, AZ"));
        assert_eq!(legs[0].flight.distance, 256);
    }

    #[test]
    fn what_is_no_flight_between_known_airports_becomes_a_dead_letter() {
        let mut driver = driver();
        for odd in [
            r#"{"date":"2001/01/01 01:39","delay":4,"distance":256,"origin":"LAS","destination":"???"}"#,
            r#"{"date":"2001/01/01 01:39","delay":4,"distance":256,"origin":"LAS"}"#,
            "not JSON",
        ] {
            driver.feed("flights", None, Some(odd));
        }
        driver.run().expect("nothing stops it");
        let reasons: Vec<&str> =
            driver.dead_letters().iter().map(|(_, letter)| letter.reason.as_str()).collect();
        assert_eq!(reasons, ["process", "decode", "decode"]);
        assert_eq!(driver.progress("flights", 0), Some(3));
        assert!(driver.outputs().is_empty());
    }
}
