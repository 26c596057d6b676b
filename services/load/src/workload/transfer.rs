use alloy_primitives::{Bytes, U256};
use rand::rngs::StdRng;

use super::{Call, Calls, Cross, Rotation, Skew, TRANSFER_GAS, World};

/// Payments of 1,000 wei between the accounts. All send in turn; whom they pay is skewed. A payment
/// to another shard is a credit.
pub struct Transfer {
    world: World,
    senders: Rotation,
    receivers: Skew,
    cross: Cross,
}

impl Transfer {
    pub fn new(world: &World, cross: Cross, zipf: f64, rng: &mut StdRng) -> Self {
        Self {
            senders: Rotation::new(world.members(|_| true), rng),
            receivers: Skew::new(world, zipf),
            world: world.clone(),
            cross,
        }
    }

    /// Somebody of the sender's shard, but not himself if there is anybody else.
    fn neighbour(&self, sender: u32, rng: &mut StdRng) -> u32 {
        let shard = self.world.shard(sender);
        match self.receivers.within(shard, rng) {
            Some(drawn) if drawn != sender => drawn,
            _ => self.after(sender, shard).unwrap_or(sender),
        }
    }

    /// The account of the shard that follows in rank.
    fn after(&self, sender: u32, shard: u16) -> Option<u32> {
        (sender + 1..self.world.len())
            .chain(0..sender)
            .find(|index| self.world.shard(*index) == shard)
    }
}

impl Calls for Transfer {
    fn next(&mut self, rng: &mut StdRng) -> Call {
        let sender = self.senders.turn().unwrap_or_default();
        let shard = self.world.shard(sender);
        let away = self.cross.draw(rng).then(|| self.receivers.outside(shard, rng));
        let receiver = away.flatten().unwrap_or_else(|| self.neighbour(sender, rng));
        Call {
            sender,
            to: self.world.address(receiver),
            value: U256::from(1_000),
            input: Bytes::new(),
            gas_limit: TRANSFER_GAS,
            crosses: self.world.shard(receiver) != shard,
        }
    }
}
