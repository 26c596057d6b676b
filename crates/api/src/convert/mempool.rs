//! Requests and replies of `mempool`.

use atoll_fabric::Malformed;
use atoll_wire::v1::{self as wire, tx_end};

use super::{Proto, messages, optional, plain, required, variants};
use crate::mempool::{
    Content, ContentReply, End, Pending, PendingReply, Refused, Report, Status, StatusReply,
    Submit, SubmitReply, Take, TakeReply, TxEnd,
};

messages! {
    Submit => MempoolServiceSubmitRequest { txs: list }
    SubmitReply => MempoolServiceSubmitResponse { refused: list }
    Take => TakeRequest { session: plain, max_txs: plain, max_gas: plain, wait_ms: plain }
    TakeReply => TakeResponse { txs: list }
    Report => ReportRequest { ends: list }
    Pending => PendingRequest { sender: plain, tx: plain }
    PendingReply => PendingResponse { next: optional, tx: optional }
    Content => ContentRequest { sender: optional, max_txs: plain }
    ContentReply => ContentResponse { pending: list, queued: list, more: plain }
    Status => MempoolServiceStatusRequest {}
    StatusReply => MempoolServiceStatusResponse {
        pending: plain, queued: plain, under_way: plain, size_bytes: plain,
    }
}

variants! {
    Refused => refused::Refused, why: Why {
        already_known: AlreadyKnown {}
        nonce_too_low: NonceTooLow { next: plain, found: plain }
        nonce_too_far: NonceTooFar { next: plain, found: plain, limit: plain }
        insufficient_funds: InsufficientFunds { have: plain, want: plain }
        underpriced: Underpriced { found: plain, minimum: plain }
        replacement_underpriced: ReplacementUnderpriced { found: plain, needed: plain }
        under_way: UnderWay {}
        mempool_full: MempoolFull { limit: plain, unit: plain }
        sender_full: SenderFull { limit: plain }
        intrinsic_gas: IntrinsicGas { found: plain, needed: plain }
        gas_limit: GasLimit { found: plain, limit: plain }
        wrong_shard: WrongShard { owner: plain, here: plain }
        volume_full: VolumeFull { shard: plain }
    }
}

impl Proto<wire::PoolAcceptance> for Option<Refused> {
    fn into_wire(self) -> wire::PoolAcceptance {
        wire::PoolAcceptance { refused: optional::encode(self) }
    }

    fn from_wire(wire: wire::PoolAcceptance) -> Result<Self, Malformed> {
        optional::decode(wire.refused, "refused")
    }
}

impl Proto<wire::TxEnd> for TxEnd {
    fn into_wire(self) -> wire::TxEnd {
        let end = match self.end {
            End::Included => tx_end::End::Included(tx_end::Included {}),
            End::Escalated => tx_end::End::Escalated(tx_end::Escalated {}),
            End::Returned => tx_end::End::Returned(tx_end::Returned {}),
            End::Dropped { reason } => tx_end::End::Dropped(tx_end::Dropped { reason }),
        };
        wire::TxEnd { tx: self.tx.into_wire(), end: Some(end) }
    }

    fn from_wire(wire: wire::TxEnd) -> Result<Self, Malformed> {
        Ok(Self {
            tx: plain::decode(wire.tx, "tx")?,
            end: match required::present(wire.end, "end")? {
                tx_end::End::Included(_) => End::Included,
                tx_end::End::Escalated(_) => End::Escalated,
                tx_end::End::Returned(_) => End::Returned,
                tx_end::End::Dropped(dropped) => End::Dropped { reason: dropped.reason },
            },
        })
    }
}
