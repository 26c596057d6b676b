//! Requests and replies of `router`.

use super::messages;
use crate::router::{
    Deliver, DeliverReply, Escalate, Fetch, FetchReply, RouterStats, RouterStatsReply,
};

messages! {
    Escalate => EscalateRequest { txs: list }
    Deliver => DeliverRequest {
        chain_id: plain, epoch: plain, from: plain, to: plain, shared: list, leases: list,
        parts: list, credits: small_list, settlements: list, wants: list, flights: list,
    }
    DeliverReply => DeliverResponse {
        shared_refused: list, parts_refused: list, credits_received: plain,
    }
    Fetch => FetchRequest {
        from: plain, keys: small_list, codes: list, leases: list, results: list,
        late: list,
    }
    FetchReply => FetchResponse {
        values: small_list, codes: list, leases: list, parts: list, late: list,
    }
    RouterStats => RouterStatsRequest {}
    RouterStatsReply => RouterStatsResponse {
        deliver: required, fetch: required, announce: required, blocks: required,
        escalated: plain, credits: plain, intents: plain, flights: plain, late_asks: plain,
        late_refused: plain, refused: list,
    }
}
