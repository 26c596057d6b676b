//! Beacon blocks and shard blocks.

use atoll_fabric::Malformed;
use atoll_types::{
    AbortCause, Anchored, BeaconBlock, BlockEnv, CreditsDue, Decision, GroupId, LocalBlock,
    LocalTx, PlannedGroup, StateRoot, Verdict,
};
use atoll_wire::v1::{self as wire, decision};

use super::{Proto, list, messages, plain, required};

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
    Anchored => Anchored { shard: plain, head: plain, cut: plain, digest: plain, root: optional }
    StateRoot => StateRoot { cut: plain, root: plain }
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

impl Proto<decision::Abort> for AbortCause {
    fn into_wire(self) -> decision::Abort {
        use decision::{Dependant, Missing, Silent, abort::Cause};
        let cause = match self {
            Self::Missing(shards) => Cause::Missing(Missing { shards: list::encode(shards) }),
            Self::Silent => Cause::Silent(Silent {}),
            Self::Dependant => Cause::Dependant(Dependant {}),
        };
        decision::Abort { cause: Some(cause) }
    }

    fn from_wire(wire: decision::Abort) -> Result<Self, Malformed> {
        use decision::abort::Cause;
        Ok(match required::present(wire.cause, "cause")? {
            Cause::Missing(missing) => {
                Self::Missing(list::decode(missing.shards, "missing.shards")?)
            }
            Cause::Silent(_) => Self::Silent,
            Cause::Dependant(_) => Self::Dependant,
        })
    }
}

impl Proto<wire::Decision> for Decision {
    fn into_wire(self) -> wire::Decision {
        let verdict = match self.verdict {
            Verdict::Commit { digest, late } => decision::Verdict::Commit(decision::Commit {
                digest: digest.into_wire(),
                late: list::encode(late),
            }),
            Verdict::Abort(cause) => decision::Verdict::Abort(cause.into_wire()),
        };
        wire::Decision { group: required::encode(self.group), verdict: Some(verdict) }
    }

    fn from_wire(wire: wire::Decision) -> Result<Self, Malformed> {
        let group = required::decode(wire.group, "group")?;
        let verdict = match required::present(wire.verdict, "verdict")? {
            decision::Verdict::Commit(commit) => Verdict::Commit {
                digest: plain::decode(commit.digest, "commit.digest")?,
                late: list::decode(commit.late, "commit.late")?,
            },
            decision::Verdict::Abort(abort) => Verdict::Abort(plain::decode(abort, "abort")?),
        };
        Ok(Self { group, verdict })
    }
}
