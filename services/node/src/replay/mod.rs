//! Runs blocks of other Ethereum chains as this one would: on one shard, or across many by the whole
//! protocol. In memory, without services, network or disk.

mod local;
mod memory;
mod spread;

pub use local::{Ran, parallel, sequential};
pub use memory::Memory;
pub use spread::{Spread, spread};

use atoll_evm::Rules;
use atoll_types::{BlockEnv, Tx};

/// What a block runs.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    pub env: &'a BlockEnv,
    pub rules: Rules,
    pub txs: &'a [Tx],
}
