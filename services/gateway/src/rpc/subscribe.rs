//! `eth_subscribe`. Each subscription has a task that waits for its reader: who reads slowly holds up
//! nobody else, and takes no memory for what was not sent yet.

use std::sync::Arc;
use std::time::Duration;

use alloy_rpc_types_eth::Filter;
use jsonrpsee::core::server::{PendingSubscriptionSink, SubscriptionMessage, SubscriptionSink};
use serde_json::{Value, json};

use super::Shared;
use super::block::transaction;
use super::error::Failure;
use super::logs::logs_in;
use super::params::Params;

/// Pause before a block is asked for again.
const PAUSE: Duration = Duration::from_millis(200);

enum Kind {
    Heads,
    Logs(Box<Filter>),
    Pending { full: bool },
}

impl Kind {
    fn read(shared: &Shared, params: &Params) -> Result<Self, Failure> {
        let name: String = params.at(0, "subscription")?;
        match name.as_str() {
            "newHeads" => Ok(Self::Heads),
            "logs" => Ok(Self::Logs(Box::new(shared.read_filter(params, 1)?))),
            "newPendingTransactions" => {
                Ok(Self::Pending { full: params.maybe(1, "full")?.unwrap_or(false) })
            }
            other => Err(Failure::params(format!(
                "no subscription {other:?}: there are newHeads, logs and newPendingTransactions"
            ))),
        }
    }
}

/// Serves one subscription until it ends.
pub(crate) async fn serve(shared: Arc<Shared>, params: Params, pending: PendingSubscriptionSink) {
    let kind = match Kind::read(&shared, &params) {
        Ok(kind) => kind,
        Err(failure) => return pending.reject(failure).await,
    };
    let head = match shared.chain.head().await {
        Ok(head) => head,
        Err(failure) => return pending.reject(failure).await,
    };
    let sent = shared.sent.next();
    let Ok(sink) = pending.accept().await else { return };
    let ended = tokio::select! {
        () = sink.closed() => Ok(()),
        ended = async {
            match kind {
                Kind::Pending { full } => pending_txs(&shared, &sink, full, sent).await,
                kind => blocks(&shared, &sink, &kind, head.latest).await,
            }
        } => ended,
    };
    if let Err(failure) = ended {
        tracing::debug!(reason = failure.message, "a subscription ended");
    }
}

async fn blocks(
    shared: &Shared,
    sink: &SubscriptionSink,
    kind: &Kind,
    mut told: u64,
) -> Result<(), Failure> {
    let mut head = shared.chain.head.subscribe();
    'heads: loop {
        let latest = head.borrow_and_update().as_ref().map_or(0, |head| head.latest);
        for number in told + 1..=latest {
            let block = match shared.chain.block(number).await {
                Ok(Some(block)) => block,
                Ok(None) => break,
                // A shard starts anew, or is asked too much: the subscriber misses nothing by it.
                Err(failure) => {
                    tracing::debug!(number, reason = failure.message, "a subscription waits");
                    tokio::time::sleep(PAUSE).await;
                    continue 'heads;
                }
            };
            match kind {
                Kind::Logs(filter) => {
                    for log in logs_in(&block, filter) {
                        send(sink, &log).await?;
                    }
                }
                _ => send(sink, &block.header()).await?,
            }
            told = number;
        }
        head.changed().await.map_err(|_| Failure::server("the gateway is stopping"))?;
    }
}

async fn pending_txs(
    shared: &Shared,
    sink: &SubscriptionSink,
    full: bool,
    mut next: u64,
) -> Result<(), Failure> {
    let mut follow = shared.sent.follow();
    loop {
        follow.borrow_and_update();
        let (hashes, after) = shared.sent.after(next);
        next = after;
        for hash in hashes {
            let told = match shared.sent.get(&hash).filter(|_| full) {
                Some(tx) => transaction(&tx, None),
                None => json!(hash),
            };
            send(sink, &told).await?;
        }
        follow.changed().await.map_err(|_| Failure::server("the gateway is stopping"))?;
    }
}

async fn send(sink: &SubscriptionSink, told: &Value) -> Result<(), Failure> {
    let message = SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), told);
    let message = message.map_err(|error| Failure::internal(error.to_string()))?;
    sink.send(message).await.map_err(|_| Failure::server("the client has gone"))
}
