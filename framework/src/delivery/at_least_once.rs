//! At least once: write, then move the group's offsets.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::group::Group;
use super::isolate::isolate;
use super::ordered_commits::OrderedCommits;
use super::{Delivery, Fate, Guarantee, Progress, aborted, has_content};
use crate::batch::{Batch, Span};
use crate::record::{Epoch, Offset, PartitionId};
use crate::sink::{
    Claim, ClaimRequest, CommitError, Move, Sink, SinkContext, SinkDescription, SinkError,
};
use crate::source::{GroupOffsets, Position, SourceError};

/// When the group's offsets are committed after results were written (at-least-once).
///
/// Whatever is chosen, offsets are committed only behind results that the sink has acknowledged,
/// and everything is committed before partitions are handed back and before the pipeline ends.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum GroupCommits {
    /// After every write, waiting for the broker's answer: the fewest repeats after a crash.
    #[default]
    Sync,
    /// After every write, without waiting. One commit is in flight at a time; while it is, newer
    /// positions replace older ones. The hook hears of every answer, in the order of the commits.
    Async(CommitHook),
    /// At most once in this time: the fewest requests, the most repeats after a crash.
    Every(Duration),
}

type Hook = dyn Fn(&[Position], Result<(), &SourceError>) + Send + Sync;

/// Called when an asynchronous group commit was answered; see [`GroupCommits::Async`].
#[derive(Clone, Default)]
pub struct CommitHook(Option<Arc<Hook>>);

impl CommitHook {
    /// Calls `hook` with the positions of each commit and what the broker said. It runs on the
    /// engine's runtime and must not block. Positions of a failed commit are sent again.
    pub fn new(
        hook: impl Fn(&[Position], Result<(), &SourceError>) + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(hook)))
    }

    /// Nobody is told.
    pub fn none() -> Self {
        Self(None)
    }

    pub(super) fn call(&self, positions: &[Position], result: Result<(), &SourceError>) {
        if let Some(hook) = &self.0 {
            hook(positions, result);
        }
    }
}

impl fmt::Debug for CommitHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.0.is_some() { "hook" } else { "no hook" };
        f.write_str(name)
    }
}

pub(crate) struct AtLeastOnce<S> {
    sink: S,
    group: Group,
    commits: GroupCommits,
    /// The task that commits when `commits` is not `Sync`, from `attach` to `close`.
    ordered: Option<OrderedCommits>,
    /// Up to where results are durable although the group's offsets may not be: what is repeated
    /// for the offsets' sake is not written again.
    written: HashMap<PartitionId, (Epoch, Offset)>,
}

impl<S: Sink> AtLeastOnce<S> {
    pub(crate) fn new(sink: S, commits: GroupCommits) -> Self {
        Self { sink, group: Group::default(), commits, ordered: None, written: HashMap::new() }
    }

    fn is_written(&self, batch: &Batch<S::Output>) -> bool {
        batch.spans().iter().all(|span| {
            self.written
                .get(&span.partition)
                .is_some_and(|(epoch, next)| *epoch == span.epoch && span.next <= *next)
        })
    }

    async fn write(&mut self, batch: Batch<S::Output>) -> (Batch<S::Output>, Option<Fate>) {
        if !has_content(&batch) || self.is_written(&batch) {
            return (batch, None);
        }
        let (batch, fate) = match self.sink.write(&batch).await {
            Ok(()) => (batch, None),
            Err(error) => isolate(&mut self.sink, batch, error).await,
        };
        if fate.is_none() {
            for span in batch.spans() {
                self.written.insert(span.partition.clone(), (span.epoch, span.next));
            }
        }
        (batch, fate)
    }

    async fn store(&mut self, reached: Vec<Span>) -> Fate {
        if reached.is_empty() {
            return Fate::Committed;
        }
        if let Some(ordered) = &self.ordered {
            if let Some(error) = ordered.take_error() {
                return Fate::Stop(error);
            }
            ordered.put(reached);
            return Fate::Committed;
        }
        match self.group.offsets().commit_reached(&reached).await {
            Ok(()) => Fate::Committed,
            Err(SourceError::Retry(cause)) => aborted(cause),
            Err(SourceError::Fenced(cause)) => Fate::Fenced(cause),
            Err(SourceError::Stop(error)) => Fate::Stop(error),
        }
    }

    /// Nothing older may overwrite what is stored for these partitions from now on.
    async fn forget(&mut self, partitions: Vec<PartitionId>) {
        for partition in &partitions {
            self.written.remove(partition);
        }
        if let Some(ordered) = &self.ordered {
            ordered.forget(partitions).await;
        }
    }
}

#[async_trait]
impl<S: Sink> Delivery<S::Output> for AtLeastOnce<S> {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn progress(&self) -> Progress {
        Progress::Group
    }

    fn describe(&self) -> SinkDescription {
        self.sink.describe()
    }

    fn measure(&self) -> fn(&S::Output) -> usize {
        self.sink.measure()
    }

    fn attach(&mut self, group: Arc<dyn GroupOffsets>) {
        self.group.attach(Arc::clone(&group));
        let (pace, hook) = match &self.commits {
            GroupCommits::Sync => return,
            GroupCommits::Async(hook) => (Duration::ZERO, hook.clone()),
            GroupCommits::Every(pace) => (*pace, CommitHook::none()),
        };
        self.ordered = Some(OrderedCommits::start(group, pace, hook));
    }

    async fn open(&mut self, context: &SinkContext) -> Result<(), SinkError> {
        self.sink.open(context).await
    }

    async fn claim(&mut self, partitions: &[ClaimRequest]) -> Result<Vec<Claim>, SinkError> {
        let claimed = partitions.iter().map(|claim| claim.partition.clone());
        self.forget(claimed.collect()).await;
        self.group.claim(partitions).await
    }

    async fn admit(&mut self, _: &[Span]) -> Result<(), SinkError> {
        Ok(())
    }

    async fn reposition(&mut self, moves: &[Move]) -> Result<(), CommitError> {
        let moved = moves.iter().map(|to| to.partition.clone());
        self.forget(moved.collect()).await;
        self.group.reposition(moves).await
    }

    async fn commit(&mut self, batch: Batch<S::Output>) -> (Batch<S::Output>, Fate) {
        let (batch, refused) = self.write(batch).await;
        if let Some(fate) = refused {
            return (batch, fate);
        }
        let moved = batch.spans().iter().filter(|span| span.first < span.next);
        let fate = self.store(moved.cloned().collect()).await;
        (batch, fate)
    }

    async fn settle(&mut self) {
        if let Some(ordered) = &self.ordered {
            ordered.settle().await;
        }
    }

    async fn release(&mut self, partitions: &[PartitionId]) {
        self.forget(partitions.to_vec()).await;
    }

    async fn close(&mut self) {
        self.settle().await;
        self.ordered = None;
        self.sink.close().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::test_doubles::{
        self as doubles, PlainSink, batch_of, cause, contents, context, emits, position, request,
        span, values,
    };
    use super::*;
    use crate::batch::Outcome;
    use crate::sink::{DeadLetters, Rejection, Stored};

    async fn opened(
        sink: PlainSink,
        group: &Arc<doubles::Group>,
        commits: GroupCommits,
    ) -> AtLeastOnce<PlainSink> {
        let mut delivery = AtLeastOnce::new(sink, commits);
        delivery.attach(Arc::clone(group) as _);
        let context = context(DeadLetters::Never);
        delivery.open(&context).await.expect("the sink opens");
        delivery
    }

    fn takes_all() -> PlainSink {
        PlainSink::new(|_| Ok(()))
    }

    /// One record of partition 0.
    fn one(epoch: u64, offset: i64) -> Batch<i64> {
        Batch::new(vec![span(0, epoch, offset, offset + 1)], vec![emits(0, offset, offset)])
    }

    fn rejected() -> SinkError {
        SinkError::Rejected(Rejection::of_some_record(cause("bad value")))
    }

    #[tokio::test]
    async fn offsets_are_committed_behind_what_was_written_and_only_where_they_move() {
        let group = doubles::Group::new();
        let mut delivery = opened(takes_all(), &group, GroupCommits::Sync).await;
        let spans = vec![span(0, 1, 4, 9), span(1, 1, 7, 7)];
        let batch = Batch::new(spans, vec![emits(0, 5, 5)]);
        let (_, fate) = delivery.commit(batch).await;
        assert!(matches!(fate, Fate::Committed));
        assert_eq!(group.commits(), [vec![position(0, 9)]]);
    }

    #[tokio::test]
    async fn no_offset_moves_when_the_write_failed() {
        type Case = (fn() -> SinkError, fn(&Fate) -> bool);
        let cases: [Case; 4] = [
            (|| SinkError::Retry(cause("down")), |fate| matches!(fate, Fate::Aborted(_))),
            (
                || SinkError::Retry(cause("no table").needs_operator()),
                |fate| matches!(fate, Fate::Stop(_)),
            ),
            (|| SinkError::Fenced(cause("other")), |fate| matches!(fate, Fate::Fenced(_))),
            (
                || SinkError::Stop(crate::Error::sink_failed("x")),
                |fate| matches!(fate, Fate::Stop(_)),
            ),
        ];
        for (error, expected) in cases {
            let group = doubles::Group::new();
            let sink = PlainSink::new(move |_| Err(error()));
            let mut delivery = opened(sink, &group, GroupCommits::Sync).await;
            let (batch, fate) = delivery.commit(batch_of(4)).await;
            assert!(expected(&fate), "{fate:?}");
            assert_eq!(contents(&batch), contents(&batch_of(4)));
            assert!(group.commits().is_empty());
        }
    }

    #[tokio::test]
    async fn what_is_written_is_not_written_again_because_the_group_did_not_answer() {
        let group = doubles::Group::new();
        group.answer(SourceError::Retry(cause("coordinator moved")));
        let sink = takes_all();
        let calls = sink.calls.clone();
        let mut delivery = opened(sink, &group, GroupCommits::Sync).await;
        let (batch, fate) = delivery.commit(batch_of(3)).await;
        assert!(matches!(fate, Fate::Aborted(_)));
        let (_, fate) = delivery.commit(batch).await;
        assert!(matches!(fate, Fate::Committed));
        assert_eq!(calls.of("write").len(), 1);
        assert_eq!(group.commits().len(), 2);
    }

    #[tokio::test]
    async fn a_batch_without_results_moves_offsets_and_writes_nothing() {
        let group = doubles::Group::new();
        let sink = takes_all();
        let calls = sink.calls.clone();
        let mut delivery = opened(sink, &group, GroupCommits::Sync).await;
        let filtered = doubles::finished(0, 5, Outcome::Filtered);
        let batch = Batch::new(vec![span(0, 1, 5, 6)], vec![filtered]);
        delivery.commit(batch).await;
        assert!(calls.of("write").is_empty());
        assert_eq!(group.commits(), [vec![position(0, 6)]]);
    }

    #[tokio::test]
    async fn a_seek_back_writes_again_what_was_written_before() {
        let group = doubles::Group::new();
        let sink = takes_all();
        let calls = sink.calls.clone();
        let mut delivery = opened(sink, &group, GroupCommits::Sync).await;
        delivery.commit(one(1, 5)).await;
        delivery.commit(one(2, 5)).await;
        assert_eq!(calls.of("write"), [[5], [5]]);
        delivery.claim(&[request(0)]).await.expect("the group answers");
        delivery.commit(one(2, 5)).await;
        assert_eq!(calls.of("write").len(), 3, "a claim forgets what was written");
    }

    #[tokio::test]
    async fn the_group_decides_whether_the_member_still_owns_its_partitions() {
        let group = doubles::Group::new();
        group.answer(SourceError::Fenced(cause("generation")));
        group.answer(SourceError::Stop(crate::Error::source_failed("no right")));
        let mut delivery = opened(takes_all(), &group, GroupCommits::Sync).await;
        let (_, fate) = delivery.commit(one(1, 5)).await;
        assert!(matches!(fate, Fate::Fenced(_)));
        let (_, fate) = delivery.commit(one(1, 6)).await;
        assert!(matches!(fate, Fate::Stop(_)));
    }

    #[tokio::test]
    async fn a_refused_record_is_isolated_wherever_it_stands_and_the_batch_stays_whole() {
        for records in 1..=9 {
            for culprit in 0..records {
                let group = doubles::Group::new();
                let bad = i64::try_from(culprit).expect("small");
                let sink = PlainSink::new(move |batch| match values(batch).contains(&bad) {
                    true => Err(rejected()),
                    false => Ok(()),
                });
                let mut delivery = opened(sink, &group, GroupCommits::Sync).await;
                let (batch, fate) = delivery.commit(batch_of(records)).await;
                let expected = batch_of(records);
                assert_eq!(contents(&batch), contents(&expected));
                let Fate::Rejected { record, .. } = fate else {
                    panic!("record {culprit} of {records}: {fate:?}");
                };
                assert_eq!(record, expected.finished()[culprit].record.coordinates());
                assert!(group.commits().is_empty());
            }
        }
    }

    #[tokio::test]
    async fn a_batch_that_passes_in_parts_is_written() {
        let group = doubles::Group::new();
        let sink = PlainSink::new(|batch| match batch.len() > 2 {
            true => Err(rejected()),
            false => Ok(()),
        });
        let mut delivery = opened(sink, &group, GroupCommits::Sync).await;
        let (batch, fate) = delivery.commit(batch_of(9)).await;
        assert!(matches!(fate, Fate::Committed), "{fate:?}");
        assert_eq!(contents(&batch), contents(&batch_of(9)));
        assert_eq!(group.commits().len(), 1);
    }

    #[tokio::test]
    async fn a_part_that_fails_otherwise_decides_the_fate() {
        let group = doubles::Group::new();
        let mut writes = 0;
        let sink = PlainSink::new(move |_| {
            writes += 1;
            match writes {
                1 => Err(rejected()),
                2 => Ok(()),
                _ => Err(SinkError::Retry(cause("down"))),
            }
        });
        let mut delivery = opened(sink, &group, GroupCommits::Sync).await;
        let (batch, fate) = delivery.commit(batch_of(7)).await;
        assert!(matches!(fate, Fate::Aborted(_)), "{fate:?}");
        assert_eq!(contents(&batch), contents(&batch_of(7)));
    }

    /// A hook that notes the next offset of each commit, negative if it failed.
    fn noting() -> (Arc<Mutex<Vec<i64>>>, CommitHook) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&heard);
        let hook = CommitHook::new(move |positions, result| {
            let next = positions[0].next.get();
            let sign = if result.is_ok() { 1 } else { -1 };
            notes.lock().expect("no panic").push(sign * next);
        });
        (heard, hook)
    }

    #[tokio::test]
    async fn asynchronous_commits_go_one_at_a_time_in_order_and_the_newest_waits() {
        let group = doubles::Group::held_up();
        let (heard, hook) = noting();
        let mut delivery = opened(takes_all(), &group, GroupCommits::Async(hook)).await;
        for offset in 0..5 {
            let (_, fate) = delivery.commit(one(1, offset)).await;
            assert!(matches!(fate, Fate::Committed), "nobody waits");
            tokio::task::yield_now().await;
        }
        assert_eq!(group.commits(), [vec![position(0, 1)]], "one in flight");
        assert!(heard.lock().expect("no panic").is_empty());
        group.permits.add_permits(2);
        delivery.settle().await;
        assert_eq!(group.commits()[1..], [vec![position(0, 5)]], "2, 3, 4 were overtaken");
        assert_eq!(*heard.lock().expect("no panic"), [1, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_asynchronous_commit_is_told_and_sent_again() {
        let group = doubles::Group::new();
        group.answer(SourceError::Retry(cause("down")));
        group.answer(SourceError::Retry(cause("down")));
        let (heard, hook) = noting();
        let mut delivery = opened(takes_all(), &group, GroupCommits::Async(hook)).await;
        delivery.commit(one(1, 5)).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(*heard.lock().expect("no panic"), [-6, -6, 6]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_settlement_sends_what_waits_once_and_does_not_wait_for_a_better_answer() {
        let group = doubles::Group::new();
        for _ in 0..100 {
            group.answer(SourceError::Retry(cause("down")));
        }
        let mut delivery =
            opened(takes_all(), &group, GroupCommits::Every(Duration::from_secs(60))).await;
        delivery.commit(one(1, 5)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(group.commits().len(), 1);
        let before = tokio::time::Instant::now();
        delivery.settle().await;
        assert_eq!(group.commits().len(), 2);
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn timed_commits_come_at_most_once_in_their_time_and_without_further_batches() {
        let group = doubles::Group::new();
        let pace = Duration::from_secs(1);
        let mut delivery = opened(takes_all(), &group, GroupCommits::Every(pace)).await;
        for offset in 0..35 {
            delivery.commit(one(1, offset)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let commits = group.commits().len();
        assert!((3..=5).contains(&commits), "{commits} in 3.5 s");
        tokio::time::sleep(pace).await;
        assert_eq!(group.commits().last(), Some(&vec![position(0, 35)]));
        delivery.close().await;
    }

    #[tokio::test]
    async fn closing_commits_what_waits() {
        let group = doubles::Group::new();
        let pace = Duration::from_secs(3600);
        let mut delivery = opened(takes_all(), &group, GroupCommits::Every(pace)).await;
        for offset in 0..3 {
            delivery.commit(one(1, offset)).await;
            tokio::task::yield_now().await;
        }
        delivery.close().await;
        assert_eq!(group.commits().last(), Some(&vec![position(0, 3)]));
    }

    #[tokio::test]
    async fn a_hook_that_panics_does_not_end_the_commits() {
        let group = doubles::Group::new();
        let hook = CommitHook::new(|_, _| panic!("in the hook"));
        let mut delivery = opened(takes_all(), &group, GroupCommits::Async(hook)).await;
        for offset in 0..3 {
            delivery.commit(one(1, offset)).await;
            delivery.settle().await;
        }
        assert_eq!(group.commits().len(), 3);
    }

    #[tokio::test]
    async fn an_asynchronous_commit_that_can_never_work_stops_the_pipeline() {
        let group = doubles::Group::new();
        group.answer(SourceError::Stop(crate::Error::source_failed("no right")));
        let commits = GroupCommits::Async(CommitHook::none());
        let mut delivery = opened(takes_all(), &group, commits).await;
        delivery.commit(one(1, 5)).await;
        delivery.settle().await;
        let (_, fate) = delivery.commit(one(1, 6)).await;
        assert!(matches!(fate, Fate::Stop(error) if error.is_source()));
    }

    #[tokio::test]
    async fn nothing_that_waits_overwrites_a_position_claimed_or_moved_later() {
        let group = doubles::Group::held_up();
        let commits = GroupCommits::Async(CommitHook::none());
        let mut delivery = opened(takes_all(), &group, commits).await;
        delivery.commit(one(1, 5)).await;
        tokio::task::yield_now().await;
        delivery.commit(one(1, 6)).await;
        let back = Move {
            partition: doubles::partition(0),
            expected: Some(Offset::new(7)),
            next: Offset::new(2),
            topic_id: None,
        };
        let moves = [back];
        let answer = async {
            tokio::task::yield_now().await;
            group.permits.add_permits(100);
        };
        let (moved, ()) = tokio::join!(delivery.reposition(&moves), answer);
        moved.expect("the group answers");
        delivery.settle().await;
        assert_eq!(group.commits(), [vec![position(0, 6)], vec![position(0, 2)]]);
        delivery.commit(one(2, 2)).await;
        delivery.release(&[doubles::partition(0)]).await;
        let claims = delivery.claim(&[request(0), request(1)]).await;
        let claims = claims.expect("the group answers");
        let stored = group.stored.lock().expect("no panic")[&doubles::partition(0)];
        assert!(matches!(claims[0].stored, Stored::At(offset) if offset == stored));
        assert!(matches!(claims[1].stored, Stored::Nothing));
    }

    #[tokio::test]
    async fn a_first_start_leaves_alone_what_is_stored() {
        let group = doubles::Group::new();
        let stored = (doubles::partition(0), Offset::new(40));
        group.stored.lock().expect("no panic").extend([stored]);
        let mut delivery = opened(takes_all(), &group, GroupCommits::Sync).await;
        let first = |index| Move {
            partition: doubles::partition(index),
            expected: None,
            next: Offset::new(3),
            topic_id: None,
        };
        let moves = [first(0), first(1)];
        delivery.reposition(&moves).await.expect("the group answers");
        assert_eq!(group.commits(), [vec![position(1, 3)]]);
        delivery.reposition(&moves).await.expect("nothing is left to do");
        assert_eq!(group.commits().len(), 1);
    }
}
