//! One shard: its owner, values, pool, and the little of a router that a simulation needs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use atoll_commit::{CutEffects, Executor, Owner, Touched};
use atoll_types::{
    Address, B256, BeaconBlock, Credit, CreditKind, GroupId, KeySet, LocalBlock, LocalTx,
    PartMessage, ReceiptKind, Refusal, ShardId, SharedTx, StateKey, StateValue, Tx, TxRef, U256,
};

use crate::{
    ledger::{Input, Ledger, Message},
    toy::{self, Ran, Rng},
};

#[derive(Clone)]
pub enum Job {
    New(Tx),
    Again(SharedTx),
}

/// How the money of a shard stands at one of its cuts.
#[derive(Clone, Debug, Default)]
pub struct Purse {
    /// Balances, fees, burned, and credits held.
    pub here: U256,
    /// Sums of all credits ever sent, and of all ever received.
    pub sent: U256,
    pub received: U256,
}

pub struct Shard {
    pub ledger: Ledger,
    pub inputs: Vec<Input>,
    /// Transactions of its senders that are not known to have ended, by sender and nonce.
    pub pool: BTreeMap<Address, VecDeque<Tx>>,
    pub purses: Vec<Purse>,
    pub sent: BTreeMap<(ShardId, u64), Credit>,
    pub received: U256,
    /// What is lost in a crash.
    pub jobs: VecDeque<Job>,
    pub escalated: HashSet<B256>,
    /// Owners from which word is still to come that they hold a transaction.
    pub sharing: HashMap<(TxRef, u64), BTreeSet<ShardId>>,
    pub announced: Vec<SharedTx>,
    pub executor: Executor,
    pub touched: Touched,
    pub outbox: Vec<(ShardId, Message)>,
    pub counts: BTreeMap<&'static str, u64>,
    pub stuck_credits: u64,
    /// What each group may write here, and the cut since which it may.
    pub fences: HashMap<GroupId, BTreeMap<StateKey, u64>>,
    /// The cluster was restored from a backup.
    pub went_back: bool,
}

impl Shard {
    pub fn new(ledger: Ledger) -> Self {
        let id = ledger.owner.shard();
        Self {
            ledger,
            inputs: Vec::new(),
            pool: BTreeMap::new(),
            purses: vec![Purse::default()],
            sent: BTreeMap::new(),
            received: U256::ZERO,
            jobs: VecDeque::new(),
            escalated: HashSet::new(),
            sharing: HashMap::new(),
            announced: Vec::new(),
            executor: Executor::new(id),
            touched: Touched::since(0),
            outbox: Vec::new(),
            counts: BTreeMap::new(),
            stuck_credits: 0,
            fences: HashMap::new(),
            went_back: false,
        }
    }

    pub fn id(&self) -> ShardId {
        self.ledger.owner.shard()
    }

    pub fn log(&mut self, input: Input) -> CutEffects {
        let effects = self.ledger.apply(&input);
        self.inputs.push(input);
        let owner = &self.ledger.owner;
        for to in owner.credit_receivers() {
            let known =
                self.sent.range((to, 0)..=(to, u64::MAX)).last().map_or(0, |((_, seq), _)| *seq);
            let fresh: Vec<Credit> = owner.credits_after(to, known).collect();
            for credit in fresh {
                assert!(self.sent.insert((to, credit.seq), credit).is_none());
            }
        }
        effects
    }

    /// Loses all that is not durable, and starts again from the log.
    pub fn crash(&mut self, fresh: Ledger) {
        let mut again = fresh;
        for input in &self.inputs {
            again.apply(input);
        }
        assert_eq!(again.face(), self.ledger.face(), "replay gives another state");
        assert_eq!(again.values, self.ledger.values);
        self.ledger = again;
        self.lose_all();
    }

    /// Goes back to what it was right after a cut, and hands out its owner.
    pub fn go_back(&mut self, fresh: Ledger, cut: u64) -> Owner {
        let is_cut = |input: &Input| matches!(input, Input::Cut(block) if block.number() == cut);
        let at = self.inputs.iter().position(is_cut).expect("the cut was passed");
        // If the cluster was restored to this very cut before, that is where it goes back to.
        let again = matches!(self.inputs.get(at + 1), Some(Input::Restored(_)));
        self.inputs.truncate(at + 1 + usize::from(again));
        self.ledger = fresh;
        for input in &self.inputs {
            self.ledger.apply(input);
        }
        self.purses.truncate(cut as usize + 1);
        self.sent.retain(|(to, seq), _| *seq <= newest(&self.ledger.owner, *to));
        self.ledger.owner.clone()
    }

    /// Goes on from a state that was reconciled with those of the others. `decided`: groups that the
    /// beacon has decided up to the cut.
    pub fn restore(&mut self, owner: Owner, decided: &HashSet<GroupId>) {
        let held = self.ledger.owner.held_credits() - owner.held_credits();
        let at_cut = self.purses.last().expect("there is one for each cut").received;
        self.received = at_cut - held;
        if let Some(purse) = self.purses.last_mut() {
            purse.received -= held;
            purse.here -= held;
        }
        self.fences.retain(|group, keys| {
            let mine = owner.keys(*group);
            keys.retain(|key, _| {
                mine.is_some_and(|mine| mine.writes.contains(key)) || decided.contains(group)
            });
            !keys.is_empty()
        });
        self.log(Input::Restored(Box::new(owner)));
        self.went_back = true;
        self.lose_all();
    }

    fn lose_all(&mut self) {
        self.jobs.clear();
        self.escalated.clear();
        self.sharing.clear();
        self.announced.clear();
        self.executor = Executor::new(self.id());
        self.touched = Touched::since(self.ledger.owner.cut_number());
        self.outbox.clear();
    }

    pub fn refuse(&mut self, rule: &Refusal) {
        let name = match rule {
            Refusal::GroupNotOpen { .. } => "group not open",
            Refusal::CreditGap { .. } => "credit gap",
            Refusal::OldAttempt { .. } => "old attempt",
            Refusal::Expired { .. } => "expired",
            Refusal::NotLate { .. } => "not late",
            // An owner that went back has forgotten that it leased a key late: the group is aborted.
            Refusal::OutsideFence { .. } if self.went_back => "outside the fence",
            // The others take a shard that breaks rules.
            other => panic!("{other}"),
        };
        self.count(name);
    }

    fn has_ended(&self, tx: &B256) -> bool {
        self.ledger.receipts.iter().rev().any(|receipt| receipt.tx == *tx)
    }

    fn hold(&mut self, shared: SharedTx) -> bool {
        match self.ledger.owner.check_share(&shared) {
            Ok(true) if shared.origin == self.id() && self.has_ended(shared.tx.hash()) => false,
            Ok(new) => {
                if new {
                    self.log(Input::Share(shared));
                }
                true
            }
            Err(rule) => {
                self.refuse(&rule);
                false
            }
        }
    }

    pub fn receive(&mut self, message: Message) {
        match message {
            Message::Share(shared) => {
                let (tx, to, by) = (shared.reference(), shared.origin, self.id());
                let last = shared.last_valid_round;
                if self.hold(shared) {
                    self.outbox.push((to, Message::Held { by, tx, last }));
                }
            }
            Message::Held { by, tx, last } => {
                let Some(missing) = self.sharing.get_mut(&(tx, last)) else { return };
                missing.remove(&by);
                if missing.is_empty() {
                    self.sharing.remove(&(tx, last));
                    self.announce(tx, last);
                }
            }
            Message::Lease(lease) => {
                let effects = self.executor.lease(lease);
                self.carry_out(effects);
            }
            Message::Want { from, want } => {
                let effects = self.executor.want(from, want);
                self.carry_out(effects);
            }
            Message::Flight { from, flight } => {
                let effects = self.executor.flight(from, flight);
                self.carry_out(effects);
            }
            Message::Late { from, ask } => self.lease_late(from, &ask),
            Message::LateLease(lease) => {
                let effects = self.executor.late(lease);
                self.carry_out(effects);
            }
            Message::Part(part) => self.keep(part),
            Message::Credits { from, credits } => {
                if let Err(rule) = self.ledger.owner.check_credits(from, &credits) {
                    return self.refuse(&rule);
                }
                let known = self.ledger.owner.received(from);
                let news: Vec<_> = credits.into_iter().filter(|c| c.seq > known).collect();
                if !news.is_empty() {
                    self.received += news.iter().map(|credit| credit.amount).sum::<U256>();
                    self.log(Input::Credits(from, news));
                }
            }
            // One of a cut to come waits for it; here, until it is told again.
            Message::Settle(settlement) => {
                let passed = settlement.cut <= self.ledger.owner.cut_number();
                if passed && self.ledger.owner.is_news(&settlement) {
                    self.log(Input::Settle(settlement));
                }
            }
        }
    }

    fn announce(&mut self, tx: TxRef, last: u64) {
        let mut held = self.ledger.owner.unplanned();
        let meant = |s: &&SharedTx| (s.reference(), s.last_valid_round) == (tx, last);
        if let Some(shared) = held.find(meant).cloned() {
            self.announced.push(shared);
        }
    }

    pub fn keep(&mut self, part: PartMessage) {
        match self.ledger.owner.check_part(&part) {
            Ok(true) => {
                self.log(Input::Part(part));
            }
            Ok(false) => {}
            Err(rule) => self.refuse(&rule),
        }
    }

    /// Handles a beacon block. Returns what it did.
    pub fn cut(&mut self, block: &BeaconBlock) -> CutEffects {
        let held = self.ledger.owner.held_credits();
        let effects = self.log(Input::Cut(block.clone()));
        if !held.is_zero() && !self.ledger.owner.held_credits().is_zero() {
            self.stuck_credits += 1;
        }
        let cut = block.number();
        let deposits = effects.deposits.iter();
        deposits.for_each(|key| self.touched.note(key, cut - 1, None));
        for write in &effects.writes {
            self.touched.note(&write.key, write.epoch, None);
        }
        for plan in &effects.opened {
            let keys = self.ledger.owner.keys(plan.id).unwrap().clone();
            keys.all().for_each(|key| self.touched.note(key, cut, Some(plan.id)));
            let fences = keys.writes.iter().map(|key| (*key, cut)).collect();
            self.fences.insert(plan.id, fences);
            self.plan(plan.id);
            self.send_lease(plan.id, plan.executor);
        }
        self.tell_settled();
        self.jobs.extend(effects.returned.iter().cloned().map(Job::Again));
        self.lose(&effects);
        self.purses.push(self.purse());
        effects
    }

    fn lose(&mut self, effects: &CutEffects) {
        for (shared, _) in &effects.dropped {
            self.escalated.remove(shared.tx.hash());
        }
    }

    fn tell_settled(&mut self) {
        let news = self.ledger.owner.settlements();
        self.outbox.extend(news.into_iter().map(|s| (s.from, Message::Settle(s))));
    }

    fn purse(&self) -> Purse {
        let owner = &self.ledger.owner;
        let balances: U256 = self.ledger.values.values().map(|value| value.basic().balance).sum();
        Purse {
            here: balances + owner.fees() + owner.burned() + owner.held_credits(),
            sent: self.sent.values().map(|credit| credit.amount).sum(),
            received: self.received,
        }
    }

    /// Runs what its pool has, as far as it fits the shard. `blind`: nobody looks whether the
    /// receiver of a payment has code.
    pub fn build(&mut self, rng: &mut Rng, has_code: &dyn Fn(&Address) -> bool) {
        let owner = &self.ledger.owner;
        let (here, placement) = (owner.shard(), owner.placement().clone());
        let fenced: HashSet<StateKey> = owner.fenced().copied().collect();
        let pinned: HashSet<Address> = owner.own_shared().map(|tx| tx.tx.sender()).collect();
        let mut changed: BTreeMap<StateKey, StateValue> = BTreeMap::new();
        let mut used: BTreeSet<StateKey> = BTreeSet::new();
        let mut block = LocalBlock {
            shard: here,
            number: owner.head() + 1,
            parent: owner.digest(),
            round: owner.cut_number(),
            txs: Vec::new(),
            writes: Vec::new(),
            codes: Vec::new(),
            credits: Vec::new(),
            fees: U256::ZERO,
            burned: U256::ZERO,
        };
        let limit = 1 + rng.below(12);
        for (sender, txs) in &mut self.pool {
            if pinned.contains(sender) || rng.percent(30) {
                continue;
            }
            let key = StateKey::Basic(*sender);
            loop {
                let view = |key: &StateKey| {
                    let mine = placement.owner_of(key) == here && !fenced.contains(key);
                    let now = || changed.get(key).copied().unwrap_or(self.ledger.value(key));
                    mine.then(now)
                };
                let account = changed.get(&key).copied().unwrap_or(self.ledger.value(&key)).basic();
                while txs.front().is_some_and(|tx| tx.nonce() < account.nonce) {
                    txs.pop_front();
                }
                let Some(tx) =
                    txs.front().filter(|tx| !self.escalated.contains(tx.hash())).cloned()
                else {
                    break;
                };
                if block.txs.len() >= limit {
                    break;
                }
                let paid = toy::payment(&tx).filter(|(to, _)| placement.owner(to) != here);
                let plain = paid.filter(|(to, _)| !has_code(to) || rng.percent(50));
                let (kind, writes, output, keys) = if let Some((to, amount)) = plain {
                    if fenced.contains(&key) {
                        break;
                    }
                    let Some(left) = toy::debit(&tx, amount, account) else {
                        txs.clear();
                        break;
                    };
                    block.credits.push(Credit {
                        from: here,
                        to: placement.owner(&to),
                        seq: 0,
                        account: to,
                        payer: *sender,
                        amount: U256::from(amount),
                        kind: CreditKind::Payment { tx: *tx.hash() },
                    });
                    let writes = BTreeMap::from([(key, StateValue::Basic(left))]);
                    (ReceiptKind::Credit, writes, Default::default(), KeySet::default())
                } else {
                    let run = toy::run(&tx, &view);
                    match run.ran {
                        _ if !run.missing.is_empty() => {
                            self.escalated.insert(*tx.hash());
                            self.jobs.push_back(Job::New(tx));
                            break;
                        }
                        Ran::Executed(output) => (ReceiptKind::Local, run.writes, output, run.used),
                        // It can pay for nothing any more.
                        Ran::Invalid(_) => {
                            txs.clear();
                            break;
                        }
                        Ran::Behind => break,
                    }
                };
                used.extend(keys.all().copied());
                changed.extend(writes);
                let receipt = toy::receipt(&tx, kind, block.round, Some(output));
                block.fees += U256::from(toy::FEE);
                block.burned += U256::from(toy::BURNED);
                block.txs.push(LocalTx { tx, receipt });
            }
        }
        if !block.txs.is_empty() {
            used.extend(changed.keys().copied());
            used.iter().for_each(|key| self.touched.note(key, block.round, None));
            block.writes = changed.into_iter().collect();
            self.log(Input::Block(block));
            self.pass_on_credits();
        }
    }

    fn pass_on_credits(&mut self) {
        let owner = &self.ledger.owner;
        let from = owner.shard();
        for to in owner.credit_receivers() {
            let credits: Vec<Credit> = owner.credits_after(to, 0).collect();
            let news = credits.len().saturating_sub(3);
            let credits = credits[news..].to_vec();
            self.outbox.push((to, Message::Credits { from, credits }));
        }
    }

    /// Predicts one transaction on the newest values of the whole world, and shares it.
    pub fn predict(&mut self, cut: u64, valid: u64, world: &dyn Fn(&StateKey) -> StateValue) {
        let Some(job) = self.jobs.pop_front() else { return };
        let tx = match &job {
            Job::New(tx) => tx,
            Job::Again(shared) => &shared.tx,
        };
        let run = toy::run(tx, &|key| Some(world(key)));
        match (run.ran, job) {
            (Ran::Executed(_), job) => {
                let last_valid_round = cut + valid;
                let (origin, keys) = (self.id(), run.used);
                let shared = match job {
                    Job::New(tx) => SharedTx {
                        tx,
                        origin,
                        attempt: 1,
                        wrong: 0,
                        absences: 0,
                        silences: 0,
                        keys,
                        last_valid_round,
                    },
                    Job::Again(before) => {
                        let keys = if before.wrong > 0 { keys.union(&before.keys) } else { keys };
                        SharedTx { keys, last_valid_round, ..before }
                    }
                };
                self.share(shared);
            }
            (_, Job::New(tx)) => {
                self.escalated.remove(tx.hash());
            }
            (_, Job::Again(before)) => {
                let effects = self.log(Input::Withdraw(before.reference()));
                self.lose(&effects);
            }
        }
    }

    fn share(&mut self, shared: SharedTx) {
        if !self.hold(shared.clone()) {
            return;
        }
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
    }

    /// Does again whatever is open.
    pub fn refresh(&mut self) {
        let owner = &self.ledger.owner;
        let unplanned: Vec<SharedTx> = owner.unplanned().cloned().collect();
        let returned: Vec<SharedTx> = owner.returned().cloned().collect();
        let open: Vec<_> = owner.open_groups().map(|(plan, _)| (plan.id, plan.executor)).collect();
        let results: BTreeSet<GroupId> = owner.results().map(|m| m.part.group).collect();
        let (from, cut) = (owner.shard(), owner.cut_number());
        for to in owner.credit_receivers() {
            let credits: Vec<Credit> = owner.credits_after(to, 0).collect();
            if !credits.is_empty() {
                self.outbox.push((to, Message::Credits { from, credits }));
            }
        }
        unplanned.into_iter().for_each(|shared| self.share(shared));
        self.jobs.extend(returned.into_iter().map(Job::Again));
        self.executor.keep_only(&open.iter().map(|(id, _)| *id).collect(), cut);
        for (group, to) in open {
            self.plan(group);
            self.send_lease(group, to);
        }
        results.into_iter().for_each(|id| self.keep_result(id));
        let wanted = self.executor.again();
        self.carry_out(wanted);
        self.send_parts(|_| true);
        self.tell_settled();
    }

    /// Whether nothing is under way.
    pub fn is_quiet(&self) -> bool {
        let owner = &self.ledger.owner;
        self.jobs.is_empty()
            && owner.own_shared().next().is_none()
            && owner.open_groups().next().is_none()
            && owner.credit_receivers().all(|to| owner.credits_after(to, 0).next().is_none())
            && owner.held_credits().is_zero()
            && self.pool.values().all(VecDeque::is_empty)
    }
}

/// Number of the newest credit that was ever sent to a shard.
fn newest(owner: &Owner, to: ShardId) -> u64 {
    let sent = owner.anchor().credits_sent;
    sent.iter().find(|(shard, _)| *shard == to).map_or(0, |(_, seq)| *seq)
}
