use alloy_consensus::{TxEip1559, TxEip7702};
use alloy_primitives::{Address, Bytes, Signature, U256, uint};
use alloy_signer::SignerSync as _;
use atoll_tests::{CHAIN_ID, wallet::Wallet};
use atoll_types::MAX_TX_BYTES;
use atoll_wire::v1::{SubmitOutcome, SubmitTransactionRequest, SubmitTransactionsRequest};
use tonic::{Code, Status};

use crate::setup::{Client, Target, payment, seal, sign};

/// Bytes, and what they get.
struct Case {
    name: &'static str,
    raw: Bytes,
    outcome: SubmitOutcome,
    /// Part of the message.
    words: &'static str,
}

fn case(name: &'static str, raw: Bytes, outcome: SubmitOutcome, words: &'static str) -> Case {
    Case { name, raw, outcome, words }
}

/// The gRPC code that the outcome has.
fn code(outcome: SubmitOutcome) -> Code {
    use SubmitOutcome as O;
    match outcome {
        O::Taken => Code::Ok,
        O::AlreadyKnown => Code::AlreadyExists,
        O::NonceTooLow | O::NonceTooFar | O::InsufficientFunds | O::Underpriced => {
            Code::FailedPrecondition
        }
        _ => Code::InvalidArgument,
    }
}

fn changed(change: impl FnOnce(&mut TxEip1559)) -> TxEip1559 {
    let mut tx = payment(0);
    change(&mut tx);
    tx
}

/// What can never be a transaction of this chain.
fn broken(wallet: &Wallet) -> Vec<Case> {
    use SubmitOutcome::*;
    let good = sign(wallet, payment(0));
    let with = |change: fn(&mut Vec<u8>)| {
        let mut raw = good.to_vec();
        change(&mut raw);
        Bytes::from(raw)
    };
    let high_s = {
        const ORDER: U256 =
            uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);
        let tx = payment(0);
        let hash = alloy_consensus::SignableTransaction::signature_hash(&tx);
        let low = wallet.key.sign_hash_sync(&hash).expect("a signature");
        seal(tx, Signature::new(low.r(), ORDER - low.s(), !low.v()))
    };
    let nobodys = seal(payment(0), Signature::new(U256::MAX, U256::ONE, false));
    let other_chain = sign(wallet, changed(|tx| tx.chain_id = 1));
    let large = sign(wallet, changed(|tx| tx.input = vec![1; MAX_TX_BYTES].into()));
    let priority = sign(wallet, changed(|tx| tx.max_fee_per_gas = 999_999_999));
    let unauthorized =
        sign(wallet, TxEip7702 { chain_id: CHAIN_ID, gas_limit: 50_000, ..TxEip7702::default() });
    vec![
        case("nothing", Bytes::new(), Undecodable, "cannot decode transaction"),
        case("garbage", Bytes::from_static(b"\xffgarbage"), Undecodable, "neither a type nor"),
        case("zeros", vec![0xc0; 100].into(), Undecodable, "cannot decode transaction"),
        case("cut short", good.slice(..good.len() - 1), Undecodable, "cannot decode transaction"),
        case("a byte more", with(|raw| raw.push(0)), Undecodable, "1 bytes after its end"),
        case("over 128 KiB", large, Undecodable, "the limit is 131072"),
        case("a blob", with(|raw| raw[0] = 3), UnsupportedType, "type 0x03 is not supported"),
        case("another chain's", other_chain, WrongChain, "is for chain 1, this is chain 31337"),
        case("high s", high_s, InvalidSignature, "upper half of the curve order"),
        case("no curve point", nobodys, InvalidSignature, "no sender can be recovered"),
        case("priority above the cap", priority, InvalidFields, "higher than max fee"),
        case("7702 without authorization", unauthorized, InvalidFields, "authorization"),
    ]
}

/// What the sender's account, or the pool, speaks against. The account has nonce 1.
fn refused(wallet: &Wallet, poor: &Wallet) -> Vec<Case> {
    use SubmitOutcome::*;
    let signed = |change: fn(&mut TxEip1559)| {
        let mut tx = payment(1);
        change(&mut tx);
        sign(wallet, tx)
    };
    let little = signed(|tx| tx.gas_limit = 20_999);
    let little_data = signed(|tx| tx.input = vec![1; 10].into());
    let much = signed(|tx| tx.gas_limit = (1 << 24) + 1);
    let far = signed(|tx| tx.nonce = 1 + 1_025);
    let farthest = signed(|tx| tx.nonce = u64::MAX - 1);
    let rich = signed(|tx| tx.value = U256::MAX >> 1);
    let cheap = signed(|tx| {
        tx.max_fee_per_gas = 6;
        tx.max_priority_fee_per_gas = 0;
    });
    let again = signed(|tx| tx.nonce = 0);
    let funds = "insufficient funds for gas * price + value: have";
    vec![
        case("little gas", little, IntrinsicGas, "have 20999, want 21000"),
        case("little gas for data", little_data, IntrinsicGas, "have 21000, want 21"),
        case("much gas", much, GasLimit, "exceeds block gas limit: 16777217, limit 16777216"),
        case("used nonce", again, NonceTooLow, "next nonce 1, tx nonce 0"),
        case("far nonce", far, NonceTooFar, "next nonce 1, tx nonce 1026, at most 1024 ahead"),
        case("farthest nonce", farthest, NonceTooFar, "at most 1024 ahead"),
        case("no funds", sign(poor, payment(0)), InsufficientFunds, funds),
        case("more than there is", rich, InsufficientFunds, funds),
        case("cheap", cheap, Underpriced, "max fee per gas 6, minimum 7"),
    ]
}

async fn submit(client: &mut Client, raw: &Bytes) -> Result<(), Status> {
    let transaction = raw.0.clone();
    client.submit_transaction(SubmitTransactionRequest { transaction }).await.map(drop)
}

async fn each_gets_its_answer(client: &mut Client, cases: &[Case]) {
    for Case { name, raw, outcome, words } in cases {
        let status = submit(client, raw).await.expect_err(name);
        assert_eq!(status.code(), code(*outcome), "{name}: {status}");
        assert!(status.message().contains(words), "{name}: {status}");
        let told = status.metadata().get("atoll-outcome").expect("it has a name");
        let told = format!("SUBMIT_OUTCOME_{}", told.to_str().expect("text"));
        assert_eq!(told, outcome.as_str_name(), "{name}: {status}");
    }
    // All of them in one batch get the same answers.
    let transactions = cases.iter().map(|case| case.raw.0.clone()).collect();
    let batch = SubmitTransactionsRequest { batch: 9, transactions };
    let responses = client.submit_transactions(futures::stream::iter([batch])).await;
    let mut responses = responses.expect("a stream").into_inner();
    let response = responses.message().await.expect("a response").expect("one for the batch");
    assert_eq!(response.results.len(), cases.len());
    for (case, result) in cases.iter().zip(&response.results) {
        assert_eq!(result.outcome(), case.outcome, "{}: {}", case.name, result.message);
        assert!(result.message.contains(case.words), "{}: {}", case.name, result.message);
    }
    assert!(responses.message().await.expect("no error").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_transactions_are_refused_with_the_reason() {
    let mut target = Target::start().await;
    let mut client = target.client().await;
    let mut wallet = target.wallets[0].clone();
    each_gets_its_answer(&mut client, &broken(&wallet)).await;
    // None of it has cost the account its nonce.
    let first = wallet.sign(&atoll_tests::wallet::Plan::pay(Address::ZERO, 1)).expect("signed");
    let api = target.here.api.clone();
    api.carry_out(&[first]).await.expect("nonce 0 is free");
    let poor = Wallet::seeded("poor", 0, 0).expect("a key");
    each_gets_its_answer(&mut client, &refused(&wallet, &poor)).await;
    target.is_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_is_taken_once_unless_more_is_paid() {
    let mut target = Target::start().await;
    let mut client = target.client().await;
    let wallet = target.wallets[0].clone();
    // Nonce 0 is missing, so that these stay in the pool.
    let first = sign(&wallet, payment(1));
    submit(&mut client, &first).await.expect("it is taken");
    let status = submit(&mut client, &first).await.expect_err("twice");
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    let paying = |wei| {
        let mut tx = payment(1);
        tx.max_fee_per_gas = wei;
        tx.max_priority_fee_per_gas = wei / 100;
        tx.value = U256::from(2);
        sign(&wallet, tx)
    };
    let little = submit(&mut client, &paying(109_000_000_000)).await.expect_err("9 %");
    assert_eq!(little.code(), Code::FailedPrecondition, "{little}");
    assert!(little.message().contains("needed 110000000000"), "{little}");
    submit(&mut client, &paying(110_000_000_000)).await.expect("10 % are enough");
    target.is_unharmed().await;
}
