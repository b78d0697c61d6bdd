//! Reads back what the servers hold, with plain clients: topics, tables and stored progress, in the words of
//! [`audit`](crate::audit).
//!
//! Nothing of Tidegate reads here. Whoever calls makes sure that the writers have ended, unless the store can show
//! one moment of itself.

mod java;
mod postgres;
mod sqlite;
mod topic;
mod watch;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use rdkafka::ClientConfig;

use crate::audit::{Evidence, Input, Output, Partition, Source};

pub use java::{agrees_with_java, read_by_java};
pub use topic::{
    Log, Message, group_offsets, open_transactions, open_transactions_end, read_topic,
};
pub use watch::{Look, Watch};

/// What a database holds, seen in one moment.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// The rows of `copied`, in the order in which they came if the table tells.
    pub copied: Vec<Output>,
    /// Whether it does: it has a column `seq` that counts, or is kept in order by the database.
    pub in_order: bool,
    /// The dead letters of the group.
    pub dead: Vec<Output>,
    /// The progress of the group.
    pub progress: BTreeMap<Partition, i64>,
}

/// The tables of a PostgreSQL database, in one snapshot. Tables that are not there are empty.
///
/// # Errors
/// When the database does not answer.
pub async fn read_postgres(url: &str, group: &str) -> Result<Tables> {
    postgres::read(url, group).await
}

/// Creates the table `copied` with a column more than the copier asks for: `seq`, which counts rows as they come.
///
/// # Errors
/// When the database does not answer, or the table exists.
pub async fn create_counted_table(url: &str) -> Result<()> {
    postgres::create_counted_table(url).await
}

/// The tables of a SQLite file, in one snapshot. Tables that are not there are empty, and so is a file that is not there.
///
/// # Errors
/// When the file cannot be read.
pub async fn read_sqlite(path: &Path, group: &str) -> Result<Tables> {
    sqlite::read(path, group).await
}

/// The progress of a group in a PostgreSQL database.
///
/// # Errors
/// When the database does not answer.
pub async fn read_postgres_progress(url: &str, group: &str) -> Result<BTreeMap<Partition, i64>> {
    postgres::read_progress(url, group).await
}

/// The progress of a group in a SQLite file.
///
/// # Errors
/// When the file cannot be read.
pub async fn read_sqlite_progress(path: &Path, group: &str) -> Result<BTreeMap<Partition, i64>> {
    sqlite::read_progress(path, group).await
}

/// The ends of all partitions of these topics, as a reader of committed records sees them.
///
/// # Errors
/// When the broker does not answer.
pub async fn read_ends(client: &ClientConfig, topics: &[&str]) -> Result<BTreeMap<Partition, i64>> {
    let mut ends = BTreeMap::new();
    for topic in topics {
        ends.extend(topic::read_ends(client, topic).await?);
    }
    Ok(ends)
}

/// Every record of the input topics, and their ends.
///
/// # Errors
/// When a topic cannot be read to its end.
pub async fn read_input(client: &ClientConfig, topics: &[&str]) -> Result<Evidence> {
    let mut evidence = Evidence::default();
    for topic in topics {
        let input = |message: Message| {
            let Message { topic, partition, offset, key, value, .. } = message;
            Ok(Input { partition: (topic, partition), offset, key, value })
        };
        let (mut inputs, ends) = topic::read_mapped(client, topic, input).await?;
        inputs.sort_by_key(|input| (input.partition.1, input.offset));
        evidence.ends.extend(ends);
        evidence.inputs.extend(inputs);
    }
    Ok(evidence)
}

/// The outputs that a topic holds, by the header `tidegate-source`.
///
/// # Errors
/// When the topic cannot be read to its end, or a record does not say where it comes from.
pub async fn read_outputs(client: &ClientConfig, topic: &str) -> Result<Vec<Output>> {
    let mut names = Names::default();
    let outputs = move |message: Message| message.into_output(&mut names);
    Ok(topic::read_mapped(client, topic, outputs).await?.0)
}

/// Adds what a topic, its dead letters and the group show.
///
/// # Errors
/// As [`read_outputs`].
pub async fn add_topic(
    evidence: &mut Evidence,
    client: &ClientConfig,
    output: &str,
    group: &str,
) -> Result<()> {
    let dead = format!("{output}.dead-letters");
    for topic in [output, &dead] {
        open_transactions_end(client, topic).await?;
    }
    evidence.outputs = read_outputs(client, output).await?;
    evidence.dead = read_outputs(client, &dead).await?;
    evidence.progress = group_offsets(client, group, evidence.ends.keys()).await?;
    Ok(())
}

/// Adds what tables show.
pub fn add_tables(evidence: &mut Evidence, tables: Tables) {
    evidence.outputs = tables.copied;
    evidence.dead = tables.dead;
    evidence.progress = tables.progress;
}

/// Names of topics, each kept once.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<Arc<str>>);

impl Names {
    fn of(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| &***known == name) {
            return Arc::clone(known);
        }
        self.0.push(name.into());
        Arc::clone(self.0.last().expect("just put there"))
    }
}

/// `topic/partition/offset/i`.
pub(crate) fn parse_source(text: &str, names: &mut Names) -> Option<Source> {
    // From the right: nothing forbids a slash to whoever names things, although Kafka does.
    let mut parts = text.rsplitn(4, '/');
    let (i, offset, partition) = (parts.next()?, parts.next()?, parts.next()?);
    let topic = names.of(parts.next()?);
    Some(((topic, partition.parse().ok()?), offset.parse().ok()?, i.parse().ok()?))
}

impl Message {
    /// What it says it was made from.
    fn into_output(self, names: &mut Names) -> Result<Output> {
        let source = self.source.as_deref().and_then(|text| parse_source(text, names));
        ensure!(
            source.is_some(),
            "{}/{}/{} does not say where it comes from: {:?}",
            self.topic,
            self.partition,
            self.offset,
            self.source
        );
        Ok(Output {
            source: source.expect("just looked"),
            stream: self.partition,
            place: self.offset,
            key: self.key,
            value: self.value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_read_back() {
        let mut names = Names::default();
        let mut parse_source = |text| parse_source(text, &mut names);
        let source = parse_source("a.b-c/3/123456789012/2").expect("coordinates");
        assert_eq!(source, (("a.b-c".into(), 3), 123_456_789_012, 2));
        for bad in ["", "t/1/2", "t/1/2/x", "t/x/1/2", "t/1//2"] {
            assert_eq!(parse_source(bad), None, "{bad}");
        }
    }
}
