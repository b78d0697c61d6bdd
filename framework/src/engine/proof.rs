//! The proof that this process is a member of its group: a commit of the group's offsets, which the
//! broker takes from members only.

use crate::batch::Span;
use crate::source::{GroupOffsets, SourceError};

/// Commits what stands there already. Where another owner has gone on meanwhile, our own position
/// would set it back.
pub(super) async fn prove(
    group: &dyn GroupOffsets,
    mut spans: Vec<Span>,
) -> Result<(), SourceError> {
    let partitions: Vec<_> = spans.iter().map(|span| span.partition.clone()).collect();
    let stored = group.committed(&partitions).await?;
    for (span, stored) in spans.iter_mut().zip(stored) {
        span.next = stored.unwrap_or(span.next);
        span.first = span.next;
    }
    group.commit_reached(&spans).await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::record::{Epoch, Offset, PartitionId};
    use crate::source::Position;

    /// A group in which partition 0 stands at 9, and nothing of partition 1 is stored.
    #[derive(Default)]
    struct Group(Mutex<Vec<Span>>);

    #[async_trait]
    impl GroupOffsets for Group {
        async fn committed(
            &self,
            partitions: &[PartitionId],
        ) -> Result<Vec<Option<Offset>>, SourceError> {
            let stored = |id: &PartitionId| (id.index() == 0).then_some(Offset::new(9));
            Ok(partitions.iter().map(stored).collect())
        }

        async fn commit(&self, _: &[Position]) -> Result<(), SourceError> {
            unreachable!("a proof names the epochs it was made under")
        }

        async fn commit_reached(&self, spans: &[Span]) -> Result<(), SourceError> {
            self.0.lock().expect("no panic").extend_from_slice(spans);
            Ok(())
        }

        fn mirror(&self, _: Vec<Position>) {}
    }

    #[tokio::test]
    async fn a_proof_of_membership_leaves_progress_where_another_owner_has_left_it() {
        let group = Group::default();
        let span = |index, next| Span {
            partition: PartitionId::new("in", index),
            epoch: Epoch::new(4),
            first: Offset::new(next),
            next: Offset::new(next),
        };
        prove(&group, vec![span(0, 5), span(1, 5)]).await.expect("the group answers");
        let committed = group.0.into_inner().expect("no panic");
        assert_eq!(committed, [span(0, 9), span(1, 5)]);
    }
}
