//! Prices of gas.

use alloy_eips::BlockNumberOrTag;
use serde_json::{Value, json};

use super::Shared;
use super::block::Block;
use super::error::Failure;
use super::params::Params;
use super::quantity;

/// The priority fee that is suggested, in wei for each unit of gas: blocks are hardly ever full.
pub(crate) const PRIORITY_FEE: u64 = 1_000_000_000;

impl Shared {
    pub async fn gas_price(&self) -> Result<Value, Failure> {
        let base_fee = self.chain.head().await?.beacon.env.base_fee;
        Ok(quantity(u128::from(base_fee) + u128::from(PRIORITY_FEE)))
    }

    pub async fn fee_history(&self, params: &Params) -> Result<Value, Failure> {
        let limit = self.ledger.limits.rpc.fee_history_blocks;
        let count = params.number(0, "block count")?.min(limit);
        let newest: BlockNumberOrTag = params.maybe(1, "newest block")?.unwrap_or_default();
        let percentiles: Option<Vec<f64>> = params.maybe(2, "percentiles")?;
        let sorted = |list: &Vec<f64>| {
            list.len() <= 100
                && list.is_sorted()
                && list.iter().all(|percentile| (0.0..=100.0).contains(percentile))
        };
        if !percentiles.as_ref().is_none_or(sorted) {
            return Err(Failure::params("percentiles are at most 100 of 0 to 100, ascending"));
        }
        let head = self.chain.head().await?;
        let newest = self.number_at(&head, newest).ok_or_else(Failure::no_block)?;
        let oldest = (newest + 1).saturating_sub(count);
        let filled =
            if count == 0 { vec![] } else { self.chain.filled(oldest, newest, &[]).await? };
        let (mut base_fees, mut ratios, mut rewards) = (Vec::new(), Vec::new(), Vec::new());
        for number in oldest..=newest {
            if count == 0 {
                break;
            }
            let beacon = self.chain.beacon_block(number, &self.context()).await?;
            let beacon = beacon.ok_or_else(Failure::no_block)?;
            base_fees.push(quantity(beacon.env.base_fee));
            let block = match filled.binary_search(&number) {
                Ok(_) => self.chain.block(number).await?,
                Err(_) => None,
            };
            let used = block.as_ref().map_or(0, |block| block.gas_used);
            ratios.push((used as f64 / beacon.env.gas_limit as f64).min(1.0));
            if let Some(percentiles) = &percentiles {
                rewards.push(tips(block.as_deref(), percentiles));
            }
        }
        if count > 0 {
            // The next one's, or about that while there is none.
            let next = self.chain.beacon_block(newest + 1, &self.context()).await?;
            let next = next.as_ref().unwrap_or(&head.beacon);
            base_fees.push(quantity(next.env.base_fee));
        }
        let mut answer = json!({
            "oldestBlock": quantity(oldest), "baseFeePerGas": base_fees, "gasUsedRatio": ratios,
        });
        if percentiles.is_some() {
            answer["reward"] = json!(rewards);
        }
        Ok(answer)
    }
}

/// Priority fees paid in a block at percentiles of its gas.
fn tips(block: Option<&Block>, percentiles: &[f64]) -> Vec<Value> {
    let Some(block) = block else {
        return vec![json!("0x0"); percentiles.len()];
    };
    let base_fee = u128::from(block.env.base_fee);
    let executed = block.entries.iter().map(|entry| &entry.receipt.executed);
    let tip = |price: u128| price.saturating_sub(base_fee);
    let mut paid: Vec<(u128, u64)> =
        executed.map(|e| (tip(e.effective_gas_price), e.gas_used)).collect();
    paid.sort_unstable();
    let at = |percentile: &f64| {
        let wanted = block.gas_used as f64 * percentile / 100.0;
        let mut sum = 0u64;
        let found = paid.iter().find(|(_, gas)| {
            sum += gas;
            sum as f64 >= wanted
        });
        quantity(found.or(paid.last()).map_or(0, |(tip, _)| *tip))
    };
    percentiles.iter().map(at).collect()
}
