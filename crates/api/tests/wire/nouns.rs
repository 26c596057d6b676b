//! Random values of the domain's nouns.

use atoll_types::*;
use rand::{Rng, rngs::StdRng};

use crate::random::{Random, enums, structs};

structs! {
    Basic { nonce, balance }
    CodeRef { hash, incarnation }
    TxRef { hash, attempt }
    GroupId { round, index }
    SharedTx { tx, origin, attempt, wrong, absences, silences, keys, last_valid_round }
    Executed { status, gas_used, effective_gas_price, logs, contract, output }
    Receipt { tx, sender, nonce, to, executed, kind, shards, round, index, block }
    BlockEnv { chain_id, number, timestamp, randomness, base_fee, coinbase, gas_limit }
    PlannedGroup { id, executor, owners, txs, gas }
    Decision { group, verdict }
    CreditsDue { from, to, up_to }
    Anchored { shard, head, cut, digest, root }
    StateRoot { cut, root }
    BeaconBlock {
        env, time_ms, parent, epoch, decisions, credits, plan, dropped, anchors, settled,
    }
    LocalTx { tx, receipt }
    LocalBlock { shard, number, parent, round, txs, writes, codes, credits, fees, burned }
    InFlight { key, group, executor }
    Lease { chain_id, epoch, group, from, values, in_flight, credits, bodies }
    Want { source, to, keys }
    Flight { source, digest, to, values, codes }
    LateAsk { group, keys }
    LateLease { group, from, reads, writes, refused }
    GroupDigest { group, digest }
    GroupAck { group, digest, sources, late }
    Part {
        chain_id, epoch, group, executor, owner, writes, codes, receipts, outcomes, fees, burned,
        sources,
    }
    GroupResult { group, parts }
    PartMessage { part, manifest }
    Anchor { shard, head, cut, digest, gas_used, acks, credits_sent, credits_received, root }
    Credit { from, to, seq, account, payer, amount, kind }
    Settlement { by, from, up_to, returned_up_to, cut }
    ShardKeys { shard, reads, writes }
    Intent { tx, origin, sender, nonce, gas_limit, last_valid_round, halvings, keys }
}

enums! {
    Verdict { Commit { digest, late } Abort { 0 } }
    AbortCause { Missing { 0 } Silent {} Dependant {} }
    ReceiptKind { Local {} Credit {} Group { 0 } }
    Finality { Executed {} Final {} }
    StateKey { Basic { 0 } Code { 0 } Slot { 0, 1, 2 } }
    StateValue { Basic { 0 } Code { 0 } Slot { 0 } }
    TxOutcome { Executed {} Wrong { missing } Invalid { reason } Behind {} }
    CreditKind { Payment { tx } Fees {} Returned { tx } }
    Refusal {
        WrongChain { found, expected }
        WrongEpoch { found, expected }
        GroupNotOpen { group }
        NotExecutor { group, found, expected }
        NotForThisShard { group, found, expected }
        OutsideFence { group, key }
        LacksFenced { group, key }
        NotLate { group, key, why }
        ManifestMismatch { group }
        OtherResult { group }
        CreditGap { from, found, newest }
        NotOwner { owner, here }
        OldAttempt { tx, attempt }
        TooManyShared { limit }
        Expired { last, cut }
        Malformed { what }
    }
}

impl Random for KeySet {
    fn random(rng: &mut StdRng) -> Self {
        Self::new(Vec::random(rng), Vec::random(rng))
    }
}

impl Random for Log {
    fn random(rng: &mut StdRng) -> Self {
        let topics = (0..rng.random_range(0..=4)).map(|_| B256::random(rng));
        let topics = topics.collect();
        Self::new(Address::random(rng), topics, Bytes::random(rng)).expect("at most four topics")
    }
}

impl Random for Write {
    fn random(rng: &mut StdRng) -> Self {
        let key = StateKey::random(rng);
        let value = match key {
            StateKey::Basic(_) => StateValue::Basic(Basic::random(rng)),
            StateKey::Code(_) => StateValue::Code(CodeRef::random(rng)),
            StateKey::Slot(..) => StateValue::Slot(U256::random(rng)),
        };
        (key, value)
    }
}

/// Pairs that are on the wire as messages.
macro_rules! pairs {
    ($($first:ty, $second:ty;)*) => { $(
        impl Random for ($first, $second) {
            fn random(rng: &mut StdRng) -> Self {
                (Random::random(rng), Random::random(rng))
            }
        }
    )* };
}

pairs! {
    String, u64;
    ShardId, u64;
    ShardId, B256;
    B256, TxOutcome;
}
