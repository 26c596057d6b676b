use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use rand::rngs::StdRng;

use super::{Call, Calls, Cross, Rotation, SWAP_GAS, Skew, World};
use crate::contracts::UniswapV2Router02;

/// A Uniswap V2 pair with its router. All of it stands on one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The shard of the contracts.
    pub home: u16,
    pub router: Address,
    pub tokens: [Address; 2],
    pub pair: Address,
}

impl Exchange {
    /// The token that an account sells: one half sells the first, the other half the second.
    pub fn sold_by(&self, account: u32) -> usize {
        (account % 2) as usize
    }
}

/// Swaps on one pair: every transaction writes the same slots. Local swaps are those of accounts of
/// the pair's shard. Accounts trade in turn, or by skewed choice if there is a skew.
pub struct Amm {
    world: World,
    exchange: Exchange,
    near: Rotation,
    far: Rotation,
    skew: Option<Skew>,
    cross: Cross,
}

impl Amm {
    pub fn new(
        world: &World,
        exchange: Exchange,
        cross: Cross,
        zipf: f64,
        rng: &mut StdRng,
    ) -> Self {
        let home = exchange.home;
        Self {
            near: Rotation::new(world.members(|shard| shard == home), rng),
            far: Rotation::new(world.members(|shard| shard != home), rng),
            skew: (zipf > 0.0).then(|| Skew::new(world, zipf)),
            world: world.clone(),
            exchange,
            cross,
        }
    }

    fn trader(&mut self, far: bool, rng: &mut StdRng) -> Option<u32> {
        match (&self.skew, far) {
            (Some(skew), true) => skew.outside(self.exchange.home, rng),
            (Some(skew), false) => skew.within(self.exchange.home, rng),
            (None, true) => self.far.turn(),
            (None, false) => self.near.turn(),
        }
    }
}

impl Calls for Amm {
    fn next(&mut self, rng: &mut StdRng) -> Call {
        let far = self.cross.draw(rng);
        // With very few accounts one of the two sides may have none.
        let sender = self.trader(far, rng).or_else(|| self.trader(!far, rng)).unwrap_or_default();
        let sold = self.exchange.sold_by(sender);
        let [first, second] = self.exchange.tokens;
        let swap = UniswapV2Router02::swapExactTokensForTokensCall {
            amountIn: U256::from(1_000_000_000_000_000u64),
            amountOutMin: U256::ZERO,
            path: if sold == 0 { vec![first, second] } else { vec![second, first] },
            to: self.world.address(sender),
            deadline: U256::MAX,
        };
        Call {
            sender,
            to: self.exchange.router,
            value: U256::ZERO,
            input: swap.abi_encode().into(),
            gas_limit: SWAP_GAS,
            crosses: self.world.shard(sender) != self.exchange.home,
        }
    }
}
