use atoll_api::{beacon::BeaconStatsReply, executor::ExecutorStatsReply, router::RouterStatsReply};
use atoll_fabric::Traffic;
use atoll_gateway::Limits;
use atoll_meter::WorkDone;
use atoll_types::{
    AbortCause, Address, Anchored, B256, Basic, Bytes, CodeRef, CreditsDue, Decision, GroupId,
    PlannedGroup, ShardId, StateKey, StateValue, TxRef, U256, Verdict,
};
use atoll_wire::v1::{
    GetAccountRequest, GetBlockRequest, GetClusterRequest, GetStatsRequest, GetStorageRequest,
    get_stats_response::{Refused, Traffic as WireTraffic, Work},
};
use tonic::Code;

use crate::fakes::block;
use crate::setup::{CHAIN_ID, Gateway};

const CONTRACT: Address = Address::repeat_byte(0xc0);

#[tokio::test]
async fn accounts_and_slots_come_from_their_shard_at_the_cut_asked_for() {
    let gateway = Gateway::with(Limits::default(), [(CONTRACT, 1)]).await;
    gateway.beacon.change(|script| script.blocks.push(block(2, 2)));
    let code = Bytes::from_static(&[0x60, 0x01]);
    let hash = alloy_primitives::keccak256(&code);
    let balance = U256::from(0x1234);
    gateway.shards[1].change(|script| {
        script.cut = 1;
        script.codes.insert(hash, code.clone());
        let values = script.values.entry(1).or_default();
        let basic = Basic { nonce: 5, balance };
        values.insert(StateKey::Basic(CONTRACT), StateValue::Basic(basic));
        // The contract was destroyed twice, and made again.
        let reference = CodeRef { hash, incarnation: 2 };
        values.insert(StateKey::Code(CONTRACT), StateValue::Code(reference));
        let old = StateKey::Slot(CONTRACT, 0, U256::from(7));
        values.insert(old, StateValue::Slot(U256::from(8)));
        let slot = StateKey::Slot(CONTRACT, 2, U256::from(7));
        values.insert(slot, StateValue::Slot(U256::from(9)));
    });
    let mut client = gateway.client().await;
    let request =
        GetAccountRequest { address: CONTRACT.to_vec().into(), min_cut: 2, with_code: true };
    let wait = async {
        let shard = &gateway.shards[1];
        shard.until(|script| (script.reads.len() == 1).then_some(())).await;
        shard.change(|script| script.cut = 2);
    };
    let (account, ()) = tokio::join!(client.get_account(request), wait);
    let account = account.expect("an account").into_inner();
    assert_eq!((account.nonce, &account.balance[..]), (5, &[0x12, 0x34][..]));
    assert_eq!((account.code_hash, account.code), (hash.to_vec().into(), code.0));
    assert_eq!((account.shard, account.cut), (1, 2));
    let request =
        GetStorageRequest { address: CONTRACT.to_vec().into(), slot: vec![7].into(), min_cut: 0 };
    let slot = client.get_storage(request).await.expect("a slot").into_inner();
    assert_eq!(U256::from_be_slice(&slot.value), U256::from(9));
    assert_eq!((slot.value.len(), slot.shard, slot.cut), (32, 1, 2));
    assert!(gateway.shards[0].lock().reads.is_empty());
    let future = GetAccountRequest {
        address: CONTRACT.to_vec().into(),
        min_cut: u64::MAX,
        with_code: false,
    };
    let status = client.get_account(future).await.expect_err("a cut to come");
    assert_eq!(status.code(), Code::OutOfRange);
    let nobody = GetAccountRequest { address: vec![1; 20].into(), ..GetAccountRequest::default() };
    let nobody = client.get_account(nobody).await.expect("empty, not an error").into_inner();
    assert_eq!((nobody.nonce, nobody.balance.len(), nobody.code.len()), (0, 0, 0));
    assert_eq!(nobody.code_hash, atoll_types::KECCAK_EMPTY.to_vec());
}

#[tokio::test]
async fn a_block_says_what_was_ordered() {
    let gateway = Gateway::start().await;
    let mut second = block(2, 1);
    let tx = |byte| TxRef { hash: B256::repeat_byte(byte), attempt: 1 };
    second.plan.push(PlannedGroup {
        id: GroupId { round: 2, index: 0 },
        executor: ShardId(1),
        owners: vec![ShardId(0), ShardId(1)],
        txs: vec![tx(1), tx(2)],
        gas: 42_000,
    });
    let group = GroupId { round: 1, index: 3 };
    let digest = B256::repeat_byte(7);
    second.decisions = vec![
        Decision { group, verdict: Verdict::Commit { digest, late: Vec::new() } },
        Decision { group, verdict: Verdict::Abort(AbortCause::Silent) },
    ];
    second.credits.push(CreditsDue { from: ShardId(0), to: ShardId(1), up_to: 9 });
    second.dropped.push(tx(3));
    let hash = second.hash();
    gateway.beacon.change(|script| script.blocks.extend([second, block(3, 3)]));
    let mut client = gateway.client().await;
    let mut get = async |number| {
        let response = client.get_block(GetBlockRequest { number }).await;
        response.map(|response| response.into_inner().block.expect("always set"))
    };
    let second = get(Some(2)).await.expect("a block");
    assert_eq!((second.number, second.hash), (2, hash.to_vec().into()));
    assert_eq!((second.timestamp, second.base_fee, second.settled), (200, 7, 1));
    let group = &second.plan[0];
    assert_eq!((group.executor, &*group.owners, group.gas), (1, &[0, 1][..], 42_000));
    assert_eq!(group.transactions, [vec![1; 32], vec![2; 32]]);
    let verdicts: Vec<_> = second.decisions.iter().map(|d| (d.commit, d.digest.len())).collect();
    assert_eq!(verdicts, [(true, 32), (false, 0)]);
    assert_eq!(second.credits[0].up_to, 9);
    assert_eq!(second.dropped, [vec![3; 32]]);
    assert_eq!(get(None).await.expect("the newest").number, 3);
    assert_eq!(get(Some(4)).await.expect_err("to come").code(), Code::NotFound);
    assert_eq!(get(Some(0)).await.expect_err("not kept").code(), Code::NotFound);
}

#[tokio::test]
async fn the_cluster_says_how_it_stands_and_who_owns_what() {
    let gateway = Gateway::with(Limits::default(), [(CONTRACT, 1)]).await;
    let mut newest = block(2, 1);
    newest.anchors.push(Anchored {
        shard: ShardId(0),
        head: 3,
        cut: 1,
        digest: B256::ZERO,
        root: None,
    });
    gateway.beacon.change(|script| script.blocks.push(newest));
    gateway.shards[0].change(|script| script.cut = 1);
    gateway.shards[1].change(|script| script.cut = 2);
    let mut client = gateway.client().await;
    let request = GetClusterRequest { addresses: vec![CONTRACT.to_vec().into()] };
    let cluster = client.get_cluster(request).await.expect("an answer").into_inner();
    assert_eq!(cluster.chain_id, CHAIN_ID);
    assert_eq!(cluster.coinbase, [0xcb; 20].to_vec());
    assert_eq!((cluster.beacon_head, cluster.settled, cluster.base_fee), (2, 1, 7));
    assert_eq!((cluster.intents_waiting, cluster.groups_open), (4, 5));
    assert_eq!(cluster.owners, [1]);
    let shards = cluster.shards.iter().map(|s| (s.number, s.reachable, s.head, s.cut, s.lag));
    let shards: Vec<_> = shards.collect();
    assert_eq!(shards, [(0, true, 101, 1, 1), (1, true, 102, 2, 0)]);
    let limits = cluster.limits.expect("always set");
    assert_eq!((limits.batch_transactions, limits.message_bytes), (10_000, 4 << 20));
    assert_eq!((limits.call_gas, limits.connection_streams), (50_000_000, 256));
    let request = GetClusterRequest { addresses: vec![CONTRACT.to_vec().into(); 10_001] };
    let status = client.get_cluster(request).await.expect_err("too many");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn counters_are_those_of_each_service_and_who_is_silent_is_said_to_be() {
    let gateway = Gateway::start().await;
    let mut client = gateway.client().await;
    let silent = client.get_stats(GetStatsRequest {}).await.expect("an answer").into_inner();
    assert!(silent.shards.iter().all(|shard| !shard.reachable && shard.local.is_none()));
    assert!(!silent.beacon.expect("always set").reachable);

    let work = WorkDone { batches: 1, items: 2, cpu_ns: 3 };
    let traffic = Traffic { requests: 4, request_bytes: 5, replies: 6, reply_bytes: 7 };
    gateway.shards[1].change(|script| {
        script.executor = Some(ExecutorStatsReply { groups: work, wrong: 8, ..Default::default() });
        script.router = RouterStatsReply {
            fetch: traffic,
            intents: 9,
            refused: vec![("expired".into(), 10)],
            ..Default::default()
        };
    });
    let beacon = BeaconStatsReply { txs: 11, aborts: 12, cpu_ns: 13, ..Default::default() };
    gateway.beacon.change(|script| script.stats = Some(beacon));
    let stats = client.get_stats(GetStatsRequest {}).await.expect("an answer").into_inner();
    assert!(!stats.shards[0].reachable);
    let shard = &stats.shards[1];
    assert_eq!((shard.number, shard.reachable, shard.wrong, shard.intents), (1, true, 8, 9));
    let traffic = WireTraffic { requests: 4, request_bytes: 5, replies: 6, reply_bytes: 7 };
    assert_eq!((shard.fetch, shard.deliver), (Some(traffic), Some(WireTraffic::default())));
    assert_eq!(shard.groups, Some(Work { batches: 1, transactions: 2, cpu_ns: 3 }));
    assert_eq!(shard.refused, [Refused { rule: "expired".into(), count: 10 }]);
    let beacon = stats.beacon.expect("always set");
    assert_eq!((beacon.transactions, beacon.aborts, beacon.cpu_ns), (11, 12, 13));
}
