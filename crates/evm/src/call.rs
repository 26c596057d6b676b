use alloy_eips::eip2930::AccessList;
use alloy_primitives::{Address, B256, Bytes, Log, U256};
use atoll_types::{KeySet, StateKey};

use crate::Invalid;

/// The most gas that a call gets, whatever it asks for. As in geth.
pub const CALL_GAS_CAP: u64 = 50_000_000;

/// A call that changes nothing, as of `eth_call` and `eth_estimateGas`.
#[derive(Clone, Debug, Default)]
pub struct CallRequest {
    pub from: Address,
    /// The callee; `None` for a creation.
    pub to: Option<Address>,
    /// At most [`CALL_GAS_CAP`], which is also what `None` stands for.
    pub gas: Option<u64>,
    /// What GASPRICE gives, in wei. Nothing is charged.
    pub gas_price: u128,
    /// In wei. `from` must have it, or the call ends as [`CallEnd::Halted`].
    pub value: U256,
    pub input: Bytes,
    pub access_list: AccessList,
}

/// An attempt to carry out a call. The fields are those of [`crate::Run`].
#[derive(Clone, Debug)]
pub struct CallRun {
    pub outcome: CallOutcome,
    pub used: KeySet,
    pub missing: Vec<StateKey>,
    pub missing_codes: Vec<B256>,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum CallOutcome {
    Done(CallResult),
    /// Only for reasons of gas and size: nonce, balance, base fee and the sender's code are not
    /// looked at.
    Invalid(Invalid),
    /// The view lacks something that it needs.
    Missing,
}

/// What a call gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallResult {
    pub end: CallEnd,
    pub gas_used: u64,
    /// Return or revert data; the code for a creation.
    pub output: Bytes,
    pub logs: Vec<Log>,
    /// Address of the contract that a creation would make.
    pub contract: Option<Address>,
}

/// The end of a call's execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallEnd {
    Success,
    Reverted,
    /// All gas is gone.
    Halted {
        reason: String,
        out_of_gas: bool,
    },
}
