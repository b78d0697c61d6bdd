//! Work is known by its epoch: what is of another one is dropped, everywhere.

use super::rig::{Rig, at, cause, ms, one, p, spans};
use crate::batch::{Outcome, Outputs};
use crate::delivery::Fate;
use crate::engine::core::{Control, Event, SeekTo};
use crate::engine::work::{Completion, Said};
use crate::process::Attempt;
use crate::sink::Stored;

#[test]
fn every_repositioning_opens_a_new_epoch() {
    let mut rig = Rig::start(&[0]);
    let mut epochs = vec![rig.epoch(0)];
    // A fence.
    rig.process(0, [0]);
    rig.commit_ends(Fate::Fenced(cause()));
    epochs.push(rig.epoch(0));
    rig.wait(1000);
    rig.claimed(|_| Stored::At(at(0)));
    rig.resolved(0);
    // A seek.
    rig.control(Control::Seek { partition: p(0), to: SeekTo::Offset(at(0)) });
    rig.resolved(0);
    rig.moved();
    epochs.push(rig.epoch(0));
    // A claim that answers another position than expected.
    rig.process(0, [0]);
    rig.commit_ends(Fate::InDoubt(cause()));
    rig.claimed(|_| Stored::At(at(77)));
    epochs.push(rig.epoch(0));
    // An assignment.
    rig.step([Event::Lost(vec![p(0)])]);
    rig.assign(&[0], 1000);
    epochs.push(rig.epoch(0));
    assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "{epochs:?}");
}

#[test]
fn records_that_are_alike_in_every_byte_are_each_processed_and_stored() {
    let mut rig = Rig::start(&[0]);
    rig.keyed(0, 0, Some("key"));
    rig.keyed(0, 1, Some("key"));
    rig.run();
    rig.wait(50);
    let batch = rig.commit();
    assert_eq!(spans(&batch), [(0, 0, 2)]);
    assert_eq!(batch.outputs().count(), 2);
}

#[test]
fn records_of_an_old_epoch_are_dropped() {
    let mut rig = Rig::start(&[0]);
    let late = rig.chunk(0, [0, 1]);
    rig.step([Event::Lost(vec![p(0)])]);
    rig.begin(&[0]);
    rig.step([late]);
    assert!(rig.jobs.is_empty(), "what was read before the loss is read again");
}

#[test]
fn an_end_of_an_old_epoch_closes_no_hole() {
    let mut rig = Rig::start(&[0]);
    let (partition, epoch) = (p(0), rig.epoch(0));
    rig.step([Event::Lost(vec![p(0)])]);
    rig.begin(&[0]);
    rig.step([Event::End { partition, epoch, next: at(9) }]);
    rig.wait(50);
    assert!(rig.commits.is_empty());
}

#[test]
fn results_from_before_a_loss_are_dropped_although_the_partition_was_regained() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    let before = rig.jobs.pop_front().expect("it runs");
    rig.step([Event::Lost(vec![p(0)])]);
    rig.begin(&[0]);
    rig.deliver(0, [0]);
    rig.step([Rig::done(&before)]);
    rig.wait(50);
    assert!(rig.commits.is_empty(), "only the new epoch's result counts");
    assert_eq!(rig.core.totals().stale_results, 1);
    rig.run();
    rig.wait(50);
    assert_eq!(spans(&rig.commit()), [(0, 0, 1)]);
}

#[test]
fn results_that_come_after_their_partition_has_gone_are_counted() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    let before = rig.jobs.pop_front().expect("it runs");
    rig.step([Event::Lost(vec![p(0)])]);
    rig.step([Rig::done(&before)]);
    assert_eq!(rig.core.totals().stale_results, 1);
}

#[test]
fn the_first_outcome_of_a_record_wins() {
    let mut rig = Rig::start(&[0]);
    rig.deliver(0, [0]);
    let job = rig.jobs.pop_front().expect("it runs");
    let seq = job.tickets[0].seq;
    let second =
        Completion { key: job.key, seq, said: Said::Attempt(Attempt::Done(Some(Outputs::One(2)))) };
    rig.step([Event::Completed(vec![one(&job, seq), second])]);
    rig.wait(50);
    let batch = rig.commit();
    assert_eq!(batch.finished()[0].outcome, Outcome::Emit(Outputs::One(1)));
}

#[test]
fn a_batch_that_is_tried_again_leaves_out_what_was_taken_away_meanwhile() {
    let mut rig = Rig::start(&[0, 1]);
    rig.deliver(0, [0]);
    rig.process(1, [0]);
    let batch = rig.commit();
    assert_eq!(spans(&batch), [(0, 0, 1), (1, 0, 1)]);
    rig.ends(batch, Fate::Aborted(cause()));
    rig.step([Event::Lost(vec![p(0)])]);
    rig.wait(1000);
    let again = rig.commit();
    assert_eq!(spans(&again), [(1, 0, 1)]);
    assert_eq!(again.len(), 1);
}

#[test]
fn a_batch_of_which_nothing_is_left_does_not_hold_up_the_others() {
    let mut rig = Rig::start(&[0, 1]);
    rig.process(0, [0]);
    rig.commit_ends(Fate::Aborted(cause()));
    rig.step([Event::Lost(vec![p(0)])]);
    rig.process(1, [0]);
    assert_eq!(spans(&rig.commit()), [(1, 0, 1)]);
}

#[test]
fn a_span_that_moves_nothing_is_not_stored() {
    let mut rig = Rig::start(&[0]);
    rig.end(0, 0);
    rig.wait(100);
    assert!(rig.commits.is_empty());
}

#[test]
fn nothing_is_handed_to_the_sink_while_it_is_busy() {
    let mut rig = Rig::start(&[0]);
    rig.assign(&[1], 10_000);
    rig.process(0, [0]);
    assert!(rig.commits.is_empty(), "the claim is out: what waits behind it could become stale");
    rig.step([Event::Lost(vec![p(0)])]);
    rig.claimed(|_| Stored::At(at(0)));
    rig.wait(50);
    assert!(rig.commits.is_empty(), "it has become stale");
}

#[test]
fn a_claim_waits_for_the_commit_and_asks_only_for_what_is_still_ours() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0]);
    let batch = rig.commit();
    rig.assign(&[1, 2], 10_000);
    assert!(rig.claims.is_empty());
    rig.step([Event::Lost(vec![p(1)])]);
    rig.ends(batch, Fate::Committed);
    let claim = rig.claims.pop_front().expect("the sink is free");
    assert_eq!(claim.iter().map(|c| c.partition.clone()).collect::<Vec<_>>(), [p(2)]);
}

#[test]
fn the_fate_of_a_commit_says_nothing_about_a_partition_that_was_lost_and_regained() {
    let mut rig = Rig::start(&[0]);
    rig.process(0, [0, 1]);
    let batch = rig.commit();
    rig.step([Event::Lost(vec![p(0)])]);
    rig.assign(&[0], 10_000);
    rig.ends(batch, Fate::Committed);
    rig.claimed(|_| Stored::At(at(0)));
    rig.resolved(0);
    let status = rig.core.status();
    assert_eq!(status.partitions[0].committed, at(0), "only the claim tells where it stands");
    assert_eq!(status.totals.commits, 1);
    assert!(rig.now < ms(100));
}
