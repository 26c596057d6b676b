//! Signing with the keys of development accounts, which everybody has anyway.

use alloy_consensus::{SignableTransaction, TypedTransaction};
use alloy_dyn_abi::TypedData;
use alloy_eips::Encodable2718;
use alloy_primitives::{Address, Bytes};
use alloy_rpc_types_eth::TransactionRequest;
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use serde_json::{Value, json};

use super::Shared;
use super::error::Failure;
use super::fees::PRIORITY_FEE;
use super::params::{Params, check_carried};
use crate::call::Patch;

impl Shared {
    fn signer(&self, address: Address) -> Result<&PrivateKeySigner, Failure> {
        let found = self.signers.iter().find(|signer| signer.address() == address);
        found.ok_or_else(|| Failure::server("unknown account"))
    }

    pub fn sign(&self, address: Address, message: Bytes) -> Result<Value, Failure> {
        let signature = self.signer(address)?.sign_message_sync(&message).map_err(failed)?;
        Ok(json!(Bytes::copy_from_slice(&signature.as_bytes())))
    }

    pub fn sign_typed_data(&self, params: &Params) -> Result<Value, Failure> {
        let signer = self.signer(params.at(0, "address")?)?;
        // As JSON or as its text.
        let data: TypedData = match params.value(1) {
            Some(Value::String(text)) => serde_json::from_str(text)
                .map_err(|error| Failure::params(format!("invalid argument 1: {error}")))?,
            _ => params.at(1, "typed data")?,
        };
        let hash = data.eip712_signing_hash().map_err(failed)?;
        let signature = signer.sign_hash_sync(&hash).map_err(failed)?;
        Ok(json!(Bytes::copy_from_slice(&signature.as_bytes())))
    }

    pub async fn send_transaction(&self, params: &Params) -> Result<Value, Failure> {
        let (from, unsigned) = self.unsigned(params).await?;
        if self.development.plays(&from) {
            return Ok(json!(self.submit_as(from, unsigned).await?));
        }
        Ok(json!(self.submit(self.signed(from, unsigned)?).await?))
    }

    pub async fn sign_transaction(&self, params: &Params) -> Result<Value, Failure> {
        let (from, unsigned) = self.unsigned(params).await?;
        Ok(json!(self.signed(from, unsigned)?))
    }

    fn signed(&self, from: Address, unsigned: TypedTransaction) -> Result<Bytes, Failure> {
        let signature = self.signer(from)?.sign_hash_sync(&unsigned.signature_hash());
        Ok(unsigned.into_envelope(signature.map_err(failed)?).encoded_2718().into())
    }

    /// A request with what it leaves out filled in.
    async fn unsigned(&self, params: &Params) -> Result<(Address, TypedTransaction), Failure> {
        let mut request: TransactionRequest = params.at(0, "transaction")?;
        let from = request.from.ok_or_else(|| Failure::params("`from` is missing"))?;
        if !self.development.plays(&from) {
            self.signer(from)?;
        }
        if request.chain_id.is_some_and(|id| id != self.chain_id()) {
            return Err(Failure::params("`chainId` is another chain's"));
        }
        request.chain_id = Some(self.chain_id());
        if request.nonce.is_none() {
            request.nonce = Some(self.next_nonce(from).await?);
        }
        request.to.get_or_insert(alloy_primitives::TxKind::Create);
        if request.gas_price.is_none() {
            let head = self.chain.head().await?;
            let tip = u128::from(PRIORITY_FEE);
            let tip = *request.max_priority_fee_per_gas.get_or_insert(tip);
            let base_fee = u128::from(head.beacon.env.base_fee);
            request.max_fee_per_gas.get_or_insert(base_fee.saturating_mul(2).saturating_add(tip));
        }
        if request.gas.is_none() {
            check_carried(&request)?;
            let asked = self.asked(None).await?;
            request.gas = Some(self.estimate(&request, &asked, Patch::default()).await?);
        }
        let unsigned: TypedTransaction = request
            .build_typed_tx()
            .map_err(|_| Failure::params("the transaction lacks fields of its type"))?;
        Ok((from, unsigned))
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::params(error.to_string())
}
