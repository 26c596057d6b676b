//! Brings accounts, contracts and balances into being before the clock starts.

mod contracts;
mod sites;

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, Bytes, TxKind, U256, keccak256};
use alloy_signer_local::{MnemonicBuilder, PrivateKeySigner};
use anyhow::{Context, bail, ensure};
use tokio::sync::watch;

use crate::{
    args::{LoadArgs, Rate, Workload},
    drive::{Plan, drive},
    schedule::Schedule,
    sign::{Fees, Planned, Signing, addresses, keys},
    wire::Cluster,
    workload::{Contracts, SWAP_GAS, TOKEN_GAS, TRANSFER_GAS, World, hop_gas},
};

/// Accounts of the mnemonic that pay.
const FUNDERS: u32 = 10;
/// Unfinished transactions of one account during the setup: below the cap of the mempools, 256.
const PER_ACCOUNT: u32 = 128;
/// Unfinished transactions of all during the setup.
const WINDOW: usize = 10_000;
/// Transactions a second that accounts are funded for with `--rate max`.
const GUESSED_RATE: u64 = 20_000;
/// Tip, in wei for each unit of gas.
const PRIORITY_FEE: u128 = 1_000_000;

/// What a run needs.
pub struct Ready {
    pub world: World,
    /// Who is paid, if not those who send.
    pub payees: Option<World>,
    pub keys: Arc<Vec<PrivateKeySigner>>,
    /// Next nonce of each account.
    pub nonces: Vec<u64>,
    pub contracts: Contracts,
    pub fees: Fees,
}

/// Accounts with keys whose nonces are known: those who act in a step of the setup.
pub(crate) struct Cast {
    pub keys: Vec<PrivateKeySigner>,
    pub nonces: Vec<u64>,
}

impl Cast {
    /// The next transaction of an account.
    pub fn act(&mut self, sender: u32, to: TxKind, value: U256, input: Bytes, gas: u64) -> Planned {
        let nonce = &mut self.nonces[sender as usize];
        *nonce += 1;
        Planned { sender, nonce: *nonce - 1, to, value, input, gas_limit: gas }
    }
}

/// Carries out the steps of the setup.
pub(crate) struct Stage<'a> {
    pub cluster: &'a Cluster,
    pub fees: Fees,
    pub timeout: Duration,
    pub quiet: bool,
    pub stop: &'a mut watch::Receiver<bool>,
}

impl Stage<'_> {
    /// Sends transactions and waits until all are final; an error if one fails.
    pub async fn perform(
        &mut self,
        name: &str,
        cast: &Cast,
        plan: Vec<Planned>,
    ) -> anyhow::Result<()> {
        let count = plan.len() as u64;
        if count == 0 {
            return Ok(());
        }
        let senders = addresses(&cast.keys);
        let keys = Arc::new(cast.keys.clone());
        let ahead = u32::try_from(WINDOW)?;
        let signing = Signing::start(plan.into_iter(), keys, self.fees, ahead);
        let plan = Plan {
            schedule: Schedule {
                rate: Rate::Max,
                warmup: Duration::ZERO,
                duration: None,
                planned: Some(count),
            },
            window: WINDOW,
            per_account: PER_ACCOUNT,
            drain: self.timeout,
            name,
            fail_fast: true,
            quiet: self.quiet,
        };
        let outcome = drive(self.cluster, &senders, signing.ready, plan, self.stop)
            .await
            .with_context(|| format!("setup: cannot {name}"))?;
        ensure!(!*self.stop.borrow(), "interrupted while about to {name}");
        let stats = outcome.stats;
        if stats.finals < count {
            let reason = stats.first_failure.unwrap_or("not all were sent in time".into());
            bail!(
                "setup: cannot {name}: {} of {count} transactions succeeded within {:?}: {reason}",
                stats.finals,
                self.timeout,
            );
        }
        Ok(())
    }
}

/// Largest gas limit of a workload's transactions.
fn most_gas(args: &LoadArgs) -> u64 {
    match args.workload {
        Workload::Transfer => TRANSFER_GAS,
        Workload::Erc20 => TOKEN_GAS,
        Workload::Amm => SWAP_GAS,
        Workload::Multihop => hop_gas(args.hops),
        Workload::Mix => SWAP_GAS.max(hop_gas(args.hops)),
    }
}

/// The base fee moves by at most 1/8 in 12 s: a fee cap that it can't reach during the run, but at
/// most a thousand times today's.
fn fees(cluster: &Cluster, args: &LoadArgs) -> Fees {
    let time = args.setup_timeout + args.warmup + args.duration + args.drain;
    let steps = time.as_secs() / 12 + 1;
    let growth = 1.125f64.powf(steps as f64).min(1_000.0);
    let base = (cluster.chain.base_fee as f64 * growth) as u128;
    Fees {
        chain_id: cluster.chain.chain_id,
        max_fee: base.max(1_000_000_000) + PRIORITY_FEE,
        priority_fee: PRIORITY_FEE,
    }
}

/// The address of an account that is only paid, with `--payees`.
pub fn payee(number: u32) -> Address {
    Address::from_word(keccak256(format!("atoll payee {number}")))
}

/// Makes everything that the run needs.
pub async fn prepare(
    cluster: &Cluster,
    args: &LoadArgs,
    seed: u64,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<Ready> {
    let fees = fees(cluster, args);
    let keys = keys("account", seed, args.accounts)?;
    let all = addresses(&keys);
    let placed = cluster.shards_of(&all).await?;
    let world = World::new(cluster.chain.shards, all, placed);
    let paid = match args.payees {
        Some(count) => {
            let all: Vec<_> = (0..count).map(payee).collect();
            let placed = cluster.shards_of(&all).await?;
            Some(World::new(cluster.chain.shards, all, placed))
        }
        None => None,
    };
    // Keys of a new seed have never been used.
    let nonces = if args.seed.is_some() {
        let accounts = cluster.accounts(world.addresses()).await?;
        accounts.into_iter().map(|(nonce, _)| nonce).collect()
    } else {
        vec![0; keys.len()]
    };
    let mut stage = Stage { cluster, fees, timeout: args.setup_timeout, quiet: args.quiet, stop };
    let build = contracts::plan(cluster, &world, args, seed).await?;
    let mut funders = funders(cluster, args).await?;
    let each = share(args, &funders, &fees)?;
    let mut payees: Vec<(Address, U256)> = build.costs(&fees);
    payees.extend(world.addresses().iter().map(|address| (*address, each)));
    let transfers = payees.into_iter().zip((0..funders.cast.keys.len() as u32).cycle());
    let plan = transfers
        .map(|((to, value), funder)| {
            let to = TxKind::Call(to);
            funders.cast.act(funder, to, value, Bytes::new(), TRANSFER_GAS)
        })
        .collect();
    stage.perform("fund accounts", &funders.cast, plan).await?;
    let mut cast = Cast { keys, nonces };
    let contracts = build.build(&mut stage, &world, &mut cast, args).await?;
    cast.keys.truncate(args.accounts as usize);
    cast.nonces.truncate(args.accounts as usize);
    let Cast { keys, nonces } = cast;
    Ok(Ready { world, payees: paid, keys: Arc::new(keys), nonces, contracts, fees })
}

struct Funders {
    cast: Cast,
    /// Balance of the poorest, in wei.
    poorest: U256,
}

/// The accounts of the mnemonic that have something.
async fn funders(cluster: &Cluster, args: &LoadArgs) -> anyhow::Result<Funders> {
    let derive = |index| MnemonicBuilder::try_from_phrase_nth(args.mnemonic.as_str(), index);
    let keys = (0..FUNDERS).map(derive).collect::<Result<Vec<_>, _>>();
    let keys = keys.context("--mnemonic is not a valid mnemonic")?;
    let accounts = cluster.accounts(&addresses(&keys)).await?;
    let richest = accounts.iter().map(|(_, balance)| *balance).max().unwrap_or_default();
    ensure!(
        !richest.is_zero(),
        "the first ten accounts of the mnemonic have nothing on chain {}: is it the one of its genesis?",
        cluster.chain.chain_id
    );
    // One that has spent most of what it had would only hold back the others.
    let rich = keys
        .into_iter()
        .zip(accounts)
        .filter(|(_, (_, balance))| *balance >= richest / U256::from(4));
    let mut funders =
        Funders { cast: Cast { keys: Vec::new(), nonces: Vec::new() }, poorest: richest };
    for (key, (nonce, balance)) in rich {
        funders.cast.keys.push(key);
        funders.cast.nonces.push(nonce);
        funders.poorest = funders.poorest.min(balance);
    }
    Ok(funders)
}

/// What each account gets: enough for its transactions, but no more than half of what the funders
/// have.
fn share(args: &LoadArgs, funders: &Funders, fees: &Fees) -> anyhow::Result<U256> {
    let accounts = u64::from(args.accounts);
    let seconds = (args.warmup + args.duration).as_secs() + 1;
    let txs = args.planned().unwrap_or(GUESSED_RATE * seconds);
    let one = fees.cost(most_gas(args)) + U256::from(1_000);
    let enough = one * U256::from(txs / accounts * 2 + 64);
    let each = accounts.div_ceil(funders.cast.keys.len() as u64);
    let most = funders.poorest / U256::from(2 * each);
    ensure!(
        most >= one * U256::from(20),
        "the accounts of the mnemonic hold too little: {} wei each, for {each} accounts that need {} wei",
        funders.poorest,
        one * U256::from(20),
    );
    let skewed = args.zipf > 0.0 && matches!(args.workload, Workload::Amm | Workload::Mix);
    if most < enough {
        args.progress(
            "the funders cannot cover the fee caps of the whole run; accounts may run dry",
        );
    }
    Ok(if skewed { most } else { enough.min(most) })
}
