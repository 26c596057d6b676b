//! `BLOCKHASH`: the same on every shard, in local blocks, groups, calls, and after a restart.

use alloy_primitives::{Address, B256, Bytes, U256};
use anyhow::Context as _;
use atoll_api::beacon::Blocks;
use atoll_fabric::Context;
use atoll_tests::{
    PATIENCE,
    api::Api,
    here::{Here, Shape},
    wallet::{Plan, Wallet},
};
use atoll_types::BeaconBlock;
use tokio::time::Instant;

/// `NUMBER - back`, in order.
const BACK: [u16; 5] = [1, 2, 256, 257, 0];

/// Creation code of a contract that puts `BLOCKHASH(NUMBER - back)` into slot i for each of [`BACK`],
/// and returns the first one.
fn probe() -> Bytes {
    let mut runtime = Vec::new();
    for (slot, back) in BACK.iter().enumerate() {
        let [high, low] = back.to_be_bytes();
        // PUSH2 back, NUMBER, SUB, BLOCKHASH, PUSH1 slot, SSTORE
        runtime.extend([0x61, high, low, 0x43, 0x03, 0x40, 0x60, slot as u8, 0x55]);
    }
    // PUSH1 1, NUMBER, SUB, BLOCKHASH, PUSH0, MSTORE, PUSH1 32, PUSH0, RETURN
    runtime.extend([0x60, 1, 0x43, 0x03, 0x40, 0x5f, 0x52, 0x60, 32, 0x5f, 0xf3]);
    let size = runtime.len() as u8;
    // PUSH1 size, PUSH1 10, PUSH0, CODECOPY, PUSH1 size, PUSH0, RETURN
    let mut code = vec![0x60, size, 0x60, 10, 0x5f, 0x39, 0x60, size, 0x5f, 0xf3];
    code.extend(runtime);
    code.into()
}

async fn block(here: &Here, number: u64) -> anyhow::Result<BeaconBlock> {
    if number == 0 {
        return Ok(here.cluster.genesis.block.clone());
    }
    let ask = Blocks { after: number - 1, max: 1, wait_ms: 0 };
    let context = Context::none().with_timeout(PATIENCE);
    let mut blocks = here.cluster.beacon.blocks.call(context, ask).await?.blocks;
    anyhow::ensure!(!blocks.is_empty(), "there is no block {number}");
    Ok(std::sync::Arc::unwrap_or_clone(blocks.swap_remove(0)))
}

/// What a transaction of round `number` has to have found.
async fn expected(here: &Here, number: u64) -> anyhow::Result<Vec<U256>> {
    let mut hashes = Vec::new();
    for back in BACK {
        let ancestor = number.checked_sub(u64::from(back)).filter(|_| (1..=256).contains(&back));
        hashes.push(match ancestor {
            Some(ancestor) => block(here, ancestor).await?.hash().into(),
            None => U256::ZERO,
        });
    }
    Ok(hashes)
}

async fn found(api: &Api, contract: Address, cut: u64) -> anyhow::Result<Vec<U256>> {
    let mut found = Vec::new();
    for slot in 0..BACK.len() as u64 {
        found.push(api.storage(contract, U256::from(slot), cut).await?);
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_of_beacon_blocks_are_the_same_everywhere() -> anyhow::Result<()> {
    let wallet = |index| Wallet::seeded("hashes", 0, index);
    let (mut near, mut far) = (wallet(0)?, wallet(1)?);
    let contract = near.address().create(0);
    let mut shape = Shape::new(2);
    // More than 256 blocks in little time.
    shape.beacon.heartbeat_ms = 1;
    let rich = U256::from(10).pow(U256::from(20));
    shape.balances = [(near.address(), rich), (far.address(), rich)].into();
    shape.placement = [(near.address(), 0), (contract, 0), (far.address(), 1)].into();
    let mut here = Here::start(&shape).await?;
    here.api.carry_out(&[near.sign(&Plan::create(probe()))?]).await?;
    let call = || Plan::call(contract, Bytes::from_static(&[1]));
    for restarted in [false, true] {
        if restarted {
            let deadline = Instant::now() + PATIENCE;
            while block(&here, 300).await.is_err() {
                anyhow::ensure!(Instant::now() < deadline, "the beacon makes no blocks");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            here = here.restart().await?;
        }
        // In a local block, and in a group.
        for tx in [near.sign(&call())?, far.sign(&call())?] {
            let receipt = here.api.carry_out(&[tx]).await?.remove(0);
            let found = found(&here.api, contract, receipt.cut).await?;
            let expected = expected(&here, receipt.round).await?;
            assert_eq!(found, expected, "{receipt:?}");
            assert_eq!(found[2].is_zero(), receipt.round < 256, "the last one that is kept");
        }
        let answer = here.api.call(contract, Bytes::from_static(&[1]), 0).await?;
        let parent = answer.cut.checked_sub(1).context("a call before the first block")?;
        let hash = block(&here, parent).await?.hash();
        assert_eq!(B256::from_slice(&answer.return_data), hash, "in a call");
    }
    here.stop().await;
    Ok(())
}
