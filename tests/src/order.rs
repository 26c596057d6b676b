//! The serial order that the protocol page defines, as steps that follow from what was recorded.
//!
//! For each round: what leaves and reaches accounts at the cuts of that number (fees, credits), the
//! groups of the round in the beacon's order, then each shard's blocks up to its next cut.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use alloy_primitives::{B256, U256};
use anyhow::{Context as _, ensure};
use atoll_state::Record;
use atoll_types::{
    BeaconBlock, BlockEnv, Credit, CreditKind, GroupId, GroupResult, LocalBlock, PlannedGroup,
    ReceiptKind, ShardId, SharedTx, StateKey, TxOutcome, TxRef, Verdict,
};
use atoll_wire::v1::{TransactionFinality, TransactionKind, TransactionReceipt};

use crate::history::History;

/// One step of the serial order.
#[derive(Clone, Debug)]
pub enum Step {
    /// A transaction runs. If its priority fee is `shown`, the coinbase has it at once.
    Run { tx: B256, env: BlockEnv, place: Place, shown: bool },
    /// What of the fees shown in a block nobody has looked at, in wei, leaves the coinbase again,
    /// to reach it with its shard's fees.
    Gather { fees: U256 },
    /// The fees of these transactions leave their shard for the coinbase, and what was gathered.
    Fees { shard: ShardId, cut: u64, txs: Vec<B256>, gathered: U256 },
    /// A credit reaches its account.
    Deposit { cut: u64, credit: Arrival },
}

/// Where a transaction ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Local,
    /// The payer's side of a payment to another shard.
    Debit,
    /// With the number of wrong predictions before.
    Group {
        wrong: u32,
    },
}

/// A credit at its receiver.
#[derive(Clone, Copy, Debug)]
pub enum Arrival {
    Sent(Credit),
    /// The fees of the coinbase's own shard, gathered at this cut.
    OwnFees {
        shard: ShardId,
        cut: u64,
    },
}

/// How often the things happened that make the test worth something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub local: usize,
    pub credits: usize,
    pub groups: usize,
    /// Transactions in groups of more than one.
    pub together: usize,
    pub aborts: usize,
    pub wrong: usize,
    pub behind: usize,
    pub invalid: usize,
    pub dropped: usize,
    /// Credits that had to wait for a fence.
    pub delayed: usize,
    /// Groups that use the coinbase's balance.
    pub shown: usize,
    /// Groups that took values in flight.
    pub in_flight: usize,
    /// Groups that were leased keys late, to be written.
    pub late: usize,
    /// Credits that reached their accounts with a group.
    pub travelled: usize,
}

/// The steps, and what was counted on the way. An error names a contradiction in the records.
pub fn serial_order(history: &History) -> anyhow::Result<(Vec<Step>, Counts)> {
    let mut order = Order {
        history,
        committed: HashMap::new(),
        outcomes: HashMap::new(),
        bodies: HashMap::new(),
        granted: HashMap::new(),
        returned: HashSet::new(),
        travelled: HashMap::new(),
        wrong: HashMap::new(),
        seen: HashSet::new(),
        counts: Counts::default(),
    };
    order.read_decisions()?;
    let mut shards = Vec::new();
    for (records, shard) in history.shards.iter().zip(0..) {
        let timeline = order.timeline(ShardId(shard), records);
        shards.push(timeline.with_context(|| format!("shard {shard}"))?);
    }
    let mut steps = Vec::new();
    for block in &history.beacon {
        for timeline in &mut shards {
            steps.extend(timeline.cuts.remove(&block.number()).unwrap_or_default());
        }
        for group in &block.plan {
            order.group(block, group, &mut steps).with_context(|| format!("group {}", group.id))?;
        }
        for timeline in &shards {
            for local in timeline.blocks.iter().filter(|local| local.round == block.number()) {
                let at = || format!("block {} of shard {}", local.number, local.shard);
                order.block(block, local, &mut steps).with_context(at)?;
            }
        }
    }
    order.everything_has_its_place()?;
    Ok((steps, order.counts))
}

/// What one shard did, by round.
struct Timeline<'a> {
    /// Steps at each cut.
    cuts: BTreeMap<u64, Vec<Step>>,
    blocks: Vec<&'a LocalBlock>,
}

struct Order<'a> {
    history: &'a History,
    /// For each decided group, the block that decided it and whether it committed.
    committed: HashMap<GroupId, (u64, bool)>,
    outcomes: HashMap<GroupId, HashMap<B256, &'a TxOutcome>>,
    bodies: HashMap<TxRef, &'a SharedTx>,
    /// Keys leased late to be written.
    granted: HashMap<GroupId, HashSet<StateKey>>,
    /// Payments that came back.
    returned: HashSet<B256>,
    /// Credits that reach their accounts with a group.
    travelled: HashMap<GroupId, Vec<Arrival>>,
    /// Wrong predictions that committed, up to now in the order.
    wrong: HashMap<B256, u32>,
    seen: HashSet<B256>,
    counts: Counts,
}

impl<'a> Order<'a> {
    fn read_decisions(&mut self) -> anyhow::Result<()> {
        for block in &self.history.beacon {
            for decision in &block.decisions {
                let commit = matches!(decision.verdict, Verdict::Commit { .. });
                self.counts.aborts += usize::from(!commit);
                let before = self.committed.insert(decision.group, (block.number(), commit));
                ensure!(before.is_none(), "group {} was decided twice", decision.group);
            }
        }
        for record in self.history.shards.iter().flatten() {
            match record {
                Record::Share(txs) => {
                    self.bodies.extend(txs.iter().map(|tx| (tx.reference(), tx)));
                }
                Record::Grants(grants) => {
                    self.counts.late += grants.len();
                    for (group, values) in grants {
                        let keys = values.iter().map(|(key, _)| *key);
                        self.granted.entry(*group).or_default().extend(keys);
                    }
                }
                Record::Credits { credits, .. } => {
                    let returned = credits.iter().filter_map(|credit| match credit.kind {
                        CreditKind::Returned { tx } => Some(tx),
                        _ => None,
                    });
                    self.returned.extend(returned);
                }
                _ => {}
            }
            let Record::Results(results) = record else { continue };
            for GroupResult { group, parts } in results {
                let in_flight = parts.iter().any(|part| !part.sources.is_empty());
                self.counts.in_flight += usize::from(in_flight);
                let outcomes = parts.iter().flat_map(|part| &part.outcomes);
                let outcomes = outcomes.map(|(tx, outcome)| (*tx, outcome)).collect();
                let before = self.outcomes.insert(*group, outcomes);
                ensure!(before.is_none(), "group {group} has two results");
            }
        }
        Ok(())
    }

    /// The transactions of a group that took effect, in their order.
    fn executed(&self, group: &'a PlannedGroup) -> impl Iterator<Item = B256> {
        let outcomes = self.outcomes.get(&group.id);
        let executed = move |tx: &B256| {
            let outcome = outcomes.and_then(|outcomes| outcomes.get(tx));
            matches!(outcome, Some(TxOutcome::Executed))
        };
        group.txs.iter().map(|tx| tx.hash).filter(executed)
    }

    fn group(
        &mut self,
        block: &BeaconBlock,
        group: &'a PlannedGroup,
        steps: &mut Vec<Step>,
    ) -> anyhow::Result<()> {
        let (_, commit) = *self.committed.get(&group.id).context("it is not decided")?;
        if !commit {
            return Ok(());
        }
        self.counts.groups += 1;
        for credit in self.travelled.remove(&group.id).unwrap_or_default() {
            self.counts.travelled += 1;
            steps.push(Step::Deposit { cut: group.id.round, credit });
        }
        let outcomes = self.outcomes.get(&group.id).context("it committed without a result")?;
        let mut executed = Vec::new();
        for (TxRef { hash, .. }, index) in group.txs.iter().zip(0..) {
            match outcomes.get(hash).with_context(|| format!("no outcome of {hash}"))? {
                TxOutcome::Executed => executed.push((*hash, index)),
                TxOutcome::Wrong { .. } => {
                    self.counts.wrong += 1;
                    *self.wrong.entry(*hash).or_default() += 1;
                }
                TxOutcome::Behind => self.counts.behind += 1,
                TxOutcome::Invalid { .. } => self.counts.invalid += 1,
            }
        }
        if group.txs.len() > 1 {
            self.counts.together += executed.len();
        }
        let coinbase = StateKey::Basic(block.env.coinbase);
        let shared = group.txs.iter().filter_map(|tx| self.bodies.get(tx));
        let granted = self.granted.get(&group.id).is_some_and(|keys| keys.contains(&coinbase));
        let shown = granted || shared.into_iter().any(|tx| tx.keys.writes.contains(&coinbase));
        self.counts.shown += usize::from(shown);
        for (hash, index) in executed {
            let receipt = self.take(hash)?;
            let place = (receipt.kind(), receipt.round, receipt.group_index, receipt.index);
            let expected = (TransactionKind::Group, group.id.round, Some(group.id.index), index);
            ensure!(place == expected, "{hash} says {place:?}, it is in {expected:?}");
            let wrong = self.wrong.get(&hash).copied().unwrap_or(0);
            let place = Place::Group { wrong };
            steps.push(Step::Run { tx: hash, env: block.env, place, shown });
        }
        Ok(())
    }

    fn block(
        &mut self,
        block: &BeaconBlock,
        local: &LocalBlock,
        steps: &mut Vec<Step>,
    ) -> anyhow::Result<()> {
        let shown = self.history.owner(&block.env.coinbase) == local.shard;
        for (tx, index) in local.txs.iter().zip(0..) {
            let hash = *tx.tx.hash();
            let (kind, place) = match tx.receipt.kind {
                ReceiptKind::Local => (TransactionKind::Local, Place::Local),
                ReceiptKind::Credit => (TransactionKind::Credit, Place::Debit),
                ReceiptKind::Group(group) => anyhow::bail!("{hash} is of group {group}"),
            };
            self.counts.local += usize::from(place == Place::Local);
            self.counts.credits += usize::from(place == Place::Debit);
            let receipt = self.take(hash)?;
            let said = (receipt.kind(), receipt.round, receipt.block, receipt.index);
            let expected = (kind, local.round, local.number, index);
            ensure!(said == expected, "{hash} says {said:?}, it is in {expected:?}");
            steps.push(Step::Run { tx: hash, env: block.env, place, shown });
        }
        if shown {
            steps.push(Step::Gather { fees: local.fees });
        }
        Ok(())
    }

    /// The receipt of a transaction that has taken its place.
    fn take(&mut self, hash: B256) -> anyhow::Result<&'a TransactionReceipt> {
        ensure!(self.seen.insert(hash), "{hash} took effect twice");
        let ended = self.history.txs.get(&hash).with_context(|| format!("{hash}: nobody sent"))?;
        let finality = ended.receipt.finality();
        ensure!(finality == TransactionFinality::Final, "{hash} took effect and is {finality:?}");
        Ok(&ended.receipt)
    }

    fn everything_has_its_place(&mut self) -> anyhow::Result<()> {
        for (hash, tx) in &self.history.txs {
            match tx.receipt.finality() {
                TransactionFinality::Final => {
                    ensure!(self.seen.contains(hash), "{hash} is final and took no effect");
                }
                TransactionFinality::Dropped => self.counts.dropped += 1,
                other => anyhow::bail!("{hash} is only {other:?}"),
            }
        }
        Ok(())
    }

    fn timeline(&mut self, shard: ShardId, records: &'a [Record]) -> anyhow::Result<Timeline<'a>> {
        let mut owner = Owner::new(self.history, shard, &self.returned);
        let mut timeline = Timeline { cuts: BTreeMap::new(), blocks: Vec::new() };
        let mut cut = 0;
        for record in records {
            match record {
                Record::Block(block) => {
                    let here = (block.shard, block.round, block.number);
                    let next = (shard, cut, timeline.blocks.len() as u64 + 1);
                    ensure!(here == next, "block {here:?} instead of {next:?}");
                    owner.fees.extend(block.txs.iter().map(|tx| *tx.tx.hash()));
                    owner.gathered += block.fees;
                    timeline.blocks.push(block);
                }
                Record::Share(txs) => {
                    for tx in txs {
                        owner.shared.insert(tx.reference(), tx);
                    }
                }
                Record::Credits { from, credits } => owner.hold(*from, credits)?,
                Record::Grants(grants) => {
                    for (group, values) in grants {
                        values.iter().for_each(|(key, _)| owner.fence(*key, *group));
                    }
                }
                Record::Cut(block) => {
                    cut += 1;
                    let number = usize::try_from(cut)?;
                    let same = self.history.beacon.get(number) == Some(block);
                    ensure!(same, "cut {cut} is not of the beacon's block {cut}");
                    let groups = block.decisions.iter().map(|decision| decision.group);
                    let fees = groups.flat_map(|group| self.fees_of(group, shard));
                    owner.fees.extend(fees.collect::<Vec<_>>());
                    timeline.cuts.insert(cut, owner.cut(block));
                }
                _ => {}
            }
        }
        self.counts.delayed += owner.delayed;
        let left = owner.left();
        let travelled = owner.travelled;
        ensure!(left.is_empty(), "credits that never reached their accounts: {left:?}");
        for (group, credits) in travelled {
            self.travelled.entry(group).or_default().extend(credits);
        }
        Ok(timeline)
    }

    /// Transactions of a committed group whose senders belong to a shard.
    fn fees_of(&self, id: GroupId, shard: ShardId) -> Vec<B256> {
        let commit = self.committed.get(&id).is_some_and(|(_, commit)| *commit);
        let block = self.history.beacon.get(id.round as usize).filter(|_| commit);
        let group = block.and_then(|block| block.plan.iter().find(|group| group.id == id));
        let home = |tx: &B256| {
            self.history.txs.get(tx).is_some_and(|tx| self.history.owner(&tx.sender) == shard)
        };
        group.into_iter().flat_map(|group| self.executed(group)).filter(home).collect()
    }
}

/// As much of a shard as decides when credits reach their accounts.
struct Owner<'a> {
    history: &'a History,
    shard: ShardId,
    /// Local transactions and committed ones, whose fees have not left yet.
    fees: Vec<B256>,
    /// Fees of local blocks in wei.
    gathered: U256,
    shared: HashMap<TxRef, &'a SharedTx>,
    fences: HashMap<StateKey, Vec<GroupId>>,
    held: BTreeMap<ShardId, (u64, VecDeque<Credit>)>,
    undelivered: Vec<Arrival>,
    /// Credits that travel with a lease, or have.
    travelled: HashMap<GroupId, Vec<Arrival>>,
    returned: HashSet<B256>,
    delayed: usize,
}

impl<'a> Owner<'a> {
    fn new(history: &'a History, shard: ShardId, returned: &HashSet<B256>) -> Self {
        Self {
            history,
            shard,
            fees: Vec::new(),
            gathered: U256::ZERO,
            shared: HashMap::new(),
            fences: HashMap::new(),
            held: BTreeMap::new(),
            undelivered: Vec::new(),
            travelled: HashMap::new(),
            returned: returned.clone(),
            delayed: 0,
        }
    }

    fn hold(&mut self, from: ShardId, credits: &[Credit]) -> anyhow::Result<()> {
        let (newest, held) = self.held.entry(from).or_default();
        for credit in credits {
            ensure!(credit.seq == *newest + 1, "credit {credit:?} does not follow {newest}");
            *newest = credit.seq;
            held.push_back(*credit);
        }
        Ok(())
    }

    fn cut(&mut self, block: &BeaconBlock) -> Vec<Step> {
        let (cut, shard) = (block.number(), self.shard);
        let mut steps = Vec::new();
        for decision in &block.decisions {
            self.fences.retain(|_, groups| {
                groups.retain(|group| *group != decision.group);
                !groups.is_empty()
            });
            if matches!(decision.verdict, Verdict::Abort(_)) {
                let waits = self.travelled.remove(&decision.group).unwrap_or_default();
                self.undelivered.extend(waits);
            }
        }
        let mut due = std::mem::take(&mut self.undelivered);
        let old = due.len();
        for credits in block.credits.iter().filter(|credits| credits.to == shard) {
            let (_, held) = self.held.entry(credits.from).or_default();
            while let Some(credit) = held.pop_front_if(|held| held.seq <= credits.up_to) {
                due.push(Arrival::Sent(credit));
            }
        }
        if !self.fees.is_empty() {
            let txs = std::mem::take(&mut self.fees);
            let home = self.history.owner(&block.env.coinbase) == shard;
            let gathered = std::mem::take(&mut self.gathered);
            let gathered = if home { gathered } else { U256::ZERO };
            steps.push(Step::Fees { shard, cut, txs, gathered });
            if home {
                due.push(Arrival::OwnFees { shard, cut });
            }
        }
        for (credit, index) in due.into_iter().zip(0..) {
            let [basic, code] = self.keys(&credit, block);
            let payment = credit.payment();
            let code_may_change = payment.is_some() && self.fences.contains_key(&code);
            // What turns out to be for a contract goes back as soon as that is certain.
            let goes_back = payment.is_some_and(|tx| self.returned.contains(&tx));
            let free = goes_back || !self.fences.contains_key(&basic);
            if free && !code_may_change {
                steps.push(Step::Deposit { cut, credit });
            } else {
                self.delayed += usize::from(index >= old);
                self.undelivered.push(credit);
            }
        }
        for group in &block.plan {
            let txs = group.txs.iter().filter_map(|tx| self.shared.get(tx));
            let writes = txs.flat_map(|tx| &tx.keys.writes);
            let own = writes.filter(|key| self.history.placement.owner_of(key) == shard);
            let own: HashSet<StateKey> = own.copied().collect();
            self.send_along(block, group.id, &own);
            own.into_iter().for_each(|key| self.fence(key, group.id));
        }
        steps
    }

    fn fence(&mut self, key: StateKey, group: GroupId) {
        self.fences.entry(key).or_default().push(group);
    }

    fn keys(&self, credit: &Arrival, block: &BeaconBlock) -> [StateKey; 2] {
        let account = match credit {
            Arrival::Sent(credit) => credit.account,
            Arrival::OwnFees { .. } => block.env.coinbase,
        };
        [StateKey::Basic(account), StateKey::Code(account)]
    }

    /// Credits to accounts in flight that a group writes travel with its lease.
    fn send_along(&mut self, block: &BeaconBlock, group: GroupId, writes: &HashSet<StateKey>) {
        let mut waiting = std::mem::take(&mut self.undelivered);
        let travels = |credit: &mut Arrival| {
            let [basic, code] = self.keys(credit, block);
            let code_may_change = credit.payment().is_some() && self.fences.contains_key(&code);
            writes.contains(&basic) && self.fences.contains_key(&basic) && !code_may_change
        };
        let travelling: Vec<Arrival> = waiting.extract_if(.., travels).collect();
        self.undelivered = waiting;
        if !travelling.is_empty() {
            self.travelled.insert(group, travelling);
        }
    }

    fn left(&self) -> Vec<Arrival> {
        let held = self.held.values().flat_map(|(_, held)| held);
        held.map(|credit| Arrival::Sent(*credit)).chain(self.undelivered.iter().copied()).collect()
    }
}

impl Arrival {
    /// The transaction whose payment it is.
    fn payment(&self) -> Option<B256> {
        match self {
            Self::Sent(Credit { kind: CreditKind::Payment { tx }, .. }) => Some(*tx),
            _ => None,
        }
    }

    /// The transaction whose payment it is, or that it returns.
    pub fn tx(&self) -> Option<B256> {
        match self {
            Self::Sent(Credit {
                kind: CreditKind::Payment { tx } | CreditKind::Returned { tx },
                ..
            }) => Some(*tx),
            _ => None,
        }
    }
}
