//! What one run left, by coordinates: records of the input, results, dead letters, progress. No key
//! and no value is kept, so that millions of records fit into memory.

use std::collections::HashMap;

use tidegate::record::{Lineage, PartitionId};

/// Everything one run left. All of it was read after the last process had ended.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Evidence {
    /// The partitions of the input.
    pub(crate) partitions: Vec<Partition>,
    /// What results stand in, as people call it: `topic routes`, `table quakes`.
    pub(crate) outputs: Vec<String>,
    pub(crate) sharing: Sharing,
    /// How often a result was compared with the one before it in its stream; `None`: what it stands
    /// in does not tell in which order results came.
    pub(crate) ordered: Option<u64>,
    pub(crate) odd: Odd,
}

/// Whether one result may stand in several outputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Sharing {
    /// A message goes to one topic.
    #[default]
    OneOutput,
    /// Several tables may take one result.
    SeveralOutputs,
}

/// Results and dead letters that are no evidence about the records of this run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Odd {
    /// They do not say what they were made from.
    pub(crate) silent: u64,
    /// They were made from a topic that is no input.
    pub(crate) foreign: u64,
    /// They were made from records that were done before the run began.
    pub(crate) old: u64,
}

impl Odd {
    /// What came in addition.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            silent: self.silent.saturating_sub(before.silent),
            foreign: self.foreign.saturating_sub(before.foreign),
            old: self.old.saturating_sub(before.old),
        }
    }
}

/// One partition of the input and what was made from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Partition {
    pub(crate) id: PartitionId,
    /// Where the run began: the stored position, or the beginning of the log.
    pub(crate) first: i64,
    /// Where it ended: the next offset to read, as stored.
    pub(crate) next: i64,
    /// The offsets of the records in `first..next`.
    pub(crate) records: Vec<i64>,
    /// Every result, however often it stands there.
    pub(crate) results: Vec<Shown>,
    /// The offset of every dead letter.
    pub(crate) dead: Vec<i64>,
    /// Offset and index of results that came behind a later one in the same stream.
    pub(crate) behind: Vec<(i64, u32)>,
}

impl Partition {
    pub(crate) fn new(id: PartitionId, first: i64, next: i64) -> Self {
        let (records, results, dead, behind) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { id, first, next, records, results, dead, behind }
    }
}

/// One result as it stands in an output.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Shown {
    /// The offset of its record.
    pub(crate) offset: i64,
    /// Its number among that record's results.
    pub(crate) index: u32,
    /// The number of the output that it stands in.
    pub(crate) output: u32,
    /// A hash of what it holds, if that is compared.
    pub(crate) digest: u64,
}

impl Evidence {
    /// Brings everything into the order in which it is compared.
    pub(crate) fn sort(&mut self) {
        for partition in &mut self.partitions {
            partition.records.sort_unstable();
            partition.results.sort_unstable();
            partition.dead.sort_unstable();
            partition.behind.sort_unstable();
            partition.behind.dedup();
        }
    }
}

/// Gathers evidence while it is read.
#[derive(Debug)]
pub(crate) struct Gathering {
    evidence: Evidence,
    /// Numbers of partitions, by topic and index.
    places: HashMap<String, Vec<Option<usize>>>,
    /// The latest result of each partition in each stream.
    latest: HashMap<(usize, u32), (i64, u32)>,
}

impl Gathering {
    /// Nothing was read yet.
    pub(crate) fn new(partitions: Vec<Partition>, outputs: Vec<String>, sharing: Sharing) -> Self {
        let mut places: HashMap<String, Vec<Option<usize>>> = HashMap::new();
        for (number, partition) in partitions.iter().enumerate() {
            let indexes = places.entry(partition.id.topic().to_string()).or_default();
            let index = usize::try_from(partition.id.index()).unwrap_or_default();
            indexes.resize(indexes.len().max(index + 1), None);
            indexes[index] = Some(number);
        }
        let evidence = Evidence { partitions, outputs, sharing, ..Evidence::default() };
        Self { evidence, places, latest: HashMap::new() }
    }

    pub(crate) fn partitions(&self) -> &[Partition] {
        &self.evidence.partitions
    }

    /// A record of the input, in the partition of this number.
    pub(crate) fn record(&mut self, partition: usize, offset: i64) {
        self.evidence.partitions[partition].records.push(offset);
    }

    /// A result. Those of one `stream` come in the order in which they stand there; `None` where
    /// that is not known.
    pub(crate) fn result(
        &mut self,
        output: u32,
        stream: Option<u32>,
        lineage: Option<Lineage<'_>>,
        digest: u64,
    ) {
        let Some((number, lineage)) = self.place(lineage) else { return };
        let partition = &mut self.evidence.partitions[number];
        let (offset, index) = (lineage.offset.get(), lineage.index);
        partition.results.push(Shown { offset, index, output, digest });
        if let Some(stream) = stream {
            let compared = self.evidence.ordered.get_or_insert_default();
            match self.latest.get_mut(&(number, stream)) {
                None => drop(self.latest.insert((number, stream), (offset, index))),
                Some(latest) => {
                    *compared += 1;
                    if (offset, index) > *latest {
                        *latest = (offset, index);
                    } else {
                        partition.behind.push((offset, index));
                    }
                }
            }
        }
    }

    /// A dead letter.
    pub(crate) fn dead(&mut self, lineage: Option<Lineage<'_>>) {
        if let Some((number, lineage)) = self.place(lineage) {
            self.evidence.partitions[number].dead.push(lineage.offset.get());
        }
    }

    /// The number of the partition it was made from, if it is evidence about this run.
    fn place<'a>(&mut self, lineage: Option<Lineage<'a>>) -> Option<(usize, Lineage<'a>)> {
        let odd = &mut self.evidence.odd;
        let Some(lineage) = lineage else {
            odd.silent += 1;
            return None;
        };
        let index = usize::try_from(lineage.partition).ok();
        let found = self.places.get(lineage.topic).zip(index);
        let Some(number) = found.and_then(|(places, index)| *places.get(index)?) else {
            odd.foreign += 1;
            return None;
        };
        if lineage.offset.get() < self.evidence.partitions[number].first {
            odd.old += 1;
            return None;
        }
        Some((number, lineage))
    }

    /// Everything that was read, in order; `before` is what stood there when the run began.
    pub(crate) fn finish(mut self, before: Odd) -> Evidence {
        self.evidence.odd = self.evidence.odd.since(before);
        self.evidence.sort();
        self.evidence
    }
}

#[cfg(test)]
mod tests {
    use tidegate::record::Offset;

    use super::*;

    fn gathering() -> Gathering {
        let partition = |index| Partition::new(PartitionId::new("in", index), 10, 20);
        let outputs = vec!["topic out".to_owned()];
        Gathering::new(vec![partition(0), partition(2)], outputs, Sharing::OneOutput)
    }

    fn at(topic: &str, partition: i32, offset: i64, index: u32) -> Option<Lineage<'_>> {
        Some(Lineage { topic, partition, offset: Offset::new(offset), index })
    }

    #[test]
    fn what_is_no_evidence_about_the_run_is_counted_apart() {
        let mut all = gathering();
        all.result(0, None, at("in", 2, 10, 0), 7);
        all.result(0, None, None, 0);
        all.result(0, None, at("other", 0, 10, 0), 0);
        all.result(0, None, at("in", 1, 10, 0), 0);
        all.result(0, None, at("in", 9, 10, 0), 0);
        all.result(0, None, at("in", 0, 9, 0), 0);
        all.dead(at("in", 0, 12, 0));
        all.dead(at("in", 0, 9, 0));
        let found = all.finish(Odd { silent: 1, foreign: 1, old: 0 });
        assert_eq!(found.odd, Odd { silent: 0, foreign: 2, old: 2 });
        assert_eq!(found.partitions[1].results.len(), 1);
        assert_eq!(found.partitions[0].dead, [12]);
        assert_eq!(found.ordered, None, "nothing told the order");
    }

    #[test]
    fn results_that_come_behind_a_later_one_of_their_stream_are_noted() {
        let mut all = gathering();
        for (stream, offset, index) in
            [(0, 10, 0), (0, 12, 0), (0, 12, 1), (0, 11, 0), (0, 13, 0), (1, 10, 1), (0, 13, 0)]
        {
            all.result(0, Some(stream), at("in", 0, offset, index), 0);
        }
        // Another partition has an order of its own.
        all.result(0, Some(0), at("in", 2, 10, 0), 0);
        let found = all.finish(Odd::default());
        assert_eq!(found.partitions[0].behind, [(11, 0), (13, 0)]);
        assert_eq!((found.partitions[1].behind.len(), found.ordered), (0, Some(5)));
    }
}
