//! One sender with many transactions at once.

use std::collections::BTreeSet;

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall as _;
use atoll_tests::{
    contracts::{Token, token},
    here::{Here, Shape},
    wallet::{Plan, Signed, Wallet},
};
use atoll_wire::v1::TransactionReceipt;

/// Consecutive transactions of the sender.
const TRANSFERS: u64 = 64;

fn rounds(receipts: &[TransactionReceipt]) -> BTreeSet<u64> {
    receipts.iter().map(|receipt| receipt.round).collect()
}

/// An exchange pays out: the token is on another shard than the exchange, the payees are everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn many_consecutive_calls_across_shards_share_few_rounds() -> anyhow::Result<()> {
    atoll_tests::log();
    let mut exchange = Wallet::seeded("exchange", 0, 0)?;
    let mut issuer = Wallet::seeded("issuer", 0, 0)?;
    let contract = issuer.address().create(0);
    let mut shape = Shape::new(4);
    let rich = U256::from(10).pow(U256::from(21));
    shape.balances = [(exchange.address(), rich), (issuer.address(), rich)].into();
    shape.placement =
        [(exchange.address(), 0), (issuer.address(), 1), (contract, 1)].into_iter().collect();
    let here = Here::start(&shape).await?;
    let mint = Token::mintCall { to: exchange.address(), amount: U256::from(1_000) };
    let begin = [
        issuer.sign(&Plan::create(token("T")?))?,
        issuer.sign(&Plan::call(contract, mint.abi_encode()))?,
    ];
    here.api.carry_out(&begin).await?;

    let payee = |number: u64| Address::left_padding_from(&(0x5000 + number).to_be_bytes());
    let transfers: Vec<Signed> = (0..TRANSFERS)
        .map(|number| {
            let call = Token::transferCall { to: payee(number), value: U256::ONE };
            exchange.sign(&Plan::call(contract, call.abi_encode()).gas(120_000))
        })
        .collect::<Result<_, _>>()?;
    let start = tokio::time::Instant::now();
    let receipts = here.api.carry_out(&transfers).await?;
    let rounds = rounds(&receipts);
    println!("{TRANSFERS} transfers in {} rounds, {:?}", rounds.len(), start.elapsed());
    assert!(receipts.iter().all(|receipt| receipt.shards == [0, 1]), "{receipts:?}");
    assert!(rounds.len() as u64 <= TRANSFERS / 4, "{rounds:?}");
    here.stop().await;
    Ok(())
}
