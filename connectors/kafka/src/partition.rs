//! One assigned partition: its credit, its place in the log, and how fetched messages become
//! chunks of records.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tidegate::Cause;
use tidegate::mutant;
use tidegate::record::{Epoch, Header, Headers, Offset, PartitionId, RawRecord, Record, Timestamp};
use tidegate::source::{Chunk, Credit, EventSender, SourceEvent, Start};

use crate::ffi::{PartitionQueue, Row, RowKind};

/// Records in one chunk at most: handing a chunk over wakes two threads, which costs more than many
/// records.
const CHUNK_RECORDS_MAX: usize = 1024;
/// Bytes from which on a chunk takes no more: one record that is kept keeps its whole chunk.
const CHUNK_BYTES_MAX: u64 = 1 << 20;
/// Bytes a chunk's buffer starts with before the partition's habits are known.
const BUFFER_BYTES_FIRST: usize = 4096;
/// Header names remembered per partition, so that they are not allocated for every record.
const NAMES_MAX: usize = 16;

/// What becomes of the messages librdkafka has fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nobody said yet where it starts: it is ours, but librdkafka does not know of it.
    Parked,
    /// Records are sent as far as credit goes.
    Reading,
    /// The group takes it back, or it failed: nothing is read any more.
    Stopped,
}

/// A partition that is assigned to this member.
pub(crate) struct Partition {
    pub(crate) id: PartitionId,
    /// Missing until librdkafka is assigned the partition.
    queue: Option<PartitionQueue>,
    state: State,
    epoch: Epoch,
    next: Offset,
    credit_records: u64,
    /// Less than none behind a record that was larger than what was left.
    credit_bytes: i64,
    /// librdkafka must be told our position before anything is taken; not before this instant.
    seek: Option<Instant>,
    /// Seeks that failed in a row.
    pub(crate) seek_failures: u32,
    /// Which assignment brought it, so that a late answer to an earlier one is not mistaken.
    pub(crate) assignment: u64,
    /// Under which member id the group gave it.
    member: Arc<str>,
    /// Whether headers are read.
    headers: bool,
    buffer_bytes: usize,
    names: VecDeque<Arc<str>>,
}

/// How much a partition sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Drained {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// Whether more may be taken at once.
    pub(crate) more: bool,
}

impl Partition {
    /// A partition that the group just gave us.
    pub(crate) fn new(id: PartitionId, assignment: u64, member: Arc<str>, headers: bool) -> Self {
        Self {
            id,
            queue: None,
            state: State::Parked,
            epoch: Epoch::new(0),
            next: Offset::ZERO,
            credit_records: 0,
            credit_bytes: 0,
            seek: None,
            seek_failures: 0,
            assignment,
            member,
            headers,
            buffer_bytes: BUFFER_BYTES_FIRST,
            names: VecDeque::new(),
        }
    }

    /// Whether it was given to the member of this id. Another one has no right to it.
    pub(crate) fn is_of(&self, member: &str) -> bool {
        *self.member == *member || mutant::is("M47")
    }

    /// Whether librdkafka fetches it; before that it must be assigned, not sought.
    pub(crate) fn is_fetched(&self) -> bool {
        self.queue.is_some()
    }

    /// librdkafka is about to be assigned the partition at [`next`](Self::next).
    pub(crate) fn fetch_from(&mut self, queue: PartitionQueue) {
        self.queue = Some(queue);
        self.seek_done();
    }

    /// librdkafka does not fetch it any more: it must be assigned anew.
    pub(crate) fn fetcher_ended(&mut self, now: Instant) {
        self.queue = None;
        self.seek_failures = 0;
        self.demand_seek(now);
    }

    /// The epoch it is read under, if it was started.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        (self.state != State::Parked).then_some(self.epoch)
    }

    /// Whether nobody has said yet where it starts.
    pub(crate) fn is_parked(&self) -> bool {
        self.state == State::Parked
    }

    /// The next offset to hand on.
    pub(crate) fn next(&self) -> Offset {
        self.next
    }

    /// Goes on at another place under another epoch: what was fetched before is discarded, and
    /// librdkafka must be told.
    pub(crate) fn reposition(&mut self, start: &Start, now: Instant) {
        self.state = State::Reading;
        self.epoch = start.epoch;
        self.next = start.offset;
        self.credit_records = 0;
        self.credit_bytes = 0;
        self.demand_seek(now);
    }

    /// librdkafka's position cannot be trusted any more: it must be told ours.
    pub(crate) fn demand_seek(&mut self, at: Instant) {
        if self.state == State::Reading {
            self.discard();
            self.seek = Some(at);
        }
    }

    /// When librdkafka must be told our position.
    pub(crate) fn seek_due(&self) -> Option<Instant> {
        self.seek
    }

    /// librdkafka was told our position: whatever it hands out now was fetched there.
    pub(crate) fn seek_done(&mut self) {
        self.seek = None;
        self.seek_failures = 0;
    }

    /// Hands on nothing more.
    pub(crate) fn stop(&mut self) {
        self.discard();
        self.seek = None;
        if self.state == State::Reading {
            self.state = State::Stopped;
        }
    }

    /// Allows more, if it is of the current epoch.
    pub(crate) fn grant(&mut self, credit: &Credit) {
        if self.epoch() == Some(credit.epoch) {
            self.credit_records = self.credit_records.saturating_add(credit.records.into());
            self.credit_bytes = self.credit_bytes.saturating_add_unsigned(credit.bytes);
        }
    }

    fn discard(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.clear();
        }
    }

    /// Whether it could be read and may not.
    pub(crate) fn waits(&self) -> bool {
        self.state == State::Reading && !self.has_credit()
    }

    fn has_credit(&self) -> bool {
        self.credit_records > 0 && self.credit_bytes > 0
    }

    /// Sends what is fetched and allowed, at most one chunk and the end or the failure behind it.
    pub(crate) fn drain(&mut self, events: &EventSender) -> Drained {
        if self.state != State::Reading || self.seek.is_some() || !self.has_credit() {
            return Drained::default();
        }
        // Taken out, so that the rest of the partition can change while its rows are looked at.
        let Some(mut queue) = self.queue.take() else {
            return Drained::default();
        };
        let allowed = usize::try_from(self.credit_records).unwrap_or(usize::MAX);
        let more_fetched = queue.fill(CHUNK_RECORDS_MAX.min(allowed));
        let mut drained = self.send_records(&mut queue, events);
        self.send_end_or_failure(&mut queue, events);
        drained.more = self.state == State::Reading
            && self.has_credit()
            && (more_fetched || queue.front().is_some());
        self.queue = Some(queue);
        drained
    }

    /// Sends the records at the head of the queue, as far as credit goes.
    fn send_records(&mut self, queue: &mut PartitionQueue, events: &EventSender) -> Drained {
        let mut chunk = ChunkBuilder::new(self.buffer_bytes, queue.held());
        let (mut place, mut next) = (0, self.next);
        while let Some(row) = queue.row(place) {
            let is_full = chunk.bytes >= CHUNK_BYTES_MAX || !self.has_credit();
            if is_full || !matches!(row.kind(), RowKind::Record) {
                break;
            }
            place += 1;
            let offset = Offset::try_new(row.offset()).expect("a record has an offset");
            // librdkafka may fetch the last records again when it pauses for a rebalance.
            if offset < next {
                continue;
            }
            let names = self.headers.then_some(&mut self.names);
            let bytes = chunk.push(&row, offset, names);
            next = offset.next();
            self.credit_records -= 1;
            self.credit_bytes = self.credit_bytes.saturating_sub_unsigned(bytes);
        }
        queue.release(place);
        self.next = next;
        let drained = Drained { records: chunk.rows.len() as u64, bytes: chunk.bytes, more: false };
        if drained.records > 0 {
            self.buffer_bytes = chunk.buffer.len().max(BUFFER_BYTES_FIRST);
            events.send(SourceEvent::Records(Chunk {
                partition: self.id.clone(),
                epoch: self.epoch,
                records: chunk.finish(&self.id),
            }));
        }
        drained
    }

    /// Sends the end of the partition or its failure, if that is what comes next.
    fn send_end_or_failure(&mut self, queue: &mut PartitionQueue, events: &EventSender) {
        while let Some(row) = queue.front() {
            match row.kind() {
                RowKind::Record => return,
                RowKind::End => {
                    let next = Offset::try_new(row.offset()).unwrap_or(self.next);
                    queue.release(1);
                    if next < self.next {
                        continue;
                    }
                    self.next = next;
                    events.send(SourceEvent::End {
                        partition: self.id.clone(),
                        epoch: self.epoch,
                        next,
                    });
                }
                RowKind::Error => {
                    let cause = Cause::new(format_args!(
                        "{} cannot be read on at offset {}: {}",
                        self.id,
                        self.next,
                        row.error()
                    ));
                    tracing::error!(partition = %self.id, next = %self.next, %cause, "partition failed");
                    queue.clear();
                    self.stop();
                    events.send(SourceEvent::PartitionFailed {
                        partition: self.id.clone(),
                        epoch: self.epoch,
                        cause,
                    });
                    return;
                }
            }
        }
    }
}

/// Copies messages into one buffer, and makes records that share it.
struct ChunkBuilder {
    buffer: Vec<u8>,
    rows: Vec<CopiedRow>,
    bytes: u64,
}

struct CopiedRow {
    offset: Offset,
    timestamp: Option<Timestamp>,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Vec<(Arc<str>, Option<Range<usize>>)>,
}

impl ChunkBuilder {
    fn new(buffer_bytes: usize, records: usize) -> Self {
        let buffer = Vec::with_capacity(buffer_bytes);
        Self { buffer, rows: Vec::with_capacity(records), bytes: 0 }
    }

    /// Copies one message; returns its bytes of key, value and headers. Without a place for their names
    /// headers are not looked for: librdkafka makes a buffer for each record to find that it has none.
    fn push(
        &mut self,
        row: &Row<'_>,
        offset: Offset,
        names: Option<&mut VecDeque<Arc<str>>>,
    ) -> u64 {
        let mut bytes = 0;
        let mut copy = |from: Option<&[u8]>| {
            from.map(|from| {
                let start = self.buffer.len();
                self.buffer.extend_from_slice(from);
                bytes += from.len();
                start..self.buffer.len()
            })
        };
        let key = copy(row.key());
        let value = copy(row.value());
        let mut headers = Vec::new();
        let mut name_bytes = 0;
        if let Some(names) = names {
            row.headers(|name, value| {
                name_bytes += name.len();
                headers.push((interned(name, names), copy(value)));
            });
        }
        self.rows.push(CopiedRow {
            offset,
            timestamp: row.timestamp().map(Timestamp::from_millis),
            key,
            value,
            headers,
        });
        let bytes = (bytes + name_bytes) as u64;
        self.bytes += bytes;
        bytes
    }

    fn finish(self, partition: &PartitionId) -> Vec<Arc<RawRecord>> {
        let buffer = Bytes::from(self.buffer);
        let slice = |range: Option<Range<usize>>| range.map(|range| buffer.slice(range));
        self.rows
            .into_iter()
            .map(|row| {
                let headers = row
                    .headers
                    .into_iter()
                    .map(|(name, value)| Header { name, value: slice(value) });
                Arc::new(Record {
                    partition: partition.clone(),
                    offset: row.offset,
                    timestamp: row.timestamp,
                    key: slice(row.key),
                    value: slice(row.value),
                    headers: Headers::new(headers.collect()),
                })
            })
            .collect()
    }
}

/// The shared form of a header name: the same few names come again and again.
fn interned(name: &str, names: &mut VecDeque<Arc<str>>) -> Arc<str> {
    if let Some(known) = names.iter().find(|known| &***known == name) {
        return Arc::clone(known);
    }
    let name: Arc<str> = Arc::from(name);
    if names.len() == NAMES_MAX {
        names.pop_front();
    }
    names.push_back(Arc::clone(&name));
    name
}
