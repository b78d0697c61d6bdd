//! The coordinator of the group: who is a member, who owns what, in which generation.
//!
//! Partitions are revoked and settled before anybody else gets them. What else a rebalance stops is a
//! matter of the [`Protocol`]. A member that is silent is put out without being asked, and learns of
//! it later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::chance::{Chance, Fault};
use super::plan::ms;

/// After so long without a sign of life a member is put out.
const SESSION: Duration = ms(1200);

/// How a group hands partitions over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    /// Everybody gives everything back and is given anew.
    Eager,
    /// Only what moves is given back; the next generation begins when that has happened.
    Cooperative,
    /// The broker's own: each member comes to what it is to have by itself, under an epoch of its
    /// own, and is given what others have let go meanwhile.
    Consumer,
}

pub(super) struct Group {
    protocol: Protocol,
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
    /// What the last notice said; offsets are taken under no other.
    generation: u32,
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
    pub(super) fn new(protocol: Protocol, partitions: usize) -> Self {
        Self {
            protocol,
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

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn knows(&self, member: u32) -> bool {
        self.members.contains_key(&member)
    }

    /// Whether offsets that this member commits under this generation are taken. Of which partitions
    /// they are is not looked at.
    pub(super) fn accepts(&self, member: u32, generation: u32) -> bool {
        let Some(session) = self.members.get(&member) else { return false };
        match self.protocol {
            Protocol::Eager | Protocol::Cooperative => generation == self.generation,
            Protocol::Consumer => generation == session.generation,
        }
    }

    /// Whether a partition is this member's, one that is being given to it included.
    pub(super) fn owns(&self, member: u32, partition: usize) -> bool {
        self.members.get(&member).is_some_and(|session| session.owned.contains(&partition))
    }

    pub(super) fn notice(&mut self, member: u32) -> Option<Notice> {
        self.members.get_mut(&member)?.notices.pop_front()
    }

    /// A member has handed these back. Under the broker's protocol it comes under its next epoch with
    /// that, also if more is wanted of it by now: before anybody else is given them.
    pub(super) fn revoked(&mut self, member: u32, partitions: &[usize]) {
        let Some(session) = self.members.get_mut(&member) else { return };
        for partition in partitions {
            session.owned.remove(partition);
            session.revoking.remove(partition);
        }
        if self.protocol == Protocol::Consumer {
            let generation = self.generation.min(session.generation + 1);
            session.generation = generation;
            session.notices.push_back(Notice::Joined { generation, assigned: Vec::new() });
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
        if self.target.is_some() && self.protocol == Protocol::Consumer && self.reconcile() {
            return Some("reconciled");
        }
        match &self.target {
            Some(_) if self.protocol != Protocol::Consumer => {
                let settled = self.members.values().all(|session| session.revoking.is_empty());
                settled.then(|| self.complete())?;
                Some("rebalanced")
            }
            _ if self.unbalanced || chance.hits(Fault::Rebalance) => {
                self.begin(chance);
                Some("rebalancing")
            }
            _ => None,
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
        let eager = self.protocol == Protocol::Eager;
        for (id, session) in &mut self.members {
            let goes = session.owned.iter().copied();
            let goes = goes.filter(|p| eager || target[*p] != Some(*id));
            let goes: Vec<usize> = goes.filter(|p| !session.revoking.contains(p)).collect();
            if !goes.is_empty() {
                session.revoking.extend(&goes);
                session.notices.push_back(Notice::Revoke(goes));
            }
        }
        self.target = Some(target);
        if self.protocol == Protocol::Consumer {
            self.generation += 1;
        }
    }

    /// Takes one member nearer to what it is to have; `false` if nobody can come any nearer now.
    fn reconcile(&mut self) -> bool {
        let target = self.target.as_ref().expect("a rebalance is under way");
        let owned: BTreeSet<usize> =
            self.members.values().flat_map(|session| session.owned.iter().copied()).collect();
        let mut is_complete = true;
        for (id, session) in &mut self.members {
            let mine = (0..self.partitions).filter(|p| target[*p] == Some(*id));
            let missing =
                mine.filter(|p| !session.owned.contains(p) || session.revoking.contains(p));
            let missing: Vec<usize> = missing.collect();
            let free: Vec<usize> = missing.iter().copied().filter(|p| !owned.contains(p)).collect();
            is_complete &= missing.is_empty() && session.revoking.is_empty();
            let is_behind = session.generation != self.generation;
            if session.revoking.is_empty() && (is_behind || !free.is_empty()) {
                let generation = self.generation;
                session.generation = generation;
                session.owned.extend(&free);
                session.notices.push_back(Notice::Joined { generation, assigned: free });
                return true;
            }
        }
        if is_complete {
            self.end_rebalance();
        }
        false
    }

    fn complete(&mut self) {
        let target = self.target.take().expect("a rebalance is under way");
        self.generation += 1;
        for (id, session) in &mut self.members {
            let mine = (0..self.partitions).filter(|p| target[*p] == Some(*id));
            let assigned: Vec<usize> = mine.filter(|p| !session.owned.contains(p)).collect();
            session.owned.extend(&assigned);
            session.generation = self.generation;
            session.notices.push_back(Notice::Joined { generation: self.generation, assigned });
        }
        self.end_rebalance();
    }

    /// What nobody was to have, because its member had gone, is given away the next time.
    fn end_rebalance(&mut self) {
        self.target = None;
        let owned: usize = self.members.values().map(|session| session.owned.len()).sum();
        self.unbalanced |= owned < self.partitions && !self.members.is_empty();
    }
}
