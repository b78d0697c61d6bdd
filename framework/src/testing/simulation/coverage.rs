//! What a run has seen: trouble that never came proves nothing.

/// Declares the kinds with their names.
macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        /// Something that must happen in some run.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Seen { $($kind),* }

        impl Seen {
            const ALL: &[Self] = &[$(Self::$kind),*];
        }
    };
}

kinds! {
    // The group.
    Rebalanced, RevokedEagerly, RevokedCooperatively, RevokedByTheBroker, Evicted, NewMemberId, GaveUpWhatWasAnothers, Regained, AssignedLate, StartedLate, RevokedLate, GaveUpLost,
    Crashed, CrashedInCommit, Frozen, FrozenInCommit, Restarted,
    // Commits.
    Committed, Aborted, Fenced, ProducerFenced, DoubtStored, DoubtNotStored, LateStored, LateRefused,
    DoubtFoundStored, DoubtFoundNotStored, TakenOver, StaleGeneration, StaleEpoch, Rejected,
    RejectedTwice, InHalves, Operator, SentTwice, AbortInDoubt, FencedAtTheEnd, Busy,
    TransactionExpired, FailedOver, StartForgotten,
    // Claims and starts.
    ClaimFailed, ClaimAnswerLost, ClaimWaited, Terminated, ResolveFailed, ResolvedInPart, StartStored, Added,
    MoveAborted, MoveInDoubt, ProofRefused, ProofAccepted,
    // Work.
    StaleResult, StaleChunk, TurnOver, Retried, DeadLettered, Filtered, Hung, SkippedByOperator,
    SkippedByPolicy, HoleBehind, OnlyHoles, Oversize, PartitionFailed, OutOfRange,
    // The handle.
    SoughtBack, SoughtForward, SeekRefused, Paused, PausedAndRegained, Stopped, StoppedLate,
    StoppedByFences, StoppedByRecord,
    // The weaker guarantees.
    GroupCommitRefused, StaleEpochOfAGroup, WrittenTwice, GivenUp, Admitted,
}

/// How often each kind was seen.
#[derive(Clone)]
pub(super) struct Coverage([u64; Seen::ALL.len()]);

impl Coverage {
    pub(super) fn new() -> Self {
        Self([0; Seen::ALL.len()])
    }

    pub(super) fn saw(&mut self, kind: Seen) {
        self.0[kind as usize] += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    pub(super) fn never(&self) -> Vec<Seen> {
        Seen::ALL.iter().copied().filter(|kind| self.0[*kind as usize] == 0).collect()
    }

    pub(super) fn list(&self) -> Vec<(Seen, u64)> {
        Seen::ALL.iter().map(|kind| (*kind, self.0[*kind as usize])).collect()
    }
}
