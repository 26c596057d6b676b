//! A block of mainnet, and what surrounds its transactions.

use alloy_consensus::{Eip658Value, Receipt, ReceiptEnvelope, ReceiptWithBloom, TxType};
use alloy_primitives::{Address, B256, Bloom, U256, address, logs_bloom};
use atoll::replay::Memory;
use atoll_evm::Rules;
use atoll_types::{BlockEnv, Executed, StateKey, StateValue, Tx};

/// Where EIP-4788 keeps the roots of beacon blocks.
const BEACON_ROOTS: Address = address!("0x000F3df6D732807Ef1319fB7B8bB8522d0Beac02");
/// How many of them.
const BEACON_ROOTS_LENGTH: u64 = 8191;

/// A block, the state before it, and what its header says came out.
#[derive(Clone)]
pub struct Mainnet {
    pub env: BlockEnv,
    pub rules: Rules,
    pub txs: Vec<Tx>,
    pub state: Memory,
    pub parent_beacon_root: Option<B256>,
    pub withdrawals: Vec<(Address, U256)>,
    pub gas_used: u64,
    pub receipts_root: B256,
    pub logs_bloom: Bloom,
}

impl Mainnet {
    /// What the protocol does before the first transaction: EIP-4788.
    pub fn open(&self, state: &mut Memory) {
        let Some(root) = self.parent_beacon_root else { return };
        let at = self.env.timestamp % BEACON_ROOTS_LENGTH;
        let contract = state.get(&StateKey::Code(BEACON_ROOTS)).code();
        let mut set = |slot: u64, word: U256| {
            let key = StateKey::Slot(BEACON_ROOTS, contract.incarnation, U256::from(slot));
            state.set(key, StateValue::Slot(word));
        };
        set(at, U256::from(self.env.timestamp));
        set(at + BEACON_ROOTS_LENGTH, root.into());
    }

    /// And after the last one: withdrawals. The reward for the block is in nothing that is compared.
    pub fn close(&self, state: &mut Memory) {
        for (to, amount) in &self.withdrawals {
            state.give(*to, *amount);
        }
    }
}

/// The receipts as Ethereum encodes them since Byzantium.
pub fn receipts(block: &Mainnet, ran: &[Executed]) -> Vec<ReceiptEnvelope> {
    let mut cumulative_gas_used = 0;
    let receipt = |(tx, executed): (&Tx, &Executed)| {
        cumulative_gas_used += executed.gas_used;
        let logs = executed.logs.clone();
        let status = Eip658Value::Eip658(executed.status);
        let logs_bloom = logs_bloom(&logs);
        let receipt = Receipt { status, cumulative_gas_used, logs };
        let receipt = ReceiptWithBloom { receipt, logs_bloom };
        match tx.envelope().tx_type() {
            TxType::Legacy => ReceiptEnvelope::Legacy(receipt),
            TxType::Eip2930 => ReceiptEnvelope::Eip2930(receipt),
            TxType::Eip1559 => ReceiptEnvelope::Eip1559(receipt),
            TxType::Eip4844 => ReceiptEnvelope::Eip4844(receipt),
            TxType::Eip7702 => ReceiptEnvelope::Eip7702(receipt),
        }
    };
    block.txs.iter().zip(ran).map(receipt).collect()
}
