//! The variants of a test's transaction.

use alloy_consensus::{
    SignableTransaction, Signed, Transaction as _, TxEip1559, TxEip2930, TxEip4844, TxEip7702,
    TxEnvelope, TxLegacy, transaction::SignerRecoverable as _,
};
use alloy_eips::{
    Decodable2718 as _, Encodable2718 as _,
    eip2930::{AccessList, AccessListItem},
    eip7702::{Authorization, SignedAuthorization},
};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use alloy_signer_local::PrivateKeySigner;
use anyhow::{Context as _, bail, ensure};
use atoll_evm::Fork;
use atoll_types::Tx;
use serde_json::Value;

use super::read::{address, bytes, field, hash, list, long, number, required, word};

/// Which variant a case means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    pub data: usize,
    pub gas: usize,
    pub value: usize,
}

impl Indexes {
    /// Of a case.
    pub fn of(post: &Value) -> anyhow::Result<Self> {
        let indexes = required(post, "indexes")?;
        let index = |name: &str| -> anyhow::Result<usize> {
            let index = required(indexes, name).and_then(number).context("`indexes`")?;
            Ok(usize::try_from(index)?)
        };
        Ok(Self { data: index("data")?, gas: index("gas")?, value: index("value")? })
    }
}

/// What all types have.
struct Common {
    chain_id: u64,
    nonce: u64,
    gas_limit: u64,
    to: TxKind,
    value: U256,
    input: Bytes,
    access_list: AccessList,
}

/// The transaction of a case. What cannot be put into a transaction is an error, for which a test can
/// wait as for any other.
pub(super) fn transaction(test: &Value, at: Indexes, chain_id: u64) -> anyhow::Result<Tx> {
    let tx = required(test, "transaction")?;
    let sender = sender(tx)?;
    let variant = |name: &str, index: usize| {
        let variants = required(tx, name).and_then(list).with_context(|| name.to_owned())?;
        variants.get(index).with_context(|| format!("`{name}` has no variant {index}"))
    };
    let to = match field(tx, "to") {
        None => TxKind::Create,
        Some(Value::String(text)) if text.is_empty() || text == "0x" => TxKind::Create,
        Some(to) => TxKind::Call(address(to).context("to")?),
    };
    let lists = field(tx, "accessLists").map(list).transpose().context("accessLists")?;
    let listed = lists.and_then(|lists| lists.get(at.data)).filter(|list| !list.is_null());
    let common = Common {
        chain_id: field(tx, "chainId").map_or(Ok(chain_id), number).context("chainId")?,
        nonce: required(tx, "nonce").and_then(number).context("nonce")?,
        gas_limit: variant("gasLimit", at.gas).and_then(number).context("gasLimit")?,
        to,
        value: variant("value", at.value).and_then(word).context("value")?,
        input: variant("data", at.data).and_then(bytes).context("data")?,
        access_list: listed
            .map(access_list)
            .transpose()
            .context("accessLists")?
            .unwrap_or_default(),
    };
    let envelope = envelope(tx, common, listed.is_some())?;
    Ok(Tx::replayed(envelope.encoded_2718().into(), sender)?)
}

/// The type follows from what is there.
fn envelope(tx: &Value, common: Common, listed: bool) -> anyhow::Result<TxEnvelope> {
    let Common { chain_id, nonce, gas_limit, to, value, input, access_list } = common;
    let price = |name: &str| -> anyhow::Result<u128> {
        required(tx, name).and_then(long).with_context(|| name.to_owned())
    };
    let has = |name: &str| field(tx, name).is_some();
    let blobs = has("maxFeePerBlobGas") || has("blobVersionedHashes");
    if !(has("maxFeePerGas") || has("authorizationList") || blobs) {
        let gas_price = price("gasPrice")?;
        if !listed {
            // Without a chain, as before EIP-155: it is the same in all forks.
            let chain_id = None;
            return Ok(seal(TxLegacy { chain_id, nonce, gas_price, gas_limit, to, value, input }));
        }
        return Ok(seal(TxEip2930 {
            chain_id,
            nonce,
            gas_price,
            gas_limit,
            to,
            value,
            access_list,
            input,
        }));
    }
    let max_fee_per_gas = price("maxFeePerGas")?;
    let tip = field(tx, "maxPriorityFeePerGas").map_or(Ok(0), long);
    let max_priority_fee_per_gas = tip.context("maxPriorityFeePerGas")?;
    let callee = || match to {
        TxKind::Call(to) => Ok(to),
        TxKind::Create => bail!("a transaction of this type cannot create a contract"),
    };
    if let Some(authorizations) = field(tx, "authorizationList") {
        let authorizations = list(authorizations).context("authorizationList")?;
        return Ok(seal(TxEip7702 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
            to: callee()?,
            value,
            access_list,
            authorization_list: authorizations
                .iter()
                .map(authorization)
                .collect::<anyhow::Result<_>>()
                .context("authorizationList")?,
            input,
        }));
    }
    if blobs {
        let hashes = field(tx, "blobVersionedHashes").map_or(Ok(&[][..]), list);
        let hashes = hashes.context("blobVersionedHashes")?;
        return Ok(seal(TxEip4844 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
            to: callee()?,
            value,
            access_list,
            blob_versioned_hashes: hashes.iter().map(hash).collect::<anyhow::Result<_>>()?,
            max_fee_per_blob_gas: price("maxFeePerBlobGas")?,
            input,
        }));
    }
    Ok(seal(TxEip1559 {
        chain_id,
        nonce,
        gas_limit,
        max_fee_per_gas,
        max_priority_fee_per_gas,
        to,
        value,
        access_list,
        input,
    }))
}

/// Nobody looks at the signature: the sender is known.
fn seal<T: SignableTransaction<Signature>>(tx: T) -> TxEnvelope
where
    TxEnvelope: From<Signed<T>>,
{
    tx.into_signed(Signature::new(U256::ONE, U256::ONE, false)).into()
}

fn sender(tx: &Value) -> anyhow::Result<Address> {
    if let Some(sender) = field(tx, "sender") {
        return address(sender).context("sender");
    }
    let key: B256 = required(tx, "secretKey").and_then(hash).context("secretKey")?;
    Ok(PrivateKeySigner::from_bytes(&key).context("secretKey")?.address())
}

fn access_list(listed: &Value) -> anyhow::Result<AccessList> {
    let item = |item: &Value| {
        let keys = field(item, "storageKeys").map_or(Ok(&[][..]), list)?;
        Ok(AccessListItem {
            address: required(item, "address").and_then(address)?,
            storage_keys: keys.iter().map(hash).collect::<anyhow::Result<_>>()?,
        })
    };
    Ok(AccessList(list(listed)?.iter().map(item).collect::<anyhow::Result<_>>()?))
}

fn authorization(signed: &Value) -> anyhow::Result<SignedAuthorization> {
    let parity = field(signed, "yParity").or_else(|| field(signed, "v")).context("yParity")?;
    let parity = u8::try_from(number(parity)?).context("yParity is more than a byte")?;
    let part = |name: &str| required(signed, name).and_then(word).with_context(|| name.to_owned());
    let inner = Authorization {
        chain_id: part("chainId")?,
        address: required(signed, "address").and_then(address)?,
        nonce: required(signed, "nonce").and_then(number).context("nonce")?,
    };
    Ok(SignedAuthorization::new_unchecked(inner, parity, part("r")?, part("s")?))
}

/// What is wrong with the signed bytes of a case, if they are there, that its fields do not tell: they
/// are no transaction, are for another chain, or have no sender.
pub(super) fn defect(post: &Value, chain_id: u64, fork: Fork) -> anyhow::Result<()> {
    let Some(raw) = field(post, "txbytes") else { return Ok(()) };
    let raw = bytes(raw)?;
    let mut rest: &[u8] = &raw;
    let envelope = TxEnvelope::decode_2718(&mut rest).context("txbytes")?;
    ensure!(rest.is_empty(), "txbytes are longer than their transaction");
    if fork.is_enabled_in(Fork::SPURIOUS_DRAGON) {
        let other = envelope.chain_id().filter(|id| *id != chain_id);
        ensure!(other.is_none(), "txbytes are for chain {other:?}");
    }
    if fork.is_enabled_in(Fork::HOMESTEAD) {
        envelope.recover_signer().context("txbytes")?;
    } else {
        envelope.recover_signer_unchecked().context("txbytes")?;
    }
    Ok(())
}
