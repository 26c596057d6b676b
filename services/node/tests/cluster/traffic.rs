//! Load that knows every one of its transactions, and what they have to leave behind.

use std::collections::BTreeMap;

use alloy_sol_types::SolCall as _;
use anyhow::ensure;
use atoll_tests::{
    api::Api,
    contracts::{Hop, Token, hop, token},
    processes::{Processes, SHARDS},
    wallet::{Plan, Signed, Wallet},
};
use atoll_types::{Address, U256};
use atoll_wire::v1::TransactionReceipt;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;

use crate::ledger::bring_about;

const SENDERS: u64 = 12;
/// Each time every sender pays somebody, sends tokens, and calls the hot chain of contracts.
const TIMES: u64 = 16;
/// Transactions of one sender under way at a time.
const AT_ONCE: usize = 3;
/// Transactions of the load.
pub const COUNT: usize = (SENDERS * (1 + 3 * TIMES)) as usize;
const ETHER: u128 = 1_000_000_000_000_000_000;

/// Who sends what to whom. Everything is known before the cluster begins.
pub struct Traffic {
    deployer: Wallet,
    token: Address,
    /// A chain of contracts over all shards, first one first.
    hops: Vec<Address>,
    senders: Vec<Wallet>,
    /// An account on each shard that does nothing else, and the next one on the same shard.
    probes: Vec<(Wallet, Address)>,
    sent: Vec<Signed>,
    /// Of the load, sender by sender.
    scripts: Vec<Vec<Signed>>,
}

impl Traffic {
    pub fn new() -> anyhow::Result<Self> {
        let deployer = Wallet::seeded("deployer", 0, 0)?;
        let of = |nonce| deployer.address().create(nonce);
        let links = u64::from(SHARDS);
        let senders = (0..SENDERS).map(|i| Wallet::seeded("sender", 0, i));
        let probe = |shard: u16| {
            let shard = u64::from(shard);
            let friend = Wallet::seeded("friend", 0, shard)?.address();
            anyhow::Ok((Wallet::seeded("probe", 0, shard)?, friend))
        };
        Ok(Self {
            token: of(links),
            // Deployed last one first: each knows the next.
            hops: (0..links).rev().map(of).collect(),
            senders: senders.collect::<anyhow::Result<_>>()?,
            probes: (0..SHARDS).map(probe).collect::<anyhow::Result<_>>()?,
            sent: Vec::new(),
            scripts: Vec::new(),
            deployer,
        })
    }

    /// What it needs at genesis.
    pub fn balances(&self) -> BTreeMap<Address, String> {
        let probes = self.probes.iter().map(|(probe, _)| probe);
        let all = self.senders.iter().chain(probes).chain([&self.deployer]);
        all.map(|wallet| (wallet.address(), (100 * ETHER).to_string())).collect()
    }

    /// A link of the chain on each shard, and probes where they belong.
    pub fn placement(&self) -> BTreeMap<Address, u16> {
        let hops = self.hops.iter().copied().zip(0..);
        let probes = self.probes.iter().map(|(probe, _)| probe.address()).zip(0..);
        let friends = self.probes.iter().map(|(_, friend)| *friend).zip(0..);
        hops.chain(probes).chain(friends).collect()
    }

    /// Deploys the contracts: across shards, for their addresses are not on the deployer's.
    pub async fn deploy(&mut self, api: &Api) -> anyhow::Result<()> {
        let mut next = Address::ZERO;
        let mut codes = Vec::new();
        for link in self.hops.iter().rev() {
            codes.push(hop(next)?);
            next = *link;
        }
        codes.push(token("CLUSTER")?);
        for code in codes {
            let tx = self.deployer.sign(&Plan::create(code))?;
            self.sent.push(tx.clone());
            api.carry_out(&[tx]).await?;
        }
        Ok(())
    }

    fn hop_call(&self) -> Plan {
        let call = Hop::hopCall { amount: U256::ONE, failAtEnd: false };
        Plan::call(self.hops[0], call.abi_encode())
    }

    /// Everything that one sender does.
    fn script(&self, rng: &mut StdRng) -> Vec<Plan> {
        let mut somebody = || self.senders[rng.random_range(0..self.senders.len())].address();
        let amount = U256::from(1_000_000);
        let mint = Token::mintCall { to: somebody(), amount };
        let mut script = vec![Plan::call(self.token, mint.abi_encode())];
        for _ in 0..TIMES {
            let transfer = Token::transferCall { to: somebody(), value: U256::ZERO };
            script.push(Plan::pay(somebody(), 1_000));
            script.push(Plan::call(self.token, transfer.abi_encode()));
            script.push(self.hop_call());
        }
        script
    }

    /// Signs the whole load and sends it; each sender goes on when its last few are final.
    pub fn start(&mut self, api: &Api, seed: u64) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
        let mut rng = StdRng::seed_from_u64(seed);
        let scripts: Vec<_> = self.senders.iter().map(|_| self.script(&mut rng)).collect();
        let mut tasks = JoinSet::new();
        for (sender, script) in self.senders.iter_mut().zip(scripts) {
            let txs = script.iter().map(|plan| sender.sign(plan));
            let txs = txs.collect::<anyhow::Result<Vec<_>>>()?;
            self.sent.extend(txs.clone());
            self.scripts.push(txs.clone());
            tasks.spawn(send(api.clone(), txs));
        }
        Ok(tasks)
    }

    /// Sends the load again, each sender's in order, until all of it is final.
    pub async fn bring_about_all(&self, api: &Api) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for txs in &self.scripts {
            tasks.spawn(send(api.clone(), txs.clone()));
        }
        while let Some(sent) = tasks.join_next().await {
            sent??;
        }
        Ok(())
    }

    /// A payment within a shard that has nothing to do with the load. It has to be executed, and
    /// final if the beacon is there.
    pub async fn probe(&mut self, api: &Api, shard: u16, is_final: bool) -> anyhow::Result<()> {
        let (probe, friend) = &mut self.probes[usize::from(shard)];
        let tx = probe.sign(&Plan::pay(*friend, 1))?;
        self.sent.push(tx.clone());
        api.submit(&tx).await?;
        let receipt =
            if is_final { api.end_of(tx.hash).await? } else { api.executed(tx.hash).await? };
        ensure!(receipt.status && receipt.shards == [u32::from(shard)], "{receipt:?}");
        Ok(())
    }

    /// `fence-ends`: the hot contracts can be used by anybody.
    pub async fn touch_what_was_hot(&mut self, api: &Api) -> anyhow::Result<()> {
        let tx = self.deployer.sign(&self.hop_call())?;
        self.sent.push(tx.clone());
        let [receipt] = &api.carry_out(&[tx]).await?[..] else { anyhow::bail!("one receipt") };
        ensure!(receipt.shards == [0, 1, 2], "{receipt:?}");
        Ok(())
    }

    /// The receipts of everything that was sent, all final.
    pub async fn receipts(&self, api: &Api) -> anyhow::Result<Vec<TransactionReceipt>> {
        let hashes: Vec<_> = self.sent.iter().map(|tx| tx.hash).collect();
        api.ends_of(&hashes).await
    }

    /// `atomicity` and `exactly-once`, as contracts show them: each link was called as often as
    /// calls have succeeded.
    pub async fn check_links(
        &self,
        cluster: &Processes,
        receipts: &[TransactionReceipt],
    ) -> anyhow::Result<()> {
        let first = self.hops[0];
        let calls = receipts.iter().filter(|receipt| receipt.to == first.as_slice());
        ensure!(calls.clone().all(|receipt| receipt.status), "a call of the chain has failed");
        let cut = receipts.iter().map(|receipt| receipt.cut).max().unwrap_or_default();
        for (link, shard) in self.hops.iter().zip(0..) {
            ensure!(cluster.placement().owner(link).0 == shard, "{link} is not on {shard}");
            let total = cluster.api.storage(*link, U256::ZERO, cut).await?;
            let calls = calls.clone().count();
            ensure!(total == U256::from(calls), "{calls} calls, link {shard} has counted {total}");
        }
        Ok(())
    }
}

async fn send(api: Api, txs: Vec<Signed>) -> anyhow::Result<()> {
    for batch in txs.chunks(AT_ONCE) {
        for tx in batch {
            crate::ledger::offer(&api, tx).await?;
        }
        for tx in batch {
            let receipt = bring_about(&api, tx).await?;
            ensure!(receipt.status, "failed: {receipt:?}");
        }
    }
    Ok(())
}
