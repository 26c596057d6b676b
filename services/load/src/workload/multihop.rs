use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use rand::{Rng, rngs::StdRng};

use super::{Call, Calls, Cross, Rotation, World, hop_gas};
use crate::contracts::Hop;

/// Chains of contracts that call one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hops {
    /// For each shard, a chain of one contract that stands there.
    pub local: Vec<Address>,
    /// For each shard, the first contract, there, of a chain over it and the shards after it.
    pub chains: Vec<Address>,
    /// Contracts in each of `chains`.
    pub length: u16,
    /// Shards that each of `chains` goes over.
    pub span: u16,
}

/// Calls that write to every contract of a chain. One that crosses takes a chain over several shards,
/// by skewed choice; a local one the single contract of its sender's shard. All send in turn.
pub struct MultiHop {
    world: World,
    hops: Hops,
    senders: Rotation,
    /// Running sum of the weights of the chains.
    running: Vec<f64>,
    cross: Cross,
}

impl MultiHop {
    pub fn new(world: &World, hops: Hops, cross: Cross, zipf: f64, rng: &mut StdRng) -> Self {
        let weights = (0..hops.chains.len()).map(|chain| (chain as f64 + 1.0).powf(-zipf));
        let running = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self {
            senders: Rotation::new(world.members(|_| true), rng),
            running: running.collect(),
            world: world.clone(),
            hops,
            cross,
        }
    }

    fn chain(&self, rng: &mut StdRng) -> Address {
        let at = rng.random::<f64>() * self.running.last().copied().unwrap_or_default();
        let index = self.running.partition_point(|running| *running <= at);
        self.hops.chains[index.min(self.hops.chains.len() - 1)]
    }
}

impl Calls for MultiHop {
    fn next(&mut self, rng: &mut StdRng) -> Call {
        let sender = self.senders.turn().unwrap_or_default();
        let home = self.world.shard(sender);
        let crosses = self.hops.span > 1 && self.cross.draw(rng);
        let (to, length) = if crosses {
            (self.chain(rng), self.hops.length)
        } else {
            (self.hops.local[usize::from(home)], 1)
        };
        let hop = Hop::hopCall { amount: U256::from(1), failAtEnd: false };
        Call {
            sender,
            to,
            value: U256::ZERO,
            input: hop.abi_encode().into(),
            gas_limit: hop_gas(length),
            crosses,
        }
    }
}
