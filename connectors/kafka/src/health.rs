//! Whether the source works: tells the engine when no broker answers or a topic is missing, and
//! asks until that is over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use tidegate::source::{EventSender, Health, SourceEvent};

use crate::context::Consumer;
use crate::helper::Helper;
use crate::thread::{Command, Remote};

/// How often a broker or a topic that was missing is asked for.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long one such question may take.
const ASK_MAX: Duration = Duration::from_secs(2);

/// What is missing now, and what was told of it.
pub(crate) struct HealthWatch {
    events: EventSender,
    no_broker: Option<String>,
    missing: BTreeSet<String>,
    told: Health,
    asked_at: Option<Instant>,
    /// Questions wait for the network: new ones only when the last were answered or given up.
    asking: bool,
}

impl HealthWatch {
    pub(crate) fn new(events: EventSender) -> Self {
        Self {
            events,
            no_broker: None,
            missing: BTreeSet::new(),
            told: Health::Ready,
            asked_at: None,
            asking: false,
        }
    }

    pub(crate) fn no_broker(&mut self, text: &str) {
        self.no_broker = Some(text.to_string());
        self.tell();
    }

    pub(crate) fn no_topic(&mut self, topic: Option<String>) {
        self.missing.extend(topic);
        self.tell();
    }

    /// The cluster answered a question, about this topic if there is one: it exists.
    pub(crate) fn answered(&mut self, topic: Option<String>) {
        self.no_broker = None;
        if let Some(topic) = topic {
            self.missing.remove(&topic);
        }
        self.tell();
    }

    pub(crate) fn asked(&mut self) {
        self.asking = false;
    }

    /// Asks for what is missing, from time to time.
    pub(crate) fn watch(&mut self, consumer: &Arc<Consumer>, helper: &Helper, remote: &Remote) {
        let due = self.asked_at.is_none_or(|at| at.elapsed() >= ASK_EVERY);
        if self.told == Health::Ready || !due || self.asking {
            return;
        }
        self.asking = true;
        self.asked_at = Some(Instant::now());
        let missing: Vec<String> = self.missing.iter().cloned().collect();
        let (consumer, remote) = (Arc::clone(consumer), remote.clone());
        helper.run(move || {
            ask(&consumer, &missing, &remote);
            remote.send(Command::Asked);
        });
    }

    fn tell(&mut self) {
        let health = match (&self.no_broker, self.missing.first()) {
            (Some(text), _) => Health::Waiting(format!("no broker answers: {text}")),
            (None, Some(topic)) => Health::Waiting(format!("topic {topic} does not exist yet")),
            (None, None) => Health::Ready,
        };
        if health != self.told {
            tracing::info!(?health, "source health");
            self.told = health.clone();
            self.events.send(SourceEvent::Health(health));
        }
    }
}

/// Asks the cluster for the topics that are missing, or for itself if none is.
fn ask(consumer: &Consumer, missing: &[String], remote: &Remote) {
    if missing.is_empty() {
        // Any topic will do: the answer to one that does not exist is an answer as well.
        if consumer.fetch_metadata(Some("__consumer_offsets"), ASK_MAX).is_ok() {
            remote.send(Command::Answered(None));
        }
        return;
    }
    for topic in missing {
        let Ok(metadata) = consumer.fetch_metadata(Some(topic), ASK_MAX) else {
            continue;
        };
        let exists =
            metadata.topics().iter().any(|found| found.name() == topic && found.error().is_none());
        remote.send(Command::Answered(exists.then(|| topic.clone())));
    }
}
