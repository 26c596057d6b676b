use atoll_api::state::Read;
use atoll_gateway::Limits;
use atoll_types::{Address, Basic, Bytes, CodeRef, StateKey, StateValue, U256};
use atoll_wire::v1::{CallOutcome, CallRequest, CallResponse};
use tonic::{Code, Status};

use crate::fakes::block;
use crate::setup::Gateway;

const FRONT: Address = Address::repeat_byte(0xf0);
const BACK: Address = Address::repeat_byte(0xb0);

/// Returns slot 0.
const RETURN_SLOT: &[u8] = &[0x60, 0, 0x54, 0x60, 0, 0x52, 0x60, 32, 0x60, 0, 0xf3];

/// Returns slot 0 plus what `callee` returns.
fn add_to(callee: Address) -> Bytes {
    let mut code = vec![0x60, 32, 0x60, 0, 0x60, 0, 0x60, 0, 0x73];
    code.extend(callee);
    code.extend([0x5a, 0xfa, 0x50, 0x60, 0, 0x51, 0x60, 0, 0x54, 0x01]);
    code.extend([0x60, 0, 0x52, 0x60, 32, 0x60, 0, 0xf3]);
    code.into()
}

/// A contract on shard 0 that adds what one on shard 1 has in its slot. Their slots are 1 and 2 from
/// cut 1 on, 10 and 20 from cut 6 on, 100 and 200 from cut 7 on.
async fn gateway() -> Gateway {
    let gateway = Gateway::with(Limits::default(), [(FRONT, 0), (BACK, 1)]).await;
    for (index, (address, code)) in
        [(FRONT, add_to(BACK)), (BACK, Bytes::from_static(RETURN_SLOT))].into_iter().enumerate()
    {
        gateway.shards[index].change(|script| {
            script.cut = 7;
            let hash = alloy_primitives::keccak256(&code);
            script.codes.insert(hash, code);
            let code = StateValue::Code(CodeRef { hash, incarnation: 0 });
            let nonce = StateValue::Basic(Basic { nonce: 1, balance: U256::ZERO });
            for (cut, times) in [(1, 1), (6, 10), (7, 100)] {
                let values = script.values.entry(cut).or_default();
                let word = StateValue::Slot(U256::from((index + 1) * times));
                values.insert(StateKey::Slot(address, 0, U256::ZERO), word);
                if cut == 1 {
                    values.insert(StateKey::Code(address), code);
                    values.insert(StateKey::Basic(address), nonce);
                }
            }
        });
    }
    gateway.beacon.change(|script| {
        script.blocks = (1..=6).map(|number| block(number, number)).collect();
        script.blocks.push(block(7, 5));
    });
    gateway
}

async fn call(gateway: &Gateway, min_cut: u64) -> Result<CallResponse, Status> {
    let request = CallRequest { to: FRONT.to_vec().into(), min_cut, ..CallRequest::default() };
    Ok(gateway.client().await.call(request).await?.into_inner())
}

/// What `call` gives while `other` runs. If the call ends without it, then so does this.
async fn meanwhile<T>(call: impl Future<Output = T>, other: impl Future<Output = ()>) -> T {
    let other = async {
        other.await;
        std::future::pending().await
    };
    tokio::select! {
        result = call => result,
        never = other => never,
    }
}

fn sum(response: &CallResponse) -> U256 {
    assert_eq!(response.outcome(), CallOutcome::Succeeded, "{response:?}");
    U256::from_be_slice(&response.return_data)
}

#[tokio::test]
async fn a_call_reads_all_shards_at_one_cut() {
    let gateway = gateway().await;
    let response = call(&gateway, 3).await.expect("it runs");
    assert_eq!((sum(&response), response.cut), (U256::from(3), 5));
    assert!(response.gas_used > 21_000);
    for shard in &gateway.shards {
        let reads = shard.lock().reads.clone();
        assert!(!reads.is_empty());
        // Block 7 is the one that says that the rounds before cut 5 are decided.
        let right = |read: &Read| read.at == Some(5) && read.min_cut == 7;
        assert!(reads.iter().all(right), "{reads:?}");
    }
}

#[tokio::test]
async fn code_is_fetched_once_and_kept_for_later_calls() {
    let gateway = gateway().await;
    for _ in 0..2 {
        call(&gateway, 0).await.expect("it runs");
    }
    for shard in &gateway.shards {
        let reads = shard.lock().reads.clone();
        assert_eq!(reads.iter().map(|read| read.codes.len()).sum::<usize>(), 1);
    }
}

#[tokio::test]
async fn a_call_waits_until_its_cut_is_settled() {
    let gateway = gateway().await;
    let waiting = async {
        gateway.beacon.until(|script| (script.waiting == 1).then_some(())).await;
        gateway.beacon.change(|script| script.blocks.push(block(8, 6)));
        for shard in &gateway.shards {
            shard.change(|script| script.cut = 8);
        }
    };
    let response = meanwhile(call(&gateway, 6), waiting).await;
    let response = response.expect("it runs");
    assert_eq!((sum(&response), response.cut), (U256::from(30), 6));
}

#[tokio::test]
async fn a_call_goes_on_to_a_newer_cut_when_a_shard_no_longer_has_the_old_one() {
    let gateway = gateway().await;
    gateway.shards[1].change(|script| script.oldest_cut = 6);
    let waiting = async {
        gateway.beacon.until(|script| (script.waiting == 1).then_some(())).await;
        gateway.beacon.change(|script| script.blocks.push(block(8, 7)));
        for shard in &gateway.shards {
            shard.change(|script| script.cut = 8);
        }
    };
    let response = meanwhile(call(&gateway, 0), waiting).await;
    let response = response.expect("it runs");
    assert_eq!((sum(&response), response.cut), (U256::from(300), 7));
}

#[tokio::test]
async fn a_cut_that_nobody_can_have_seen_is_refused() {
    let gateway = gateway().await;
    let status = call(&gateway, 8).await.expect_err("block 7 is the newest");
    assert_eq!(status.code(), Code::OutOfRange);
}

#[tokio::test]
async fn reverts_halts_and_calls_that_cannot_begin_are_told_apart() {
    let gateway = gateway().await;
    let mut client = gateway.client().await;
    // A creation whose code is: return the block's time; revert with it; nonsense.
    let word = [0x42, 0x60, 0, 0x52, 0x60, 32, 0x60, 0];
    let ends = [
        (0xf3, CallOutcome::Succeeded),
        (0xfd, CallOutcome::Reverted),
        (0xfe, CallOutcome::Halted),
    ];
    for (end, outcome) in ends {
        let mut data = word.to_vec();
        data.push(end);
        let request = CallRequest { data: data.into(), gas: 1_000_000, ..CallRequest::default() };
        let response = client.call(request).await.expect("it runs").into_inner();
        assert_eq!(response.outcome(), outcome);
        if outcome == CallOutcome::Halted {
            assert_eq!(response.gas_used, 1_000_000);
            assert!(!response.message.is_empty());
        } else {
            let time = U256::from_be_slice(&response.return_data);
            assert_eq!(time, U256::from(500), "with the values of block 5");
        }
        assert_eq!(response.contract_address.len(), if end == 0xf3 { 20 } else { 0 });
    }
    let poor = CallRequest { to: BACK.to_vec().into(), gas: 20_000, ..CallRequest::default() };
    let status = client.call(poor).await.expect_err("too little gas");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("intrinsic gas"), "{status}");
    let malformed = CallRequest { value: vec![1; 33].into(), ..CallRequest::default() };
    let status = client.call(malformed).await.expect_err("33 bytes");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_call_that_reads_without_end_is_refused() {
    let limits = Limits { call_keys: 500, ..Limits::default() };
    let gateway = Gateway::with(limits, [(FRONT, 0)]).await;
    // for (;;) sload(gas())
    let code = Bytes::from_static(&[0x5b, 0x5a, 0x54, 0x50, 0x60, 0, 0x56]);
    for shard in &gateway.shards {
        shard.change(|script| script.cut = 1);
    }
    gateway.shards[0].change(|script| {
        let hash = alloy_primitives::keccak256(&code);
        script.codes.insert(hash, code);
        let code = StateValue::Code(CodeRef { hash, incarnation: 0 });
        script.values.entry(1).or_default().insert(StateKey::Code(FRONT), code);
    });
    let request = CallRequest { to: FRONT.to_vec().into(), ..CallRequest::default() };
    let status = gateway.client().await.call(request).await.expect_err("without end");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("500 keys"), "{status}");
}
