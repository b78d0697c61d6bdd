//! Flights and the airports between which they go.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// 20,000 flights, one JSON object a line.
pub const FLIGHTS: &str = include_str!("../data/flights.jsonl");
/// 3,376 airports.
const AIRPORTS: &str = include_str!("../data/airports.csv");

/// A flight as it stands in the topic.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub struct Flight {
    /// When it left, in local time: `2001/01/01 00:47`.
    pub date: String,
    /// Minutes late; negative is early.
    pub delay: i32,
    /// Miles.
    pub distance: i64,
    /// IATA code.
    pub origin: String,
    /// IATA code.
    pub destination: String,
}

/// What the look-up table knows of an airport.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Airport {
    /// Its city.
    pub city: String,
    /// The city's state, two letters.
    pub state: String,
}

impl Airport {
    /// City and state: `Phoenix, AZ`.
    pub fn place(&self) -> String {
        format!("{}, {}", self.city, self.state)
    }
}

/// The look-up table, by IATA code.
#[derive(Clone, Debug)]
pub struct Airports(HashMap<String, Airport>);

impl Airports {
    /// The table of the Federal Aviation Administration.
    ///
    /// # Panics
    /// If the file that was built in is not as it was when this was written.
    pub fn load() -> Self {
        let rows = AIRPORTS.lines().skip(1).map(|line| {
            let cells = cells_of(line);
            let [iata, _name, city, state, ..] = cells.as_slice() else {
                panic!("airports.csv has a line of {} cells", cells.len());
            };
            (iata.clone(), Airport { city: city.clone(), state: state.clone() })
        });
        Self(rows.collect())
    }

    /// The airport of this code. A few have no city in the table (it says `NA`): they are as
    /// unknown as those that are not in it.
    ///
    /// # Errors
    /// If it is unknown.
    pub fn find(&self, iata: &str) -> Result<&Airport, UnknownAirport> {
        let found = self.0.get(iata).filter(|airport| airport.city != "NA");
        found.ok_or_else(|| UnknownAirport(iata.to_owned()))
    }

    /// How many airports there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An airport that the table does not know, or not well enough.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownAirport(String);

impl std::fmt::Display for UnknownAirport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the airport {} is unknown", self.0)
    }
}

impl std::error::Error for UnknownAirport {}

/// The cells of a line of CSV; cells that hold a comma are in double quotes.
fn cells_of(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().expect("there is always a cell").push(c),
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_airport_is_read() {
        let airports = Airports::load();
        assert_eq!(airports.len(), 3_376);
        assert_eq!(airports.find("PHX").map(Airport::place), Ok("Phoenix, AZ".to_owned()));
        assert_eq!(airports.find("MQT"), Err(UnknownAirport("MQT".to_owned())));
        assert_eq!(airports.find("???"), Err(UnknownAirport("???".to_owned())));
    }

    #[test]
    fn a_quoted_cell_may_hold_a_comma() {
        assert_eq!(cells_of("a,\"b, c\",,d"), ["a", "b, c", "", "d"]);
    }

    #[test]
    fn every_flight_is_read() {
        let flights: Vec<Flight> =
            FLIGHTS.lines().map(|line| serde_json::from_str(line).expect("a flight")).collect();
        assert_eq!(flights.len(), 20_000);
        assert_eq!(flights.iter().map(|flight| flight.distance).sum::<i64>(), 14_476_934);
    }
}
