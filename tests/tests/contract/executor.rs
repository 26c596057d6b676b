use std::time::Duration;

use atoll_api::{
    ExecutorClient, MempoolClient, RouterClient, StateClient,
    executor::{Debit, ExecutorError, ExecutorStats, GroupRun, Predict, Prediction, RunGroups},
};
use atoll_executor::{ExecutorConfig, ExecutorService};
use atoll_fabric::{Context, Fault, Local};
use atoll_tests::wallet::Plan;
use atoll_types::{
    B256, CodeRef, GroupId, KeySet, PlannedGroup, SharedTx, StateKey, StateValue, Tx, TxOutcome,
    Write,
};

use crate::setup::{
    CALLS, HERE, Heard, OTHER, Standing, Unreachable, World, shared, sign, too_late, values,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_answers_alike_wherever_it_stands() {
    let here = suite(Standing::InProcess).await;
    here.must_be(&suite(Standing::BehindGrpc).await);
}

fn start(world: &World, state: StateClient) -> Local<ExecutorService> {
    let config = ExecutorConfig {
        shard: HERE,
        placement: world.placement.clone(),
        max_block_txs: 10,
        max_block_gas: 1_000_000,
        cached_values: 1_000,
        max_debits: 1,
        call_timeout: Duration::from_secs(30),
    };
    let (mempool, router) = (MempoolClient::new(Unreachable), RouterClient::new(Unreachable));
    Local::start(&world.place, CALLS, move || {
        ExecutorService::new(config, mempool, state, router, 1)
    })
}

async fn client(standing: Standing, service: &Local<ExecutorService>) -> ExecutorClient {
    let here = ExecutorClient::new(service.clone());
    let add = |routes: &mut tonic::service::RoutesBuilder, client, max| {
        routes.add_service(atoll_executor::grpc::server(client, max));
    };
    standing.client(&here, ExecutorClient::new, add).await
}

async fn suite(standing: Standing) -> Heard {
    let world = World::new();
    let state = world.state();
    let service = start(&world, StateClient::new(state.clone()));
    let executor = client(standing, &service).await;
    let mut suite = Suite { world: &world, executor, heard: Heard::default() };
    suite.predictions().await;
    suite.groups().await;
    suite.debits().await;
    suite.stats().await;
    let nothing = || Predict { txs: vec![], known: vec![] };
    let late = suite.heard.ask_by(too_late(), &suite.executor.predict, nothing()).await;
    assert_eq!(late.unwrap_err(), ExecutorError::Fault(Fault::DeadlineExceeded));
    service.stop().await;
    let stopped = suite.heard.ask(&suite.executor.predict, nothing()).await.unwrap_err();
    assert_eq!(stopped, ExecutorError::Fault(Fault::Stopped { service: "executor".into() }));

    // It waits for a state that it has never heard from, for as long as its caller does.
    let blind = start(&world, StateClient::new(Unreachable));
    let executor = client(standing, &blind).await;
    let soon = Context::none().with_timeout(Duration::from_millis(100));
    let answer = executor.predict.call(soon, nothing()).await;
    assert!(matches!(answer, Err(ExecutorError::Fault(Fault::Unknown { .. }))), "{answer:?}");
    suite.heard
}

struct Suite<'a> {
    world: &'a World,
    executor: ExecutorClient,
    heard: Heard,
}

impl Suite<'_> {
    async fn predict(&mut self, txs: &[Tx], known: Vec<Write>) -> Vec<Prediction> {
        let ask = Predict { txs: txs.to_vec(), known };
        self.heard.ask(&self.executor.predict, ask).await.unwrap().predictions
    }

    async fn predictions(&mut self) {
        let World { alice, bob, carol, poor, .. } = self.world;
        let abroad = sign(alice, 0, &Plan::pay(bob.address(), 1));
        let txs = [
            sign(alice, 0, &Plan::pay(carol.address(), 1)),
            abroad.clone(),
            sign(alice, 7, &Plan::pay(carol.address(), 1)),
            sign(poor, 0, &Plan::pay(carol.address(), 1)),
        ];
        let told = self.predict(&txs, vec![]).await;
        let Prediction::Uses { keys, credit: false } = &told[0] else { panic!("{told:?}") };
        assert!(keys.writes.contains(&StateKey::Basic(carol.address())));
        let code = StateKey::Code(bob.address());
        assert_eq!(told[1], Prediction::Needs { keys: vec![code], codes: vec![] });
        assert!(matches!(told[2], Prediction::Invalid { nonce_ahead: true, .. }), "{told:?}");
        assert!(matches!(told[3], Prediction::Invalid { nonce_ahead: false, .. }), "{told:?}");
        let known = vec![(code, StateValue::Code(CodeRef::default()))];
        let told = self.predict(&[abroad], known).await;
        assert!(matches!(told[0], Prediction::Uses { credit: true, .. }), "{told:?}");
    }

    fn group(&self, index: u32, txs: &[SharedTx]) -> GroupRun {
        let [alice, bob] = [&self.world.alice, &self.world.bob].map(|wallet| wallet.address());
        GroupRun {
            group: PlannedGroup {
                id: GroupId { round: 1, index },
                executor: HERE,
                owners: vec![HERE, OTHER],
                txs: txs.iter().map(SharedTx::reference).collect(),
                gas: 100_000,
            },
            env: self.world.genesis.block.env,
            epoch: 0,
            txs: txs.to_vec(),
            late_writes: vec![],
            refused: vec![],
            values: values(&[alice, bob]),
        }
    }

    async fn groups(&mut self) {
        let tx = shared(&self.world.alice, &self.world.bob, HERE);
        let receiver = StateKey::Basic(self.world.bob.address());
        let narrow = SharedTx {
            keys: KeySet::new(
                tx.keys.reads.clone(),
                tx.keys.writes.iter().copied().filter(|key| *key != receiver),
            ),
            ..tx.clone()
        };
        let good = self.group(0, std::slice::from_ref(&tx));
        let mut wrong = self.group(1, &[narrow]);
        wrong.values.retain(|(key, _)| *key != receiver);
        let other = GroupRun { txs: vec![], ..self.group(2, std::slice::from_ref(&tx)) };
        let mut codeless = self.group(3, &[tx]);
        let hash = B256::repeat_byte(7);
        for (key, value) in &mut codeless.values {
            if *key == StateKey::Code(self.world.bob.address()) {
                *value = StateValue::Code(CodeRef { hash, incarnation: 0 });
            }
        }
        // The same, and the owner has refused to lease the key late.
        let mut lacking = wrong.clone();
        lacking.group.id.index = 4;
        wrong.refused = vec![receiver];
        let groups = vec![good, wrong, other, codeless, lacking];
        let reply = self.heard.ask(&self.executor.run_groups, RunGroups { groups }).await.unwrap();
        // A group that is none, and one whose code is not there, are left out.
        let ran: Vec<u32> = reply.results.iter().map(|result| result.group.index).collect();
        assert_eq!(ran, [0, 1]);
        let lacks: Vec<u32> = reply.lacking.iter().map(|ask| ask.group.index).collect();
        assert_eq!(lacks, [4]);
        assert!(reply.lacking[0].keys.writes.contains(&receiver), "{:?}", reply.lacking);
        let ends = |at: usize| {
            let parts = &reply.results[at].parts;
            assert_eq!(parts.iter().map(|part| part.owner).collect::<Vec<_>>(), [HERE, OTHER]);
            &parts[0].outcomes[0].1
        };
        assert_eq!(ends(0), &TxOutcome::Executed);
        assert!(
            matches!(ends(1), TxOutcome::Wrong { missing } if missing.writes.contains(&receiver))
        );
    }

    async fn debits(&mut self) {
        let World { carol, bob, .. } = self.world;
        let pay = |nonce| sign(carol, nonce, &Plan::pay(bob.address(), 1));
        self.heard.ask(&self.executor.debit, Debit { txs: vec![pay(0)] }).await.unwrap();
        let many = Debit { txs: vec![pay(1), pay(2)] };
        let full = self.heard.ask(&self.executor.debit, many).await.unwrap_err();
        let overloaded = Fault::Overloaded { service: "executor".into(), limit: 1 };
        assert_eq!(full, ExecutorError::Fault(overloaded));
    }

    async fn stats(&mut self) {
        let stats = self.executor.stats.call(Context::none(), ExecutorStats).await.unwrap();
        // Four of five were predicted in two requests; two groups of four have run, one in vain.
        assert_eq!((stats.predictions.batches, stats.predictions.items), (2, 4));
        assert_eq!((stats.groups.batches, stats.groups.items, stats.wrong), (2, 2, 1));
        assert!(stats.predictions.cpu_ns > 0 && stats.groups.cpu_ns > 0);
        // What it debits it has not had the time for.
        assert!(stats.local.items <= 1);
    }
}
