//! The way back to a cluster of which the client knows no broker any more.
//!
//! A broker that was away says, until its controller has taken it back, that the cluster has no
//! brokers. librdkafka 2.12 then drops every broker it knows, this one among them, often together
//! with the return to `bootstrap.servers` that it has just begun, and never connects to anything
//! again (confluentinc/librdkafka#5301). So whoever waits for the cluster leads the client back.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::{Client, ClientContext};
use tidegate::mutant;

use crate::ffi;

/// How long the client is given to connect before it is led back again; doubled up to a limit,
/// because librdkafka remembers every repetition: in a day without brokers some hundred KiB.
const WAIT: Duration = Duration::from_secs(2);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// After how long without an answer the cluster may be lost.
const SILENCE: Duration = Duration::from_secs(5);

/// Where a client's cluster is found, and whether it is lost.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    servers: String,
    lost: Mutex<Option<Lost>>,
}

#[derive(Clone, Copy, Debug)]
struct Lost {
    due: Instant,
    wait: Duration,
}

impl Bootstrap {
    /// For a client of these servers.
    pub(crate) fn new(servers: &str) -> Self {
        Self { servers: servers.to_string(), lost: Mutex::default() }
    }

    /// No broker is known or answers.
    pub(crate) fn lost(&self) {
        self.state().get_or_insert_with(|| Lost { due: Instant::now(), wait: WAIT });
    }

    /// A broker answered.
    pub(crate) fn found(&self) {
        *self.state() = None;
    }

    /// Whoever has waited since then goes on waiting. librdkafka may have lost every broker without a
    /// word.
    pub(crate) fn wait_on<C: ClientContext>(&self, since: Instant, client: &Client<C>) {
        if since.elapsed() >= SILENCE {
            self.lost();
        }
        self.lead_back(client);
    }

    /// Tells the client once more where its cluster is, if that is lost and it is time to.
    pub(crate) fn lead_back<C: ClientContext>(&self, client: &Client<C>) {
        if self.take_turn(Instant::now()) && !mutant::is("M48") {
            tracing::debug!(servers = self.servers, "no broker is left: back to the first ones");
            ffi::add_brokers(client, &self.servers);
        }
    }

    fn take_turn(&self, now: Instant) -> bool {
        let mut state = self.state();
        let Some(lost) = state.as_mut().filter(|lost| lost.due <= now) else { return false };
        lost.due = now + lost.wait;
        lost.wait = (lost.wait * 2).min(WAIT_MAX);
        true
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Option<Lost>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_led_back_at_once_and_then_more_and_more_rarely() {
        let bootstrap = Bootstrap::new("localhost:9092");
        assert!(!bootstrap.take_turn(Instant::now()), "nothing is lost");
        bootstrap.lost();
        let begin = Instant::now();
        let mut turns = Vec::new();
        for second in 0..50 {
            bootstrap.lost();
            if bootstrap.take_turn(begin + Duration::from_secs(second)) {
                turns.push(second);
            }
        }
        assert_eq!(turns, [0, 2, 6, 14, 24, 34, 44]);
        bootstrap.found();
        assert!(!bootstrap.take_turn(begin + Duration::from_secs(600)), "it was found");
        bootstrap.lost();
        assert!(bootstrap.take_turn(Instant::now()), "lost anew");
    }
}
