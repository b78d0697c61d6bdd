//! What is in the database, counted by plain SQL.

use anyhow::Result;
use tidegate_examples::show::{Checks, Table, thousands};

use crate::input::Sent;
use crate::store::{Database, Store};

/// Rows and progress at the moment of a kill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Agreement {
    pub(crate) progress: i64,
    /// Rows and dead letters.
    results: i64,
}

/// Looks at rows and progress, in one query: a server may be ending a commit of the dead process.
pub(crate) async fn agreement(database: &mut Database) -> Result<Agreement> {
    let (results, progress) = database
        .row(
            "SELECT (SELECT count(*) FROM {flights}) + (SELECT count(*) FROM {dead_letter}), \
             (SELECT CAST(coalesce(sum(next_offset), 0) AS bigint) FROM {progress})",
        )
        .await?;
    Ok(Agreement { progress, results })
}

/// What was found at the end.
#[derive(Debug)]
struct Found {
    rows: i64,
    dead: i64,
    /// Different coordinates among rows and dead letters.
    different: i64,
    row_miles: i64,
    dead_miles: i64,
    routes: i64,
    /// Routes whose totals are not those of their rows.
    wrong_routes: i64,
    progress: i64,
}

async fn look(database: &mut Database) -> Result<Found> {
    let (rows, row_miles) = database
        .row("SELECT count(*), CAST(coalesce(sum(miles), 0) AS bigint) FROM {flights}")
        .await?;
    let (dead, dead_miles) = database
        .row("SELECT count(*), CAST(coalesce(sum({dead_miles}), 0) AS bigint) FROM {dead_letter}")
        .await?;
    let (different,) = database
        .row(
            "SELECT count(*) FROM (SELECT source_partition, source_offset FROM {flights} \
             UNION SELECT partition, \"offset\" FROM {dead_letter}) AS coordinates",
        )
        .await?;
    let (routes,) = database.row("SELECT count(*) FROM {routes}").await?;
    // Both ways: a total without rows is as wrong as rows without a total.
    let (counted, total) = (
        "SELECT origin, destination, count(*), sum(miles), sum(delay) FROM {flights} \
         GROUP BY origin, destination",
        "SELECT origin, destination, flights, miles, delay FROM {routes}",
    );
    let (wrong_routes,) = database
        .row(&format!(
            "SELECT (SELECT count(*) FROM ({counted} EXCEPT {total}) AS missing) \
             + (SELECT count(*) FROM ({total} EXCEPT {counted}) AS added)"
        ))
        .await?;
    let progress = database.done().await;
    Ok(Found { rows, dead, different, row_miles, dead_miles, routes, wrong_routes, progress })
}

/// Prints what is there and whether it agrees with what was sent.
pub(crate) async fn print(
    database: &mut Database,
    store: &Store,
    sent: &Sent,
    agreements: &[Agreement],
) -> Result<bool> {
    let found = look(database).await?;
    let agreed = agreements.iter().filter(|kill| kill.progress == kill.results).count();
    let duplicates = found.rows + found.dead - found.different;
    let miles = found.row_miles + found.dead_miles;
    let checks = Checks::default()
        .fact("records sent", sent.records)
        .fact("rows stored", found.rows)
        .fact("dead letters", found.dead)
        .equal("duplicates", duplicates, 0)
        .equal("lost", sent.records - found.different, 0)
        .fact("miles sent", sent.miles)
        .equal("miles stored", miles, sent.miles)
        .note("rows and dead letters")
        .equal("wrong route totals", found.wrong_routes, 0)
        .note(format_args!("of {} routes", thousands(found.routes)))
        .equal("progress", found.progress, sent.records)
        .equal("rows = progress", i64::try_from(agreed)?, i64::try_from(agreements.len())?)
        .note("kills, looked at right after each");
    println!("\nWhat plain SQL finds ({})\n\n{checks}", store.describe());
    letters(database).await?;
    busiest(database).await?;
    Ok(checks.agree())
}

/// The dead letters, with where they came from and why.
async fn letters(database: &mut Database) -> Result<()> {
    let letters: Vec<(String, i32, i64, String)> = database
        .rows("SELECT topic, partition, \"offset\", error FROM {dead_letter} ORDER BY 1, 2, 3")
        .await?;
    for (topic, partition, offset, error) in letters.iter().take(5) {
        println!("  dead letter {topic}/{partition}/{offset}: {error}");
    }
    if letters.len() > 5 {
        println!("  … and {} more", thousands(i64::try_from(letters.len() - 5)?));
    }
    println!();
    Ok(())
}

/// The routes with the most flights.
async fn busiest(database: &mut Database) -> Result<()> {
    let routes: Vec<(String, String, i64, i64, i64)> = database
        .rows(
            "SELECT min(f.origin_city), min(f.destination_city), min(r.flights), min(r.miles), \
             min(r.delay) FROM {routes} r JOIN {flights} f ON f.origin = r.origin \
             AND f.destination = r.destination GROUP BY r.origin, r.destination \
             ORDER BY 3 DESC, r.origin, r.destination LIMIT 5",
        )
        .await?;
    let mut table = Table::new(["busiest routes", "", "flights", "miles", "minutes late"]);
    for (origin, destination, flights, miles, delay) in routes {
        let late = format!("{:.1}", delay as f64 / flights as f64);
        table.row([origin, destination, thousands(flights), thousands(miles), late]);
    }
    println!("{table}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Replace;

    /// What the sink would have stored of three records: two rows and a dead letter.
    const STORED: &str = "
        CREATE TABLE tidegate_progress (next_offset integer);
        CREATE TABLE tidegate_dead_letter (topic text, partition integer, \"offset\" integer,
            value blob, error text);
        INSERT INTO tidegate_progress VALUES (2), (1);
        INSERT INTO tidegate_dead_letter VALUES ('t', 1, 0, CAST('{\"distance\":5}' AS blob), 'x');
        INSERT INTO flights VALUES ('d', 'A', 'a', 'B', 'b', 7, 1, 't', 0, 0, 0),
            ('d', 'A', 'a', 'B', 'b', 7, 2, 't', 0, 1, 0);
        INSERT INTO routes VALUES ('A', 'B', 2, 14, 3);";

    async fn agrees_after(statement: &str) -> Result<bool> {
        let directory = tempfile::tempdir()?;
        let store = Store::Sqlite(directory.path().join("audit.sqlite"));
        let mut database = store.create(Replace::No).await?;
        database.execute(STORED).await?;
        database.execute(statement).await?;
        let look = agreement(&mut database).await?;
        let sent = Sent { records: 3, miles: 19 };
        print(&mut database, &store, &sent, &[look]).await
    }

    #[tokio::test]
    async fn what_is_stored_once_agrees() -> Result<()> {
        assert!(agrees_after("SELECT 1").await?);
        Ok(())
    }

    #[tokio::test]
    async fn whatever_is_lost_doubled_or_wrong_is_found() -> Result<()> {
        for wrong in [
            // One line each, of rows, dead letters, totals and progress.
            "INSERT INTO flights SELECT * FROM flights WHERE source_offset = 0",
            "DELETE FROM flights WHERE source_offset = 0",
            "UPDATE flights SET source_offset = 1",
            "UPDATE flights SET miles = 8",
            "INSERT INTO tidegate_dead_letter SELECT * FROM tidegate_dead_letter",
            "DELETE FROM tidegate_dead_letter",
            "UPDATE routes SET flights = 3",
            "DELETE FROM routes",
            "INSERT INTO routes VALUES ('C', 'D', 0, 0, 0)",
            "UPDATE tidegate_progress SET next_offset = 3",
            "DELETE FROM tidegate_progress",
        ] {
            assert!(!agrees_after(wrong).await?, "{wrong}");
        }
        Ok(())
    }
}
