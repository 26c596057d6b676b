//! Groups that a shard runs, and what others need of it to run theirs.

use std::collections::{BTreeSet, HashSet};

use atoll_commit::{ExecutorEffect, Owner, Ready};
use atoll_evm::{Bytecode, CodeCache, Group, GroupError, Rules, Source};
use atoll_invariants::Violation;
use atoll_types::{B256, GroupId, GroupToRun, LateAsk, Part, PartMessage, ShardId};

use crate::{
    ledger::Input,
    shard::{Message, Shard},
};

/// What is the same on all shards.
struct Shared<'a> {
    codes: &'a CodeCache,
    owner: &'a Owner,
}

impl Source for Shared<'_> {
    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.codes.get(hash)
    }

    fn block_hash(&self, number: u64) -> Option<B256> {
        self.owner.block_hash(number)
    }
}

impl Shard {
    /// Does what the executor's state machine asks for.
    pub(crate) fn carry_out(
        &mut self,
        effects: impl IntoIterator<Item = ExecutorEffect>,
    ) -> Result<(), Violation> {
        let from = self.id();
        for effect in effects {
            match effect {
                ExecutorEffect::Run(ready) => self.run(*ready)?,
                ExecutorEffect::Want { to, want } => {
                    self.outbox.push((to, Message::Want { from, want }));
                }
                ExecutorEffect::Flight { to, flight } => {
                    self.outbox.push((to, Message::Flight { from, flight }));
                }
                ExecutorEffect::Late { to, ask } if to == from => self.lease_late(from, &ask)?,
                ExecutorEffect::Late { to, ask } => {
                    self.outbox.push((to, Message::Late { from, ask }));
                }
            }
        }
        Ok(())
    }

    fn run(&mut self, ready: Ready) -> Result<(), Violation> {
        let id = ready.group.id;
        let placement = self.ledger.owner.placement().clone();
        let group = Group {
            placement: &placement,
            plan: &ready.group,
            env: &ready.env,
            rules: Rules::default(),
            epoch: placement.epoch,
            txs: &ready.txs,
            values: &ready.values,
            late_writes: &ready.late.writes,
            refused: &ready.late.refused,
        };
        let source = Shared { codes: &self.codes, owner: &self.ledger.owner };
        match group.run(&source) {
            Ok(parts) => self.ran(id, parts),
            Err(GroupError::Lacks(keys)) => {
                let effects = self.executor.lacks(ready, &keys, &placement);
                self.carry_out(effects)
            }
            // What it needs is asked for again.
            Err(_) => {
                self.executor.gave_up(id);
                Ok(())
            }
        }
    }

    fn ran(&mut self, id: GroupId, mut parts: Vec<Part>) -> Result<(), Violation> {
        let Some(effects) = self.executor.ran(id, &mut parts) else { return Ok(()) };
        if self.ledger.owner.check_result(id, &parts).is_err() {
            return Ok(());
        }
        if self.ledger.owner.result(id).is_none() {
            self.log(Input::Result(id, parts))?;
        }
        self.keep_result(id)?;
        self.carry_out(effects)?;
        self.send_parts(|part| part.group == id)
    }

    /// Tells the executor what is durable.
    fn keep_result(&mut self, id: GroupId) -> Result<(), Violation> {
        let Some(result) = self.ledger.owner.result(id).map(<[_]>::to_vec) else { return Ok(()) };
        let effects = self.executor.kept(id, &result);
        self.carry_out(effects)
    }

    /// Answers a request for late leases.
    pub(crate) fn lease_late(&mut self, from: ShardId, ask: &LateAsk) -> Result<(), Violation> {
        let Self { ledger, touched, .. } = self;
        let value_at = |key: &_, cut| Some(ledger.values.at(key, cut));
        let late = ledger.owner.late(from, ask, touched, &value_at);
        let cut = ledger.owner.cut_number();
        if !late.fresh.is_empty() {
            let keys = late.fresh.iter().map(|(key, _)| (*key, cut));
            self.fences.entry(ask.group).or_default().extend(keys);
            self.log(Input::Grant(ask.group, late.fresh))?;
        }
        if from == self.id() {
            return self.receive(Message::LateLease(late.lease));
        }
        self.outbox.push((from, Message::LateLease(late.lease)));
        Ok(())
    }

    pub(crate) fn keep(&mut self, part: PartMessage) -> Result<(), Violation> {
        if self.ledger.owner.check_part(&part) == Ok(true) {
            self.log(Input::Part(part))?;
        }
        Ok(())
    }

    fn send_parts(&mut self, which: impl Fn(&Part) -> bool) -> Result<(), Violation> {
        let results = self.ledger.owner.results().filter(|message| which(&message.part));
        let (own, others): (Vec<_>, Vec<_>) =
            results.cloned().partition(|message| message.part.owner == self.id());
        self.outbox.extend(others.into_iter().map(|m| (m.part.owner, Message::Part(m))));
        own.into_iter().try_for_each(|message| self.keep(message))
    }

    /// Tells the executor of a group that this shard runs.
    pub(crate) fn plan(&mut self, id: GroupId) -> Result<(), Violation> {
        let owner = &self.ledger.owner;
        let Some((group, env)) = owner.run(id) else { return Ok(()) };
        let txs = owner.bodies(group).cloned().collect();
        let effects = self.executor.plan(GroupToRun { group: group.clone(), env, txs });
        self.carry_out(effects)
    }

    /// Sends the leases of the newest cuts.
    pub(crate) fn send_leases(&mut self) -> Result<(), Violation> {
        let unsent = std::mem::take(&mut self.unsent);
        unsent.into_iter().try_for_each(|(group, to)| self.send_lease(group, to))
    }

    pub(crate) fn send_lease(&mut self, group: GroupId, to: ShardId) -> Result<(), Violation> {
        let Some(lease) = self.ledger.owner.lease(group).cloned() else { return Ok(()) };
        if to == self.id() {
            return self.receive(Message::Lease(lease));
        }
        self.outbox.push((to, Message::Lease(lease)));
        Ok(())
    }

    /// Does again whatever is open of groups.
    pub(crate) fn refresh_groups(&mut self) -> Result<(), Violation> {
        let (here, owner) = (self.id(), &self.ledger.owner);
        let open: Vec<_> = owner
            .open_groups()
            .map(|(plan, _)| (plan.id, plan.executor, plan.owners.contains(&here)))
            .collect();
        let results: BTreeSet<GroupId> = owner.results().map(|m| m.part.group).collect();
        let ids: HashSet<GroupId> = open.iter().map(|(id, ..)| *id).collect();
        let cut = owner.cut_number();
        self.executor.keep_only(&ids, cut);
        for (group, to, leases) in open {
            self.plan(group)?;
            if leases {
                self.send_lease(group, to)?;
            }
        }
        results.into_iter().try_for_each(|id| self.keep_result(id))?;
        let wanted = self.executor.again();
        self.carry_out(wanted)?;
        self.send_parts(|_| true)
    }
}
