use std::collections::HashSet;

use atoll_api::state::{FeedEvent, TxStatus};
use atoll_gateway::Limits;
use atoll_types::{Address, B256, Bytes, Finality, GroupId, Log, ReceiptKind, ShardId};
use atoll_wire::v1::get_receipt_request::Wait;
use atoll_wire::v1::ledger_service_client::LedgerServiceClient;
use atoll_wire::v1::{
    GetReceiptRequest, SubmitTransactionRequest, TransactionFinality, TransactionKind,
    TransactionReceipt, WatchReceiptsRequest,
};
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use crate::setup::{Client, Gateway, receipt, sign, transfer};

fn request(tx: B256, wait: Wait) -> GetReceiptRequest {
    GetReceiptRequest { hash: tx.to_vec().into(), wait: wait.into(), timeout_ms: 0 }
}

async fn get(
    client: &mut Client,
    request: GetReceiptRequest,
) -> Result<TransactionReceipt, Status> {
    let response = client.get_receipt(request).await?;
    Ok(response.into_inner().receipt.expect("always set"))
}

#[tokio::test]
async fn an_unknown_transaction_is_asked_of_every_shard() {
    let gateway = Gateway::start().await;
    let mut client = gateway.client().await;
    let tx = B256::repeat_byte(1);
    let status = get(&mut client, request(tx, Wait::None)).await.expect_err("unknown");
    assert_eq!(status.code(), Code::NotFound);
    assert!(gateway.shards.iter().all(|shard| shard.lock().lookups == 1));
    let mut in_vain = request(tx, Wait::Final);
    in_vain.timeout_ms = 1;
    let status = get(&mut client, in_vain).await.expect_err("still unknown");
    assert_eq!(status.code(), Code::NotFound);
    let mut short = request(tx, Wait::None);
    short.hash.truncate(31);
    let status = get(&mut client, short).await.expect_err("malformed");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "field `hash` must be 32 bytes long, it is 31");
}

#[tokio::test]
async fn a_receipt_has_every_field() {
    let gateway = Gateway::start().await;
    let (tx, sender) = (B256::repeat_byte(1), Address::repeat_byte(2));
    let mut event = receipt(tx, sender, Finality::Final, 3);
    let log = Log::new(sender, vec![tx, tx], Bytes::from("data")).expect("two topics");
    event.receipt.executed.logs.push(log);
    event.receipt.executed.contract = Some(Address::repeat_byte(3));
    event.receipt.to = Some(Address::repeat_byte(4));
    event.receipt.kind = ReceiptKind::Group(GroupId { round: 1, index: 0 });
    event.receipt.shards = vec![ShardId(0), ShardId(1)];
    let done = TxStatus::Done(event);
    gateway.shards[1].change(|script| script.statuses.insert(tx, done));
    let mut client = gateway.client().await;
    let found = get(&mut client, request(tx, Wait::Final)).await.expect("it is there");
    assert_eq!(found.finality(), TransactionFinality::Final);
    assert_eq!(found.kind(), TransactionKind::Group);
    assert_eq!(found.hash, tx.to_vec());
    assert_eq!(found.sender, sender.to_vec());
    assert_eq!(found.contract_address, [3; 20].to_vec());
    assert_eq!(found.to, [4; 20].to_vec());
    assert_eq!(found.effective_gas_price, vec![1, 2]);
    assert_eq!(found.return_data, vec![9; 3]);
    assert_eq!((found.status, found.gas_used, found.nonce), (true, 21_000, 3));
    assert_eq!((&*found.shards, found.shard_count), (&[0, 1][..], 2));
    assert_eq!((found.round, found.group_index), (1, Some(0)));
    assert_eq!((found.block, found.index, found.cut), (8, 2, 2));
    assert_eq!(found.logs[0].address, sender.to_vec());
    assert_eq!(found.logs[0].topics, [tx.to_vec(), tx.to_vec()]);
    assert_eq!(found.logs[0].data, "data");
}

#[tokio::test]
async fn a_wait_ends_with_the_feed_and_without_further_lookups() {
    let gateway = Gateway::start().await;
    let mut client = gateway.client().await;
    let signer = gateway.signer(1, 1);
    let shard = &gateway.shards[1];
    let transaction = sign(&signer, transfer(0));
    let submitted = client.submit_transaction(SubmitTransactionRequest { transaction }).await;
    let tx = B256::from_slice(&submitted.expect("it is taken").into_inner().hash);
    let pending = get(&mut client, request(tx, Wait::None)).await.expect("it was submitted here");
    assert_eq!(pending.finality(), TransactionFinality::Pending);
    assert_eq!(pending.sender, signer.address().to_vec());
    let wait = |wait| {
        let mut client = client.clone();
        tokio::spawn(async move { get(&mut client, request(tx, wait)).await })
    };
    let (executed, last) = (wait(Wait::Executed), wait(Wait::Final));
    shard.until(|script| (script.lookups == 3).then_some(())).await;
    let event = receipt(tx, signer.address(), Finality::Executed, 3);
    shard.change(|script| script.events.push(FeedEvent::Receipt(event.into())));
    let executed = executed.await.expect("no panic").expect("a receipt");
    assert_eq!(executed.finality(), TransactionFinality::Executed);
    let end = FeedEvent::Finalized { txs: vec![tx], cut: 9 };
    shard.change(|script| script.events.push(end));
    let last = last.await.expect("no panic").expect("a receipt");
    assert_eq!((last.finality(), last.cut), (TransactionFinality::Final, 9));
    assert_eq!(last.return_data, vec![9; 3], "the whole receipt");
    assert_eq!(shard.lock().lookups, 3);
    assert_eq!(gateway.shards[0].lock().lookups, 0, "the sender's shard is known");
}

#[tokio::test]
async fn a_wait_is_not_lost_when_the_feed_is() {
    let gateway = Gateway::start().await;
    let shard = &gateway.shards[0];
    let tx = B256::repeat_byte(1);
    let mut client = gateway.client().await;
    let wait = tokio::spawn(async move { get(&mut client, request(tx, Wait::Final)).await });
    shard.until(|script| (script.lookups == 1).then_some(())).await;
    // The events were dropped, and only a lookup can tell.
    let reason = "expired".to_owned();
    shard.change(|script| {
        script.statuses.insert(tx, TxStatus::Dropped { reason });
        script.lost = 5;
    });
    let dropped = wait.await.expect("no panic").expect("it is known");
    assert_eq!(dropped.finality(), TransactionFinality::Dropped);
    assert_eq!(dropped.dropped_reason, "expired");
}

#[tokio::test]
async fn watchers_get_what_they_asked_for() {
    let gateway = Gateway::start().await;
    let mut client = gateway.client().await;
    let [one, two] = [1, 2].map(Address::repeat_byte);
    let [a, b, c, d] = [10, 11, 12, 13].map(B256::repeat_byte);
    let filter = |senders: &[Address], hashes: &[B256], compact| WatchReceiptsRequest {
        senders: senders.iter().map(|address| address.to_vec().into()).collect(),
        hashes: hashes.iter().map(|hash| hash.to_vec().into()).collect(),
        compact,
    };
    let mut streams = Vec::new();
    for filter in [filter(&[], &[], true), filter(&[one], &[], false), filter(&[two], &[d], false)]
    {
        let stream = client.watch_receipts(filter).await.expect("a seat").into_inner();
        let receipts = stream.map(|response| response.expect("no error").receipts);
        streams.push(receipts);
    }
    let shard = &gateway.shards[1];
    shard.change(|script| {
        let event =
            |tx, sender| FeedEvent::Receipt(receipt(tx, sender, Finality::Executed, 3).into());
        let reason = "too late".to_owned();
        // Its sender is known to nobody but the shard.
        let old = receipt(c, two, Finality::Final, 0);
        script.statuses.insert(c, TxStatus::Done(old));
        script.events.extend([
            event(a, one),
            event(b, two),
            FeedEvent::Finalized { txs: vec![a, b, c], cut: 9 },
            FeedEvent::Dropped { tx: d, reason },
        ]);
    });
    use TransactionFinality::{Dropped, Executed, Final};
    let expected = [
        vec![(a, Executed), (b, Executed), (a, Final), (b, Final), (c, Final), (d, Dropped)],
        vec![(a, Executed), (a, Final)],
        vec![(b, Executed), (b, Final), (c, Final), (d, Dropped)],
    ];
    for (index, (stream, expected)) in streams.iter_mut().zip(expected).enumerate() {
        let receipts = stream.next().await.expect("a response");
        let got: Vec<_> = receipts
            .iter()
            .map(|receipt| (B256::from_slice(&receipt.hash), receipt.finality()))
            .collect();
        assert_eq!(got, expected, "watcher {index}");
        let first = &receipts[0];
        assert_eq!((first.status, first.gas_used, first.shard_count), (true, 21_000, 1));
        assert_eq!(first.return_data.is_empty(), index == 0, "compact or not");
        assert_eq!(first.sender.is_empty(), index == 0);
    }
    let bad = filter(&[], &[], false);
    let bad = WatchReceiptsRequest { senders: vec![vec![1; 19].into()], ..bad };
    let status = client.watch_receipts(bad).await.expect_err("malformed");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_dropped_and_the_others_miss_nothing() {
    const EVENTS: u8 = 200;
    const SIZE: usize = 64 << 10;
    let limits = Limits { watchers: 2, watch_backlog_bytes: 16 * SIZE, ..Limits::default() };
    let gateway = Gateway::with(limits, []).await;
    let slow = gateway.endpoint().initial_stream_window_size(65_535).connect().await;
    let mut slow = LedgerServiceClient::new(slow.expect("the gateway listens"));
    let mut fast = gateway.client().await;
    let watch = WatchReceiptsRequest::default();
    let slow = slow.watch_receipts(watch.clone()).await.expect("a seat").into_inner();
    let mut receipts = fast.watch_receipts(watch.clone()).await.expect("a seat").into_inner();
    let status = fast.watch_receipts(watch.clone()).await.expect_err("two are the limit");
    assert_eq!(status.code(), Code::ResourceExhausted);
    for n in 0..EVENTS {
        let event = receipt(B256::repeat_byte(n), Address::ZERO, Finality::Executed, SIZE);
        gateway.shards[0].change(|script| script.events.push(FeedEvent::Receipt(event.into())));
        let response = receipts.next().await.expect("it goes on").expect("a response");
        assert_eq!(response.receipts[0].hash, vec![n; 32]);
    }
    let again = fast.watch_receipts(watch).await;
    again.expect("the seat of the slow one is free, though it has not read its end yet");
    // What had been sent before is still there; then comes the end.
    let (mut seen, mut end) = (HashSet::new(), None);
    let mut slow = slow;
    while let Some(response) = slow.next().await {
        match response {
            Ok(response) => seen.extend(response.receipts.into_iter().map(|r| r.hash)),
            Err(status) => end = Some(status),
        }
    }
    let end = end.expect("it is told");
    assert_eq!(end.code(), Code::ResourceExhausted, "{end}");
    assert!(seen.len() < usize::from(EVENTS) / 2, "{} were kept for it", seen.len());
}
