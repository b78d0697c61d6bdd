//! Which call fails in which way, and whether it did.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::Faulty;

/// A call of a transactional sink that can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Call {
    /// [`TransactionalSink::claim`](crate::sink::TransactionalSink::claim).
    Claim,
    /// [`TransactionalSink::commit`](crate::sink::TransactionalSink::commit).
    Commit,
    /// [`TransactionalSink::reposition`](crate::sink::TransactionalSink::reposition).
    Reposition,
    /// [`TransactionalSink::release`](crate::sink::TransactionalSink::release); it has no answer.
    Release,
}

/// Whether the call reaches the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Happens {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It is begun, polled so many times, and dropped. If it ended before that, the fault was not
    /// hit.
    CancelledAtPoll(u32),
}

/// What the caller hears of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// What the store answered; of a call that did not happen, that nothing was stored; of one that
    /// was cancelled, nothing.
    TheTruth,
    /// Nothing: a commit or a reposition is in doubt, a claim is to be tried again.
    Nothing,
    /// That it was done. Of a call that did not happen this is a lie, which no sink may tell.
    Success,
    /// That nothing was stored. Of a call that happened this is a lie, which no sink may tell.
    Aborted,
}

/// One fault: did it happen, were we told, and how late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    pub(super) happens: Happens,
    pub(super) told: Told,
    pub(super) delay: Duration,
}

impl Fault {
    /// The call happens or not, and the caller is told this of it, at once.
    pub fn new(happens: Happens, told: Told) -> Self {
        Self { happens, told, delay: Duration::ZERO }
    }

    /// The answer comes so much later.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// Faults by call, kept by the test; the sinks that [`FaultScript::wrap`] makes follow it.
///
/// A fault that was planned and not met proves nothing, so it fails the test: at
/// [`FaultScript::finish`], and when the script is dropped.
#[must_use = "a script that is dropped at once fails for its faults"]
pub struct FaultScript(Shared);

/// The sinks' side of a script.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    planned: Vec<Planned>,
    /// How often each call was made, by all sinks together.
    calls: [u32; 4],
}

struct Planned {
    call: Call,
    nth: u32,
    fault: Fault,
    is_hit: bool,
}

impl FaultScript {
    /// A script without faults.
    pub fn new() -> Self {
        Self(Shared::default())
    }

    /// The `nth` call of this kind, counted from 1 over all sinks of this script, has this fault.
    ///
    /// # Panics
    /// If `nth` is 0, or that call has a fault already.
    pub fn on(self, call: Call, nth: u32, fault: Fault) -> Self {
        assert!(nth > 0, "calls are counted from 1");
        let mut state = self.0.lock();
        assert!(
            !state.planned.iter().any(|planned| (planned.call, planned.nth) == (call, nth)),
            "{call:?} {nth} has a fault already"
        );
        state.planned.push(Planned { call, nth, fault, is_hit: false });
        drop(state);
        self
    }

    /// A sink that follows this script. Several sinks may follow one: a pipeline and its restart.
    pub fn wrap<S>(&self, sink: S) -> Faulty<S> {
        Faulty::new(sink, self.0.clone())
    }

    /// How often a call was made so far.
    pub fn calls(&self, call: Call) -> u32 {
        self.0.lock().calls[call as usize]
    }

    /// Ends the script.
    ///
    /// # Panics
    /// If a fault was planned and not met.
    pub fn finish(self) {
        // Dropped.
    }
}

impl Default for FaultScript {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FaultScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultScript").field("missed", &self.0.missed()).finish_non_exhaustive()
    }
}

impl Drop for FaultScript {
    fn drop(&mut self) {
        // A test that fails already says why; a second panic would end the process.
        if !std::thread::panicking() {
            let missed = self.0.missed();
            assert!(missed.is_empty(), "faults that were planned and not met: {missed:?}");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of the lock panics")
    }

    /// Counts a call; its fault, if it has one.
    pub(super) fn called(&self, call: Call) -> Option<(u32, Fault)> {
        let mut state = self.lock();
        state.calls[call as usize] += 1;
        let nth = state.calls[call as usize];
        let planned =
            state.planned.iter().find(|planned| (planned.call, planned.nth) == (call, nth));
        planned.map(|planned| (nth, planned.fault))
    }

    pub(super) fn hit(&self, call: Call, nth: u32) {
        let mut state = self.lock();
        let planned = state.planned.iter_mut();
        for planned in planned.filter(|planned| (planned.call, planned.nth) == (call, nth)) {
            planned.is_hit = true;
        }
    }

    fn missed(&self) -> Vec<(Call, u32, Fault)> {
        let state = self.lock();
        let missed = state.planned.iter().filter(|planned| !planned.is_hit);
        missed.map(|planned| (planned.call, planned.nth, planned.fault)).collect()
    }
}
