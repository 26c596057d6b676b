//! Beacon blocks and shard blocks.

use atoll_fabric::Malformed;
use atoll_types::{
    Anchored, BeaconBlock, BlockEnv, CreditsDue, Decision, GroupId, LocalBlock, LocalTx,
    PlannedGroup, Verdict,
};
use atoll_wire::v1::{self as wire, decision};

use super::{Proto, messages, plain, required};

messages! {
    GroupId => GroupId { round: plain, index: plain }
    BlockEnv => BlockEnv {
        chain_id: plain, number: plain, timestamp: plain, randomness: plain, base_fee: plain,
        coinbase: plain, gas_limit: plain,
    }
    PlannedGroup => PlannedGroup {
        id: required, executor: plain, owners: list, txs: list, gas: plain,
    }
    CreditsDue => CreditsDue { from: plain, to: plain, up_to: plain }
    Anchored => Anchored { shard: plain, head: plain, cut: plain, digest: plain }
    BeaconBlock => BeaconBlock {
        env: required, time_ms: plain, parent: plain, epoch: plain, decisions: list,
        credits: small_list, plan: list, dropped: small_list, anchors: list, settled: plain,
    }
    LocalTx => LocalTx { tx: required, receipt: required }
    LocalBlock => LocalBlock {
        shard: plain, number: plain, parent: plain, round: plain, txs: list, writes: small_list,
        codes: codes, credits: small_list, fees: plain, burned: plain,
    }
}

impl Proto<wire::Decision> for Decision {
    fn into_wire(self) -> wire::Decision {
        wire::Decision {
            group: required::encode(self.group),
            verdict: Some(match self.verdict {
                Verdict::Commit(digest) => decision::Verdict::Commit(digest.into_wire()),
                Verdict::Abort => decision::Verdict::Abort(decision::Abort {}),
            }),
        }
    }

    fn from_wire(wire: wire::Decision) -> Result<Self, Malformed> {
        Ok(Self {
            group: required::decode(wire.group, "group")?,
            verdict: match required::present(wire.verdict, "verdict")? {
                decision::Verdict::Commit(digest) => {
                    Verdict::Commit(plain::decode(digest, "commit")?)
                }
                decision::Verdict::Abort(_) => Verdict::Abort,
            },
        })
    }
}
