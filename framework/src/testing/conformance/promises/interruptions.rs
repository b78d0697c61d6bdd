//! Calls that are cut short: whatever became of them, the next claim settles it and says it.

use super::super::batches::{assert_whole, cut, number};
use super::super::harness::{Ability, Harness, LeftOpen, OutputOf, Severed};
use super::super::owner::{commit, context, letters, open, opened, owner, resume, try_resume};
use crate::record::Offset;
use crate::sink::{CommitError, SinkError, TransactionalSink};
use crate::testing::faulty::{Call, Fault, FaultScript, Happens, Told};
use crate::testing::polls::{cancelled, polled};

/// More polls than any commit needs.
const POLLS_MAX: u32 = 10_000;
/// How often the heir of a frozen owner tries to claim where it may have to wait.
const FROZEN_CLAIMS: u32 = 3;

/// The process dies at every point of its commit in turn; each time its heir finds all of the batch
/// or nothing, goes on from there, and nothing comes after.
pub async fn a_commit_cancelled_at_any_poll_is_all_or_nothing<H: Harness>(harness: &H) {
    let mut first = 0;
    for polls in 0..POLLS_MAX {
        let mut dying = owner(harness, &[0]).await;
        let batch = cut(harness, 0, first..first + 4);
        let ended = cancelled(polls, dying.commit(&batch)).await;
        drop(dying);
        let mut heir = opened(harness).await;
        let next = resume(harness, &mut heir, &[0]).await[0];
        assert!(
            next == first || next == first + 4,
            "cut after {polls} polls between {first} and {}, it resumes at {next}",
            first + 4
        );
        assert_whole(harness, &harness.view().await);
        commit(&mut heir, cut(harness, 0, next..next + 4), harness).await;
        assert_whole(harness, &harness.view().await);
        heir.close().await;
        first = next + 4;
        if let Some(result) = ended {
            result.expect("a commit that was left alone is stored");
            assert_eq!(next, first - 4, "what was said to be stored is");
            return;
        }
    }
    panic!("a commit ends within {POLLS_MAX} polls");
}

/// The process is stopped at every point of its commit in turn, its heir claims, and then it goes
/// on: nothing of it appears behind the heir's back.
pub async fn a_commit_frozen_at_any_poll_stores_nothing_behind_its_heirs_back<H: Harness>(
    harness: &H,
) {
    let mut first = 0;
    let mut put_off = 0;
    // Before the first poll it is an owner that was fenced before it began.
    for polls in 1..POLLS_MAX {
        let mut stopped = owner(harness, &[0]).await;
        let batch = cut(harness, 0, first..first + 4);
        let mut call = Box::pin(stopped.commit(&batch));
        if let Some(result) = polled(polls, call.as_mut()).await {
            result.expect("a commit that was left alone is stored");
            break;
        }
        assert!(harness.lacks(Ability::Transaction).is_none(), "it is over after one poll");
        let mut heir = harness.sink().await;
        let claimed = claim_beside(harness, &mut heir).await;
        let late = call.await;
        match claimed {
            Some(next) => {
                assert!(
                    late.is_err() || next == first + 4,
                    "stored behind the back of its heir, which resumed at {next}: {late:?}"
                );
                assert_eq!(seen(harness).await, next, "progress behind the heir's back");
                assert_whole(harness, &harness.view().await);
                first = next;
            }
            None => {
                put_off += 1;
                late.expect("nobody took over");
                first = resume_opened(harness, &mut heir).await;
            }
        }
        commit(&mut heir, cut(harness, 0, first..first + 4), harness).await;
        assert_whole(harness, &harness.view().await);
        heir.close().await;
        drop(stopped);
        first += 4;
    }
    for (ability, what) in [
        (Ability::Succession, "no claim was put off by a stopped owner"),
        (Ability::Owners, "an heir opened beside a stopped owner"),
    ] {
        let atomic = harness.lacks(Ability::Transaction).is_some();
        if let Some(reason) = harness.lacks(ability) {
            assert!(put_off > 0 || atomic, "{what}, although declared: {reason}");
        }
    }
}

/// Opens and claims beside an owner that is stopped; `None` if it was put off where the store may
/// put it off.
async fn claim_beside<H: Harness>(harness: &H, heir: &mut H::Sink) -> Option<i64> {
    let may_wait = harness.lacks(Ability::Succession).or(harness.lacks(Ability::Owners)).is_some();
    if let Err(error) = heir.open(&context(letters(harness))).await {
        assert!(may_wait && matches!(error, SinkError::Retry(_)), "an heir opens: {error}");
        return None;
    }
    if !may_wait {
        return Some(resume(harness, heir, &[0]).await[0]);
    }
    for _ in 0..FROZEN_CLAIMS {
        match try_resume(harness, heir, &[0]).await {
            Ok(nexts) => return Some(nexts[0]),
            Err(SinkError::Retry(_)) => {}
            Err(other) => panic!("a claim is answered or put off: {other}"),
        }
    }
    None
}

/// Claims after the owner it waited for is gone.
async fn resume_opened<H: Harness>(harness: &H, heir: &mut H::Sink) -> i64 {
    if harness.lacks(Ability::Owners).is_some() {
        heir.open(&context(letters(harness))).await.expect("the first is gone");
    }
    resume(harness, heir, &[0]).await[0]
}

async fn seen<H: Harness>(harness: &H) -> i64 {
    let view = harness.view().await;
    view.progress.get(&harness.partition(0)).map_or(0, |next| next.get())
}

/// The connection breaks during a commit, before the store did it and after: what the commit says
/// is true, and what it does not know the next claim says.
pub async fn a_severed_commit_is_told_truly_by_the_next_claim<H: Harness>(harness: &H) {
    if harness.lacks(Ability::Wire).is_some() {
        return lost_on_the_way(harness).await;
    }
    let mut sink = owner(harness, &[0]).await;
    let mut first = 0;
    for at in [Severed::BeforeAnswer, Severed::BeforeRequest, Severed::BeforeAnswer] {
        commit(&mut sink, cut(harness, 0, first..first + 4), harness).await;
        first += 4;
        harness.sever(at).await;
        let said = sink.commit(&cut(harness, 0, first..first + 4)).await;
        assert!(harness.was_severed(), "{at:?}: the commit met no break");
        first = settled(harness, &mut sink, at, first, &said).await;
    }
    commit(&mut sink, cut(harness, 0, first..first + 4), harness).await;
    assert_whole(harness, &harness.view().await);
    sink.close().await;
}

/// Where progress stands after a commit from here that was severed; what was said of it is true.
async fn settled<H: Harness, S: TransactionalSink<Output = OutputOf<H>>>(
    harness: &H,
    sink: &mut S,
    at: Severed,
    first: i64,
    said: &Result<(), CommitError>,
) -> i64 {
    let next = resume(harness, sink, &[0]).await[0];
    let done = match at {
        Severed::BeforeRequest => first,
        Severed::BeforeAnswer => first + 4,
    };
    assert_eq!(next, done, "{at:?}: where the claim says it resumes");
    assert_whole(harness, &harness.view().await);
    match said {
        Ok(()) => assert_eq!(next, first + 4, "{at:?}: said to be stored"),
        Err(CommitError::InDoubt(_)) => {}
        // A compare that fails is true whatever was stored before it.
        Err(CommitError::Fenced(cause)) => panic!("{at:?}: nobody else claimed: {cause}"),
        Err(CommitError::Aborted(cause)) => assert_eq!(next, first, "{at:?}: {cause}"),
        Err(CommitError::Rejected(rejection)) => panic!("{at:?}: the data is good: {rejection:?}"),
    }
    next
}

/// A store without a connection: the answer is lost between the sink and its caller.
async fn lost_on_the_way<H: Harness>(harness: &H) {
    let script = FaultScript::new()
        .on(Call::Commit, 2, Fault::new(Happens::Yes, Told::Nothing))
        .on(Call::Commit, 4, Fault::new(Happens::No, Told::Nothing));
    let mut sink = open(harness, script.wrap(harness.sink().await)).await;
    resume(harness, &mut sink, &[0]).await;
    let mut first = 0;
    for at in [Severed::BeforeAnswer, Severed::BeforeRequest] {
        sink.commit(&cut(harness, 0, first..first + 4)).await.expect("no fault was planned");
        first += 4;
        let said = sink.commit(&cut(harness, 0, first..first + 4)).await;
        first = settled(harness, &mut sink, at, first, &said).await;
    }
    sink.commit(&cut(harness, 0, first..first + 4)).await.expect("it goes on");
    assert_whole(harness, &harness.view().await);
    script.finish();
    sink.close().await;
}

/// What an owner that died left behind, neither committed nor aborted, does not come back.
pub async fn an_open_transaction_is_settled_by_the_next_claim<H: Harness>(harness: &H) {
    let mut dead = owner(harness, &[0]).await;
    commit(&mut dead, cut(harness, 0, 0..4), harness).await;
    if let Some(reason) = harness.lacks(Ability::Transaction) {
        let batch = cut(harness, 0, 4..8);
        let ended = cancelled(1, dead.commit(&batch)).await;
        let ended = ended.unwrap_or_else(|| panic!("over after one poll ({reason}), but it waits"));
        ended.expect("it is stored");
        assert_whole(harness, &harness.view().await);
        return dead.close().await;
    }
    let ghost = number(0, 4, 9);
    let left = LeftOpen {
        partition: harness.partition(0),
        first: Offset::new(4),
        next: Offset::new(8),
        output: harness.output(ghost),
    };
    let guard = harness.leave_open(left).await;
    drop(dead);
    let mut heir = opened(harness).await;
    assert_eq!(resume(harness, &mut heir, &[0]).await, [4], "nothing of it was stored");
    assert_whole(harness, &harness.view().await);
    commit(&mut heir, cut(harness, 0, 4..12), harness).await;
    drop(guard);
    // Not with the heir's commit either, and not when the last trace of it is gone.
    assert_whole(harness, &harness.view().await);
    assert_eq!(resume(harness, &mut heir, &[0]).await, [12]);
    heir.close().await;
}
