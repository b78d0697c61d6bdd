//! What goes into the core and what comes out of it.

use std::time::Duration;

use super::control::{Control, ControlReply};
use crate::batch::{Batch, Span};
use crate::delivery::Fate;
use crate::engine::observe::EngineEvent;
use crate::engine::work::{Completion, Job, LaneKey};
use crate::error::Error;
use crate::record::{Epoch, Offset, PartitionId};
use crate::sink::{Claim, ClaimRequest, CommitError, Move, SinkError};
use crate::source::{
    AssignedPartition, Chunk, Credit, Position, Resolved, SourceError, Start, Wanted,
};

/// What happens to the engine.
pub(crate) enum Event<O> {
    Assigned {
        id: u64,
        partitions: Vec<AssignedPartition>,
        deadline: Duration,
    },
    Revoked {
        id: u64,
        partitions: Vec<PartitionId>,
        deadline: Duration,
    },
    Lost(Vec<PartitionId>),
    Records(Chunk),
    End {
        partition: PartitionId,
        epoch: Epoch,
        next: Offset,
    },
    PartitionFailed {
        partition: PartitionId,
        epoch: Epoch,
        error: String,
    },
    Ends(Vec<Position>),
    GroupChanged,
    SourceFailed(SourceError),
    Completed(Vec<Completion<O>>),
    Claimed(Result<Vec<Claim>, SinkError>),
    Resolved {
        call: Call,
        result: Result<Vec<Resolved>, SourceError>,
    },
    Repositioned {
        call: Call,
        moves: Vec<Move>,
        result: Result<(), CommitError>,
    },
    Released {
        revocation: u64,
    },
    Proved(Result<(), SourceError>),
    Admitted(Result<(), SinkError>),
    Committed {
        batch: Batch<O>,
        fate: Fate,
    },
    Control {
        id: u64,
        control: Control,
    },
    /// Drain and end.
    Stop {
        why: String,
        within: Option<Duration>,
    },
}

/// What the outside world must do.
pub(crate) enum Action<O> {
    AnswerAssigned {
        id: u64,
        starts: Vec<Start>,
    },
    AnswerRevoked {
        id: u64,
    },
    Credit(Vec<Credit>),
    Resolve {
        call: Call,
        wanted: Vec<Wanted>,
    },
    StartReading(Vec<Start>),
    Claim(Vec<ClaimRequest>),
    Reposition {
        call: Call,
        moves: Vec<Move>,
    },
    Prove(Vec<Span>),
    Admit(Vec<Span>),
    Commit(Batch<O>),
    Release {
        revocation: u64,
        partitions: Vec<PartitionId>,
    },
    Mirror(Vec<Position>),
    Run(Vec<Job>),
    /// A hung record was skipped: its worker is written off.
    WriteOff {
        key: LaneKey,
        seq: u64,
    },
    Reply {
        id: u64,
        reply: ControlReply,
    },
    Tell(EngineEvent),
    /// Nothing is left to do: close the source and the sink and end with this.
    Finish(Result<(), Error>),
}

/// On whose behalf a position is looked for or stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// Partitions that are about to start.
    Starts,
    /// The seek of this number.
    Seek(u64),
}
