use std::{sync::Arc, time::Duration};

use atoll_api::{
    MempoolClient, StateClient,
    mempool::{End, MempoolError, Refused, Report, Status, Submit, Take, TxEnd},
    state::PutCodes,
};
use atoll_fabric::{Context, Fault, Local};
use atoll_mempool::{Config, Limits, MempoolService, Pool};
use atoll_store::{Call, Faults, FaultyLog, MemoryLog, StoreError};
use atoll_tests::{
    PATIENCE,
    wallet::{MAX_FEE, Plan, Wallet},
};
use atoll_types::{B256, Tx};

use crate::setup::{CALLS, HERE, Heard, OTHER, Standing, Unreachable, World, sign, too_late};

#[tokio::test(flavor = "multi_thread")]
async fn a_mempool_answers_alike_wherever_it_stands() {
    let here = suite(Standing::InProcess).await;
    here.must_be(&suite(Standing::BehindGrpc).await);
}

/// Pool and state in processes of their own: the pool knows within one answer.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_volume_is_full_the_pool_takes_nothing_and_then_goes_on() {
    let (world, faults) = (World::new(), Faults::new());
    let log = Box::new(FaultyLog::new(MemoryLog::new(), faults.clone()));
    let state = StateClient::new(world.state_on(log));
    let add = |routes: &mut tonic::service::RoutesBuilder, client, max| {
        routes.add_service(atoll_state::grpc::server(client, max));
    };
    let state = Standing::BehindGrpc.client(&state, StateClient::new, add).await;
    let service = start(&world, state.clone());
    let mempool = client(Standing::BehindGrpc, &service).await;
    let mut suite = Suite { world: &world, mempool, heard: Heard::default() };
    let first = suite.pay(&world.alice, 0, 0);
    assert_eq!(suite.submit(std::slice::from_ref(&first)).await, [None]);
    let full = Refused::VolumeFull { shard: HERE };
    for (round, nonce) in [(1u8, 1), (2, 2)] {
        faults.fail_from(Call::Room, 1, StoreError::Full { op: "append to", path: "disk".into() });
        // The log looks for room when it is written to.
        let codes = vec![vec![round].into()];
        state.put_codes.call(Context::none(), PutCodes { codes }).await.unwrap();
        suite.until(&full).await;
        let both = [first.clone(), suite.pay(&world.alice, nonce, 0)];
        let refused = suite.submit(&both).await;
        assert_eq!(refused, [Some(Refused::AlreadyKnown), Some(full.clone())]);
        faults.heal(Call::Room);
        suite.until(&Refused::IntrinsicGas { found: 20_999, needed: 21_000 }).await;
        assert_eq!(suite.submit(&both[1..]).await, [None]);
    }
}

fn start(world: &World, state: StateClient) -> Local<MempoolService> {
    let limits =
        Limits { max_txs: 4, max_sender_txs: 3, block_gas_limit: 1_000_000, ..Limits::default() };
    let config = Config { shard: HERE, placement: Arc::new(world.placement.clone()), limits };
    Local::start(&world.place, CALLS, move || {
        MempoolService::new(
            Pool::new(config),
            state.read,
            state.sync,
            state.tell_dropped,
            Arc::new(|| 0),
        )
    })
}

async fn client(standing: Standing, service: &Local<MempoolService>) -> MempoolClient {
    let here = MempoolClient::new(service.clone());
    let add = |routes: &mut tonic::service::RoutesBuilder, client, max| {
        routes.add_service(atoll_mempool::grpc::server(client, max));
    };
    standing.client(&here, MempoolClient::new, add).await
}

async fn suite(standing: Standing) -> Heard {
    let world = World::new();
    let state = world.state();
    let service = start(&world, StateClient::new(state.clone()));
    let mempool = client(standing, &service).await;
    let mut suite = Suite { world: &world, mempool, heard: Heard::default() };
    suite.what_cannot_come_in().await;
    suite.what_is_full().await;
    suite.what_goes_out().await;
    let late = suite.heard.ask_by(too_late(), &suite.mempool.status, Status).await;
    assert_eq!(late.unwrap_err(), MempoolError::Fault(Fault::DeadlineExceeded));
    service.stop().await;
    let stopped = suite.heard.ask(&suite.mempool.status, Status).await.unwrap_err();
    assert_eq!(stopped, MempoolError::Fault(Fault::Stopped { service: "mempool".into() }));

    let blind = start(&world, StateClient::new(Unreachable));
    suite.mempool = client(standing, &blind).await;
    let txs = vec![suite.pay(&world.alice, 0, 0)];
    let answer = suite.heard.ask(&suite.mempool.submit, Submit { txs }).await;
    assert!(matches!(answer, Err(MempoolError::State { .. })), "{answer:?}");
    suite.heard
}

struct Suite<'a> {
    world: &'a World,
    mempool: MempoolClient,
    heard: Heard,
}

impl Suite<'_> {
    fn pay(&self, wallet: &Wallet, nonce: u64, tip: u128) -> Tx {
        let plan = Plan { tip, ..Plan::pay(self.world.carol.address(), 1) };
        sign(wallet, nonce, &plan)
    }

    async fn submit(&mut self, txs: &[Tx]) -> Vec<Option<Refused>> {
        let submit = Submit { txs: txs.to_vec() };
        self.heard.ask(&self.mempool.submit, submit).await.unwrap().refused
    }

    /// Offers what can never be taken until it is refused for this reason.
    async fn until(&mut self, reason: &Refused) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let too_little = Plan::pay(self.world.carol.address(), 1).gas(20_999);
        let never = [sign(&self.world.alice, 0, &too_little)];
        while self.submit(&never).await != [Some(reason.clone())] {
            assert!(tokio::time::Instant::now() < deadline, "never {reason}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn what_cannot_come_in(&mut self) {
        let World { alice, bob, old, poor, .. } = self.world;
        let to = self.world.carol.address();
        let gas = |gas| sign(alice, 0, &Plan::pay(to, 1).gas(gas));
        let good = self.pay(alice, 0, 1_000);
        let cheap = {
            let tx = alloy_consensus::TxLegacy {
                chain_id: Some(atoll_tests::CHAIN_ID),
                gas_limit: 21_000,
                gas_price: 6,
                to: to.into(),
                ..Default::default()
            };
            signed(alice, tx)
        };
        let dear = sign(poor, 0, &Plan::pay(to, 1));
        let want = dear.max_cost();
        let cases = [
            (good.clone(), None),
            (good, Some(Refused::AlreadyKnown)),
            (self.pay(bob, 0, 0), Some(Refused::WrongShard { owner: OTHER, here: HERE })),
            (gas(20_999), Some(Refused::IntrinsicGas { found: 20_999, needed: 21_000 })),
            (gas(1_000_001), Some(Refused::GasLimit { found: 1_000_001, limit: 1_000_000 })),
            (cheap, Some(Refused::Underpriced { found: 6, minimum: 7 })),
            (self.pay(old, 4, 0), Some(Refused::NonceTooLow { next: 5, found: 4 })),
            (
                self.pay(alice, 2_000, 0),
                Some(Refused::NonceTooFar { next: 0, found: 2_000, limit: 1_024 }),
            ),
            (dear, Some(Refused::InsufficientFunds { have: Default::default(), want })),
        ];
        let (txs, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
        assert_eq!(self.submit(&txs).await, expected);
        let again = sign(alice, 0, &Plan::pay(to, 2));
        let needed = MAX_FEE / 10 * 11;
        let underpriced = Refused::ReplacementUnderpriced { found: MAX_FEE, needed };
        assert_eq!(self.submit(&[again]).await, [Some(underpriced)]);
    }

    async fn what_is_full(&mut self) {
        let World { alice, carol, old, .. } = self.world;
        let txs = [1, 2, 3].map(|nonce| self.pay(alice, nonce, 1_000));
        let full = Refused::SenderFull { limit: 3 };
        assert_eq!(self.submit(&txs).await, [None, None, Some(full)]);
        let txs = [self.pay(carol, 0, 1_000), self.pay(old, 5, 0)];
        let full = Refused::MempoolFull { limit: 4, unit: "transactions".into() };
        assert_eq!(self.submit(&txs).await, [None, Some(full)]);
        let status = self.heard.ask(&self.mempool.status, Status).await.unwrap();
        assert_eq!((status.pending, status.queued, status.under_way), (4, 0, 0));
        let many = Submit { txs: vec![txs[0].clone(); 65_537] };
        // Found by the service here, and by the decoder there: the words are not the same.
        match self.mempool.submit.call(Default::default(), many).await {
            Err(MempoolError::Fault(Fault::Malformed(what))) => assert_eq!(what.field, "txs"),
            other => panic!("{other:?}"),
        }
    }

    async fn take(&mut self, session: u64, wait_ms: u64) -> Result<Vec<Tx>, MempoolError> {
        let take = Take { session, max_txs: 3, max_gas: 1_000_000, wait_ms };
        Ok(self.heard.ask(&self.mempool.take, take).await?.txs)
    }

    async fn what_goes_out(&mut self) {
        let World { alice, .. } = self.world;
        let taken = self.take(5, 30_000).await.unwrap();
        assert_eq!(taken.len(), 3);
        let replaced = self.take(4, 0).await.unwrap_err();
        assert_eq!(replaced, MempoolError::OldSession { found: 4, newest: 5 });
        let under_way = sign(alice, 0, &Plan::pay(alice.address(), 9));
        assert_eq!(self.submit(&[under_way]).await, [Some(Refused::UnderWay)]);
        let reason = "on purpose".to_owned();
        let ends = [End::Included, End::Returned, End::Dropped { reason }];
        let ends = taken.iter().zip(ends).map(|(tx, end)| TxEnd { tx: *tx.hash(), end });
        let stranger = TxEnd { tx: B256::ZERO, end: End::Escalated };
        let report = Report { ends: ends.chain([stranger]).collect() };
        self.heard.ask(&self.mempool.report, report).await.unwrap();
        let status = self.heard.ask(&self.mempool.status, Status).await.unwrap();
        assert_eq!(status.under_way, 0);
    }
}

fn signed(wallet: &Wallet, tx: alloy_consensus::TxLegacy) -> Tx {
    use alloy_consensus::{SignableTransaction as _, TxEnvelope};
    use alloy_eips::Encodable2718 as _;
    use alloy_signer::SignerSync as _;
    let signature = wallet.key.sign_hash_sync(&tx.signature_hash()).expect("a signature");
    let raw = TxEnvelope::from(tx.into_signed(signature)).encoded_2718();
    Tx::recover(raw.into(), atoll_tests::CHAIN_ID, None).expect("a transaction")
}
