//! What commands ask a gateway, and what they make of its answers.

use std::time::{Duration, Instant};

use alloy_consensus::{Transaction as _, TxEnvelope, transaction::SignerRecoverable as _};
use alloy_eips::Decodable2718 as _;
use alloy_primitives::{Address, B256, TxKind, U256, keccak256};
use atoll_wire::v1::get_receipt_request::Wait as Until;
use atoll_wire::v1::{
    CallOutcome, CallResponse, GetClusterResponse, TransactionFinality, TransactionReceipt,
};
use tonic::Status;

use super::fake::{Script, Stage, refused};
use crate::cli::client::Client;
use crate::cli::estimate::{Trial, gas_limit};
use crate::cli::receipt::Wait;
use crate::cli::target::Found;
use crate::cli::tx::{self, FollowingArgs, SigningArgs};
use crate::cli::{abi, key};

const TO: Address = Address::repeat_byte(0x70);
const A_WHILE: Duration = Duration::from_secs(10);

fn signing() -> SigningArgs {
    SigningArgs {
        value: U256::from(5),
        from: Some(0),
        key: None,
        nonce: None,
        gas: None,
        max_fee: None,
        priority_fee: None,
    }
}

fn following(wait: Wait) -> FollowingArgs {
    FollowingArgs { wait, timeout: 10, json: true }
}

fn receipt(finality: TransactionFinality, cut: u64) -> TransactionReceipt {
    TransactionReceipt { finality: finality.into(), status: true, cut, ..Default::default() }
}

fn gave(outcome: CallOutcome, gas_used: u64, data: &[u8]) -> Result<CallResponse, Status> {
    Ok(CallResponse {
        outcome: outcome.into(),
        gas_used,
        return_data: data.to_vec().into(),
        ..Default::default()
    })
}

fn trial() -> Trial {
    Trial { from: Address::ZERO, to: TO.into(), value: U256::ZERO, data: vec![1].into() }
}

#[tokio::test]
async fn a_payment_and_what_is_read_after_it() {
    use TransactionFinality::{Executed, Final, Pending};
    let stage = Stage::new(Script {
        cluster: GetClusterResponse { chain_id: 31337, base_fee: 7, ..Default::default() },
        submit: [Ok(())].into(),
        receipts: [receipt(Pending, 0), receipt(Executed, 41), receipt(Final, 42)].map(Ok).into(),
        calls: [gave(CallOutcome::Succeeded, 21_000, &[])].into(),
        ..Default::default()
    })
    .await;
    let signer = key::development(0).unwrap();
    let signing = signing();
    let payment = tx::sign(&stage.client, &signer, TO.into(), Default::default(), &signing);
    let signed = payment.await.unwrap();
    let sent = tx::send(&stage.client, &signed.raw, &following(Wait::Final)).await.unwrap();
    assert_eq!((sent.finality(), sent.cut), (Final, 42));

    let raw = stage.gateway.with(|script| script.submitted.clone());
    let [raw] = &raw[..] else { panic!("{} were sent", raw.len()) };
    let envelope = TxEnvelope::decode_2718(&mut &raw[..]).unwrap();
    assert_eq!(envelope.chain_id(), Some(31337));
    assert_eq!((envelope.nonce(), envelope.gas_limit()), (7, 21_000));
    assert_eq!(envelope.max_fee_per_gas(), 1_000_000_014);
    assert_eq!((envelope.kind(), envelope.value()), (TxKind::Call(TO), U256::from(5)));
    assert_eq!(envelope.recover_signer().unwrap(), signer.address());
    assert_eq!(sent.hash[..], envelope.tx_hash()[..]);

    // The next command is another process: it finds the cut in the file.
    stage.gateway.with(|script| script.newest = 50);
    let next = Client::connect_to(stage.found.clone()).await.unwrap();
    next.account(TO, false).await.unwrap();
    next.storage(TO, B256::ZERO).await.unwrap();
    let old = next.with_min_cut(Some(3));
    old.account(TO, false).await.unwrap();
    let min_cuts = stage.gateway.with(|script| script.min_cuts.clone());
    assert_eq!(min_cuts, [0, 0, 42, 50, 3]);
}

#[tokio::test]
async fn not_waiting() {
    let stage = Stage::new(Script { submit: [Ok(())].into(), ..Default::default() }).await;
    let sent = tx::send(&stage.client, &[1, 2], &following(Wait::None)).await.unwrap();
    assert_eq!(sent.hash[..], keccak256([1, 2])[..]);
    assert_eq!(sent.finality(), TransactionFinality::Pending);
    assert!(stage.gateway.with(|script| script.asked.is_empty()));
}

#[tokio::test]
async fn an_unsure_offer_is_repeated() {
    let unsure = || refused(Status::unknown("no answer"), "UNKNOWN");
    let busy = || refused(Status::resource_exhausted("full"), "MEMPOOL_FULL");
    let known = refused(Status::already_exists("known"), "ALREADY_KNOWN");
    let stage = Stage::new(Script {
        submit: [Err(busy()), Err(unsure()), Err(known)].into(),
        ..Default::default()
    })
    .await;
    assert_eq!(stage.client.submit(&[1]).await.unwrap(), keccak256([1]));
    assert_eq!(stage.gateway.with(|script| script.submitted.len()), 3);

    stage.gateway.with(|script| script.submit = [Err(unsure())].into());
    let error = format!("{:#}", stage.client.submit(&[1]).await.unwrap_err());
    assert!(error.contains("it is not known whether"), "{error}");
    assert!(error.contains("no answer") && error.contains(&stage.found.url), "{error}");

    stage.gateway.with(|script| script.submit = [Err(busy())].into());
    let error = format!("{:#}", stage.client.submit(&[1]).await.unwrap_err());
    assert!(error.contains("was not taken: full"), "{error}");
}

#[tokio::test]
async fn a_nonce_that_is_used_up() {
    let low = || refused(Status::failed_precondition("nonce 1 is below 2"), "NONCE_TOO_LOW");
    let stage = Stage::new(Script {
        submit: [Err(low())].into(),
        receipts: [Err(Status::not_found("unknown"))].into(),
        ..Default::default()
    })
    .await;
    let error = format!("{:#}", stage.client.submit(&[1]).await.unwrap_err());
    assert!(error.contains("nonce 1 is below 2") && error.contains("--nonce"), "{error}");
    // By this very transaction: it is done.
    let done = receipt(TransactionFinality::Executed, 3);
    stage.gateway.with(|script| script.receipts = [Ok(done)].into());
    assert!(stage.client.submit(&[1]).await.is_ok());
}

#[tokio::test]
async fn waiting_goes_on_over_trouble_and_ends() {
    let away = refused(Status::unavailable("a shard restarts"), "");
    let none = Status::not_found("another gateway");
    let done = receipt(TransactionFinality::Final, 9);
    let stage = Stage::new(Script {
        receipts: [Err(away), Err(none.clone()), Ok(done)].into(),
        ..Default::default()
    })
    .await;
    let ask = |wait, time, taken| stage.client.receipt(B256::ZERO, wait, time, taken);
    let found = ask(Until::Final, A_WHILE, true).await.unwrap();
    assert_eq!(found.cut, 9);

    let executed = receipt(TransactionFinality::Executed, 10);
    stage.gateway.with(|script| script.receipts = [Ok(executed)].into());
    let short = Duration::from_millis(50);
    let found = ask(Until::Final, short, true).await.unwrap();
    assert_eq!(found.finality(), TransactionFinality::Executed);
    assert!(ask(Until::Executed, A_WHILE, true).await.is_ok());

    stage.gateway.with(|script| script.receipts = [Err(none)].into());
    let began = Instant::now();
    let error = format!("{:#}", ask(Until::Final, A_WHILE, false).await.unwrap_err());
    assert!(error.contains("compare the hash"), "{error}");
    assert!(began.elapsed() < A_WHILE / 2, "an unknown hash is not waited for");
}

#[tokio::test]
async fn a_cut_of_another_cluster_is_forgotten() {
    let stage = Stage::new(Script { newest: 5, ..Default::default() }).await;
    stage.found.saw_cut(1000);
    stage.client.account(TO, false).await.unwrap();
    assert_eq!(stage.found.last_cut(), 5);
    let asked = stage.client.clone().with_min_cut(Some(1000));
    let error = format!("{:#}", asked.account(TO, false).await.unwrap_err());
    assert!(error.contains("1000 is above 5"), "{error}");
}

#[tokio::test]
async fn a_cut_that_is_about_to_come_is_waited_for() {
    let stage = Stage::new(Script { newest: 5, ..Default::default() }).await;
    stage.found.saw_cut(6);
    let gateway = stage.gateway.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        gateway.with(|script| script.newest = 6);
    });
    stage.client.account(TO, false).await.unwrap();
    assert_eq!(stage.gateway.with(|script| script.min_cuts.last().copied()), Some(6));
}

#[tokio::test]
async fn gas_is_tried_out() {
    let fine = |gas| gave(CallOutcome::Succeeded, gas, &[]);
    let short = gave(CallOutcome::Halted, 0, &[]);
    let stage = Stage::new(Script {
        calls: [fine(100_000), short, fine(100_000)].into(),
        ..Default::default()
    })
    .await;
    assert_eq!(gas_limit(&stage.client, &trial()).await.unwrap(), 260_000);
    let limits =
        stage.gateway.with(|script| script.called.iter().map(|c| c.gas).collect::<Vec<_>>());
    assert_eq!(limits, [0, 130_000, 260_000]);

    let reason = abi::encode_call(&abi::function("Error(string)").unwrap(), &["no".into()]);
    let reverts = gave(CallOutcome::Reverted, 30_000, &reason.unwrap());
    stage.gateway.with(|script| script.calls = [reverts].into());
    let error = gas_limit(&stage.client, &trial()).await.unwrap_err().to_string();
    assert_eq!(error, "the transaction would revert: no; give --gas to send it all the same");

    let greedy = gave(CallOutcome::Halted, 0, &[]);
    stage.gateway.with(|script| script.calls = [fine(u64::MAX), greedy].into());
    assert!(gas_limit(&stage.client, &trial()).await.is_err());
}

#[tokio::test]
async fn nobody_listens() {
    let place = tempfile::tempdir().unwrap();
    // A port that was free an instant ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let found = |pid| Found {
        url: url.clone(),
        pid,
        home: place.path().to_owned(),
        tls: Default::default(),
    };
    let error = Client::connect_to(found(Some(77))).await.unwrap_err().to_string();
    assert!(error.contains(&url) && error.contains("process 77"), "{error}");
    let error = Client::connect_to(found(None)).await.unwrap_err().to_string();
    assert!(error.contains("is it the gRPC endpoint of a gateway?"), "{error}");
    let nonsense = Found {
        url: "http://a b".into(),
        pid: None,
        home: place.path().to_owned(),
        tls: Default::default(),
    };
    assert!(Client::connect_to(nonsense).await.is_err());
}
