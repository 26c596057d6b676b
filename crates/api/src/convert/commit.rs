//! What shards say to one another.

use atoll_fabric::Malformed;
use atoll_types::{
    Anchor, B256, Credit, CreditKind, Flight, GroupDigest, GroupResult, InFlight, LateAsk,
    LateLease, Lease, Part, PartMessage, Settlement, ShardId, TxOutcome, Want,
};
use atoll_wire::v1::{self as wire, credit, tx_outcome};

use super::{Proto, messages, plain, required};

messages! {
    InFlight => InFlight { key: required, group: required, executor: plain }
    Want => Want { source: required, to: required, keys: small_list }
    Flight => Flight {
        source: required, digest: plain, to: required, values: small_list, codes: codes,
    }
    LateAsk => LateAsk { group: required, keys: required }
    LateLease => LateLease {
        group: required, from: plain, reads: small_list, writes: small_list, refused: small_list,
    }
    Lease => Lease {
        chain_id: plain, epoch: plain, group: required, from: plain, values: small_list,
        in_flight: small_list, credits: small_list, bodies: list,
    }
    GroupDigest => GroupDigest { group: required, digest: plain }
    Part => Part {
        chain_id: plain, epoch: plain, group: required, executor: plain, owner: plain,
        writes: small_list, codes: codes, receipts: list, outcomes: list, fees: plain,
        burned: plain, sources: list,
    }
    GroupResult => GroupResult { group: required, parts: list }
    PartMessage => PartMessage { part: required, manifest: list }
    Anchor => Anchor {
        shard: plain, head: plain, cut: plain, digest: plain, gas_used: plain, acks: acks,
        credits_sent: list, credits_received: list, root: optional,
    }
    Settlement => Settlement {
        by: plain, from: plain, up_to: plain, returned_up_to: plain, cut: plain,
    }
}

impl Proto<wire::ShardSequence> for (ShardId, u64) {
    fn into_wire(self) -> wire::ShardSequence {
        let (shard, seq) = self;
        wire::ShardSequence { shard: shard.into_wire(), seq }
    }

    fn from_wire(wire: wire::ShardSequence) -> Result<Self, Malformed> {
        Ok((plain::decode(wire.shard, "shard")?, wire.seq))
    }
}

impl Proto<wire::ManifestEntry> for (ShardId, B256) {
    fn into_wire(self) -> wire::ManifestEntry {
        let (owner, hash) = self;
        wire::ManifestEntry { owner: owner.into_wire(), hash: hash.into_wire() }
    }

    fn from_wire(wire: wire::ManifestEntry) -> Result<Self, Malformed> {
        Ok((plain::decode(wire.owner, "owner")?, plain::decode(wire.hash, "hash")?))
    }
}

impl Proto<wire::TxOutcome> for (B256, TxOutcome) {
    fn into_wire(self) -> wire::TxOutcome {
        use tx_outcome::{Behind, Executed, Invalid, Outcome, Wrong};
        let (tx, outcome) = self;
        let outcome = match outcome {
            TxOutcome::Executed => Outcome::Executed(Executed {}),
            TxOutcome::Wrong { missing } => {
                Outcome::Wrong(Wrong { missing: required::encode(missing) })
            }
            TxOutcome::Invalid { reason } => Outcome::Invalid(Invalid { reason }),
            TxOutcome::Behind => Outcome::Behind(Behind {}),
        };
        wire::TxOutcome { tx: tx.into_wire(), outcome: Some(outcome) }
    }

    fn from_wire(wire: wire::TxOutcome) -> Result<Self, Malformed> {
        use tx_outcome::Outcome;
        let tx = plain::decode(wire.tx, "tx")?;
        let outcome = match required::present(wire.outcome, "outcome")? {
            Outcome::Executed(_) => TxOutcome::Executed,
            Outcome::Wrong(wrong) => {
                TxOutcome::Wrong { missing: required::decode(wrong.missing, "wrong.missing")? }
            }
            Outcome::Invalid(invalid) => TxOutcome::Invalid { reason: invalid.reason },
            Outcome::Behind(_) => TxOutcome::Behind,
        };
        Ok((tx, outcome))
    }
}

impl Proto<wire::Credit> for Credit {
    fn into_wire(self) -> wire::Credit {
        use credit::{Fees, Kind, Payment, Returned};
        let kind = match self.kind {
            CreditKind::Payment { tx } => Kind::Payment(Payment { tx: tx.into_wire() }),
            CreditKind::Fees => Kind::Fees(Fees {}),
            CreditKind::Returned { tx } => Kind::Returned(Returned { tx: tx.into_wire() }),
        };
        wire::Credit {
            from: self.from.into_wire(),
            to: self.to.into_wire(),
            seq: self.seq,
            account: self.account.into_wire(),
            payer: self.payer.into_wire(),
            amount: self.amount.into_wire(),
            kind: Some(kind),
        }
    }

    fn from_wire(wire: wire::Credit) -> Result<Self, Malformed> {
        use credit::Kind;
        Ok(Self {
            from: plain::decode(wire.from, "from")?,
            to: plain::decode(wire.to, "to")?,
            seq: wire.seq,
            account: plain::decode(wire.account, "account")?,
            payer: plain::decode(wire.payer, "payer")?,
            amount: plain::decode(wire.amount, "amount")?,
            kind: match required::present(wire.kind, "kind")? {
                Kind::Payment(payment) => {
                    CreditKind::Payment { tx: plain::decode(payment.tx, "payment.tx")? }
                }
                Kind::Fees(_) => CreditKind::Fees,
                Kind::Returned(returned) => {
                    CreditKind::Returned { tx: plain::decode(returned.tx, "returned.tx")? }
                }
            },
        })
    }
}
