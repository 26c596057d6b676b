//! Requests and replies of `state`.

use std::sync::Arc;

use atoll_fabric::Malformed;
use atoll_wire::v1::{self as wire, feed_event, tx_status};

use super::{Proto, messages, optional, plain, required, small_list};
use crate::state::{
    AcceptParts, AcceptPartsReply, Append, Change, Cut, CutReply, DroppedTx, Ended, Feed,
    FeedEvent, FeedReply, GroupToRun, LeaseLate, LeaseLateReply, LeaseOut, LogNames, Lookup,
    LookupReply, Outbox, OutboxReply, Progress, ProgressReply, Prove, ProveReply, ProvenCell,
    PutCodes, Quarantine, Ran, RanReply, RanTx, Read, ReadReply, ReadSnapshot, Recall, RecallReply,
    ReceiptEvent, ReceiveCredits, ReceiveCreditsReply, RoundsRun, RoundsRunReply, SenderTx, Settle,
    Share, ShareReply, SnapshotPiece, SnapshotTaken, StoreResults, StoreResultsReply, Sync,
    SyncReply, TakeSnapshot, TellDropped, Tip, TxStatus, Watch, WatchReply, Withdraw,
};

messages! {
    Read => ReadRequest { keys: small_list, codes: list, at: optional, min_cut: plain }
    ReadReply => ReadResponse { values: small_list, codes: list, cut: plain, head: plain }
    Prove => ProveRequest { address: plain, slots: slots, min_cut: plain }
    ProveReply => ProveResponse { root: required, block: plain, cells: list }
    ProvenCell => ProvenCell { cell: required, proof: plain }
    Append => AppendRequest { block: required, reads: set }
    Tip => Tip { head: plain, cut: plain, digest: plain }
    Cut => CutRequest { block: required }
    CutReply => CutResponse {
        cut: plain, run: list, leases: list, returned: list, settlements: list,
    }
    GroupToRun => GroupToRun { group: required, env: required, txs: list }
    LeaseOut => LeaseOut { to: plain, lease: required }
    Outbox => OutboxRequest {}
    OutboxReply => OutboxResponse {
        open: required, unplanned: list, results: list, awaited: list, credits: small_list,
    }
    Share => ShareRequest { txs: list }
    ShareReply => ShareResponse { refused: list }
    Withdraw => WithdrawRequest { tx: required, reason: plain }
    TellDropped => TellDroppedRequest { txs: list }
    DroppedTx => DroppedTx { tx: plain, reason: plain }
    Quarantine => QuarantineRequest { txs: list }
    StoreResults => StoreResultsRequest { results: list }
    StoreResultsReply => StoreResultsResponse { parts: list, refused: list }
    AcceptParts => AcceptPartsRequest { parts: list }
    AcceptPartsReply => AcceptPartsResponse { refused: list }
    ReceiveCredits => ReceiveCreditsRequest { from: plain, credits: small_list }
    ReceiveCreditsReply => ReceiveCreditsResponse { received: plain }
    Settle => SettleRequest { settlement: required }
    Recall => RecallRequest { leases: list, results: list, owner: plain }
    RecallReply => RecallResponse { leases: list, parts: list }
    LeaseLate => LeaseLateRequest { from: plain, asks: list }
    LeaseLateReply => LeaseLateResponse { leases: list, refused: list }
    PutCodes => PutCodesRequest { codes: codes }
    Watch => WatchRequest { version: plain, credits_after: list, wait_ms: plain }
    WatchReply => WatchResponse { version: plain, anchor: required, credits: small_list }
    Sync => SyncRequest { after: plain, wait_ms: plain, full: plain }
    SyncReply => SyncResponse {
        reset: plain, changes: list, tip: required, env: required, hashes: small_list, full: plain,
    }
    Change => Change {
        number: plain, cut: optional, writes: small_list, fenced: small_list, unfenced: small_list,
        pinned: small_list, ended: small_list, quarantined: small_list,
    }
    SenderTx => SenderTx { tx: plain, sender: plain, nonce: plain }
    Ended => Ended { tx: required, dropped: optional, gas_used: plain }
    Ran => RanRequest { round: plain, skip: plain }
    RanReply => RanResponse { txs: list, more: plain }
    RanTx => RanTx { tx: required, receipt: required }
    RoundsRun => RoundsRunRequest { first: plain, last: plain, named: list }
    LogNames => LogNames { any: small_list }
    RoundsRunReply => RoundsRunResponse { rounds: small_list }
    Progress => ProgressRequest { min_cut: plain }
    ProgressReply => ProgressResponse { cut: plain, ended_before: plain, ended_at: plain }
    Lookup => LookupRequest { txs: list }
    LookupReply => LookupResponse { statuses: list }
    ReceiptEvent => ReceiptEvent { receipt: required, finality: plain, cut: plain }
    Feed => FeedRequest { after: plain, max: plain, wait_ms: plain }
    FeedReply => FeedResponse { next: plain, lost: plain, events: list }
    TakeSnapshot => TakeSnapshotRequest { cut: plain }
    SnapshotTaken => TakeSnapshotResponse { number: plain, bytes: plain, digest: plain }
    ReadSnapshot => ReadSnapshotRequest { number: plain, offset: plain }
    SnapshotPiece => ReadSnapshotResponse { piece: plain }
}

impl Proto<wire::AppendResponse> for Tip {
    fn into_wire(self) -> wire::AppendResponse {
        wire::AppendResponse { tip: required::encode(self) }
    }

    fn from_wire(wire: wire::AppendResponse) -> Result<Self, Malformed> {
        required::decode(wire.tip, "tip")
    }
}

impl Proto<wire::LookupEntry> for Option<TxStatus> {
    fn into_wire(self) -> wire::LookupEntry {
        wire::LookupEntry { status: optional::encode(self) }
    }

    fn from_wire(wire: wire::LookupEntry) -> Result<Self, Malformed> {
        optional::decode(wire.status, "status")
    }
}

impl Proto<wire::TxStatus> for TxStatus {
    fn into_wire(self) -> wire::TxStatus {
        use tx_status::{Dropped, Pending, Status};
        let status = match self {
            Self::Pending => Status::Pending(Pending {}),
            Self::Done(event) => Status::Done(event.into_wire()),
            Self::Dropped { reason } => Status::Dropped(Dropped { reason }),
        };
        wire::TxStatus { status: Some(status) }
    }

    fn from_wire(wire: wire::TxStatus) -> Result<Self, Malformed> {
        use tx_status::Status;
        Ok(match required::present(wire.status, "status")? {
            Status::Pending(_) => Self::Pending,
            Status::Done(event) => Self::Done(plain::decode(event, "done")?),
            Status::Dropped(dropped) => Self::Dropped { reason: dropped.reason },
        })
    }
}

impl Proto<wire::FeedEvent> for FeedEvent {
    fn into_wire(self) -> wire::FeedEvent {
        use feed_event::{Dropped, Event, Finalized};
        let event = match self {
            Self::Receipt(event) => Event::Receipt(Arc::unwrap_or_clone(event).into_wire()),
            Self::Finalized { txs, cut } => {
                Event::Finalized(Finalized { txs: small_list::encode(txs), cut })
            }
            Self::Dropped { tx, reason } => Event::Dropped(Dropped { tx: tx.into_wire(), reason }),
        };
        wire::FeedEvent { event: Some(event) }
    }

    fn from_wire(wire: wire::FeedEvent) -> Result<Self, Malformed> {
        use feed_event::Event;
        Ok(match required::present(wire.event, "event")? {
            Event::Receipt(event) => Self::Receipt(Arc::new(plain::decode(event, "receipt")?)),
            Event::Finalized(finalized) => Self::Finalized {
                txs: small_list::decode(finalized.txs, "finalized.txs")?,
                cut: finalized.cut,
            },
            Event::Dropped(dropped) => Self::Dropped {
                tx: plain::decode(dropped.tx, "dropped.tx")?,
                reason: dropped.reason,
            },
        })
    }
}
