//! What the core tells: replies to requests, and events for observers.

use super::super::coverage::Seen;
use super::super::log::number;
use super::super::world::Shared;
use super::{Asked, Member};
use crate::engine::core::ControlReply;
use crate::engine::observe::EngineEvent;

impl Member {
    pub(super) fn replied(&mut self, id: u64, reply: &ControlReply, shared: &mut Shared) {
        let Some(asked) = self.waiting.remove(&id) else {
            return shared.fail(format!("request {id} is answered twice"));
        };
        shared
            .trace
            .say(shared.now, || format!("m{} replies to {asked:?}: {reply:?}", self.number));
        let ControlReply::Done(result) = reply else { return };
        match (asked, result) {
            (Asked::Pause(which), Ok(())) => {
                shared.cover.saw(Seen::Paused);
                match which {
                    Some(partition) => self.paused.extend([partition]),
                    None => self.paused.extend(0..shared.logs.len()),
                }
            }
            (Asked::Resume(Some(partition)), Ok(())) => self.paused.retain(|p| *p != partition),
            (Asked::Resume(None), Ok(())) => self.paused.clear(),
            (Asked::Seek(_), Err(_)) => shared.cover.saw(Seen::SeekRefused),
            _ => {}
        }
    }

    pub(super) fn told(&mut self, event: &EngineEvent, shared: &mut Shared) {
        shared.trace.say(shared.now, || format!("m{} {event:?}", self.number));
        match event {
            EngineEvent::Started { partition, epoch, .. } => {
                self.epochs.insert(number(partition), *epoch);
            }
            EngineEvent::Dropped { partition, epoch, why, .. } => {
                shared.trace.note(shared.now, self.number, why, &[number(partition) as i64]);
                if self.epochs.get(&number(partition)) == Some(epoch) {
                    self.epochs.remove(&number(partition));
                }
                if *why == "taken over" {
                    shared.cover.saw(Seen::TakenOver);
                }
                if *why == "lost" {
                    shared.cover.saw(Seen::GaveUpLost);
                }
            }
            EngineEvent::DoubtResolved { spans, stored } => {
                shared.cover.saw(match stored {
                    true => Seen::DoubtFoundStored,
                    false => Seen::DoubtFoundNotStored,
                });
                // Found stored, it may have been stored by another owner, or before a seek that a
                // fail-over undid: it is there, once. And a seek back makes what was stored undone.
                let mut partitions = spans.iter().map(|span| number(&span.partition));
                let is_certain = !stored && !partitions.any(|p| shared.history.was_sought(p));
                if let Some(id) = self.delivery.doubt.take().filter(|_| is_certain) {
                    let checked = shared.history.attempts.told(id, false);
                    shared.check(checked);
                }
            }
            EngineEvent::Stopping { .. } => {
                self.stops_by = Some(shared.now + shared.plan.limits.stop_max);
            }
            EngineEvent::Retrying { .. } => shared.cover.saw(Seen::Retried),
            EngineEvent::DeadLettered { .. } => shared.cover.saw(Seen::DeadLettered),
            EngineEvent::Skipped { by: "operator", .. } => {
                shared.cover.saw(Seen::SkippedByOperator);
            }
            EngineEvent::Skipped { .. } => shared.cover.saw(Seen::SkippedByPolicy),
            _ => {}
        }
    }
}
