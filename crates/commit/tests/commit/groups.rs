//! What a shard does for groups: runs those that it executes, leases late, passes parts on.

use atoll_commit::{EpochWrite, ExecutorEffect, Ready};
use atoll_types::{GroupId, GroupToRun, LateAsk, Part, ShardId, StateKey};

use crate::{
    ledger::{Input, Ledger, Message},
    shard::Shard,
    toy,
};

impl Shard {
    pub fn carry_out(&mut self, effects: impl IntoIterator<Item = ExecutorEffect>) {
        let from = self.id();
        for effect in effects {
            match effect {
                ExecutorEffect::Run(ready) => self.run(*ready),
                ExecutorEffect::Want { to, want } => {
                    self.outbox.push((to, Message::Want { from, want }));
                }
                ExecutorEffect::Flight { to, flight } => {
                    self.count("flights");
                    self.outbox.push((to, Message::Flight { from, flight }));
                }
                ExecutorEffect::Late { to, ask } if to == from => self.lease_late(from, &ask),
                ExecutorEffect::Late { to, ask } => {
                    self.outbox.push((to, Message::Late { from, ask }));
                }
            }
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn run(&mut self, ready: Ready) {
        let id = ready.group.id;
        let placement = self.ledger.owner.placement().clone();
        match toy::run_group(&placement, &ready) {
            Err(keys) => {
                let effects = self.executor.lacks(ready, &keys, &placement);
                self.carry_out(effects);
            }
            Ok(mut parts) => {
                let Some(effects) = self.executor.ran(id, &mut parts) else { return };
                if let Err(rule) = self.ledger.owner.check_result(id, &parts) {
                    return self.refuse(&rule);
                }
                if !parts[0].sources.is_empty() {
                    self.count("in flight");
                }
                if self.ledger.owner.result(id).is_none() {
                    self.log(Input::Result(id, parts));
                }
                self.keep_result(id);
                self.carry_out(effects);
                self.send_parts(|part| part.group == id);
            }
        }
    }

    /// Tells the executor what is durable.
    pub fn keep_result(&mut self, id: GroupId) {
        let result = self.ledger.owner.result(id).map(<[_]>::to_vec);
        let effects = self.executor.kept(id, &result.unwrap_or_default());
        self.carry_out(effects);
    }

    pub fn lease_late(&mut self, from: ShardId, ask: &LateAsk) {
        let Ledger { owner, writes, genesis, .. } = &self.ledger;
        let value_at = |key: &StateKey, cut: u64| {
            let before = |write: &&EpochWrite| write.key == *key && write.epoch < cut;
            let first = || genesis.get(key).copied().unwrap_or(key.absent());
            Some(writes.iter().rev().find(before).map_or_else(first, |write| write.value))
        };
        let late = owner.late(from, ask, &mut self.touched, &value_at);
        let cut = owner.cut_number();
        for rule in &late.refused {
            self.refuse(rule);
        }
        if !late.fresh.is_empty() {
            self.count("late leases");
            let keys = late.fresh.iter().map(|(key, _)| (*key, cut));
            self.fences.entry(ask.group).or_default().extend(keys);
            self.log(Input::Grant(ask.group, late.fresh));
        }
        if from == self.id() {
            self.receive(Message::LateLease(late.lease));
        } else {
            self.outbox.push((from, Message::LateLease(late.lease)));
        }
    }

    pub fn send_parts(&mut self, which: impl Fn(&Part) -> bool) {
        let results = self.ledger.owner.results().filter(|message| which(&message.part));
        let (own, others): (Vec<_>, Vec<_>) =
            results.cloned().partition(|message| message.part.owner == self.id());
        self.outbox.extend(others.into_iter().map(|m| (m.part.owner, Message::Part(m))));
        own.into_iter().for_each(|message| self.keep(message));
    }

    /// Tells the executor of a group that this shard runs.
    pub fn plan(&mut self, id: GroupId) {
        let owner = &self.ledger.owner;
        let Some((group, env)) = owner.run(id) else { return };
        let txs = owner.bodies(group).cloned().collect();
        let effects = self.executor.plan(GroupToRun { group: group.clone(), env, txs });
        self.carry_out(effects);
    }

    pub fn send_lease(&mut self, group: GroupId, to: ShardId) {
        let Some(lease) = self.ledger.owner.lease(group).cloned() else { return };
        if to == self.id() {
            self.receive(Message::Lease(lease));
        } else {
            self.outbox.push((to, Message::Lease(lease)));
        }
    }
}
