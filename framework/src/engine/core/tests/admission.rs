//! At most once: nothing runs before progress past it is stored, and what may run is run.

use super::rig::{Rig, at, cause, p};
use crate::delivery::{Fate, Guarantee, Progress};
use crate::engine::core::{Control, Event, SeekTo};
use crate::sink::{SinkError, Stored};

fn rig(indices: &[i32]) -> Rig {
    let mut rig = Rig::with(|config| {
        config.guarantee = Guarantee::AtMostOnce;
        config.progress = Progress::Group;
        config.run_max = 1;
        config.outstanding_max = 1;
    });
    rig.begin(indices);
    rig
}

fn admitted(rig: &mut Rig) {
    rig.admissions.pop_front().expect("positions are being stored");
    rig.step([Event::Admitted(Ok(()))]);
}

fn refused(rig: &mut Rig) {
    rig.admissions.pop_front().expect("positions are being stored");
    rig.step([Event::Admitted(Err(SinkError::Retry(cause())))]);
}

#[test]
fn nothing_runs_before_its_progress_is_stored() {
    let mut rig = rig(&[0]);
    rig.deliver(0, [0, 1]);
    assert!(rig.jobs.is_empty());
    assert_eq!(rig.admissions[0][0].next, at(2));
    rig.deliver(0, [2]);
    assert_eq!(rig.admissions.len(), 1, "one at a time");
    admitted(&mut rig);
    assert_eq!(rig.running(), [0], "2 is not admitted yet");
    rig.run();
    rig.wait(50);
    assert_eq!(rig.admissions[0][0].next, at(3));
}

#[test]
fn a_record_whose_admission_is_in_doubt_never_runs_and_is_counted() {
    let mut rig = rig(&[0]);
    rig.deliver(0, [0, 1]);
    refused(&mut rig);
    rig.wait(10_000);
    assert!(rig.jobs.is_empty());
    assert_eq!(rig.core.totals().given_up, 2);
    rig.commit_ends(Fate::Committed);
    admitted(&mut rig);
    assert!(rig.jobs.is_empty(), "a later admission covers them, and they stay given up");
}

#[test]
fn a_refused_admission_is_followed_by_a_wait_in_which_nothing_more_is_given_up() {
    let mut rig = rig(&[0]);
    rig.deliver(0, [0]);
    refused(&mut rig);
    rig.deliver(0, [1]);
    assert!(rig.admissions.is_empty());
    rig.assert_rests();
    rig.wait(1000);
    rig.commit_ends(Fate::Committed);
    admitted(&mut rig);
    assert_eq!(rig.running(), [1]);
    assert_eq!(rig.core.totals().given_up, 1);
}

#[test]
fn an_end_without_records_is_stored_too() {
    let mut rig = rig(&[0]);
    rig.end(0, 7);
    assert_eq!(rig.admissions[0][0].next, at(7));
    admitted(&mut rig);
    rig.wait(1000);
    assert!(rig.admissions.is_empty());
}

#[test]
fn what_is_admitted_is_run_before_its_partition_is_handed_back() {
    let mut rig = rig(&[0]);
    rig.deliver(0, [0, 1, 2]);
    admitted(&mut rig);
    let id = rig.revoke(&[0], 5000);
    rig.deliver(0, [3]);
    assert!(rig.releases.is_empty());
    rig.run();
    while let Some(batch) = rig.commits.pop_front() {
        rig.ends(batch, Fate::Committed);
    }
    assert_eq!(rig.releases[0].0, id);
    let stored = rig.core.totals().committed_records;
    assert_eq!(stored, 3, "nobody else will ever read them; 3 is not admitted");
}

#[test]
fn what_is_admitted_is_run_before_the_engine_ends() {
    let mut rig = rig(&[0]);
    rig.deliver(0, [0, 1, 2]);
    admitted(&mut rig);
    rig.stop();
    rig.run();
    while let Some(batch) = rig.commits.pop_front() {
        rig.ends(batch, Fate::Committed);
    }
    rig.finished.take().expect("it ends").expect("without an error");
    assert_eq!(rig.core.totals().committed_records, 3);
    assert_eq!(rig.core.totals().given_up, 0);
}

#[test]
fn what_is_admitted_and_cannot_be_run_in_time_is_counted_as_given_up() {
    let mut rig = rig(&[0]);
    rig.deliver(0, [0, 1, 2]);
    admitted(&mut rig);
    rig.stop();
    rig.wait(60_000);
    let error = rig.finished.take().expect("it ends").expect_err("late");
    assert!(error.to_string().contains("given up"), "{error}");
    assert_eq!(rig.core.totals().given_up, 3);
}

#[test]
fn an_admission_from_before_a_loss_admits_nothing_of_the_regained_partition() {
    let mut rig = rig(&[0]);
    rig.deliver(0, [0, 1]);
    rig.step([Event::Lost(vec![p(0)])]);
    rig.assign(&[0], 10_000);
    admitted(&mut rig);
    rig.claimed(|_| Stored::At(at(0)));
    rig.resolved(0);
    rig.deliver(0, [0]);
    assert!(rig.jobs.is_empty(), "it waits for an admission of its own");
    admitted(&mut rig);
    assert_eq!(rig.running(), [0]);
}

#[test]
fn after_a_seek_back_records_are_admitted_and_run_again() {
    let mut rig = rig(&[0]);
    rig.deliver(0, [0, 1]);
    admitted(&mut rig);
    rig.run();
    rig.wait(50);
    rig.commit_ends(Fate::Committed);
    rig.control(Control::Seek { partition: p(0), to: SeekTo::Offset(at(0)) });
    rig.resolved(0);
    rig.moved();
    rig.deliver(0, [0]);
    assert!(rig.jobs.is_empty());
    admitted(&mut rig);
    assert_eq!(rig.running(), [0]);
}

#[test]
fn a_record_that_is_skipped_before_its_admission_does_not_run() {
    let mut rig = rig(&[0]);
    rig.deliver(0, [0, 1]);
    rig.control(Control::Skip { partition: p(0), offset: at(0) });
    rig.reply().expect("it is in flight");
    admitted(&mut rig);
    assert_eq!(rig.running(), [1]);
}

#[test]
fn a_paused_partition_admits_nothing() {
    let mut rig = rig(&[0]);
    rig.control(Control::Pause(None));
    rig.deliver(0, [0]);
    rig.wait(1000);
    assert!(rig.admissions.is_empty());
    rig.control(Control::Resume(None));
    assert_eq!(rig.admissions.len(), 1);
}
