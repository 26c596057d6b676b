//! What a cluster counts, through the public API: messages and work of one call across shards.

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall as _;
use atoll_tests::{
    api::Api,
    contracts::{Hop, hop},
    here::{Here, Shape},
    wallet::{Plan, Wallet},
};
use atoll_wire::v1::{GetStatsRequest, GetStatsResponse};

async fn stats(api: &Api) -> GetStatsResponse {
    let reply = api.client.clone().get_stats(GetStatsRequest {}).await.expect("an answer");
    let stats = reply.into_inner();
    assert!(stats.shards.iter().all(|shard| shard.reachable));
    assert!(stats.beacon.as_ref().is_some_and(|beacon| beacon.reachable));
    stats
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_across_shards_is_counted_on_its_way() {
    let mut wallet = Wallet::seeded("stats", 0, 0).expect("a key");
    let contract = wallet.address().create(0);
    let mut shape = Shape::new(2);
    shape.balances.insert(wallet.address(), U256::from(10).pow(U256::from(20)));
    shape.placement = [(wallet.address(), 0), (contract, 0)].into();
    let here = Here::start(&shape).await.expect("a cluster");
    let deployment = wallet.sign(&Plan::create(hop(Address::ZERO).expect("an artefact")));
    let deployment = deployment.expect("a signature");
    here.api.carry_out(&[deployment]).await.expect("it is deployed");
    let local = stats(&here.api).await;
    let work = local.shards[0].local.expect("always set");
    assert!(work.batches == 1 && work.transactions == 1 && work.cpu_ns > 0, "{work:?}");
    assert_eq!(local.shards[0].escalated, 0);
    for shard in &local.shards {
        let deliver = shard.deliver.expect("always set");
        assert_eq!((deliver.requests, deliver.request_bytes), (0, 0), "nothing has crossed");
        assert!(shard.announce.expect("always set").request_bytes > 0, "anchors");
    }

    // The same contract, called from the other shard.
    let mut other = (0..)
        .map(|index| Wallet::development().expect("keys").swap_remove(index))
        .find(|wallet| here.cluster.placement.owner(&wallet.address()).0 == 1)
        .expect("one in two is");
    let call = Hop::hopCall { amount: U256::ONE, failAtEnd: false };
    let call = other.sign(&Plan::call(contract, call.abi_encode())).expect("a signature");
    let receipts = here.api.carry_out(&[call]).await.expect("it is carried out");
    assert_eq!(receipts[0].shards, [0, 1]);
    let both = stats(&here.api).await;
    let home = &both.shards[1];
    assert_eq!((home.escalated, home.intents, home.credits), (1, 1, 0));
    let predictions = home.predictions.expect("always set");
    assert!(predictions.batches > 1, "values of the other shard are fetched: {predictions:?}");
    assert_eq!(predictions.transactions, 1);
    let fetch = home.fetch.expect("always set");
    assert!(fetch.requests >= 1 && fetch.replies == fetch.requests, "{fetch:?}");
    assert!(fetch.request_bytes > 0 && fetch.reply_bytes > 0);
    // Shared one way; a lease or a part the other way.
    for shard in &both.shards {
        let deliver = shard.deliver.expect("always set");
        assert!(deliver.requests > 0 && deliver.request_bytes > 0, "{deliver:?}");
    }
    let groups = |stats: &GetStatsResponse| {
        let work = stats.shards.iter().filter_map(|shard| shard.groups);
        work.map(|work| (work.batches, work.transactions))
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    };
    assert_eq!((groups(&local), groups(&both)), ((0, 0), (1, 1)));
    let beacon = both.beacon.as_ref().expect("always set");
    assert_eq!((beacon.intents, beacon.groups, beacon.transactions), (1, 1, 1));
    assert_eq!((beacon.commits, beacon.aborts), (1, 0));
    assert!(beacon.cpu_ns > local.beacon.as_ref().expect("always set").cpu_ns);
    let refused = both.shards.iter().flat_map(|shard| &shard.refused).chain(&beacon.refused);
    assert_eq!(refused.count(), 0);
    here.stop().await;
}
