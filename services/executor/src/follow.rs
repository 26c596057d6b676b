//! Follows the shard's state: what changed other than by this executor's own blocks.

use std::{sync::Arc, time::Duration};

use atoll_api::state::{Change, Sync};
use atoll_fabric::Context;

use crate::shared::Shared;

const WAIT_MS: u64 = 10_000;
const RETRY: Duration = Duration::from_millis(100);

/// Never ends by itself; dropped with the actor.
pub(crate) async fn follow(shared: Arc<Shared>) {
    // The volume does not matter here; to know it keeps the answer from coming at once again.
    let (mut after, mut full) = (0, false);
    loop {
        let context = Context::none().with_timeout(Duration::from_millis(2 * WAIT_MS));
        match shared.state.sync.call(context, Sync { after, wait_ms: WAIT_MS, full }).await {
            Ok(reply) => {
                after = reply.changes.last().map_or(after, |change| change.number);
                full = reply.full;
                pin(&shared, reply.reset, &reply.changes);
                shared.put_away(reply.changes.iter().flat_map(|change| &change.quarantined));
                shared.cache_mut().change(reply.reset, reply.tip.head, &reply.changes);
                shared.learn_hashes(reply.tip.cut, &reply.hashes);
                shared.stand_on(reply.tip, Some(reply.env));
                shared.followed.notify_one();
            }
            Err(error) => {
                tracing::warn!(%error, "cannot follow the shard's state; trying again");
                after = 0;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn pin(shared: &Shared, reset: bool, changes: &[Change]) {
    let (mut pinned, mut ahead) = (shared.pinned(), shared.ahead());
    if reset {
        pinned.clear();
        ahead.start_over();
    }
    for change in changes {
        for tx in &change.pinned {
            *pinned.entry(tx.sender).or_default() += 1;
            ahead.share(&tx.sender, tx.nonce, &tx.tx);
        }
        if let Some(cut) = change.cut {
            ahead.pass(cut);
        }
        for ended in &change.ended {
            ahead.end(&ended.tx.sender, ended.tx.nonce, &ended.tx.tx);
            shared.budget().paid(&ended.tx.sender, ended.gas_used);
            if let Some(count) = pinned.get_mut(&ended.tx.sender) {
                *count -= 1;
                if *count == 0 {
                    pinned.remove(&ended.tx.sender);
                }
            }
        }
    }
}
