//! The delivery task: owns the sink, takes one call at a time, answers by events.
//!
//! A call is never cancelled: when the engine stops waiting, the task goes on until its call
//! returns, and ends with it.

use std::future::Future;

use tokio::sync::{mpsc, oneshot};

use super::core::{Call as OnBehalfOf, Event};
use crate::batch::{Batch, Span};
use crate::delivery::Delivery;
use crate::record::PartitionId;
use crate::sink::{ClaimRequest, Move};

/// What the engine asks of the delivery task.
pub(super) enum Call<O> {
    Claim(Vec<ClaimRequest>),
    Reposition { call: OnBehalfOf, moves: Vec<Move> },
    Admit(Vec<Span>),
    Commit(Batch<O>),
    Release { revocation: u64, partitions: Vec<PartitionId> },
    Close(oneshot::Sender<()>),
}

/// The engine's end of the delivery task.
pub(super) struct Caller<O> {
    calls: mpsc::UnboundedSender<Call<O>>,
    answers: mpsc::UnboundedSender<Event<O>>,
}

impl<O: Send + Sync + 'static> Caller<O> {
    /// Starts the task for an opened delivery.
    pub(super) fn start(
        delivery: Box<dyn Delivery<O>>,
    ) -> (Self, mpsc::UnboundedReceiver<Event<O>>) {
        let (calls, queue) = mpsc::unbounded_channel();
        let (answers, receiver) = mpsc::unbounded_channel();
        tokio::spawn(serve(delivery, queue, answers.clone()));
        (Self { calls, answers }, receiver)
    }

    pub(super) fn call(&self, call: Call<O>) {
        // The task ends only after `close`; nothing is called after it.
        let _ = self.calls.send(call);
    }

    /// Sends the event that a future gives, when it gives it.
    pub(super) fn answer_later(&self, event: impl Future<Output = Event<O>> + Send + 'static) {
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let _ = answers.send(event.await);
        });
    }

    /// Closes the sink after everything that was called before.
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        self.call(Call::Close(done));
        let _ = closed.await;
    }
}

async fn serve<O: Send + Sync + 'static>(
    mut delivery: Box<dyn Delivery<O>>,
    mut calls: mpsc::UnboundedReceiver<Call<O>>,
    answers: mpsc::UnboundedSender<Event<O>>,
) {
    while let Some(call) = calls.recv().await {
        let event = match call {
            Call::Claim(requests) => Event::Claimed(delivery.claim(&requests).await),
            Call::Reposition { call, moves } => {
                let result = delivery.reposition(&moves).await;
                Event::Repositioned { call, moves, result }
            }
            Call::Admit(spans) => Event::Admitted(delivery.admit(&spans).await),
            Call::Commit(batch) => {
                let (batch, fate) = delivery.commit(batch).await;
                Event::Committed { batch, fate }
            }
            Call::Release { revocation, partitions } => {
                delivery.settle().await;
                delivery.release(&partitions).await;
                Event::Released { revocation }
            }
            Call::Close(done) => {
                delivery.settle().await;
                delivery.close().await;
                let _ = done.send(());
                return;
            }
        };
        if answers.send(event).is_err() {
            return;
        }
    }
}
