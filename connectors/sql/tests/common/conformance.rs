//! What both SQL sinks bring to the conformance kit.

use tidegate::record::{Coordinates, Offset, PartitionId};
use tidegate::testing::conformance::{LeftOpen, View};

use super::{Item, Lab, item};

/// Makes the table of results; a negative id is refused by the database.
pub(crate) async fn prepare<L: Lab>(lab: &L) {
    lab.run("CREATE TABLE items (id bigint CHECK (id >= 0), text text, amount bigint)").await;
}

pub(crate) fn output(number: u64) -> Item {
    item(i64::try_from(number).expect("a small number"), "text", 1)
}

pub(crate) fn refused_output() -> Item {
    item(-1, "refused", 1)
}

/// Everything in one statement, which is one snapshot.
pub(crate) async fn view<L: Lab>(lab: &L) -> View {
    let (letters, progress) = (lab.books("dead_letter"), lab.books("progress"));
    if !lab.has(&progress).await {
        return View::default();
    }
    let rows = lab
        .rows(&format!(
            "SELECT 'output' AS kind, '' AS topic, 0 AS partition, id AS number FROM items \
             UNION ALL SELECT 'dead', topic, partition, \"offset\" FROM {letters} \
             UNION ALL SELECT 'progress', topic, partition, next_offset FROM {progress}"
        ))
        .await;
    let mut view = View::default();
    for row in rows {
        let columns: Vec<&str> = row.split('|').collect();
        let [kind, topic, partition, number] = columns[..] else { panic!("four columns: {row}") };
        let id = PartitionId::new(topic, partition.parse().expect("a number"));
        let offset = || Offset::new(number.parse().expect("an offset"));
        match kind {
            "output" => view.outputs.push(number.parse().expect("a result's number")),
            "dead" => view.dead.push(Coordinates { partition: id, offset: offset() }),
            _ => drop(view.progress.insert(id, offset())),
        }
    }
    view
}

/// The statements of a transaction that has done everything but its commit.
pub(crate) fn open_statements<L: Lab>(lab: &L, left: &LeftOpen<Item>) -> [String; 2] {
    let LeftOpen { partition, first, next, output } = left;
    let progress = lab.books("progress");
    [
        format!("INSERT INTO items VALUES ({}, '{}', {})", output.id, output.text, output.amount),
        format!(
            "UPDATE {progress} SET next_offset = {} WHERE topic = '{}' AND partition = {} \
             AND next_offset = {}",
            next.get(),
            partition.topic(),
            partition.index(),
            first.get()
        ),
    ]
}
