//! Ties requests to their gRPC methods, and bundles the links to a service.

use atoll_fabric::{Call, Link, Malformed, Rpc};
use atoll_wire::v1 as wire;

use crate::{
    beacon::{
        Announce, AnnounceReply, BeaconError, BeaconStats, BeaconStatsReply, Blocks, BlocksReply,
        Head, HeadReply, ReadBeaconSnapshot, TakeBeaconSnapshot,
    },
    convert::Proto,
    executor::{
        Debit, ExecutorError, ExecutorStats, ExecutorStatsReply, Predict, PredictReply, RunGroups,
        RunGroupsReply,
    },
    mempool::{
        Content, ContentReply, MempoolError, Pending, PendingReply, Report, Status, StatusReply,
        Submit, SubmitReply, Take, TakeReply,
    },
    router::{
        Deliver, DeliverReply, Escalate, Fetch, FetchReply, RouterError, RouterStats,
        RouterStatsReply,
    },
    state::{
        AcceptParts, AcceptPartsReply, Append, Cut, CutReply, Feed, FeedReply, LeaseLate,
        LeaseLateReply, Lookup, LookupReply, Outbox, OutboxReply, Progress, ProgressReply, Prove,
        ProveReply, PutCodes, Quarantine, Ran, RanReply, Read, ReadReply, ReadSnapshot, Recall,
        RecallReply, ReceiveCredits, ReceiveCreditsReply, RoundsRun, RoundsRunReply, Settle, Share,
        ShareReply, SnapshotPiece, SnapshotTaken, StateError, StoreResults, StoreResultsReply,
        Sync, SyncReply, TakeSnapshot, TellDropped, Tip, Watch, WatchReply, Withdraw,
    },
};

/// One line a request: its link, its name, its messages, its reply.
macro_rules! service {
    ($(#[$doc:meta])* $client:ident, $service:literal, $error:ty {
        $($link:ident: $request:ident ($wire:ident, $wire_reply:ident) -> $reply:ty;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $client {
            $(
                #[doc = concat!("To send a [`", stringify!($request), "`].")]
                pub $link: Link<$request>,
            )*
        }

        impl $client {
            /// Links that all lead to `target`: a [`Local`](atoll_fabric::Local) or a
            /// [`Remote`](atoll_fabric::Remote).
            pub fn new<T>(target: T) -> Self
            where
                T: $(Call<$request> +)* Clone + 'static,
            {
                let target = std::sync::Arc::new(target);
                Self { $($link: target.clone()),* }
            }
        }

        $(
            impl Rpc for $request {
                type Reply = $reply;
                type Error = $error;
                type Wire = wire::$wire;
                type WireReply = wire::$wire_reply;

                const PATH: &'static str = concat!("/", $service, "/", stringify!($request));

                fn into_wire(self) -> Self::Wire {
                    Proto::into_wire(self)
                }

                fn from_wire(wire: Self::Wire) -> Result<Self, Malformed> {
                    Proto::from_wire(wire)
                }

                fn reply_into_wire(reply: Self::Reply) -> Self::WireReply {
                    Proto::into_wire(reply)
                }

                fn reply_from_wire(wire: Self::WireReply) -> Result<Self::Reply, Malformed> {
                    Proto::from_wire(wire)
                }
            }
        )*
    };
}

service! {
    /// Links to a shard's pool of pending transactions.
    MempoolClient, "atoll.v1.MempoolService", MempoolError {
        submit: Submit (MempoolServiceSubmitRequest, MempoolServiceSubmitResponse) -> SubmitReply;
        take: Take (TakeRequest, TakeResponse) -> TakeReply;
        report: Report (ReportRequest, ReportResponse) -> ();
        pending: Pending (PendingRequest, PendingResponse) -> PendingReply;
        content: Content (ContentRequest, ContentResponse) -> ContentReply;
        status: Status (MempoolServiceStatusRequest, MempoolServiceStatusResponse) -> StatusReply;
    }
}

service! {
    /// Links to what runs a shard's transactions.
    ExecutorClient, "atoll.v1.ExecutorService", ExecutorError {
        predict: Predict (PredictRequest, PredictResponse) -> PredictReply;
        debit: Debit (DebitRequest, DebitResponse) -> ();
        run_groups: RunGroups (RunGroupsRequest, RunGroupsResponse) -> RunGroupsReply;
        stats: ExecutorStats (ExecutorStatsRequest, ExecutorStatsResponse) -> ExecutorStatsReply;
    }
}

service! {
    /// Links to a shard's state.
    StateClient, "atoll.v1.StateService", StateError {
        read: Read (ReadRequest, ReadResponse) -> ReadReply;
        prove: Prove (ProveRequest, ProveResponse) -> ProveReply;
        append: Append (AppendRequest, AppendResponse) -> Tip;
        cut: Cut (CutRequest, CutResponse) -> CutReply;
        outbox: Outbox (OutboxRequest, OutboxResponse) -> OutboxReply;
        share: Share (ShareRequest, ShareResponse) -> ShareReply;
        withdraw: Withdraw (WithdrawRequest, WithdrawResponse) -> ();
        tell_dropped: TellDropped (TellDroppedRequest, TellDroppedResponse) -> ();
        quarantine: Quarantine (QuarantineRequest, QuarantineResponse) -> ();
        store_results: StoreResults (StoreResultsRequest, StoreResultsResponse)
            -> StoreResultsReply;
        accept_parts: AcceptParts (AcceptPartsRequest, AcceptPartsResponse) -> AcceptPartsReply;
        receive_credits: ReceiveCredits (ReceiveCreditsRequest, ReceiveCreditsResponse)
            -> ReceiveCreditsReply;
        settle: Settle (SettleRequest, SettleResponse) -> ();
        recall: Recall (RecallRequest, RecallResponse) -> RecallReply;
        lease_late: LeaseLate (LeaseLateRequest, LeaseLateResponse) -> LeaseLateReply;
        put_codes: PutCodes (PutCodesRequest, PutCodesResponse) -> ();
        watch: Watch (WatchRequest, WatchResponse) -> WatchReply;
        sync: Sync (SyncRequest, SyncResponse) -> SyncReply;
        ran: Ran (RanRequest, RanResponse) -> RanReply;
        rounds_run: RoundsRun (RoundsRunRequest, RoundsRunResponse) -> RoundsRunReply;
        progress: Progress (ProgressRequest, ProgressResponse) -> ProgressReply;
        lookup: Lookup (LookupRequest, LookupResponse) -> LookupReply;
        feed: Feed (FeedRequest, FeedResponse) -> FeedReply;
        take_snapshot: TakeSnapshot (TakeSnapshotRequest, TakeSnapshotResponse) -> SnapshotTaken;
        read_snapshot: ReadSnapshot (ReadSnapshotRequest, ReadSnapshotResponse) -> SnapshotPiece;
    }
}

service! {
    /// Links to a shard's side of what crosses shards.
    RouterClient, "atoll.v1.RouterService", RouterError {
        escalate: Escalate (EscalateRequest, EscalateResponse) -> ();
        deliver: Deliver (DeliverRequest, DeliverResponse) -> DeliverReply;
        fetch: Fetch (FetchRequest, FetchResponse) -> FetchReply;
        stats: RouterStats (RouterStatsRequest, RouterStatsResponse) -> RouterStatsReply;
    }
}

service! {
    /// Links to the beacon.
    BeaconClient, "atoll.v1.BeaconService", BeaconError {
        announce: Announce (AnnounceRequest, AnnounceResponse) -> AnnounceReply;
        blocks: Blocks (BlocksRequest, BlocksResponse) -> BlocksReply;
        head: Head (HeadRequest, HeadResponse) -> HeadReply;
        stats: BeaconStats (BeaconStatsRequest, BeaconStatsResponse) -> BeaconStatsReply;
        take_snapshot: TakeBeaconSnapshot (TakeBeaconSnapshotRequest, TakeBeaconSnapshotResponse)
            -> SnapshotTaken;
        read_snapshot: ReadBeaconSnapshot (ReadBeaconSnapshotRequest, ReadBeaconSnapshotResponse)
            -> SnapshotPiece;
    }
}

/// Replies that say no more than that it is done.
macro_rules! done {
    ($($wire:ident),*) => { $(
        impl Proto<wire::$wire> for () {
            fn into_wire(self) -> wire::$wire {
                wire::$wire {}
            }

            fn from_wire(_: wire::$wire) -> Result<Self, Malformed> {
                Ok(())
            }
        }
    )* };
}

done!(
    ReportResponse,
    DebitResponse,
    WithdrawResponse,
    TellDroppedResponse,
    QuarantineResponse,
    SettleResponse,
    PutCodesResponse,
    EscalateResponse
);
