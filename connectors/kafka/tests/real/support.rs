//! What the tests share: topics and groups of their own, a member that answers group events by
//! hand, and an independent reader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset as KafkaOffset, TopicPartitionList};
use tidegate::batch::{Batch, Finished, Outcome, Outputs, Span};
use tidegate::record::{Epoch, Offset, PartitionId, RawRecord};
use tidegate::sink::{ClaimRequest, CommitError, DeadLetters, SinkContext, TransactionalSink};
use tidegate::source::{
    Assignment, Chunk, Credit, EventSender, Revocation, Source, SourceContext, SourceEvent, Start,
};
use tidegate_kafka::{Kafka, KafkaSink, KafkaSource, Message};
use tokio::sync::mpsc::UnboundedReceiver;

/// Longer than anything takes on a healthy machine under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn bootstrap() -> String {
    // Shows the logs of a test that is looked at: `RUST_LOG=debug … -- --nocapture`.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    std::env::var("TIDEGATE_KAFKA").expect(
        "these tests need a Kafka broker: run `scripts/test`, or set TIDEGATE_KAFKA=host:port",
    )
}

pub(crate) fn kafka() -> Kafka {
    Kafka::connect(bootstrap())
}

/// A name no other test and no earlier run has used.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_millis();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{now}-{next}", std::process::id())
}

pub(crate) fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap());
    config
}

pub(crate) fn admin() -> AdminClient<DefaultClientContext> {
    config().create().expect("an admin client")
}

/// A new topic with a name of its own.
pub(crate) async fn topic(name: &str, partitions: i32) -> String {
    topic_with(name, partitions, &[]).await
}

pub(crate) async fn topic_with(name: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
    let name = unique(name);
    create(&name, partitions, settings).await;
    name
}

pub(crate) async fn create(name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (key, value) in settings {
        topic = topic.set(key, value);
    }
    let made = admin().create_topics([&topic], &AdminOptions::new()).await;
    for result in made.expect("create topics") {
        result.expect("the topic is created");
    }
    // The answer comes before every broker knows the topic.
    let begun = Instant::now();
    let client: BaseConsumer = config().create().expect("a consumer");
    loop {
        let metadata = client.fetch_metadata(Some(name), PATIENCE).expect("metadata");
        let found = &metadata.topics()[0];
        let led = found.partitions().iter().all(|p| p.leader() >= 0 && p.error().is_none());
        if found.error().is_none() && found.partitions().len() == partitions as usize && led {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{name} has no leaders");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writes values `0..count` to one partition.
pub(crate) fn fill(topic: &str, partition: i32, count: u32) {
    let producer: BaseProducer = config().create().expect("a producer");
    for number in 0..count {
        write(&producer, topic, partition, &number.to_string());
    }
    producer.flush(PATIENCE).expect("delivered");
}

/// A transactional producer whose transaction begun here.
pub(crate) fn open_transaction(name: &str) -> BaseProducer {
    open_transaction_as(&unique(name))
}

/// As [`open_transaction`], under this transactional id.
pub(crate) fn open_transaction_as(id: &str) -> BaseProducer {
    let producer: BaseProducer = config().set("transactional.id", id).create().expect("a producer");
    producer.init_transactions(PATIENCE).expect("init");
    producer.begin_transaction().expect("begin");
    producer
}

pub(crate) fn write(producer: &BaseProducer, topic: &str, partition: i32, value: &str) {
    let record = BaseRecord::<str, str>::to(topic).partition(partition).payload(value);
    producer.send(record).map_err(|(error, _)| error).expect("queued");
}

/// What stands in a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Read {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Read {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.value.clone().expect("a value")).expect("text")
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().rev().find(|(found, _)| found == name)?;
        Some(String::from_utf8(value.clone()?).expect("text"))
    }
}

/// Everything committed in a topic, by a reader that shares no code with the source.
pub(crate) fn read_all(topic: &str) -> Vec<Read> {
    read_isolated(topic, "read_committed")
}

pub(crate) fn read_isolated(topic: &str, isolation: &str) -> Vec<Read> {
    let consumer: BaseConsumer = config()
        .set("group.id", unique("reader"))
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        // The end is seen where the broker has nothing for so long: also while others write.
        .set("fetch.wait.max.ms", "1")
        .set("auto.offset.reset", "earliest")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
    let partitions = metadata.topics()[0].partitions().len();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions as i32 {
        list.add_partition_offset(topic, partition, KafkaOffset::Beginning).expect("offset");
    }
    consumer.assign(&list).expect("assign");
    let (mut reads, mut ends) = (Vec::new(), 0);
    let begun = Instant::now();
    while ends < partitions {
        assert!(begun.elapsed() < PATIENCE, "{topic} could not be read to its end");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => reads.push(Read {
                partition: message.partition(),
                offset: message.offset(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                timestamp: message.timestamp().to_millis(),
                headers: message.headers().map_or_else(Vec::new, |headers| {
                    headers
                        .iter()
                        .map(|h| (h.key.to_string(), h.value.map(<[u8]>::to_vec)))
                        .collect()
                }),
            }),
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ends += 1,
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
    }
    reads.sort_by_key(|read| (read.partition, read.offset));
    reads
}

/// What the group has stored for a partition, as a stranger reads it.
pub(crate) fn stored(group: &str, topic: &str, partition: i32) -> Option<i64> {
    let consumer: BaseConsumer = config()
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    let begun = Instant::now();
    let list = loop {
        match consumer.committed_offsets(list.clone(), PATIENCE) {
            Ok(list) => break list,
            // The broker is only just getting ready to coordinate the group.
            Err(error) if begun.elapsed() < PATIENCE => {
                eprintln!("{group}: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => panic!("{group}: {error}"),
        }
    };
    match list.elements()[0].offset() {
        KafkaOffset::Offset(offset) => Some(offset),
        _ => None,
    }
}

pub(crate) fn source_context(group: &str) -> SourceContext {
    SourceContext {
        group: group.into(),
        instance: None,
        drain_max: Duration::from_secs(10),
        claim_max: Duration::from_secs(10),
        start_max: Duration::from_secs(30),
    }
}

pub(crate) fn sink_context(group: &str) -> SinkContext {
    SinkContext {
        group: group.into(),
        instance: None,
        deadline: Duration::from_secs(30),
        dead_letters: DeadLetters::Never,
    }
}

/// A source whose group events the test answers itself.
pub(crate) struct Member {
    pub(crate) source: KafkaSource,
    pub(crate) events: UnboundedReceiver<SourceEvent>,
    /// The epoch of every partition it was started under.
    pub(crate) epochs: BTreeMap<PartitionId, Epoch>,
    last_epoch: u64,
}

impl Member {
    pub(crate) async fn join(source: KafkaSource, group: &str) -> Self {
        Self::join_with(source, &source_context(group)).await
    }

    pub(crate) async fn join_with(mut source: KafkaSource, context: &SourceContext) -> Self {
        if let Ok(debug) = std::env::var("TIDEGATE_TEST_DEBUG") {
            source = source.set("debug", debug);
        }
        let (sender, events) = EventSender::channel();
        source.open(context, sender).await.expect("the source opens");
        Self { source, events, epochs: BTreeMap::new(), last_epoch: 0 }
    }

    /// The next event; what says nothing of partitions or records is left out.
    pub(crate) async fn event(&mut self) -> SourceEvent {
        // A deadline: the ends of the logs are told every second.
        let until = Instant::now() + PATIENCE;
        loop {
            match self.any_event_until(until).await {
                SourceEvent::GroupChanged | SourceEvent::Health(_) | SourceEvent::Ends(_) => {}
                event => return event,
            }
        }
    }

    pub(crate) async fn any_event(&mut self) -> SourceEvent {
        self.any_event_until(Instant::now() + PATIENCE).await
    }

    async fn any_event_until(&mut self, until: Instant) -> SourceEvent {
        tokio::time::timeout_at(until.into(), self.events.recv())
            .await
            .expect("an event in time")
            .expect("the source lives")
    }

    /// Whether nothing but membership noise arrives for a while.
    pub(crate) async fn is_quiet_for(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.events.recv()).await {
                Err(_) => return true,
                Ok(Some(
                    SourceEvent::GroupChanged | SourceEvent::Health(_) | SourceEvent::Ends(_),
                )) => {}
                Ok(other) => {
                    eprintln!("not quiet: {other:?}");
                    return false;
                }
            }
        }
    }

    pub(crate) async fn assigned(&mut self) -> Assignment {
        match self.event().await {
            SourceEvent::Assigned(assignment) => assignment,
            other => panic!("expected an assignment, got {other:?}"),
        }
    }

    /// The next revocation; records before it are left out.
    pub(crate) async fn revoked(&mut self) -> Revocation {
        loop {
            match self.event().await {
                SourceEvent::Revoked(revocation) => return revocation,
                SourceEvent::Records(_) | SourceEvent::End { .. } => {}
                other => panic!("expected a revocation, got {other:?}"),
            }
        }
    }

    /// Answers an assignment: every partition starts at this offset.
    pub(crate) fn answer(&mut self, assignment: Assignment, offset: impl Fn(&PartitionId) -> i64) {
        let starts = assignment
            .partitions
            .iter()
            .map(|assigned| self.start(&assigned.partition, offset(&assigned.partition)))
            .collect();
        assignment.answer(starts);
    }

    /// A start under the next epoch.
    pub(crate) fn start(&mut self, partition: &PartitionId, offset: i64) -> Start {
        self.last_epoch += 1;
        let epoch = Epoch::new(self.last_epoch);
        self.epochs.insert(partition.clone(), epoch);
        Start { partition: partition.clone(), epoch, offset: Offset::new(offset) }
    }

    pub(crate) fn credit(&mut self, partition: &PartitionId, records: u32, bytes: u64) {
        self.source.credit(vec![Credit {
            partition: partition.clone(),
            epoch: self.epochs[partition],
            records,
            bytes,
        }]);
    }

    pub(crate) fn credit_all(&mut self) {
        for partition in self.epochs.keys().cloned().collect::<Vec<_>>() {
            self.credit(&partition, u32::MAX, u64::MAX);
        }
    }

    /// Reads so many records; ends of partitions on the way are left out.
    pub(crate) async fn read(&mut self, count: usize) -> Vec<Arc<RawRecord>> {
        let mut records = Vec::new();
        while records.len() < count {
            match self.event().await {
                SourceEvent::Records(chunk) => records.extend(self.checked(chunk)),
                SourceEvent::End { .. } => {}
                other => panic!("expected records, got {other:?}"),
            }
        }
        records
    }

    /// Reads until the end of this partition; the records and the end.
    pub(crate) async fn read_to_end(
        &mut self,
        partition: &PartitionId,
    ) -> (Vec<Arc<RawRecord>>, i64) {
        let mut records = Vec::new();
        loop {
            match self.event().await {
                SourceEvent::Records(chunk) => records.extend(self.checked(chunk)),
                SourceEvent::End { partition: ended, epoch, next } => {
                    assert_eq!(self.epochs[&ended], epoch, "the end is of the current epoch");
                    if ended == *partition {
                        return (records, next.get());
                    }
                }
                other => panic!("expected records, got {other:?}"),
            }
        }
    }

    /// The records of a chunk, which must be of the partition's current epoch.
    pub(crate) fn checked(&self, chunk: Chunk) -> Vec<Arc<RawRecord>> {
        assert_eq!(self.epochs[&chunk.partition], chunk.epoch, "records of the current epoch");
        assert!(!chunk.records.is_empty() && chunk.records.len() <= 1024);
        chunk.records
    }

    pub(crate) async fn close(mut self) {
        let closing = self.source.close();
        tokio::pin!(closing);
        loop {
            tokio::select! {
                () = &mut closing => return,
                event = self.events.recv() => match event {
                    Some(SourceEvent::Revoked(revocation)) => revocation.answer(),
                    Some(_) => {}
                    None => return,
                },
            }
        }
    }
}

/// A member alone in its group with the sink of its source, its one topic claimed and started.
pub(crate) struct Copier {
    pub(crate) member: Member,
    pub(crate) sink: KafkaSink,
    pub(crate) group: String,
    pub(crate) output: String,
}

impl Copier {
    pub(crate) async fn start(input: &str, output: &str) -> Self {
        let group = unique("copier");
        let source = kafka().source(input);
        let sink = source.sink().lineage();
        Self::start_with(source, sink, &group, output).await
    }

    pub(crate) async fn start_with(
        source: KafkaSource,
        mut sink: KafkaSink,
        group: &str,
        output: &str,
    ) -> Self {
        sink.open(&sink_context(group)).await.expect("the sink opens");
        let member = Member::join(source, group).await;
        let mut copier = Self { member, sink, group: group.into(), output: output.into() };
        let assignment = copier.member.assigned().await;
        let claims = copier.claim(&assignment).await;
        copier.member.answer(assignment, |id| claims[id].unwrap_or(0));
        copier.member.credit_all();
        copier
    }

    /// Claims what an assignment brings; where each partition resumes.
    pub(crate) async fn claim(
        &mut self,
        assignment: &Assignment,
    ) -> BTreeMap<PartitionId, Option<i64>> {
        let requests: Vec<ClaimRequest> = assignment
            .partitions
            .iter()
            .map(|assigned| ClaimRequest {
                partition: assigned.partition.clone(),
                topic_id: assigned.topic_id,
            })
            .collect();
        claim(&mut self.sink, &requests).await
    }

    /// Commits. A doubt, which a slow machine brings by itself, is settled by a claim, as the
    /// engine does.
    pub(crate) async fn store(&mut self, batch: &Batch<Message>) {
        for _ in 0..3 {
            match self.sink.commit(batch).await {
                Ok(()) => return,
                Err(CommitError::InDoubt(cause)) => eprintln!("in doubt: {cause}"),
                Err(other) => panic!("{other}"),
            }
            let spans = batch.spans().iter();
            let requests: Vec<ClaimRequest> = spans
                .map(|span| ClaimRequest { partition: span.partition.clone(), topic_id: None })
                .collect();
            let stored = claim(&mut self.sink, &requests).await;
            if batch.spans().iter().all(|span| stored[&span.partition] == Some(span.next.get())) {
                return;
            }
        }
        panic!("in doubt again and again");
    }

    pub(crate) fn batch(&self, records: &[Arc<RawRecord>], first: i64) -> Batch<Message> {
        let partition = records[0].partition.clone();
        let epoch = self.member.epochs[&partition];
        batch(records, first, epoch, &self.output)
    }
}

pub(crate) async fn claim(
    sink: &mut KafkaSink,
    requests: &[ClaimRequest],
) -> BTreeMap<PartitionId, Option<i64>> {
    let claims = sink.claim(requests).await.expect("claimed");
    claims
        .into_iter()
        .map(|claim| {
            let offset = match claim.stored {
                tidegate::sink::Stored::At(offset) => Some(offset.get()),
                tidegate::sink::Stored::Nothing => None,
                other => panic!("{other:?}"),
            };
            (claim.partition, offset)
        })
        .collect()
}

/// A batch that copies these records of one partition.
pub(crate) fn batch(
    records: &[Arc<RawRecord>],
    first: i64,
    epoch: Epoch,
    output: &str,
) -> Batch<Message> {
    let last = records.last().expect("records");
    let span = Span {
        partition: last.partition.clone(),
        epoch,
        first: Offset::new(first),
        next: last.offset.next(),
    };
    let finished = records
        .iter()
        .map(|record| Finished {
            record: Arc::clone(record),
            outcome: Outcome::Emit(Outputs::One(copy(record, output))),
            attempts: 1,
        })
        .collect();
    Batch::new(vec![span], finished)
}

pub(crate) fn copy(record: &RawRecord, output: &str) -> Message {
    Message {
        topic: output.into(),
        partition: None,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record.headers.clone(),
        timestamp: None,
    }
}

pub(crate) fn numbers(records: &[Arc<RawRecord>]) -> Vec<u32> {
    records
        .iter()
        .map(|record| {
            let value = record.value.as_ref().expect("a value");
            std::str::from_utf8(value).expect("text").parse().expect("a number")
        })
        .collect()
}
