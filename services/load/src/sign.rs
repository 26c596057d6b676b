//! Signs transactions ahead, on threads of its own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use anyhow::Context;
use tokio::sync::{mpsc, watch};

/// Transactions are planned, signed and handed over in chunks of this many.
const CHUNK: usize = 256;

/// Signed transactions in the order planned.
pub type Chunk = anyhow::Result<Vec<Signed>>;

/// A transaction that is not signed yet.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Index of the signer.
    pub sender: u32,
    pub nonce: u64,
    pub to: TxKind,
    pub value: U256,
    pub input: Bytes,
    pub gas_limit: u64,
}

/// A transaction that can be sent.
#[derive(Clone, Debug)]
pub struct Signed {
    pub sender: u32,
    pub nonce: u64,
    pub hash: B256,
    pub raw: Bytes,
}

/// What all transactions have in common.
#[derive(Clone, Copy, Debug)]
pub struct Fees {
    pub chain_id: u64,
    /// In wei for each unit of gas.
    pub max_fee: u128,
    pub priority_fee: u128,
}

impl Fees {
    /// The most that a transaction can cost besides its value, in wei.
    pub fn cost(&self, gas_limit: u64) -> U256 {
        U256::from(gas_limit) * U256::from(self.max_fee)
    }
}

/// A key that follows from a seed.
pub fn key(domain: &str, seed: u64, index: u64) -> anyhow::Result<PrivateKeySigner> {
    let secret = keccak256(format!("atoll load {domain} {seed} {index}"));
    PrivateKeySigner::from_bytes(&secret).context("cannot make a key")
}

/// Many keys that follow from a seed, made on all cores.
pub fn keys(domain: &str, seed: u64, count: u32) -> anyhow::Result<Vec<PrivateKeySigner>> {
    let part = count.div_ceil(cores()).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> = (0..count)
            .step_by(part as usize)
            .map(|from| {
                let range = from..count.min(from.saturating_add(part));
                scope.spawn(move || {
                    range
                        .map(|index| key(domain, seed, index.into()))
                        .collect::<anyhow::Result<Vec<_>>>()
                })
            })
            .collect();
        let mut all = Vec::with_capacity(count as usize);
        for part in parts {
            let part =
                part.join().map_err(|_| anyhow::anyhow!("a thread that makes keys panicked"))?;
            all.extend(part?);
        }
        Ok(all)
    })
}

/// The address of each key.
pub fn addresses(keys: &[PrivateKeySigner]) -> Vec<Address> {
    keys.iter().map(|key| key.address()).collect()
}

fn cores() -> u32 {
    thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

/// Signs one transaction.
pub fn sign(planned: Planned, key: &PrivateKeySigner, fees: &Fees) -> anyhow::Result<Signed> {
    let tx = TxEip1559 {
        chain_id: fees.chain_id,
        nonce: planned.nonce,
        gas_limit: planned.gas_limit,
        max_fee_per_gas: fees.max_fee,
        max_priority_fee_per_gas: fees.priority_fee,
        to: planned.to,
        value: planned.value,
        input: planned.input,
        access_list: Default::default(),
    };
    let signature = key.sign_hash_sync(&tx.signature_hash()).context("cannot sign")?;
    let envelope = TxEnvelope::from(tx.into_signed(signature));
    Ok(Signed {
        sender: planned.sender,
        nonce: planned.nonce,
        hash: *envelope.tx_hash(),
        raw: envelope.encoded_2718().into(),
    })
}

/// Transactions being signed ahead.
pub struct Signing {
    /// Chunks in the order planned.
    pub ready: mpsc::Receiver<Chunk>,
    done: watch::Receiver<u64>,
}

impl Signing {
    /// Signs what `plan` gives, in its order, on every core; at most about `ahead` transactions wait
    /// in `ready`. Ends with the plan, or when `self` is dropped.
    pub fn start(
        plan: impl Iterator<Item = Planned> + Send + 'static,
        keys: Arc<Vec<PrivateKeySigner>>,
        fees: Fees,
        ahead: u32,
    ) -> Self {
        let (sender, ready) = mpsc::channel((ahead as usize).div_ceil(CHUNK).max(1));
        let (progress, done) = watch::channel(0);
        let desk = Arc::new(Desk {
            plan: Mutex::new((0, plan)),
            out: Mutex::new((0, BTreeMap::new())),
            sender,
            progress,
        });
        for _ in 0..cores() {
            let (desk, keys) = (desk.clone(), keys.clone());
            thread::spawn(move || while desk.chunk(&keys, &fees) {});
        }
        Self { ready, done }
    }

    /// Waits until `count` transactions are signed, or all are, or the queue is full. `show` is told
    /// of the progress.
    pub async fn ahead(&mut self, count: u64, mut show: impl FnMut(u64)) {
        let full = (self.ready.max_capacity() * CHUNK) as u64;
        loop {
            let signed = *self.done.borrow_and_update();
            show(signed);
            if signed >= count.min(full) || self.done.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Where the threads get chunks from, by number, and put them back in order.
struct Desk<P> {
    plan: Mutex<(u64, P)>,
    out: Mutex<(u64, BTreeMap<u64, Chunk>)>,
    sender: mpsc::Sender<Chunk>,
    progress: watch::Sender<u64>,
}

impl<P: Iterator<Item = Planned>> Desk<P> {
    /// Signs one chunk. False if there is no more to do, or nobody for whom to do it.
    fn chunk(&self, keys: &[PrivateKeySigner], fees: &Fees) -> bool {
        // The thread that cannot hand over its chunk ends, and the others would never come to that.
        if self.sender.is_closed() {
            return false;
        }
        let (number, planned) = {
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            let planned: Vec<_> = plan.1.by_ref().take(CHUNK).collect();
            plan.0 += 1;
            (plan.0 - 1, planned)
        };
        if planned.is_empty() {
            return false;
        }
        let signed = planned
            .into_iter()
            .map(|planned| {
                let key = &keys[planned.sender as usize];
                sign(planned, key, fees)
            })
            .collect();
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.1.insert(number, signed);
        // Whoever completes the sequence hands it over. A full queue makes all threads wait here.
        loop {
            let next = out.0;
            let Some(chunk) = out.1.remove(&next) else {
                return true;
            };
            let count = chunk.as_ref().map_or(0, Vec::len) as u64;
            if self.sender.blocking_send(chunk).is_err() {
                return false;
            }
            out.0 += 1;
            self.progress.send_modify(|signed| *signed += count);
        }
    }
}

#[cfg(test)]
mod tests {
    use atoll_types::Tx;

    use super::*;

    fn payment(index: u64) -> Planned {
        Planned {
            sender: (index % 3) as u32,
            nonce: index / 3,
            to: TxKind::Call(Address::repeat_byte(9)),
            value: U256::from(index),
            input: Bytes::new(),
            gas_limit: 21_000,
        }
    }

    #[tokio::test]
    async fn signs_in_order_and_not_too_far_ahead() {
        let keys = Arc::new(keys("test", 1, 3).unwrap());
        let fees = Fees { chain_id: 31_337, max_fee: 7, priority_fee: 1 };
        let plan = (0..2_000).map(payment);
        let mut signing = Signing::start(plan, keys.clone(), fees, 512);
        signing.ahead(u64::MAX, |_| ()).await;
        assert_eq!(*signing.done.borrow(), 512);
        let mut index = 0;
        while let Some(chunk) = signing.ready.recv().await {
            for signed in chunk.unwrap() {
                let tx = Tx::recover(signed.raw, 31_337, None).unwrap();
                let planned = payment(index);
                assert_eq!(*tx.hash(), signed.hash);
                assert_eq!(tx.sender(), keys[planned.sender as usize].address());
                assert_eq!((tx.nonce(), tx.value()), (planned.nonce, planned.value));
                index += 1;
            }
        }
        assert_eq!(index, 2_000);
        signing.ahead(u64::MAX, |_| ()).await;
    }

    #[tokio::test]
    async fn signing_ends_with_whoever_wanted_it() {
        let keys = Arc::new(keys("test", 1, 3).unwrap());
        let fees = Fees { chain_id: 31_337, max_fee: 7, priority_fee: 1 };
        let alive = Arc::new(());
        let plans = alive.clone();
        let endless = (0..).map(move |index| {
            let _ = &plans;
            payment(index)
        });
        drop(Signing::start(endless, keys, fees, 512));
        let ended = async {
            while Arc::strong_count(&alive) > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), ended).await.unwrap();
    }

    #[test]
    fn seeds_give_different_keys() {
        let all = |seed| addresses(&keys("test", seed, 5).unwrap());
        assert_eq!(all(1), all(1));
        assert!(all(1).iter().all(|address| !all(2).contains(address)));
    }
}
