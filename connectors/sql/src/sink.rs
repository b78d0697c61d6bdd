//! What both sinks say to their user and to the framework in the same words.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tidegate::batch::Batch;

/// What the user's own SQL returns: `Box::pin(async move { … })`.
pub type Writing<'a, E> = Pin<Box<dyn Future<Output = Result<(), E>> + Send + 'a>>;

/// The user's own SQL: runs on a connection of type `C` and fails with `E`.
pub type WriteWith<C, O, E> =
    Arc<dyn for<'a> Fn(&'a mut C, &'a Batch<O>) -> Writing<'a, E> + Send + Sync>;

/// How a transaction ends if nothing fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It is made durable.
    Commit,
    /// It is undone: a probe.
    Undo,
}

/// Where progress is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offsets {
    /// With the results: exactly-once.
    Stored,
    /// With the consumer group.
    Elsewhere,
}

/// Gives a sink the settings that every SQL sink has, and both of the framework's traits.
///
/// The type has fields `target: Target<O>` and `write_with: Option<WriteWith<…>>`, and methods
/// `open_with`, `description`, `store`, `claim_all`, `move_all`, `release_all` and `close_all`.
#[doc(hidden)]
#[macro_export]
macro_rules! sql_sink {
    ($sink:ident, $conn:ty, $error:ty) => {
        impl<O> $sink<O>
        where
            O: Send + Sync + 'static,
        {
            /// Writes results into this table too; each table takes every result for which its
            /// [`when`](Table::when) holds.
            #[must_use]
            pub fn into(mut self, table: Table<O>) -> Self {
                self.target.tables.push(table);
                self
            }

            /// Runs your own SQL in the transaction of each batch, after the tables were written.
            ///
            /// It sees the whole batch. It must not end the transaction: that is noticed, and
            /// stops the pipeline. It may be called again with the same batch after a failure,
            /// whose writes are undone. Anything it does outside this connection is not undone.
            #[must_use]
            pub fn write_with<F>(mut self, write: F) -> Self
            where
                F: for<'a> Fn(
                        &'a mut $conn,
                        &'a ::tidegate::batch::Batch<O>,
                    ) -> $crate::Writing<'a, $error>
                    + Send
                    + Sync
                    + 'static,
            {
                self.write_with = Some(::std::sync::Arc::new(write));
                self
            }

            /// Runs your own SQL at every start, before the tables are looked at, as in
            /// `CREATE TABLE IF NOT EXISTS …`. What several calls give runs in order and in one
            /// transaction, by one process at a time. A database that is away is waited for like
            /// at any start; what it refuses ends the start with a configuration error.
            #[must_use]
            pub fn setup(mut self, sql: impl Into<String>) -> Self {
                self.target.setup.push(sql.into());
                self
            }

            /// Forbids creating the bookkeeping tables; if they are missing, the error prints the
            /// statements that create them.
            #[must_use]
            pub fn tables_manual(mut self) -> Self {
                self.target.forbid_creation();
                self
            }

            /// Does without a dead letter table; a failure policy that sets records aside is
            /// refused.
            #[must_use]
            pub fn without_dead_letters(mut self) -> Self {
                self.target.dead_letters = $crate::DeadLetterTable::Off;
                self
            }
        }

        impl<O> ::tidegate::sink::TransactionalSink for $sink<O>
        where
            O: Send + Sync + 'static,
        {
            type Output = O;

            async fn open(
                &mut self,
                context: &::tidegate::sink::SinkContext,
            ) -> Result<(), ::tidegate::sink::SinkError> {
                self.open_with(context, $crate::Offsets::Stored).await
            }

            fn describe(&self) -> ::tidegate::sink::SinkDescription {
                self.description()
            }

            async fn claim(
                &mut self,
                partitions: &[::tidegate::sink::ClaimRequest],
            ) -> Result<Vec<::tidegate::sink::Claim>, ::tidegate::sink::SinkError> {
                let claims = self.claim_all(partitions).await;
                claims.map_err($crate::Failure::into_sink_error)
            }

            async fn reposition(
                &mut self,
                moves: &[::tidegate::sink::Move],
            ) -> Result<(), ::tidegate::sink::CommitError> {
                let moved = self.move_all(moves).await;
                moved.map_err($crate::Failure::into_commit_error)
            }

            async fn commit(
                &mut self,
                batch: &::tidegate::batch::Batch<O>,
            ) -> Result<(), ::tidegate::sink::CommitError> {
                let end = $crate::End::Commit;
                let stored = self.store(batch, $crate::Offsets::Stored, end).await;
                stored.map_err($crate::Failure::into_commit_error)
            }

            async fn probe(
                &mut self,
                batch: &::tidegate::batch::Batch<O>,
            ) -> Result<(), ::tidegate::sink::CommitError> {
                let end = $crate::End::Undo;
                let stored = self.store(batch, $crate::Offsets::Stored, end).await;
                stored.map_err($crate::Failure::into_commit_error)
            }

            async fn release(&mut self, partitions: &[::tidegate::record::PartitionId]) {
                self.release_all(partitions).await;
            }

            async fn close(&mut self) {
                self.close_all().await;
            }
        }

        impl<O> ::tidegate::sink::Sink for $sink<O>
        where
            O: Send + Sync + 'static,
        {
            type Output = O;

            async fn open(
                &mut self,
                context: &::tidegate::sink::SinkContext,
            ) -> Result<(), ::tidegate::sink::SinkError> {
                self.open_with(context, $crate::Offsets::Elsewhere).await
            }

            fn describe(&self) -> ::tidegate::sink::SinkDescription {
                self.description()
            }

            async fn write(
                &mut self,
                batch: &::tidegate::batch::Batch<O>,
            ) -> Result<(), ::tidegate::sink::SinkError> {
                let end = $crate::End::Commit;
                let stored = self.store(batch, $crate::Offsets::Elsewhere, end).await;
                stored.map_err($crate::Failure::into_sink_error)
            }

            async fn close(&mut self) {
                self.close_all().await;
            }
        }
    };
}
