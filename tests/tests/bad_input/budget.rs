//! Calls that are expensive to predict.

use alloy_primitives::U256;
use alloy_sol_types::SolCall as _;
use atoll::config::Limits;
use atoll_tests::{
    contracts::{Cell, bytecode},
    here::{Here, Shape},
    wallet::{Plan, Wallet},
};
use atoll_wire::v1::TransactionFinality;

/// Without code at hand a run is counted with its gas limit.
const EXPENSIVE: u64 = 2_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn expensive_predictions_are_refused_with_the_limit_and_the_rest_goes_on() {
    let mut wallets: Vec<_> =
        (0..3).map(|index| Wallet::seeded("budget", 0, index).expect("a key")).collect();
    let contract = wallets[0].address().create(0);
    let limits = Limits { speculative_gas: 1_000_000, ..Limits::default() };
    let mut shape = Shape { limits, ..Shape::new(2) };
    let rich = U256::from(10).pow(U256::from(20));
    shape.balances = wallets.iter().map(|wallet| (wallet.address(), rich)).collect();
    shape.placement =
        wallets.iter().map(Wallet::address).zip([1, 0, 0]).chain([(contract, 1)]).collect();
    let here = Here::start(&shape).await.expect("a cluster");
    let deployment = wallets[0].sign(&Plan::create(bytecode("Cell").expect("an artefact")));
    here.api.carry_out(&[deployment.expect("a signature")]).await.expect("it is deployed");

    let touch = Plan::call(contract, Cell::touchCall { x: U256::ONE }.abi_encode());
    let expensive = wallets[1].sign(&touch.clone().gas(EXPENSIVE)).expect("a signature");
    here.api.submit(&expensive).await.expect("it is taken");
    let end = here.api.end_of(expensive.hash).await.expect("an end");
    assert_eq!(end.finality(), TransactionFinality::Dropped);
    let says = ["speculative gas", "limit 1000000", "Send it again later"];
    assert!(says.iter().all(|words| end.dropped_reason.contains(words)), "{end:?}");

    // Others are not concerned, and what stays on the shard needs no prediction.
    let call = wallets[2].sign(&touch.gas(100_000)).expect("a signature");
    here.api.carry_out(&[call]).await.expect("it is carried out");
    let own = wallets[2].address();
    let local = wallets[1].sign_at(0, &Plan::pay(own, 1)).expect("a signature");
    here.api.carry_out(&[local]).await.expect("it is carried out");
    here.stop().await;
}
