//! What the user asks of records and partitions.

use super::rig::{Rig, at, ms, one, p, spans};
use crate::batch::Outcome;
use crate::delivery::Fate;
use crate::engine::core::{Control, Event};
use crate::policy::Retry;
use crate::settings::Order;
use crate::sink::Stored;

fn skip(offset: i64) -> Control {
    Control::Skip { partition: p(0), offset: at(offset) }
}

#[test]
fn skipping_a_hung_record_completes_it_and_its_lane_goes_on() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0, 1]);
    let hung = rig.jobs.pop_front().expect("it runs");
    rig.control(skip(0));
    rig.reply().expect("it is in flight");
    assert_eq!(rig.written_off, [0]);
    assert!(hung.gate.is_closed(), "what else the worker holds must not start behind our back");
    assert_eq!(rig.running(), [1]);
    rig.run();
    rig.wait(50);
    let batch = rig.commit();
    assert_eq!(spans(&batch), [(0, 0, 2)]);
    assert_eq!(batch.finished()[0].outcome, Outcome::Filtered);
}

#[test]
fn the_late_answer_of_an_abandoned_run_changes_nothing() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0, 1]);
    let hung = rig.jobs.pop_front().expect("it runs");
    rig.control(skip(0));
    rig.step([Event::Completed(vec![one(&hung, 0)])]);
    assert_eq!(rig.core.totals().stale_results, 1);
    rig.run();
    rig.wait(50);
    assert_eq!(rig.commit().outputs().count(), 1);
}

#[test]
fn skipping_a_record_that_waits_for_its_retry_opens_its_lane() {
    let mut rig = Rig::with(|config| {
        config.policy = Retry::times(9).backoff(ms(5000), ms(5000)).then_stop();
    });
    rig.begin(&[0]);
    rig.deliver(0, [0, 1]);
    let job = rig.jobs.pop_front().expect("it runs");
    rig.step([Rig::failed(&job)]);
    assert!(rig.jobs.is_empty());
    rig.control(skip(0));
    assert_eq!(rig.running(), [1]);
    rig.wait(10_000);
    assert_eq!(rig.running(), [1], "its retry is void");
}

#[test]
fn a_record_that_is_done_or_unknown_cannot_be_skipped() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0, 1]);
    let job = rig.jobs.pop_front().expect("it runs");
    rig.step([Event::Completed(vec![one(&job, 0)])]);
    for offset in [0, 9] {
        rig.control(skip(offset));
        let error = rig.reply().expect_err("it is not in flight");
        assert!(error.to_string().contains("not in flight"), "{error}");
    }
}

#[test]
fn a_retry_of_a_lane_that_another_key_has_now_opens_nothing() {
    let mut rig = Rig::with(|config| {
        config.order = Order::ByKey;
        config.policy = Retry::times(9).backoff(ms(5000), ms(5000)).then_stop();
    });
    rig.begin(&[0]);
    rig.keyed(0, 0, Some("a"));
    let job = rig.jobs.pop_front().expect("it runs");
    rig.step([Rig::failed(&job)]);
    rig.control(skip(0));
    // The lane of "a" is free: "b" takes it and fails later.
    rig.keyed(0, 1, Some("b"));
    let job = rig.jobs.pop_front().expect("it runs");
    assert_eq!(job.key.lane, 0);
    rig.wait(2000);
    rig.step([Rig::failed(&job)]);
    rig.wait(3000);
    assert!(rig.jobs.is_empty(), "the retry of a is due, not that of b");
    rig.wait(3000);
    assert_eq!(rig.running(), [1]);
}

#[test]
fn a_pause_starts_nothing_more_and_stores_what_is_finished() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    rig.run();
    rig.control(Control::Pause(None));
    rig.deliver(0, [1]);
    rig.wait(50);
    assert!(rig.jobs.is_empty());
    rig.commit_ends(Fate::Committed);
    rig.control(Control::Resume(None));
    assert_eq!(rig.running(), [1]);
}

#[test]
fn a_pause_outlives_a_rebalance_and_a_fence() {
    for fenced in [true, false] {
        let mut rig = Rig::start(&[0, 1]);
        rig.control(Control::Pause(Some(p(0))));
        rig.deliver(0, [0]);
        if fenced {
            rig.process(1, [0]);
            rig.commit_ends(Fate::Committed);
        }
        rig.step([Event::Lost(vec![p(0)])]);
        rig.begin(&[0]);
        rig.deliver(0, [0]);
        rig.deliver(1, [5]);
        assert_eq!(rig.running(), [5]);
        rig.replies.clear();
        rig.control(Control::Resume(Some(p(0))));
        rig.reply().expect("it is assigned");
        assert_eq!(rig.running(), [5, 0]);
    }
}

#[test]
fn a_pause_of_all_but_one_is_kept_for_what_is_assigned_later() {
    let mut rig = Rig::start(&[0, 1]);
    rig.control(Control::Pause(None));
    rig.control(Control::Resume(Some(p(1))));
    rig.step([Event::Lost(vec![p(0), p(1)])]);
    rig.begin(&[0, 1]);
    rig.deliver(0, [0]);
    rig.deliver(1, [7]);
    assert_eq!(rig.running(), [7]);
}

#[test]
fn what_is_resumed_while_it_is_claimed_runs_when_it_is_read() {
    let mut rig = Rig::new();
    rig.assign(&[0], 10_000);
    rig.control(Control::Pause(None));
    rig.control(Control::Resume(None));
    rig.claimed(|_| Stored::At(at(0)));
    rig.resolved(0);
    rig.deliver(0, [0]);
    assert!(!rig.jobs[0].gate.is_closed(), "it would go back and forth for ever");
}

#[test]
fn a_resume_does_not_start_what_is_being_handed_back() {
    let mut rig = Rig::start(&[0]);
    rig.control(Control::Pause(None));
    rig.deliver(0, [0]);
    rig.revoke(&[0], 5000);
    rig.control(Control::Resume(None));
    assert!(rig.jobs.is_empty());
}
