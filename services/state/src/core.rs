//! The state of a shard as a function of its log.
//!
//! Every change is one [`Record`]: an operation checks its input, applies the record and hands it
//! back to be logged. Nothing may be told to anybody before that record is durable.

mod apply;
mod open;
mod query;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use atoll_api::state::{
    AcceptPartsReply, Append, Change, Cut, CutReply, DroppedTx, LeaseLate, LeaseLateReply,
    ReceiveCredits, ReceiveCreditsReply, Share, ShareReply, StateError, StoreResultsReply, Tip,
    Withdraw,
};
use atoll_commit::{Late, Owner, OwnerConfig, OwnerError, Touched};
use atoll_invariants::{Violation, conservation, nonce_order};
use atoll_store::StoreError;
use atoll_telemetry::Stage;
use atoll_types::{
    Address, B256, BeaconBlock, Bytes, GroupId, GroupResult, LocalBlock, PartMessage, Refusal,
    Settlement, ShardId, SharedTx, StateKey, U256, Verdict,
};
use serde::{Deserialize, Serialize};

pub(crate) use self::open::Captured;
pub use self::open::{Rest, genesis_of};

use crate::{
    changes::Changes,
    events::Events,
    history::History,
    quarantine::Quarantine,
    record::Record,
    roots::{RootError, Roots, TreeConfig},
    traced::Traced,
    values::Values,
};

/// An account of the genesis.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GenesisAccount {
    pub address: Address,
    /// In wei.
    pub balance: U256,
    pub nonce: u64,
    pub code: Bytes,
    pub storage: Vec<(U256, U256)>,
}

/// What a shard's state is told once.
#[derive(Clone)]
pub struct CoreConfig {
    pub owner: OwnerConfig,
    /// Beacon block 0.
    pub genesis: BeaconBlock,
    /// Accounts that there are from the beginning; those of other shards are passed over.
    pub accounts: Arc<Vec<GenesisAccount>>,
    /// Values kept in memory at the most.
    pub cached_values: usize,
    pub tree: TreeConfig,
}

/// Why a shard's state cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Chain(#[from] atoll_journal::OpenError),
    #[error(transparent)]
    Root(#[from] RootError),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        Self::Chain(error.into())
    }
}

/// The state machine of one shard's `state` service.
pub struct Core {
    pub(crate) owner: Owner,
    pub(crate) values: Values,
    pub(crate) history: History,
    pub(crate) events: Events,
    pub(crate) changes: Changes,
    /// Not logged: it says "used" of whatever it has forgotten.
    pub(crate) touched: Touched,
    pub(crate) roots: Roots,
    /// A root was published that is not this shard's.
    pub(crate) wrong_root: Option<RootError>,
    /// Transactions that are not run.
    pub(crate) quarantine: Quarantine,
    /// A cut at which the payments that ended can be read. Not logged: what ended before a restart is
    /// older than the cut at which it was opened.
    pub(crate) ended_at: u64,
    /// Blocks without transactions may set values as they like.
    development: bool,
    /// Settlements made after cuts that this shard has not passed. Not logged: they come again.
    early: BTreeMap<ShardId, Settlement>,
    /// The oldest round of which what ran is kept.
    pub(crate) kept_from: u64,
    pub(crate) traced: Traced,
    /// Of the chain's beginning.
    genesis: B256,
    /// Bytes of log since the last snapshot, when this was opened.
    tail_bytes: u64,
}

/// An operation's answer, and what has to be logged before it is given.
pub(crate) type Done<T> = (T, Option<Record>);

impl Core {
    /// What the next block is built on.
    pub fn tip(&self) -> Tip {
        Tip { head: self.owner.head(), cut: self.owner.cut_number(), digest: self.owner.digest() }
    }

    /// Reads for checks of invariants.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(crate) fn append(&mut self, append: Append) -> Result<Done<Tip>, StateError> {
        let Append { block, reads } = append;
        self.owner.check_block(&block, &reads).map_err(refused)?;
        let sets = self.development && block.txs.is_empty();
        if sets {
            self.check_set(&block)?;
        } else {
            self.check_invariants(&block)?;
        }
        for key in reads.iter().chain(block.writes.iter().map(|(key, _)| key)) {
            self.touched.note(key, block.round, None);
        }
        // Whoever made it is not the executor, which therefore has to be told.
        let told = sets.then(|| Change { writes: block.writes.clone(), ..Change::default() });
        let record = Record::Block(block);
        self.apply(&record).map_err(storage)?;
        told.into_iter().for_each(|change| self.changes.push(change));
        Ok((self.tip(), Some(record)))
    }

    /// Lets blocks without transactions set values: for chains of development alone.
    #[must_use]
    pub fn for_development(mut self) -> Self {
        self.development = true;
        self
    }

    /// A block that sets values has to say by how much the supply falls, so that the books of the
    /// shard go on to balance: modulo 2^256, for it may rise. Nonces do not fall.
    fn check_set(&mut self, block: &LocalBlock) -> Result<(), StateError> {
        let mut burned = U256::ZERO;
        for (key, value) in &block.writes {
            let held = self.values.get(key).map_err(storage)?;
            if !key.holds(value) || value.basic().nonce < held.basic().nonce {
                return Err(malformed("a value that its key cannot get"));
            }
            let fall = held.basic().balance.wrapping_sub(value.basic().balance);
            burned = burned.wrapping_add(fall);
        }
        if burned != block.burned || !block.fees.is_zero() || !block.credits.is_empty() {
            return Err(malformed("a block that sets values and does not balance"));
        }
        Ok(())
    }

    /// A block that creates or loses value, or repeats a nonce, is refused whoever made it.
    fn check_invariants(&mut self, block: &LocalBlock) -> Result<(), StateError> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (key, value) in &block.writes {
            if matches!(key, StateKey::Basic(_)) {
                before.push(self.values.get(key).map_err(storage)?.basic().balance);
                after.push(value.basic().balance);
            }
        }
        let left = block.credits.iter().map(|credit| credit.amount);
        conservation(before, after, left.chain([block.fees, block.burned])).map_err(violated)?;
        let mut nonces: Vec<(Address, u64)> =
            block.txs.iter().map(|local| (local.tx.sender(), local.tx.nonce())).collect();
        // Stable: each sender's stay in the block's order.
        nonces.sort_by_key(|(sender, _)| *sender);
        for of_one in nonces.chunk_by(|a, b| a.0 == b.0) {
            let sender = of_one[0].0;
            let account = self.values.get(&StateKey::Basic(sender)).map_err(storage)?.basic();
            let nonces = of_one.iter().map(|(_, nonce)| *nonce);
            nonce_order(sender, account.nonce, nonces).map_err(violated)?;
        }
        Ok(())
    }

    pub(crate) fn cut(&mut self, cut: Cut) -> Result<Done<CutReply>, StateError> {
        if cut.block.number() <= self.owner.cut_number() {
            return Ok((self.open_work(), None));
        }
        self.owner.check_cut(&cut.block).map_err(refused)?;
        let committed = cut.block.decisions.iter().filter_map(|decision| match decision.verdict {
            Verdict::Commit { .. } => Some(decision.group),
            Verdict::Abort(_) => None,
        });
        let _applied = self.group_stages("apply", committed);
        self.traced.decide(&self.owner, &cut.block);
        let record = Record::Cut(cut.block);
        let (returned, opened) = self.apply(&record).map_err(storage)?;
        drop(self.group_stages("lease", opened.iter().map(|plan| plan.id)));
        self.traced.planned(&self.owner, &opened);
        let reply = self.cut_reply(returned, opened);
        Ok((reply, Some(record)))
    }

    /// A stage for each sampled transaction of open groups.
    fn group_stages(
        &self,
        name: &'static str,
        groups: impl Iterator<Item = GroupId>,
    ) -> Vec<Stage> {
        let plans = groups.filter_map(|group| self.owner.plan(group));
        let txs = plans.flat_map(|plan| self.owner.bodies(plan));
        let sampled = txs.filter(|shared| shared.tx.trace().is_some());
        sampled.map(|shared| Stage::enter(name, self.owner.shard(), &shared.tx)).collect()
    }

    pub(crate) fn share(&mut self, share: Share) -> Result<Done<ShareReply>, StateError> {
        let mut refused = Vec::with_capacity(share.txs.len());
        let mut fresh: HashMap<B256, SharedTx> = HashMap::new();
        for shared in share.txs {
            let hash = *shared.tx.hash();
            let checked = match fresh.get(&hash) {
                Some(other) if *other == shared => Ok(false),
                Some(other)
                    if other.attempt >= shared.attempt || shared.origin == self.owner.shard() =>
                {
                    Err(Refusal::OldAttempt { tx: hash, attempt: other.attempt })
                }
                _ => self.owner.check_share(&shared),
            };
            let checked = match checked {
                // A repeated message, after the transaction has ended, would pin its sender.
                Ok(true) if self.has_ended(&shared).map_err(storage)? => {
                    Err(Refusal::OldAttempt { tx: hash, attempt: shared.attempt })
                }
                checked => checked,
            };
            if checked == Ok(true) {
                fresh.insert(hash, shared);
            }
            refused.push(checked.err());
        }
        let mut fresh: Vec<_> = fresh.into_values().collect();
        fresh.sort_unstable_by_key(|shared| *shared.tx.hash());
        let record = (!fresh.is_empty()).then_some(Record::Share(fresh));
        if let Some(record) = &record {
            self.apply(record).map_err(storage)?;
            if let Record::Share(fresh) = record {
                fresh.iter().for_each(|shared| self.traced.shared(&self.owner, shared));
            }
        }
        Ok((ShareReply { refused }, record))
    }

    /// Whether an own transaction has its receipt.
    fn has_ended(&self, shared: &SharedTx) -> Result<bool, StoreError> {
        let own = shared.origin == self.owner.shard();
        Ok(own && self.values.receipt_at(shared.tx.hash())?.is_some())
    }

    pub(crate) fn withdraw(&mut self, withdraw: Withdraw) -> Result<Done<()>, StateError> {
        let record = Record::Withdraw { tx: withdraw.tx, reason: withdraw.reason };
        if !self.owner.may_withdraw(withdraw.tx) {
            return Ok(((), None));
        }
        self.apply(&record).map_err(storage)?;
        Ok(((), Some(record)))
    }

    /// What the pool has dropped. Nothing of it is logged: a transaction without a receipt leaves no
    /// trace in the shard's chain.
    pub(crate) fn tell_dropped(&mut self, txs: Vec<DroppedTx>) -> Result<(), StateError> {
        for DroppedTx { tx, reason } in txs {
            let has_receipt = self.values.receipt_at(&tx).map_err(storage)?.is_some();
            if !has_receipt && !self.owner.is_pending(&tx) {
                self.events.drop_tx(tx, reason);
            }
        }
        Ok(())
    }

    /// Transactions that make the executor panic are kept, and named to whoever reads the log.
    pub(crate) fn quarantine(&mut self, txs: Vec<B256>) -> Result<Done<()>, StateError> {
        let fresh: Vec<B256> = txs.into_iter().filter(|tx| !self.quarantine.contains(tx)).collect();
        let record = (!fresh.is_empty()).then_some(Record::Quarantine(fresh));
        if let Some(record) = &record {
            self.apply(record).map_err(storage)?;
        }
        Ok(((), record))
    }

    pub(crate) fn store_results(
        &mut self,
        results: Vec<GroupResult>,
    ) -> Result<Done<StoreResultsReply>, StateError> {
        let groups: Vec<GroupId> = results.iter().map(|result| result.group).collect();
        let mut refused = Vec::with_capacity(results.len());
        let mut fresh: Vec<GroupResult> = Vec::new();
        for result in results {
            let checked = self.owner.check_result(result.group, &result.parts);
            let new = self.owner.result(result.group).is_none()
                && fresh.iter().all(|other| other.group != result.group);
            if checked.is_ok() && new {
                fresh.push(result);
            }
            refused.push(checked.err());
        }
        let record = (!fresh.is_empty()).then_some(Record::Results(fresh));
        if let Some(record) = &record {
            self.apply(record).map_err(storage)?;
        }
        let kept = groups.iter().filter_map(|group| self.owner.result(*group));
        let parts: Vec<PartMessage> = kept.flatten().cloned().collect();
        Ok((StoreResultsReply { parts, refused }, record))
    }

    pub(crate) fn accept_parts(
        &mut self,
        parts: Vec<PartMessage>,
    ) -> Result<Done<AcceptPartsReply>, StateError> {
        let mut refused = Vec::with_capacity(parts.len());
        let mut fresh: Vec<PartMessage> = Vec::new();
        let mut digests: HashMap<GroupId, B256> = HashMap::new();
        for message in parts {
            let id = message.part.group;
            let checked = match (self.owner.check_part(&message), digests.get(&id)) {
                (Ok(true), Some(digest)) if *digest == message.digest() => Ok(false),
                (Ok(true), Some(_)) => Err(Refusal::OtherResult { group: id }),
                (checked, _) => checked,
            };
            if checked == Ok(true) {
                digests.insert(id, message.digest());
                fresh.push(message);
            }
            refused.push(checked.err());
        }
        let record = (!fresh.is_empty()).then_some(Record::Parts(fresh));
        if let Some(record) = &record {
            self.apply(record).map_err(storage)?;
        }
        Ok((AcceptPartsReply { refused }, record))
    }

    pub(crate) fn receive_credits(
        &mut self,
        receive: ReceiveCredits,
    ) -> Result<Done<ReceiveCreditsReply>, StateError> {
        let ReceiveCredits { from, mut credits } = receive;
        self.owner.check_credits(from, &credits)?;
        credits.retain(|credit| credit.seq > self.owner.received(from));
        let record = (!credits.is_empty()).then_some(Record::Credits { from, credits });
        if let Some(record) = &record {
            self.apply(record).map_err(storage)?;
        }
        Ok((ReceiveCreditsReply { received: self.owner.received(from) }, record))
    }

    /// One made after a cut that this shard has not passed waits until it has: what a shard holds at
    /// a cut must not depend on what another does after it, or the states of all shards at one cut
    /// would not be one state of the cluster.
    pub(crate) fn settle(&mut self, settlement: Settlement) -> Result<Done<()>, StateError> {
        if settlement.cut > self.owner.cut_number() {
            let early = self.early.entry(settlement.by).or_insert(settlement);
            if early.up_to < settlement.up_to {
                *early = settlement;
            }
            return Ok(((), None));
        }
        let record = self.owner.is_news(&settlement).then_some(Record::Settle(settlement));
        if let Some(record) = &record {
            self.apply(record).map_err(storage)?;
        }
        Ok(((), record))
    }

    /// Settlements whose cut has been passed by now.
    pub(crate) fn take_early(&mut self) -> Vec<Settlement> {
        let cut = self.owner.cut_number();
        self.early.extract_if(.., |_, early| early.cut <= cut).map(|(_, early)| early).collect()
    }

    pub(crate) fn lease_late(
        &mut self,
        late: LeaseLate,
    ) -> Result<Done<LeaseLateReply>, StateError> {
        let mut reply = LeaseLateReply { leases: Vec::new(), refused: Vec::new() };
        let mut grants = Vec::new();
        for ask in &late.asks {
            let Self { owner, values, history, touched, .. } = self;
            let values = RefCell::new(values);
            let value_at = |key: &StateKey, cut: u64| {
                let then = (cut >= history.oldest()).then(|| history.at(cut, key))?;
                then.or_else(|| values.borrow_mut().get(key).ok())
            };
            let Late { lease, fresh, refused } = owner.late(late.from, ask, touched, &value_at);
            reply.leases.push(lease);
            reply.refused.extend(refused);
            if !fresh.is_empty() {
                // The next request has to meet this fence.
                let grant = vec![(ask.group, fresh)];
                self.apply(&Record::Grants(grant.clone())).map_err(storage)?;
                grants.extend(grant);
            }
        }
        Ok((reply, (!grants.is_empty()).then_some(Record::Grants(grants))))
    }

    pub(crate) fn put_codes(&mut self, codes: Vec<Bytes>) -> Result<Done<()>, StateError> {
        let mut fresh = Vec::new();
        for code in codes {
            if self.values.put_code(&code).map_err(storage)? {
                fresh.push(code);
            }
        }
        Ok(((), (!fresh.is_empty()).then_some(Record::Codes(fresh))))
    }
}

pub(crate) fn storage(error: StoreError) -> StateError {
    StateError::Storage { reason: error.to_string() }
}

fn malformed(what: &str) -> StateError {
    StateError::Refused(Refusal::Malformed { what: what.to_owned() })
}

fn violated(violation: Violation) -> StateError {
    tracing::error!(%violation, "block refused");
    StateError::Refused(Refusal::Malformed { what: violation.to_string() })
}

fn refused(error: OwnerError) -> StateError {
    match error {
        OwnerError::NotHead { number, parent, head, digest, cut } => {
            StateError::NotHead { number, parent, head, digest, cut }
        }
        OwnerError::Fenced(key) => StateError::Fenced { key },
        OwnerError::Pinned(tx) => StateError::Pinned { tx },
        OwnerError::Foreign { owner, here, .. } => {
            StateError::Refused(Refusal::NotOwner { owner, here })
        }
        OwnerError::CutGap { found, newest } => StateError::CutGap { found, newest },
        OwnerError::OtherChain(number) => StateError::OtherBeaconChain { number },
        OwnerError::NotHeld { number, what } => StateError::NotHeld { number, what },
    }
}
