//! Random requests and replies.

use atoll_api::{beacon::*, executor::*, mempool::*, router::*, state::*};
use atoll_fabric::Traffic;
use atoll_meter::WorkDone;
use atoll_types::StateKey;
use rand::rngs::StdRng;

use crate::random::{Random, enums, structs};

structs! {
    Submit { txs }
    SubmitReply { refused }
    Take { session, max_txs, max_gas, wait_ms }
    TakeReply { txs }
    Report { ends }
    TxEnd { tx, end }
    Pending { sender, tx }
    PendingReply { next, tx }
    Content { sender, max_txs }
    ContentReply { pending, queued, more }
    Status {}
    StatusReply { pending, queued, under_way, size_bytes }

    Predict { txs, known }
    PredictReply { predictions }
    CodeWanted { hash, account }
    Debit { txs }
    RunGroups { groups }
    GroupRun { group, env, epoch, txs, values, late_writes, refused }
    RunGroupsReply { results, lacking }
    ExecutorStats {}
    ExecutorStatsReply { local, groups, predictions, wrong }
    WorkDone { batches, items, cpu_ns }

    Escalate { txs }
    Deliver { chain_id, epoch, from, to, shared, leases, parts, credits, settlements, wants, flights }
    DeliverReply { shared_refused, parts_refused, credits_received }
    Fetch { from, keys, codes, leases, results, late }
    FetchReply { values, codes, leases, parts, late }
    RouterStats {}
    RouterStatsReply {
        deliver, fetch, announce, blocks, escalated, credits, intents, flights, late_asks,
        late_refused, refused,
    }
    Traffic { requests, request_bytes, replies, reply_bytes }

    Announce { from, intents, anchor, earlier_acks }
    AnnounceReply { whole }
    Blocks { after, max, wait_ms }
    BlocksReply { blocks }
    Head {}
    HeadReply { block, intents_waiting, groups_open }
    BeaconStats {}
    BeaconStatsReply { blocks, intents, groups, txs, commits, aborts, cpu_ns, refused }

    Read { keys, codes, at, min_cut }
    ReadReply { values, codes, cut, head }
    Tip { head, cut, digest }
    Cut { block }
    CutReply { cut, run, leases, returned, settlements }
    GroupToRun { group, env, txs }
    LeaseOut { to, lease }
    Outbox {}
    OutboxReply { open, unplanned, results, awaited, credits }
    Share { txs }
    ShareReply { refused }
    Withdraw { tx, reason }
    TellDropped { txs }
    DroppedTx { tx, reason }
    Quarantine { txs }
    StoreResults { results }
    StoreResultsReply { parts, refused }
    AcceptParts { parts }
    AcceptPartsReply { refused }
    ReceiveCredits { from, credits }
    ReceiveCreditsReply { received }
    Settle { settlement }
    Recall { leases, results, owner }
    RecallReply { leases, parts }
    LeaseLate { from, asks }
    LeaseLateReply { leases, refused }
    PutCodes { codes }
    Prove { address, slots, min_cut }
    ProveReply { root, block, cells }
    ProvenCell { cell, proof }
    Watch { version, credits_after, wait_ms }
    WatchReply { version, anchor, credits }
    Sync { after, wait_ms, full }
    SyncReply { reset, changes, tip, env, hashes, full }
    Change { number, cut, writes, fenced, unfenced, pinned, ended, quarantined }
    SenderTx { tx, sender, nonce }
    Ended { tx, dropped, gas_used }
    Ran { round, skip }
    RanReply { txs, more }
    RanTx { tx, receipt }
    RoundsRun { first, last, named }
    LogNames { any }
    RoundsRunReply { rounds }
    Progress { min_cut }
    ProgressReply { cut, ended_before, ended_at }
    Lookup { txs }
    LookupReply { statuses }
    ReceiptEvent { receipt, finality, cut }
    Feed { after, max, wait_ms }
    FeedReply { next, lost, events }
    TakeSnapshot { cut }
    SnapshotTaken { number, bytes, digest }
    ReadSnapshot { number, offset }
    SnapshotPiece { piece }
    TakeBeaconSnapshot { block }
    ReadBeaconSnapshot { number, offset }
}

enums! {
    Refused {
        AlreadyKnown {}
        NonceTooLow { next, found }
        NonceTooFar { next, found, limit }
        InsufficientFunds { have, want }
        Underpriced { found, minimum }
        ReplacementUnderpriced { found, needed }
        UnderWay {}
        MempoolFull { limit, unit }
        SenderFull { limit }
        IntrinsicGas { found, needed }
        GasLimit { found, limit }
        WrongShard { owner, here }
        VolumeFull { shard }
    }
    End { Included {} Escalated {} Returned {} Dropped { reason } }
    Prediction { Uses { keys, credit } Needs { keys, codes } Invalid { reason, nonce_ahead } Refused { reason } }
    TxStatus { Pending {} Done { 0 } Dropped { reason } }
    FeedEvent { Receipt { 0 } Finalized { txs, cut } Dropped { tx, reason } }

    MempoolError { OldSession { found, newest } State { reason } }
    ExecutorError { State { reason } BadGroup { what } }
    StateError {
        NotHead { number, parent, head, digest, cut }
        Fenced { key }
        Pinned { tx }
        CutGap { found, newest }
        OtherBeaconChain { number }
        NotHeld { number, what }
        CutTooOld { asked, oldest }
        CutAhead { asked, newest }
        Pruned { asked, oldest }
        Refused { 0 }
        Storage { reason }
        Full { shard }
        NoSnapshot { cut, reason }
        SnapshotBusy { cut }
    }
    RouterError { NotForThisShard { found, here } Refused { 0 } State { reason } }
    BeaconError {
        NoSuchShard { shard, shards }
        TooManyIntents { limit }
        BadIntent { what }
        Pruned { asked, oldest }
        Storage { reason }
        NoSnapshot { block, reason }
        SnapshotBusy { block }
    }
}

impl Random for Append {
    /// What was read is a set: its order does not survive.
    fn random(rng: &mut StdRng) -> Self {
        let mut reads = Vec::<StateKey>::random(rng);
        reads.sort_unstable();
        Self { block: Random::random(rng), reads }
    }
}
