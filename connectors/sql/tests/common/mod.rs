//! The promises that both SQL sinks make beyond those of every sink, which the conformance kit tests:
//! each connector brings a [`Lab`] and calls [`every_promise`].

#[allow(dead_code, reason = "the conformance tests use it")]
pub(crate) mod conformance;
pub(crate) mod cut;
pub(crate) mod data;
pub(crate) mod own_sql;
pub(crate) mod progress;
pub(crate) mod start;

use std::time::Duration;

use tidegate::batch::Batch;
use tidegate::record::{Offset, PartitionId};
use tidegate::sink::{
    Claim, ClaimRequest, CommitError, DeadLetters, Move, Sink, SinkContext, SinkError, Stored,
    TopicId, TransactionalSink,
};
use tidegate_sql::Table;

/// A result of the tests.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) id: i64,
    pub(crate) text: String,
    pub(crate) amount: i64,
}

pub(crate) fn item(id: i64, text: &str, amount: i64) -> Item {
    let text = text.to_owned();
    Item { id, text, amount }
}

/// A database of its own, and sinks that write into it.
#[allow(async_fn_in_trait, reason = "tests only")]
pub(crate) trait Lab: Sized {
    type Sink<O: Send + Sync + 'static>: TransactionalSink<Output = O> + Sink<Output = O>;

    /// An empty database.
    async fn new() -> Self;

    /// A sink into these tables.
    fn sink<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>) -> Self::Sink<O>;

    /// The same, forbidden to create bookkeeping tables.
    fn manual<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>) -> Self::Sink<O>;

    /// The same, without a dead letter table.
    fn no_letters<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>) -> Self::Sink<O>;

    /// A sink into these tables that runs each of these at its start.
    fn set_up<O: Send + Sync + 'static>(
        &self,
        tables: Vec<Table<O>>,
        sql: &[&str],
    ) -> Self::Sink<O>;

    /// A sink into these tables that runs these statements in the transaction of each batch.
    fn writes<O: Send + Sync + 'static>(&self, tables: Vec<Table<O>>, sql: &str) -> Self::Sink<O>;

    /// Runs statements.
    async fn run(&self, sql: &str);

    /// The rows of a query, each as its columns' texts joined by `|`; NULL is `-`.
    async fn rows(&self, sql: &str) -> Vec<String>;

    /// `tidegate.progress` or what it is called here.
    fn books(&self, table: &str) -> String;

    /// Whether there is a table of this name.
    async fn has(&self, table: &str) -> bool;

    async fn number(&self, sql: &str) -> i64 {
        self.rows(sql).await[0].parse().expect("a number")
    }
}

pub(crate) fn context(dead_letters: DeadLetters) -> SinkContext {
    SinkContext {
        group: "group".to_owned(),
        instance: None,
        deadline: Duration::from_secs(10),
        dead_letters,
    }
}

/// A table of [`Item`]s that appends.
pub(crate) fn items() -> Table<Item> {
    Table::new("items")
        .int8("id", |i: &Item| i.id)
        .text("text", |i| &i.text)
        .int8("amount", |i| i.amount)
}

/// Makes the table of [`items`] and opens a sink on it.
pub(crate) async fn opened<L: Lab>(lab: &L) -> L::Sink<Item> {
    lab.run("CREATE TABLE IF NOT EXISTS items (id bigint, text text, amount bigint)").await;
    open(lab.sink(vec![items()])).await
}

pub(crate) async fn open<S: TransactionalSink>(mut sink: S) -> S {
    sink.open(&context(DeadLetters::Expected)).await.expect("the sink opens");
    sink
}

pub(crate) fn partition(index: i32) -> PartitionId {
    PartitionId::new("in", index)
}

pub(crate) fn asked(index: i32) -> ClaimRequest {
    ClaimRequest { partition: partition(index), topic_id: None }
}

pub(crate) fn asked_of(index: i32, topic_id: u8) -> ClaimRequest {
    ClaimRequest { topic_id: Some(TopicId([topic_id; 16])), ..asked(index) }
}

pub(crate) fn start(index: i32, next: i64) -> Move {
    Move { partition: partition(index), expected: None, next: Offset::new(next), topic_id: None }
}

/// Claims partitions 0 up to `count` and stores their start at 0 if they have none.
pub(crate) async fn claim_from_zero<S: TransactionalSink>(sink: &mut S, count: i32) {
    let requests: Vec<ClaimRequest> = (0..count).map(asked).collect();
    let claims = sink.claim(&requests).await.expect("claimed");
    let moves: Vec<Move> = claims
        .iter()
        .filter(|claim| matches!(claim.stored, Stored::Nothing | Stored::Added))
        .map(|claim| start(claim.partition.index(), 0))
        .collect();
    sink.reposition(&moves).await.expect("starts are stored");
}

pub(crate) async fn claim_one<S: TransactionalSink>(sink: &mut S, index: i32) -> Stored {
    let claims: Vec<Claim> = sink.claim(&[asked(index)]).await.expect("claimed");
    claims.into_iter().next().expect("one answer").stored
}

pub(crate) fn at(stored: &Stored) -> i64 {
    match stored {
        Stored::At(offset) => offset.get(),
        other => panic!("resumes somewhere, got {other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_fenced(result: Result<(), CommitError>, says: &str) {
    match result {
        Err(CommitError::Fenced(cause)) => {
            assert!(cause.to_string().contains(says), "{cause} says {says:?}");
        }
        other => panic!("fenced, got {other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_stops(result: Result<(), SinkError>, says: &str) -> String {
    match result {
        Err(SinkError::Stop(error)) => {
            let message = error.to_string();
            assert!(message.contains(says), "{message} says {says:?}");
            assert!(error.is_configuration() || error.is_sink(), "{message}");
            message
        }
        other => panic!("stops with {says:?}, got {other:?}"),
    }
}

/// Finds the record at fault as the engine does, with probes of growing prefixes: the smallest
/// prefix that is rejected ends with it.
pub(crate) async fn culprit<S>(sink: &mut S, batch: &Batch<S::Output>) -> i64
where
    S: TransactionalSink,
    S::Output: Clone,
{
    let copy = || {
        let (spans, finished) = (batch.spans().to_vec(), batch.finished().to_vec());
        Batch::new(spans, finished)
    };
    let (mut good, mut bad) = (0, batch.len());
    while good + 1 < bad {
        let middle = usize::midpoint(good, bad);
        match sink.probe(&copy().split(middle).0).await {
            Ok(()) => good = middle,
            Err(CommitError::Rejected(_)) => bad = middle,
            Err(other) => panic!("a probe passes or is rejected, got {other:?}"),
        }
    }
    batch.finished()[good].record.offset.get()
}

/// Turns the promises into tests for one database.
#[macro_export]
macro_rules! every_promise {
    ($lab:ty) => {
        $crate::promises!($lab, progress:
            a_first_start_finds_nothing_and_stores_every_start_once,
            two_first_starts_at_once_agree_on_one_start,
            one_partition_out_of_place_keeps_everything_out,
            a_partition_that_was_never_claimed_is_fenced,
            a_partition_added_later_starts_at_its_beginning,
            a_missing_row_among_others_is_refused_by_name,
            a_recreated_topic_is_refused_by_name,
            a_seek_moves_progress_under_the_claim_and_counts_a_reset,
            a_released_partition_is_not_ours_any_more,
            a_reset_from_outside_fences_the_owner,
            spans_without_progress_are_not_stored,
            groups_do_not_see_each_other,
            a_dropped_commit_stores_all_or_nothing,
        );
        $crate::promises!($lab, data:
            an_upsert_keeps_the_last_and_adds_up_totals,
            keys_written_differently_are_one_row,
            each_table_takes_the_results_its_filter_holds_for,
            one_table_may_be_named_twice,
            lineage_says_where_each_row_came_from,
            many_rows_of_every_size_arrive_once_in_order,
            a_dead_letter_is_stored_with_all_it_had,
            a_value_that_can_be_in_no_row_names_its_record,
            not_null_check_unique_and_foreign_key_are_bisected_to_their_record,
            a_deferred_constraint_is_bisected_to_its_record,
            a_total_that_overflows_in_the_table_is_rejected,
            a_rejection_of_a_fenced_writer_is_a_fence,
            a_plain_sink_writes_results_and_dead_letters_without_progress,
        );
        $crate::promises!($lab, own_sql:
            own_sql_is_stored_with_the_batch_or_not_at_all,
            own_sql_that_refuses_the_data_is_a_rejection,
            own_sql_that_is_wrong_stops_the_pipeline,
            own_sql_that_ends_the_transaction_is_noticed_and_stores_no_progress,
            own_sql_alone_needs_no_table,
        );
        $crate::promises!($lab, start:
            a_table_that_does_not_fit_is_refused_before_anything_is_consumed,
            setup_runs_at_every_start_before_the_tables_are_looked_at,
            a_setup_that_is_refused_leaves_nothing_and_is_named,
            many_that_start_at_once_set_up_one_after_another,
            missing_bookkeeping_is_created_or_its_statements_are_printed,
            bookkeeping_of_another_version_is_refused,
            a_policy_with_dead_letters_needs_their_table,
            a_group_without_a_name_is_refused,
            names_with_quotes_and_capitals_work,
        );
    };
}

/// One test per name.
#[macro_export]
macro_rules! promises {
    ($lab:ty, $module:ident: $($name:ident),* $(,)?) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test]
                async fn $name() {
                    use super::common::Lab as _;
                    super::common::$module::$name(<$lab>::new().await).await;
                }
            )*
        }
    };
}
