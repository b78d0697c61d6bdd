//! A member alone in its group on a mock cluster.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use tidegate::batch::{Batch, Finished, Outcome, Outputs, Span};
use tidegate::record::{Epoch, Headers, Offset, PartitionId, Record};
use tidegate::sink::{ClaimRequest, CommitError, DeadLetters, SinkContext, TransactionalSink};
use tidegate::source::{Credit, EventSender, Source, SourceContext, SourceEvent, Start};
use tidegate_kafka::{Kafka, KafkaSink, KafkaSource, Message};
use tokio::sync::mpsc::UnboundedReceiver;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const INPUT: &str = "input";
const OUTPUT: &str = "output";

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A member alone in its group on a mock cluster, with the sink of its source, started.
pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
    pub(crate) source: KafkaSource,
    pub(crate) sink: KafkaSink,
    pub(crate) events: UnboundedReceiver<SourceEvent>,
    pub(crate) partition: PartitionId,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(Duration::from_secs(10)).await
    }

    /// With transactions that may stay open for so long.
    pub(crate) async fn start_with(transaction_timeout: Duration) -> Self {
        Self::start_as(None, transaction_timeout).await
    }

    /// A member with this instance name.
    pub(crate) async fn start_named(instance: &str) -> Self {
        Self::start_as(Some(instance.into()), Duration::from_secs(10)).await
    }

    async fn start_as(instance: Option<String>, transaction_timeout: Duration) -> Self {
        let cluster = MockCluster::new(3).expect("a mock cluster");
        for topic in [INPUT, OUTPUT] {
            cluster.create_topic(topic, 1, 1).expect("a topic");
        }
        cluster
            .coordinator(MockCoordinator::Transaction("g-one-0".into()), 2)
            .expect("a coordinator");
        let mut source = Kafka::connect(cluster.bootstrap_servers())
            .source(INPUT)
            .fetch_wait_max(Duration::from_millis(10))
            .session_timeout(Duration::from_secs(6));
        let mut sink = source.sink().transaction_timeout(transaction_timeout);
        let context = SinkContext {
            group: "g".into(),
            instance: Some("one".into()),
            deadline: Duration::from_secs(30),
            dead_letters: DeadLetters::Never,
        };
        sink.open(&context).await.expect("the sink opens");
        let (sender, events) = EventSender::channel();
        let context = SourceContext {
            group: "g".into(),
            instance,
            drain_max: Duration::from_secs(5),
            claim_max: Duration::from_secs(5),
            start_max: Duration::from_secs(30),
        };
        source.open(&context, sender).await.expect("the source opens");
        let mut rig = Self { cluster, source, sink, events, partition: PartitionId::new(INPUT, 0) };
        rig.start_partition(1, 0).await;
        rig
    }

    pub(crate) async fn event(&mut self) -> SourceEvent {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.events.recv());
            match event.await.expect("an event in time").expect("the source lives") {
                SourceEvent::GroupChanged
                | SourceEvent::Health(_)
                | SourceEvent::Ends(_)
                | SourceEvent::End { .. } => {}
                event => return event,
            }
        }
    }

    /// Waits for so many records.
    pub(crate) async fn reads(&mut self, count: usize) {
        let mut read = 0;
        while read < count {
            match self.event().await {
                SourceEvent::Records(chunk) => read += chunk.records.len(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits for an assignment and starts its partition under this epoch.
    pub(crate) async fn start_partition(&mut self, epoch: u64, offset: i64) {
        let assignment = loop {
            match self.event().await {
                SourceEvent::Assigned(assignment) => break assignment,
                SourceEvent::Records(_) => {}
                other => panic!("expected an assignment, got {other:?}"),
            }
        };
        assert_eq!(assignment.partitions[0].partition, self.partition);
        assert_eq!(assignment.partitions[0].topic_id, None, "the mock has no ids");
        let epoch = Epoch::new(epoch);
        assignment.answer(vec![Start {
            partition: self.partition.clone(),
            epoch,
            offset: Offset::new(offset),
        }]);
        self.source.credit(vec![Credit {
            partition: self.partition.clone(),
            epoch,
            records: u32::MAX,
            bytes: u64::MAX,
        }]);
        // Until the thread has acted on the answer a commit is refused.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    pub(crate) fn produce(&self, count: usize) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .create()
            .expect("a producer");
        for number in 0..count {
            let value = number.to_string();
            let record = BaseRecord::<str, str>::to(INPUT).payload(&value);
            producer.send(record).map_err(|(error, _)| error).expect("queued");
        }
        producer.flush(PATIENCE).expect("delivered");
    }

    /// A batch of one record with one result, under this epoch.
    pub(crate) fn batch(&self, epoch: u64) -> Batch<Message> {
        let record = Record {
            partition: self.partition.clone(),
            offset: Offset::ZERO,
            timestamp: None,
            key: None,
            value: Some(Bytes::from_static(b"x")),
            headers: Headers::default(),
        };
        let span = Span {
            partition: self.partition.clone(),
            epoch: Epoch::new(epoch),
            first: Offset::ZERO,
            next: Offset::new(1),
        };
        let finished = Finished {
            record: Arc::new(record),
            outcome: Outcome::Emit(Outputs::One(Message::to(OUTPUT).value("y"))),
            attempts: 1,
        };
        Batch::new(vec![span], vec![finished])
    }

    pub(crate) async fn claim(&mut self) {
        let request = ClaimRequest { partition: self.partition.clone(), topic_id: None };
        self.sink.claim(&[request]).await.expect("claimed");
    }

    pub(crate) async fn commit_fails(&mut self) -> CommitError {
        let batch = self.batch(1);
        self.sink.commit(&batch).await.expect_err("an injected error")
    }

    /// After a failure that was definite the same sink goes on; after another one it does so with
    /// a claim.
    pub(crate) async fn goes_on(&mut self) {
        let batch = self.batch(1);
        self.sink.commit(&batch).await.expect("the same batch again");
    }

    pub(crate) async fn close(mut self) {
        self.sink.close().await;
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
