//! Earthquakes from Kafka into PostgreSQL, one row each however often the feed repeats them.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use tidegate::prelude::*;
use tidegate::sink::TransactionalSink;
use tidegate_examples::args::Args;
use tidegate_examples::postgres::Database;
use tidegate_examples::show::{Checks, Table as Shown};
use tidegate_examples::{kafka, run};
use tidegate_postgres::{Postgres, Table};

/// A week of seismic events, one GeoJSON feature a line.
const FEATURES: &str = include_str!("../data/earthquakes.jsonl");

const TABLES: &str = "
    CREATE SCHEMA IF NOT EXISTS quakes;
    CREATE TABLE IF NOT EXISTS quakes.events (
        id      text PRIMARY KEY,
        mag     double precision NOT NULL,
        place   text NOT NULL,
        at      timestamptz NOT NULL,
        lon     double precision NOT NULL,
        lat     double precision NOT NULL,
        depth   double precision NOT NULL, -- kilometres
        felt    integer                    -- reports by people
    )";

#[derive(Deserialize)]
struct Feature {
    id: String,
    properties: Properties,
    geometry: Geometry,
}

#[derive(Deserialize)]
struct Properties {
    mag: f64,
    place: String,
    /// Milliseconds since 1970.
    time: i64,
    felt: Option<i32>,
    r#type: String,
}

#[derive(Deserialize)]
struct Geometry {
    /// Longitude, latitude, depth.
    coordinates: [f64; 3],
}

#[derive(Clone, Debug)]
struct Quake {
    id: String,
    mag: f64,
    place: String,
    at: DateTime<Utc>,
    coordinates: [f64; 3],
    felt: Option<i32>,
}

/// Explosions and blasts are left out; a feature that cannot be read becomes a dead letter.
fn pipeline<S>(args: &Args, sink: S) -> Job<Quake>
where
    S: TransactionalSink<Output = Quake>,
{
    let work = args.work();
    Pipeline::new(args.named("quakes", ""))
        .instance(&args.instance)
        .from(args.kafka().source(args.named("quakes", "")))
        .decode(Json::<Feature>::new())
        .filter(|record| record.value.properties.r#type == "earthquake")
        .try_map(move |record| {
            work();
            quake(&record.value)
        })
        .order(Order::ByKey)
        .on_failure(Retry::never().then_dead_letter())
        .exactly_once(sink)
}

fn quake(feature: &Feature) -> Result<Quake, &'static str> {
    let Properties { mag, place, time, felt, .. } = &feature.properties;
    Ok(Quake {
        id: feature.id.clone(),
        mag: *mag,
        place: place.clone(),
        at: DateTime::from_timestamp_millis(*time).ok_or("the time is out of range")?,
        coordinates: feature.geometry.coordinates,
        felt: *felt,
    })
}

/// The last revision of an event wins.
fn table() -> Table<Quake> {
    Table::new("quakes.events")
        .text("id", |quake: &Quake| &quake.id)
        .float8("mag", |quake| quake.mag)
        .text("place", |quake| &quake.place)
        .timestamptz("at", |quake| quake.at)
        .float8("lon", |quake| quake.coordinates[0])
        .float8("lat", |quake| quake.coordinates[1])
        .float8("depth", |quake| quake.coordinates[2])
        .int4_opt("felt", |quake| quake.felt)
        .upsert_on(["id"])
}

#[tokio::main]
async fn main() -> ExitCode {
    run::exit(example(&Args::read()).await)
}

async fn example(args: &Args) -> Result<()> {
    let job = pipeline(args, Postgres::connect(&args.postgres()).setup(TABLES).into(table()));
    if args.explained(&job) {
        return Ok(());
    }
    let topic = args.named("quakes", "");
    let mut database = Database::connect(&args.postgres()).await?;
    kafka::load(&args.bootstrap(), &topic, 3, features()).await?;
    let summary = run::run(job, args, &topic).await?;
    println!("{summary}\n");
    if args.drain { report(&mut database).await } else { Ok(()) }
}

/// Whoever polls a feed gets the same events again and again: the topic holds each of them twice.
fn features() -> impl Iterator<Item = (String, &'static str)> {
    FEATURES.lines().chain(FEATURES.lines()).map(|line| {
        // The id is the last field of a feature.
        let id = line.rsplit('"').nth(1).unwrap_or_default();
        (id.to_owned(), line)
    })
}

async fn report(database: &mut Database) -> Result<()> {
    let (rows, felt, hundredths): (i64, i64, i64) = database
        .row(
            "SELECT count(*), sum(felt)::bigint, round(sum(mag) * 100)::bigint FROM quakes.events",
            &[],
        )
        .await?;
    Checks::default()
        .fact("records in the topic", 3_414)
        .equal("rows", rows, 1_679)
        .equal("reports by people", felt, 2_885)
        .equal("sum of magnitudes", hundredths, 257_271)
        .note("hundredths")
        .verify("Each earthquake once (quakes.events)")?;
    let strongest: Vec<(f64, String, String, f64)> = database
        .rows(
            "SELECT mag, place, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), depth \
             FROM quakes.events ORDER BY mag DESC, id LIMIT 5",
            &[],
        )
        .await?;
    let mut table = Shown::new(["strongest", "place", "UTC", "km deep"]);
    for (mag, place, at, depth) in strongest {
        table.row([format!("{mag:.1}"), place, at, format!("{depth:.1}")]);
    }
    print!("{table}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate::testing::TestDriver;

    #[test]
    fn earthquakes_are_kept_and_blasts_are_not() {
        let sink = Postgres::connect("postgres://127.0.0.1:1/nowhere").into(table());
        let mut driver =
            TestDriver::new(pipeline(&Args::nowhere(), sink)).expect("the settings are allowed");
        for (id, feature) in features().take(FEATURES.lines().count()) {
            driver.feed("quakes", Some(&id), Some(feature));
        }
        driver.feed("quakes", None, Some(r#"{"id":"x","properties":{"mag":null}}"#));
        driver.run().expect("nothing stops it");
        assert_eq!(driver.outputs().len(), 1_679);
        assert_eq!(driver.dead_letters().len(), 1);
        let first = &driver.outputs()[0];
        assert_eq!((&*first.id, first.mag, first.felt), ("ci37868143", 2.0, None));
    }
}
