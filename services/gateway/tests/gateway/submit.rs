use alloy_consensus::{SignableTransaction, TxEip2930, TxEip7702, TxEnvelope, TxLegacy};
use alloy_eips::{Encodable2718, eip7702::Authorization};
use alloy_primitives::{Signature, TxKind, U256, uint};
use alloy_signer::SignerSync;
use atoll_api::mempool::{MempoolError, Refused};
use atoll_fabric::Fault;
use atoll_gateway::Limits;
use atoll_types::{Address, MAX_TX_BYTES, ShardId, TraceContext};
use atoll_wire::v1::{SubmitOutcome, SubmitTransactionRequest, SubmitTransactionsRequest};
use bytes::Bytes;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use crate::setup::{CHAIN_ID, Client, Gateway, hash_of, sign, transfer};

async fn submit(client: &mut Client, raw: &Bytes) -> Result<Bytes, Status> {
    let transaction = raw.clone();
    let response = client.submit_transaction(SubmitTransactionRequest { transaction }).await?;
    Ok(response.into_inner().hash)
}

fn metadata<'s>(status: &'s Status, key: &str) -> &'s str {
    status.metadata().get(key).map_or("", |value| value.to_str().expect("text"))
}

/// Name, bytes, and what becomes of them.
fn bad_input(gateway: &Gateway) -> Vec<(&'static str, Bytes, SubmitOutcome, &'static str)> {
    use SubmitOutcome::*;
    let signer = gateway.signer(0, 1);
    let good = sign(&signer, transfer(0));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut raw = good.to_vec();
        change(&mut raw);
        Bytes::from(raw)
    };
    let high_s = {
        const ORDER: U256 =
            uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);
        let tx = transfer(0);
        let low = signer.sign_hash_sync(&tx.signature_hash()).expect("a signature");
        let high = Signature::new(low.r(), ORDER - low.s(), !low.v());
        Bytes::from(TxEnvelope::from(tx.into_signed(high)).encoded_2718())
    };
    let other_chain = {
        let mut tx = transfer(0);
        tx.chain_id = 1;
        sign(&signer, tx)
    };
    let over_cap = {
        let mut tx = transfer(0);
        tx.max_priority_fee_per_gas = 101;
        sign(&signer, tx)
    };
    let large = {
        let mut tx = transfer(0);
        tx.input = vec![1; MAX_TX_BYTES].into();
        sign(&signer, tx)
    };
    let nobody = {
        let tx = TxEip7702 { chain_id: CHAIN_ID, ..TxEip7702::default() };
        sign(&signer, tx)
    };
    // A field of the list in a longer form than it needs.
    let longer = with(&|raw| {
        let at = raw.windows(3).position(|w| w == [0x82, 0x52, 0x08]).expect("the gas limit");
        raw.splice(at..at + 3, [0x83, 0x00, 0x52, 0x08]);
        raw[2] += 1;
    });
    vec![
        ("empty", Bytes::new(), Undecodable, ""),
        ("garbage", Bytes::from_static(b"\xffnothing"), Undecodable, ""),
        ("a list of nothing", Bytes::from_static(&[0xc0]), Undecodable, ""),
        ("cut short", good.slice(..good.len() - 1), Undecodable, ""),
        ("one byte more", with(&|raw| raw.push(0)), Undecodable, "1 bytes after"),
        ("leading zero", longer, Undecodable, "leading zero"),
        ("too large", large, Undecodable, "limit is 131072"),
        ("blob", with(&|raw| raw[0] = 3), UnsupportedType, "0x03"),
        ("type 0", with(&|raw| raw[0] = 0), UnsupportedType, "0x00"),
        ("type 0x7e", with(&|raw| raw[0] = 0x7e), UnsupportedType, "0x7e"),
        ("other chain", other_chain, WrongChain, "is for chain 1, this is chain 31337"),
        ("high s", high_s, InvalidSignature, "EIP-2"),
        ("priority above the cap", over_cap, InvalidFields, "101"),
        ("7702 without authorization", nobody, InvalidFields, "authorization"),
    ]
}

#[tokio::test]
async fn bad_input_is_refused_with_the_reason() {
    let gateway = Gateway::start().await;
    let mut client = gateway.client().await;
    for (name, raw, outcome, words) in bad_input(&gateway) {
        let status = submit(&mut client, &raw).await.expect_err(name);
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status}");
        let told = format!("SUBMIT_OUTCOME_{}", metadata(&status, "atoll-outcome"));
        assert_eq!(told, outcome.as_str_name(), "{name}: {status}");
        assert!(status.message().contains(words), "{name}: {status}");
    }
    assert!(gateway.shards.iter().all(|shard| shard.lock().submitted.is_empty()));
}

#[tokio::test]
async fn bad_input_in_a_batch_spoils_nothing_else() {
    let gateway = Gateway::start().await;
    let signers = [gateway.signer(0, 2), gateway.signer(1, 2)];
    let good = signers.each_ref().map(|signer| sign(signer, transfer(0)));
    let mut transactions = vec![good[0].clone()];
    let mut expected = vec![SubmitOutcome::Taken];
    for (_, raw, outcome, _) in bad_input(&gateway) {
        transactions.push(raw);
        expected.push(outcome);
    }
    transactions.push(good[1].clone());
    expected.push(SubmitOutcome::Taken);
    let request = SubmitTransactionsRequest { batch: 7, transactions };
    let requests = tokio_stream::iter([request]);
    let response = gateway.client().await.submit_transactions(requests).await;
    let mut responses = response.expect("a stream").into_inner();
    let response = responses.next().await.expect("one").expect("a response");
    assert_eq!(response.batch, 7);
    let outcomes: Vec<_> = response.results.iter().map(|result| result.outcome()).collect();
    assert_eq!(outcomes, expected);
    assert_eq!(response.results[0].hash, hash_of(&good[0]).to_vec());
    assert!(response.results[1..=14].iter().all(|result| !result.message.is_empty()));
    for (shard, raw) in gateway.shards.iter().zip(&good) {
        let submitted = shard.lock().submitted.concat();
        assert_eq!(submitted.len(), 1);
        assert_eq!(*submitted[0].hash(), hash_of(raw));
    }
    assert!(responses.next().await.is_none(), "the stream ends with the requests");
}

#[tokio::test]
async fn every_supported_type_reaches_its_senders_shard() {
    let gateway = Gateway::start().await;
    let mut client = gateway.client().await;
    let signer = gateway.signer(1, 3);
    let to = TxKind::Call(Address::repeat_byte(1));
    let legacy = TxLegacy { chain_id: Some(CHAIN_ID), to, ..TxLegacy::default() };
    let unprotected = TxLegacy { to, nonce: 1, ..TxLegacy::default() };
    let access_list = TxEip2930 { chain_id: CHAIN_ID, to, ..TxEip2930::default() };
    let authorization = Authorization { chain_id: U256::ZERO, address: Address::ZERO, nonce: 0 };
    let authority = signer.sign_hash_sync(&authorization.signature_hash());
    let authority = authority.expect("a signature");
    let delegation = TxEip7702 {
        chain_id: CHAIN_ID,
        authorization_list: vec![authorization.into_signed(authority)],
        ..TxEip7702::default()
    };
    let raws = [
        sign(&signer, legacy),
        sign(&signer, unprotected),
        sign(&signer, access_list),
        sign(&signer, transfer(0)),
        sign(&signer, delegation),
    ];
    for raw in &raws {
        let hash = submit(&mut client, raw).await.expect("it is taken");
        assert_eq!(hash, hash_of(raw).to_vec());
    }
    let submitted = gateway.shards[1].lock().submitted.concat();
    assert_eq!(submitted.len(), raws.len());
    assert!(submitted.iter().all(|tx| tx.sender() == signer.address()));
    assert!(gateway.shards[0].lock().submitted.is_empty());
}

#[tokio::test]
async fn refusals_and_failures_become_statuses() {
    use Code::{AlreadyExists, FailedPrecondition, Internal, InvalidArgument, ResourceExhausted};
    let gateway = Gateway::start().await;
    let mut client = gateway.client().await;
    let raw = sign(&gateway.signer(0, 1), transfer(0));
    let found = 1;
    let refusals = [
        (Refused::AlreadyKnown, AlreadyExists, "ALREADY_KNOWN", ""),
        (Refused::NonceTooLow { next: 3, found }, FailedPrecondition, "NONCE_TOO_LOW", ""),
        (
            Refused::NonceTooFar { next: 3, found, limit: 64 },
            FailedPrecondition,
            "NONCE_TOO_FAR",
            "",
        ),
        (
            Refused::InsufficientFunds { have: U256::ONE, want: U256::MAX },
            FailedPrecondition,
            "INSUFFICIENT_FUNDS",
            "",
        ),
        (Refused::Underpriced { found: 1, minimum: 2 }, FailedPrecondition, "UNDERPRICED", ""),
        (
            Refused::ReplacementUnderpriced { found: 1, needed: 2 },
            FailedPrecondition,
            "UNDERPRICED",
            "",
        ),
        (Refused::UnderWay, FailedPrecondition, "UNDER_WAY", ""),
        (
            Refused::MempoolFull { limit: 9, unit: "bytes".into() },
            ResourceExhausted,
            "MEMPOOL_FULL",
            "1000",
        ),
        (Refused::SenderFull { limit: 9 }, ResourceExhausted, "SENDER_FULL", "1000"),
        (Refused::IntrinsicGas { found, needed: 2 }, InvalidArgument, "INTRINSIC_GAS", ""),
        (Refused::GasLimit { found, limit: 2 }, InvalidArgument, "GAS_LIMIT", ""),
        (Refused::VolumeFull { shard: ShardId(0) }, ResourceExhausted, "VOLUME_FULL", "5000"),
        (Refused::WrongShard { owner: ShardId(1), here: ShardId(0) }, Internal, "INTERNAL", ""),
    ];
    for (refused, code, outcome, pause) in refusals {
        let words = refused.to_string();
        gateway.shards[0].change(|script| script.refuse = Some(refused));
        let status = submit(&mut client, &raw).await.expect_err(outcome);
        assert_eq!((status.code(), status.message()), (code, &*words));
        assert_eq!(metadata(&status, "atoll-outcome"), outcome);
        assert_eq!(metadata(&status, "grpc-retry-pushback-ms"), pause, "{outcome}");
    }
    let reason = || "on purpose".into();
    let failures = [
        (Fault::Overloaded { service: reason(), limit: 1 }, ResourceExhausted, "OVERLOADED"),
        (Fault::Unreachable { reason: reason() }, Code::Unavailable, "UNAVAILABLE"),
        (Fault::DeadlineExceeded, Code::Unavailable, "UNAVAILABLE"),
        (Fault::Unknown { reason: reason() }, Code::Unknown, "UNKNOWN"),
        (Fault::Stopped { service: reason() }, Code::Unknown, "UNKNOWN"),
        (Fault::Internal { reason: reason() }, Internal, "INTERNAL"),
    ];
    for (fault, code, outcome) in failures {
        gateway.shards[0].change(|script| script.fail = Some(MempoolError::Fault(fault)));
        let status = submit(&mut client, &raw).await.expect_err(outcome);
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(metadata(&status, "atoll-outcome"), outcome);
    }
}

#[tokio::test]
async fn batches_of_a_stream_reach_the_shard_in_the_order_sent() {
    let gateway = Gateway::start().await;
    let signer = gateway.signer(0, 1);
    let shard = &gateway.shards[0];
    shard.change(|script| script.held = true);
    // The first batch takes much longer to recover than the others.
    let sizes = [600, 1, 1, 1, 40, 1];
    let mut nonces = 0..;
    let requests: Vec<_> = (0..)
        .zip(sizes)
        .map(|(batch, size)| SubmitTransactionsRequest {
            batch,
            transactions: nonces.by_ref().take(size).map(|n| sign(&signer, transfer(n))).collect(),
        })
        .collect();
    let mut client = gateway.client().await;
    let response = client.submit_transactions(tokio_stream::iter(requests)).await;
    let mut responses = response.expect("a stream").into_inner();
    shard.until(|script| (script.arrived == 1).then_some(())).await;
    shard.change(|script| script.held = false);
    for (batch, size) in (0..).zip(sizes) {
        let response = responses.next().await.expect("one for each").expect("a response");
        assert_eq!((response.batch, response.results.len()), (batch, size));
        assert!(response.results.iter().all(|r| r.outcome() == SubmitOutcome::Taken));
    }
    let submitted = shard.lock().submitted.concat();
    let nonces: Vec<_> = submitted.iter().map(|tx| tx.nonce()).collect();
    assert_eq!(nonces, (0..nonces.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_batch_over_the_limit_ends_the_stream() {
    let limits = Limits { batch_transactions: 3, ..Limits::default() };
    let gateway = Gateway::with(limits, []).await;
    let signer = gateway.signer(0, 1);
    let batch = |batch, size| SubmitTransactionsRequest {
        batch,
        transactions: (0..size).map(|n| sign(&signer, transfer(n))).collect(),
    };
    let requests = tokio_stream::iter([batch(1, 3), batch(2, 4), batch(3, 1)]);
    let response = gateway.client().await.submit_transactions(requests).await;
    let mut responses = response.expect("a stream").into_inner();
    assert_eq!(responses.next().await.expect("one").expect("a response").batch, 1);
    let status = responses.next().await.expect("a second").expect_err("too many");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "batch 2 has 4 transactions, the limit is 3");
    assert!(responses.next().await.is_none());
    assert_eq!(gateway.shards[0].lock().submitted.concat().len(), 3);
}

#[tokio::test]
async fn a_shard_that_hangs_holds_up_neither_the_other_nor_more_than_its_share() {
    let limits = Limits {
        // Room for 258 KiB of single transactions, 129 of them for each shard.
        submit_bytes: 4 * 258 * 1024,
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, []).await;
    let shard = &gateway.shards[0];
    shard.change(|script| script.held = true);
    let large = {
        let mut tx = transfer(0);
        tx.input = vec![0; 120 * 1024].into();
        sign(&gateway.signer(0, 1), tx)
    };
    let mut client = gateway.client().await;
    let hanging = tokio::spawn(async move { submit(&mut client, &large).await });
    shard.until(|script| (script.arrived == 1).then_some(())).await;
    let mut client = gateway.client().await;
    let mut next = transfer(1);
    next.input = vec![0; 20 * 1024].into();
    let next = sign(&gateway.signer(0, 1), next);
    let status = submit(&mut client, &next).await.expect_err("the shard's share is taken");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(metadata(&status, "grpc-retry-pushback-ms"), "100");
    assert!(status.message().contains("for shard 0"), "{status}");
    let other = sign(&gateway.signer(1, 1), transfer(0));
    submit(&mut client, &other).await.expect("the other shard has nothing to do with it");
    shard.change(|script| script.held = false);
    hanging.await.expect("no panic").expect("it is taken in the end");
    submit(&mut client, &next).await.expect("there is room again");
}

#[tokio::test]
async fn a_sampled_trace_goes_along_with_the_transaction() {
    let gateway = Gateway::start().await;
    let mut client = gateway.client().await;
    let signer = gateway.signer(0, 1);
    let context = TraceContext { trace_id: 5, span_id: 6 };
    let headers = [context.header(), context.header().replace("-01", "-00"), "nonsense".into()];
    for (nonce, header) in (0..).zip(&headers) {
        let transaction = sign(&signer, transfer(nonce));
        let mut request = tonic::Request::new(SubmitTransactionRequest { transaction });
        request.metadata_mut().insert("traceparent", header.parse().expect("text"));
        client.submit_transaction(request).await.expect("it is taken");
    }
    let submitted = gateway.shards[0].lock().submitted.concat();
    let traces: Vec<_> = submitted.iter().map(|tx| tx.trace()).collect();
    assert_eq!(traces, [Some(context), None, None]);
}
