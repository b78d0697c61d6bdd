//! One transaction from begin to end: what a commit, a probe and a change of position have in
//! common.

use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode as Code;
use tidegate::Cause;
use tidegate::batch::{Batch, Finished, Span};
use tidegate::mutant;
use tidegate::record::{Offset, PartitionId};
use tidegate::sink::{CommitError, Move, Rejection, SinkError};
use tokio::sync::oneshot;

use crate::commits::list;
use crate::error::{Call, Verdict, judge};
use crate::ffi::Failure;
use crate::membership::{Membership, Scope};
use crate::message::Message;
use crate::metrics;
use crate::outbox::{Item, items};
use crate::producer::{Ended, TransactionalProducer, Trouble};
use crate::replacement::{ONE_BY_ONE_COMMITS, Open, Why};
use crate::sink::KafkaSink;
use crate::thread::Command;

/// How long the consumer's thread may take to answer; it never waits for the network.
const MEMBERSHIP_MAX: Duration = Duration::from_secs(10);
/// How long to wait when the producer's queue is full.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);
/// Messages after which other tasks get a turn.
const YIELD_EVERY: usize = 1024;
/// The last records of a batch, whose messages are handed over while the consumer's thread is asked for the membership
/// that is committed with: under load the way there and back takes longer than they do.
const LAST_RECORDS: usize = 1024;

impl KafkaSink {
    pub(crate) async fn commit_batch(&mut self, batch: &Batch<Message>) -> Result<(), CommitError> {
        let spans: Vec<Span> = moved(batch.spans());
        if spans.is_empty() && items(batch.finished()).next().is_none() {
            return Ok(());
        }
        let membership = self.send_as_a_member(batch, &spans).await?;
        let offsets = list(spans.iter().map(|span| (&span.partition, span.next)));
        let ended = producer(&mut self.open)?.finish(offsets, membership.metadata).await;
        let said = self.conclude(ended, Some(batch));
        self.renew_after(&said).await;
        said?;
        let open = opened(&mut self.open)?;
        if open.committed()
            && let Err(error) = open.send_one_by_one(0).await
        {
            // The batch is stored; the next call finds no producer and asks for a claim.
            tracing::warn!(%error, "a producer could not be replaced");
        }
        Ok(())
    }

    /// Begins a transaction and hands it all messages; answers the membership to commit with.
    async fn send_as_a_member(
        &mut self,
        batch: &Batch<Message>,
        spans: &[Span],
    ) -> Result<Membership, CommitError> {
        // Asked first, so that nothing is sent for a batch that is stale already.
        let asked = self.ask(Scope::Spans(batch.spans().to_vec()))?;
        self.begin().await?;
        let mut membership = match asked.await {
            Ok(membership) => membership,
            Err(refused) => return Err(self.give_up(refused).await),
        };
        let begun = Instant::now();
        let (early, last) = batch.finished().split_at(batch.len().saturating_sub(LAST_RECORDS));
        let mut sent = self.send(batch, early, 0).await?;
        let mut again = None;
        if sent > 0 {
            // Asked again: the newest membership is what the broker compares, and the spans must
            // still be ours with it.
            again = match self.ask(Scope::Spans(spans.to_vec())) {
                Ok(asked) => Some(asked),
                Err(refused) => return Err(self.give_up(refused).await),
            };
        }
        sent += self.send(batch, last, sent).await?;
        if let Some(asked) = again {
            membership = match asked.await {
                Ok(membership) => membership,
                Err(refused) => return Err(self.give_up(refused).await),
            };
        }
        metrics::produced(sent);
        metrics::phase("send", begun.elapsed());
        Ok(membership)
    }

    pub(crate) async fn probe_batch(&mut self, batch: &Batch<Message>) -> Result<(), CommitError> {
        let open = opened(&mut self.open)?;
        if !open.sends_one_by_one() {
            // In a set of several messages a refusal for size would hit its healthy neighbours.
            open.send_one_by_one(ONE_BY_ONE_COMMITS).await.map_err(no_producer)?;
        }
        self.begin().await?;
        metrics::produced(self.send(batch, batch.finished(), 0).await?);
        let ended = producer(&mut self.open)?.flush_and_abort().await;
        let said = self.conclude(ended, Some(batch));
        self.renew_after(&said).await;
        said
    }

    /// A message that the broker refused counts in librdkafka's sequence and not in the broker's:
    /// the next transaction of this producer would come back as out of order.
    async fn renew_after(&mut self, said: &Result<(), CommitError>) {
        let is_refused = matches!(said, Err(CommitError::Rejected(_)));
        if let Some(open) = self.open.as_mut().filter(|open| is_refused && open.sends_one_by_one())
            && let Err(error) = open.renew().await
        {
            // Nothing is stored; the next call finds no producer and asks for a claim.
            tracing::warn!(%error, "a producer could not be replaced");
        }
    }

    pub(crate) async fn store_positions(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        if moves.is_empty() {
            return Ok(());
        }
        let ids: Vec<PartitionId> = moves.iter().map(|to| to.partition.clone()).collect();
        let stored = self.stored(&ids).await.map_err(not_read)?;
        let membership = self.ask(Scope::Partitions(ids))?.await?;
        let mut positions: Vec<(&PartitionId, Offset)> = Vec::new();
        for (to, stored) in moves.iter().zip(stored) {
            let ours = membership.owned.contains(&to.partition);
            match (to.expected, stored) {
                // Somebody stored it already, or its owner will.
                (None, Some(_)) => {}
                (None, None) if !ours => {}
                (expected, stored) if expected != stored => {
                    return Err(CommitError::Fenced(Cause::new(format_args!(
                        "{} is stored at {stored:?}, not at {expected:?}",
                        to.partition
                    ))));
                }
                _ if !ours => {
                    return Err(CommitError::Aborted(Cause::new(format_args!(
                        "{} is not assigned any more",
                        to.partition
                    ))));
                }
                _ => positions.push((&to.partition, to.next)),
            }
        }
        if positions.is_empty() {
            return Ok(());
        }
        let offsets = list(positions.into_iter());
        self.begin().await?;
        let ended = producer(&mut self.open)?.finish(offsets, membership.metadata).await;
        self.conclude(ended, None)
    }

    /// Asks the consumer's thread for our place in the group for this scope; the answer may be
    /// waited for later.
    fn ask(
        &self,
        scope: Scope,
    ) -> Result<impl Future<Output = Result<Membership, CommitError>> + use<>, CommitError> {
        let connected = self.connected().map_err(CommitError::Aborted)?;
        let (reply, answer) = oneshot::channel();
        connected.remote.send(Command::Membership(scope, reply));
        Ok(async {
            match tokio::time::timeout(MEMBERSHIP_MAX, answer).await {
                Ok(Ok(Ok(membership))) => Ok(membership),
                Ok(Ok(Err(refusal))) => {
                    Err(CommitError::Aborted(Cause::new(format_args!("membership: {refusal}"))))
                }
                Ok(Err(_)) => Err(CommitError::Aborted(Cause::new("the source is closed"))),
                Err(_) => {
                    Err(CommitError::Aborted(Cause::new("the consumer's thread does not answer")))
                }
            }
        })
    }

    async fn begin(&mut self) -> Result<(), CommitError> {
        let ended = producer(&mut self.open)?.begin().await;
        self.conclude(ended, None)
    }

    /// Hands the messages of a part of the batch, numbered from `first` on, to the producer; answers
    /// how many there were.
    async fn send(
        &mut self,
        batch: &Batch<Message>,
        part: &[Finished<Message>],
        first: usize,
    ) -> Result<usize, CommitError> {
        let deadline = Instant::now() + opened(&mut self.open)?.times.transaction / 2;
        let mut messages = items(part).zip(first..);
        let mut sent = 0;
        loop {
            let turn: Vec<(Item<'_>, usize)> = messages.by_ref().take(YIELD_EVERY).collect();
            if turn.is_empty() {
                return Ok(sent);
            }
            self.send_turn(batch, &turn, deadline).await?;
            sent += turn.len();
            tokio::task::yield_now().await;
        }
    }

    /// A full queue is waited for, until the deadline; nothing is ever dropped.
    async fn send_turn(
        &mut self,
        batch: &Batch<Message>,
        mut messages: &[(Item<'_>, usize)],
        deadline: Instant,
    ) -> Result<(), CommitError> {
        while !messages.is_empty() {
            let producer = producer(&mut self.open)?;
            let (taken, refused) = self.outbox.send_run(messages, producer.topics());
            messages = &messages[taken..];
            match (refused, messages) {
                (Ok(()), _) | (Err(_), []) => {}
                (Err(Code::QueueFull), [_, rest @ ..]) if mutant::is("M24") => messages = rest,
                (Err(Code::QueueFull), _) if Instant::now() < deadline => {
                    tokio::time::sleep(QUEUE_FULL_WAIT).await;
                }
                (Err(code), [(_, id), ..]) => return Err(self.not_sent(code, batch, *id).await),
            }
        }
        Ok(())
    }

    /// The producer did not take a message: the transaction is aborted.
    async fn not_sent(&mut self, code: Code, batch: &Batch<Message>, id: usize) -> CommitError {
        let ended = match producer(&mut self.open) {
            Ok(producer) => producer.not_taken(unsent(code)).await,
            Err(error) => return error,
        };
        // What came back undelivered may be why the next message was not taken.
        let undelivered = self.undelivered(batch);
        let failed = match self.conclude(ended, None) {
            Err(failed) => failed,
            Ok(()) => message_failed(batch, Call::Produce, id, code),
        };
        match (failed, undelivered) {
            (failed @ (CommitError::InDoubt(_) | CommitError::Fenced(_)), _) => failed,
            (_, Some(undelivered)) => undelivered,
            (CommitError::Rejected(_), None) => message_failed(batch, Call::Produce, id, code),
            (failed, None) => failed,
        }
    }

    /// Aborts because the group moved on in between.
    async fn give_up(&mut self, reason: CommitError) -> CommitError {
        let ended = match producer(&mut self.open) {
            Ok(producer) => producer.abort().await,
            Err(error) => return error,
        };
        self.conclude(ended, None).err().unwrap_or(reason)
    }

    /// What messages that came back say of the batch, if any did.
    fn undelivered(&mut self, batch: &Batch<Message>) -> Option<CommitError> {
        let open = self.open.as_mut()?;
        let failures = open.producer()?.notes().take_failures();
        let guilty: Vec<(usize, Code)> = failures
            .iter()
            .copied()
            .filter(|(_, code)| judge(Call::Delivery, &unsent(*code)) == Verdict::Rejected)
            .collect();
        // A set that is too large comes back whole, the healthy with the guilty: the same batch
        // is sent once more, each message in a set of its own.
        if guilty.len() > 1 && !open.sends_one_by_one() {
            tracing::warn!(
                messages = guilty.len(),
                "the broker refused a set of messages; they are sent one by one for a while"
            );
            open.expect_one_by_one(ONE_BY_ONE_COMMITS);
            return Some(CommitError::InDoubt(Cause::new(
                "a set of messages was refused; it is sent again message by message",
            )));
        }
        let (id, code) = guilty.first().or(failures.first())?;
        Some(message_failed(batch, Call::Delivery, *id, *code))
    }

    /// What the end of a transaction means; throws a producer away that must not be used again.
    fn conclude(
        &mut self,
        ended: Ended,
        batch: Option<&Batch<Message>>,
    ) -> Result<(), CommitError> {
        let code = ended.result.as_ref().err().map(|trouble| trouble.failure.code);
        let result = ended.result.map_err(|trouble| {
            let undelivered = batch
                .filter(|_| !matches!(trouble.verdict, Verdict::InDoubt | Verdict::Fenced))
                .and_then(|batch| self.undelivered(batch));
            undelivered.unwrap_or_else(|| fate(&trouble))
        });
        if !ended.condemned || mutant::is("M21") {
            return result;
        }
        if let Some(open) = &mut self.open {
            open.lose(Why::after(code.unwrap_or(Code::NoError)));
        }
        match result {
            // Without a producer only a claim helps, and only doubt leads to a claim.
            Err(CommitError::Aborted(cause)) => Err(CommitError::InDoubt(cause)),
            result => result,
        }
    }
}

/// A message that was not taken or not delivered, as a failure to be judged.
fn unsent(code: Code) -> Failure {
    Failure {
        code,
        fatal: false,
        retriable: false,
        abort: true,
        text: format!("a message was not written: {code}"),
    }
}

/// What a message that was not taken or not delivered means for its batch.
fn message_failed(batch: &Batch<Message>, call: Call, id: usize, code: Code) -> CommitError {
    let failure = unsent(code);
    match judge(call, &failure) {
        Verdict::Rejected => rejected(batch, id, code),
        verdict => fate(&Trouble { call, verdict, failure }),
    }
}

/// The refusal of one message: the record it came from is at fault.
fn rejected(batch: &Batch<Message>, id: usize, code: Code) -> CommitError {
    let cause = Cause::new(format_args!("message {id} of the batch was refused: {code}"));
    CommitError::Rejected(match items(batch.finished()).nth(id) {
        Some(item) => Rejection::of_record(cause, item.coordinates()),
        None => Rejection::of_some_record(cause),
    })
}

fn fate(trouble: &Trouble) -> CommitError {
    let cause = Cause::from_error(
        format_args!("{:?}", trouble.call).to_string().to_lowercase(),
        trouble.failure.clone(),
    );
    match trouble.verdict {
        Verdict::Retry | Verdict::Membership => CommitError::Aborted(cause),
        Verdict::Operator => CommitError::Aborted(cause.needs_operator()),
        Verdict::Rejected => CommitError::Rejected(Rejection::of_some_record(cause)),
        Verdict::Fenced => CommitError::Fenced(cause),
        Verdict::InDoubt => CommitError::InDoubt(cause),
    }
}

/// Spans that store something: where first equals next nothing moved.
fn moved(spans: &[Span]) -> Vec<Span> {
    spans.iter().filter(|span| span.first != span.next).cloned().collect()
}

fn opened(open: &mut Option<Open>) -> Result<&mut Open, CommitError> {
    open.as_mut().ok_or_else(no_producer_now)
}

fn producer(open: &mut Option<Open>) -> Result<&mut TransactionalProducer, CommitError> {
    opened(open)?.producer().ok_or_else(no_producer_now)
}

fn no_producer_now() -> CommitError {
    CommitError::InDoubt(Cause::new("there is no producer until the next claim"))
}

fn no_producer(error: SinkError) -> CommitError {
    match error {
        SinkError::Fenced(cause) => CommitError::Fenced(cause),
        SinkError::Retry(cause) => CommitError::InDoubt(cause),
        other => CommitError::InDoubt(Cause::new(other)),
    }
}

fn not_read(error: SinkError) -> CommitError {
    match error {
        SinkError::Fenced(cause) => CommitError::Fenced(cause),
        SinkError::Retry(cause) => CommitError::Aborted(cause),
        other => CommitError::Aborted(Cause::new(other).needs_operator()),
    }
}
