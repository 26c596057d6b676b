//! Which shard owns an address.

use std::collections::BTreeMap;

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};

use crate::{ShardId, StateKey, key::mix};

/// Number of virtual buckets that addresses are hashed to.
pub const BUCKETS: usize = 1024;

/// Address → shard: 1,024 buckets by hash of the address, and single addresses placed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Rises by one with each change. Part of every message between shards.
    pub epoch: u64,
    shards: u16,
    buckets: Vec<ShardId>,
    exceptions: BTreeMap<Address, ShardId>,
}

impl Placement {
    /// Buckets dealt round robin over `shards` shards (at least one).
    pub fn new(shards: u16, exceptions: BTreeMap<Address, ShardId>) -> Self {
        let shards = shards.max(1);
        let deal = |bucket: usize| ShardId((bucket % usize::from(shards)) as u16);
        Self { epoch: 0, shards, buckets: (0..BUCKETS).map(deal).collect(), exceptions }
    }

    /// Number of shards.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Every shard, in ascending order.
    pub fn all(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards).map(ShardId)
    }

    /// The addresses that do not stand where their hash would put them.
    pub fn exceptions(&self) -> &BTreeMap<Address, ShardId> {
        &self.exceptions
    }

    /// The shard that owns an address.
    pub fn owner(&self, address: &Address) -> ShardId {
        if let Some(shard) = self.exceptions.get(address) {
            return *shard;
        }
        let bytes = address.as_slice();
        let word = |at: usize| {
            let mut word = [0; 8];
            word[..bytes.len().min(at + 8) - at]
                .copy_from_slice(&bytes[at..bytes.len().min(at + 8)]);
            u64::from_le_bytes(word)
        };
        let hash = mix(word(0) ^ mix(word(8) ^ mix(word(16))));
        self.buckets[hash as usize % BUCKETS]
    }

    /// The shard that owns a key.
    pub fn owner_of(&self, key: &StateKey) -> ShardId {
        self.owner(&key.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_spread_evenly_and_exceptions_hold() {
        let odd = Address::repeat_byte(7);
        let home = Placement::new(4, BTreeMap::new()).owner(&odd);
        let elsewhere = ShardId((home.0 + 1) % 4);
        let placement = Placement::new(4, BTreeMap::from([(odd, elsewhere)]));
        assert_eq!(placement.owner(&odd), elsewhere);
        let mut counts = [0; 4];
        for i in 0..4_000u64 {
            counts
                [usize::from(placement.owner(&Address::left_padding_from(&i.to_be_bytes())).0)] +=
                1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
