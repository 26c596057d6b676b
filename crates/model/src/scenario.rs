//! Small worlds, each made for one kind of trouble, and the bounds within which they are explored.

use std::collections::{BTreeMap, HashMap};

use atoll_commit::PlannerConfig;
use atoll_types::{
    Address, B256, Basic, CodeRef, Placement, ShardId, StateKey, StateValue, Tx, U256, Write,
};

use crate::toy::{CHAIN, Cell, Program, transaction};

/// Wei that each account begins with.
pub const BALANCE: u64 = 100;

/// How far a world may go.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Beacon blocks, at the most. A path that ends there is brought to its end by a fair schedule.
    pub blocks: u64,
    /// Attempts of a transaction that the exploration starts by itself.
    pub attempts: u32,
    /// Crashes of shards.
    pub crashes: u8,
    /// Crashes of the beacon.
    pub beacon_crashes: u8,
    /// Anchors travel as messages: they may come late, again and out of order. If not, the beacon
    /// hears at any time what a shard has to say at that time, or not at all.
    pub late_anchors: bool,
    /// Sharing, answers to it, credits and settlements travel as messages. If not, they arrive
    /// at once.
    pub late_sharing: bool,
    /// What executors need travels as messages: leases, values in flight, late leases. If not, it
    /// arrives at once.
    pub late_leases: bool,
    /// Shards may crash when they have nothing to lose, too.
    pub idle_crashes: bool,
    /// A result is durable some time after it was computed; a crash between loses it.
    pub reruns: bool,
    /// Shards that are no executor of a group send parts of it all the same, so often.
    pub strays: u8,
    /// Forget messages that can have no effect any more.
    pub collect: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            blocks: 5,
            attempts: 1,
            crashes: 0,
            beacon_crashes: 0,
            late_anchors: false,
            late_sharing: false,
            late_leases: false,
            idle_crashes: false,
            reruns: false,
            strays: 0,
            collect: true,
        }
    }
}

/// A world at its beginning.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub placement: Placement,
    pub genesis: Vec<Write>,
    /// Sum of all balances in wei.
    pub supply: U256,
    pub planner: PlannerConfig,
    /// Fee of each transaction in wei.
    pub fee: u64,
    /// A bug that the state machines have.
    #[cfg(feature = "planted")]
    pub bug: Option<atoll_commit::Planted>,
    /// Some transaction may need a key that nobody predicted.
    pub late: bool,
    /// In the order in which they would be numbered: those of a sender by nonce.
    pub txs: Vec<(Tx, Program)>,
    /// Positions in `txs` of those that are shared and announced when the exploration begins.
    pub early: Vec<usize>,
    index: HashMap<B256, usize>,
}

impl Scenario {
    /// What a transaction does.
    ///
    /// # Panics
    /// If the transaction is not one of the scenario.
    pub fn program(&self, tx: &B256) -> &Program {
        &self.txs[self.index[tx]].1
    }

    /// A transaction of the scenario, for traces.
    pub fn number(&self, tx: &B256) -> usize {
        self.index.get(tx).copied().unwrap_or(usize::MAX)
    }

    /// The shard that a transaction is handed to.
    pub fn home(&self, at: usize) -> ShardId {
        self.placement.owner(&self.txs[at].0.sender())
    }
}

/// Puts a scenario together.
pub struct Builder {
    name: &'static str,
    shards: u16,
    homes: BTreeMap<Address, ShardId>,
    contracts: Vec<Address>,
    txs: Vec<(Tx, Program)>,
    early: Vec<usize>,
    nonces: HashMap<Address, u64>,
    fee: u64,
    abort_after: u64,
}

impl Builder {
    /// A world of `shards` shards in which nobody is.
    pub fn new(name: &'static str, shards: u16) -> Self {
        Self {
            name,
            shards,
            homes: BTreeMap::new(),
            contracts: Vec::new(),
            txs: Vec::new(),
            early: Vec::new(),
            nonces: HashMap::new(),
            fee: 0,
            abort_after: 3,
        }
    }

    /// An account with money on a shard.
    pub fn account(&mut self, shard: u16, name: u8) -> Address {
        let address = Address::repeat_byte(name);
        self.homes.insert(address, ShardId(shard));
        address
    }

    /// A contract on a shard.
    pub fn contract(&mut self, shard: u16, name: u8) -> Address {
        let address = self.account(shard, name);
        self.contracts.push(address);
        address
    }

    /// Adds a sender's next transaction. An early one is with the beacon when exploration begins.
    pub fn tx(&mut self, sender: Address, early: bool, program: Program) -> &mut Self {
        let nonce = self.nonces.entry(sender).or_default();
        if early {
            self.early.push(self.txs.len());
        }
        self.txs.push((transaction(sender, *nonce, 10), program));
        *nonce += 1;
        self
    }

    /// Every transaction pays so much to the coinbase.
    pub fn fee(mut self, fee: u64) -> Self {
        self.fee = fee;
        self
    }

    /// Blocks after which an undecided group is aborted.
    pub fn abort_after(mut self, blocks: u64) -> Self {
        self.abort_after = blocks;
        self
    }

    /// The scenario.
    pub fn build(self) -> Scenario {
        let coinbase = Address::repeat_byte(0xcb);
        let mut homes = self.homes;
        homes.insert(coinbase, ShardId(0));
        let code = CodeRef { hash: B256::repeat_byte(1), incarnation: 0 };
        let funds = Basic { nonce: 0, balance: U256::from(BALANCE) };
        let accounts = homes.keys().filter(|at| **at != coinbase && !self.contracts.contains(at));
        let funded: Vec<Write> =
            accounts.map(|at| (StateKey::Basic(*at), StateValue::Basic(funds))).collect();
        let supply = U256::from(BALANCE) * U256::from(funded.len());
        let coded = self.contracts.iter().map(|at| (StateKey::Code(*at), StateValue::Code(code)));
        Scenario {
            name: self.name,
            placement: Placement::new(self.shards, homes),
            genesis: funded.into_iter().chain(coded).collect(),
            supply,
            planner: PlannerConfig {
                abort_after: self.abort_after,
                max_lag: 100,
                // A bundle is a group like any other: without bundles there are more to interleave.
                bundle_gas: 0,
                ..PlannerConfig::new(CHAIN, self.shards, coinbase, 1_000)
            },
            fee: self.fee,
            #[cfg(feature = "planted")]
            bug: None,
            late: self
                .txs
                .iter()
                .any(|(_, program)| program.choice.is_some() || program.peek.is_some()),
            index: self.txs.iter().enumerate().map(|(at, (tx, _))| (*tx.hash(), at)).collect(),
            txs: self.txs,
            early: self.early,
        }
    }
}

fn call(reads: &[Cell], writes: &[Cell]) -> Program {
    Program { reads: reads.to_vec(), writes: writes.to_vec(), ..Program::default() }
}

/// Two groups on hot slots in two rounds, and a local transaction that writes what the first of them
/// has leased for reading.
pub fn hot_key(shards: u16) -> Scenario {
    let mut world = Builder::new("hot key", shards);
    let (ann, bob) = (world.account(0, 1), world.account(1, 2));
    let cat = world.account(shards - 1, 3);
    let (left, right) = (world.contract(0, 11), world.contract(1, 12));
    // A group of shards 0 and 1; it only reads slot 1 of the right contract.
    world.tx(ann, true, call(&[(right, 1)], &[(left, 0), (right, 0)]));
    // Writes that slot: local.
    world.tx(bob, false, call(&[], &[(right, 1)]));
    // The hot slots again, from another shard if there are three.
    world.tx(cat, false, call(&[(left, 0)], &[(right, 0)]));
    world.build()
}

/// A group, and a local transaction on its hot slot: it has to wait, or joins a group.
pub fn fenced() -> Scenario {
    let mut world = Builder::new("fenced", 2);
    let (ann, bob) = (world.account(0, 1), world.account(1, 2));
    let (left, right) = (world.contract(0, 11), world.contract(1, 12));
    world.tx(ann, true, call(&[], &[(left, 0), (right, 0)]));
    world.tx(bob, false, call(&[], &[(right, 0)]));
    world.build()
}

/// A payment to an account that a group overwrites, and one to a contract, which comes back.
pub fn credits() -> Scenario {
    let mut world = Builder::new("credits", 2);
    let (ann, bob) = (world.account(0, 1), world.account(1, 2));
    let (left, right) = (world.contract(0, 11), world.contract(1, 12));
    // Bob's account is written by the group: he is its sender.
    world.tx(bob, true, call(&[(left, 0)], &[(left, 0), (right, 0)]));
    world.tx(ann, false, Program { transfer: Some((bob, 5)), ..Program::default() });
    world.tx(ann, false, Program { transfer: Some((right, 7)), ..Program::default() });
    world.build()
}

/// Two groups that write one account in two rounds, and a payment to it.
pub fn travelling(abort_after: u64) -> Scenario {
    let mut world = Builder::new("travelling", 2);
    let (ann, bob, cat) = (world.account(0, 1), world.account(1, 2), world.account(0, 3));
    let left = world.contract(0, 11);
    world.tx(bob, true, call(&[], &[(left, 0)]));
    world.tx(cat, false, Program { transfer: Some((bob, 3)), ..call(&[], &[(left, 1)]) });
    world.tx(ann, false, Program { transfer: Some((bob, 5)), ..Program::default() });
    world.fee(1).abort_after(abort_after).build()
}

/// A group whose run may end in two ways, and one that follows on its keys.
pub fn unsure() -> Scenario {
    let mut world = Builder::new("unsure", 2);
    let (ann, bob) = (world.account(0, 1), world.account(1, 2));
    let (left, right) = (world.contract(0, 11), world.contract(1, 12));
    world.tx(ann, true, Program { unsure: true, ..call(&[], &[(left, 0), (right, 0)]) });
    world.tx(bob, false, call(&[], &[(right, 0), (left, 0)]));
    world.build()
}

/// A chain of groups on one hot slot, the first of which needs another shard, and is
/// aborted after so many blocks.
pub fn chain(abort_after: u64) -> Scenario {
    let mut world = Builder::new("chain", 2);
    let (ann, bob, cat) = (world.account(0, 1), world.account(0, 2), world.account(0, 3));
    let (left, far) = (world.contract(0, 11), world.contract(1, 12));
    world.tx(ann, true, call(&[], &[(left, 0), (far, 0)]));
    // Local, were the slot not fenced.
    world.tx(bob, false, call(&[], &[(left, 0)]));
    world.tx(cat, false, call(&[], &[(left, 0)]));
    world.abort_after(abort_after).build()
}

/// Two groups with two executors, the second of which takes a value from the first.
pub fn flight() -> Scenario {
    let mut world = Builder::new("flight", 2);
    let (ann, bob, cat) = (world.account(0, 1), world.account(0, 2), world.account(1, 3));
    let (left, right) = (world.contract(0, 11), world.contract(1, 12));
    // Two of them use the left slot most, so that its shard executes.
    world.tx(ann, true, call(&[], &[(left, 0), (right, 0)]));
    world.tx(bob, true, call(&[(right, 1)], &[(left, 0)]));
    // Writes what the shard on the right has, and reads the left slot.
    world.tx(cat, false, call(&[(left, 0)], &[(right, 0)]));
    world.build()
}

/// A transaction that needs another slot than predicted once a second one has run before it.
pub fn late(shards: u16) -> Scenario {
    let mut world = Builder::new("late", shards);
    let (ann, bob) = (world.account(0, 1), world.account(1, 2));
    let (left, right) = (world.contract(0, 11), world.contract(1, 12));
    let far = world.contract(shards - 1, 13);
    // In one group both are predicted on slots of zero; the first one changes the second's mind.
    world.tx(bob, true, call(&[], &[(left, 0), (right, 0)]));
    let choice = Some(((left, 0), (right, 1), (far, 2)));
    world.tx(ann, true, Program { choice, ..Program::default() });
    // Uses what is leased late, before or after.
    let cat = world.account(shards - 1, 3);
    world.tx(cat, false, call(&[], &[(far, 2)]));
    world.build()
}

/// A transaction that comes to read a slot that another group of its round has fenced.
pub fn late_fenced() -> Scenario {
    let mut world = Builder::new("late, fenced", 2);
    let (ann, bob, cat) = (world.account(0, 1), world.account(1, 2), world.account(1, 3));
    let (left, right) = (world.contract(0, 11), world.contract(1, 12));
    // This group stands first in the plan.
    world.tx(cat, true, call(&[], &[(right, 2), (left, 3)]));
    world.tx(bob, true, call(&[], &[(left, 0), (right, 0)]));
    let peek = Some(((left, 0), (right, 2)));
    world.tx(ann, true, Program { peek, ..call(&[], &[(right, 1)]) });
    world.build()
}
