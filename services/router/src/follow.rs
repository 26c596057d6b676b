//! Follows the beacon: each of its blocks is a cut of this shard.

use std::{sync::Arc, time::Duration};

use atoll_api::{
    beacon::Blocks,
    state::{Cut, CutReply, Outbox},
};
use atoll_fabric::Context;

use crate::{
    assemble,
    jobs::Job,
    shared::{Shared, lock},
};

const WAIT_MS: u64 = 10_000;
const MAX_BLOCKS: u32 = 64;
const RETRY: Duration = Duration::from_millis(100);

/// Handles beacon blocks in order, from wherever the shard's state stands.
pub(crate) async fn follow(shared: Arc<Shared>) {
    loop {
        match shared.state.outbox.call(shared.context(), Outbox).await {
            Ok(outbox) => {
                let mut cut = outbox.open.cut;
                carry_out(&shared, outbox.open);
                let reason = follow_from(&shared, &mut cut).await;
                tracing::warn!(reason, cut, "cannot follow the beacon; trying again");
            }
            Err(error) => tracing::warn!(%error, "cannot reach the shard's state; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Returns why it had to stop.
async fn follow_from(shared: &Arc<Shared>, cut: &mut u64) -> String {
    loop {
        shared.announcements.time_to_ask().await;
        let ask = Blocks { after: *cut, max: MAX_BLOCKS, wait_ms: WAIT_MS };
        let context = Context::none().with_timeout(Duration::from_millis(2 * WAIT_MS));
        let blocks = match shared.beacon.blocks.call(context, ask).await {
            Ok(reply) => reply.blocks,
            Err(error) => return error.to_string(),
        };
        for block in blocks {
            shared.announcements.round(&block);
            match shared
                .state
                .cut
                .call(shared.context(), Cut { block: Arc::unwrap_or_clone(block) })
                .await
            {
                Ok(reply) => {
                    *cut = reply.cut;
                    carry_out(shared, reply);
                }
                Err(error) => return error.to_string(),
            }
        }
    }
}

/// Does what a cut has left to the router.
pub(crate) fn carry_out(shared: &Arc<Shared>, reply: CutReply) {
    shared.cut.send_replace(reply.cut);
    for group in reply.run {
        let effects = lock(&shared.groups).plan(group);
        assemble::carry_out(shared, effects);
    }
    for out in reply.leases {
        if out.to == shared.shard() {
            let effects = lock(&shared.groups).lease(out.lease);
            assemble::carry_out(shared, effects);
        } else if let Some(peer) = shared.peers.get(&out.to) {
            peer.outbound.leases([out.lease]);
        }
    }
    for settlement in reply.settlements {
        if let Some(peer) = shared.peers.get(&settlement.from) {
            peer.outbound.settle(settlement, false);
        }
    }
    // Later ones of their senders are not announced before they are.
    reply.returned.iter().for_each(|tx| lock(&shared.turns).wait(tx));
    shared.jobs().wake();
    shared.add_jobs(reply.returned.into_iter().map(Job::Again));
}
