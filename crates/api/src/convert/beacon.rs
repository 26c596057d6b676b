//! Requests and replies of `beacon`.

use atoll_types::{Intent, ShardKeys};

use super::messages;
use crate::beacon::{Announce, Blocks, BlocksReply, Head, HeadReply};

messages! {
    ShardKeys => ShardKeys { shard: plain, reads: small_list, writes: small_list }
    Intent => Intent {
        tx: required, origin: plain, sender: plain, nonce: plain, gas_limit: plain,
        last_valid_round: plain, keys: list,
    }
    Announce => AnnounceRequest { from: plain, intents: list, anchor: optional }
    Blocks => BlocksRequest { after: plain, max: plain, wait_ms: plain }
    BlocksReply => BlocksResponse { blocks: list }
    Head => HeadRequest {}
    HeadReply => HeadResponse { block: required, intents_waiting: plain, groups_open: plain }
}
