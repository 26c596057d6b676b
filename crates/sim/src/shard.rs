//! One shard: its ledger, its pool, and the little of a router that a world needs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use atoll_commit::{CutEffects, Executor, Touched, Turns};
use atoll_evm::{Ahead, CodeCache};
use atoll_invariants::{Property, Violation};
use atoll_types::{
    Address, Anchor, B256, BeaconBlock, Credit, Flight, GroupId, Intent, KeySet, LateAsk,
    LateLease, Lease, PartMessage, Settlement, ShardId, SharedTx, StateKey, Tx, TxRef, U256, Want,
};

use crate::{
    build::Built,
    ledger::{Input, Ledger},
    pool::Pool,
};

/// Writes kept of what transactions under way are predicted to do.
const AHEAD_WRITES: usize = 1_000;
/// Most transactions of one sender under way.
pub(crate) const MAX_UNDER_WAY: usize = 6;

/// What one shard sends to another.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Share(SharedTx),
    /// An answer to one sharing: the last valid round tells it from others of the attempt.
    Held {
        by: ShardId,
        tx: TxRef,
        last_valid_round: u64,
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

/// A transaction to be predicted.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    New(Tx),
    Again(SharedTx),
}

/// How the money of a shard stands at one of its cuts, in wei.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Purse {
    /// Balances, fees, burned, and credits held.
    pub here: U256,
    /// All credits ever sent.
    pub sent: U256,
    /// All credits ever received.
    pub received: U256,
}

/// A shard of a world.
pub struct Shard {
    pub(crate) ledger: Ledger,
    pub(crate) inputs: Vec<Input>,
    pub(crate) pool: Pool,
    pub(crate) dropped: Vec<(B256, String)>,
    /// After each cut, from cut 0.
    pub(crate) purses: Vec<Purse>,
    sent: BTreeMap<(ShardId, u64), Credit>,
    received: U256,
    /// What each group was fenced here, ever, and after which cut.
    pub(crate) fences: BTreeMap<GroupId, BTreeMap<StateKey, u64>>,
    pub(crate) codes: Arc<CodeCache>,
    // What is lost in a crash:
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) debits: VecDeque<Tx>,
    /// Owners from which word is still to come that they hold a transaction.
    sharing: HashMap<(TxRef, u64), BTreeSet<ShardId>>,
    pub(crate) announced: Vec<Intent>,
    turns: Turns,
    /// What transactions under way are predicted to do.
    pub(crate) ahead: Ahead,
    pub(crate) executor: Executor,
    pub(crate) touched: Touched,
    /// Leases that are not sent yet, and to whom they go.
    pub(crate) unsent: Vec<(GroupId, ShardId)>,
    /// A block that was built and not appended.
    pub(crate) built: Option<Built>,
    pub(crate) outbox: Vec<(ShardId, Message)>,
}

impl Shard {
    pub(crate) fn new(ledger: Ledger, codes: Arc<CodeCache>) -> Self {
        let here = ledger.values.balances();
        Self {
            executor: Executor::new(ledger.shard()),
            touched: Touched::since(0),
            built: None,
            unsent: Vec::new(),
            ledger,
            inputs: Vec::new(),
            pool: Pool::default(),
            dropped: Vec::new(),
            purses: vec![Purse { here, ..Purse::default() }],
            sent: BTreeMap::new(),
            received: U256::ZERO,
            fences: BTreeMap::new(),
            codes,
            jobs: VecDeque::new(),
            debits: VecDeque::new(),
            sharing: HashMap::new(),
            announced: Vec::new(),
            turns: Turns::default(),
            ahead: Ahead::new(AHEAD_WRITES),
            outbox: Vec::new(),
        }
    }

    #[cfg(feature = "planted")]
    pub(crate) fn plant(&mut self, bug: atoll_commit::Planted) {
        self.ledger.owner.plant(bug);
        self.executor.plant(bug);
    }

    pub fn id(&self) -> ShardId {
        self.ledger.shard()
    }

    /// What is durable.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The log.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// Every credit that was ever sent, by receiver and number.
    pub fn sent(&self) -> &BTreeMap<(ShardId, u64), Credit> {
        &self.sent
    }

    /// The keys that a group could write here, and the cuts after which they were fenced: the one of
    /// its round, or a later one for a late lease.
    pub fn fenced(&self, group: GroupId) -> Option<&BTreeMap<StateKey, u64>> {
        self.fences.get(&group)
    }

    /// Transactions that ended without a receipt, and why.
    pub fn dropped(&self) -> &[(B256, String)] {
        &self.dropped
    }

    pub(crate) fn anchor(&self) -> Anchor {
        self.ledger.owner.anchor()
    }

    pub(crate) fn log(&mut self, input: Input) -> Result<CutEffects, Violation> {
        let effects = self.ledger.apply(&input)?;
        let sends = matches!(input, Input::Block(_) | Input::Cut(_));
        self.inputs.push(input);
        if sends {
            self.note_sent()?;
        }
        Ok(effects)
    }

    fn note_sent(&mut self) -> Result<(), Violation> {
        let receivers: Vec<ShardId> = self.ledger.owner.credit_receivers().collect();
        for to in receivers {
            let known = self.sent.range((to, 0)..=(to, u64::MAX)).next_back();
            let known = known.map_or(0, |((_, seq), _)| *seq);
            for credit in self.ledger.owner.credits_after(to, known) {
                if self.sent.insert((to, credit.seq), credit).is_some() {
                    let detail = format!("{credit:?} has the number of another");
                    return Err(Violation { property: Property::ExactlyOnce, detail });
                }
            }
        }
        Ok(())
    }

    /// Loses all that is not durable, and starts again from the log.
    pub(crate) fn crash(&mut self, fresh: Ledger) -> Result<(), Violation> {
        let mut again = fresh;
        for input in &self.inputs {
            again.apply(input)?;
        }
        if !again.is_same(&self.ledger) {
            let detail = format!("shard {} replayed is another one", self.id());
            return Err(Violation { property: Property::Determinism, detail });
        }
        self.ledger = again;
        self.pool.forget_handed_out();
        self.jobs.clear();
        self.debits.clear();
        self.sharing.clear();
        self.announced.clear();
        self.turns = Turns::default();
        self.ahead = Ahead::new(AHEAD_WRITES);
        self.executor = Executor::new(self.id());
        self.touched = Touched::since(self.ledger.owner.cut_number());
        self.built = None;
        self.unsent.clear();
        self.outbox.clear();
        Ok(())
    }

    /// Whether a transaction of an own sender has taken effect, or never can.
    fn is_past(&self, tx: &Tx) -> bool {
        self.ledger.value(&StateKey::Basic(tx.sender())).basic().nonce > tx.nonce()
    }

    fn hold(&mut self, shared: SharedTx) -> Result<bool, Violation> {
        match self.ledger.owner.check_share(&shared) {
            Ok(true) if shared.origin == self.id() && self.is_past(&shared.tx) => Ok(false),
            Ok(true) => {
                let own = shared.origin == self.id();
                let (sender, nonce, hash) =
                    (shared.tx.sender(), shared.tx.nonce(), *shared.tx.hash());
                self.log(Input::Share(shared))?;
                if own {
                    self.ahead.share(&sender, nonce, &hash);
                }
                Ok(true)
            }
            Ok(false) => Ok(true),
            Err(_) => Ok(false),
        }
    }

    pub(crate) fn receive(&mut self, message: Message) -> Result<(), Violation> {
        match message {
            Message::Share(shared) => {
                let (tx, to, by) = (shared.reference(), shared.origin, self.id());
                let last_valid_round = shared.last_valid_round;
                if self.hold(shared)? {
                    self.outbox.push((to, Message::Held { by, tx, last_valid_round }));
                }
            }
            Message::Held { by, tx, last_valid_round } => {
                let Some(missing) = self.sharing.get_mut(&(tx, last_valid_round)) else {
                    return Ok(());
                };
                missing.remove(&by);
                if missing.is_empty() {
                    self.sharing.remove(&(tx, last_valid_round));
                    self.announce(tx, last_valid_round);
                }
            }
            Message::Lease(lease) => {
                let effects = self.executor.lease(lease);
                self.carry_out(effects)?;
            }
            Message::Want { from, want } => {
                let effects = self.executor.want(from, want);
                self.carry_out(effects)?;
            }
            Message::Flight { from, flight } => {
                let effects = self.executor.flight(from, flight);
                self.carry_out(effects)?;
            }
            Message::Late { from, ask } => self.lease_late(from, &ask)?,
            Message::LateLease(lease) => {
                let effects = self.executor.late(lease);
                self.carry_out(effects)?;
            }
            Message::Part(part) => self.keep(part)?,
            Message::Credits { from, credits } => self.take_credits(from, credits)?,
            Message::Settle(settlement) => {
                if self.ledger.owner.is_news(&settlement) {
                    self.log(Input::Settle(settlement))?;
                }
            }
        }
        Ok(())
    }

    fn take_credits(&mut self, from: ShardId, credits: Vec<Credit>) -> Result<(), Violation> {
        if self.ledger.owner.check_credits(from, &credits).is_err() {
            return Ok(());
        }
        let known = self.ledger.owner.received(from);
        let news: Vec<_> = credits.into_iter().filter(|credit| credit.seq > known).collect();
        if !news.is_empty() {
            self.received += news.iter().map(|credit| credit.amount).sum::<U256>();
            self.log(Input::Credits(from, news))?;
        }
        Ok(())
    }

    fn announce(&mut self, tx: TxRef, last_valid_round: u64) {
        let meant = |s: &&SharedTx| s.reference() == tx && s.last_valid_round == last_valid_round;
        let owner = &self.ledger.owner;
        if let Some(shared) = owner.unplanned().find(meant) {
            let intent = shared.intent(owner.placement());
            self.announced.extend(self.turns.held(&shared.tx.sender(), intent));
        }
    }

    /// Handles a beacon block.
    pub(crate) fn cut(&mut self, block: &BeaconBlock) -> Result<(), Violation> {
        let effects = self.log(Input::Cut(block.clone()))?;
        self.note_cut(block.number(), &effects);
        for plan in &effects.opened {
            self.plan(plan.id)?;
            self.unsent.push((plan.id, plan.executor));
        }
        self.tell_settled();
        effects.returned.iter().for_each(|shared| self.turns.wait(shared));
        self.jobs.extend(effects.returned.iter().cloned().map(Job::Again));
        self.end(&effects);
        self.ahead.pass(block.number());
        self.forget_past(&effects.receipts.iter().map(|receipt| receipt.tx).collect());
        self.purses.push(self.purse());
        Ok(())
    }

    /// What a cut has used and fenced.
    fn note_cut(&mut self, cut: u64, effects: &CutEffects) {
        // State at this cut has the deposits, and no group of this round.
        let deposits = effects.deposits.iter().map(|key| (key, cut.saturating_sub(1)));
        let writes = effects.writes.iter().map(|write| (&write.key, write.epoch));
        for (key, epoch) in deposits.chain(writes) {
            self.touched.note(key, epoch, None);
        }
        for plan in &effects.opened {
            let keys = self.ledger.owner.keys(plan.id).into_iter();
            for key in keys.clone().flat_map(KeySet::all) {
                self.touched.note(key, cut, Some(plan.id));
            }
            let fenced = keys.flat_map(|keys| &keys.writes).map(|key| (*key, cut));
            self.fences.insert(plan.id, fenced.collect());
        }
    }

    /// What ended without a receipt leaves the pool, unless it was only too late.
    pub(crate) fn end(&mut self, effects: &CutEffects) {
        let dropped = effects.dropped.iter().map(|(shared, _)| shared);
        for shared in effects.ended.iter().chain(dropped) {
            self.ahead.end(&shared.tx.sender(), shared.tx.nonce(), shared.tx.hash());
        }
        for (shared, reason) in &effects.dropped {
            if shared.last_valid_round < self.ledger.owner.cut_number() {
                self.pool.give_back(shared.tx.hash());
            } else {
                self.pool.remove(&shared.tx);
                self.dropped.push((*shared.tx.hash(), reason.clone()));
            }
        }
    }

    pub(crate) fn drop_tx(&mut self, tx: &Tx, reason: String) {
        // What is not in the pool any more has ended in another way.
        if self.pool.remove(tx) {
            self.dropped.push((*tx.hash(), reason));
        }
    }

    fn tell_settled(&mut self) {
        let news = self.ledger.owner.settlements();
        self.outbox.extend(news.into_iter().map(|s| (s.from, Message::Settle(s))));
    }

    fn purse(&self) -> Purse {
        let owner = &self.ledger.owner;
        Purse {
            here: self
                .ledger
                .values
                .balances()
                .wrapping_add(owner.fees() + owner.burned() + owner.held_credits()),
            sent: self.sent.values().map(|credit| credit.amount).sum(),
            received: self.received,
        }
    }

    pub(crate) fn share(&mut self, shared: SharedTx) -> Result<(), Violation> {
        if !self.hold(shared.clone())? {
            self.pool.give_back(shared.tx.hash());
            return Ok(());
        }
        self.turns.wait(&shared);
        let here = self.id();
        let owners = shared.keys.owners(self.ledger.owner.placement());
        let others: BTreeSet<ShardId> = owners.into_iter().filter(|owner| *owner != here).collect();
        for to in &others {
            self.outbox.push((*to, Message::Share(shared.clone())));
        }
        if others.is_empty() {
            self.announce(shared.reference(), shared.last_valid_round);
        } else {
            self.sharing.insert((shared.reference(), shared.last_valid_round), others);
        }
        Ok(())
    }

    /// Sends the newest credits, and a few before them in case they were lost.
    pub(crate) fn pass_on_credits(&mut self) {
        let from = self.id();
        for to in self.ledger.owner.credit_receivers() {
            let credits: Vec<Credit> = self.ledger.owner.credits_after(to, 0).collect();
            if !credits.is_empty() {
                self.outbox.push((to, Message::Credits { from, credits }));
            }
        }
    }

    /// Does again whatever is open.
    pub(crate) fn refresh(&mut self) -> Result<(), Violation> {
        let owner = &self.ledger.owner;
        let unplanned: Vec<SharedTx> = owner.unplanned().cloned().collect();
        let returned: Vec<SharedTx> = owner.returned().cloned().collect();
        self.forget_ended(&unplanned, &returned);
        self.pass_on_credits();
        unplanned.into_iter().try_for_each(|shared| self.share(shared))?;
        self.jobs.extend(returned.into_iter().map(Job::Again));
        self.refresh_groups()?;
        self.tell_settled();
        Ok(())
    }

    /// What has ended holds up no later transaction of its sender.
    fn forget_ended(&mut self, unplanned: &[SharedTx], returned: &[SharedTx]) {
        let open: BTreeSet<&B256> =
            unplanned.iter().chain(returned).map(|shared| shared.tx.hash()).collect();
        let waiting: Vec<_> = self.turns.waiting().collect();
        for (sender, nonce, tx) in waiting.into_iter().filter(|(.., tx)| !open.contains(tx)) {
            self.announced.extend(self.turns.leave(&sender, nonce, &tx));
        }
    }

    /// Whether nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        let owner = &self.ledger.owner;
        self.jobs.is_empty()
            && self.debits.is_empty()
            && self.built.is_none()
            && owner.own_shared().next().is_none()
            && owner.open_groups().next().is_none()
            && owner.credit_receivers().all(|to| owner.credits_after(to, 0).next().is_none())
            && owner.held_credits().is_zero()
            && owner.fees().is_zero()
            && self.runnable().next().is_none()
    }

    /// The next transaction of each sender that can be run, or follow those under way.
    pub(crate) fn runnable(&self) -> impl Iterator<Item = &Tx> {
        self.pool.senders().into_iter().filter_map(|sender| {
            let run = self.consecutive(sender).take(MAX_UNDER_WAY);
            run.filter(|(_, away)| !away).map(|(tx, _)| tx).next()
        })
    }

    /// A sender's transactions from its next nonce on, without gaps, and whether each is under way.
    pub(crate) fn consecutive(&self, sender: Address) -> impl Iterator<Item = (&Tx, bool)> {
        let owner = &self.ledger.owner;
        let first = self.ledger.value(&StateKey::Basic(sender)).basic().nonce;
        (first..).map_while(move |nonce| {
            let (tx, away) = self.pool.get(&sender, nonce)?;
            // What the pool has forgotten in a crash the state has not.
            Some((tx, away || owner.is_pinned(&sender) && owner.is_pending(tx.hash())))
        })
    }
}
