//! Random programs: accounts and contracts on all shards, and transactions that get in one another's
//! way.

mod act;
mod world;

use alloy_primitives::U256;
use anyhow::Context as _;
use atoll::config::Beacon;
use atoll_wire::v1::TransactionFinality;
use futures::future::try_join_all;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

pub use act::Act;
pub use world::World;

use crate::{
    api::Api,
    here::Shape,
    history::Ended,
    wallet::{Plan, Signed, Wallet},
};

/// Most transactions that a sender has under way.
const BURST: usize = 4;
/// Ether that every account of a program has.
const ETHER: u64 = 1_000;

/// What a seed stands for.
#[derive(Clone, Debug)]
pub struct Program {
    pub seed: u64,
    pub world: World,
    /// Transactions of each sender, besides those that set the world up.
    pub rounds: usize,
}

impl Program {
    pub fn new(seed: u64, shards: u16, rounds: usize) -> anyhow::Result<Self> {
        Ok(Self { seed, world: World::new(seed, shards)?, rounds })
    }

    /// The cluster that it runs on.
    pub fn shape(&self) -> Shape {
        let balance = U256::from(ETHER) * U256::from(10).pow(U256::from(18));
        let World { senders, deployers, placement, .. } = &self.world;
        let wallets = senders.iter().chain(deployers);
        Shape {
            balances: wallets.map(|wallet| (wallet.address(), balance)).collect(),
            placement: placement.exceptions().iter().map(|(a, shard)| (*a, shard.0)).collect(),
            beacon: Beacon { heartbeat_ms: 100, ..Beacon::default() },
            ..Shape::new(placement.shards())
        }
    }

    /// Carries it out: all senders at once. Returns every transaction and its end.
    pub async fn run(&self, api: &Api) -> anyhow::Result<Vec<Ended>> {
        let mut done = Vec::new();
        let World { mut senders, mut deployers, .. } = self.world.clone();
        let deployments = deployers.iter_mut().zip(self.world.deployments()?);
        let deployed = deployments.map(|(wallet, plan)| carry_out(api, wallet, vec![plan]));
        done.extend(try_join_all(deployed).await?.into_iter().flatten());
        for wave in [self.world.funds(), self.world.liquidity()] {
            let funded = senders.iter_mut().zip(wave).map(|(w, plans)| carry_out(api, w, plans));
            done.extend(try_join_all(funded).await?.into_iter().flatten());
        }
        let failed = done.iter().find(|tx| !tx.receipt.status).map(|tx| &tx.receipt);
        anyhow::ensure!(failed.is_none(), "the world cannot be set up: {failed:?}");
        let acted = senders.iter_mut().enumerate().map(|(at, wallet)| self.act(api, at, wallet));
        done.extend(try_join_all(acted).await?.into_iter().flatten());
        Ok(done)
    }

    /// What one sender does.
    async fn act(&self, api: &Api, at: usize, wallet: &mut Wallet) -> anyhow::Result<Vec<Ended>> {
        let mut rng = StdRng::seed_from_u64(self.seed ^ ((at as u64 + 1) << 32));
        let mut done = Vec::new();
        // Every kind of transaction is somebody's first one.
        let mut first = Some(Act::ALL[at % Act::ALL.len()]);
        let mut left = self.rounds;
        while left > 0 {
            let count = rng.random_range(1..=BURST).min(left);
            left -= count;
            let mut plans = Vec::with_capacity(count);
            for _ in 0..count {
                let act = first.take().or_else(|| Act::ALL.choose(&mut rng).copied());
                let act = act.context("there is always something to do")?;
                plans.push(self.world.plan(act, wallet, &mut rng)?);
            }
            done.extend(carry_out(api, wallet, plans).await?);
        }
        Ok(done)
    }
}

/// Sends transactions of one wallet and waits for their ends. One that is dropped is followed by
/// another with its nonce, so that those after it can go on.
async fn carry_out(api: &Api, wallet: &mut Wallet, plans: Vec<Plan>) -> anyhow::Result<Vec<Ended>> {
    let first = wallet.nonce;
    let txs: Vec<Signed> = plans.iter().map(|p| wallet.sign(p)).collect::<anyhow::Result<_>>()?;
    api.submit_all(&txs).await?;
    let mut done = Vec::new();
    for (tx, nonce) in txs.into_iter().zip(first..) {
        let mut tx = tx;
        for price in 1.. {
            let receipt = api.end_of(tx.hash).await?;
            let dropped = receipt.finality() == TransactionFinality::Dropped;
            done.push(Ended::new(&tx, receipt)?);
            if !dropped {
                break;
            }
            let pause = Plan { tip: price, ..Plan::pay(wallet.address(), 0) };
            tx = wallet.sign_at(nonce, &pause)?;
            api.submit(&tx).await?;
        }
    }
    Ok(done)
}
