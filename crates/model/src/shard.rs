//! One shard: its ledger, and the little of a mempool, an executor and a router that the protocol
//! needs around it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use atoll_commit::{CutEffects, Executor, Ready, Touched};
use atoll_types::{
    Address, B256, Credit, CreditKind, GroupId, LocalBlock, LocalTx, Part, Receipt, ReceiptKind,
    ShardId, SharedTx, StateKey, StateValue, Tx, TxRef, U256,
};

use crate::{
    beacon::Link,
    canonical::{combine, fingerprint},
    ledger::{Broken, Input, Ledger},
    message::{Content, Message},
    model::Planted,
    scenario::Scenario,
    toy::{self, Ran},
};

/// Last round in which anything may be planned: no transaction expires in a model.
const LAST_VALID: u64 = 1_000;

/// What a shard says because of a step.
pub type Said = Result<Vec<Message>, Broken>;

/// What a shard runs in: what does not change.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    pub scenario: &'a Scenario,
    pub planted: Option<Planted>,
    /// Results become durable some time after they are computed.
    pub reruns: bool,
}

/// A shard.
#[derive(Clone)]
pub struct Shard {
    pub ledger: Ledger,
    /// The log. Not part of the state's identity: the ledger is a function of it.
    pub inputs: Vec<Arc<Input>>,
    /// Owners from which word is still to come that they hold an own transaction, by hash, attempt
    /// and last valid round. Volatile.
    pub sharing: BTreeMap<(B256, u32, u64), BTreeSet<ShardId>>,
    /// The real executor. Volatile.
    pub executor: Executor,
    /// When keys were used, for late leases. Volatile.
    pub touched: Touched,
    /// Groups that may be run. Volatile.
    pub ready: BTreeMap<GroupId, Ready>,
    /// Results that were computed and are not durable. Volatile.
    pub ran: BTreeMap<GroupId, Vec<Part>>,
    /// Messages for the executor that have arrived since it started. Volatile.
    pub heard: BTreeSet<u64>,
    /// Groups whose result was lost before it was durable. For the checks only.
    pub lost: BTreeSet<GroupId>,
    hash: u64,
}

impl Shard {
    /// A shard with a fresh ledger.
    pub fn new(scenario: &Scenario, ledger: Ledger) -> Self {
        let mut shard = Self {
            executor: executor(scenario, ledger.owner.shard()),
            touched: Touched::since(0),
            ledger,
            inputs: Vec::new(),
            sharing: BTreeMap::new(),
            ready: BTreeMap::new(),
            heard: BTreeSet::new(),
            ran: BTreeMap::new(),
            lost: BTreeSet::new(),
            hash: 0,
        };
        shard.seal();
        shard
    }

    /// Its number.
    pub fn id(&self) -> ShardId {
        self.ledger.owner.shard()
    }

    /// Hash of the shard.
    pub fn fingerprint(&self) -> u64 {
        self.hash
    }

    /// Has to follow every change.
    pub fn seal(&mut self) {
        let router = (&self.sharing, &self.heard, &self.lost);
        let executor = (&self.executor, &self.touched, &self.ready, &self.ran);
        let volatile = [fingerprint(&router), fingerprint(&executor)];
        self.hash = combine([self.ledger.fingerprint(), volatile[0], volatile[1]]);
    }

    pub(crate) fn log(&mut self, input: Input) -> Result<CutEffects, Broken> {
        let effects = self.ledger.apply(&input)?;
        self.inputs.push(Arc::new(input));
        Ok(effects)
    }

    /// Loses what is not durable, and starts again from the log.
    pub fn crash(&mut self, around: Around<'_>, fresh: Ledger) -> Said {
        if around.planted == Some(Planted::AckBeforeSync) {
            self.inputs.pop();
        }
        let mut again = fresh;
        for input in &self.inputs {
            again.apply(input)?;
        }
        let told = self.ledger.history.receipts.iter().map(|receipt| receipt.tx);
        let kept = |tx: &B256| again.history.receipts.iter().any(|receipt| receipt.tx == *tx);
        if let Some(tx) = told.into_iter().find(|tx| !kept(tx)) {
            let detail = format!("transaction {} was final", toy::short(&tx));
            return Err(Broken::new(atoll_invariants::Property::DurableAck, detail));
        }
        if around.planted.is_none() && again.fingerprint() != self.ledger.fingerprint() {
            let detail = format!("replay of shard {} gives another state", self.id());
            return Err(Broken::new(atoll_invariants::Property::Determinism, detail));
        }
        if around.planted == Some(Planted::CommitTwice) {
            again.repeat_newest_commit()?;
        }
        self.ledger = again;
        self.sharing.clear();
        self.lost.extend(std::mem::take(&mut self.ran).into_keys());
        self.ready.clear();
        self.heard.clear();
        self.executor = executor(around.scenario, self.id());
        self.touched = Touched::since(self.ledger.owner.cut_number());
        self.refresh(around)
    }

    /// Whether a crash loses what is not got back by asking again.
    pub fn has_volatile(&self) -> bool {
        !self.ran.is_empty()
    }

    /// Where a transaction may begin or try again: it has no receipt, is not under way, and is its
    /// sender's next.
    pub fn may_submit(&self, scenario: &Scenario, at: usize) -> bool {
        let (tx, program) = &scenario.txs[at];
        let owner = &self.ledger.owner;
        let sender = StateKey::Basic(tx.sender());
        let abroad = |to: &Address| scenario.placement.owner(to) != self.id();
        let fenced = || owner.fenced().any(|key| *key == sender);
        let credit = program.payment().is_some_and(|(to, _)| abroad(&to));
        self.ledger.value(&sender).basic().nonce == tx.nonce()
            && !owner.is_pending(tx.hash())
            && !owner.own_shared().any(|shared| shared.tx.sender() == tx.sender())
            && (!credit || !fenced())
    }

    /// Takes a transaction: into a local block, as a credit, or across shards.
    pub fn submit(
        &mut self,
        around: Around<'_>,
        at: usize,
        world: &dyn Fn(&StateKey) -> StateValue,
    ) -> Said {
        let scenario = around.scenario;
        let (tx, program) = &scenario.txs[at];
        let here = self.id();
        if let Some((to, amount)) = program.payment()
            && scenario.placement.owner(&to) != here
        {
            return self.pay(around, tx, to, amount);
        }
        let fenced: BTreeSet<StateKey> = self.ledger.owner.fenced().copied().collect();
        let blind = around.planted == Some(Planted::FenceIgnored);
        let view = |key: &StateKey| {
            let mine = scenario.placement.owner_of(key) == here;
            (mine && (blind || !fenced.contains(key))).then(|| self.ledger.value(key))
        };
        let run = toy::run(tx, program, scenario.fee, &view);
        match run.ran {
            Ran::Executed(output) if run.missing.is_empty() => {
                let receipt = self.receipt(tx, ReceiptKind::Local, output);
                let writes = run.writes.into_iter().collect();
                let block = self.next_block(scenario, tx, receipt, writes);
                self.note_used(around, run.used.all());
                if blind {
                    return self.ledger.append(&block).map(|()| Vec::new());
                }
                self.log(Input::Block(block))?;
                Ok(Vec::new())
            }
            _ => {
                let run = toy::run(tx, program, scenario.fee, &|key| Some(world(key)));
                let (origin, keys, last_valid_round) = (here, run.used, LAST_VALID);
                let tx = tx.clone();
                self.share(SharedTx {
                    tx,
                    origin,
                    attempt: 1,
                    wrong: 0,
                    absences: 0,
                    silences: 0,
                    keys,
                    last_valid_round,
                })
            }
        }
    }

    fn note_used<'k>(&mut self, around: Around<'_>, keys: impl IntoIterator<Item = &'k StateKey>) {
        let cut = self.ledger.owner.cut_number();
        if around.scenario.late {
            keys.into_iter().for_each(|key| self.touched.note(key, cut, None));
        }
    }

    fn receipt(&self, tx: &Tx, kind: ReceiptKind, output: u64) -> Receipt {
        toy::receipt(tx, kind, self.ledger.owner.cut_number(), Some(output))
    }

    fn next_block(
        &self,
        scenario: &Scenario,
        tx: &Tx,
        receipt: Receipt,
        writes: Vec<(StateKey, StateValue)>,
    ) -> LocalBlock {
        let owner = &self.ledger.owner;
        LocalBlock {
            shard: owner.shard(),
            number: owner.head() + 1,
            parent: owner.digest(),
            round: owner.cut_number(),
            txs: vec![LocalTx { tx: tx.clone(), receipt }],
            writes,
            codes: Vec::new(),
            credits: Vec::new(),
            fees: U256::from(scenario.fee),
            burned: U256::ZERO,
        }
    }

    fn pay(&mut self, around: Around<'_>, tx: &Tx, to: Address, amount: u64) -> Said {
        let scenario = around.scenario;
        let sender = StateKey::Basic(tx.sender());
        let account = self.ledger.value(&sender).basic();
        let Some(left) = toy::debit(tx, amount + scenario.fee, account) else {
            return Ok(Vec::new());
        };
        self.note_used(around, [&sender]);
        let receipt = self.receipt(tx, ReceiptKind::Credit, 0);
        let mut block =
            self.next_block(scenario, tx, receipt, vec![(sender, StateValue::Basic(left))]);
        block.credits.push(Credit {
            from: self.id(),
            to: scenario.placement.owner(&to),
            seq: 0,
            account: to,
            payer: tx.sender(),
            amount: U256::from(amount),
            kind: CreditKind::Payment { tx: *tx.hash() },
        });
        self.log(Input::Block(block))?;
        Ok(self.open_credits())
    }

    pub(crate) fn open_credits(&self) -> Vec<Message> {
        let owner = &self.ledger.owner;
        let open = owner.credit_receivers().flat_map(|to| owner.credits_after(to, 0));
        open.map(|credit| Message::new(credit.to, Content::Credit(credit))).collect()
    }

    /// Own transactions that came back, and may be tried again.
    pub fn returned(&self, attempts: u32) -> impl Iterator<Item = TxRef> {
        let returned = self.ledger.owner.returned().map(SharedTx::reference);
        returned.filter(move |tx| tx.attempt <= attempts)
    }

    /// Predicts an own transaction that came back, and shares it again.
    pub fn predict(
        &mut self,
        scenario: &Scenario,
        hash: &B256,
        world: &dyn Fn(&StateKey) -> StateValue,
    ) -> Said {
        let mut returned = self.ledger.owner.returned();
        let Some(before) = returned.find(|shared| shared.tx.hash() == hash).cloned() else {
            return Ok(Vec::new());
        };
        drop(returned);
        let program = scenario.program(hash);
        let run = toy::run(&before.tx, program, scenario.fee, &|key| Some(world(key)));
        if !matches!(run.ran, Ran::Executed(_)) {
            self.log(Input::Withdraw(before.reference()))?;
            return Ok(Vec::new());
        }
        let keys = if before.wrong > 0 { run.used.union(&before.keys) } else { run.used };
        self.share(SharedTx { keys, last_valid_round: LAST_VALID, ..before })
    }

    fn share(&mut self, shared: SharedTx) -> Said {
        match self.ledger.owner.check_share(&shared) {
            Ok(true) => {
                self.log(Input::Share(shared.clone()))?;
            }
            Ok(false) => {}
            Err(_) => return Ok(Vec::new()),
        }
        Ok(self.tell_owners(&shared))
    }

    fn tell_owners(&mut self, shared: &SharedTx) -> Vec<Message> {
        let here = self.id();
        let owners = shared.keys.owners(self.ledger.owner.placement());
        let others: BTreeSet<ShardId> = owners.into_iter().filter(|to| *to != here).collect();
        let key = (*shared.tx.hash(), shared.attempt, shared.last_valid_round);
        self.sharing.insert(key, others.clone());
        let tell = |to| Message::new(to, Content::Share(shared.clone()));
        others.into_iter().map(tell).collect()
    }

    pub(crate) fn share_again(&mut self) -> Vec<Message> {
        let unplanned: Vec<SharedTx> = self.ledger.owner.unplanned().cloned().collect();
        unplanned.iter().flat_map(|shared| self.tell_owners(shared)).collect()
    }

    /// Own transactions that every owner holds and the beacon may plan.
    pub fn announced(&self) -> Vec<SharedTx> {
        let ready = |shared: &&SharedTx| {
            let key = (*shared.tx.hash(), shared.attempt, shared.last_valid_round);
            self.sharing.get(&key).is_some_and(BTreeSet::is_empty)
        };
        self.ledger.owner.unplanned().filter(ready).cloned().collect()
    }

    /// Whether a message would change anything now, or be answered.
    pub fn listens(&self, message: &Content) -> bool {
        let owner = &self.ledger.owner;
        match message {
            Content::Share(shared) => owner.check_share(shared) == Ok(true),
            Content::Held { by, tx, last } => {
                let missing = self.sharing.get(&(tx.hash, tx.attempt, *last));
                missing.is_some_and(|missing| missing.contains(by))
            }
            Content::Part(part) => owner.check_part(part) == Ok(true),
            Content::Credit(credit) => {
                owner.check_credits(credit.from, std::slice::from_ref(credit)).is_ok()
                    && credit.seq > owner.received(credit.from)
            }
            Content::Settle(settlement) => owner.is_news(settlement),
            // Repeated, these change nothing: see the executor's own tests, and random walks.
            Content::Lease(_)
            | Content::Want { .. }
            | Content::Flight { .. }
            | Content::Late { .. }
            | Content::LateLease(_) => true,
            Content::Anchor(_) => false,
        }
    }

    /// Takes a message.
    pub fn receive(&mut self, around: Around<'_>, message: &Content) -> Said {
        match message {
            Content::Share(shared) => return self.hold(shared),
            Content::Lease(lease) => {
                let effects = self.executor.lease(lease.clone());
                return self.carry_out(around, effects);
            }
            Content::Want { from, want } => {
                let effect = self.executor.want(*from, want.clone());
                return self.carry_out(around, effect);
            }
            Content::Flight { from, flight } => {
                let effect = self.executor.flight(*from, flight.clone());
                return self.carry_out(around, effect);
            }
            Content::Late { from, ask } => return self.lease_late(around, *from, ask),
            Content::LateLease(lease) => {
                let effect = self.executor.late(lease.clone());
                return self.carry_out(around, effect);
            }
            Content::Held { by, tx, last } => {
                if let Some(missing) = self.sharing.get_mut(&(tx.hash, tx.attempt, *last)) {
                    missing.remove(by);
                }
            }
            Content::Part(part) if self.listens(message) => {
                self.log(Input::Part(part.clone()))?;
            }
            Content::Credit(credit) if self.listens(message) => {
                let mut credit = *credit;
                let returned = matches!(credit.kind, CreditKind::Returned { .. });
                if returned && around.planted == Some(Planted::ReturnLost) {
                    credit.amount = U256::ZERO;
                }
                self.log(Input::Credits(credit.from, vec![credit]))?;
            }
            Content::Settle(settlement) if self.listens(message) => {
                self.log(Input::Settle(*settlement))?;
            }
            _ => {}
        }
        Ok(Vec::new())
    }

    fn hold(&mut self, shared: &SharedTx) -> Said {
        match self.ledger.owner.check_share(shared) {
            Ok(true) => {
                self.log(Input::Share(shared.clone()))?;
            }
            Ok(false) => {}
            Err(_) => return Ok(Vec::new()),
        }
        let (tx, by, last) = (shared.reference(), self.id(), shared.last_valid_round);
        Ok(vec![Message::new(shared.origin, Content::Held { by, tx, last })])
    }

    /// Handles a beacon block.
    pub fn cut(&mut self, around: Around<'_>, link: &Link) -> Said {
        let input = Input::Cut(link.block.clone(), link.semantics);
        let effects = self.log(input)?;
        let cut = link.block.number();
        let deposited = effects.deposits.iter().map(|key| (key, cut - 1));
        let written = effects.writes.iter().map(|write| (&write.key, write.epoch));
        if around.scenario.late {
            deposited.chain(written).for_each(|(key, at)| self.touched.note(key, at, None));
        }
        self.forget_ended();
        let mut said = self.open_credits();
        for plan in &effects.opened {
            if around.scenario.late
                && let Some(keys) = self.ledger.owner.keys(plan.id)
            {
                keys.all().for_each(|key| self.touched.note(key, cut, Some(plan.id)));
            }
            said.extend(self.plan(around, plan.id)?);
            said.extend(self.tell_lease(around, plan.id)?);
        }
        let ended = self.ledger.owner.settlements().into_iter();
        said.extend(ended.map(|end| Message::new(end.from, Content::Settle(end))));
        Ok(said)
    }

    /// Forgets what is of groups that have ended, and of transactions that do not wait.
    fn forget_ended(&mut self) {
        let owner = &self.ledger.owner;
        let open: HashSet<GroupId> = owner.open_groups().map(|(plan, _)| plan.id).collect();
        self.executor.keep_only(&open, owner.cut_number());
        self.ran.retain(|group, _| open.contains(group));
        self.ready.retain(|group, _| open.contains(group));
        self.lost.retain(|group| open.contains(group));
        self.sharing.retain(|(hash, attempt, _), _| {
            let tx = TxRef { hash: *hash, attempt: *attempt };
            owner.unplanned().any(|shared| shared.reference() == tx)
        });
    }

    /// What is not ended here, for a message.
    pub fn describe(&self) -> String {
        let owner = &self.ledger.owner;
        let open: Vec<_> = owner.open_groups().map(|(plan, _)| plan.id.to_string()).collect();
        let own: Vec<_> = owner.own_shared().map(|tx| toy::short(tx.tx.hash())).collect();
        format!(
            "shard {} at cut {}: groups {open:?}, transactions {own:?}, {} keys fenced, {} wei held",
            self.id(),
            owner.cut_number(),
            owner.fenced().count(),
            owner.held_credits()
        )
    }
}

#[cfg_attr(not(feature = "planted"), expect(unused_variables, reason = "it may get a bug"))]
fn executor(scenario: &Scenario, shard: ShardId) -> Executor {
    #[cfg_attr(not(feature = "planted"), expect(unused_mut, reason = "it may get a bug"))]
    let mut executor = Executor::new(shard);
    #[cfg(feature = "planted")]
    if let Some(bug) = scenario.bug {
        executor.plant(bug);
    }
    executor
}
