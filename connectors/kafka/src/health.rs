//! Whether the source works: tells the engine when no broker answers or a topic is missing, and
//! asks until that is over. What librdkafka does not tell is found out by asking, too.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::metadata::MetadataTopic;
use tidegate::source::{EventSender, Health, SourceEvent};

use crate::context::Consumer;
use crate::error;
use crate::helper::Helper;
use crate::thread::{Command, Remote};

/// How often a broker or a topic that was missing is asked for.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often the cluster is asked for although nothing seems to be missing: librdkafka may have lost
/// every broker without a word, and who has no partitions loses none by that.
const ASK_ANYWAY: Duration = Duration::from_secs(10);
/// How long one such question may take.
const ASK_MAX: Duration = Duration::from_secs(2);

/// What comes of the questions.
pub(crate) enum Answer {
    /// The cluster answered; a topic that was missing exists, if there is one.
    Cluster(Option<String>),
    /// It did not, for this reason.
    Nothing(String),
    /// All have been asked, with or without an answer.
    Over,
}

/// Whether no broker answered, or the group went on without this member.
enum Trouble {
    /// It did not happen, or was told.
    None,
    Lasting,
    Ended(Instant),
}

/// What is missing now, and what was told of it.
pub(crate) struct HealthWatch {
    events: EventSender,
    no_broker: Option<String>,
    missing: BTreeSet<String>,
    told: Health,
    /// Something happened that a lost cluster would explain.
    doubted: bool,
    trouble: Trouble,
    asked_at: Instant,
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
            doubted: false,
            trouble: Trouble::None,
            asked_at: Instant::now(),
            asking: false,
        }
    }

    pub(crate) fn no_broker(&mut self, text: &str) {
        self.no_broker = Some(text.to_string());
        self.trouble = Trouble::Lasting;
        self.tell();
    }

    /// Whether some broker answers, as far as we know.
    pub(crate) fn has_broker(&self) -> bool {
        self.no_broker.is_none()
    }

    pub(crate) fn no_topic(&mut self, topic: Option<String>) {
        self.missing.extend(topic);
        self.tell();
    }

    /// The group went on without this member: perhaps because no broker could be asked.
    pub(crate) fn doubt(&mut self) {
        self.doubted = true;
        self.trouble = Trouble::Lasting;
    }

    /// Whether there was trouble until now or a moment ago, which is told once.
    pub(crate) fn take_trouble(&mut self, moment: Duration, now: Instant) -> bool {
        match std::mem::replace(&mut self.trouble, Trouble::None) {
            Trouble::None => false,
            Trouble::Lasting => true,
            Trouble::Ended(at) => now.duration_since(at) <= moment,
        }
    }

    /// The cluster answered a question, about this topic if there is one: it exists.
    pub(crate) fn answered(&mut self, topic: Option<String>) {
        self.no_broker = None;
        self.doubted = false;
        if matches!(self.trouble, Trouble::Lasting) {
            self.trouble = Trouble::Ended(Instant::now());
        }
        if let Some(topic) = topic {
            self.missing.remove(&topic);
        }
        self.tell();
    }

    /// What came of the questions.
    pub(crate) fn heard(&mut self, answer: Answer) {
        match answer {
            Answer::Cluster(topic) => self.answered(topic),
            Answer::Nothing(problem) if self.no_broker.is_none() => self.no_broker(&problem),
            Answer::Nothing(_) => {}
            Answer::Over => self.asking = false,
        }
    }

    /// Asks for what is missing, or only whether anybody is there, from time to time.
    pub(crate) fn watch(&mut self, consumer: &Arc<Consumer>, helper: &Helper, remote: &Remote) {
        if !self.take_turn(Instant::now()) {
            return;
        }
        let missing: Vec<String> = self.missing.iter().cloned().collect();
        let (consumer, remote) = (Arc::clone(consumer), remote.clone());
        helper.run(move || {
            ask(&consumer, &missing, &remote);
            remote.send(Command::Health(Answer::Over));
        });
    }

    /// Whether to ask now: soon, if something is missing or in doubt.
    fn take_turn(&mut self, now: Instant) -> bool {
        let soon = self.told != Health::Ready || self.doubted;
        let pause = if soon { ASK_EVERY } else { ASK_ANYWAY };
        if now.duration_since(self.asked_at) < pause || self.asking {
            return false;
        }
        self.asking = true;
        self.asked_at = now;
        true
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
    let bootstrap = &consumer.client().context().bootstrap;
    bootstrap.lead_back(consumer.client());
    // Any topic will do: the answer to one that does not exist is an answer as well.
    let any = [String::from("__consumer_offsets")];
    let topics = if missing.is_empty() { &any } else { missing };
    let mut problem = None;
    for topic in topics {
        match consumer.fetch_metadata(Some(topic), ASK_MAX) {
            // By a broker that its controller has not taken back yet.
            Ok(metadata) if metadata.brokers().is_empty() => {
                problem = Some(error::NO_BROKERS.to_string());
            }
            Ok(metadata) => {
                let exists =
                    |found: &MetadataTopic| found.name() == topic && found.error().is_none();
                let appeared = !missing.is_empty() && metadata.topics().iter().any(exists);
                let topic = appeared.then(|| topic.clone());
                remote.send(Command::Health(Answer::Cluster(topic)));
                bootstrap.found();
            }
            Err(error) => problem = Some(error.to_string()),
        }
    }
    if let Some(problem) = problem {
        bootstrap.lost();
        remote.send(Command::Health(Answer::Nothing(problem)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_is_asked_about_until_the_cluster_answers() {
        let (sender, _events) = EventSender::channel();
        let (mut watch, start) = (HealthWatch::new(sender), Instant::now());
        assert!(!watch.take_turn(start), "all is well");
        watch.doubt();
        let mut now = start + ASK_EVERY;
        assert!(watch.take_turn(now), "librdkafka reports nothing, but the group went on");
        assert!(!watch.take_turn(now + ASK_EVERY), "the answer is not here yet");
        watch.heard(Answer::Nothing("no answer".into()));
        watch.heard(Answer::Over);
        assert!(!watch.has_broker());
        assert!(!watch.take_turn(now + ASK_EVERY / 2), "too early");
        now += ASK_EVERY;
        assert!(watch.take_turn(now), "still in doubt");
        watch.heard(Answer::Cluster(None));
        watch.heard(Answer::Over);
        assert!(watch.has_broker());
        assert!(!watch.take_turn(now + ASK_EVERY), "the cluster answered");
    }

    #[test]
    fn the_cluster_is_asked_for_now_and_then_although_all_seems_well() {
        let (sender, _events) = EventSender::channel();
        let (mut watch, start) = (HealthWatch::new(sender), Instant::now());
        let mut turns = Vec::new();
        for second in 0..35 {
            if watch.take_turn(start + Duration::from_secs(second)) {
                turns.push(second);
                watch.heard(Answer::Cluster(None));
                watch.heard(Answer::Over);
            }
        }
        assert_eq!(turns, [10, 20, 30]);
    }

    #[test]
    fn trouble_is_told_once_and_for_a_moment_after_its_end() {
        let (sender, _events) = EventSender::channel();
        let (mut watch, moment) = (HealthWatch::new(sender), Duration::from_secs(60));
        assert!(!watch.take_trouble(moment, Instant::now()), "there was none");
        watch.no_broker("gone");
        let now = Instant::now();
        assert!(watch.take_trouble(moment, now + moment * 2), "no broker answers, for long");
        assert!(!watch.take_trouble(moment, now), "it was told");
        watch.answered(None);
        assert!(!watch.take_trouble(moment, Instant::now()), "it was told before it ended");
        watch.no_broker("gone again");
        watch.answered(None);
        let end = Instant::now();
        assert!(!watch.take_trouble(moment, end + moment * 2), "it is long over");
        watch.doubt();
        watch.answered(None);
        watch.answered(None);
        assert!(watch.take_trouble(moment, Instant::now() + moment / 2), "it is just over");
    }
}
