//! What waits in the shards' pools.

use std::collections::BTreeMap;

use alloy_primitives::Address;
use atoll_api::mempool::{Content, ContentReply, Status};
use atoll_types::Tx;
use futures::future;
use serde_json::{Value, json};

use super::block::transaction;
use super::error::Failure;
use super::{Shared, quantity};
use crate::query::status_of;

/// A transaction as `txpool_content` has it.
pub(crate) fn whole(tx: &Tx) -> Value {
    transaction(tx, None)
}

/// And as `txpool_inspect` has it, in the words of geth.
pub(crate) fn summary(tx: &Tx) -> Value {
    let (value, gas, price) = (tx.value(), tx.gas_limit(), tx.max_fee_per_gas());
    let to = tx.to().map_or("contract creation".to_owned(), |to| to.to_string());
    json!(format!("{to}: {value} wei + {gas} gas \u{d7} {price} wei"))
}

impl Shared {
    pub async fn pool_status(&self) -> Result<Value, Failure> {
        let context = self.context();
        let asked = self.chain.links.iter().map(|links| links.status.call(context.clone(), Status));
        let (mut pending, mut queued) = (0u64, 0u64);
        for reply in future::join_all(asked).await {
            let reply = reply.map_err(|error| status_of(&error, &context))?;
            pending += reply.pending + reply.under_way;
            queued += reply.queued;
        }
        Ok(json!({ "pending": quantity(pending), "queued": quantity(queued) }))
    }

    /// What all pools hold, or what one sender has there.
    pub async fn pool_content(
        &self,
        sender: Option<Address>,
        show: fn(&Tx) -> Value,
    ) -> Result<Value, Failure> {
        let context = self.context();
        let owner = sender.map(|sender| self.ledger.calls.placement.owner(&sender));
        let links = self.chain.links.iter().zip(0..);
        let links = links.filter(|(_, shard)| owner.is_none_or(|owner| owner.0 == *shard));
        let asked = links.map(|(links, _)| {
            let content = Content { sender, max_txs: Content::MAX_TXS };
            links.content.call(context.clone(), content)
        });
        let mut all = ContentReply::default();
        for reply in future::join_all(asked).await {
            let reply = reply.map_err(|error| status_of(&error, &context))?;
            all.pending.extend(reply.pending);
            all.queued.extend(reply.queued);
            all.more |= reply.more;
        }
        let (limit, found) = (Content::MAX_TXS as usize, all.pending.len() + all.queued.len());
        if all.more || found > limit {
            return Err(Failure::limit(format!(
                "the pools hold more than {limit} transactions or {} bytes of them, the limit: ask for \
                 txpool_status, or for one sender with txpool_contentFrom",
                Content::MAX_BYTES
            )));
        }
        let part = |txs: &[Tx]| match sender {
            Some(_) => json!(by_nonce(txs.iter(), show)),
            None => {
                let mut senders: BTreeMap<Address, Vec<&Tx>> = BTreeMap::new();
                txs.iter().for_each(|tx| senders.entry(tx.sender()).or_default().push(tx));
                let shown = senders.into_iter();
                let shown =
                    shown.map(|(one, txs)| (one.to_string(), by_nonce(txs.into_iter(), show)));
                json!(shown.collect::<BTreeMap<_, _>>())
            }
        };
        Ok(json!({ "pending": part(&all.pending), "queued": part(&all.queued) }))
    }
}

fn by_nonce<'a>(txs: impl Iterator<Item = &'a Tx>, show: fn(&Tx) -> Value) -> Value {
    txs.map(|tx| (tx.nonce().to_string(), show(tx))).collect::<serde_json::Map<_, _>>().into()
}
