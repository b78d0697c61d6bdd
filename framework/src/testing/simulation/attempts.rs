//! What became of every attempt to commit, and under which claims it was made.
//!
//! A client that was told "not stored" must never find it stored later, whatever was on its way; one
//! that was told "stored" must find it; and nothing may be stored under a claim that somebody has
//! taken over since. The store's own compare is not asked.

use std::collections::{BTreeMap, BTreeSet};

/// One call of `commit`.
struct Attempt {
    /// Partition, and the claim under which its client held it.
    claims: Vec<(usize, u64)>,
    is_stored: bool,
    /// What its client was told, if it was.
    told: Option<bool>,
}

/// All attempts of a run, and the newest claim of each partition.
pub(super) struct Attempts {
    all: BTreeMap<u64, Attempt>,
    /// In the order in which they became durable.
    stored: Vec<u64>,
    /// Stored once, and lost by a fail-over.
    lost: BTreeSet<u64>,
    claims: Vec<u64>,
    numbers: u64,
}

/// A state to which a fail-over takes the store back.
#[derive(Clone)]
pub(super) struct Mark {
    stored: usize,
    claims: Vec<u64>,
}

impl Attempts {
    pub(super) fn new(partitions: usize) -> Self {
        let claims = vec![0; partitions];
        Self { all: BTreeMap::new(), stored: Vec::new(), lost: BTreeSet::new(), claims, numbers: 0 }
    }

    /// Somebody has claimed a partition; the number under which it commits from now on.
    pub(super) fn claimed(&mut self, partition: usize) -> u64 {
        self.numbers += 1;
        self.claims[partition] = self.numbers;
        self.numbers
    }

    /// Whether this is the newest claim of the partition.
    pub(super) fn is_newest(&self, partition: usize, claim: u64) -> bool {
        self.claims[partition] == claim
    }

    /// A client begins to commit what it holds under these claims.
    pub(super) fn begun(&mut self, id: u64, claims: Vec<(usize, u64)>) {
        let new = Attempt { claims, is_stored: false, told: None };
        self.all.entry(id).or_insert(new);
    }

    /// An attempt became durable.
    pub(super) fn stored(&mut self, id: u64) -> Result<(), String> {
        let attempt = self.all.get_mut(&id).ok_or_else(|| format!("attempt {id} never began"))?;
        if attempt.is_stored {
            return Err(format!("attempt {id} is stored twice"));
        }
        if attempt.told == Some(false) {
            return Err(format!("attempt {id} is stored, its client was told that it is not"));
        }
        for (partition, claim) in &attempt.claims {
            let newest = self.claims[*partition];
            if newest != *claim {
                return Err(format!(
                    "attempt {id} is stored under claim {claim} of {partition}, taken over by {newest}"
                ));
            }
        }
        attempt.is_stored = true;
        self.stored.push(id);
        Ok(())
    }

    /// A client was told what became of its attempt, or found it out.
    pub(super) fn told(&mut self, id: u64, stored: bool) -> Result<(), String> {
        if self.lost.contains(&id) {
            return Ok(());
        }
        let attempt = self.all.get_mut(&id).ok_or_else(|| format!("attempt {id} never began"))?;
        attempt.told = Some(stored);
        match (stored, attempt.is_stored) {
            (false, true) => Err(format!("attempt {id} is told as not stored, and it is")),
            _ => Ok(()),
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { stored: self.stored.len(), claims: self.claims.clone() }
    }

    /// A fail-over has lost what was stored since; what its clients were told counts no more. How
    /// many attempts that are.
    pub(super) fn rewind(&mut self, mark: &Mark) -> usize {
        let lost = self.stored.split_off(mark.stored);
        for id in &lost {
            self.all.remove(id);
        }
        self.claims.clone_from(&mark.claims);
        self.lost.extend(&lost);
        lost.len()
    }

    /// The end of a run: whoever was told "stored" finds it so. How many were looked at.
    pub(super) fn settled(&self) -> Result<usize, String> {
        let told = self.all.iter().filter(|(_, attempt)| attempt.told == Some(true));
        match told.clone().find(|(_, attempt)| !attempt.is_stored) {
            Some((id, _)) => Err(format!("attempt {id} is told as stored, and it never was")),
            None => Ok(told.count()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One partition under a claim, and an attempt under it.
    fn begun() -> Attempts {
        let mut attempts = Attempts::new(1);
        let claim = attempts.claimed(0);
        attempts.begun(1, vec![(0, claim)]);
        attempts
    }

    #[test]
    fn what_is_stored_once_and_told_so_passes() {
        let mut attempts = begun();
        attempts.stored(1).expect("under the newest claim");
        attempts.told(1, true).expect("the truth");
        assert_eq!(attempts.settled(), Ok(1));
    }

    #[test]
    fn what_is_stored_after_its_client_was_told_otherwise_is_found() {
        let mut attempts = begun();
        attempts.told(1, false).expect("true so far");
        attempts.stored(1).expect_err("it was told as not stored");
        let mut attempts = begun();
        attempts.stored(1).expect("under the newest claim");
        attempts.told(1, false).expect_err("it is stored");
    }

    #[test]
    fn what_is_stored_twice_or_never_is_found() {
        let mut attempts = begun();
        attempts.stored(1).expect("under the newest claim");
        attempts.stored(1).expect_err("once more");
        let mut attempts = begun();
        attempts.told(1, true).expect("it may come yet");
        attempts.settled().expect_err("it never came");
    }

    #[test]
    fn what_is_stored_under_a_claim_that_was_taken_over_is_found() {
        let mut attempts = begun();
        attempts.claimed(0);
        attempts.stored(1).expect_err("another claim is newer");
    }

    #[test]
    fn what_a_fail_over_loses_is_not_asked_for() {
        let mut attempts = begun();
        let mark = attempts.mark();
        attempts.stored(1).expect("under the newest claim");
        attempts.told(1, true).expect("the truth");
        attempts.claimed(0);
        assert_eq!(attempts.rewind(&mark), 1);
        assert_eq!(attempts.settled(), Ok(0));
        attempts.begun(2, vec![(0, 1)]);
        attempts.stored(2).expect("the claim from before is the newest again");
    }
}
