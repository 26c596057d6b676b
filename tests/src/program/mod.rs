//! Random programs: accounts and contracts on all shards, and transactions that get in one another's
//! way.

mod act;
mod world;

use alloy_primitives::U256;
use anyhow::Context as _;
use atoll::config::Beacon;
use atoll_wire::v1::{SubmitOutcome, TransactionFinality, get_receipt_request::Wait};
use futures::future::{try_join, try_join_all};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio::time::Instant;

pub use act::Act;
pub use world::{Authority, World};

use crate::{
    PATIENCE,
    api::Api,
    here::{Here, Shape},
    history::Ended,
    wallet::{Plan, Signed, Wallet},
};

/// Most transactions that a sender has under way.
const BURST: usize = 4;
/// Ether that every account of a program has.
const ETHER: u64 = 1_000;
/// What those get whose funds others take: enough for a transaction, even if half of it goes on.
const HELP_WEI: u64 = 2_000_000_000_000_000_000;

/// What a seed stands for.
#[derive(Clone, Debug)]
pub struct Program {
    pub seed: u64,
    pub world: World,
    /// Transactions of each sender, besides those that set the world up.
    pub rounds: usize,
    /// How fast the beacon is.
    pub beacon: Beacon,
}

impl Program {
    pub fn new(seed: u64, shards: u16, rounds: usize) -> anyhow::Result<Self> {
        let beacon = Beacon { heartbeat_ms: 100, ..Beacon::default() };
        Ok(Self { seed, world: World::new(seed, shards)?, rounds, beacon })
    }

    /// With a beacon so fast that groups stay open for many blocks, and some for too many.
    pub fn hasty(self) -> Self {
        let beacon = Beacon { block_ms: 2, min_block_ms: 1, ..self.beacon };
        Self { beacon, ..self }
    }

    /// The cluster that it runs on.
    pub fn shape(&self) -> Shape {
        let ether = U256::from(ETHER) * U256::from(10).pow(U256::from(18));
        let help = U256::from(HELP_WEI);
        let World { senders, deployers, saviours, victims, placement, .. } = &self.world;
        let rich = senders.iter().chain(deployers).chain(saviours);
        Shape {
            balances: rich
                .map(|wallet| (wallet.address(), ether))
                .chain(victims.iter().map(|wallet| (wallet.address(), help)))
                .collect(),
            placement: placement.exceptions().iter().map(|(a, shard)| (*a, shard.0)).collect(),
            beacon: self.beacon.clone(),
            ..Shape::new(placement.shards())
        }
    }

    /// Carries it out: all senders at once. Returns every transaction and its end.
    pub async fn run(&self, here: &Here) -> anyhow::Result<Vec<Ended>> {
        let api = &here.api;
        let mut done = Vec::new();
        let World { mut senders, mut deployers, mut saviours, .. } = self.world.clone();
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
        let victims = self.world.victims.iter().zip(&mut saviours);
        let victims = victims.map(|(wallet, saviour)| self.suffer(here, wallet, saviour));
        let (acted, suffered) = try_join(try_join_all(acted), try_join_all(victims)).await?;
        done.extend(acted.into_iter().chain(suffered).flatten());
        Ok(done)
    }

    fn rng(&self, wallet: &Wallet) -> StdRng {
        let [.., a, b, c, d] = wallet.address().into_array();
        StdRng::seed_from_u64(self.seed ^ u64::from(u32::from_be_bytes([a, b, c, d])) << 32)
    }

    /// What one sender does.
    async fn act(&self, api: &Api, at: usize, wallet: &mut Wallet) -> anyhow::Result<Vec<Ended>> {
        let mut rng = self.rng(wallet);
        let mut done = Vec::new();
        // Every kind of transaction is somebody's first one.
        let mut first = Some(Act::ALL[at % Act::ALL.len()]);
        let mut left = self.rounds;
        while left > 0 {
            let count = rng.random_range(1..=BURST).min(left);
            left -= count;
            if let Some(authority) = self.world.authorities.choose(&mut rng) {
                authority.nonce_is(api.account(authority.address(), 0).await?.nonce);
            }
            let mut plans = Vec::with_capacity(count);
            for _ in 0..count {
                let act = first.take().unwrap_or_else(|| Act::any(&mut rng));
                plans.push(self.world.plan(act, wallet, &mut rng)?);
            }
            done.extend(carry_out(api, wallet, plans).await?);
        }
        Ok(done)
    }

    /// What somebody does whose nonce and funds others move: one transaction after the other. When
    /// there are no funds left, the saviour sends some.
    async fn suffer(
        &self,
        here: &Here,
        wallet: &Wallet,
        saviour: &mut Wallet,
    ) -> anyhow::Result<Vec<Ended>> {
        let mut rng = self.rng(wallet);
        let mut done = Vec::new();
        for _ in 0..self.rounds {
            let nonce = here.api.account(wallet.address(), 0).await?.nonce;
            let act = Act::any(&mut rng);
            let tx = wallet.sign_at(nonce, &self.world.plan(act, wallet, &mut rng)?)?;
            let (mut looks, begun) = (0, Instant::now());
            let end = loop {
                let outcome = here.api.offer(&tx).await?;
                let pays = outcome != SubmitOutcome::InsufficientFunds;
                match outcome {
                    SubmitOutcome::Taken | SubmitOutcome::AlreadyKnown => {}
                    // Its nonce was used by an authorisation, unless it has just been executed.
                    SubmitOutcome::NonceTooLow
                        if here.is_unknown(wallet.address(), tx.hash).await? =>
                    {
                        break None;
                    }
                    SubmitOutcome::NonceTooLow | SubmitOutcome::InsufficientFunds => {}
                    other => anyhow::bail!("{} is not taken: {other:?}", tx.hash),
                }
                // What is in the pool and cannot be paid for any more stays there.
                looks += 1;
                if !pays || looks % 4 == 0 {
                    let help = Plan::pay(wallet.address(), HELP_WEI);
                    done.extend(carry_out(&here.api, saviour, vec![help]).await?);
                }
                let patient = begun.elapsed() < PATIENCE;
                anyhow::ensure!(patient, "{} has no end: {outcome:?}", tx.hash);
                if !pays {
                    continue;
                }
                let known = here.api.known(tx.hash, Wait::Final, 300).await?;
                let ends = [TransactionFinality::Final, TransactionFinality::Dropped];
                if ends.contains(&known.finality()) {
                    break Some(known);
                }
            };
            if let Some(receipt) = end {
                done.push(Ended::new(&tx, receipt)?);
            }
        }
        Ok(done)
    }
}

/// Sends transactions of one wallet and waits for their ends. One that is dropped is followed by
/// another with its nonce, so that those after it can go on.
async fn carry_out(api: &Api, wallet: &mut Wallet, plans: Vec<Plan>) -> anyhow::Result<Vec<Ended>> {
    let first = wallet.nonce;
    let txs: Vec<Signed> = plans.iter().map(|p| wallet.sign(p)).collect::<anyhow::Result<_>>()?;
    let what = |tx: &Signed| {
        let plan = txs.iter().position(|other| other == tx).map(|at| &plans[at]);
        format!("{} sends {:.600}", wallet.address(), format!("{plan:?}"))
    };
    for tx in &txs {
        api.submit(tx).await.with_context(|| what(tx))?;
    }
    let mut done = Vec::new();
    for (tx, nonce) in txs.iter().zip(first..) {
        let mut tx = tx.clone();
        for price in 1.. {
            let receipt = api.bring_to_end(&tx).await.with_context(|| what(&tx))?;
            let dropped = receipt.finality() == TransactionFinality::Dropped;
            done.push(Ended::new(&tx, receipt)?);
            if !dropped {
                break;
            }
            let pause = Plan { tip: price, ..Plan::pay(wallet.address(), 0) };
            tx = wallet.sign_at(nonce, &pause)?;
            api.submit(&tx).await.with_context(|| what(&tx))?;
        }
    }
    Ok(done)
}
