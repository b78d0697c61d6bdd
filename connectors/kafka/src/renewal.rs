//! A consumer that fenced itself is replaced by a new one.
//!
//! Under an instance name the group knows one member. Whatever comes from another one under the same
//! name is answered as if two processes had it, and librdkafka then refuses to work for good. When a
//! broker was away, that other one can be this consumer itself, a moment ago:
//!
//! - librdkafka 2.12 keeps a commit that was not answered and sends it again when a broker is back.
//!   If the session ended meanwhile, it does so without a member id, before it joins anew.
//! - A request to join can be repeated over a new connection before a broker that had stood still
//!   reads the first one, which then takes the place of the second.
//!
//! So whoever is fenced after such trouble joins anew, once. If there really is another process,
//! one of the two is fenced by that without any trouble of its own, and ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use tidegate::record::PartitionId;
use tidegate::source::SourceEvent;
use tidegate::{Error, mutant};

use crate::commits::Commits;
use crate::context::Consumer;
use crate::ffi::WakingQueue;
use crate::thread::Reader;

/// How long after the trouble a member may learn that it was fenced: joining waits for all others.
const LATE_MAX: Duration = Duration::from_secs(5 * 60);

/// Makes a consumer like the first one, subscribed.
pub(crate) type Again = Box<dyn Fn() -> Result<Consumer, Error> + Send>;

impl Reader {
    /// Whether the consumer is broken by what may have been a late request of its own.
    pub(crate) fn may_have_fenced_itself(&mut self) -> bool {
        let fatal = self.consumer.client().fatal_error();
        let is_fenced = fatal.is_some_and(|(code, _)| code == Code::FencedInstanceId);
        is_fenced && self.health.take_trouble(LATE_MAX, Instant::now()) && !mutant::is("M49")
    }

    /// Goes on with a new consumer. What the old one had is lost, as it is whenever a session ends.
    pub(crate) fn renew(&mut self) {
        if self.give_up_closing() {
            return;
        }
        tracing::warn!("fenced, perhaps by an own request from before the trouble: joins anew");
        match (self.again)() {
            Ok(consumer) => self.go_on_with(Arc::new(consumer)),
            Err(error) => self.fail(error),
        }
    }

    fn go_on_with(&mut self, consumer: Arc<Consumer>) {
        let Some(main) = WakingQueue::main(&consumer, &self.waker) else {
            return self.fail(Error::source_failed("the new consumer has no queue"));
        };
        let mut lost: BTreeSet<PartitionId> = self.partitions.drain().map(|(id, _)| id).collect();
        lost.extend(self.rebalances.abandon());
        if !lost.is_empty() {
            self.events.send(SourceEvent::Lost(lost.into_iter().collect()));
        }
        self.commits = Commits::new(&consumer, &self.waker);
        self.main = main;
        self.current.set(Arc::clone(&consumer));
        let old = std::mem::replace(&mut self.consumer, consumer);
        old.client().context().leave_unattended();
        // The end of a consumer may wait for its broker.
        let end = std::thread::Builder::new().name("tidegate-kafka-former".into());
        if let Err(error) = end.spawn(move || drop(old)) {
            tracing::debug!(%error, "the former consumer ends on the thread of the new one");
        }
        self.orphans.group_changed(Instant::now());
        self.events.send(SourceEvent::GroupChanged);
    }
}
