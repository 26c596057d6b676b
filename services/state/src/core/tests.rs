//! What a shard answers about the past, and to what is repeated or to come; in `open`, after a crash and
//! after a clean stop; in `receipts`, where those stand.

mod kept;
mod open;
mod receipts;
mod roots;

use std::{collections::BTreeMap, sync::Arc};

use alloy_consensus::{SignableTransaction, TxEnvelope, TxLegacy};
use alloy_eips::Encodable2718;
use alloy_primitives::{Signature, TxKind};
use atoll_api::state::{
    Append, Cut, Lookup, Read, ReceiveCredits, Refusal, Share, StateError, TxStatus, Withdraw,
};
use atoll_commit::OwnerConfig;
use atoll_store::{Index, Log, MemoryIndex, MemoryLog, Snapshots};
use atoll_types::{
    AbortCause, Address, B256, Basic, BeaconBlock, BlockEnv, Bytes, Credit, CreditKind, CreditsDue,
    Decision, Executed, GroupId, GroupResult, KeySet, LocalBlock, LocalTx, PANICS, Part,
    PartMessage, Placement, PlannedGroup, Receipt, ReceiptKind, Settlement, ShardId, SharedTx,
    StateKey, StateValue, Tx, TxOutcome, U256, Verdict, encode,
};

use tempfile::TempDir;

use super::{Core, CoreConfig, Done, GenesisAccount, OpenError, TreeConfig};

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);
const CHAIN: u64 = 7;

fn address(placement: &Placement, shard: ShardId, name: u64) -> Address {
    let at = |n: u64| Address::left_padding_from(&(name << 32 | n).to_be_bytes());
    (0..).map(at).find(|address| placement.owner(address) == shard).unwrap()
}

fn transaction(sender: Address, nonce: u64) -> Tx {
    let body = TxLegacy {
        chain_id: Some(CHAIN),
        nonce,
        gas_limit: 21_000,
        to: TxKind::Call(sender),
        ..TxLegacy::default()
    };
    let signature = Signature::new(U256::from(1), U256::from(1), false);
    let signed = body.into_signed(signature);
    Tx::trusted(TxEnvelope::from(signed).encoded_2718().into(), sender, None).unwrap()
}

fn receipt(tx: &Tx, kind: ReceiptKind, round: u64, block: u64) -> Receipt {
    let executed = Executed {
        status: true,
        gas_used: 21_000,
        effective_gas_price: 1,
        logs: Vec::new(),
        contract: None,
        output: Bytes::new(),
    };
    Receipt {
        tx: *tx.hash(),
        sender: tx.sender(),
        nonce: tx.nonce(),
        to: tx.to(),
        executed,
        kind,
        shards: vec![HERE],
        round,
        index: 0,
        block,
    }
}

/// A shard, its disk, and the beacon chain that it follows.
struct Stage {
    config: CoreConfig,
    log: MemoryLog,
    index: MemoryIndex,
    snapshots: Snapshots,
    /// A snapshot is taken at every so manieth cut.
    every: u64,
    /// What ran before this round is forgotten at a snapshot.
    keep: u64,
    _dir: TempDir,
    core: Core,
    head: BeaconBlock,
    alice: Address,
    bob: Address,
    zoe: Address,
    txs: Vec<B256>,
}

impl Stage {
    fn new() -> Self {
        let placement = Placement::new(2, BTreeMap::new());
        let [alice, bob] = [1, 2].map(|name| address(&placement, HERE, name));
        let zoe = address(&placement, THERE, 3);
        let env = BlockEnv {
            chain_id: CHAIN,
            number: 0,
            timestamp: 0,
            randomness: B256::ZERO,
            base_fee: 7,
            coinbase: zoe,
            gas_limit: 1,
        };
        let genesis = BeaconBlock {
            env,
            time_ms: 0,
            parent: B256::ZERO,
            epoch: 0,
            decisions: Vec::new(),
            credits: Vec::new(),
            plan: Vec::new(),
            dropped: Vec::new(),
            anchors: Vec::new(),
            settled: 0,
        };
        let account = |address| GenesisAccount {
            address,
            balance: U256::from(1_000),
            nonce: 0,
            code: Bytes::new(),
            storage: Vec::new(),
        };
        let contract = GenesisAccount {
            code: Bytes::from_static(b"code"),
            storage: vec![(U256::from(1), U256::from(9))],
            ..account(bob)
        };
        let owner = OwnerConfig { chain_id: CHAIN, shard: HERE, placement, max_shared: 100 };
        let config = CoreConfig {
            owner,
            genesis: genesis.clone(),
            accounts: Arc::new(vec![account(alice), contract, account(zoe)]),
            // So few that most reads come from the index.
            cached_values: 2,
            tree: TreeConfig::default(),
        };
        let (mut log, index) = (MemoryLog::new(), MemoryIndex::new());
        let core = Core::open(&config, &mut log, Arc::new(index.clone()), None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path()).unwrap();
        let txs = Vec::new();
        let (head, _dir) = (genesis, dir);
        Self {
            config,
            log,
            index,
            snapshots,
            every: 2,
            keep: 0,
            _dir,
            core,
            head,
            alice,
            bob,
            zoe,
            txs,
        }
    }

    /// What the journal does: the record is durable before the answer is given.
    fn done<T>(&mut self, done: Result<Done<T>, StateError>) -> T {
        let (answer, record) = done.unwrap();
        if let Some(record) = record {
            self.log.append(&encode(&record)).unwrap();
            self.log.sync().unwrap();
        }
        answer
    }

    fn reopen(&mut self) {
        let index = Arc::new(self.index.clone());
        let snapshots = Some(&self.snapshots);
        self.core = Core::open(&self.config, &mut self.log, index, snapshots).unwrap();
    }

    /// A snapshot as of now, while later entries are put; the log is cut behind the one before it.
    fn snapshot(&mut self) {
        let number = self.log.next();
        let mut captured = self.core.capture(number, self.keep);
        if let Some(entries) = self.core.values.take_entries() {
            self.core.values.putter().put_all(&entries).unwrap();
            self.core.values.entries_put();
        }
        let mut writer = self.snapshots.begin(number).unwrap();
        captured.write(&mut writer, &|| Ok(())).unwrap();
        writer.finish().unwrap();
        writer.publish().unwrap();
        self.core.values.release();
        let before = self.snapshots.prune(2, &[]).unwrap();
        self.log.cut(before.unwrap_or(0)).unwrap();
    }

    fn crash(&mut self) {
        // Some of the index got to the disk, some did not; no matter.
        if let Some(entries) = self.core.values.take_entries() {
            entries.encoded().iter().take(2).for_each(|(k, v)| self.index.put(k, v).unwrap());
        }
        self.log.append(b"torn").unwrap();
        self.log.crash();
        self.reopen();
    }

    fn stop(&mut self) {
        self.core.close(self.log.next(), 0).unwrap();
        self.reopen();
    }

    fn cut(&mut self, change: impl FnOnce(&mut BeaconBlock)) {
        let mut block = BeaconBlock { parent: self.head.hash(), ..self.head.clone() };
        block.env.number += 1;
        block.decisions.clear();
        block.plan.clear();
        block.credits.clear();
        block.anchors.clear();
        change(&mut block);
        self.head = block.clone();
        let done = self.core.cut(Cut { block });
        self.done(done);
        if self.head.number().is_multiple_of(self.every) {
            self.snapshot();
        }
    }

    fn append(&mut self, txs: Vec<(Tx, ReceiptKind)>, writes: Vec<(StateKey, StateValue)>) {
        let tip = self.core.tip();
        let number = tip.head + 1;
        let local = |(tx, kind): (Tx, ReceiptKind)| {
            let receipt = receipt(&tx, kind, tip.cut, number);
            LocalTx { tx, receipt }
        };
        let txs: Vec<LocalTx> = txs.into_iter().map(local).collect();
        self.txs.extend(txs.iter().map(|local| *local.tx.hash()));
        let paid = txs.iter().filter(|local| local.receipt.kind == ReceiptKind::Credit);
        let credits = paid.map(|local| Credit {
            from: HERE,
            to: THERE,
            seq: 0,
            account: self.zoe,
            payer: local.tx.sender(),
            amount: U256::from(5),
            kind: CreditKind::Payment { tx: *local.tx.hash() },
        });
        let block = LocalBlock {
            shard: HERE,
            number,
            parent: tip.digest,
            round: tip.cut,
            credits: credits.collect(),
            txs,
            writes,
            codes: vec![format!("code of block {number}").into_bytes().into()],
            fees: U256::from(3),
            burned: U256::from(2),
        };
        let done = self.core.append(Append { block, reads: Vec::new() });
        self.done(done);
    }

    fn share(&mut self, shared: SharedTx) -> Option<Refusal> {
        let done = self.core.share(Share { txs: vec![shared] });
        self.done(done).refused.pop().unwrap()
    }

    fn shared(&self, nonce: u64, attempt: u32) -> SharedTx {
        let writes = [StateKey::Basic(self.alice), StateKey::Basic(self.zoe), self.slot()];
        SharedTx {
            tx: transaction(self.alice, nonce),
            origin: HERE,
            attempt,
            wrong: 0,
            absences: 0,
            silences: 0,
            keys: KeySet::new([], writes),
            last_valid_round: 900,
        }
    }

    fn slot(&self) -> StateKey {
        StateKey::Slot(self.bob, 0, U256::from(1))
    }

    fn plan(&mut self, shared: &SharedTx) -> PlannedGroup {
        self.txs.push(*shared.tx.hash());
        let plan = PlannedGroup {
            id: GroupId { round: self.head.number() + 1, index: 0 },
            executor: HERE,
            owners: vec![HERE, THERE],
            txs: vec![shared.reference()],
            gas: 1,
        };
        self.cut(|block| block.plan.push(plan.clone()));
        plan
    }

    fn parts(&self, plan: &PlannedGroup, shared: &SharedTx, word: u64) -> Vec<Part> {
        let part = |owner: ShardId| Part {
            chain_id: CHAIN,
            epoch: 0,
            group: plan.id,
            executor: HERE,
            owner,
            writes: Vec::new(),
            codes: Vec::new(),
            receipts: Vec::new(),
            outcomes: Vec::new(),
            fees: U256::ZERO,
            burned: U256::ZERO,
            sources: Vec::new(),
        };
        let mut here = part(HERE);
        let lease = self.core.owner.lease(plan.id).unwrap();
        here.writes.clone_from(&lease.values);
        let slot = here.writes.iter_mut().find(|(key, _)| *key == self.slot());
        slot.unwrap().1 = StateValue::Slot(U256::from(word));
        let kind = ReceiptKind::Group(plan.id);
        here.receipts.push(receipt(&shared.tx, kind, plan.id.round, 0));
        here.outcomes.push((*shared.tx.hash(), TxOutcome::Executed));
        vec![here, part(THERE)]
    }

    fn keep(&mut self, plan: &PlannedGroup, parts: Vec<Part>) -> PartMessage {
        let result = GroupResult { group: plan.id, parts };
        let done = self.core.store_results(vec![result.clone(), result]);
        let part = self.done(done).parts.remove(0);
        let done = self.core.accept_parts(vec![part.clone(), part.clone()]);
        assert_eq!(self.done(done).refused, vec![None, None]);
        part
    }

    fn word(&mut self, at: Option<u64>) -> u64 {
        let read = Read { keys: vec![self.slot()], codes: Vec::new(), at, min_cut: 0 };
        self.core.read(&read).unwrap().values[0].slot().to()
    }

    /// Does a little of everything, and leaves a lot open.
    fn live(&mut self) {
        let basic =
            |nonce, balance: u64| StateValue::Basic(Basic { nonce, balance: U256::from(balance) });
        let (alice, bob) = (self.alice, self.bob);
        let set = |word: u64| StateValue::Slot(U256::from(word));
        self.append(
            vec![(transaction(alice, 0), ReceiptKind::Local)],
            vec![(StateKey::Basic(alice), basic(1, 995)), (self.slot(), set(10))],
        );
        self.cut(|_| {});
        self.append(
            vec![(transaction(bob, 0), ReceiptKind::Credit)],
            vec![(StateKey::Basic(bob), basic(1, 990)), (self.slot(), set(11))],
        );
        let shared = self.shared(1, 1);
        assert_eq!(self.share(shared.clone()), None);
        let plan = self.plan(&shared);
        let parts = self.parts(&plan, &shared, 12);
        let part = self.keep(&plan, parts);
        let credit = Credit {
            from: THERE,
            to: HERE,
            seq: 1,
            account: alice,
            payer: self.zoe,
            amount: U256::from(50),
            kind: CreditKind::Payment { tx: B256::repeat_byte(1) },
        };
        for _ in 0..2 {
            let done =
                self.core.receive_credits(ReceiveCredits { from: THERE, credits: vec![credit] });
            assert_eq!(self.done(done).received, 1);
        }
        self.cut(|block| {
            block.credits.push(CreditsDue { from: THERE, to: HERE, up_to: 1 });
        });
        self.cut(|block| {
            let verdict = Verdict::Commit { digest: part.digest(), late: Vec::new() };
            block.decisions.push(Decision { group: plan.id, verdict });
        });
        self.append(
            vec![(transaction(bob, 1), ReceiptKind::Local)],
            vec![(StateKey::Basic(bob), basic(2, 985)), (self.slot(), set(13))],
        );
        let settlement = Settlement { by: THERE, from: HERE, up_to: 1, returned_up_to: 1, cut: 3 };
        let done = self.core.settle(settlement);
        self.done(done);
        // One that came back and is given up, and one that stays open.
        let shared = self.shared(2, 1);
        self.share(shared.clone());
        let plan = self.plan(&shared);
        self.cut(|block| {
            let verdict = Verdict::Abort(AbortCause::Silent);
            block.decisions.push(Decision { group: plan.id, verdict });
        });
        let tx = self.shared(2, 2).reference();
        let done = self.core.withdraw(Withdraw { tx, reason: "no funds".into() });
        self.done(done);
        let shared = self.shared(3, 1);
        self.share(shared.clone());
        let plan = self.plan(&shared);
        let parts = self.parts(&plan, &shared, 14);
        self.keep(&plan, parts);
        let shared = self.shared(4, 1);
        self.share(shared);
        let done = self.core.put_codes(vec![Bytes::from_static(b"foreign")]);
        self.done(done);
    }

    /// What anybody may ask, except for the past.
    fn face(&mut self) -> String {
        let keys: Vec<StateKey> = [self.alice, self.bob]
            .iter()
            .flat_map(|a| [StateKey::Basic(*a), StateKey::Code(*a)])
            .chain([self.slot()])
            .collect();
        let codes = [&b"code"[..], b"code of block 1", b"foreign", b"unknown"];
        let codes = codes.iter().map(alloy_primitives::keccak256).collect();
        let read = Read { keys, codes, at: None, min_cut: 0 };
        let read = self.core.read(&read).unwrap();
        let statuses = self.core.lookup(&Lookup { txs: self.txs.clone() }).unwrap().statuses;
        let mut everything = self.core.sync(0, false).changes.remove(0);
        everything.number = 0;
        everything.fenced.sort_unstable();
        let anchor = self.core.owner().anchor();
        let held = (self.core.tip(), self.core.owner().held_credits(), anchor);
        format!("{read:?} {statuses:?} {everything:?} {:?} {held:?}", self.core.outbox())
    }
}

#[test]
fn a_cut_shows_what_came_before_it_in_the_serial_order() {
    let mut stage = Stage::new();
    stage.every = 1_000;
    assert_eq!(stage.word(None), 9);
    stage.live();
    // Genesis; block 1; cut 1; block 2; cut 2 with a group that commits at cut 4; block 3.
    let expected = [(0, 9), (1, 10), (2, 11), (3, 12), (4, 12), (5, 13), (6, 13)];
    for (cut, word) in expected {
        assert_eq!(stage.word(Some(cut)), word, "at cut {cut}");
    }
    let balance = |stage: &mut Stage, at| {
        let keys = vec![StateKey::Basic(stage.alice)];
        let read = Read { keys, codes: Vec::new(), at, min_cut: 0 };
        stage.core.read(&read).unwrap().values[0].basic().balance.to::<u64>()
    };
    // Due at cut 3, when the account was fenced; deposited at cut 4.
    assert_eq!(balance(&mut stage, Some(3)), 995);
    assert_eq!(balance(&mut stage, Some(4)), 1_045);
    stage.crash();
    for (cut, word) in expected {
        assert_eq!(stage.word(Some(cut)), word, "at cut {cut} after a crash");
    }
    let newest = stage.core.tip().cut;
    let read = |at| Read { keys: vec![], codes: vec![], at: Some(at), min_cut: 0 };
    let ahead = StateError::CutAhead { asked: newest + 1, newest };
    assert_eq!(stage.core.read(&read(newest + 1)).unwrap_err(), ahead);
    // A clean stop forgets the past, and says so.
    stage.stop();
    let old = StateError::CutTooOld { asked: newest, oldest: newest + 1 };
    assert_eq!(stage.core.read(&read(newest)).unwrap_err(), old);
    let shown = stage.word(None);
    stage.cut(|_| {});
    assert_eq!(stage.word(Some(newest + 1)), shown);
    for _ in 0..300 {
        stage.cut(|_| {});
    }
    let newest = stage.core.tip().cut;
    assert!(stage.core.read(&read(newest - 256)).is_ok());
    assert!(matches!(stage.core.read(&read(newest - 257)), Err(StateError::CutTooOld { .. })));
}

#[test]
fn a_transaction_that_panics_is_put_away_for_good() {
    let mut stage = Stage::new();
    let [local, grouped] = [B256::repeat_byte(0xbb), *stage.shared(0, 1).tx.hash()];
    let done = stage.core.quarantine(vec![local]);
    stage.done(done);
    let next = stage.log.next();
    let done = stage.core.quarantine(vec![local]);
    stage.done(done);
    assert_eq!(stage.log.next(), next, "it is logged once");
    // One that has made another shard's executor panic, as its part says.
    let shared = stage.shared(0, 1);
    stage.share(shared.clone());
    let plan = stage.plan(&shared);
    let mut parts = stage.parts(&plan, &shared, 9);
    for part in &mut parts {
        part.receipts.clear();
        for (_, outcome) in &mut part.outcomes {
            *outcome = TxOutcome::Invalid { reason: PANICS.to_owned() };
        }
    }
    let part = stage.keep(&plan, parts);
    stage.cut(|block| {
        let verdict = Verdict::Commit { digest: part.digest(), late: Vec::new() };
        block.decisions.push(Decision { group: plan.id, verdict });
    });
    for round in 0..4 {
        let statuses = stage.core.lookup(&Lookup { txs: vec![local, grouped] }).unwrap().statuses;
        let dropped = Some(TxStatus::Dropped { reason: PANICS.to_owned() });
        assert_eq!(statuses, [dropped.clone(), dropped], "{round}");
        let everything = stage.core.sync(0, false).changes.remove(0);
        assert_eq!(everything.quarantined, [local, grouped], "{round}");
        if round % 2 == 0 { stage.crash() } else { stage.stop() }
    }
}

#[test]
fn a_settlement_of_a_cut_to_come_waits_for_it() {
    let mut stage = Stage::new();
    stage.live();
    let bob = stage.bob;
    let after = StateValue::Basic(Basic { nonce: 3, balance: U256::from(975) });
    let writes = vec![(StateKey::Basic(bob), after)];
    stage.append(vec![(transaction(bob, 2), ReceiptKind::Credit)], writes);
    let tx = *stage.txs.last().unwrap();
    let cut = stage.core.tip().cut + 2;
    let settlement = Settlement { by: THERE, from: HERE, up_to: 50, returned_up_to: 1, cut };
    for _ in 0..2 {
        let done = stage.core.settle(settlement);
        stage.done(done);
        assert!(stage.core.take_early().is_empty());
        assert!(stage.core.owner().is_pending(&tx));
        stage.cut(|_| {});
    }
    let early = stage.core.take_early();
    assert_eq!(early, [settlement]);
    let done = stage.core.settle(early[0]);
    stage.done(done);
    assert!(!stage.core.owner().is_pending(&tx));
}

#[test]
fn repeated_messages_change_nothing() {
    let mut stage = Stage::new();
    stage.live();
    let (face, next) = (stage.face(), stage.log.next());
    let ended = stage.shared(1, 1);
    let tx = *ended.tx.hash();
    let refused = Some(Refusal::OldAttempt { tx, attempt: 1 });
    assert_eq!(stage.share(ended), refused, "it has its receipt");
    assert_eq!(stage.share(stage.shared(4, 1)), None);
    let block = stage.head.clone();
    let done = stage.core.cut(Cut { block });
    stage.done(done);
    let done = stage.core.put_codes(vec![Bytes::from_static(b"foreign")]);
    stage.done(done);
    let tx = stage.shared(2, 2).reference();
    let done = stage.core.withdraw(Withdraw { tx, reason: "again".into() });
    stage.done(done);
    assert_eq!((stage.face(), stage.log.next()), (face, next));
    // Two attempts of one transaction in one message, in either order: the one that is held has to end
    // before there is another.
    for (first, second, count) in [(1, 2, 1), (4, 3, 2)] {
        let txs = vec![stage.shared(7, first), stage.shared(7, second)];
        let done = stage.core.share(Share { txs });
        let refused = stage.done(done).refused;
        assert_eq!(refused.iter().flatten().count(), count);
        let held = stage.core.owner().own_shared().find(|shared| shared.tx.nonce() == 7);
        assert_eq!(held.unwrap().attempt, 1);
    }
    stage.crash();
}
