use alloy_primitives::{Address, Bytes, U256};
use rand::rngs::StdRng;

use super::{Call, Calls, Cross, Rotation, Skew, TRANSFER_GAS, World};

/// Payments of 1,000 wei. All accounts send in turn; whom they pay is skewed. A payment to another
/// shard is a credit.
pub struct Transfer {
    world: World,
    payees: World,
    senders: Rotation,
    receivers: Skew,
    cross: Cross,
}

impl Transfer {
    pub fn new(world: &World, payees: &World, cross: Cross, zipf: f64, rng: &mut StdRng) -> Self {
        Self {
            senders: Rotation::new(world.members(|_| true), rng),
            receivers: Skew::new(payees, zipf),
            world: world.clone(),
            payees: payees.clone(),
            cross,
        }
    }

    /// Somebody of the sender's shard, but not himself if there is anybody else.
    fn neighbour(&self, sender: u32, rng: &mut StdRng) -> Address {
        let (shard, address) = (self.world.shard(sender), self.world.address(sender));
        let drawn = self.receivers.within(shard, rng).map(|drawn| self.payees.address(drawn));
        match drawn {
            Some(drawn) if drawn != address => drawn,
            _ => self.after(sender, shard).map_or(address, |next| self.world.address(next)),
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
        let away = self.cross.draw(rng).then(|| self.receivers.outside(shard, rng)).flatten();
        Call {
            sender,
            to: match away {
                Some(away) => self.payees.address(away),
                None => self.neighbour(sender, rng),
            },
            value: U256::from(1_000),
            input: Bytes::new(),
            gas_limit: TRANSFER_GAS,
            crosses: away.is_some(),
        }
    }
}
