//! Access lists (EIP-2930) as a hint of what to fetch first: counted in messages between shards.

use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall as _;
use atoll::config::Limits;
use atoll_tests::{
    contracts::{Cell, bytecode},
    here::{Here, Shape},
    wallet::{Kind, Plan, Wallet},
};
use atoll_wire::v1::GetStatsRequest;

/// Requests for values, one of which may be about several keys, that shard 0 has made so far.
async fn fetches(here: &Here) -> u64 {
    let reply = here.api.client.clone().get_stats(GetStatsRequest {}).await.expect("an answer");
    let stats = reply.into_inner();
    stats.shards[0].fetch.as_ref().expect("always set").requests
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_list_saves_fetches_and_a_wrong_one_changes_nothing_else() {
    let wallet = |index| Wallet::seeded("access list", 0, index).expect("a key");
    let (mut caller, mut issuer) = (wallet(0), wallet(1));
    let cells: Vec<Address> = (0..4).map(|nonce| issuer.address().create(nonce)).collect();
    // What hangs would be fetched again.
    let limits = Limits { refresh_ms: 3_600_000, ..Limits::default() };
    let mut shape = Shape { limits, ..Shape::new(2) };
    let rich = U256::from(10).pow(U256::from(20));
    shape.balances = [(caller.address(), rich), (issuer.address(), rich)].into();
    shape.placement = [(caller.address(), 0), (issuer.address(), 1)].into();
    shape.placement.extend(cells.iter().map(|cell| (*cell, 1)));
    let here = Here::start(&shape).await.expect("a cluster");
    let cell = || Plan::create(bytecode("Cell").expect("an artefact"));
    let deployments: Vec<_> =
        cells.iter().map(|_| issuer.sign(&cell()).expect("a signature")).collect();
    here.api.carry_out(&deployments).await.expect("they are deployed");

    let item = |address: Address, slots: std::ops::Range<u64>| AccessListItem {
        address,
        storage_keys: slots.map(|slot| B256::from(U256::from(slot))).collect(),
    };
    let wrong = vec![item(cells[3], 5..9), item(Address::repeat_byte(0x77), 0..3)];
    let lists = [vec![], vec![], vec![item(cells[2], 0..1)], wrong];
    let mut made = Vec::new();
    for (cell, items) in cells.iter().zip(lists) {
        let plan = Plan {
            access_list: AccessList(items),
            kind: Kind::Access,
            ..Plan::call(*cell, Cell::touchCall { x: U256::from(7) }.abi_encode()).gas(200_000)
        };
        let before = fetches(&here).await;
        let tx = caller.sign(&plan).expect("a signature");
        let receipts = here.api.carry_out(&[tx]).await.expect("it is carried out");
        assert_eq!((&receipts[0].shards[..], receipts[0].logs.len()), (&[0, 1][..], 1));
        made.push(fetches(&here).await - before);
        let input = Cell::valueCall {}.abi_encode();
        let value = here.api.call(*cell, input.into(), receipts[0].cut).await.expect("an answer");
        assert!(!U256::from_be_slice(&value.return_data).is_zero());
    }
    println!("fetches: {made:?}");
    let [first, without, right, wrong] = made[..] else { panic!("there are four") };
    assert!(first > without, "its code was fetched, too: {made:?}");
    assert!(right < without, "{made:?}");
    assert!(wrong <= without + 1, "the list itself: {made:?}");
    here.stop().await;
}
