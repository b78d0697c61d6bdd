//! The promises of every transactional sink, kept by the file of totals.

use std::path::PathBuf;

use tidegate::record::{Coordinates, Offset, PartitionId};
use tidegate::testing::conformance::{Ability, Harness, View};

use crate::sink::{Contents, TotalsFile};

struct Directory(tempfile::TempDir);

impl Directory {
    fn file(&self) -> PathBuf {
        self.0.path().join("totals.json")
    }
}

/// `topic/0` and `0`, of `topic/0/0` as of `topic/0`.
fn split(text: &str) -> (&str, i64) {
    let (front, number) = text.rsplit_once('/').expect("parts");
    (front, number.parse().expect("a number"))
}

fn partition(text: &str) -> PartitionId {
    let (topic, index) = split(text);
    PartitionId::new(topic, i32::try_from(index).expect("a partition"))
}

impl Harness for Directory {
    type Sink = TotalsFile;

    async fn sink(&self) -> TotalsFile {
        TotalsFile::at(&self.file())
    }

    /// One, added to a total of its own: a total of two is a result that was stored twice.
    fn output(&self, number: u64) -> (String, i64) {
        (number.to_string(), 1)
    }

    async fn view(&self) -> View {
        let Ok(bytes) = std::fs::read(self.file()) else { return View::default() };
        let contents: Contents = serde_json::from_slice(&bytes).expect("the file is whole");
        let mut view = View::default();
        for (name, total) in &contents.totals {
            let times = usize::try_from(*total).expect("totals only grow");
            view.outputs.extend(std::iter::repeat_n(name.parse::<u64>().expect("a number"), times));
        }
        view.dead.extend(contents.dead.keys().map(|place| {
            let (of, offset) = split(place);
            Coordinates { partition: partition(of), offset: Offset::new(offset) }
        }));
        let progress = contents.progress.iter();
        view.progress.extend(progress.map(|(of, next)| (partition(of), Offset::new(*next))));
        view
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::Owners => Some("a lock on the file: one process at a time"),
            Ability::Transaction => Some("a new file takes the place of the old one"),
            Ability::Wire => Some("the file is on this machine"),
            Ability::Rejection => Some("every number can be added"),
            _ => None,
        }
    }
}

tidegate::sink_conformance!(Directory(tempfile::tempdir().expect("a directory")));
