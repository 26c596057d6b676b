use alloy_primitives::{B256, Bytes, U256};
use atoll_types::{Executed, KeySet, StateKey, Write};

use crate::Invalid;

/// An attempt to run a transaction.
#[derive(Clone, Debug)]
pub struct Run {
    pub outcome: Outcome,
    /// The keys that the outcome depends on and the keys that it changes. If the outcome is
    /// [`Outcome::Missing`], those that were found until then, the missing ones among them.
    pub used: KeySet,
    /// Keys that were needed and that the view does not have, sorted.
    pub missing: Vec<StateKey>,
    /// Hashes of code that was needed and is not at hand, sorted.
    pub missing_codes: Vec<B256>,
    /// Gas that it ran for. If it was ended early by what is missing, its gas limit.
    pub gas: u64,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It ran, successfully or not, and is paid for.
    Executed(Box<Effects>),
    /// It cannot be run on this state.
    Invalid(Invalid),
    /// The view lacks something that it needs.
    Missing,
}

impl Outcome {
    /// The effects, if there are any.
    pub fn executed(&self) -> Option<&Effects> {
        if let Self::Executed(effects) = self { Some(effects) } else { None }
    }
}

/// What a transaction does to the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effects {
    /// The receipt's content. `output` is empty for a creation that succeeded: it would repeat the
    /// code.
    pub executed: Executed,
    /// New values of the keys whose value changes, sorted by key.
    pub writes: Vec<Write>,
    /// Code that did not exist at its address before, EIP-7702 designators included.
    pub codes: Vec<Bytes>,
    /// Priority fee in wei: owed to the coinbase, paid to nobody here. Zero if the coinbase has got
    /// it within the transaction.
    pub fee: U256,
    /// Wei that cease to exist: the base fee, the price of blobs, and what a SELFDESTRUCT burns.
    pub burned: U256,
}
