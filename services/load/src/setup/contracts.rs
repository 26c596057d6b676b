//! Which contracts a workload needs, where they stand, and who holds what of them.

use alloy_primitives::{Address, Bytes, TxKind, U256};
use alloy_sol_types::SolCall;
use anyhow::Context;

use super::{
    Cast, Stage,
    sites::{Site, find},
};
use crate::{
    args::{LoadArgs, Workload},
    contracts::{PairPlace, Token, UniswapV2Router02, factory, hop, router, token},
    sign::Fees,
    wire::Cluster,
    workload::{Contracts, Exchange, Hops, Rotation, World, foreign_token},
};

const TOKEN_DEPLOY_GAS: u64 = 1_200_000;
const HOP_DEPLOY_GAS: u64 = 500_000;
const FACTORY_DEPLOY_GAS: u64 = 4_000_000;
const ROUTER_DEPLOY_GAS: u64 = 6_500_000;
/// Mint and approve.
const TOKEN_CALL_GAS: u64 = 80_000;
/// Creates the pair as well.
const LIQUIDITY_GAS: u64 = 4_000_000;

/// What a holder of a token gets: 10^24 base units.
fn holding() -> U256 {
    U256::from(10).pow(U256::from(24))
}

/// What the pair gets of each token: 10^30, so much that swaps hardly move the price.
fn liquidity() -> U256 {
    U256::from(10).pow(U256::from(30))
}

struct Deployment {
    site: Site,
    code: Bytes,
    gas: u64,
}

/// Everything that has to be deployed.
#[derive(Default)]
pub struct Build {
    deployments: Vec<Deployment>,
    contracts: Contracts,
    /// Whoever deploys the router gives the liquidity as well.
    provider: Option<Site>,
}

impl Build {
    fn add(&mut self, site: Site, code: Bytes, gas: u64) {
        self.deployments.push(Deployment { site, code, gas });
    }
}

/// Finds places for the contracts of a workload.
pub async fn plan(
    cluster: &Cluster,
    world: &World,
    args: &LoadArgs,
    seed: u64,
) -> anyhow::Result<Build> {
    let shards = usize::from(world.shards());
    let uses = |one| args.workload == one || args.workload == Workload::Mix;
    let home = (seed % shards as u64) as usize;
    let mut wanted = vec![0; shards];
    for (shard, wanted) in wanted.iter_mut().enumerate() {
        *wanted += usize::from(uses(Workload::Erc20));
        // A link of each chain that goes over the shard, and one by itself.
        *wanted += usize::from(uses(Workload::Multihop)) * (1 + usize::from(args.hops));
        // More than needed, to have the choice of a pair that lands here too.
        *wanted += usize::from(uses(Workload::Amm) && shard == home) * (10 + shards / 8);
    }
    let mut sites = find(cluster, seed, &wanted).await?;
    let mut build = Build::default();
    if uses(Workload::Erc20) {
        for sites in &mut sites {
            let site = sites.pop().context("too few sites")?;
            build.contracts.tokens.push(site.contract);
            build.add(site, token()?, TOKEN_DEPLOY_GAS);
        }
    }
    if uses(Workload::Multihop) {
        plan_hops(&mut build, &mut sites, args.hops)?;
    }
    if uses(Workload::Amm) {
        plan_exchange(&mut build, cluster, std::mem::take(&mut sites[home]), home as u16).await?;
    }
    Ok(build)
}

fn plan_hops(build: &mut Build, sites: &mut [Vec<Site>], length: u16) -> anyhow::Result<()> {
    let shards = sites.len();
    let mut hops =
        Hops { local: Vec::new(), chains: Vec::new(), length, span: length.min(shards as u16) };
    for first in 0..shards {
        let single = sites[first].pop().context("too few sites")?;
        hops.local.push(single.contract);
        build.add(single, hop(Address::ZERO)?, HOP_DEPLOY_GAS);
        // From the last link back: each knows the one after it.
        let mut next = Address::ZERO;
        for link in (0..usize::from(length)).rev() {
            let site = sites[(first + link) % shards].pop().context("too few sites")?;
            let code = hop(next)?;
            next = site.contract;
            build.add(site, code, HOP_DEPLOY_GAS);
        }
        hops.chains.push(next);
    }
    build.contracts.hops = Some(hops);
    Ok(())
}

/// Chooses factory and tokens such that their pair lands on the same shard as they.
async fn plan_exchange(
    build: &mut Build,
    cluster: &Cluster,
    sites: Vec<Site>,
    home: u16,
) -> anyhow::Result<()> {
    let place = PairPlace::new()?;
    let mut choices = Vec::new();
    for f in 0..sites.len() {
        for a in (0..sites.len()).filter(|a| *a != f) {
            for b in (0..a).filter(|b| *b != f) {
                let [factory, a_token, b_token] = [f, a, b].map(|site| sites[site].contract);
                choices.push(([f, a, b], place.of(factory, a_token, b_token)));
            }
        }
    }
    let pairs: Vec<_> = choices.iter().map(|(_, pair)| *pair).collect();
    let shards = cluster.shards_of(&pairs).await?;
    let lands = choices.into_iter().zip(shards).find(|(_, shard)| *shard == home);
    let (([f, a, b], pair), _) =
        lands.context("no pair lands on the shard of its tokens: use another --seed")?;
    let r = (0..sites.len()).find(|site| ![f, a, b].contains(site)).context("too few sites")?;
    let [factory_at, router_at, a_at, b_at] = [f, r, a, b].map(|site| sites[site].contract);
    build.add(sites[f].clone(), factory()?, FACTORY_DEPLOY_GAS);
    build.add(sites[r].clone(), router(factory_at)?, ROUTER_DEPLOY_GAS);
    build.add(sites[a].clone(), token()?, TOKEN_DEPLOY_GAS);
    build.add(sites[b].clone(), token()?, TOKEN_DEPLOY_GAS);
    build.provider = Some(sites[r].clone());
    build.contracts.exchange =
        Some(Exchange { home, router: router_at, tokens: [a_at, b_at], pair });
    Ok(())
}

impl Build {
    /// What each deployer has to be given, in wei.
    pub fn costs(&self, fees: &Fees) -> Vec<(Address, U256)> {
        let provider = self.provider.as_ref().map(|site| site.contract);
        let cost = |deployment: &Deployment| {
            let extra = if Some(deployment.site.contract) == provider {
                LIQUIDITY_GAS + 4 * TOKEN_CALL_GAS
            } else {
                0
            };
            (deployment.site.key.address(), fees.cost(deployment.gas + extra))
        };
        self.deployments.iter().map(cost).collect()
    }

    /// Deploys, and gives the accounts what they need. `cast` holds the accounts of the world; others
    /// may be added at its end.
    pub(super) async fn build(
        self,
        stage: &mut Stage<'_>,
        world: &World,
        cast: &mut Cast,
        args: &LoadArgs,
    ) -> anyhow::Result<Contracts> {
        let mut deployers = Cast {
            keys: self.deployments.iter().map(|d| d.site.key.clone()).collect(),
            nonces: vec![0; self.deployments.len()],
        };
        let deployments = self.deployments.into_iter().zip(0..);
        let plan = deployments
            .map(|(d, sender)| deployers.act(sender, TxKind::Create, U256::ZERO, d.code, d.gas))
            .collect();
        stage.perform("deploy contracts", &deployers, plan).await?;

        let mut holdings = Holdings { world, cast, plan: Vec::new() };
        if !self.contracts.tokens.is_empty() {
            holdings.tokens(&self.contracts.tokens, args.cross);
        }
        if let Some((exchange, provider)) = self.contracts.exchange.as_ref().zip(self.provider) {
            holdings.exchange(exchange, provider, args.cross);
        }
        let plan = holdings.plan;
        stage.perform("distribute tokens", cast, plan).await?;
        Ok(self.contracts)
    }
}

/// Who mints and approves what.
struct Holdings<'a> {
    world: &'a World,
    cast: &'a mut Cast,
    plan: Vec<super::Planned>,
}

impl Holdings<'_> {
    fn call(&mut self, sender: u32, to: Address, input: impl SolCall, gas: u64) {
        let input = input.abi_encode().into();
        let call = self.cast.act(sender, TxKind::Call(to), U256::ZERO, input, gas);
        self.plan.push(call);
    }

    fn mint(&mut self, minter: u32, token: Address, to: Address, amount: U256) {
        self.call(minter, token, Token::mintCall { to, amount }, TOKEN_CALL_GAS);
    }

    fn approve(&mut self, holder: u32, token: Address, spender: Address) {
        let approve = Token::approveCall { spender, value: U256::MAX };
        self.call(holder, token, approve, TOKEN_CALL_GAS);
    }

    /// Each account gets the tokens that it will send. Accounts of the token's own shard mint, for
    /// others too: so no mint crosses shards.
    fn tokens(&mut self, tokens: &[Address], cross: f64) {
        let world = self.world;
        let mut minters: Vec<_> = (0..world.shards()).map(|shard| minters(world, shard)).collect();
        for account in 0..world.len() {
            let home = world.shard(account);
            let foreign = foreign_token(world, account);
            let mut needed = vec![home; usize::from(cross < 100.0 || foreign == home)];
            if cross > 0.0 && foreign != home {
                needed.push(foreign);
            }
            for shard in needed {
                let shard = usize::from(shard);
                let minter = minters[shard].turn().unwrap_or(account);
                self.mint(minter, tokens[shard], world.address(account), holding());
            }
        }
    }

    /// Fills the pair; each trader gets one token and lets the router take it.
    fn exchange(&mut self, exchange: &Exchange, provider: Site, cross: f64) {
        let world = self.world;
        let giver = self.cast.keys.len() as u32;
        let address = provider.key.address();
        self.cast.keys.push(provider.key);
        // It has deployed the router.
        self.cast.nonces.push(1);
        for token in exchange.tokens {
            self.mint(giver, token, address, liquidity());
            self.approve(giver, token, exchange.router);
        }
        let [first, second] = exchange.tokens;
        let add = UniswapV2Router02::addLiquidityCall {
            tokenA: first,
            tokenB: second,
            amountADesired: liquidity(),
            amountBDesired: liquidity(),
            amountAMin: U256::ZERO,
            amountBMin: U256::ZERO,
            to: address,
            deadline: U256::MAX,
        };
        self.call(giver, exchange.router, add, LIQUIDITY_GAS);

        let near = world.members(|shard| shard == exchange.home);
        let far = world.members(|shard| shard != exchange.home);
        let one_sided = near.is_empty() || far.is_empty();
        let mut minters = minters(world, exchange.home);
        let mut traders = Vec::new();
        if cross < 100.0 || one_sided {
            traders.extend(near);
        }
        if cross > 0.0 || one_sided {
            traders.extend(far);
        }
        for trader in traders {
            let token = exchange.tokens[exchange.sold_by(trader)];
            let minter = minters.turn().unwrap_or(trader);
            self.mint(minter, token, world.address(trader), holding());
            self.approve(trader, token, exchange.router);
        }
    }
}

fn minters(world: &World, shard: u16) -> Rotation {
    Rotation::in_order(world.members(|placed| placed == shard))
}
