//! Follows the shard's state: what changed other than by this executor's own blocks.

use std::{sync::Arc, time::Duration};

use atoll_api::state::{Change, Sync};
use atoll_fabric::Context;

use crate::shared::Shared;

const WAIT_MS: u64 = 10_000;
const RETRY: Duration = Duration::from_millis(100);

/// Never ends by itself; dropped with the actor.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut after = 0;
    loop {
        let context = Context::none().with_timeout(Duration::from_millis(2 * WAIT_MS));
        match shared.state.sync.call(context, Sync { after, wait_ms: WAIT_MS }).await {
            Ok(reply) => {
                after = reply.changes.last().map_or(after, |change| change.number);
                pin(&shared, reply.reset, &reply.changes);
                shared.cache_mut().change(reply.reset, reply.tip.head, &reply.changes);
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
    let mut pinned = shared.pinned();
    if reset {
        pinned.clear();
    }
    for change in changes {
        for tx in &change.pinned {
            *pinned.entry(tx.sender).or_default() += 1;
        }
        for ended in &change.ended {
            if let Some(count) = pinned.get_mut(&ended.tx.sender) {
                *count -= 1;
                if *count == 0 {
                    pinned.remove(&ended.tx.sender);
                }
            }
        }
    }
}
