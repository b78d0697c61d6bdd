//! A broker that, for a while, knows of no brokers: as one does that was away, until its controller
//! has taken it back. The mock cluster cannot say that, so this one speaks as much of the protocol
//! as a client needs to ask who is there.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tidegate::batch::{Batch, Finished, Outcome, Outputs, Span};
use tidegate::record::{Epoch, Headers, Offset, PartitionId, Record};
use tidegate::sink::{DeadLetters, Sink, SinkContext};
use tidegate::source::{EventSender, Health, Source, SourceContext, SourceEvent};
use tidegate_kafka::{Kafka, Message};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: &str = "input";
const METADATA: i16 = 3;
const FIND_COORDINATOR: i16 = 10;
const API_VERSIONS: i16 = 18;
const INIT_PRODUCER_ID: i16 = 22;
/// What is spoken, without compact encodings.
const SPOKEN: [(i16, i16, i16); 4] =
    [(METADATA, 0, 4), (FIND_COORDINATOR, 0, 0), (API_VERSIONS, 0, 0), (INIT_PRODUCER_ID, 0, 0)];
const LEADER_NOT_AVAILABLE: i16 = 5;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const UNSUPPORTED_VERSION: i16 = 35;

#[derive(Default)]
struct State {
    forgetting: AtomicBool,
    /// Answers without a broker, and with one.
    forgetful: AtomicUsize,
    useful: AtomicUsize,
}

struct Broker {
    address: String,
    state: Arc<State>,
}

impl Broker {
    /// Its threads end with the process.
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                // A connection ends when the client leaves.
                std::thread::spawn(move || serve(stream, port, &state));
            }
        });
        Self { address: format!("127.0.0.1:{port}"), state }
    }

    fn forgets(&self, forgets: bool) {
        self.state.forgetting.store(forgets, Ordering::SeqCst);
    }

    /// Waits until it has answered more often than now.
    async fn answers(&self, count: impl Fn(&State) -> &AtomicUsize) {
        let before = count(&self.state).load(Ordering::SeqCst);
        let answered = async {
            while count(&self.state).load(Ordering::SeqCst) == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, answered).await.expect("somebody asks the broker");
    }
}

fn serve(mut stream: TcpStream, port: u16, state: &State) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).map_err(io::Error::other)?;
        let mut request = vec![0; length];
        stream.read_exact(&mut request)?;
        let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
        let (api, version) = (number(0), number(2));
        let mut body = Body::default();
        match api {
            API_VERSIONS => api_versions(&mut body, version),
            METADATA => metadata(&mut body, version, port, state),
            FIND_COORDINATOR => {
                body.i16(COORDINATOR_NOT_AVAILABLE).i32(-1).string("").i32(-1);
            }
            INIT_PRODUCER_ID => {
                body.i32(0).i16(0).bytes(&[0; 8]).i16(0);
            }
            other => return Err(io::Error::other(format!("request {other} was not offered"))),
        }
        // The answer repeats the number of the request.
        let answer = [&request[4..8], &body.0].concat();
        let length = i32::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(&answer)?;
    }
}

fn api_versions(body: &mut Body, version: i16) {
    body.i16(if version == 0 { 0 } else { UNSUPPORTED_VERSION }).count(SPOKEN.len());
    for (api, first, last) in SPOKEN {
        body.i16(api).i16(first).i16(last);
    }
}

fn metadata(body: &mut Body, version: i16, port: u16, state: &State) {
    assert_eq!(version, 4, "the newest one that is spoken");
    let forgetting = state.forgetting.load(Ordering::SeqCst);
    body.i32(0).count(usize::from(!forgetting));
    if forgetting {
        state.forgetful.fetch_add(1, Ordering::SeqCst);
    } else {
        state.useful.fetch_add(1, Ordering::SeqCst);
        body.i32(1).string("127.0.0.1").i32(port.into()).null();
    }
    let (error, leader) = if forgetting { (LEADER_NOT_AVAILABLE, -1) } else { (0, 1) };
    body.string("the cluster").i32(if forgetting { -1 } else { 1 });
    body.count(1).i16(0).string(TOPIC).bytes(&[0]);
    body.count(1).i16(error).i32(0).i32(leader).count(1).i32(1).count(1).i32(1);
}

#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }

    fn i16(&mut self, number: i16) -> &mut Self {
        self.bytes(&number.to_be_bytes())
    }

    fn i32(&mut self, number: i32) -> &mut Self {
        self.bytes(&number.to_be_bytes())
    }

    fn count(&mut self, count: usize) -> &mut Self {
        self.i32(count.try_into().expect("few"))
    }

    fn string(&mut self, text: &str) -> &mut Self {
        self.i16(text.len().try_into().expect("short")).bytes(text.as_bytes())
    }

    fn null(&mut self) -> &mut Self {
        self.i16(-1)
    }
}

async fn health(events: &mut UnboundedReceiver<SourceEvent>) -> Health {
    let heard = async {
        loop {
            match events.recv().await.expect("the source lives") {
                SourceEvent::Health(health) => return health,
                SourceEvent::GroupChanged => {}
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(PATIENCE, heard).await.expect("the source tells how it is")
}

/// librdkafka drops every broker then and, if its threads fall so, connects to nothing any more
/// (confluentinc/librdkafka#5301): mostly within the first of these rounds.
#[tokio::test]
async fn a_client_comes_back_to_a_broker_that_knew_of_no_brokers() {
    let broker = Broker::start();
    let mut source =
        Kafka::connect(&broker.address).source(TOPIC).topic_refresh(Duration::from_millis(100));
    let (sender, mut events) = EventSender::channel();
    source.open(&source_context(), sender).await.expect("the broker answers");
    for round in 1..=5 {
        broker.forgets(true);
        let lost = health(&mut events).await;
        assert!(matches!(lost, Health::Waiting(_)), "round {round}: {lost:?}");
        assert!(broker.state.forgetful.load(Ordering::SeqCst) > 0, "nothing was forgotten");
        broker.forgets(false);
        let found = health(&mut events).await;
        assert!(matches!(found, Health::Ready), "round {round}: {found:?}");
    }
    source.close().await;
}

/// The sink without transactions keeps its producer, whatever happens.
#[tokio::test]
async fn a_producer_comes_back_to_a_broker_that_knew_of_no_brokers() {
    let broker = Broker::start();
    let mut sink =
        Kafka::connect(&broker.address).sink().set("topic.metadata.refresh.interval.ms", "100");
    let context = SinkContext {
        group: "g".into(),
        instance: None,
        deadline: Duration::from_secs(30),
        dead_letters: DeadLetters::Never,
    };
    sink.open(&context).await.expect("the broker answers");
    // Only a topic that is written to is asked for again and again. This broker takes nothing.
    let batch = one_message();
    let writing = tokio::spawn(async move { sink.write(&batch).await });
    for _ in 0..5 {
        broker.answers(|state| &state.useful).await;
        broker.forgets(true);
        broker.answers(|state| &state.forgetful).await;
        // Until the connection is closed.
        tokio::time::sleep(Duration::from_millis(500)).await;
        broker.forgets(false);
    }
    broker.answers(|state| &state.useful).await;
    assert!(!writing.is_finished(), "it is still the same producer");
    writing.abort();
}

#[tokio::test]
async fn an_admin_comes_back_to_a_broker_that_knew_of_no_brokers() {
    let broker = Broker::start();
    let admin = Kafka::connect(&broker.address).admin().expect("a client");
    admin.partitions([TOPIC]).await.expect("the broker answers");
    for round in 1..=3 {
        broker.forgets(true);
        let nothing = admin.partitions([TOPIC]).await.expect_err("there is no cluster");
        assert!(nothing.to_string().contains("no brokers yet"), "round {round}: {nothing}");
        // Until the connection is closed.
        tokio::time::sleep(Duration::from_millis(500)).await;
        broker.forgets(false);
        admin.partitions([TOPIC]).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
}

/// A broker that starts listens before its controller has let it in.
#[tokio::test]
async fn a_source_that_starts_too_early_finds_the_cluster() {
    let broker = Broker::start();
    broker.forgets(true);
    let mut source = Kafka::connect(&broker.address).source(TOPIC);
    let (sender, _events) = EventSender::channel();
    let opening = tokio::spawn(async move {
        source.open(&source_context(), sender).await.expect("the broker answers");
        source.close().await;
    });
    broker.answers(|state| &state.forgetful).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!opening.is_finished(), "there was no cluster yet");
    broker.forgets(false);
    opening.await.expect("it is opened");
}

fn source_context() -> SourceContext {
    SourceContext {
        group: "g".into(),
        instance: None,
        drain_max: Duration::from_secs(10),
        claim_max: Duration::from_secs(10),
        start_max: Duration::from_secs(10),
    }
}

fn one_message() -> Batch<Message> {
    let partition = PartitionId::new(TOPIC, 0);
    let record = Record {
        partition: partition.clone(),
        offset: Offset::ZERO,
        timestamp: None,
        key: None,
        value: None,
        headers: Headers::default(),
    };
    let finished = Finished {
        record: Arc::new(record),
        outcome: Outcome::Emit(Outputs::One(Message::to(TOPIC).value("y"))),
        attempts: 1,
    };
    let span = Span { partition, epoch: Epoch::new(1), first: Offset::ZERO, next: Offset::new(1) };
    Batch::new(vec![span], vec![finished])
}
