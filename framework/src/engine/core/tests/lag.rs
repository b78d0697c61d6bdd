//! How far a partition is behind the end of its log.

use super::rig::{Rig, at, p};
use crate::delivery::Fate;
use crate::engine::core::Event;
use crate::source::Position;

fn lag(rig: &Rig) -> Option<u64> {
    rig.core.status().partitions[0].lag_records()
}

fn ends_at(rig: &mut Rig, next: i64) {
    rig.step([Event::Ends(vec![Position { partition: p(0), next: at(next) }])]);
}

#[test]
fn lag_is_the_end_that_was_told_minus_what_is_stored() {
    let mut rig = Rig::new();
    rig.assign(&[0], 10_000);
    assert_eq!(lag(&rig), None, "nothing is known yet");
    let mut rig = Rig::start(&[0]);
    ends_at(&mut rig, 10);
    assert_eq!(lag(&rig), Some(10));
    rig.process(0, [0, 1, 2]);
    assert_eq!(lag(&rig), Some(10), "finished is not stored");
    rig.commit_ends(Fate::Committed);
    assert_eq!(lag(&rig), Some(7));
    // What was told is older than what was read.
    rig.process(0, [20]);
    rig.commit_ends(Fate::Committed);
    ends_at(&mut rig, 15);
    assert_eq!(lag(&rig), Some(0));
    // A marker behind the last record counts until progress is behind it.
    ends_at(&mut rig, 22);
    assert_eq!(lag(&rig), Some(1));
    rig.end(0, 22);
    rig.wait(20);
    rig.commit_ends(Fate::Committed);
    assert_eq!(lag(&rig), Some(0));
}
