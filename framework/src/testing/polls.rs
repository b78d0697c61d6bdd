//! A future that is polled so many times and no more: how a call is interrupted at every point.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

/// Polls a future at most `polls` times, each time when it asked for it; `None` if it has not ended
/// by then. It can be polled on later, or dropped.
pub(crate) async fn polled<F: Future>(polls: u32, mut future: Pin<&mut F>) -> Option<F::Output> {
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // The last poll asked for no other: nobody would wake us.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Polls a future at most `polls` times and drops it.
pub(crate) async fn cancelled<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    polled(polls, pin!(future)).await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_future_gets_as_many_polls_as_it_is_given_and_can_go_on() {
        let steps = Cell::new(0);
        let work = async {
            for _ in 0..3 {
                steps.set(steps.get() + 1);
                tokio::task::yield_now().await;
            }
            "done"
        };
        let mut work = pin!(work);
        for (polls, total) in [(0, 0), (1, 1), (2, 3)] {
            assert_eq!(polled(polls, work.as_mut()).await, None);
            assert_eq!(steps.get(), total);
        }
        assert_eq!(polled(1, work).await, Some("done"));
    }
}
