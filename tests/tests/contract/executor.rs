use std::time::Duration;

use atoll_api::{
    ExecutorClient, MempoolClient, RouterClient, StateClient,
    executor::{Debit, ExecutorError, ExecutorStats, GroupRun, Predict, Prediction, RunGroups},
    state::{Cut, Quarantine, Share},
};
use atoll_executor::{ExecutorConfig, ExecutorService};
use atoll_fabric::{Call as _, Context, Fault, Local};
use atoll_state::StateService;
use atoll_tests::{
    PATIENCE,
    wallet::{Plan, Wallet},
};
use atoll_types::{
    B256, CodeRef, GroupId, KeySet, PANICS, PlannedGroup, SharedTx, StateKey, StateValue, Tx,
    TxOutcome, Write,
};
use tokio::time::Instant;

use crate::setup::{
    CALLS, HERE, Heard, OTHER, Standing, Unreachable, World, after, shared, sign, too_late, values,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_answers_alike_wherever_it_stands() {
    let here = suite(Standing::InProcess).await;
    here.must_be(&suite(Standing::BehindGrpc).await);
}

fn start(world: &World, speculative_gas: u64, state: StateClient) -> Local<ExecutorService> {
    let config = ExecutorConfig {
        rules: atoll_evm::Rules::default(),
        shard: HERE,
        placement: world.placement.clone(),
        max_block_txs: 10,
        max_block_gas: 1_000_000,
        cached_values: 1_000,
        max_debits: 1,
        speculative_gas,
        call_timeout: Duration::from_secs(30),
        helpers: std::sync::Arc::new(atoll_evm::Nobody),
        stopwatch: std::sync::Arc::new(|| 0),
        machine: atoll_fabric::Machine::real(),
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
    let service = start(&world, 1 << 30, StateClient::new(state.clone()));
    let executor = client(standing, &service).await;
    let mut suite = Suite { world: &world, executor, heard: Heard::default() };
    suite.predictions().await;
    suite.groups().await;
    suite.debits().await;
    suite.stats().await;
    suite.put_away(&state).await;
    let nothing = || Predict { txs: vec![], known: vec![] };
    let late = suite.heard.ask_by(too_late(), &suite.executor.predict, nothing()).await;
    assert_eq!(late.unwrap_err(), ExecutorError::Fault(Fault::DeadlineExceeded));
    service.stop().await;
    let stopped = suite.heard.ask(&suite.executor.predict, nothing()).await.unwrap_err();
    assert_eq!(stopped, ExecutorError::Fault(Fault::Stopped { service: "executor".into() }));

    // It waits for a state that it has never heard from, for as long as its caller does.
    let blind = start(&world, 1 << 30, StateClient::new(Unreachable));
    let executor = client(standing, &blind).await;
    let soon = Context::none().with_timeout(Duration::from_millis(100));
    let answer = executor.predict.call(soon, nothing()).await;
    assert!(matches!(answer, Err(ExecutorError::Fault(Fault::Unknown { .. }))), "{answer:?}");
    suite.heard
}

/// Predictions that nobody pays for, one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_whose_predictions_never_pay_is_refused_until_rounds_have_passed() {
    let world = World::new();
    let state = StateClient::new(world.state());
    let service = start(&world, 80_000, state.clone());
    let executor = ExecutorClient::new(service.clone());
    let predict = async |wallet: &Wallet| {
        let txs = vec![sign(wallet, 0, &Plan::pay(world.carol.address(), 1))];
        let context = Context::none().with_timeout(PATIENCE);
        let reply = executor.predict.call(context, Predict { txs, known: vec![] }).await;
        reply.expect("an answer").predictions.remove(0)
    };
    // The first one runs twice: once to learn which of the shard's values it reads.
    for _ in 0..3 {
        assert!(matches!(predict(&world.alice).await, Prediction::Uses { .. }));
    }
    let Prediction::Refused { reason } = predict(&world.alice).await else { panic!("84,000 gas") };
    let says = ["speculative gas", "84000 gas", "limit 80000", "send it again later"];
    assert!(says.iter().all(|word| reason.to_lowercase().contains(word)), "{reason}");
    assert!(matches!(predict(&world.carol).await, Prediction::Uses { .. }), "others may");
    // A 1,024th comes back with each cut: 78 gas.
    let mut block = world.genesis.block.clone();
    for _ in 0..60 {
        block = after(&block);
        let cut = Cut { block: block.clone() };
        state.cut.call(Context::none().with_timeout(PATIENCE), cut).await.expect("the next cut");
    }
    let deadline = Instant::now() + PATIENCE;
    while !matches!(predict(&world.alice).await, Prediction::Uses { .. }) {
        assert!(Instant::now() < deadline, "the executor does not hear of the cuts");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    service.stop().await;
}

/// A debit meets the fence, and would be predicted as one over and over until that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_of_a_fenced_account_is_a_transaction_like_any_other() {
    let world = World::new();
    let state = StateClient::new(world.state());
    let service = start(&world, 1 << 30, state.clone());
    let executor = ExecutorClient::new(service.clone());
    let within = || Context::none().with_timeout(PATIENCE);
    let is_credit = async || {
        let txs = vec![sign(&world.carol, 0, &Plan::pay(world.bob.address(), 1))];
        let known = values(&[world.bob.address()]);
        let reply = executor.predict.call(within(), Predict { txs, known }).await;
        let told = reply.expect("an answer").predictions.remove(0);
        let Prediction::Uses { credit, .. } = told else { panic!("{told:?}") };
        credit
    };
    assert!(is_credit().await);
    let paid = shared(&world.bob, &world.carol, OTHER);
    let group = PlannedGroup {
        id: GroupId { round: 1, index: 0 },
        executor: OTHER,
        owners: vec![HERE, OTHER],
        txs: vec![paid.reference()],
        gas: 100_000,
    };
    let share = Share { txs: vec![paid] };
    state.share.call(within(), share).await.expect("it is kept");
    let mut block = after(&world.genesis.block);
    block.plan.push(group);
    state.cut.call(within(), Cut { block }).await.expect("the next cut");
    let deadline = Instant::now() + PATIENCE;
    while is_credit().await {
        assert!(Instant::now() < deadline, "the executor does not hear of the fence");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    service.stop().await;
}

struct Suite<'a> {
    world: &'a World,
    executor: ExecutorClient,
    heard: Heard,
}

impl Suite<'_> {
    /// What has made an executor panic is not run again, whoever offers it.
    async fn put_away(&mut self, state: &Local<StateService>) {
        let tx = sign(&self.world.alice, 0, &Plan::pay(self.world.carol.address(), 77));
        let put_away = Quarantine { txs: vec![*tx.hash()] };
        state.call(Context::none(), put_away).await.expect("it is kept");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let ask = Predict { txs: vec![tx.clone()], known: vec![] };
            let reply = self.executor.predict.call(Context::none(), ask).await.expect("an answer");
            match &reply.predictions[0] {
                Prediction::Invalid { reason, .. } => break assert_eq!(reason, PANICS),
                _ => assert!(tokio::time::Instant::now() < deadline, "it does not hear of it"),
            }
        }
    }

    async fn predict(&mut self, txs: &[Tx], known: Vec<Write>) -> Vec<Prediction> {
        let ask = Predict { txs: txs.to_vec(), known };
        self.heard.ask(&self.executor.predict, ask).await.unwrap().predictions
    }

    async fn predictions(&mut self) {
        let World { alice, bob, carol, poor, .. } = self.world;
        let abroad = sign(alice, 0, &Plan::pay(bob.address(), 1));
        let txs = [
            sign(alice, 1, &Plan::pay(carol.address(), 1)),
            sign(alice, 0, &Plan::pay(carol.address(), 1)),
            sign(alice, 7, &Plan::pay(carol.address(), 1)),
            sign(poor, 0, &Plan::pay(carol.address(), 1)),
        ];
        let told = self.predict(&txs, vec![]).await;
        for prediction in &told[..2] {
            let Prediction::Uses { keys, credit: false } = prediction else { panic!("{told:?}") };
            assert!(keys.writes.contains(&StateKey::Basic(carol.address())));
        }
        assert!(matches!(told[2], Prediction::Invalid { nonce_ahead: true, .. }), "{told:?}");
        assert!(matches!(told[3], Prediction::Invalid { nonce_ahead: false, .. }), "{told:?}");
        let code = StateKey::Code(bob.address());
        let told = self.predict(std::slice::from_ref(&abroad), vec![]).await;
        assert_eq!(told, [Prediction::Needs { keys: vec![code], codes: vec![] }]);
        let known = vec![(code, StateValue::Code(CodeRef::default()))];
        // One payment after another; but no payment after what is not debited.
        let next = sign(alice, 1, &Plan::pay(bob.address(), 1));
        let other = sign(alice, 2, &Plan::pay(carol.address(), 1));
        let told = self.predict(&[other, next, abroad], known).await;
        assert!(matches!(told[0], Prediction::Invalid { nonce_ahead: true, .. }), "{told:?}");
        assert!(matches!(told[1], Prediction::Uses { credit: true, .. }), "{told:?}");
        assert!(matches!(told[2], Prediction::Uses { credit: true, .. }), "{told:?}");
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
        // Seven of eight were predicted in three requests; two groups of four have run, one in vain.
        assert_eq!((stats.predictions.batches, stats.predictions.items), (3, 7));
        assert_eq!((stats.groups.batches, stats.groups.items, stats.wrong), (2, 2, 1));
        assert!(stats.predictions.cpu_ns > 0 && stats.groups.cpu_ns > 0);
        // What it debits it has not had the time for.
        assert!(stats.local.items <= 1);
    }
}
