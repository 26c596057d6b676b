use std::{collections::HashMap, hash::BuildHasher};

use alloy_consensus::{Transaction, TxEnvelope};
use alloy_primitives::{TxKind, U256};
use atoll_types::{BlockEnv, Tx};
use revm::{
    context::{BlockEnv as RevmBlockEnv, CfgEnv, TransactionType, TxEnv, either::Either},
    context_interface::block::BlobExcessGasAndPrice,
    interpreter::instructions::GasTable,
    precompile::Precompiles,
    primitives::eip7825,
};

use crate::{Blobs, CALL_GAS_CAP, CallRequest, Invalid, Rules};

/// The largest gas limit that a transaction may have (EIP-7825).
pub const TX_GAS_LIMIT_CAP: u64 = eip7825::TX_GAS_LIMIT_CAP;

/// What stays the same for all transactions of a block.
#[derive(Debug)]
pub(crate) struct Settings {
    pub block: RevmBlockEnv,
    pub tx: CfgEnv,
    /// For calls: without the checks that they do not need.
    pub call: CfgEnv,
    pub rules: Rules,
    pub gas: GasTable,
    pub precompiles: &'static Precompiles,
    /// Whether priority fees go to the coinbase within the transaction.
    pub pays_coinbase: bool,
}

impl Settings {
    pub fn new(env: &BlockEnv, rules: Rules) -> Self {
        let mut tx = CfgEnv::new_with_spec(rules.fork).with_chain_id(env.chain_id);
        tx.max_blobs_per_tx = rules.blobs.and_then(|blobs| blobs.max_per_tx);
        let mut call = tx.clone();
        call.disable_nonce_check = true;
        call.disable_eip3607 = true;
        call.disable_base_fee = true;
        call.disable_fee_charge = true;
        call.disable_block_gas_limit = true;
        call.tx_gas_limit_cap = Some(u64::MAX);
        Self {
            block: block(env, rules.blobs),
            tx,
            call,
            rules,
            gas: rules.gas(),
            precompiles: rules.precompiles(),
            pays_coinbase: false,
        }
    }

    /// Price of blob gas in wei.
    pub fn blob_base_fee(&self) -> u128 {
        self.rules.blobs.map_or(0, |blobs| blobs.base_fee)
    }
}

fn block(env: &BlockEnv, blobs: Option<Blobs>) -> RevmBlockEnv {
    // Without blobs their price is the smallest that there is.
    let blob_gasprice = blobs.map_or(1, |blobs| blobs.base_fee);
    RevmBlockEnv {
        number: U256::from(env.number),
        beneficiary: env.coinbase,
        timestamp: U256::from(env.timestamp),
        gas_limit: env.gas_limit,
        basefee: env.base_fee,
        difficulty: env.randomness.into(),
        prevrandao: Some(env.randomness),
        blob_excess_gas_and_price: Some(BlobExcessGasAndPrice {
            excess_blob_gas: 0,
            blob_gasprice,
        }),
        slot_num: 0,
    }
}

/// The transaction as revm takes it. Copies the access and authorisation lists.
pub(crate) fn transaction(tx: &Tx, rules: Rules) -> Result<TxEnv, Invalid> {
    let envelope = tx.envelope();
    if rules.blobs.is_none() && matches!(envelope, TxEnvelope::Eip4844(_)) {
        let reason = "transaction type 0x03 is not supported";
        return Err(Invalid::Other(reason.into()));
    }
    let authorizations = envelope.authorization_list().unwrap_or_default();
    Ok(TxEnv {
        tx_type: envelope.tx_type() as u8,
        caller: tx.sender(),
        gas_limit: envelope.gas_limit(),
        gas_price: envelope.max_fee_per_gas(),
        kind: envelope.kind(),
        value: envelope.value(),
        data: envelope.input().clone(),
        nonce: envelope.nonce(),
        chain_id: envelope.chain_id(),
        access_list: envelope.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: envelope.max_priority_fee_per_gas(),
        blob_hashes: envelope.blob_versioned_hashes().unwrap_or_default().to_vec(),
        max_fee_per_blob_gas: envelope.max_fee_per_blob_gas().unwrap_or_default(),
        authorization_list: authorizations.iter().cloned().map(Either::Left).collect(),
    })
}

/// The call as revm takes it.
pub(crate) fn request(call: &CallRequest, chain_id: u64) -> TxEnv {
    let kind = if call.access_list.is_empty() {
        TransactionType::Legacy
    } else {
        TransactionType::Eip2930
    };
    TxEnv {
        tx_type: kind as u8,
        caller: call.from,
        gas_limit: call.gas.unwrap_or(CALL_GAS_CAP).min(CALL_GAS_CAP),
        gas_price: call.gas_price,
        kind: call.to.map_or(TxKind::Create, TxKind::Call),
        value: call.value,
        data: call.input.clone(),
        nonce: 0,
        chain_id: Some(chain_id),
        access_list: call.access_list.clone(),
        gas_priority_fee: None,
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: Vec::new(),
    }
}

/// Empties a map that is used again and again. Clearing takes time in the map's capacity, so one
/// that a large transaction has blown up goes.
pub(crate) fn clear<K, V, S: BuildHasher + Default>(map: &mut HashMap<K, V, S>) {
    const KEPT_CAPACITY: usize = 1024;
    if map.capacity() > KEPT_CAPACITY {
        *map = HashMap::default();
    } else {
        map.clear();
    }
}
