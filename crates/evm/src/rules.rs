/// A hard fork of Ethereum's, by the rules that came with it.
pub use revm::primitives::hardfork::SpecId as Fork;
use revm::{
    interpreter::instructions::{GasTable, gas_table_spec},
    precompile::{PrecompileSpecId, Precompiles},
};

/// Which of Ethereum's rules transactions run under. The default is what a live chain has.
///
/// What else depends on the fork stands in the block's values: before London the base fee is zero,
/// before the Merge the randomness is the difficulty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub fork: Fork,
    /// What blob transactions (type 3) need; `None` refuses them.
    pub blobs: Option<Blobs>,
    /// Whether the state may hold accounts that exist although they are empty
    /// ([`crate::EMPTY_ACCOUNT`]). Then a precompile's `Code` is used like that of other accounts.
    pub empty_accounts: bool,
}

/// What a block says of blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blobs {
    /// Price of blob gas in wei.
    pub base_fee: u128,
    /// Most blobs of one transaction; `None`: any number.
    pub max_per_tx: Option<u64>,
}

impl Default for Rules {
    /// The newest rules that are final on Ethereum's mainnet, without blobs.
    fn default() -> Self {
        Self::of(Fork::OSAKA)
    }
}

impl Rules {
    /// The rules of a fork, without blobs.
    pub fn of(fork: Fork) -> Self {
        Self { fork, blobs: None, empty_accounts: false }
    }

    /// Whether an account that is empty exists all the same once it was touched: so before EIP-161.
    pub(crate) fn keeps_empty(self) -> bool {
        !self.fork.is_enabled_in(Fork::SPURIOUS_DRAGON)
    }

    pub(crate) fn precompiles(self) -> &'static Precompiles {
        Precompiles::new(PrecompileSpecId::from_spec_id(self.fork))
    }

    /// What each opcode costs at least.
    pub(crate) fn gas(self) -> GasTable {
        const OSAKA: GasTable = gas_table_spec(Fork::OSAKA);
        if self.fork == Fork::OSAKA { OSAKA } else { gas_table_spec(self.fork) }
    }
}
