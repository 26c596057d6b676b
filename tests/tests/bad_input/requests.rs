use atoll_tests::api::Api;
use atoll_wire::v1::{
    CallRequest, GetAccountRequest, GetBlockRequest, GetClusterRequest, GetReceiptRequest,
    GetStorageRequest, SubmitTransactionResponse, WatchReceiptsRequest,
};
use bytes::Bytes;

use tonic::{Code, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use crate::setup::{Client, Target, payment, sign};

fn zeros(length: usize) -> Bytes {
    vec![0; length].into()
}

/// The answers to requests that cannot be answered, with their names.
async fn unanswerable(client: &mut Client) -> Vec<(&'static str, Status, Code, &'static str)> {
    use Code::{InvalidArgument, NotFound, OutOfRange};
    let mut got = Vec::new();
    macro_rules! ask {
        ($method:ident($request:expr), $code:expr, $words:expr) => {
            let status = client.$method($request).await.map(drop).expect_err($words);
            got.push((stringify!($method), status, $code, $words));
        };
    }
    let account = |address, min_cut| GetAccountRequest { address, min_cut, with_code: false };
    ask!(get_account(account(zeros(19), 0)), InvalidArgument, "field `address` must be 20 bytes");
    ask!(get_account(account(zeros(0), 0)), InvalidArgument, "`address` must be 20 bytes long");
    ask!(get_account(account(zeros(20), 1 << 60)), OutOfRange, "1152921504606846976");
    let storage = |slot| GetStorageRequest { address: zeros(20), slot, min_cut: 0 };
    ask!(get_storage(storage(vec![1; 33].into())), InvalidArgument, "field `slot` must be at most");
    let receipt = |hash, wait| GetReceiptRequest { hash, wait, timeout_ms: 0 };
    ask!(get_receipt(receipt(zeros(31), 0)), InvalidArgument, "field `hash` must be 32 bytes");
    ask!(get_receipt(receipt(zeros(32), 9)), InvalidArgument, "field `wait`");
    ask!(get_receipt(receipt(zeros(32), 0)), NotFound, "is not known to any shard");
    let call = |from, to, min_cut| CallRequest { from, to, min_cut, ..CallRequest::default() };
    ask!(call(call(zeros(3), zeros(20), 0)), InvalidArgument, "field `from` must be 20 bytes");
    ask!(call(call(zeros(20), zeros(21), 0)), InvalidArgument, "field `to` must be 20 bytes");
    ask!(call(call(zeros(20), zeros(20), u64::MAX)), OutOfRange, "18446744073709551615");
    ask!(get_block(GetBlockRequest { number: Some(1 << 50) }), NotFound, "there is no block");
    let many = GetClusterRequest { addresses: vec![zeros(20); 10_001] };
    ask!(get_cluster(many), InvalidArgument, "10001 addresses, the limit is 10000");
    let one = GetClusterRequest { addresses: vec![zeros(20), zeros(1)] };
    ask!(get_cluster(one), InvalidArgument, "field `addresses` must be 20 bytes");
    let watch = |senders| WatchReceiptsRequest { senders, ..WatchReceiptsRequest::default() };
    ask!(watch_receipts(watch(vec![zeros(20); 10_001])), InvalidArgument, "the limit is 10000");
    ask!(watch_receipts(watch(vec![zeros(32)])), InvalidArgument, "field `senders`");
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_answered_are_told_what_is_wrong() {
    let mut target = Target::start().await;
    let mut client = target.client().await;
    for (name, status, code, words) in unanswerable(&mut client).await {
        assert_eq!(status.code(), code, "{name}: {status}");
        assert!(status.message().contains(words), "{name}: {words} is not in {status}");
    }
    target.is_unharmed_for(&Api { client }).await;
}

/// As a later version of the API may have it.
#[derive(Clone, PartialEq, prost::Message)]
struct Later {
    #[prost(bytes = "bytes", tag = "1")]
    transaction: Bytes,
    #[prost(string, tag = "77")]
    memo: String,
    #[prost(message, repeated, tag = "78")]
    more: Vec<Later>,
    #[prost(fixed64, tag = "79")]
    number: u64,
}

/// Has another type of field where the transaction should be.
#[derive(Clone, PartialEq, prost::Message)]
struct Other {
    #[prost(uint64, tag = "1")]
    transaction: u64,
}

async fn send<M: prost::Message + 'static>(
    channel: &Channel,
    path: &'static str,
    message: M,
) -> Result<SubmitTransactionResponse, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.expect("connected");
    let codec = ProstCodec::<M, SubmitTransactionResponse>::default();
    let path = PathAndQuery::from_static(path);
    Ok(grpc.unary(tonic::Request::new(message), path, codec).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_versions_are_read_as_far_as_they_can_be() {
    const SUBMIT: &str = "/atoll.v1.LedgerService/SubmitTransaction";
    let mut target = Target::start().await;
    let channel = target.endpoint().connect().await.expect("the gateway listens");
    let later = Later {
        transaction: sign(&target.wallets[0], payment(0)).0,
        memo: "new".into(),
        more: vec![Later::default()],
        number: 5,
    };
    let taken = send(&channel, SUBMIT, later).await.expect("unknown fields are tolerated");
    let hash = alloy_primitives::B256::from_slice(&taken.hash);
    let receipt = target.here.api.end_of(hash).await.expect("it is carried out");
    assert!(receipt.status);

    let status = send(&channel, SUBMIT, Other { transaction: 5 }).await.expect_err("no bytes");
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(status.message().contains("failed to decode Protobuf message"), "{status}");
    let nothing = "/atoll.v1.LedgerService/MintMoney";
    let status = send(&channel, nothing, Other::default()).await.expect_err("no such method");
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    // What the processes of a cluster ask each other is not public.
    let internal = "/atoll.v1.StateService/Append";
    let status = send(&channel, internal, Other::default()).await.expect_err("not public");
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    target.is_unharmed_for(&Api { client: Client::new(channel) }).await;
}
