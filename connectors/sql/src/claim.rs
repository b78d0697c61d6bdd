//! Who owns which partition, what a claim answers, what the compare expects.
//!
//! Stored progress is compared, never trusted: a row moves from a span's `first` to its `next`
//! only while it shows our claim and our owner. Offset equality is the safety, the claim is the
//! fence. Here are the values of it; the statements are the connectors'.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use tidegate::Cause;
use tidegate::batch::Span;
use tidegate::mutant;
use tidegate::record::{Offset, PartitionId, Topic};
use tidegate::sink::{Claim, ClaimRequest, Move, Stored, TopicId};
use uuid::Uuid;

use crate::fate::{Failure, Fate};

/// A row of stored progress as a claim finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredRow {
    /// The partition.
    pub partition: PartitionId,
    /// The next offset to read.
    pub next: i64,
    /// How often it was claimed.
    pub claim: i64,
    /// Who claimed it last.
    pub owner: Option<Uuid>,
    /// The incarnation of its topic, if it was ever known.
    pub topic_id: Option<Vec<u8>>,
}

impl StoredRow {
    /// Whether a claim may take it: the topic is the one the row was written for, or one of the
    /// two sides does not know.
    fn fits(&self, topic_id: Option<TopicId>) -> bool {
        match (&self.topic_id, topic_id) {
            _ if mutant::is("M41") => true,
            (Some(stored), Some(asked)) => *stored == asked.0,
            _ => true,
        }
    }
}

/// What a claim answers, and whose rows it takes.
#[derive(Debug, Default)]
pub struct Answers {
    /// One answer per asked partition.
    pub claims: Vec<Claim>,
    /// The partitions whose rows are to be bumped, with the topic's incarnation if it is known.
    pub take: Vec<ClaimRequest>,
    /// The partitions without a row: they are ours once their row is inserted.
    pub unborn: Vec<PartitionId>,
}

/// Decides a claim from the locked rows. `highest_index` says which is the highest partition of a
/// topic that has a row, if any has.
pub fn answer_claims(
    asked: &[ClaimRequest],
    rows: &[StoredRow],
    highest_index: impl Fn(&Topic) -> Option<i32>,
) -> Answers {
    let mut answers = Answers::default();
    for request in asked {
        let partition = &request.partition;
        let row = rows.iter().find(|row| row.partition == *partition);
        let stored = stored_answer(request, row, highest_index(partition.topic()));
        match &stored {
            Stored::At(_) => answers.take.push(request.clone()),
            Stored::Nothing | Stored::Added => answers.unborn.push(partition.clone()),
            _ => {}
        }
        answers.claims.push(Claim { partition: partition.clone(), stored });
    }
    answers.take.sort_by(|left, right| left.partition.cmp(&right.partition));
    answers
}

/// What a claim answers for a partition: its row, or the highest index that is stored of its
/// topic, if any.
fn stored_answer(
    asked: &ClaimRequest,
    row: Option<&StoredRow>,
    highest_index: Option<i32>,
) -> Stored {
    match (row, highest_index) {
        (Some(row), _) if !row.fits(asked.topic_id) => Stored::Refused(Cause::new(
            "the topic was deleted and created again since its progress was stored; reset the \
             stored offsets to start the new topic",
        )),
        (Some(row), _) => Offset::try_new(row.next).map_or_else(
            || Stored::Refused(Cause::new("the stored offset is negative; reset it")),
            Stored::At,
        ),
        (None, None) => Stored::Nothing,
        (None, Some(highest)) if asked.partition.index() > highest => Stored::Added,
        (None, Some(_)) => Stored::Refused(Cause::new(
            "its row is missing from the progress table although later partitions of the topic \
             have one; set its offset to go on",
        )),
    }
}

/// What one instance of a sink owns.
#[derive(Debug, Default)]
pub struct Ownership {
    held: BTreeMap<PartitionId, (i64, Uuid)>,
}

/// One row of the compare.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expectation {
    /// The partition.
    pub partition: PartitionId,
    /// What must be stored.
    pub first: i64,
    /// What is stored after.
    pub next: i64,
    /// Our claim.
    pub claim: i64,
    /// Our name in that claim.
    pub owner: Uuid,
}

/// A partition that this instance does not own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotHeld(pub PartitionId);

impl fmt::Display for NotHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} is not claimed by this instance", self.0)
    }
}

impl std::error::Error for NotHeld {}

impl From<NotHeld> for Failure {
    fn from(not_held: NotHeld) -> Self {
        Self::new(Fate::Fenced, Cause::new(not_held))
    }
}

impl Ownership {
    /// Notes a claim.
    pub fn hold(&mut self, partition: PartitionId, claim: i64, owner: Uuid) {
        self.held.insert(partition, (claim, owner));
    }

    /// Forgets the claims on these partitions and returns those that there were.
    pub fn give_up(&mut self, partitions: &[PartitionId]) -> Vec<(PartitionId, i64, Uuid)> {
        let held = partitions.iter().filter_map(|partition| {
            let (claim, owner) = self.held.remove(partition)?;
            Some((partition.clone(), claim, owner))
        });
        held.collect()
    }

    /// The claim on a partition, if it is ours.
    pub fn get(&self, partition: &PartitionId) -> Option<(i64, Uuid)> {
        self.held.get(partition).copied()
    }

    /// All claims, sorted by partition.
    pub fn iter(&self) -> impl Iterator<Item = (&PartitionId, i64, Uuid)> {
        self.held.iter().map(|(partition, &(claim, owner))| (partition, claim, owner))
    }

    /// Notes what a claim took: `taken` as the rows show it now, `unborn` with the claim that their
    /// rows are inserted with.
    pub fn hold_all(
        &mut self,
        taken: impl IntoIterator<Item = (PartitionId, i64)>,
        unborn: Vec<PartitionId>,
        owner: Uuid,
    ) {
        for (partition, claim) in taken {
            self.hold(partition, claim, owner);
        }
        for partition in unborn {
            self.hold(partition, 1, owner);
        }
    }

    /// The compare of these moves; a move that expects nothing to be stored has none.
    ///
    /// # Errors
    /// The first partition that is not ours.
    pub fn expect_moves(&self, moves: &[Move]) -> Result<Vec<Expectation>, NotHeld> {
        let mut expected = Vec::new();
        for to in moves {
            if let Some(first) = to.expected {
                expected.push(self.expect_one(&to.partition, first, to.next)?);
            }
        }
        expected.sort_by(|left, right| left.partition.cmp(&right.partition));
        Ok(expected)
    }

    /// The compare of these spans, in their order, which is sorted by partition. A span without
    /// progress is not stored.
    ///
    /// # Errors
    /// The first partition that is not ours.
    pub fn expect(&self, spans: &[Span]) -> Result<Vec<Expectation>, NotHeld> {
        spans
            .iter()
            .filter(|span| span.first != span.next)
            .map(|span| self.expect_one(&span.partition, span.first, span.next))
            .collect()
    }

    fn expect_one(
        &self,
        partition: &PartitionId,
        first: Offset,
        next: Offset,
    ) -> Result<Expectation, NotHeld> {
        let (claim, owner) = self.get(partition).ok_or_else(|| NotHeld(partition.clone()))?;
        Ok(Expectation {
            partition: partition.clone(),
            first: first.get(),
            next: next.get(),
            claim,
            owner,
        })
    }
}

/// What the compare found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compare {
    /// Every row was where the batch starts, and ours.
    Holds,
    /// Some row was not: nothing may be stored.
    Differs,
}

impl Compare {
    /// Whether as many rows matched as were expected to.
    pub fn of(matched: u64, expected: &[Expectation]) -> Self {
        let all = usize::try_from(matched) == Ok(expected.len()) || mutant::is("M10");
        if all { Self::Holds } else { Self::Differs }
    }
}

/// The condition of the compare as it is sent: all of it, unless a bug is seeded.
pub fn compare_condition(all: &'static str) -> Cow<'static, str> {
    match () {
        () if mutant::is("M08") => all.replace(" AND p.claim = s.claim AND p.owner = s.owner", ""),
        () if mutant::is("M09") => all.replace(" AND p.next_offset = s.first", ""),
        () => return Cow::Borrowed(all),
    }
    .into()
}

/// Says why the compare did not hold, from rows read afterwards. It is for people only: what to
/// do is decided already.
pub fn explain_fence(expected: &[Expectation], rows: &[StoredRow]) -> String {
    for wanted in expected {
        let partition = &wanted.partition;
        let Some(row) = rows.iter().find(|row| row.partition == *partition) else {
            return format!(
                "the progress row of {partition} is gone or not visible to this user (a row \
                 security policy hides rows)"
            );
        };
        if row.claim != wanted.claim || row.owner != Some(wanted.owner) {
            return format!(
                "partition {partition} was claimed by another owner (claim {}, ours was {})",
                row.claim, wanted.claim
            );
        }
        if row.next != wanted.first {
            return format!(
                "stored progress of {partition} is {}, the batch starts at {}",
                row.next, wanted.first
            );
        }
    }
    "another owner held the partitions for a moment".to_owned()
}

#[cfg(test)]
mod tests {
    use tidegate::record::Epoch;

    use super::*;

    fn asked(index: i32, topic_id: Option<u8>) -> ClaimRequest {
        ClaimRequest {
            partition: PartitionId::new("t", index),
            topic_id: topic_id.map(|byte| TopicId([byte; 16])),
        }
    }

    fn row(index: i32, next: i64, topic_id: Option<u8>) -> StoredRow {
        StoredRow {
            partition: PartitionId::new("t", index),
            next,
            claim: 3,
            owner: None,
            topic_id: topic_id.map(|byte| vec![byte; 16]),
        }
    }

    #[test]
    fn a_claim_answers_what_is_stored_or_why_nothing_is() {
        let at = stored_answer(&asked(1, None), Some(&row(1, 7, Some(1))), Some(3));
        assert!(matches!(at, Stored::At(offset) if offset.get() == 7));
        let unknown = stored_answer(&asked(1, Some(1)), Some(&row(1, 7, None)), Some(3));
        assert!(matches!(unknown, Stored::At(_)));
        let recreated = stored_answer(&asked(1, Some(2)), Some(&row(1, 7, Some(1))), Some(3));
        assert!(matches!(recreated, Stored::Refused(_)));
        assert!(matches!(stored_answer(&asked(1, None), None, None), Stored::Nothing));
        assert!(matches!(stored_answer(&asked(4, None), None, Some(3)), Stored::Added));
        assert!(matches!(stored_answer(&asked(2, None), None, Some(3)), Stored::Refused(_)));
        let negative = stored_answer(&asked(1, None), Some(&row(1, -1, None)), Some(3));
        assert!(matches!(negative, Stored::Refused(_)));
    }

    #[test]
    fn the_compare_leaves_out_spans_without_progress_and_names_what_is_not_held() {
        let span = |index, first, next| Span {
            partition: PartitionId::new("t", index),
            epoch: Epoch::new(1),
            first: Offset::new(first),
            next: Offset::new(next),
        };
        let mut ownership = Ownership::default();
        ownership.hold(PartitionId::new("t", 0), 4, Uuid::nil());
        let expected = ownership.expect(&[span(0, 5, 9), span(1, 3, 3)]).unwrap();
        assert_eq!(expected.len(), 1);
        assert_eq!((expected[0].first, expected[0].next, expected[0].claim), (5, 9, 4));
        let refused = ownership.expect(&[span(0, 5, 9), span(1, 3, 4)]);
        assert_eq!(refused, Err(NotHeld(PartitionId::new("t", 1))));
    }
}
