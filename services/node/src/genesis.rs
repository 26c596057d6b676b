//! What every process of a cluster derives alike from `[chain]`.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::U256;
use alloy_signer_local::{MnemonicBuilder, PrivateKeySigner, coins_bip39::English};
use anyhow::Context as _;
use atoll_commit::{OwnerConfig, Planner, PlannerConfig};
use atoll_state::{CoreConfig, GenesisAccount, TreeConfig};
use atoll_types::{BeaconBlock, ShardId};

use crate::config::Chain;

/// Transactions that may be shared at a shard and not decided.
const MAX_SHARED: u64 = 131_072;

/// The mnemonic whose keys every Ethereum tool has. Never for value.
pub const DEVELOPMENT_MNEMONIC: &str =
    "test test test test test test test test test test test junk";
/// Accounts of that mnemonic that a development chain funds.
pub const DEVELOPMENT_ACCOUNTS: u32 = 10;
/// Balance of each, in ether.
const DEVELOPMENT_BALANCE_ETHER: u64 = 1_000_000;

/// The keys of the development accounts, m/44'/60'/0'/0/0 to 9.
pub fn development_keys() -> anyhow::Result<Vec<PrivateKeySigner>> {
    (0..DEVELOPMENT_ACCOUNTS)
        .map(|index| {
            let builder = MnemonicBuilder::<English>::default().phrase(DEVELOPMENT_MNEMONIC);
            Ok(builder.index(index)?.build()?)
        })
        .collect()
}

/// Everything that is there from the beginning.
#[derive(Clone)]
pub struct Genesis {
    pub planner: PlannerConfig,
    pub block: BeaconBlock,
    pub accounts: Arc<Vec<GenesisAccount>>,
}

impl Genesis {
    pub fn new(chain: &Chain) -> anyhow::Result<Self> {
        let planner =
            PlannerConfig::new(chain.chain_id, chain.shards, chain.coinbase, chain.genesis_time_ms);
        let block = BeaconBlock::clone(Planner::new(planner.clone()).head());
        let mut accounts = Vec::new();
        if chain.development {
            let balance =
                U256::from(DEVELOPMENT_BALANCE_ETHER) * U256::from(10).pow(U256::from(18));
            accounts.extend(development_keys()?.iter().map(|key| GenesisAccount {
                address: key.address(),
                balance,
                ..GenesisAccount::default()
            }));
        }
        for (address, balance) in &chain.balances {
            let balance: U256 = balance
                .parse()
                .with_context(|| format!("chain.balances: {balance} of {address} is no number"))?;
            accounts.push(GenesisAccount { address: *address, balance, ..Default::default() });
        }
        Ok(Self { planner, block, accounts: Arc::new(accounts) })
    }

    /// Wei that there are from the beginning.
    pub fn supply(&self) -> U256 {
        // Of an account that is named twice, the last counts.
        let balances = self.accounts.iter().map(|account| (account.address, account.balance));
        balances.collect::<BTreeMap<_, _>>().into_values().sum()
    }

    /// What the state of a shard is told.
    pub fn core_config(
        &self,
        chain: &Chain,
        shard: u16,
        cached_values: usize,
        tree: TreeConfig,
    ) -> CoreConfig {
        CoreConfig {
            owner: OwnerConfig {
                chain_id: chain.chain_id,
                shard: ShardId(shard),
                placement: chain.placement(),
                max_shared: MAX_SHARED,
            },
            genesis: self.block.clone(),
            accounts: self.accounts.clone(),
            cached_values,
            tree,
        }
    }
}
