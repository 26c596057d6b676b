//! Reads blocks from files: what a node answers to `eth_getBlockByNumber`, and the state before.

use std::{fs::File, io::BufReader, path::Path};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEip4844, TxEnvelope, TxLegacy};
use alloy_eips::{
    Encodable2718 as _,
    eip2930::{AccessList, AccessListItem},
};
use alloy_primitives::{Address, B256, Bloom, Bytes, Signature, TxKind, U256, keccak256};
use anyhow::{Context as _, bail, ensure};
use atoll::replay::Memory;
use atoll_evm::{Blobs, Fork, Rules};
use atoll_types::{Basic, BlockEnv, CodeRef, StateKey, StateValue, Tx};
use flate2::read::GzDecoder;
use serde_json::Value;

use crate::block::Mainnet;

/// First block of each fork.
const FORKS: [(u64, Fork); 9] = [
    (4_370_000, Fork::BYZANTIUM),
    (7_280_000, Fork::PETERSBURG),
    (9_069_000, Fork::ISTANBUL),
    (12_244_000, Fork::BERLIN),
    (12_965_000, Fork::LONDON),
    (15_537_394, Fork::MERGE),
    (17_034_870, Fork::SHANGHAI),
    (19_426_587, Fork::CANCUN),
    (22_431_084, Fork::PRAGUE),
];

/// Reads a block.
pub fn block(path: &Path) -> anyhow::Result<Mainnet> {
    let file = BufReader::new(GzDecoder::new(BufReader::new(File::open(path)?)));
    let data: Value = serde_json::from_reader(file)?;
    let header = Object(&data["block"]);
    let number = header.number("number")?;
    let Some((_, fork)) = FORKS.iter().rev().find(|(first, _)| *first <= number) else {
        bail!("block {number} is from before Byzantium");
    };
    let merged = fork.is_enabled_in(Fork::MERGE);
    let env = BlockEnv {
        chain_id: 1,
        number,
        timestamp: header.number("timestamp")?,
        randomness: match merged {
            true => header.parse("mixHash")?,
            false => B256::from(header.parse::<U256>("difficulty")?),
        },
        base_fee: header.optional("baseFeePerGas")?.unwrap_or(U256::ZERO).to(),
        coinbase: header.parse("miner")?,
        gas_limit: header.number("gasLimit")?,
    };
    let blobs = header.optional("excessBlobGas")?.map(|excess: U256| Blobs {
        base_fee: alloy_eips::eip4844::calc_blob_gasprice(excess.to()),
        max_per_tx: Some(6),
    });
    let txs = header.list("transactions").iter().map(|tx| transaction(Object(tx)));
    Ok(Mainnet {
        env,
        rules: Rules { blobs, ..Rules::of(*fork) },
        txs: txs.collect::<anyhow::Result<_>>()?,
        state: state(&data)?,
        parent_beacon_root: header.optional("parentBeaconBlockRoot")?,
        withdrawals: header
            .list("withdrawals")
            .iter()
            .map(|w| withdrawal(Object(w)))
            .collect::<anyhow::Result<_>>()?,
        gas_used: header.number("gasUsed")?,
        receipts_root: header.parse("receiptsRoot")?,
        logs_bloom: header.parse::<Bloom>("logsBloom")?,
    })
}

fn withdrawal(withdrawal: Object<'_>) -> anyhow::Result<(Address, U256)> {
    let gwei: U256 = withdrawal.parse("amount")?;
    Ok((withdrawal.parse("address")?, gwei * U256::from(1_000_000_000)))
}

fn state(data: &Value) -> anyhow::Result<Memory> {
    let mut state = Memory::default();
    for (hash, code) in data["codes"].as_object().context("codes")? {
        let code: Bytes = code.as_str().context("code")?.parse()?;
        ensure!(state.insert_code(code) == hash.parse::<B256>()?, "code has not the hash {hash}");
    }
    for (number, hash) in data["block_hashes"].as_object().context("block_hashes")? {
        let hash = hash.as_str().context("a block hash")?.parse()?;
        state.block_hashes.insert(number.parse()?, hash);
    }
    for (address, account) in data["pre_state"].as_object().context("pre_state")? {
        let address: Address = address.parse()?;
        let account = Object(account);
        let nonce = account.0["nonce"].as_u64().context("nonce")?;
        let basic = Basic { nonce, balance: account.parse("balance")? };
        state.set(StateKey::Basic(address), StateValue::Basic(basic));
        if let Some(hash) = account.optional("code_hash")? {
            let code = CodeRef { hash, incarnation: 0 };
            state.set(StateKey::Code(address), StateValue::Code(code));
        }
        for (slot, word) in account.0["storage"].as_object().into_iter().flatten() {
            let word: U256 = word.as_str().context("a word")?.parse()?;
            let key = StateKey::Slot(address, 0, slot.parse()?);
            state.set(key, StateValue::Slot(word));
        }
    }
    Ok(state)
}

fn transaction(tx: Object<'_>) -> anyhow::Result<Tx> {
    let kind = tx.optional("to")?.map_or(TxKind::Create, TxKind::Call);
    let (nonce, gas_limit) = (tx.number("nonce")?, tx.number("gas")?);
    let (value, input) = (tx.parse("value")?, tx.parse::<Bytes>("input")?);
    let price = |name| -> anyhow::Result<u128> { Ok(tx.parse::<U256>(name)?.to()) };
    let v: u64 = tx.number("v")?;
    let envelope = match tx.optional("type")?.map_or(0, |kind: U256| kind.to::<u64>()) {
        0 => {
            let chain_id = (v >= 35).then_some((v.saturating_sub(35)) / 2);
            let gas_price = price("gasPrice")?;
            let to = kind;
            sign(
                TxLegacy { chain_id, nonce, gas_price, gas_limit, to, value, input },
                tx,
                v.is_multiple_of(2),
            )?
        }
        kind_number => {
            let (chain_id, access_list) = (tx.number("chainId")?, access_list(tx)?);
            typed(
                kind_number,
                tx,
                Fields { chain_id, nonce, gas_limit, kind, value, input, access_list },
                v == 1,
            )?
        }
    };
    let sender = tx.parse("from")?;
    let tx_hash: B256 = tx.parse("hash")?;
    let raw = envelope.encoded_2718();
    ensure!(keccak256(&raw) == tx_hash, "{tx_hash} is put together wrongly");
    Ok(Tx::replayed(raw.into(), sender)?)
}

/// What every typed transaction has.
struct Fields {
    chain_id: u64,
    nonce: u64,
    gas_limit: u64,
    kind: TxKind,
    value: U256,
    input: Bytes,
    access_list: AccessList,
}

fn typed(number: u64, tx: Object<'_>, fields: Fields, odd: bool) -> anyhow::Result<TxEnvelope> {
    let Fields { chain_id, nonce, gas_limit, kind: to, value, input, access_list } = fields;
    let price = |name| -> anyhow::Result<u128> { Ok(tx.parse::<U256>(name)?.to()) };
    if number == 1 {
        let gas_price = price("gasPrice")?;
        let tx1 =
            TxEip2930 { chain_id, nonce, gas_price, gas_limit, to, value, access_list, input };
        return sign(tx1, tx, odd);
    }
    let max_fee_per_gas = price("maxFeePerGas")?;
    let max_priority_fee_per_gas = price("maxPriorityFeePerGas")?;
    match (number, to) {
        (2, _) => sign(
            TxEip1559 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas,
                max_priority_fee_per_gas,
                to,
                value,
                access_list,
                input,
            },
            tx,
            odd,
        ),
        (3, TxKind::Call(to)) => {
            let hashes = tx.list("blobVersionedHashes").iter();
            let hash = |hash: &Value| Ok(hash.as_str().context("a blob's hash")?.parse()?);
            let blobs = TxEip4844 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas,
                max_priority_fee_per_gas,
                to,
                value,
                access_list,
                blob_versioned_hashes: hashes.map(hash).collect::<anyhow::Result<_>>()?,
                max_fee_per_blob_gas: price("maxFeePerBlobGas")?,
                input,
            };
            sign(blobs, tx, odd)
        }
        _ => bail!("type {number} to {to:?}"),
    }
}

fn sign<T: SignableTransaction<Signature>>(
    unsigned: T,
    tx: Object<'_>,
    odd: bool,
) -> anyhow::Result<TxEnvelope>
where
    TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    let signature = Signature::new(tx.parse("r")?, tx.parse("s")?, odd);
    Ok(unsigned.into_signed(signature).into())
}

fn access_list(tx: Object<'_>) -> anyhow::Result<AccessList> {
    let item = |item: &Value| -> anyhow::Result<AccessListItem> {
        let item = Object(item);
        let key = |key: &Value| Ok(key.as_str().context("a storage key")?.parse()?);
        let keys = item.list("storageKeys").iter().map(key);
        let storage_keys = keys.collect::<anyhow::Result<_>>()?;
        Ok(AccessListItem { address: item.parse("address")?, storage_keys })
    };
    let items = tx.list("accessList").iter().map(item);
    Ok(AccessList(items.collect::<anyhow::Result<_>>()?))
}

/// An object of JSON-RPC: values are strings of hex.
#[derive(Clone, Copy)]
struct Object<'a>(&'a Value);

impl<'a> Object<'a> {
    fn optional<T>(self, name: &str) -> anyhow::Result<Option<T>>
    where
        T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        match &self.0[name] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.parse().with_context(|| name.to_owned())?)),
            other => bail!("{name} is {other}"),
        }
    }

    fn parse<T>(self, name: &str) -> anyhow::Result<T>
    where
        T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        self.optional(name)?.with_context(|| format!("{name} is not there"))
    }

    fn number(self, name: &str) -> anyhow::Result<u64> {
        let number: U256 = self.parse(name)?;
        u64::try_from(number).with_context(|| name.to_owned())
    }

    fn list(self, name: &str) -> &'a [Value] {
        self.0[name].as_array().map_or(&[], Vec::as_slice)
    }
}
