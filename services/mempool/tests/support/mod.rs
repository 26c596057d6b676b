//! Transactions and pools for tests.
#![allow(dead_code)] // each test binary uses a part

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope, TxLegacy};
use alloy_eips::Encodable2718;
use alloy_primitives::{Address, Bytes, Signature, TxKind, U256};
use atoll_api::mempool::{End, Refused, TxEnd};
use atoll_mempool::{Config, Limits, Pool};
use atoll_types::{Basic, Placement, ShardId, Tx};

/// What is left open is cheap and valid. The signature is nobody's: trusted transactions are not
/// recovered.
#[derive(Clone, Debug)]
pub struct Draft {
    pub nonce: u64,
    pub cap: u128,
    pub tip: u128,
    pub gas: u64,
    pub value: u64,
    pub to: TxKind,
    pub input: Bytes,
}

pub fn draft(nonce: u64, price: u128) -> Draft {
    Draft {
        nonce,
        cap: price,
        tip: price,
        gas: 21_000,
        value: 0,
        to: TxKind::Call(Address::repeat_byte(0xee)),
        input: Bytes::new(),
    }
}

impl Draft {
    pub fn by(self, sender: Address) -> Tx {
        let tx = TxEip1559 {
            chain_id: 1,
            nonce: self.nonce,
            gas_limit: self.gas,
            max_fee_per_gas: self.cap,
            max_priority_fee_per_gas: self.tip,
            to: self.to,
            value: U256::from(self.value),
            access_list: Default::default(),
            input: self.input,
        };
        let r = U256::from_be_slice(sender.as_slice());
        let signed = tx.into_signed(Signature::new(r, U256::from(1), false));
        trusted(signed.into(), sender)
    }

    pub fn legacy(self, sender: Address) -> Tx {
        let tx = TxLegacy {
            chain_id: Some(1),
            nonce: self.nonce,
            gas_limit: self.gas,
            gas_price: self.cap,
            to: self.to,
            value: U256::from(self.value),
            input: self.input,
        };
        trusted(tx.into_signed(Signature::test_signature()).into(), sender)
    }
}

pub fn trusted(envelope: TxEnvelope, sender: Address) -> Tx {
    Tx::trusted(envelope.encoded_2718().into(), sender, None).expect("a valid transaction")
}

pub fn tx(sender: Address, nonce: u64, price: u128) -> Tx {
    draft(nonce, price).by(sender)
}

pub fn who(number: u8) -> Address {
    Address::with_last_byte(number)
}

pub fn config(limits: Limits) -> Config {
    Config { shard: ShardId(0), placement: Arc::new(Placement::new(1, BTreeMap::new())), limits }
}

pub const RICH: u64 = u64::MAX;

/// A pool that follows a state without changes.
pub fn pool(limits: Limits) -> Pool {
    let mut pool = Pool::new(config(limits));
    pool.reset(0);
    pool
}

pub fn basic(nonce: u64, balance: u64) -> Basic {
    Basic { nonce, balance: U256::from(balance) }
}

/// What the service does for one transaction; the account is used only if the pool wants it.
pub fn submit(pool: &mut Pool, tx: &Tx, account: Basic, now_ms: u64) -> Result<(), Refused> {
    pool.check(tx)?;
    let sender = tx.sender();
    pool.hold(&[sender]);
    if pool.must_read(&sender) {
        pool.learn(&[(sender, account)], 0, now_ms);
    }
    let result = pool.admit(tx.clone(), now_ms);
    pool.release(&[sender]);
    result
}

/// Admits transactions of senders who have all the money there is and start at nonce 0.
pub fn fill(pool: &mut Pool, txs: &[Tx]) {
    for tx in txs {
        assert_eq!(submit(pool, tx, basic(0, RICH), 0), Ok(()), "{tx:?}");
    }
}

pub fn take_all(pool: &mut Pool) -> Vec<Tx> {
    pool.take(1, u32::MAX, u64::MAX, 0).expect("the session")
}

pub fn report(pool: &mut Pool, tx: &Tx, end: End) {
    let ends = [TxEnd { tx: *tx.hash(), end }];
    pool.report(&ends, 0);
}

pub fn dropped() -> End {
    let reason = "it cannot run".to_owned();
    End::Dropped { reason }
}
