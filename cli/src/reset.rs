//! `offsets reset` and `offsets import`: plan, show, and do it if told to.

use std::collections::HashMap;
use std::path::Path;

use tidegate::record::PartitionId;
use tidegate::source::Position;

use crate::args::{Import, Reset};
use crate::csv;
use crate::failure::Failure;
use crate::scenario::{Known, Log, Scenario, Scope, Target, target};
use crate::store::{Store, needs_cluster};
use crate::table::{Cell, render};

/// What to do with a plan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Print,
    Export,
    Execute,
}

/// Moves the stored offsets of a group.
pub(crate) async fn run(args: Reset) -> Result<(), Failure> {
    let scopes = args.topic.iter().map(|topic| Scope::parse(topic));
    let scopes: Vec<Scope> = scopes.collect::<Result<_, _>>().map_err(Failure::usage)?;
    let then = match (args.execute, args.export) {
        (true, _) => Then::Execute,
        (false, true) => Then::Export,
        (false, false) => Then::Print,
    };
    let mut store = Store::open(&args.place).await?;
    if !store.knows_cluster() && (args.to_earliest || args.to_latest) {
        return Err(needs_cluster("the end of a log"));
    }
    let plan = match &args.from_file {
        Some(path) => given(&mut store, path, &args.group).await?,
        None => {
            let chosen = chosen(&mut store, &args.group, &scopes).await?;
            asked_for(&store, &args, &chosen).await?
        }
    };
    conclude(&mut store, &args.group, plan, then).await
}

/// Stores what a file says.
pub(crate) async fn import(args: Import) -> Result<(), Failure> {
    let mut store = Store::open(&args.place).await?;
    let plan = given(&mut store, &args.from_file, &args.group).await?;
    let then = if args.execute { Then::Execute } else { Then::Print };
    conclude(&mut store, &args.group, plan, then).await
}

/// What is known of the partitions that were asked for.
async fn chosen(store: &mut Store, group: &str, scopes: &[Scope]) -> Result<Vec<Known>, Failure> {
    let stored = stored(store, group).await?;
    let mut partitions: Vec<PartitionId> = Vec::new();
    if scopes.is_empty() {
        partitions.extend(stored.keys().cloned());
    }
    for scope in scopes {
        let there = match store.partitions(&scope.topic).await? {
            Some(there) => there,
            // Without a cluster only what is stored is known to be there.
            None => stored.keys().cloned().collect(),
        };
        let held: Vec<PartitionId> =
            there.into_iter().filter(|partition| scope.holds(partition)).collect();
        let missing = scope
            .partitions
            .iter()
            .find(|index| !held.iter().any(|partition| partition.index() == **index));
        if let Some(index) = missing {
            return Err(Failure::failed(format_args!("{}/{index} does not exist", scope.topic)));
        }
        partitions.extend(held);
    }
    partitions.sort();
    partitions.dedup();
    if partitions.is_empty() {
        return Err(Failure::failed(format_args!("nothing is stored for group {group}")));
    }
    known(store, &partitions, &stored).await
}

async fn stored(store: &mut Store, group: &str) -> Result<HashMap<PartitionId, i64>, Failure> {
    let rows = store.stored(group).await?;
    Ok(rows.into_iter().map(|row| (row.partition, row.next)).collect())
}

async fn known(
    store: &Store,
    partitions: &[PartitionId],
    stored: &HashMap<PartitionId, i64>,
) -> Result<Vec<Known>, Failure> {
    let logs: HashMap<PartitionId, Log> = store.logs(partitions).await?;
    let known = |partition: &PartitionId| {
        let log = logs.get(partition).copied();
        if store.knows_cluster() && log.is_none() {
            return Err(Failure::failed(format_args!("{partition} does not exist")));
        }
        Ok(Known { partition: partition.clone(), stored: stored.get(partition).copied(), log })
    };
    partitions.iter().map(known).collect()
}

/// The plan of the scenario that was asked for.
async fn asked_for(store: &Store, args: &Reset, known: &[Known]) -> Result<Vec<Target>, Failure> {
    let time = match (args.to_datetime, args.by_duration) {
        (Some(moment), _) => Some(moment.timestamp()),
        (None, Some(past)) => Some(past.before(chrono::Utc::now())),
        (None, None) => None,
    };
    let scenarios: Vec<Scenario> = match time {
        Some(time) => {
            let partitions: Vec<PartitionId> =
                known.iter().map(|known| known.partition.clone()).collect();
            let found = store.offsets_at(&partitions, time).await?;
            found.into_iter().map(|offset| Scenario::To(offset.get())).collect()
        }
        None => vec![scenario(args); known.len()],
    };
    let plan = scenarios.into_iter().zip(known).map(|(scenario, known)| target(scenario, known));
    plan.collect::<Result<_, _>>().map_err(Failure::failed)
}

/// The scenario that needs no time; the arguments see to it that there is exactly one.
fn scenario(args: &Reset) -> Scenario {
    match (args.to_offset, args.shift_by) {
        (Some(offset), _) => Scenario::To(offset),
        (None, Some(records)) => Scenario::ShiftBy(records),
        (None, None) if args.to_earliest => Scenario::Earliest,
        (None, None) if args.to_latest => Scenario::Latest,
        (None, None) => Scenario::Current,
    }
}

/// The plan that a file gives.
async fn given(store: &mut Store, path: &Path, group: &str) -> Result<Vec<Target>, Failure> {
    let positions = csv::read(path, group)?;
    let stored = stored(store, group).await?;
    let partitions: Vec<PartitionId> =
        positions.iter().map(|position| position.partition.clone()).collect();
    let known = known(store, &partitions, &stored).await?;
    let plan = positions.iter().zip(&known);
    let plan = plan.map(|(position, known)| target(Scenario::To(position.next.get()), known));
    plan.collect::<Result<_, _>>().map_err(Failure::failed)
}

async fn conclude(
    store: &mut Store,
    group: &str,
    plan: Vec<Target>,
    then: Then,
) -> Result<(), Failure> {
    if then == Then::Export {
        print!("{}", csv::write(&positions(plan)));
        return Ok(());
    }
    print!("{}", table(group, &plan));
    let in_use = store.in_use(group).await?;
    let remedy = "stop the pipeline first; a running one is moved by its own `seek`";
    match (then, in_use) {
        (Then::Execute, Some(why)) => {
            Err(Failure::failed(format_args!("nothing was changed: {why} ({remedy})")))
        }
        (Then::Execute, None) => {
            let count = plan.len();
            store.set(group, positions(plan)).await?;
            println!("{count} offsets were stored");
            Ok(())
        }
        (_, in_use) => {
            println!("dry run: nothing was changed; add --execute to do it");
            if let Some(why) = in_use {
                println!("it would be refused now: {why} ({remedy})");
            }
            Ok(())
        }
    }
}

fn positions(plan: Vec<Target>) -> Vec<Position> {
    plan.into_iter().map(|t| Position { partition: t.partition, next: t.next }).collect()
}

fn table(group: &str, plan: &[Target]) -> String {
    let noted = plan.iter().any(|target| target.note.is_some());
    let cells = |target: &Target| {
        [
            Cell::word(group),
            Cell::word(target.partition.topic()),
            Cell::Number(target.partition.index().into()),
            Cell::number(target.stored),
            Cell::Number(target.next.get()),
            Cell::number(target.stored.map(|stored| target.next.get() - stored)),
        ]
    };
    let head = ["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "NEW-OFFSET", "SHIFT"];
    if !noted {
        let rows: Vec<_> = plan.iter().map(cells).collect();
        return render(head, &rows);
    }
    let rows: Vec<[Cell; 7]> = plan
        .iter()
        .map(|target| {
            let [a, b, c, d, e, f] = cells(target);
            [a, b, c, d, e, f, Cell::word(target.note.unwrap_or_default())]
        })
        .collect();
    let [a, b, c, d, e, f] = head;
    render([a, b, c, d, e, f, "NOTE"], &rows)
}
