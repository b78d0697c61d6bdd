//! The coordinator of the group: who is a member, who owns what, in which generation.
//!
//! Cooperative: partitions are revoked and settled before anybody else gets them, all others go on
//! being read. A member that is silent is put out without being asked, and learns of it later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::chance::{Chance, Fault};
use super::plan::ms;

/// After so long without a sign of life a member is put out.
const SESSION: Duration = ms(1200);

pub(super) struct Group {
    partitions: usize,
    generation: u32,
    members: BTreeMap<u32, Session>,
    last_member: u32,
    /// Who gets what when everything that moves was handed back.
    target: Option<Vec<Option<u32>>>,
    unbalanced: bool,
}

/// What the coordinator knows of one member.
#[derive(Default)]
struct Session {
    owned: BTreeSet<usize>,
    /// Not handed back yet.
    revoking: BTreeSet<usize>,
    notices: VecDeque<Notice>,
    silent_since: Option<Duration>,
}

/// What a member is told, in order.
pub(super) enum Notice {
    Revoke(Vec<usize>),
    /// A rebalance is over: the new generation, and what came to this member.
    Joined {
        generation: u32,
        assigned: Vec<usize>,
    },
}

impl Group {
    pub(super) fn new(partitions: usize) -> Self {
        Self {
            partitions,
            generation: 0,
            members: BTreeMap::new(),
            last_member: 0,
            target: None,
            unbalanced: false,
        }
    }

    pub(super) fn join(&mut self) -> u32 {
        self.last_member += 1;
        self.members.insert(self.last_member, Session::default());
        self.unbalanced = true;
        self.last_member
    }

    pub(super) fn knows(&self, member: u32) -> bool {
        self.members.contains_key(&member)
    }

    /// Whether offsets that this member commits under this generation are taken.
    pub(super) fn accepts(&self, member: u32, generation: u32) -> bool {
        self.knows(member) && generation == self.generation
    }

    pub(super) fn notice(&mut self, member: u32) -> Option<Notice> {
        self.members.get_mut(&member)?.notices.pop_front()
    }

    /// A member has handed these back.
    pub(super) fn revoked(&mut self, member: u32, partitions: &[usize]) {
        if let Some(session) = self.members.get_mut(&member) {
            for partition in partitions {
                session.owned.remove(partition);
                session.revoking.remove(partition);
            }
        }
    }

    /// A member goes: cleanly, or put out.
    pub(super) fn remove(&mut self, member: u32) {
        if self.members.remove(&member).is_some() {
            self.unbalanced = true;
        }
    }

    /// A member's process stands still or is gone; or it is back.
    pub(super) fn silent(&mut self, member: u32, since: Option<Duration>) {
        if let Some(session) = self.members.get_mut(&member) {
            session.silent_since = since;
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        !self.unbalanced
            && self.target.is_none()
            && self.members.values().all(|session| session.notices.is_empty())
    }

    /// Lets time pass for the coordinator. Answers how a rebalance began or ended.
    pub(super) fn tick(&mut self, now: Duration, chance: &mut Chance) -> Option<&'static str> {
        let over = |session: &Session| session.silent_since.is_some_and(|at| at + SESSION <= now);
        let dead: Vec<u32> =
            self.members.iter().filter(|(_, s)| over(s)).map(|(id, _)| *id).collect();
        for member in dead {
            self.remove(member);
        }
        match &self.target {
            Some(_) if self.members.values().all(|session| session.revoking.is_empty()) => {
                self.complete();
                Some("rebalanced")
            }
            Some(_) => None,
            None if self.unbalanced || chance.hits(Fault::Rebalance) => {
                self.begin(chance);
                Some("rebalancing")
            }
            None => None,
        }
    }

    fn begin(&mut self, chance: &mut Chance) {
        self.unbalanced = false;
        let members: Vec<u32> = self.members.keys().copied().collect();
        let owner = |partition: usize| {
            self.members.iter().find(|(_, s)| s.owned.contains(&partition)).map(|(id, _)| *id)
        };
        let mut target = Vec::with_capacity(self.partitions);
        let sticky = chance.coin();
        for partition in 0..self.partitions {
            target.push(match owner(partition) {
                _ if members.is_empty() => None,
                Some(owner) if sticky || chance.coin() => Some(owner),
                _ => Some(members[chance.below(members.len())]),
            });
        }
        for (id, session) in &mut self.members {
            let goes = session.owned.iter().copied().filter(|p| target[*p] != Some(*id));
            let goes: Vec<usize> = goes.collect();
            if !goes.is_empty() {
                session.revoking.extend(&goes);
                session.notices.push_back(Notice::Revoke(goes));
            }
        }
        self.target = Some(target);
    }

    fn complete(&mut self) {
        let target = self.target.take().expect("a rebalance is under way");
        self.generation += 1;
        for (id, session) in &mut self.members {
            let mine = (0..self.partitions).filter(|p| target[*p] == Some(*id));
            let assigned: Vec<usize> = mine.filter(|p| !session.owned.contains(p)).collect();
            session.owned.extend(&assigned);
            session.notices.push_back(Notice::Joined { generation: self.generation, assigned });
        }
        let owned: usize = self.members.values().map(|session| session.owned.len()).sum();
        self.unbalanced |= owned < self.partitions && !self.members.is_empty();
    }
}
