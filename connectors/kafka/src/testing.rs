//! A Kafka inside the process, for demonstrations and tests without a server.
//!
//! It is librdkafka's mock cluster: real clients, of this and of other processes, reach it over
//! real sockets, and consumer groups and their offsets work. It is no witness of exactly-once *in*
//! Kafka: transactions are answered but not kept, so results belong in another sink. What else
//! differs from a real broker:
//!
//! - it keeps the last 5 MiB of each partition, in memory;
//! - an empty fetch waits for the whole of [`fetch_wait_max`], even if records come meanwhile;
//! - it knows no static members: a member that was killed stays until its session ends, whatever
//!   its instance name, so [`session_timeout`] is how long a restart takes, and one more second at
//!   most;
//! - topics are created by [`MockKafka::create_topic`] alone.
//!
//! [`fetch_wait_max`]: crate::KafkaSource::fetch_wait_max
//! [`session_timeout`]: crate::KafkaSource::session_timeout

use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, Producer as _};
use tidegate::Error;

use crate::ffi;

/// A cluster of one broker that lives as long as this value.
pub struct MockKafka {
    /// The client that hosts the cluster, in a thread of its own.
    host: BaseProducer,
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
        let host: BaseProducer = config.create().map_err(|error| failed(&error))?;
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

    fn cluster(&self) -> MockCluster<'_, impl rdkafka::ClientContext> {
        let cluster = self.host.client().mock_cluster();
        cluster.expect("the client was configured to host one, which was checked at the start")
    }
}

impl fmt::Debug for MockKafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MockKafka").field(&self.bootstrap()).finish()
    }
}
