use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use rand::rngs::StdRng;

use super::{Call, Calls, Cross, Rotation, Skew, TOKEN_GAS, World};
use crate::contracts::Token;

/// Token transfers. There is a token on each shard: an account uses that of its own shard for a
/// local transfer, and always the same foreign one for a transfer that crosses. All send in turn;
/// whom they pay is skewed (the balances stand in the token, wherever the receiver is).
pub struct Erc20 {
    world: World,
    tokens: Vec<Address>,
    senders: Rotation,
    receivers: Skew,
    cross: Cross,
}

/// The shard whose token an account uses for transfers that cross: all others get the same share of
/// the accounts. Its own if there is only one.
pub fn foreign_token(world: &World, account: u32) -> u16 {
    let shards = world.shards();
    let step = 1 + (account / u32::from(shards)) % u32::from(shards - 1).max(1);
    ((u32::from(world.shard(account)) + step) % u32::from(shards)) as u16
}

impl Erc20 {
    /// `tokens` holds the token of each shard.
    pub fn new(
        world: &World,
        tokens: &[Address],
        cross: Cross,
        zipf: f64,
        rng: &mut StdRng,
    ) -> Self {
        Self {
            senders: Rotation::new(world.members(|_| true), rng),
            receivers: Skew::new(world, zipf),
            tokens: tokens.to_vec(),
            world: world.clone(),
            cross,
        }
    }
}

impl Calls for Erc20 {
    fn next(&mut self, rng: &mut StdRng) -> Call {
        let sender = self.senders.turn().unwrap_or_default();
        let home = self.world.shard(sender);
        let shard = if self.cross.draw(rng) { foreign_token(&self.world, sender) } else { home };
        let receiver = self.receivers.any(rng).unwrap_or(sender);
        let transfer =
            Token::transferCall { to: self.world.address(receiver), value: U256::from(1_000) };
        Call {
            sender,
            to: self.tokens[usize::from(shard)],
            value: U256::ZERO,
            input: transfer.abi_encode().into(),
            gas_limit: TOKEN_GAS,
            crosses: shard != home,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::tests::world;

    #[test]
    fn foreign_tokens_are_foreign_and_spread() {
        let world = world(1_200, 4);
        let mut counts = [0; 4];
        for account in 0..1_200 {
            let foreign = foreign_token(&world, account);
            assert_ne!(foreign, world.shard(account));
            counts[usize::from(foreign)] += 1;
        }
        assert_eq!(counts, [300; 4]);
        assert_eq!(foreign_token(&crate::workload::tests::world(3, 1), 2), 0);
    }
}
