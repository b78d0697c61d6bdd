//! What the safe client cannot set on librdkafka's mock cluster.

use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};

/// Sets how long the mock cluster of this client waits for more members before it gives a new
/// group its first assignment; `false` if the client hosts no mock cluster.
pub(crate) fn set_initial_rebalance_delay<C: ClientContext>(
    client: &Client<C>,
    delay: Duration,
) -> bool {
    // SAFETY: the client is live for both calls, and its mock cluster lives as long as it does.
    unsafe {
        let cluster = sys::rd_kafka_handle_mock_cluster(client.native_ptr());
        if cluster.is_null() {
            return false;
        }
        let delay = i32::try_from(delay.as_millis()).unwrap_or(i32::MAX);
        sys::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, delay);
    }
    true
}
