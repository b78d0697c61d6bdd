//! The records: a backlog that is there from the start, and a steady stream.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rdkafka::ClientConfig;
use rdkafka::types::RDKafkaErrorCode as Code;
use tidegate_kafka::limit::Output;

use crate::measure::now_nanos;

/// Partitions of every topic.
pub(crate) const PARTITIONS: i32 = 8;
/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 100;

fn output(bootstrap: &str, topic: &str, linger_ms: u32) -> Result<Output> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("acks", "1")
        .set("delivery.report.only.error", "true")
        .set("queue.buffering.max.messages", "100000")
        .set("linger.ms", linger_ms.to_string());
    Ok(Output::new(&config, topic)?)
}

fn send(output: &Output, number: u64, value: &[u8]) -> Result<()> {
    let partition = i32::try_from(number % u64::from(PARTITIONS.unsigned_abs()))?;
    loop {
        match output.send(partition, &number.to_be_bytes(), value) {
            Ok(()) => return Ok(()),
            Err(Code::QueueFull) => std::thread::sleep(Duration::from_millis(1)),
            Err(code) => bail!("produce: {code}"),
        }
    }
}

fn finish(output: &Output) -> Result<()> {
    match output.flush(Duration::from_secs(60)) {
        Ok(()) => Ok(()),
        Err(code) => bail!("flush: {code}"),
    }
}

/// Writes a backlog: record `n` has `n` as its key, and goes to the partitions in turn.
pub(crate) fn fill(bootstrap: &str, topic: &str, records: u64) -> Result<()> {
    let output = output(bootstrap, topic, 20)?;
    let mut value = [b'x'; VALUE_BYTES];
    for number in 0..records {
        value[..8].copy_from_slice(&number.to_be_bytes());
        send(&output, number, &value)?;
    }
    finish(&output)
}

/// Writes records at a steady rate; each value begins with the time at which it was due, whether
/// or not it could be sent then.
pub(crate) fn steady(bootstrap: &str, topic: &str, rate: u64, records: u64) -> Result<()> {
    let output = output(bootstrap, topic, 1)?;
    let mut value = [b'x'; VALUE_BYTES];
    let (begun, begun_nanos) = (Instant::now(), now_nanos());
    for number in 0..records {
        let at = number * 1_000_000_000 / rate;
        let wait = Duration::from_nanos(at).saturating_sub(begun.elapsed());
        if !wait.is_zero() {
            std::thread::sleep(wait.max(Duration::from_micros(500)));
        }
        value[..8].copy_from_slice(&(begun_nanos + at).to_be_bytes());
        send(&output, number, &value)?;
    }
    finish(&output)
}

/// When a record of a steady stream was due, in nanoseconds since 1970.
pub(crate) fn due(value: &[u8]) -> u64 {
    let (head, _) = value.split_first_chunk().expect("values have 100 bytes");
    u64::from_be_bytes(*head)
}
