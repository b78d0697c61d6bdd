//! What copiers wrote about themselves.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// How much of a file its end is.
const END_BYTES: u64 = 65_536;

/// A span that a copier says it cut or committed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Stretch {
    /// `topic/partition`.
    pub partition: String,
    /// The copier's own epoch of the partition.
    pub epoch: u64,
    /// First offset.
    pub first: i64,
    /// One behind the last.
    pub next: i64,
}

/// One line of evidence. Fields that an event does not have are empty.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// What happened.
    pub event: String,
    /// When, on a clock that all processes share.
    pub ns: u64,
    /// To which process.
    pub pid: u32,
    /// `topic/partition`.
    #[serde(default)]
    pub partition: Option<String>,
    /// Several of them.
    #[serde(default)]
    pub partitions: Vec<String>,
    /// `topic/partition/offset`.
    #[serde(default)]
    pub record: Option<String>,
    /// How a commit ended.
    #[serde(default)]
    pub fate: Option<String>,
    /// Spans.
    #[serde(default)]
    pub spans: Vec<Stretch>,
    /// Offsets and epochs by their name.
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

/// All the evidence of one file, in the order of its lines.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// The events.
    pub events: Vec<Event>,
}

impl Trail {
    /// Reads a file.
    ///
    /// # Errors
    /// When it is not there or a line is not an event: then nothing it says can be relied on.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("evidence in {}", path.display()))?;
        parse_trail(&text).with_context(|| format!("evidence in {}", path.display()))
    }

    /// Reads the end of a file: what long runs wrote before costs too much to read again and again.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_end(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let mut file = File::open(path)?;
            let skipped = file.metadata()?.len().saturating_sub(END_BYTES);
            file.seek(SeekFrom::Start(skipped))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            // It may begin in the middle of a line, or of a letter.
            let whole = match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) if skipped > 0 => &bytes[end + 1..],
                _ => &bytes[..],
            };
            parse_trail(std::str::from_utf8(whole)?)
        };
        read().with_context(|| format!("evidence in {}", path.display()))
    }

    /// The same with nothing in it that no count and no comparison of many copiers asks for: half an hour of several
    /// copiers is a hundred thousand commits.
    #[must_use]
    pub fn slim(mut self) -> Self {
        for event in &mut self.events {
            let stored = event.fate.as_deref() == Some("committed");
            if event.event == "cut" {
                event.spans = Vec::new();
            }
            if event.event == "cut" || stored {
                event.rest.clear();
            }
        }
        self
    }

    /// How many events of this name there are.
    #[must_use]
    pub fn count(&self, event: &str) -> usize {
        self.all(event).count()
    }

    /// The events of this name.
    pub fn all<'a>(&'a self, event: &'a str) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter(move |line| line.event == event)
    }

    /// How many commits ended like this.
    #[must_use]
    pub fn fates(&self, fate: &str) -> usize {
        self.all("commit").filter(|line| line.fate.as_deref() == Some(fate)).count()
    }

    /// When the last cut was, if nothing was heard of it since. A refused batch is committed again without another.
    #[must_use]
    pub fn open_cut(&self) -> Option<u64> {
        let last = self.events.iter().rev().find(|e| e.event == "cut" || e.event == "commit");
        last.filter(|event| event.event == "cut").map(|event| event.ns)
    }

    /// Spans that were committed, and those that turned out to be.
    pub fn committed(&self) -> impl Iterator<Item = &Stretch> {
        let committed = |line: &&Event| {
            matches!(line.event.as_str(), "commit" | "fate")
                && line.fate.as_deref() == Some("committed")
        };
        self.events.iter().filter(committed).flat_map(|line| &line.spans)
    }

    /// Two commits that both say they stored the same offset, if there are any. Commits that a killed process could
    /// not tell of are missing here, so holes prove nothing.
    #[must_use]
    pub fn overlap(&self) -> Option<(Stretch, Stretch)> {
        let mut stretches: Vec<_> =
            self.committed().filter(|stretch| stretch.first < stretch.next).collect();
        stretches.sort_by_key(|stretch| (&stretch.partition, stretch.first));
        let clash = |pair: &&[&Stretch]| {
            pair[0].partition == pair[1].partition && pair[0].next > pair[1].first
        };
        stretches.windows(2).find(clash).map(|pair| (pair[0].clone(), pair[1].clone()))
    }
}

/// The events of a text.
///
/// # Errors
/// When a line is none.
pub fn parse_trail(text: &str) -> Result<Trail> {
    let event = |(number, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("line {}: {line}", number + 1))
    };
    Ok(Trail { events: text.lines().enumerate().map(event).collect::<Result<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(first: i64, next: i64, partition: i32) -> String {
        format!(
            r#"{{"event":"commit","fate":"committed","pid":1,"ns":2,"records":1,"spans":[{{"partition":"t/{partition}","epoch":1,"first":{first},"next":{next}}}]}}"#
        )
    }

    #[test]
    fn commits_of_the_same_offset_are_found() {
        let trail = parse_trail(&[commit(0, 5, 0), commit(0, 5, 1), commit(5, 9, 0)].join("\n"));
        assert_eq!(trail.expect("evidence").overlap(), None);
        let trail = parse_trail(&[commit(0, 5, 0), commit(4, 9, 0)].join("\n")).expect("evidence");
        assert!(trail.overlap().is_some());
        assert_eq!((trail.fates("committed"), trail.count("cut")), (2, 0));
    }

    #[test]
    fn slim_evidence_still_shows_commits_of_the_same_offset() {
        let trail = parse_trail(&[commit(0, 5, 0), commit(4, 9, 0)].join("\n")).expect("evidence");
        let slim = trail.slim();
        assert!(slim.overlap().is_some());
        assert_eq!(slim.fates("committed"), 2);
        assert!(slim.events.iter().all(|event| event.rest.is_empty()));
    }

    #[test]
    fn the_end_of_long_evidence_is_its_last_lines() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let lines: Vec<_> = (0..2_000).map(|at| commit(at, at + 1, 0) + "\n").collect();
        let cut = r#"{"event":"cut","pid":1,"ns":7}"#;
        std::fs::write(file.path(), lines.concat() + cut + "\n").expect("written");
        let (end, all) = (Trail::read_end(file.path()), Trail::read(file.path()));
        let (end, all) = (end.expect("its end"), all.expect("all of it"));
        assert!((100..1_000).contains(&end.events.len()), "{} events", end.events.len());
        let last = |trail: &Trail| trail.committed().last().cloned();
        assert_eq!(last(&end), last(&all));
        assert_eq!((end.open_cut(), all.open_cut()), (Some(7), Some(7)));
        std::fs::write(file.path(), format!("{cut}\n{}", lines[0])).expect("written");
        let short = Trail::read_end(file.path()).expect("all of it");
        assert_eq!((short.events.len(), short.open_cut()), (2, None));
    }

    #[test]
    fn evidence_that_cannot_be_read_is_no_evidence() {
        assert!(parse_trail(&format!("{}\n{{\"event\":", commit(0, 1, 0))).is_err());
    }
}
