//! Offsets as CSV, as `kafka-consumer-groups --export` writes them and `--from-file` reads them.

use std::collections::HashSet;
use std::path::Path;

use tidegate::record::{Offset, PartitionId};
use tidegate::source::Position;

use crate::failure::Failure;

/// `topic,partition,offset` lines. Names of topics need no quotes: they have no commas.
pub(crate) fn write(positions: &[Position]) -> String {
    let line = |position: &Position| {
        let Position { partition, next } = position;
        format!("{},{},{next}\n", partition.topic(), partition.index())
    };
    positions.iter().map(line).collect()
}

/// Reads a file; lines may begin with the group, which must then be this one.
pub(crate) fn read(path: &Path, group: &str) -> Result<Vec<Position>, Failure> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))?;
    parse(&text, group)
        .map_err(|problem| Failure::usage(format_args!("{}: {problem}", path.display())))
}

fn parse(text: &str, group: &str) -> Result<Vec<Position>, String> {
    let (mut positions, mut seen) = (Vec::new(), HashSet::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let position =
            parse_line(line, group).map_err(|problem| format!("line {number}: {problem}"))?;
        if !seen.insert(position.partition.clone()) {
            return Err(format!("line {number}: {} is there twice", position.partition));
        }
        positions.push(position);
    }
    if positions.is_empty() {
        return Err("it has no lines".to_owned());
    }
    Ok(positions)
}

fn parse_line(line: &str, group: &str) -> Result<Position, String> {
    let fields: Vec<&str> = line.split(',').map(|field| field.trim().trim_matches('"')).collect();
    let (topic, partition, offset) = match fields[..] {
        [topic, partition, offset] => (topic, partition, offset),
        [named, topic, partition, offset] if named == group => (topic, partition, offset),
        [named, _, _, _] => return Err(format!("it is of group {named}, not of {group}")),
        _ => return Err("it is not topic,partition,offset".to_owned()),
    };
    if topic.is_empty() {
        return Err("it has no topic".to_owned());
    }
    let partition = partition.parse().ok().filter(|partition: &i32| *partition >= 0);
    let partition = partition.ok_or("its partition is no number from 0")?;
    let next = offset.parse().ok().and_then(Offset::try_new);
    let next = next.ok_or("its offset is no number from 0")?;
    Ok(Position { partition: PartitionId::new(topic, partition), next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let text = "orders,0,17\norders,12,0\n";
        assert_eq!(write(&parse(text, "g").unwrap()), text);
    }

    #[test]
    fn lines_may_name_the_group_as_kafkas_own_export_does() {
        let positions = parse("\"g\",\"orders\",3,4\n\n", "g").unwrap();
        assert_eq!(write(&positions), "orders,3,4\n");
    }

    #[test]
    fn a_bad_line_is_named_with_its_problem() {
        for (text, problem) in [
            ("", "no lines"),
            ("orders,1", "line 1: it is not topic,partition,offset"),
            ("orders,0,1\norders,x,2", "line 2: its partition"),
            ("orders,-1,2", "line 1: its partition"),
            ("orders,1,-2", "line 1: its offset"),
            ("other,orders,1,2", "line 1: it is of group other, not of g"),
            ("orders,1,2\norders,1,3", "line 2: orders/1 is there twice"),
            (",1,2", "line 1: it has no topic"),
        ] {
            let found = parse(text, "g").unwrap_err();
            assert!(found.contains(problem), "{text:?}: {found}");
        }
    }
}
