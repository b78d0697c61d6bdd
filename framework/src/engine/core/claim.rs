//! From an assigned partition to a known position: claim, resolve, store the first start.

use std::collections::BTreeSet;
use std::time::Duration;

use super::start::add_rest_of_topics;
use super::{Action, Call, Core, Partition, Phase};
use crate::delivery::Progress;
use crate::engine::observe::EngineEvent;
use crate::error::Error;
use crate::mutant;
use crate::record::{Epoch, Offset, PartitionId, Topic};
use crate::sink::{Claim, ClaimRequest, Move, SinkError, Stored};
use crate::source::{Resolved, SourceError, Unresolved, Wanted};
use crate::tracker::Tracker;

/// A claim that is out: which partitions, under which epochs, and on whose behalf.
pub(super) struct Asked {
    partitions: Vec<(PartitionId, Epoch)>,
    /// A commit is in doubt: the answer tells what became of it.
    for_doubt: bool,
}

/// Why a partition stops whose progress is gone from the store that has its results.
const IS_LOST: &str = "its stored progress is gone, and so may be its results: if the store was restored or failed over, \
                       seek to where its results end";

/// First wait after a failed claim; it doubles up to five seconds.
pub(super) const CLAIM_BACKOFF: Duration = Duration::from_millis(100);

impl<O> Core<O> {
    /// Sends the claims that are due, one call at a time, and the questions behind them.
    pub(super) fn pump_claims(&mut self, actions: &mut Vec<Action<O>>) {
        self.pump_proof(actions);
        if !self.sink_busy {
            self.send_claim(actions);
        }
        if !self.sink_busy {
            self.send_first_starts(actions);
        }
        if self.resolve_out.is_none() {
            self.send_resolve(actions);
        }
    }

    fn send_claim(&mut self, actions: &mut Vec<Action<O>>) {
        let now = self.now;
        let (doubtful, for_doubt) = self.claims_for_doubt();
        let starts = self.stopping.is_none();
        let mut asked = Vec::new();
        let mut requests = Vec::new();
        for partition in self.partitions_mut() {
            let due = matches!(partition.phase, Phase::Claim { at } if at <= now)
                && starts
                && !partition.is_frozen();
            if due {
                partition.phase = Phase::Claiming;
            } else if !doubtful.contains(&partition.id) {
                continue;
            }
            asked.push((partition.id.clone(), partition.epoch));
            requests.push(ClaimRequest {
                partition: partition.id.clone(),
                topic_id: partition.topic_id,
            });
        }
        if !requests.is_empty() {
            requests.sort_by(|a, b| a.partition.cmp(&b.partition));
            self.claim_out = Some(Asked { partitions: asked, for_doubt });
            self.sink_busy = true;
            actions.push(Action::Claim(requests));
        }
    }

    /// The partitions of the commit in doubt that are still ours, if it is time to claim them. When
    /// none is left the doubt is over: whoever owns them now will look.
    fn claims_for_doubt(&mut self) -> (Vec<PartitionId>, bool) {
        let Some(batch) = self.committing.wants_claim(self.now) else {
            return (Vec::new(), false);
        };
        let spans = batch.spans().iter();
        let ours = spans.filter(|s| self.get(&s.partition).is_some_and(|p| p.epoch == s.epoch));
        let ours: Vec<PartitionId> = ours.map(|span| span.partition.clone()).collect();
        let for_doubt = !ours.is_empty();
        if !for_doubt {
            self.committing.doubt = None;
        }
        (ours, for_doubt)
    }

    pub(super) fn on_claimed(
        &mut self,
        result: Result<Vec<Claim>, SinkError>,
        actions: &mut Vec<Action<O>>,
    ) {
        self.sink_busy = false;
        let Some(Asked { partitions: asked, for_doubt }) = self.claim_out.take() else {
            return;
        };
        let cause = match result {
            Ok(claims) => {
                self.claim_failures = 0;
                let mut stored = Vec::new();
                for claim in claims {
                    let was_asked = asked.iter().find(|(id, _)| *id == claim.partition);
                    let Some((_, epoch)) = was_asked else {
                        continue;
                    };
                    if let Some(found) = self.on_claim(claim, *epoch, actions) {
                        stored.push(found);
                    }
                }
                if for_doubt {
                    self.resolve_doubt(&stored, actions);
                }
                return self.claim_again(&asked);
            }
            Err(SinkError::Stop(error)) => return self.on_claim_refused(error, for_doubt, actions),
            Err(SinkError::Rejected(rejection)) => {
                let error = Error::sink_failed(format_args!("claim: {}", rejection.cause));
                return self.on_claim_refused(error, for_doubt, actions);
            }
            Err(SinkError::Retry(cause) | SinkError::Fenced(cause)) => cause,
        };
        if cause.is_for_operator() {
            let error = Error::sink_failed(format_args!("claim: {cause}"));
            return self.on_claim_refused(error, for_doubt, actions);
        }
        self.claim_again(&asked);
    }

    /// Claims again, after a while, what was asked for and has no answer.
    fn claim_again(&mut self, asked: &[(PartitionId, Epoch)]) {
        let unanswered = |(id, epoch): &&(PartitionId, Epoch)| {
            self.get(id).is_some_and(|p| p.epoch == *epoch && p.phase == Phase::Claiming)
        };
        let unanswered: Vec<_> = asked.iter().filter(unanswered).cloned().collect();
        if unanswered.is_empty() && self.committing.doubt.is_none() {
            return;
        }
        self.claim_failures += 1;
        let doublings = self.claim_failures.min(6) - 1;
        let wait = self.jittered(CLAIM_BACKOFF * (1 << doublings));
        let at = self.now + wait;
        self.committing.claim_at = at;
        for (id, _) in unanswered {
            if let Some(partition) = self.get_mut(&id) {
                partition.phase = Phase::Claim { at };
            }
        }
    }

    /// The sink will never answer a claim: a commit in doubt stays in doubt, and nothing more may
    /// be stored.
    fn on_claim_refused(&mut self, error: Error, for_doubt: bool, actions: &mut Vec<Action<O>>) {
        if for_doubt {
            self.close_commits(error, actions);
        } else {
            self.begin_stop_with(error, actions);
        }
    }

    /// One answer of a claim. A partition that is being read gives its stored position back: it
    /// was claimed because of a commit in doubt. Nothing stored, or a refusal, is no position:
    /// the doubt takes that partition for taken over.
    fn on_claim(
        &mut self,
        claim: Claim,
        epoch: Epoch,
        actions: &mut Vec<Action<O>>,
    ) -> Option<Found> {
        let progress = self.config.progress;
        let (_, partition) = self.current(&claim.partition, epoch)?;
        let id = partition.id.clone();
        let stored = match &claim.stored {
            Stored::At(offset) => Some(*offset),
            _ => None,
        };
        actions.push(Action::Tell(EngineEvent::Claimed { partition: id.clone(), epoch, stored }));
        if partition.is_read() {
            return Some(Found { partition: id, stored });
        }
        if partition.phase != Phase::Claiming {
            return None;
        }
        // What is not stored any more although it was is not decided a second time: it goes on
        // where it is known to be, and that is stored again.
        let known = partition.has_stored.then_some(partition.committed).or(partition.known_start);
        let is_lost = progress == Progress::Sink && stored.is_none() && partition.has_results();
        partition.has_stored = stored.is_some();
        if is_lost {
            // The results are in the same store: to go on behind them could leave them out.
            self.fail(&claim.partition, IS_LOST.to_owned(), actions);
            return None;
        }
        let want = match (claim.stored, known) {
            (Stored::At(offset), _) => Wanted::Stored(id, offset),
            (Stored::Nothing | Stored::Added, Some(start)) => Wanted::Stored(id, start),
            (Stored::Nothing, None) if progress == Progress::Sink => {
                Wanted::StartOfTopic(id.topic().clone())
            }
            (Stored::Nothing, None) => Wanted::Start(id),
            (Stored::Added, None) if mutant::is("M28") => Wanted::End(id),
            (Stored::Added, None) => Wanted::Beginning(id),
            (Stored::Refused(cause), _) => {
                self.fail(&claim.partition, cause.to_string(), actions);
                return None;
            }
        };
        if let Wanted::Stored(_, offset) = &want {
            partition.committed = *offset;
        }
        partition.phase = Phase::Resolving { want };
        None
    }

    fn send_resolve(&mut self, actions: &mut Vec<Action<O>>) {
        let mut asked = Vec::new();
        let mut wanted = Vec::new();
        for partition in self.partitions() {
            if let Phase::Resolving { want } = &partition.phase {
                asked.push((partition.id.clone(), partition.epoch));
                if !wanted.contains(want) {
                    wanted.push(want.clone());
                }
            }
        }
        if !wanted.is_empty() {
            self.resolve_out = Some(asked);
            actions.push(Action::Resolve { call: Call::Starts, wanted });
        }
    }

    pub(super) fn on_resolved(
        &mut self,
        result: Result<Vec<Resolved>, SourceError>,
        actions: &mut Vec<Action<O>>,
    ) {
        let asked = self.resolve_out.take().unwrap_or_default();
        let found = match result {
            Ok(found) => found,
            Err(SourceError::Stop(error)) => return self.begin_stop_with(error, actions),
            Err(SourceError::Retry(_) | SourceError::Fenced(_)) => Vec::new(),
        };
        let mut moves: Vec<Move> = Vec::new();
        let mut topics = BTreeSet::new();
        for (id, epoch) in asked {
            let again = self.now + self.jittered(CLAIM_BACKOFF * 2);
            let Some((_, partition)) = self.current(&id, epoch) else {
                continue;
            };
            let Phase::Resolving { want } = &partition.phase else {
                continue;
            };
            let answer = match want {
                // One start alone would make the store take the topic's others for lost.
                Wanted::StartOfTopic(topic) if !is_whole(topic, &found) => None,
                _ => answer_to(want, &id, &found),
            };
            let reset = match answer {
                Some(Err(Unresolved::OutOfRange { high, .. })) if mutant::is("M27") => {
                    Some(Ok(*high))
                }
                _ => None,
            };
            match reset.as_ref().or(answer) {
                Some(Ok(offset)) if partition.has_stored => {
                    partition.committed = *offset;
                    partition.admitted = *offset;
                    partition.tracker = Tracker::new(*offset);
                    partition.phase = Phase::Ready;
                }
                Some(Ok(offset)) => {
                    if let Wanted::StartOfTopic(topic) = want {
                        topics.insert((topic.clone(), partition.topic_id.map(|id| id.0)));
                    }
                    moves.push(Move {
                        partition: id,
                        expected: None,
                        next: *offset,
                        topic_id: partition.topic_id,
                    });
                    partition.phase = Phase::Storing;
                }
                Some(Err(Unresolved::Temporary(_))) | None => {
                    partition.phase = Phase::Claim { at: again };
                }
                Some(Err(error)) => {
                    let error = error.to_string();
                    self.fail(&id, error, actions);
                }
            }
        }
        add_rest_of_topics(&mut moves, &topics, &found);
        self.first_starts.extend(moves);
    }
}

impl<O> Partition<O> {
    /// Whether its progress is known to stand behind something else than its first start.
    fn has_results(&self) -> bool {
        self.has_stored && self.known_start != Some(self.committed)
    }
}

/// The answer to this question. The start of a whole topic answers for each of its partitions, also
/// for those that have a stored position and only ask whether it still lies in the log.
fn answer_to<'a>(
    want: &Wanted,
    id: &PartitionId,
    found: &'a [Resolved],
) -> Option<&'a Result<Offset, Unresolved>> {
    let of_it = || found.iter().filter(|r| r.partition == *id).map(|r| &r.position);
    let Wanted::Stored(_, stored) = want else {
        return of_it().next();
    };
    let same = of_it().find(|position| position.as_ref().is_ok_and(|at| at == stored));
    same.or_else(|| of_it().find(|position| position.is_err()))
}

/// Whether every start of the topic was found, or can never be.
fn is_whole(topic: &Topic, found: &[Resolved]) -> bool {
    found
        .iter()
        .filter(|resolved| resolved.partition.topic() == topic)
        .all(|resolved| !matches!(resolved.position, Err(Unresolved::Temporary(_))))
}

/// What a claim for a commit in doubt found.
pub(super) struct Found {
    pub(super) partition: PartitionId,
    pub(super) stored: Option<Offset>,
}
