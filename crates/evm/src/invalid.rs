use alloy_primitives::{Address, U256};
use revm::{
    context::{BlockEnv, TxEnv, result::InvalidTransaction},
    primitives::eip3860,
};
use serde::{Deserialize, Serialize};

/// Why a transaction cannot be run as things stand: it changes nothing and costs nothing. Messages
/// begin as geth's do, since client libraries look for those words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Invalid {
    #[error("nonce too low: next nonce {state}, tx nonce {tx}")]
    NonceTooLow { tx: u64, state: u64 },
    #[error("nonce too high: next nonce {state}, tx nonce {tx}")]
    NonceTooHigh { tx: u64, state: u64 },
    /// EIP-2681.
    #[error("nonce has max value")]
    NonceMax,
    /// In wei; `need` is the most that an overflowing sum can be told as.
    #[error("insufficient funds for gas * price + value: have {have} want {need}")]
    InsufficientFunds { have: U256, need: U256 },
    /// In wei for each unit of gas.
    #[error("max fee per gas less than block base fee: maxFeePerGas: {cap}, baseFee: {base_fee}")]
    FeeCapTooLow { cap: u128, base_fee: u64 },
    #[error("intrinsic gas too low: have {limit}, want {need}")]
    IntrinsicGas { limit: u64, need: u64 },
    /// EIP-7623.
    #[error("insufficient gas for floor data gas cost: have {limit}, want {need}")]
    FloorGas { limit: u64, need: u64 },
    /// EIP-7825.
    #[error("transaction gas limit too high (cap: {cap}, tx: {limit})")]
    GasLimitTooHigh { limit: u64, cap: u64 },
    #[error("exceeds block gas limit: tx gas limit {limit}, block gas limit {block}")]
    BlockGasLimit { limit: u64, block: u64 },
    /// EIP-3860; in bytes.
    #[error("max initcode size exceeded: code size {size} limit {limit}")]
    InitCodeSize { size: usize, limit: usize },
    /// EIP-3607.
    #[error("sender not an eoa: address {sender}")]
    SenderHasCode { sender: Address },
    #[error("{0}")]
    Other(String),
}

impl Invalid {
    /// What revm says is wrong with a transaction. `have` is the sender's balance.
    pub(crate) fn from_revm(
        error: InvalidTransaction,
        tx: &TxEnv,
        block: &BlockEnv,
        have: U256,
    ) -> Self {
        use InvalidTransaction as Revm;
        let limit = tx.gas_limit;
        match error {
            Revm::NonceTooLow { tx, state } => Self::NonceTooLow { tx, state },
            Revm::NonceTooHigh { tx, state } => Self::NonceTooHigh { tx, state },
            Revm::NonceOverflowInTransaction => Self::NonceMax,
            Revm::LackOfFundForMaxFee { fee, .. } => Self::InsufficientFunds { have, need: *fee },
            Revm::OverflowPaymentInTransaction => Self::InsufficientFunds { have, need: U256::MAX },
            Revm::GasPriceLessThanBasefee => {
                Self::FeeCapTooLow { cap: tx.gas_price, base_fee: block.basefee }
            }
            Revm::CallGasCostMoreThanGasLimit { initial_gas, .. } => {
                Self::IntrinsicGas { limit, need: initial_gas }
            }
            Revm::GasFloorMoreThanGasLimit { gas_floor, .. } => {
                Self::FloorGas { limit, need: gas_floor }
            }
            Revm::TxGasLimitGreaterThanCap { cap, .. } => Self::GasLimitTooHigh { limit, cap },
            Revm::CallerGasLimitMoreThanBlock => {
                Self::BlockGasLimit { limit, block: block.gas_limit }
            }
            Revm::CreateInitCodeSizeLimit => {
                Self::InitCodeSize { size: tx.data.len(), limit: eip3860::MAX_INITCODE_SIZE }
            }
            Revm::RejectCallerWithCode => Self::SenderHasCode { sender: tx.caller },
            other => Self::Other(other.to_string()),
        }
    }
}
