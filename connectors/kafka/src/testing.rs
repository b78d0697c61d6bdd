//! A Kafka inside the process, for demonstrations and tests without a server.
//!
//! It is librdkafka's mock cluster: real clients, of this and of other processes, reach it over
//! real sockets, and consumer groups and their offsets work. It is no witness of exactly-once *in*
//! Kafka: transactions are answered but not kept, so results belong in another sink. What else
//! differs from a real broker:
//!
//! - it keeps the last 5 MiB of each partition, in memory;
//! - an empty fetch waits for the whole of [`fetch_wait_max`], even if records come meanwhile;
//! - it knows no static members: one that was killed and comes back under its instance name waits
//!   for the end of its own old session, unless [`MockKafka::forget_member`] is called;
//! - whenever a member comes or goes, the group waits for the others: for its [`session_timeout`]
//!   less a second, or the whole of one that is no longer than a second;
//! - topics are created by [`MockKafka::create_topic`] alone.
//!
//! [`fetch_wait_max`]: crate::KafkaSource::fetch_wait_max
//! [`session_timeout`]: crate::KafkaSource::session_timeout

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use tidegate::Error;

use crate::bootstrap::Bootstrap;
use crate::ffi;

/// How long the broker may take to answer a request of ours.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A cluster of one broker that lives as long as this value.
pub struct MockKafka {
    /// The client that hosts the cluster, in a thread of its own. Another one hands on its log.
    host: ThreadedProducer<Host>,
}

/// Listens to what the cluster says of itself.
#[derive(Default)]
struct Host {
    /// The member that was heard last, of whatever group.
    member: Mutex<Option<String>>,
}

impl rdkafka::ClientContext for Host {
    fn log(&self, _: RDKafkaLogLevel, _: &str, message: &str) {
        let member = message
            .split_once("Marking mock consumer group member ")
            .and_then(|(_, rest)| rest.strip_suffix(" as active"));
        if let Some(member) = member {
            let mut last = self.member.lock().unwrap_or_else(PoisonError::into_inner);
            *last = Some(member.to_owned());
        }
    }
}

impl ProducerContext for Host {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

impl MockKafka {
    /// Starts one on a free port of this machine.
    ///
    /// # Errors
    /// If there is no port or no thread to be had.
    pub fn start() -> Result<Self, Error> {
        let failed = |problem: &dyn fmt::Display| {
            Error::source_failed(format_args!("the mock cluster did not start: {problem}"))
        };
        let mut config = ClientConfig::new();
        config.set("test.mock.num.brokers", "1");
        // Only its log says which members a group has.
        config.set("debug", "mock").set_log_level(RDKafkaLogLevel::Debug);
        let host: ThreadedProducer<Host> =
            config.create_with_context(Host::default()).map_err(|error| failed(&error))?;
        // A real broker waits too, so that a group that starts whole is assigned once. Here nobody
        // should wait, and a session shorter than the delay would end before its first assignment.
        if !ffi::set_initial_rebalance_delay(host.client(), Duration::ZERO) {
            return Err(failed(&"the client hosts none"));
        }
        Ok(Self { host })
    }

    /// Its address, as [`Kafka::connect`](crate::Kafka::connect) takes it.
    pub fn bootstrap(&self) -> String {
        self.cluster().bootstrap_servers()
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// If it exists, or the number of partitions is not positive.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), Error> {
        self.cluster().create_topic(name, partitions, 1).map_err(|error| {
            Error::source_failed(format_args!("topic {name} was not created: {error}"))
        })
    }

    /// Takes the member that was heard last out of this group, as if it had left: for a group of
    /// one whose process was killed. A real broker does as much for a static member, which is
    /// recognised when it comes back under its instance name.
    ///
    /// # Errors
    /// If the cluster does not answer.
    pub fn forget_member(&self, group: &str) -> Result<(), Error> {
        let host = self.host.client().context();
        let last = host.member.lock().unwrap_or_else(PoisonError::into_inner).take();
        match last {
            None => Ok(()),
            Some(member) => leave_group(&self.bootstrap(), group, &member).map_err(|error| {
                Error::source_failed("the mock cluster does not answer").with_source(error)
            }),
        }
    }

    fn cluster(&self) -> MockCluster<'_, impl rdkafka::ClientContext> {
        let cluster = self.host.client().mock_cluster();
        cluster.expect("the client was configured to host one, which was checked at the start")
    }
}

/// The way back to a cluster of which a client knows no broker any more, for clients of tests that
/// are no pipelines: librdkafka 2.12 may have forgotten every broker it knew
/// (confluentinc/librdkafka#5301).
#[derive(Debug)]
pub struct WayBack(Bootstrap);

impl WayBack {
    /// For a client of these servers.
    #[must_use]
    pub fn new(servers: &str) -> Self {
        Self(Bootstrap::new(servers))
    }

    /// The client reported
    /// [`AllBrokersDown`](rdkafka::types::RDKafkaErrorCode::AllBrokersDown).
    pub fn lost(&self) {
        self.0.lost();
    }

    /// A broker answered.
    pub fn found(&self) {
        self.0.found();
    }

    /// Tells the client its first brokers again, if it is time to and it has lost all, or has waited
    /// for an answer for some seconds.
    pub fn wait_on<C: rdkafka::ClientContext>(&self, since: Instant, client: &Client<C>) {
        self.0.wait_on(since, client);
    }
}

/// Sends a LeaveGroup request, version 1, and waits for the answer. No client sends it for another.
fn leave_group(address: &str, group: &str, member: &str) -> io::Result<()> {
    const LEAVE_GROUP: i16 = 13;
    let mut request = Vec::new();
    request.extend(LEAVE_GROUP.to_be_bytes());
    request.extend(1i16.to_be_bytes());
    request.extend(0i32.to_be_bytes());
    for text in ["tidegate", group, member] {
        let length = i16::try_from(text.len()).map_err(io::Error::other)?;
        request.extend(length.to_be_bytes());
        request.extend(text.as_bytes());
    }
    let mut broker = TcpStream::connect(address)?;
    broker.set_read_timeout(Some(ANSWER_MAX))?;
    broker.write_all(&i32::try_from(request.len()).map_err(io::Error::other)?.to_be_bytes())?;
    broker.write_all(&request)?;
    // Length, correlation, throttle time, error: a member that is gone already is gone.
    broker.read_exact(&mut [0; 14])
}

impl fmt::Debug for MockKafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MockKafka").field(&self.bootstrap()).finish()
    }
}
