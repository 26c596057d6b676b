//! A shard's execution of groups: what surrounds the real [`atoll_commit::Executor`].

use atoll_commit::{ExecutorEffect, Ready};
use atoll_types::{GroupId, GroupToRun, LateAsk, PartMessage, ShardId, StateKey};

use crate::{
    ledger::Input,
    message::{Content, Message},
    model::Planted,
    shard::{Around, Said, Shard},
    toy,
};

impl Shard {
    /// Does what the executor asks for.
    pub(crate) fn carry_out(
        &mut self,
        around: Around<'_>,
        effects: impl IntoIterator<Item = ExecutorEffect>,
    ) -> Said {
        let from = self.id();
        let mut said = Vec::new();
        for effect in effects {
            match effect {
                ExecutorEffect::Run(ready) => said.extend(self.get_ready(around, *ready)?),
                ExecutorEffect::Want { to, want } => {
                    said.push(Message::new(to, Content::Want { from, want }));
                }
                ExecutorEffect::Flight { to, flight } => {
                    said.push(Message::new(to, Content::Flight { from, flight }));
                }
                ExecutorEffect::Late { to, ask } if to == from => {
                    said.extend(self.lease_late(around, from, &ask)?);
                }
                ExecutorEffect::Late { to, ask } => {
                    said.push(Message::new(to, Content::Late { from, ask }));
                }
            }
        }
        Ok(said)
    }

    /// A run is a function of what it is given, so that nothing depends on when it happens: only
    /// when its result is durable matters. What may end in two ways waits for somebody to choose.
    fn get_ready(&mut self, around: Around<'_>, ready: Ready) -> Said {
        let unsure = |tx: &atoll_types::SharedTx| around.scenario.program(tx.tx.hash()).unsure;
        let waits = around.planted == Some(Planted::LateLease) || ready.txs.iter().any(unsure);
        let group = ready.group.id;
        self.ready.insert(group, ready);
        if waits { Ok(Vec::new()) } else { self.run(around, group, true) }
    }

    /// Runs a group that is ready. The result is not durable.
    pub fn run(&mut self, around: Around<'_>, group: GroupId, sure: bool) -> Said {
        let Some(mut ready) = self.ready.remove(&group) else { return Ok(Vec::new()) };
        let scenario = around.scenario;
        let placement = &scenario.placement;
        if around.planted == Some(Planted::OtherOrder) {
            ready.txs.reverse();
        }
        if around.planted == Some(Planted::LateLease) {
            let mine = |key: &StateKey| placement.owner_of(key) == self.id();
            let newest = ready.values.iter_mut().filter(|(key, _)| mine(key));
            newest.for_each(|(key, value)| *value = self.ledger.value(key));
        }
        let program = |tx: &atoll_types::B256| scenario.program(tx);
        let rules = toy::Rules { placement, program: &program, fee: scenario.fee, sure };
        match toy::run_group(&rules, &ready) {
            Err(keys) => {
                let effects = self.executor.lacks(ready, &keys, placement);
                self.carry_out(around, effects)
            }
            Ok(mut parts) => {
                let Some(effects) = self.executor.ran(group, &mut parts) else {
                    return Ok(Vec::new());
                };
                self.ran.insert(group, parts);
                let mut said = self.carry_out(around, effects)?;
                if !around.reruns {
                    said.extend(self.keep(around, group)?);
                }
                Ok(said)
            }
        }
    }

    /// Makes a computed result durable and sends its parts.
    pub fn keep(&mut self, around: Around<'_>, group: GroupId) -> Said {
        let Some(parts) = self.ran.remove(&group) else { return Ok(Vec::new()) };
        if self.ledger.owner.check_result(group, &parts).is_err() {
            return Ok(Vec::new());
        }
        if self.ledger.owner.result(group).is_none() {
            self.log(Input::Result(group, parts))?;
        }
        let mut said = self.tell_result(group);
        said.extend(self.note_kept(around, group)?);
        Ok(said)
    }

    fn tell_result(&self, group: GroupId) -> Vec<Message> {
        let here = self.id();
        let result = self.ledger.owner.result(group).unwrap_or_default();
        let others = result.iter().filter(|message| message.part.owner != here);
        let send = |message: &PartMessage| {
            Message::new(message.part.owner, Content::Part(message.clone()))
        };
        others.map(send).collect()
    }

    fn note_kept(&mut self, around: Around<'_>, group: GroupId) -> Said {
        let Some(result) = self.ledger.owner.result(group) else { return Ok(Vec::new()) };
        let effects = self.executor.kept(group, result);
        self.carry_out(around, effects)
    }

    /// Answers a request for late leases.
    pub(crate) fn lease_late(&mut self, around: Around<'_>, from: ShardId, ask: &LateAsk) -> Said {
        let ledger = &self.ledger;
        let value_at = |key: &StateKey, cut: u64| Some(ledger.value_at(key, cut));
        let late = ledger.owner.late(from, ask, &mut self.touched, &value_at);
        if !late.fresh.is_empty() {
            self.log(Input::Grant(ask.group, late.fresh))?;
        }
        if from == self.id() {
            let effect = self.executor.late(late.lease);
            return self.carry_out(around, effect);
        }
        Ok(vec![Message::new(from, Content::LateLease(late.lease))])
    }

    /// Tells the executor of a group that this shard runs.
    pub(crate) fn plan(&mut self, around: Around<'_>, id: GroupId) -> Said {
        let owner = &self.ledger.owner;
        let Some((group, env)) = owner.run(id) else { return Ok(Vec::new()) };
        let txs = owner.bodies(group).cloned().collect();
        let effects = self.executor.plan(GroupToRun { group: group.clone(), env, txs });
        self.carry_out(around, effects)
    }

    /// Sends the lease of an open group to its executor.
    pub(crate) fn tell_lease(&mut self, around: Around<'_>, group: GroupId) -> Said {
        let owner = &self.ledger.owner;
        let (Some(plan), Some(lease)) = (owner.plan(group), owner.lease(group)) else {
            return Ok(Vec::new());
        };
        if !plan.owners.contains(&self.id()) {
            return Ok(Vec::new());
        }
        let (to, lease) = (plan.executor, lease.clone());
        if to == self.id() {
            let effects = self.executor.lease(lease);
            return self.carry_out(around, effects);
        }
        Ok(vec![Message::new(to, Content::Lease(lease))])
    }

    /// Does again whatever is open, as a router does from time to time.
    pub fn refresh(&mut self, around: Around<'_>) -> Said {
        let owner = &self.ledger.owner;
        let open: Vec<GroupId> = owner.open_groups().map(|(plan, _)| plan.id).collect();
        let mut said = self.open_credits();
        said.extend(self.share_again());
        let ended = self.ledger.owner.settlements().into_iter();
        said.extend(ended.map(|end| Message::new(end.from, Content::Settle(end))));
        for group in open {
            said.extend(self.plan(around, group)?);
            said.extend(self.tell_lease(around, group)?);
            said.extend(self.note_kept(around, group)?);
            said.extend(self.tell_result(group));
        }
        let wanted = self.executor.again();
        said.extend(self.carry_out(around, wanted)?);
        Ok(said)
    }
}
