//! What must run one after another does, retries included.

use super::rig::{Rig, ms};
use crate::engine::core::Control;
use crate::policy::Retry;
use crate::settings::Order;

fn by_key() -> Rig {
    let mut rig = Rig::with(|config| config.order = Order::ByKey);
    rig.begin(&[0, 1]);
    rig
}

#[test]
fn a_null_key_is_ordered_by_partition() {
    let mut rig = by_key();
    rig.keyed(0, 0, None);
    rig.keyed(0, 1, None);
    rig.keyed(1, 7, None);
    assert_eq!(rig.running(), [0, 7], "null keys of a partition run one after another");
}

#[test]
fn an_empty_key_is_a_key() {
    let mut rig = by_key();
    rig.keyed(0, 0, None);
    rig.keyed(0, 1, Some(""));
    rig.keyed(0, 2, Some(""));
    assert_eq!(rig.running(), [0, 1]);
}

#[test]
fn a_slow_key_holds_back_only_itself() {
    let mut rig = by_key();
    rig.keyed(0, 0, Some("slow"));
    rig.keyed(0, 1, Some("slow"));
    rig.keyed(0, 2, Some("other"));
    assert_eq!(rig.running(), [0, 2]);
}

#[test]
fn a_failed_record_is_not_overtaken_while_it_waits_for_its_retry() {
    let mut rig = Rig::with(|config| {
        config.policy = Retry::times(3).backoff(ms(100), ms(100)).then_stop();
        config.order = Order::ByKey;
    });
    rig.begin(&[0]);
    rig.keyed(0, 0, Some("a"));
    rig.keyed(0, 1, Some("a"));
    let job = rig.jobs.pop_front().expect("it runs");
    rig.step([Rig::failed(&job)]);
    rig.keyed(0, 2, Some("a"));
    rig.keyed(0, 3, Some("b"));
    assert_eq!(rig.running(), [3]);
    rig.jobs.clear();
    rig.wait(200);
    assert_eq!(rig.jobs.len(), 1);
    assert_eq!(rig.running(), [0, 1, 2], "in order");
    assert_eq!(rig.jobs[0].tickets[0].attempt, 2);
}

#[test]
fn a_retry_that_falls_due_during_a_pause_is_made_after_it() {
    let mut rig = Rig::with(|config| {
        config.policy = Retry::times(3).backoff(ms(100), ms(100)).then_stop();
    });
    rig.begin(&[0]);
    rig.deliver(0, [0]);
    let job = rig.jobs.pop_front().expect("it runs");
    rig.step([Rig::failed(&job)]);
    rig.control(Control::Pause(None));
    rig.wait(500);
    rig.assert_rests();
    assert!(rig.jobs.is_empty());
    rig.control(Control::Resume(None));
    assert_eq!(rig.running(), [0]);
}

#[test]
fn no_more_is_out_than_the_pool_may_hold_and_what_waits_is_started_later() {
    let mut rig = Rig::with(|config| {
        config.order = Order::Unordered;
        config.outstanding_max = 2;
    });
    rig.begin(&[0]);
    rig.deliver(0, 0..5);
    assert_eq!(rig.running(), [0, 1]);
    let job = rig.jobs.pop_front().expect("it runs");
    rig.step([Rig::done(&job)]);
    assert_eq!(rig.running(), [1, 2]);
}
