//! Looks at a run from outside while it goes on: how far progress is, where the input ends, which
//! partitions change hands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::record::PartitionId;
use tidegate_kafka::GroupMember;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::database::{Database, Positions};
use super::target::{Offsets, Target};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often the ends of the input and the members of the group are.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// What was seen of a run.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Where the run began.
    pub(crate) first: Arc<Positions>,
    /// Stored progress.
    pub(crate) next: Positions,
    /// The ends of the input.
    pub(crate) ends: Positions,
    /// How often a partition was seen with another member than before.
    pub(crate) hand_overs: u64,
    /// Progress that went back, in words.
    pub(crate) regress: Vec<String>,
    /// When progress last moved.
    pub(crate) moved: Instant,
    /// Why nothing can be seen, if that is so.
    pub(crate) trouble: Option<String>,
    /// The member that each partition was last seen with.
    owners: BTreeMap<PartitionId, String>,
    /// What the members have now.
    assigned: BTreeSet<PartitionId>,
}

impl Seen {
    pub(crate) fn new(first: Arc<Positions>, ends: Positions) -> Self {
        Self {
            first,
            next: Positions::new(),
            ends,
            hand_overs: 0,
            regress: Vec::new(),
            moved: Instant::now(),
            trouble: None,
            owners: BTreeMap::new(),
            assigned: BTreeSet::new(),
        }
    }

    /// How many offsets were done since the run began.
    pub(crate) fn done(&self) -> u64 {
        self.next.iter().map(|(partition, next)| distance(self.first(partition), *next)).sum()
    }

    /// How many there are from where the run began.
    pub(crate) fn total(&self) -> u64 {
        self.ends.iter().map(|(partition, end)| distance(self.first(partition), *end)).sum()
    }

    /// How many are left.
    pub(crate) fn left(&self) -> u64 {
        self.ends.iter().map(|(partition, end)| distance(self.at(partition), *end)).sum()
    }

    /// The partitions whose progress is before these ends, in words.
    pub(crate) fn lagging(&self, ends: &Positions) -> Vec<String> {
        let lags = |(partition, end): (&PartitionId, &i64)| {
            let next = self.at(partition);
            let nobody =
                if self.assigned.contains(partition) { "" } else { " and no member has it" };
            (next < *end).then(|| match self.next.contains_key(partition) {
                true => format!("{partition} is at {next} of {end}{nobody}"),
                false => format!("{partition} has no progress, its end is {end}{nobody}"),
            })
        };
        ends.iter().filter_map(lags).collect()
    }

    fn at(&self, partition: &PartitionId) -> i64 {
        self.next.get(partition).copied().unwrap_or_else(|| self.first(partition))
    }

    fn first(&self, partition: &PartitionId) -> i64 {
        self.first.get(partition).copied().unwrap_or_default()
    }

    /// Takes in stored progress.
    fn progress(&mut self, stored: Positions, now: Instant) {
        for (partition, next) in stored {
            let first = self.first(&partition);
            let before = self.next.insert(partition.clone(), next).unwrap_or(first);
            if next > before {
                self.moved = now;
            } else if next < before {
                self.regress.push(format!("{partition} from {before} to {next}"));
            }
        }
    }

    /// Takes in who has what. A partition that nobody has for a while has not changed hands yet.
    fn members(&mut self, members: Vec<GroupMember>) {
        self.assigned = members.iter().flat_map(|member| member.partitions.clone()).collect();
        for GroupMember { id, partitions } in members {
            for partition in partitions {
                let before = self.owners.insert(partition, id.clone());
                self.hand_overs += u64::from(before.is_some_and(|before| before != id));
            }
        }
    }
}

fn distance(from: i64, to: i64) -> u64 {
    u64::try_from(to.saturating_sub(from)).unwrap_or_default()
}

/// A task that looks until this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Watch {
    pub(crate) fn start(target: Arc<Target>, first: Seen) -> Self {
        let (sender, seen) = watch::channel(first);
        Self { seen, task: tokio::spawn(look(target, sender)) }
    }

    /// What was seen last.
    pub(crate) fn now(&self) -> Seen {
        self.seen.borrow().clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look(target: Arc<Target>, sender: watch::Sender<Seen>) {
    let mut database: Option<Database> = None;
    let mut looked_around: Option<Instant> = None;
    loop {
        let progress = progress(&target, &mut database).await;
        let mut trouble = progress.as_ref().err().map(ToString::to_string);
        if let Ok(stored) = progress {
            sender.send_modify(|seen| seen.progress(stored, Instant::now()));
        }
        if looked_around.is_none_or(|at| at.elapsed() >= LOOK_AROUND) {
            looked_around = Some(Instant::now());
            match (target.ends().await, target.cluster.group_assignments(&target.group).await) {
                (Ok(ends), Ok(members)) => sender.send_modify(|seen| {
                    seen.ends = ends;
                    seen.members(members);
                }),
                (Err(error), _) | (_, Err(error)) => trouble = Some(error.to_string()),
            }
        }
        sender.send_modify(|seen| seen.trouble = trouble);
        sleep(LOOK).await;
    }
}

/// Progress over the connection that is there, or a new one.
async fn progress(
    target: &Target,
    database: &mut Option<Database>,
) -> Result<Positions, tidegate::Error> {
    if database.is_none() {
        *database = target.database().await?;
    }
    let stored = target.progress(database.as_mut(), Offsets::Now).await;
    if stored.is_err() {
        // Whatever it was, the next look begins anew.
        *database = None;
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(all: &[(i32, i64)]) -> Positions {
        all.iter().map(|(index, at)| (PartitionId::new("in", *index), *at)).collect()
    }

    fn seen() -> Seen {
        Seen::new(Arc::new(positions(&[(0, 10), (1, 0)])), positions(&[(0, 20), (1, 5)]))
    }

    #[test]
    fn progress_is_counted_from_where_the_run_began() {
        let mut seen = seen();
        assert_eq!((seen.done(), seen.left(), seen.total()), (0, 15, 15));
        seen.progress(positions(&[(0, 13)]), Instant::now());
        assert_eq!((seen.done(), seen.left()), (3, 12));
        let partitions = vec![PartitionId::new("in", 0)];
        seen.members(vec![GroupMember { id: "a".to_owned(), partitions }]);
        assert_eq!(
            seen.lagging(&seen.ends),
            ["in/0 is at 13 of 20", "in/1 has no progress, its end is 5 and no member has it"]
        );
        seen.progress(positions(&[(0, 20), (1, 5)]), Instant::now());
        assert_eq!((seen.done(), seen.left()), (15, 0));
        assert!(seen.lagging(&seen.ends).is_empty() && seen.regress.is_empty());
    }

    #[test]
    fn progress_that_goes_back_is_noted_also_behind_where_the_run_began() {
        let mut seen = seen();
        seen.progress(positions(&[(0, 15)]), Instant::now());
        seen.progress(positions(&[(0, 14)]), Instant::now());
        assert_eq!(seen.regress, ["in/0 from 15 to 14"]);
        seen.progress(positions(&[(0, 9)]), Instant::now());
        assert_eq!(seen.regress.len(), 2);
        let mut fresh = self::seen();
        fresh.progress(positions(&[(0, 9)]), Instant::now());
        assert_eq!(fresh.regress, ["in/0 from 10 to 9"]);
    }

    #[test]
    fn a_hand_over_is_another_member_with_the_same_partition() {
        let mut seen = seen();
        let member = |id: &str, indexes: &[i32]| GroupMember {
            id: id.to_owned(),
            partitions: indexes.iter().map(|index| PartitionId::new("in", *index)).collect(),
        };
        seen.members(vec![member("a", &[0, 1])]);
        seen.members(vec![member("a", &[0]), member("b", &[])]);
        assert_eq!(seen.hand_overs, 0, "nobody has the other one yet");
        seen.members(vec![member("a", &[0]), member("b", &[1])]);
        assert_eq!(seen.hand_overs, 1);
        seen.members(vec![member("c", &[0, 1])]);
        assert_eq!(seen.hand_overs, 3);
    }
}
