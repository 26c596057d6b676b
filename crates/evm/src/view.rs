use std::sync::Arc;

use alloy_primitives::{Address, B256};
use atoll_types::{StateKey, StateValue};

use crate::Bytecode;

/// Where the values come from that a transaction reads.
pub trait StateView {
    /// The value of a key. A key that was never written has [`StateKey::absent`] as value; `None`
    /// means that this view does not have the key, or that the transaction may not use it.
    fn read(&self, key: &StateKey) -> Option<StateValue>;

    /// Code by its hash; `None` if it is not at hand. Never asked for the hash of no code. Keep what
    /// [`crate::bytecode`] makes: its analysis is much of the cost of a call.
    fn code(&self, hash: &B256) -> Option<Bytecode>;

    /// Hash of one of the 256 blocks before the current one; `None` counts as zero.
    fn block_hash(&self, number: u64) -> Option<B256> {
        let _ = number;
        None
    }

    /// Whether an account that has neither code nor a nonce has slots all the same, so that no
    /// contract can be created there (EIP-7610). On Ethereum there are a few from before EIP-161; a
    /// live chain has none.
    fn has_storage(&self, address: &Address) -> bool {
        let _ = address;
        false
    }
}

/// What happens when a transaction needs a key that the view does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMissing {
    /// The attempt ends.
    Stop,
    /// The attempt goes on with the absent value, to find more of the keys that it needs; its
    /// outcome is still [`crate::Outcome::Missing`]. Code that is not at hand ends it all the same.
    Assume,
}

/// The state before anything was ever written. `Overlay::new(&Empty)` is a state in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Empty;

impl StateView for Empty {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        Some(key.absent())
    }

    fn code(&self, _hash: &B256) -> Option<Bytecode> {
        None
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<V: StateView + ?Sized> StateView for $pointer {
            fn read(&self, key: &StateKey) -> Option<StateValue> {
                (**self).read(key)
            }

            fn code(&self, hash: &B256) -> Option<Bytecode> {
                (**self).code(hash)
            }

            fn block_hash(&self, number: u64) -> Option<B256> {
                (**self).block_hash(number)
            }

            fn has_storage(&self, address: &Address) -> bool {
                (**self).has_storage(address)
            }
        }
    )*};
}

forward!(&V, Box<V>, Arc<V>);
