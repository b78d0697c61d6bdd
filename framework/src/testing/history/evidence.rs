//! What a history is made of: one JSON object per line, written by whatever language read the log
//! and the store.

use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};

/// One line of evidence; the field `kind` says which.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// A record of the input.
    Input(Input),
    /// A result that a reader sees.
    Output(Output),
    /// A dead letter that a reader sees.
    Dead(Dead),
    /// Stored progress that a reader sees.
    Progress(Progress),
    /// One partition's part of a commit, as the store's own log or an audit trigger tells it; lines
    /// stand in the order of the commits.
    Commit(Commit),
}

/// A record of the input, and what should become of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its topic.
    pub topic: String,
    /// Which incarnation of the topic, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// What its order is kept by; absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How many results it should have, numbered from 0. Default 1.
    #[serde(default = "one")]
    pub outputs: u32,
    /// Whether it should have a dead letter, and no results. Default false.
    #[serde(default)]
    pub dead: bool,
}

fn one() -> u32 {
    1
}

/// A result, with the record it came from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The topic of its record.
    pub topic: String,
    /// Which incarnation of that topic, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// The partition of its record.
    pub partition: i32,
    /// The offset of its record.
    pub offset: i64,
    /// Its number among that record's results. Default 0.
    #[serde(default)]
    pub index: u32,
    /// Where the reader sees it: an output partition, a table. Default 0.
    #[serde(default)]
    pub stream: i32,
    /// Its place there; larger is later.
    pub place: i64,
    /// The transaction that stored it, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// The snapshot that it was seen in; the last one is what was seen in the end. Default 0.
    #[serde(default)]
    pub snapshot: u64,
}

/// A dead letter, with the record it came from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dead {
    /// The topic of its record.
    pub topic: String,
    /// The partition of its record.
    pub partition: i32,
    /// The offset of its record.
    pub offset: i64,
    /// The snapshot that it was seen in. Default 0.
    #[serde(default)]
    pub snapshot: u64,
}

/// Stored progress of one partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub next: i64,
    /// The snapshot that it was seen in. Default 0.
    #[serde(default)]
    pub snapshot: u64,
}

/// What one commit did to one partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// The transaction; several partitions may share it.
    pub transaction: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Progress before it.
    pub first: i64,
    /// Progress after it: the next offset to read.
    pub next: i64,
    /// The number of the claim it was made under, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<u64>,
    /// The epoch within that claim, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// How it ended. Default committed.
    #[serde(default)]
    pub outcome: Outcome,
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was committed.
    #[default]
    Committed,
    /// It was aborted.
    Aborted,
    /// Nobody could tell.
    Unknown,
}

/// Everything that is known of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub(super) inputs: Vec<Input>,
    pub(super) outputs: Vec<Output>,
    pub(super) dead: Vec<Dead>,
    pub(super) progress: Vec<Progress>,
    pub(super) commits: Vec<Commit>,
    /// Why some evidence could not be read.
    pub(super) unreadable: Vec<String>,
}

impl History {
    /// Reads lines of JSON; empty lines are left out. A line that is no evidence makes the whole
    /// history unknown instead of being skipped.
    ///
    /// # Errors
    /// If the reader fails.
    pub fn read(lines: impl BufRead) -> io::Result<Self> {
        let mut history = Self::default();
        for (number, line) in lines.split(b'\n').enumerate() {
            let line = line?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice(&line) {
                Ok(line) => history.add(line),
                Err(error) => history.unreadable.push(format!("line {}: {error}", number + 1)),
            }
        }
        Ok(history)
    }

    /// Adds one line.
    pub fn add(&mut self, line: Line) {
        match line {
            Line::Input(input) => self.inputs.push(input),
            Line::Output(output) => self.outputs.push(output),
            Line::Dead(dead) => self.dead.push(dead),
            Line::Progress(progress) => self.progress.push(progress),
            Line::Commit(commit) => self.commits.push(commit),
        }
    }
}

impl FromIterator<Line> for History {
    fn from_iter<I: IntoIterator<Item = Line>>(lines: I) -> Self {
        let mut history = Self::default();
        lines.into_iter().for_each(|line| history.add(line));
        history
    }
}
