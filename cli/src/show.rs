//! `offsets show` and `offsets export`: what is stored.

use chrono::{DateTime, SecondsFormat, Utc};
use tidegate::record::Offset;
use tidegate::source::Position;

use crate::args::{Export, Show};
use crate::csv;
use crate::failure::Failure;
use crate::scenario::Scope;
use crate::store::{Row, Store};
use crate::table::{Cell, render};

/// Prints stored offsets, the ends of logs and the lag.
pub(crate) async fn run(args: Show) -> Result<(), Failure> {
    let mut store = Store::open(&args.place).await?;
    let groups = match &args.group {
        Some(group) => vec![group.clone()],
        None => store.groups().await?,
    };
    if groups.is_empty() {
        println!("nothing is stored");
    }
    for (number, group) in groups.iter().enumerate() {
        if number > 0 {
            println!();
        }
        show(&mut store, group).await?;
    }
    Ok(())
}

async fn show(store: &mut Store, group: &str) -> Result<(), Failure> {
    let rows = store.stored(group).await?;
    let state = match store.in_use(group).await? {
        Some(why) => format!("in use: {why}"),
        None if store.knows_owners() => "not in use".to_owned(),
        None => "whether it is in use is not known; add --kafka HOST:PORT to ask".to_owned(),
    };
    println!("group {group}, {state}");
    if rows.is_empty() {
        println!("nothing is stored for it");
        return Ok(());
    }
    let partitions: Vec<_> = rows.iter().map(|row| row.partition.clone()).collect();
    let logs = store.logs(&partitions).await?;
    let cells = |row: &Row| {
        let log = logs.get(&row.partition);
        [
            Cell::word(row.partition.topic()),
            Cell::Number(row.partition.index().into()),
            Cell::Number(row.next),
            Cell::number(log.map(|log| log.start)),
            Cell::number(log.map(|log| log.end)),
            Cell::number(log.map(|log| log.end.saturating_sub(row.next))),
        ]
    };
    let head = ["TOPIC", "PARTITION", "COMMITTED", "LOG-START", "LOG-END", "LAG"];
    if store.is_kafka() {
        let rows: Vec<_> = rows.iter().map(cells).collect();
        print!("{}", render(head, &rows));
        return Ok(());
    }
    let rows: Vec<[Cell; 9]> = rows
        .iter()
        .map(|row| {
            let [topic, partition, committed, start, end, lag] = cells(row);
            let (claims, resets, updated) = match &row.more {
                Some(more) => (
                    Cell::Number(more.claim),
                    Cell::Number(more.resets),
                    Cell::word(
                        DateTime::<Utc>::from(more.updated_at)
                            .to_rfc3339_opts(SecondsFormat::Millis, true),
                    ),
                ),
                None => (Cell::None, Cell::None, Cell::None),
            };
            [topic, partition, committed, start, end, lag, claims, resets, updated]
        })
        .collect();
    let [a, b, c, d, e, f] = head;
    print!("{}", render([a, b, c, d, e, f, "CLAIMS", "RESETS", "UPDATED"], &rows));
    Ok(())
}

/// Prints stored offsets as CSV.
pub(crate) async fn export(args: Export) -> Result<(), Failure> {
    let scopes: Vec<Scope> = args
        .topic
        .iter()
        .map(|topic| Scope::parse(topic))
        .collect::<Result<_, _>>()
        .map_err(Failure::usage)?;
    let mut store = Store::open(&args.place).await?;
    let rows = store.stored(&args.group).await?;
    let chosen = rows
        .into_iter()
        .filter(|row| scopes.is_empty() || scopes.iter().any(|scope| scope.holds(&row.partition)));
    let positions: Vec<Position> = chosen
        .map(|row| match Offset::try_new(row.next) {
            Some(next) => Ok(Position { partition: row.partition, next }),
            None => Err(Failure::failed(format_args!("{}: {} is stored", row.partition, row.next))),
        })
        .collect::<Result<_, _>>()?;
    if positions.is_empty() {
        return Err(Failure::failed(format_args!("nothing is stored for group {}", args.group)));
    }
    let text = csv::write(&positions);
    match &args.to_file {
        None => print!("{text}"),
        Some(path) => std::fs::write(path, text)
            .map_err(|error| Failure::failed(format_args!("{}: {error}", path.display())))?,
    }
    Ok(())
}
