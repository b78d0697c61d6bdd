//! What a member does, in the trace: two runs of a seed that differ in anything differ in it.

use super::super::checker::Effect;
use super::super::log::number;
use super::super::world::Shared;
use super::Member;
use crate::engine::core::Action;
use crate::record::PartitionId;

impl Member {
    pub(super) fn note_action(&self, action: &Action<Effect>, shared: &mut Shared) {
        let at = |id: &PartitionId| number(id) as i64;
        let (what, numbers): (&str, Vec<i64>) = match action {
            Action::AnswerAssigned { starts, .. } => {
                ("answers assigned", starts.iter().map(|start| start.offset.get()).collect())
            }
            Action::AnswerRevoked { .. } => ("answers revoked", vec![]),
            Action::Credit(grants) => (
                "credit",
                grants
                    .iter()
                    .flat_map(|grant| {
                        [at(&grant.partition), i64::from(grant.records), grant.bytes as i64]
                    })
                    .collect(),
            ),
            Action::StartReading(starts) => {
                ("reads", starts.iter().map(|start| start.offset.get()).collect())
            }
            Action::Resolve { wanted, .. } => ("asks where", vec![wanted.len() as i64]),
            Action::Prove(spans) | Action::Admit(spans) => {
                ("stores", spans.iter().map(|span| span.next.get()).collect())
            }
            Action::Mirror(positions) => {
                ("mirrors", positions.iter().map(|position| position.next.get()).collect())
            }
            Action::Claim(requests) => {
                ("claims", requests.iter().map(|request| at(&request.partition)).collect())
            }
            Action::Reposition { moves, .. } => {
                ("moves", moves.iter().map(|to| to.next.get()).collect())
            }
            Action::Commit(batch) => {
                let spans = batch.spans().iter();
                ("commits", spans.flat_map(|span| [span.first.get(), span.next.get()]).collect())
            }
            Action::Release { partitions, .. } => ("releases", partitions.iter().map(at).collect()),
            Action::Run(jobs) => {
                let tickets = jobs.iter().flat_map(|job| &job.tickets);
                ("runs", tickets.map(|ticket| ticket.record.offset.get()).collect())
            }
            Action::WriteOff { seq, .. } => ("writes off", vec![*seq as i64]),
            Action::Reply { id, .. } => ("replies", vec![*id as i64]),
            Action::Tell(_) => ("tells", vec![]),
            Action::Finish(result) => ("ends", vec![i64::from(result.is_ok())]),
        };
        shared.trace.hash_of(shared.now, self.number, what, &numbers);
    }
}
