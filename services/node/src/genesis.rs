//! What every process of a cluster derives alike from `[chain]`.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, B256, U256, address};
use alloy_signer_local::{MnemonicBuilder, PrivateKeySigner, coins_bip39::English};
use anyhow::Context as _;
use atoll_commit::{OwnerConfig, Planner, PlannerConfig};
use atoll_state::{CoreConfig, GenesisAccount, TreeConfig};
use atoll_types::{BeaconBlock, ShardId};

use crate::config::{Beginning, Chain, Config};

/// Transactions that may be shared at a shard and not decided.
const MAX_SHARED: u64 = 131_072;

/// The mnemonic whose keys every Ethereum tool has. Never for value.
pub const DEVELOPMENT_MNEMONIC: &str =
    "test test test test test test test test test test test junk";
/// Accounts of that mnemonic that a development chain funds.
pub const DEVELOPMENT_ACCOUNTS: u32 = 10;
/// Balance of each, in ether.
const DEVELOPMENT_BALANCE_ETHER: u64 = 1_000_000;

/// Most of them that a chain may begin with.
pub const MAX_DEVELOPMENT_ACCOUNTS: u32 = 1_000;

/// Contracts that tools expect at these addresses of every chain: the deterministic deployment proxy,
/// and Multicall3. They hold nothing and do only what their callers say.
const CREATE2_DEPLOYER: (Address, &str) = (
    address!("4e59b44847b379578588920cA78FbF26c0B4956C"),
    "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3",
);
const MULTICALL3: (Address, &str) =
    (address!("cA11bde05977b3631167028862bE2a173976CA11"), include_str!("genesis/multicall3.hex"));

/// The keys of the usual development accounts, m/44'/60'/0'/0/0 to 9.
pub fn development_keys() -> anyhow::Result<Vec<PrivateKeySigner>> {
    keys_of(DEVELOPMENT_MNEMONIC, DEVELOPMENT_ACCOUNTS)
}

/// The keys of a chain's development accounts.
pub fn keys_of_chain(chain: &Chain) -> anyhow::Result<Vec<PrivateKeySigner>> {
    if !chain.development {
        return Ok(Vec::new());
    }
    let Beginning { accounts, mnemonic, .. } = &chain.genesis;
    let mnemonic = mnemonic.as_deref().unwrap_or(DEVELOPMENT_MNEMONIC);
    keys_of(mnemonic, accounts.unwrap_or(DEVELOPMENT_ACCOUNTS))
}

/// Whether everybody has the keys of a chain's development accounts: then they may be shown, and used by
/// whoever asks.
pub fn keys_are_public(chain: &Chain) -> bool {
    let mnemonic = chain.genesis.mnemonic.as_deref();
    chain.development && mnemonic.is_none_or(|words| words == DEVELOPMENT_MNEMONIC)
}

/// Whether JSON-RPC of a process may set the clock of its beacon ahead: in development.
pub(crate) fn sets_clock(config: &Config) -> bool {
    let rpc = config.gateway.as_ref().is_some_and(|gateway| gateway.rpc.is_some());
    rpc && keys_are_public(&config.chain)
}

fn keys_of(mnemonic: &str, accounts: u32) -> anyhow::Result<Vec<PrivateKeySigner>> {
    anyhow::ensure!(
        accounts <= MAX_DEVELOPMENT_ACCOUNTS,
        "{accounts} development accounts; use at most {MAX_DEVELOPMENT_ACCOUNTS}"
    );
    (0..accounts)
        .map(|index| {
            let builder = MnemonicBuilder::<English>::default().phrase(mnemonic);
            builder.index(index)?.build().context("the mnemonic is none of BIP-39 in English")
        })
        .collect()
}

fn contract((address, code): (Address, &str)) -> anyhow::Result<GenesisAccount> {
    let code = alloy_primitives::hex::decode(code.trim())?.into();
    // As if it had been deployed (EIP-161).
    Ok(GenesisAccount { address, nonce: 1, code, ..GenesisAccount::default() })
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
        let mut planner =
            PlannerConfig::new(chain.chain_id, chain.shards, chain.coinbase, chain.genesis_time_ms);
        planner.gas_limit = chain.genesis.gas_limit.unwrap_or(planner.gas_limit);
        let block = BeaconBlock::clone(Planner::new(planner.clone()).head());
        let mut accounts = Vec::new();
        if chain.development {
            let balance =
                U256::from(DEVELOPMENT_BALANCE_ETHER) * U256::from(10).pow(U256::from(18));
            accounts.push(contract(CREATE2_DEPLOYER)?);
            accounts.push(contract(MULTICALL3)?);
            accounts.extend(keys_of_chain(chain)?.iter().map(|key| GenesisAccount {
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
        for (address, alloc) in &chain.genesis.alloc {
            let word = |word: &B256| U256::from_be_bytes(word.0);
            accounts.push(GenesisAccount {
                address: *address,
                balance: alloc.balance,
                nonce: alloc.nonce.to(),
                code: alloc.code.clone(),
                storage: alloc.storage.iter().map(|(k, v)| (word(k), word(v))).collect(),
            });
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_keys_of_the_usual_mnemonic_are_public() -> anyhow::Result<()> {
        let public = |development: bool, genesis: serde_json::Value| {
            let chain = json!({
                "chain_id": 1, "shards": 1, "genesis_time_ms": 0,
                "development": development, "genesis": genesis,
            });
            anyhow::Ok(keys_are_public(&serde_json::from_value(chain)?))
        };
        assert!(public(true, json!({}))?);
        assert!(public(true, json!({ "mnemonic": DEVELOPMENT_MNEMONIC }))?);
        assert!(!public(true, json!({ "mnemonic": "words of my own" }))?);
        assert!(!public(false, json!({}))?);
        Ok(())
    }
}
