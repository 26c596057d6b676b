//! Keys, and transactions signed with them.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEip7702, TxEnvelope, TxLegacy};
use alloy_eips::{
    Encodable2718 as _,
    eip2930::AccessList,
    eip7702::{Authorization, SignedAuthorization},
};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use anyhow::Context as _;

use crate::CHAIN_ID;

/// Fee cap of every transaction, in wei for each unit of gas.
pub const MAX_FEE: u128 = 100_000_000_000;
/// Gas limit unless another is given.
pub const GAS: u64 = 1_000_000;

/// A key and its next nonce.
#[derive(Clone, Debug)]
pub struct Wallet {
    pub key: PrivateKeySigner,
    pub nonce: u64,
}

/// A transaction that can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    pub hash: B256,
    pub raw: Bytes,
}

/// What a transaction is to do. The default is a call without value of the zero address.
#[derive(Clone, Debug)]
pub struct Plan {
    pub to: TxKind,
    /// In wei.
    pub value: U256,
    pub input: Bytes,
    pub gas: u64,
    /// Priority fee, in wei for each unit of gas.
    pub tip: u128,
    pub kind: Kind,
    pub access_list: AccessList,
    pub authorizations: Vec<SignedAuthorization>,
}

/// Types of transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    Legacy,
    /// EIP-2930.
    Access,
    /// EIP-1559.
    #[default]
    Fee,
    /// EIP-7702.
    Authorize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            to: TxKind::Call(Address::ZERO),
            value: U256::ZERO,
            input: Bytes::new(),
            gas: GAS,
            tip: 1_000_000_000,
            kind: Kind::Fee,
            access_list: AccessList::default(),
            authorizations: Vec::new(),
        }
    }
}

impl Plan {
    pub fn pay(to: Address, wei: u64) -> Self {
        Self { to: to.into(), value: U256::from(wei), gas: 100_000, ..Self::default() }
    }

    pub fn call(to: Address, input: impl Into<Bytes>) -> Self {
        Self { to: to.into(), input: input.into(), ..Self::default() }
    }

    pub fn create(code: Bytes) -> Self {
        Self { to: TxKind::Create, input: code, gas: 8_000_000, ..Self::default() }
    }

    pub fn gas(self, gas: u64) -> Self {
        Self { gas, ..self }
    }

    pub fn value(self, wei: u64) -> Self {
        Self { value: U256::from(wei), ..self }
    }
}

impl Wallet {
    pub fn new(key: PrivateKeySigner) -> Self {
        Self { key, nonce: 0 }
    }

    /// The development accounts, which every development chain funds.
    pub fn development() -> anyhow::Result<Vec<Self>> {
        Ok(atoll::genesis::development_keys()?.into_iter().map(Self::new).collect())
    }

    /// A key that follows from a name, a seed and a number.
    pub fn seeded(name: &str, seed: u64, index: u64) -> anyhow::Result<Self> {
        let secret = keccak256(format!("atoll tests {name} {seed} {index}"));
        Ok(Self::new(PrivateKeySigner::from_bytes(&secret).context("cannot make a key")?))
    }

    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// Signs with the next nonce.
    pub fn sign(&mut self, plan: &Plan) -> anyhow::Result<Signed> {
        let signed = self.sign_at(self.nonce, plan)?;
        self.nonce += 1;
        Ok(signed)
    }

    /// Signs with a given nonce, and leaves the next one as it is.
    pub fn sign_at(&self, nonce: u64, plan: &Plan) -> anyhow::Result<Signed> {
        let Plan { to, value, gas: gas_limit, .. } = *plan;
        let Plan { input, access_list, .. } = plan.clone();
        let (chain_id, gas_price) = (CHAIN_ID, MAX_FEE);
        let (max_fee_per_gas, max_priority_fee_per_gas) = (MAX_FEE, plan.tip);
        match plan.kind {
            Kind::Legacy => self.seal(TxLegacy {
                chain_id: Some(chain_id),
                nonce,
                gas_price,
                gas_limit,
                to,
                value,
                input,
            }),
            Kind::Access => self.seal(TxEip2930 {
                chain_id,
                nonce,
                gas_price,
                gas_limit,
                to,
                value,
                access_list,
                input,
            }),
            Kind::Fee => self.seal(TxEip1559 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas,
                max_priority_fee_per_gas,
                to,
                value,
                access_list,
                input,
            }),
            Kind::Authorize => self.seal(TxEip7702 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas,
                max_priority_fee_per_gas,
                to: to.to().copied().unwrap_or_default(),
                value,
                access_list,
                authorization_list: plan.authorizations.clone(),
                input,
            }),
        }
    }

    fn seal<T: SignableTransaction<Signature>>(&self, tx: T) -> anyhow::Result<Signed>
    where
        TxEnvelope: From<alloy_consensus::Signed<T>>,
    {
        let signature = self.key.sign_hash_sync(&tx.signature_hash()).context("cannot sign")?;
        let envelope = TxEnvelope::from(tx.into_signed(signature));
        Ok(Signed { hash: *envelope.tx_hash(), raw: envelope.encoded_2718().into() })
    }

    /// "My account may run the code of `to`", valid if the account has this nonce then.
    pub fn authorize(&self, to: Address, nonce: u64) -> anyhow::Result<SignedAuthorization> {
        let authorization = Authorization { chain_id: U256::from(CHAIN_ID), address: to, nonce };
        let hash = authorization.signature_hash();
        let signature = self.key.sign_hash_sync(&hash).context("cannot sign")?;
        Ok(authorization.into_signed(signature))
    }
}
