use atoll_api::state::{
    AcceptParts, Append, Cut, Feed, LeaseLate, Lookup, Outbox, Prove, ProvenCell, PutCodes, Read,
    Recall, ReceiveCredits, Settle, Share, StateClient, StateError, StoreResults, Sync, TxStatus,
    Watch, Withdraw,
};
use atoll_fabric::Fault;
use atoll_proof::{Proof, verify};
use atoll_tests::{CHAIN_ID, wallet::Plan};
use atoll_types::{
    Anchor, Anchored, B256, BeaconBlock, Bytes, Credit, CreditKind, CreditsDue, Decision, Executed,
    GroupId, GroupResult, KeySet, LateAsk, LocalBlock, LocalTx, Part, PartMessage, PlannedGroup,
    Receipt, ReceiptKind, Refusal, Settlement, SharedTx, StateKey, StateValue, TxOutcome, TxRef,
    U256, Verdict,
};

use crate::setup::{HERE, Heard, OTHER, Standing, World, after, shared, sign, too_late, values};

const GROUP: GroupId = GroupId { round: 1, index: 0 };
const NOWHERE: GroupId = GroupId { round: 9, index: 9 };

struct Suite<'a> {
    world: &'a World,
    state: StateClient,
    heard: Heard,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_answers_alike_wherever_it_stands() {
    let here = suite(Standing::InProcess).await;
    here.must_be(&suite(Standing::BehindGrpc).await);
}

async fn suite(standing: Standing) -> Heard {
    let world = World::new();
    let service = world.state();
    let here = StateClient::new(service.clone());
    let add = |routes: &mut tonic::service::RoutesBuilder, client, max| {
        routes.add_service(atoll_state::grpc::server(client, max));
    };
    let state = standing.client(&here, StateClient::new, add).await;
    let mut suite = Suite { world: &world, state, heard: Heard::default() };
    suite.reads().await;
    suite.blocks().await;
    suite.cuts_that_do_not_fit().await;
    suite.shares().await;
    let first = suite.a_group_opens().await;
    suite.fenced_and_pinned().await;
    suite.late().await;
    let message = suite.results().await;
    suite.parts(&message).await;
    let second = suite.a_group_ends(&first, &message).await;
    suite.credits().await;
    suite.what_followers_ask().await;
    let newest = suite.long_gone_cuts(second).await;
    suite.proofs(&newest).await;
    let late = suite.heard.ask_by(too_late(), &suite.state.outbox, Outbox).await;
    assert_eq!(late.unwrap_err(), StateError::Fault(Fault::DeadlineExceeded));
    service.stop().await;
    let stopped = suite.heard.ask(&suite.state.outbox, Outbox).await.unwrap_err();
    assert_eq!(stopped, StateError::Fault(Fault::Stopped { service: "state".into() }));
    suite.heard
}

fn read(keys: Vec<StateKey>, at: Option<u64>) -> Read {
    Read { keys, codes: vec![B256::repeat_byte(1)], at, min_cut: 0 }
}

/// The next block after the first one, with nothing in it.
fn empty(number: u64, parent: B256, round: u64) -> LocalBlock {
    LocalBlock {
        shard: HERE,
        number,
        parent,
        round,
        txs: vec![],
        writes: vec![],
        codes: vec![],
        credits: vec![],
        fees: U256::ZERO,
        burned: U256::ZERO,
    }
}

impl Suite<'_> {
    async fn reads(&mut self) {
        let alice = self.world.alice.address();
        let slot = StateKey::Slot(alice, 0, U256::ONE);
        let keys = vec![StateKey::Basic(alice), StateKey::Code(alice), slot];
        let reply = self.heard.ask(&self.state.read, read(keys, None)).await.unwrap();
        assert_eq!(reply.values[..2], values(&[alice]).iter().map(|w| w.1).collect::<Vec<_>>());
        assert_eq!((&reply.codes[..], reply.cut, reply.head), (&[None][..], 0, 0));
        let ahead = self.heard.ask(&self.state.read, read(vec![slot], Some(5))).await;
        assert_eq!(ahead.unwrap_err(), StateError::CutAhead { asked: 5, newest: 0 });
    }

    async fn tip(&mut self) -> (u64, u64, B256) {
        let ask = Sync { after: 0, wait_ms: 0, full: false };
        let tip = self.heard.ask(&self.state.sync, ask).await.unwrap().tip;
        (tip.head, tip.cut, tip.digest)
    }

    async fn blocks(&mut self) {
        let (_, _, digest) = self.tip().await;
        let good = || empty(1, digest, 0);
        let not_next = [
            LocalBlock { number: 2, ..good() },
            LocalBlock { round: 1, ..good() },
            LocalBlock { parent: B256::ZERO, ..good() },
        ];
        for block in not_next {
            let refused = self.heard.ask(&self.state.append, Append { block, reads: vec![] }).await;
            assert!(matches!(refused, Err(StateError::NotHead { head: 0, .. })), "{refused:?}");
        }
        let [alice, bob] = [&self.world.alice, &self.world.bob].map(|wallet| wallet.address());
        let block = LocalBlock { writes: values(&[bob]), ..good() };
        let refused =
            self.heard.ask(&self.state.append, Append { block, reads: vec![] }).await.unwrap_err();
        let rule = Refusal::NotOwner { owner: OTHER, here: HERE };
        assert_eq!(refused, StateError::Refused(rule));
        let mut minted = values(&[alice]);
        minted[0].1 = StateValue::Basic(Default::default());
        let block = LocalBlock { writes: minted, ..good() };
        let refused = self.heard.ask(&self.state.append, Append { block, reads: vec![] }).await;
        assert!(
            matches!(&refused, Err(StateError::Refused(Refusal::Malformed { what }))
                if what.contains("conservation")),
            "{refused:?}"
        );
        let taken = self
            .heard
            .ask(&self.state.append, Append { block: good(), reads: vec![] })
            .await
            .unwrap();
        assert_eq!((taken.head, taken.cut), (1, 0));
        let again =
            self.heard.ask(&self.state.append, Append { block: good(), reads: vec![] }).await;
        assert!(matches!(again, Err(StateError::NotHead { number: 1, head: 1, .. })), "{again:?}");
    }

    async fn cut(&mut self, block: BeaconBlock) -> Result<atoll_api::state::CutReply, StateError> {
        self.heard.ask(&self.state.cut, Cut { block }).await
    }

    async fn cuts_that_do_not_fit(&mut self) {
        let next = after(&self.world.genesis.block);
        let gap = self.cut(after(&next)).await.unwrap_err();
        assert_eq!(gap, StateError::CutGap { found: 2, newest: 0 });
        let fork = BeaconBlock { parent: B256::ZERO, ..next.clone() };
        let fork = self.cut(fork).await.unwrap_err();
        assert_eq!(fork, StateError::OtherBeaconChain { number: 1 });
        let due = CreditsDue { from: OTHER, to: HERE, up_to: 1 };
        let credits = BeaconBlock { credits: vec![due], ..next };
        let not_held = self.cut(credits).await.unwrap_err();
        let what = "credits of shard 1 up to 1".to_owned();
        assert_eq!(not_held, StateError::NotHeld { number: 1, what });
    }

    fn payment(&self) -> SharedTx {
        shared(&self.world.alice, &self.world.bob, HERE)
    }

    async fn share(&mut self, txs: Vec<SharedTx>) -> Vec<Option<Refusal>> {
        self.heard.ask(&self.state.share, Share { txs }).await.unwrap().refused
    }

    async fn shares(&mut self) {
        let good = self.payment();
        let tx = *good.tx.hash();
        let [bob, carol] = [&self.world.bob, &self.world.carol];
        let elsewhere = SharedTx {
            keys: atoll_types::KeySet::new([], [StateKey::Basic(bob.address())]),
            ..shared(bob, carol, OTHER)
        };
        let txs = vec![
            SharedTx { origin: OTHER, ..good.clone() },
            SharedTx { last_valid_round: 0, ..good.clone() },
            elsewhere,
            good.clone(),
            good.clone(),
        ];
        let refused = self.share(txs).await;
        let expected = [
            Some(Refusal::NotOwner { owner: HERE, here: OTHER }),
            Some(Refusal::Expired { last: 0, cut: 0 }),
            Some(Refusal::NotOwner { owner: OTHER, here: HERE }),
            None,
            None,
        ];
        assert_eq!(refused, expected);
        let other = SharedTx { last_valid_round: 999, ..good };
        let old = Refusal::OldAttempt { tx, attempt: 1 };
        assert_eq!(self.share(vec![other]).await, [Some(old)]);
        let more = [shared(bob, carol, OTHER), shared(carol, bob, HERE)];
        let full = Refusal::TooManyShared { limit: 2 };
        let first = self.share(more[..1].to_vec()).await;
        assert_eq!(first, [None]);
        assert_eq!(self.share(more[1..].to_vec()).await, [Some(full)]);
        let status = self.heard.ask(&self.state.lookup, Lookup { txs: vec![tx, B256::ZERO] }).await;
        assert_eq!(status.unwrap().statuses, [Some(TxStatus::Pending), None]);
    }

    async fn a_group_opens(&mut self) -> BeaconBlock {
        let group = PlannedGroup {
            id: GROUP,
            executor: HERE,
            owners: vec![HERE, OTHER],
            txs: vec![self.payment().reference()],
            gas: 100_000,
        };
        let mut block = after(&self.world.genesis.block);
        block.plan.push(group);
        let reply = self.cut(block.clone()).await.unwrap();
        assert_eq!((reply.cut, reply.run.len(), reply.leases.len()), (1, 1, 1));
        let again = self.cut(block.clone()).await.unwrap();
        assert_eq!((again.cut, again.run.len(), again.leases.len()), (1, 1, 1));
        let recall = Recall { leases: vec![GROUP, NOWHERE], results: vec![GROUP], owner: OTHER };
        let recalled = self.heard.ask(&self.state.recall, recall).await.unwrap();
        assert_eq!((recalled.leases.len(), recalled.parts.len()), (1, 0));
        block
    }

    async fn fenced_and_pinned(&mut self) {
        let (_, _, digest) = self.tip().await;
        let alice = self.world.alice.address();
        let key = StateKey::Basic(alice);
        let writes = values(&[alice]);
        let block = LocalBlock { writes: writes[..1].to_vec(), ..empty(2, digest, 1) };
        let fenced =
            self.heard.ask(&self.state.append, Append { block, reads: vec![] }).await.unwrap_err();
        assert_eq!(fenced, StateError::Fenced { key });
        let tx = sign(&self.world.alice, 0, &Plan::pay(self.world.carol.address(), 1));
        let local = LocalTx { receipt: receipt(&tx), tx: tx.clone() };
        let block = LocalBlock { txs: vec![local], ..empty(2, digest, 1) };
        let pinned =
            self.heard.ask(&self.state.append, Append { block, reads: vec![] }).await.unwrap_err();
        assert_eq!(pinned, StateError::Pinned { tx: *tx.hash() });
    }

    /// What a run of the group could give: its transaction cannot run.
    fn result(&self) -> GroupResult {
        let part = |owner| Part {
            chain_id: CHAIN_ID,
            epoch: 0,
            group: GROUP,
            executor: HERE,
            owner,
            writes: vec![],
            codes: vec![],
            receipts: vec![],
            outcomes: vec![],
            fees: U256::ZERO,
            burned: U256::ZERO,
            sources: vec![],
        };
        let mut parts = vec![part(HERE), part(OTHER)];
        let sender = self.world.alice.address();
        let fenced =
            values(&[sender]).into_iter().filter(|(key, _)| *key == StateKey::Basic(sender));
        parts[0].writes.extend(fenced);
        let end = TxOutcome::Invalid { reason: "on purpose".into() };
        parts[0].outcomes.push((*self.payment().tx.hash(), end));
        GroupResult { group: GROUP, parts }
    }

    async fn late(&mut self) {
        let key = StateKey::Slot(self.world.alice.address(), 0, U256::from(1));
        let ask = |keys| LateAsk { group: GROUP, keys };
        let write = || ask(KeySet::new([], [key]));
        let nowhere = LateAsk { group: NOWHERE, ..write() };
        let late = LeaseLate { from: HERE, asks: vec![write(), nowhere] };
        let reply = self.heard.ask(&self.state.lease_late, late).await.unwrap();
        assert_eq!(reply.leases[0].writes, vec![(key, key.absent())]);
        assert_eq!(reply.leases[1].refused, vec![key]);
        assert_eq!(reply.refused, vec![Refusal::GroupNotOpen { group: NOWHERE }]);
        // It is fenced from now on. To ask again changes nothing; to ask for another's group does not help.
        let late = LeaseLate { from: HERE, asks: vec![write()] };
        let again = self.heard.ask(&self.state.lease_late, late).await.unwrap();
        assert_eq!(again.leases[0], reply.leases[0]);
        let late = LeaseLate { from: OTHER, asks: vec![ask(KeySet::new([key], []))] };
        let other = self.heard.ask(&self.state.lease_late, late).await.unwrap();
        let refused = Refusal::NotExecutor { group: GROUP, found: OTHER, expected: HERE };
        assert_eq!(other.refused, vec![refused]);
    }

    /// Returns this shard's part.
    async fn results(&mut self) -> PartMessage {
        let good = self.result();
        let results = vec![
            GroupResult { group: NOWHERE, ..good.clone() },
            GroupResult { parts: good.parts[..1].to_vec(), ..good.clone() },
            good.clone(),
        ];
        let reply = self.heard.ask(&self.state.store_results, StoreResults { results }).await;
        let reply = reply.unwrap();
        assert_eq!(reply.refused[0], Some(Refusal::GroupNotOpen { group: NOWHERE }));
        assert!(matches!(reply.refused[1], Some(Refusal::Malformed { .. })));
        assert_eq!(reply.refused[2], None);
        // The first result stays, whatever a second run gives.
        let mut other = good.clone();
        other.parts[0].outcomes.clear();
        let again = StoreResults { results: vec![other] };
        let again = self.heard.ask(&self.state.store_results, again).await.unwrap();
        let own = |parts: Vec<PartMessage>| parts.into_iter().find(|m| m.part.owner == HERE);
        let message = own(again.parts).expect("this shard has a part");
        assert_eq!(message.part, good.parts[0]);
        message
    }

    async fn parts(&mut self, good: &PartMessage) {
        let with = |change: &dyn Fn(&mut Part)| {
            let mut message = good.clone();
            change(&mut message.part);
            message.manifest[0].1 = message.part.hash();
            message
        };
        let stranger = StateKey::Basic(self.world.carol.address());
        let parts = vec![
            with(&|part| part.chain_id = 5),
            with(&|part| part.epoch = 5),
            with(&|part| part.owner = OTHER),
            with(&|part| part.group = NOWHERE),
            with(&|part| part.executor = OTHER),
            PartMessage { manifest: vec![], ..good.clone() },
            with(&|part| part.writes.push((stranger, stranger.absent()))),
            with(&|part| part.writes.clear()),
            with(&|part| part.outcomes.clear()),
            good.clone(),
        ];
        let group = GROUP;
        let expected = [
            Some(Refusal::WrongChain { found: 5, expected: CHAIN_ID }),
            Some(Refusal::WrongEpoch { found: 5, expected: 0 }),
            Some(Refusal::NotForThisShard { group, found: OTHER, expected: HERE }),
            Some(Refusal::GroupNotOpen { group: NOWHERE }),
            Some(Refusal::NotExecutor { group, found: OTHER, expected: HERE }),
            Some(Refusal::ManifestMismatch { group }),
            Some(Refusal::OutsideFence { group, key: stranger }),
            Some(Refusal::LacksFenced { group, key: StateKey::Basic(self.world.alice.address()) }),
            Some(Refusal::OtherResult { group }),
            None,
        ];
        let reply = self.heard.ask(&self.state.accept_parts, AcceptParts { parts }).await.unwrap();
        assert_eq!(reply.refused, expected);
    }

    async fn a_group_ends(&mut self, first: &BeaconBlock, message: &PartMessage) -> BeaconBlock {
        let decide = |digest| {
            let mut block = after(first);
            block
                .decisions
                .push(Decision { group: GROUP, verdict: Verdict::Commit { digest, late: vec![] } });
            block
        };
        let other = self.cut(decide(B256::ZERO)).await;
        assert!(matches!(&other, Err(StateError::NotHeld { number: 2, .. })), "{other:?}");
        let good = decide(message.digest());
        let reply = self.cut(good.clone()).await.unwrap();
        assert_eq!((reply.cut, reply.run.len(), reply.leases.len()), (2, 0, 0));
        let tx = *self.payment().tx.hash();
        let status = self.heard.ask(&self.state.lookup, Lookup { txs: vec![tx] }).await.unwrap();
        let dropped = TxStatus::Dropped { reason: "on purpose".into() };
        assert_eq!(status.statuses, [Some(dropped)]);
        let withdraw = Withdraw { tx: TxRef { hash: tx, attempt: 1 }, reason: "late".into() };
        self.heard.ask(&self.state.withdraw, withdraw).await.unwrap();
        good
    }

    async fn credits(&mut self) {
        let [alice, bob] = [&self.world.alice, &self.world.bob].map(|wallet| wallet.address());
        let good = Credit {
            from: OTHER,
            to: HERE,
            seq: 1,
            account: alice,
            payer: bob,
            amount: U256::from(3),
            kind: CreditKind::Payment { tx: B256::repeat_byte(3) },
        };
        let refused = [
            (Credit { seq: 2, ..good }, Refusal::CreditGap { from: OTHER, found: 2, newest: 0 }),
            (Credit { account: bob, ..good }, Refusal::NotOwner { owner: OTHER, here: HERE }),
            (
                Credit { from: HERE, ..good },
                Refusal::Malformed { what: "credit of shard 0".into() },
            ),
        ];
        let receive = |credit| ReceiveCredits { from: OTHER, credits: vec![credit] };
        for (credit, rule) in refused {
            let answer = self.heard.ask(&self.state.receive_credits, receive(credit)).await;
            assert_eq!(answer.unwrap_err(), StateError::Refused(rule));
        }
        for _ in 0..2 {
            let answer = self.heard.ask(&self.state.receive_credits, receive(good)).await;
            assert_eq!(answer.unwrap().received, 1);
        }
        let settlement = Settlement { by: OTHER, from: HERE, up_to: 5, returned_up_to: 0, cut: 1 };
        self.heard.ask(&self.state.settle, Settle { settlement }).await.unwrap();
    }

    async fn what_followers_ask(&mut self) {
        let code = Bytes::from_static(&[0x60, 0x01]);
        let codes = vec![alloy_primitives::keccak256(&code)];
        self.heard
            .ask(&self.state.put_codes, PutCodes { codes: vec![code.clone()] })
            .await
            .unwrap();
        let ask = Read { keys: vec![], codes, at: Some(2), min_cut: 2 };
        let reply = self.heard.ask(&self.state.read, ask).await.unwrap();
        assert_eq!(reply.codes, [Some(code)]);
        let outbox = self.heard.ask(&self.state.outbox, Outbox).await.unwrap();
        assert_eq!((outbox.open.cut, outbox.unplanned.len(), outbox.awaited.len()), (2, 0, 0));
        let watch = |version| Watch { version, credits_after: vec![(OTHER, 0)], wait_ms: 1 };
        let version = self.heard.ask(&self.state.watch, watch(0)).await.unwrap().version;
        let same = self.heard.ask(&self.state.watch, watch(version)).await.unwrap();
        assert_eq!((same.version, same.anchor.cut), (version, 2));
        let sync = |after| Sync { after, wait_ms: 1, full: false };
        let start = self.heard.ask(&self.state.sync, sync(0)).await.unwrap();
        let newest = start.changes.last().expect("what holds now").number;
        assert!(start.reset);
        let nothing = self.heard.ask(&self.state.sync, sync(newest)).await.unwrap();
        assert!(!nothing.reset && nothing.changes.is_empty());
        let feed = |after| Feed { after, max: 100, wait_ms: 1 };
        let newest = self.heard.ask(&self.state.feed, feed(Feed::NEWEST)).await.unwrap().next;
        let all = self.heard.ask(&self.state.feed, feed(newest - 1)).await.unwrap();
        assert_eq!((all.next, all.lost, all.events.len()), (newest, 0, 1));
    }

    async fn long_gone_cuts(&mut self, mut newest: BeaconBlock) -> BeaconBlock {
        for _ in 0..300 {
            newest = after(&newest);
            self.state.cut.call(Default::default(), Cut { block: newest.clone() }).await.unwrap();
        }
        let old = self.heard.ask(&self.state.read, read(vec![], Some(1))).await;
        assert!(matches!(old, Err(StateError::CutTooOld { asked: 1, .. })), "{old:?}");
        newest
    }

    async fn proofs(&mut self, newest: &BeaconBlock) {
        let watch = Watch { version: 0, credits_after: vec![], wait_ms: 0 };
        let anchor = self.heard.ask(&self.state.watch, watch).await.unwrap().anchor;
        let root = anchor.root.expect("that of the genesis");
        let prove =
            Prove { address: self.world.alice.address(), slots: vec![U256::from(1)], min_cut: 0 };
        let early = self.heard.ask_by(too_late(), &self.state.prove, prove.clone()).await;
        assert_eq!(early.unwrap_err(), StateError::Fault(Fault::DeadlineExceeded));
        let mut block = after(newest);
        let Anchor { shard, head, cut, digest, .. } = anchor;
        block.anchors.push(Anchored { shard, head, cut, digest, root: Some(root) });
        self.cut(block.clone()).await.unwrap();
        let proven = self.heard.ask(&self.state.prove, prove).await.unwrap();
        assert_eq!((proven.root, proven.block), (root, block.number()));
        let held: Vec<_> = proven.cells.iter().map(|cell| cell.cell).collect();
        assert_eq!(held[..2], values(&[self.world.alice.address()]));
        assert_eq!(held[2].1, StateValue::Slot(U256::ZERO));
        for ProvenCell { cell: (key, value), proof } in proven.cells {
            let proof = Proof::decode(&proof).expect("a proof");
            let value = value.in_tree();
            assert_eq!(verify(&root.root.0, &key.in_tree(), Some(&value), &proof), Ok(()));
        }
    }
}

/// A receipt that nobody looks at.
fn receipt(tx: &atoll_types::Tx) -> Receipt {
    Receipt {
        tx: *tx.hash(),
        sender: tx.sender(),
        nonce: tx.nonce(),
        to: tx.to(),
        executed: Executed {
            status: true,
            gas_used: 21_000,
            effective_gas_price: 1,
            logs: vec![],
            contract: None,
            output: Bytes::new(),
        },
        kind: ReceiptKind::Local,
        shards: vec![HERE],
        round: 1,
        index: 0,
        block: 2,
    }
}
