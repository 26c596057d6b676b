//! A signed Ethereum transaction and its sender.

use std::{fmt, sync::Arc};

use alloy_consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable};
use alloy_eips::{Decodable2718, eip2718::Eip2718Error};
use alloy_primitives::{Address, B256, Bytes, U256, uint};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::TraceContext;

/// Largest encoded transaction that is taken, in bytes. The size that Ethereum's own pools take.
pub const MAX_TX_BYTES: usize = 128 * 1024;

/// Half the order of secp256k1: the largest `s` of a signature (EIP-2).
const MAX_S: U256 = uint!(0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0_U256);

/// Why bytes are not a transaction of this chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TxError {
    #[error("transaction is {size} bytes, the limit is {limit}")]
    Oversized { size: usize, limit: usize },
    #[error("cannot decode transaction: {reason}")]
    Undecodable { reason: String },
    #[error("transaction has {count} bytes after its end")]
    TrailingBytes { count: usize },
    #[error("transaction type 0x{kind:02x} is not supported; use legacy, 0x01, 0x02 or 0x04")]
    UnsupportedType { kind: u8 },
    #[error("transaction is for chain {found}, this is chain {expected}")]
    WrongChain { found: u64, expected: u64 },
    #[error("signature's s value is in the upper half of the curve order (EIP-2)")]
    HighS,
    #[error("signature is invalid: no sender can be recovered from it")]
    InvalidSignature,
    #[error("EIP-7702 transaction without an authorization")]
    EmptyAuthorizations,
    #[error("max priority fee per gas {priority} is higher than max fee per gas {max}")]
    PriorityAboveMax { priority: u128, max: u128 },
}

/// A signed transaction whose sender is known. Cheap to clone.
#[derive(Clone)]
pub struct Tx(Arc<Inner>);

struct Inner {
    envelope: TxEnvelope,
    raw: Bytes,
    sender: Address,
    trace: Option<TraceContext>,
}

impl Tx {
    /// Decodes what a client sent and recovers the sender: about 50 µs of CPU. Everything that can
    /// be checked without state is checked here, once.
    pub fn recover(
        raw: Bytes,
        chain_id: u64,
        trace: Option<TraceContext>,
    ) -> Result<Self, TxError> {
        let envelope = parse(&raw)?;
        if let Some(found) = envelope.chain_id().filter(|found| *found != chain_id) {
            return Err(TxError::WrongChain { found, expected: chain_id });
        }
        if envelope.signature().s() > MAX_S {
            return Err(TxError::HighS);
        }
        if let Some(priority) = envelope.max_priority_fee_per_gas() {
            let max = envelope.max_fee_per_gas();
            if priority > max {
                return Err(TxError::PriorityAboveMax { priority, max });
            }
        }
        if envelope.authorization_list().is_some_and(|list| list.is_empty()) {
            return Err(TxError::EmptyAuthorizations);
        }
        let sender = envelope.recover_signer().map_err(|_| TxError::InvalidSignature)?;
        Ok(Self(Arc::new(Inner { envelope, raw, sender, trace })))
    }

    /// Takes bytes that another part of this cluster has checked, with the sender that it found.
    pub fn trusted(
        raw: Bytes,
        sender: Address,
        trace: Option<TraceContext>,
    ) -> Result<Self, TxError> {
        let envelope = parse(&raw)?;
        Ok(Self(Arc::new(Inner { envelope, raw, sender, trace })))
    }

    /// Takes the bytes of a transaction of another chain, to run it again: of any type, blob
    /// transactions (without their blobs) included, of any size, and with the sender that is given.
    pub fn replayed(raw: Bytes, sender: Address) -> Result<Self, TxError> {
        let envelope = decode(&raw)?;
        Ok(Self(Arc::new(Inner { envelope, raw, sender, trace: None })))
    }

    /// The same transaction at another place of its trace.
    pub fn with_trace(&self, trace: Option<TraceContext>) -> Self {
        let Inner { envelope, raw, sender, .. } = &*self.0;
        Self(Arc::new(Inner {
            envelope: envelope.clone(),
            raw: raw.clone(),
            sender: *sender,
            trace,
        }))
    }

    pub fn hash(&self) -> &B256 {
        self.0.envelope.tx_hash()
    }

    pub fn sender(&self) -> Address {
        self.0.sender
    }

    /// The signed bytes (EIP-2718).
    pub fn raw(&self) -> &Bytes {
        &self.0.raw
    }

    /// Where the transaction is in its trace, if it is sampled.
    pub fn trace(&self) -> Option<TraceContext> {
        self.0.trace
    }

    /// Every field of the signed transaction.
    pub fn envelope(&self) -> &TxEnvelope {
        &self.0.envelope
    }

    pub fn nonce(&self) -> u64 {
        self.0.envelope.nonce()
    }

    pub fn gas_limit(&self) -> u64 {
        self.0.envelope.gas_limit()
    }

    /// The callee; `None` for a creation.
    pub fn to(&self) -> Option<Address> {
        self.0.envelope.to()
    }

    /// Whether it sets code for accounts (EIP-7702).
    pub fn authorizes(&self) -> bool {
        self.0.envelope.authorization_list().is_some()
    }

    /// What the callee is called with, or the code that creates a contract.
    pub fn input(&self) -> &Bytes {
        self.0.envelope.input()
    }

    /// In wei.
    pub fn value(&self) -> U256 {
        self.0.envelope.value()
    }

    /// Gas price of legacy and 2930 transactions, fee cap of the others, in wei.
    pub fn max_fee_per_gas(&self) -> u128 {
        self.0.envelope.max_fee_per_gas()
    }

    /// What the sender offers above the base fee, in wei for each unit of gas.
    pub fn priority_fee(&self) -> u128 {
        self.0.envelope.priority_fee_or_price()
    }

    /// The most that the transaction can cost its sender, in wei.
    pub fn max_cost(&self) -> U256 {
        U256::from(self.gas_limit())
            .saturating_mul(U256::from(self.max_fee_per_gas()))
            .saturating_add(self.value())
    }
}

fn parse(raw: &Bytes) -> Result<TxEnvelope, TxError> {
    if raw.len() > MAX_TX_BYTES {
        return Err(TxError::Oversized { size: raw.len(), limit: MAX_TX_BYTES });
    }
    if let Some(kind @ (0x00 | 0x03 | 0x05..=0x7f)) = raw.first().copied() {
        return Err(TxError::UnsupportedType { kind });
    }
    decode(raw)
}

fn decode(raw: &Bytes) -> Result<TxEnvelope, TxError> {
    let mut rest: &[u8] = raw;
    let envelope = TxEnvelope::decode_2718(&mut rest).map_err(|error| match error {
        Eip2718Error::UnexpectedType(kind) => TxError::UnsupportedType { kind },
        other => TxError::Undecodable { reason: other.to_string() },
    })?;
    if !rest.is_empty() {
        return Err(TxError::TrailingBytes { count: rest.len() });
    }
    Ok(envelope)
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tx({} from {} nonce {})", self.hash(), self.sender(), self.nonce())
    }
}

impl PartialEq for Tx {
    fn eq(&self, other: &Self) -> bool {
        self.hash() == other.hash()
    }
}

impl Eq for Tx {}

impl Serialize for Tx {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.0.raw, self.0.sender, self.0.trace).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Tx {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (raw, sender, trace) = Deserialize::deserialize(deserializer)?;
        Self::trusted(raw, sender, trace).map_err(de::Error::custom)
    }
}
