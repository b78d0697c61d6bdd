//! Reads topics back as a reader of committed data sees them, for whoever checks a pipeline from
//! outside. It joins no group, stores no offset and keeps nothing of what it reads.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::util::Timeout;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tidegate::Error;
use tidegate::record::{Lineage, Offset, PartitionId, Topic};

use crate::context::{Consumer, Context};
use crate::error;
use crate::helper::Helper;
use crate::outbox::HEADER_SOURCE;
use crate::settings::Kafka;
use crate::start;

/// How long one question to the cluster may take.
const ASK_MAX: Duration = Duration::from_secs(10);
/// How long nothing may come before reading is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(100);

/// A part of a partition: what lies in `first..next`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadRange {
    /// The partition; each may be named once.
    pub partition: PartitionId,
    /// The first offset to read.
    pub first: Offset,
    /// The first offset not to read.
    pub next: Offset,
}

/// A record as a reader of committed data sees it.
pub struct ReadRecord<'a> {
    /// Which of the ranges it lies in, counted from 0.
    pub range: usize,
    /// Its offset.
    pub offset: Offset,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// What it says it was made from; `None` if it does not say, or not as Tidegate does.
    pub lineage: Option<Lineage<'a>>,
}

impl std::fmt::Debug for ReadRecord<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Where it is, not what it holds.
        write!(f, "ReadRecord({}/{})", self.range, self.offset)
    }
}

/// See [`Kafka::read_committed`].
pub(crate) async fn read<S: Send + 'static>(
    kafka: &Kafka,
    group: &str,
    ranges: Vec<ReadRange>,
    state: S,
    step: impl FnMut(&mut S, &ReadRecord<'_>) + Send + 'static,
) -> Result<S, Error> {
    let mut config = kafka.common()?;
    config
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        .set("allow.auto.create.topics", "false")
        .set("fetch.wait.max.ms", "100")
        .set("queued.max.messages.kbytes", "16384");
    let consumer: Consumer =
        config.create_with_context(Context::new(kafka)).map_err(|error| start::refused(&error))?;
    let helper = Helper::start("tidegate-kafka-read")
        .map_err(|error| Error::source_failed("a thread cannot be started").with_source(error))?;
    let (mut state, mut step) = (state, step);
    let job = move || {
        // Serves what waits, the request for a first token among it.
        consumer.poll(Duration::ZERO);
        for topic in topics(&ranges) {
            read_topic(&consumer, &topic, &ranges, &mut |record| step(&mut state, record))?;
        }
        Ok(state)
    };
    let answer = helper.ask(job).await;
    answer.unwrap_or_else(|| Err(Error::source_failed("the helper thread ended")))
}

/// The topics of these ranges, each once. They are read one after another, because the client tells
/// of the end of a partition by its number alone.
fn topics(ranges: &[ReadRange]) -> BTreeSet<Topic> {
    ranges.iter().map(|range| range.partition.topic().clone()).collect()
}

fn read_topic(
    consumer: &Consumer,
    topic: &Topic,
    ranges: &[ReadRange],
    step: &mut dyn FnMut(&ReadRecord<'_>),
) -> Result<(), Error> {
    // By the number of the partition.
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut list = TopicPartitionList::new();
    for (number, range) in ranges.iter().enumerate() {
        if range.partition.topic() != topic || range.first >= range.next {
            continue;
        }
        check(consumer, range)?;
        let index = range.partition.index();
        let offset = KafkaOffset::Offset(range.first.get());
        list.add_partition_offset(topic.as_str(), index, offset)
            .map_err(|error| failed(topic, &error))?;
        let place = usize::try_from(index).unwrap_or_default();
        open.resize(open.len().max(place + 1), None);
        open[place] = Some(number);
    }
    consumer.assign(&list).map_err(|error| failed(topic, &error))?;
    let mut left = list.count();
    let mut heard = Instant::now();
    let bootstrap = &consumer.client().context().bootstrap;
    while left > 0 {
        let (index, ended) = match consumer.poll(Timeout::After(POLL)) {
            Some(Ok(message)) => {
                let place = usize::try_from(message.partition()).unwrap_or(usize::MAX);
                let Some(number) = open.get(place).copied().flatten() else { continue };
                (place, hand_on(&message, number, &ranges[number], step))
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                (usize::try_from(partition).unwrap_or(usize::MAX), true)
            }
            // Told of connections, also while the first ones are exchanged for others: whether
            // records come is what counts.
            Some(Err(error)) if is_of_connections(error::code_of(&error)) => continue,
            Some(Err(error)) => return Err(failed(topic, &error)),
            None if heard.elapsed() > SILENCE_MAX => {
                let why = format_args!("nothing comes although {left} partitions have not ended");
                return Err(failed(topic, &why));
            }
            None => {
                bootstrap.wait_on(heard, consumer.client());
                continue;
            }
        };
        heard = Instant::now();
        if ended && open.get_mut(index).is_some_and(|number| number.take().is_some()) {
            left -= 1;
        }
    }
    bootstrap.found();
    consumer.unassign().map_err(|error| failed(topic, &error))
}

fn is_of_connections(code: Code) -> bool {
    matches!(code, Code::AllBrokersDown | Code::BrokerTransportFailure | Code::OperationTimedOut)
}

/// Everything in the range must be there and readable: what was deleted, and what stands behind an
/// open transaction, would look as if it had never been written.
fn check(consumer: &Consumer, range: &ReadRange) -> Result<(), Error> {
    let ReadRange { partition, first, next } = range;
    let (topic, index) = (partition.topic().as_str(), partition.index());
    let marks = consumer.fetch_watermarks(topic, index, ASK_MAX);
    // A reader of committed data is answered the end of what is decided.
    let (start, end) = marks.map_err(|error| failed(partition, &error))?;
    if start > first.get() {
        let why =
            format_args!("records from {first} to {start} were deleted before they were read");
        return Err(failed(partition, &why));
    }
    if end < next.get() {
        let why = format_args!("an open transaction hides what lies from {end} to {next}");
        return Err(failed(partition, &why));
    }
    Ok(())
}

/// Hands a record on; answers whether the range has ended with it.
fn hand_on(
    message: &BorrowedMessage<'_>,
    number: usize,
    range: &ReadRange,
    step: &mut dyn FnMut(&ReadRecord<'_>),
) -> bool {
    let Some(offset) = Offset::try_new(message.offset()).filter(|offset| *offset < range.next)
    else {
        return true;
    };
    // The last one: a record that was itself a result brings the one it came with.
    let source = message.headers().and_then(|headers| {
        let named = |header: &rdkafka::message::Header<'_, &[u8]>| header.key == HEADER_SOURCE;
        headers.iter().filter(named).last().and_then(|header| header.value)
    });
    let text = source.and_then(|bytes| std::str::from_utf8(bytes).ok());
    step(&ReadRecord {
        range: number,
        offset,
        key: message.key(),
        value: message.payload(),
        lineage: text.and_then(Lineage::parse),
    });
    offset.next() >= range.next
}

fn failed(what: &dyn std::fmt::Display, error: &dyn std::fmt::Display) -> Error {
    Error::source_failed(format_args!("{what} cannot be read: {error}"))
}
