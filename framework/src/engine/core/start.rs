//! First starts: what the start policy said is stored before anything is read, and claimed again.

use std::collections::BTreeSet;

use super::claim::CLAIM_BACKOFF;
use super::{Action, Call, Core, Phase};
use crate::delivery::Progress;
use crate::engine::observe::EngineEvent;
use crate::error::Error;
use crate::record::Topic;
use crate::sink::{CommitError, Move};
use crate::source::Resolved;

impl<O> Core<O> {
    pub(super) fn send_first_starts(&mut self, actions: &mut Vec<Action<O>>) {
        let mut moves = std::mem::take(&mut self.first_starts);
        // What has gone, or gone and come again, is its owner's to start, unless a whole topic
        // starts by one decision.
        if self.config.progress == Progress::Group {
            moves.retain(|to| {
                self.get(&to.partition).is_some_and(|partition| partition.phase == Phase::Storing)
            });
        }
        if !moves.is_empty() {
            moves.sort_by(|a, b| a.partition.cmp(&b.partition));
            moves.dedup_by(|a, b| a.partition == b.partition);
            self.sink_busy = true;
            actions.push(Action::Reposition { call: Call::Starts, moves });
        }
    }

    /// First starts were stored. What is claimed next answers what really stands there: somebody
    /// else may have stored another start first.
    pub(super) fn on_repositioned(
        &mut self,
        moves: Vec<Move>,
        result: Result<(), CommitError>,
        actions: &mut Vec<Action<O>>,
    ) {
        let later = self.now + self.jittered(CLAIM_BACKOFF);
        let (at, stored) = match &result {
            Ok(()) => (self.now, true),
            Err(CommitError::Aborted(cause)) if cause.is_for_operator() => {
                return self.begin_stop_with(
                    Error::sink_failed(format_args!("first start: {cause}")),
                    actions,
                );
            }
            Err(_) => (later, false),
        };
        for to in moves {
            let Some(partition) = self.get_mut(&to.partition) else {
                continue;
            };
            if partition.phase != Phase::Storing {
                continue;
            }
            partition.phase = Phase::Claim { at };
            if stored {
                if partition.known_start.is_some() {
                    // It was stored before and is gone: a store that forgets is not hurried.
                    partition.phase = Phase::Claim { at: later };
                }
                partition.known_start = Some(to.next);
                let (partition, next) = (to.partition, to.next);
                actions.push(Action::Tell(EngineEvent::Repositioned { partition, next }));
            }
        }
    }
}

/// The partitions of these topics that are not asked for themselves get their start at the same
/// time, so that every partition of a topic starts by the same decision.
pub(super) fn add_rest_of_topics(
    moves: &mut Vec<Move>,
    topics: &BTreeSet<(Topic, Option<[u8; 16]>)>,
    found: &[Resolved],
) {
    for (topic, id) in topics {
        for resolved in found.iter().filter(|resolved| resolved.partition.topic() == topic) {
            let Ok(next) = &resolved.position else {
                continue;
            };
            if moves.iter().all(|to| to.partition != resolved.partition) {
                moves.push(Move {
                    partition: resolved.partition.clone(),
                    expected: None,
                    next: *next,
                    topic_id: id.map(crate::sink::TopicId),
                });
            }
        }
    }
}
