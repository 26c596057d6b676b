//! State keys: the unit of leasing and of conflict.

use alloy_primitives::{Address, B256, U256, b256};
use serde::{Deserialize, Serialize};

/// Hash of no code.
pub const KECCAK_EMPTY: B256 =
    b256!("0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470");

/// One cell of the world's state. Its owner is the shard of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StateKey {
    /// Nonce and balance of an account.
    Basic(Address),
    /// Code hash and incarnation of an account.
    Code(Address),
    /// A storage slot of one incarnation of a contract.
    Slot(Address, u32, U256),
}

/// Nonce and balance. The default is an account that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basic {
    pub nonce: u64,
    /// In wei.
    pub balance: U256,
}

/// What code an account has. Code itself is content-addressed by `hash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRef {
    pub hash: B256,
    /// Rises by one each time the account is destroyed, which voids its slots.
    pub incarnation: u32,
}

impl Default for CodeRef {
    fn default() -> Self {
        Self { hash: KECCAK_EMPTY, incarnation: 0 }
    }
}

/// The value of a state key, of the variant that its key has. Absence is the default value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateValue {
    Basic(Basic),
    Code(CodeRef),
    Slot(U256),
}

/// A key and the value it gets.
pub type Write = (StateKey, StateValue);

impl StateKey {
    /// The account that the key belongs to.
    pub fn address(&self) -> Address {
        match self {
            Self::Basic(address) | Self::Code(address) | Self::Slot(address, ..) => *address,
        }
    }

    /// The value of a key that was never written.
    pub fn absent(&self) -> StateValue {
        match self {
            Self::Basic(_) => StateValue::Basic(Basic::default()),
            Self::Code(_) => StateValue::Code(CodeRef::default()),
            Self::Slot(..) => StateValue::Slot(U256::ZERO),
        }
    }

    /// Whether `value` is of the kind that this key holds.
    pub fn holds(&self, value: &StateValue) -> bool {
        matches!(
            (self, value),
            (Self::Basic(_), StateValue::Basic(_))
                | (Self::Code(_), StateValue::Code(_))
                | (Self::Slot(..), StateValue::Slot(_))
        )
    }

    /// The key as proofs name it.
    pub fn in_tree(&self) -> atoll_proof::Key {
        match self {
            Self::Basic(address) => atoll_proof::Key::Basic(address.0.0),
            Self::Code(address) => atoll_proof::Key::Code(address.0.0),
            Self::Slot(address, incarnation, slot) => atoll_proof::Key::Slot {
                address: address.0.0,
                incarnation: *incarnation,
                slot: slot.to_be_bytes(),
            },
        }
    }

    /// A 64-bit name for the key, by which the beacon finds conflicts. Two keys that collide are
    /// taken to conflict, which costs time and never correctness.
    pub fn fingerprint(&self) -> u64 {
        let fold = |seed: u64, bytes: &[u8]| {
            bytes.chunks(8).fold(seed, |hash, chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                mix(hash ^ u64::from_le_bytes(word))
            })
        };
        match self {
            Self::Basic(address) => fold(1, address.as_slice()),
            Self::Code(address) => fold(2, address.as_slice()),
            Self::Slot(address, incarnation, slot) => {
                let account = fold(3 + (u64::from(*incarnation) << 8), address.as_slice());
                slot.as_limbs().iter().fold(account, |hash, limb| mix(hash ^ limb))
            }
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl StateValue {
    /// The value as proofs name it.
    pub fn in_tree(&self) -> atoll_proof::Value {
        match self {
            Self::Basic(Basic { nonce, balance }) => {
                atoll_proof::Value::Basic { nonce: *nonce, balance: balance.to_be_bytes() }
            }
            Self::Code(CodeRef { hash, incarnation }) => {
                atoll_proof::Value::Code { hash: hash.0, incarnation: *incarnation }
            }
            Self::Slot(word) => atoll_proof::Value::Slot(word.to_be_bytes()),
        }
    }

    /// The nonce and balance; the default if the value is of another kind.
    pub fn basic(&self) -> Basic {
        if let Self::Basic(basic) = self { *basic } else { Basic::default() }
    }

    /// The code reference; the default if the value is of another kind.
    pub fn code(&self) -> CodeRef {
        if let Self::Code(code) = self { *code } else { CodeRef::default() }
    }

    /// The slot's word; zero if the value is of another kind.
    pub fn slot(&self) -> U256 {
        if let Self::Slot(word) = self { *word } else { U256::ZERO }
    }
}
