//! What is durable of a shard, what makes it so, and what shards send.

use std::collections::{BTreeMap, BTreeSet};

use atoll_commit::{CutEffects, EpochWrite, Owner, OwnerConfig};
use atoll_types::{
    BeaconBlock, Credit, Flight, GroupId, LateAsk, LateLease, Lease, LocalBlock, LocalTx, Part,
    PartMessage, Receipt, ReceiptKind, Settlement, ShardId, SharedTx, StateKey, StateValue, TxRef,
    Want, Write,
};

/// What one shard or the beacon sends.
#[derive(Clone, Debug)]
pub enum Message {
    Share(SharedTx),
    /// An answer to one sharing: the last valid round tells it from others of the attempt.
    Held {
        by: ShardId,
        tx: TxRef,
        last: u64,
    },
    Lease(Lease),
    Part(PartMessage),
    Credits {
        from: ShardId,
        credits: Vec<Credit>,
    },
    Settle(Settlement),
    Want {
        from: ShardId,
        want: Want,
    },
    Flight {
        from: ShardId,
        flight: Flight,
    },
    Late {
        from: ShardId,
        ask: LateAsk,
    },
    LateLease(LateLease),
}

/// What the shard's log holds.
#[derive(Clone)]
pub enum Input {
    Block(LocalBlock),
    Cut(BeaconBlock),
    Share(SharedTx),
    Withdraw(TxRef),
    Result(GroupId, Vec<Part>),
    Part(PartMessage),
    Credits(ShardId, Vec<Credit>),
    Settle(Settlement),
    Grant(GroupId, Vec<Write>),
    /// The cluster was restored from a backup.
    Restored(Box<Owner>),
}

/// What is durable: a function of the inputs.
#[derive(Clone)]
pub struct Ledger {
    pub owner: Owner,
    pub genesis: BTreeMap<StateKey, StateValue>,
    pub values: BTreeMap<StateKey, StateValue>,
    /// Every write, in the order in which it was applied.
    pub writes: Vec<EpochWrite>,
    pub receipts: Vec<Receipt>,
}

impl Ledger {
    pub fn new(config: OwnerConfig, genesis: &BeaconBlock, values: &[Write]) -> Self {
        Self {
            owner: Owner::new(config, genesis),
            genesis: values.iter().copied().collect(),
            values: values.iter().copied().collect(),
            writes: Vec::new(),
            receipts: Vec::new(),
        }
    }

    pub fn value(&self, key: &StateKey) -> StateValue {
        self.values.get(key).copied().unwrap_or(key.absent())
    }

    pub fn write(&mut self, write: EpochWrite) {
        self.values.insert(write.key, write.value);
        self.writes.push(write);
    }

    pub fn apply(&mut self, input: &Input) -> CutEffects {
        let mut effects = CutEffects::default();
        match input {
            Input::Block(block) => {
                self.owner.check_block(block, &[]).unwrap();
                for (key, value) in &block.writes {
                    self.write(EpochWrite { key: *key, value: *value, epoch: block.round });
                }
                self.owner.append(block);
                let local = |tx: &&LocalTx| tx.receipt.kind == ReceiptKind::Local;
                self.receipts.extend(block.txs.iter().filter(local).map(|tx| tx.receipt.clone()));
            }
            Input::Cut(block) => {
                self.owner.check_cut(block).unwrap();
                let values = &self.values;
                let view = |key: &StateKey| values.get(key).copied().unwrap_or(key.absent());
                effects = self.owner.cut(block, &view);
                assert_eq!(effects.violations, Vec::<String>::new());
                effects.writes.iter().for_each(|write| self.write(*write));
                self.receipts.extend(effects.receipts.iter().cloned());
            }
            Input::Share(tx) => {
                self.owner.share(tx.clone());
            }
            Input::Withdraw(tx) => effects
                .dropped
                .extend(self.owner.withdraw(*tx).map(|shared| (shared, "withdrawn".to_owned()))),
            Input::Result(group, parts) => self.owner.keep_result(*group, parts.clone()),
            Input::Part(part) => self.owner.keep_part(part.clone()),
            Input::Credits(from, credits) => {
                let ended = self.owner.receive(*from, credits);
                self.receipts.extend(ended.into_iter().map(|(receipt, _)| receipt));
            }
            Input::Settle(settlement) => {
                let ended = self.owner.settle(*settlement);
                self.receipts.extend(ended.into_iter().map(|(receipt, _)| receipt));
            }
            Input::Restored(owner) => self.owner.clone_from(owner),
            Input::Grant(group, values) => effects.fenced = self.owner.grant(*group, values),
        }
        effects
    }

    /// All that can be seen of an owner, in an order of its own.
    pub fn face(&self) -> String {
        let owner = &self.owner;
        let fenced: BTreeSet<_> = owner.fenced().collect();
        let open: Vec<_> = owner.open_groups().collect();
        let awaited: Vec<_> = owner.awaited().collect();
        let results: Vec<_> = owner.results().collect();
        let own: Vec<_> = owner.own_shared().collect();
        let unplanned: Vec<_> = owner.unplanned().collect();
        let returned: Vec<_> = owner.returned().collect();
        let credits: Vec<_> =
            owner.credit_receivers().flat_map(|to| owner.credits_after(to, 0)).collect();
        let money = (owner.burned(), owner.fees(), owner.held_credits());
        let sent = (credits, owner.settlements(), money);
        let open = (fenced, open, awaited, results);
        format!("{:?} {open:?} {own:?} {unplanned:?} {returned:?} {sent:?}", owner.anchor())
    }
}
